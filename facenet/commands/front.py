"""The doors of the commands: help, version and completion, for which nothing heavy is imported, and then the command itself."""

from __future__ import annotations

import importlib
import os
import sys
from importlib.resources import files

from facenet.errors import UserError, printable, told
from facenet.launch.surroundings import say_loading, settle

COMMANDS = {  # of facenet: where each is, and what it does
    "train": ("facenet.commands.front", "train a network, or a sweep of them with -m"),
    "evaluate": ("facenet.commands.front", "test a checkpoint or weights made elsewhere on a benchmark"),
    "data": ("facenet.commands.flags", "prepare and inspect folders of faces"),
    "doctor": ("facenet.commands.flags", "check whether this machine can train"),
    "report": ("facenet.commands.flags", "write a page about a sweep"),
    "runs": (
        "facenet.commands.flags",
        "list runs and show one without a browser, put right what a crash left unfinished",
    ),
    "new": ("facenet.commands.flags", "write a small project of your own: a loss, its test, a preset"),
    "compare-loss": ("facenet.commands.flags", "compare the losses of two runs, iteration by iteration"),
}
SHELLS = ("bash", "zsh")
SWEEPS = ("-m", "--multirun")  # beside these a flag asks Hydra something, or is a mistake: told at once


def facenet() -> None:
    """Runs `facenet COMMAND ...` as `facenet-COMMAND ...`."""
    settle()
    first, *rest = sys.argv[1:] or ["--help"]
    if first in COMMANDS:
        sys.argv[:] = [f"facenet-{first}", *rest]
        module, _ = COMMANDS[first]
        getattr(importlib.import_module(module), first.replace("-", "_"))()
        return
    with told():
        print(answer(first, rest))


def answer(first: str, rest: list[str]) -> str:
    """What `facenet` itself says. Raises UserError for a command that there is not."""
    if first in ("-h", "--help"):
        width = max(map(len, COMMANDS))
        rows = [f"  facenet {name:<{width}}  {what}" for name, (_, what) in COMMANDS.items()]
        ending = "facenet COMMAND --help says more; facenet --version; facenet --completion bash|zsh writes what the shell evaluates"
        return "\n".join(["Train, compare and ship face-embedding networks.", "", *rows, "", ending])
    if first == "--version":
        return version()
    if first == "--completion":
        if rest[:1] and rest[0] in SHELLS:
            return completion(rest[0])
        raise UserError(f'--completion: expected {" or ".join(SHELLS)}; bash: eval "$(facenet --completion bash)"')
    from facenet.config.slots import closest
    from facenet.errors import shown

    near = closest(first, list(COMMANDS)) or f"; one of {', '.join(COMMANDS)}"
    raise UserError(f"facenet {shown(first)}: no command{near}")


def version() -> str:
    from importlib.metadata import version as of

    return f"facenet {of('facenet')}"


def completion(shell: str) -> str:
    """The script that a shell evaluates; zsh takes that of bash."""
    script = files("facenet.commands").joinpath("completion.sh").read_text("utf-8").rstrip()
    loads = "(( $+functions[compdef] )) || { autoload -Uz compinit && compinit; }\nautoload -Uz bashcompinit && bashcompinit\n"
    return (loads if shell == "zsh" else "") + script


def train() -> None:
    """facenet-train"""
    composed("train")


def evaluate() -> None:
    """facenet-evaluate"""
    composed("evaluate")


def composed(command: str) -> None:
    """Runs a command that Hydra composes, or tells what it is asked about itself."""
    settle()
    arguments = sys.argv[1:]
    asked = {"-h", "--help", "--version"} & set(arguments)
    first = "TORCHELASTIC_RUN_ID" not in os.environ or os.environ.get("RANK", "0") == "0"  # of torchrun's processes
    if asked and not first:
        return
    with told():
        if "--version" in arguments:
            print(version())
            return
        if asked:
            from facenet.commands.help_text import help_of

            print(printable(help_of(command, arguments)))
            return
    if first and all(each in SWEEPS or not each.startswith("-") for each in arguments):
        say_loading(f"facenet-{command}", "torch, MLflow and the data")
    module = importlib.import_module("facenet.commands.composed")
    getattr(module, command)()
