"""What the commands with plain flags share: a parser whose help ends with examples."""

from __future__ import annotations

import argparse
import functools
import importlib
import itertools
import re
import sys
from collections.abc import Callable
from typing import Any, NoReturn

from facenet.errors import FAILURE, USER, fail, printable, told
from facenet.files import trusted, typed
from facenet.launch.surroundings import settle
from facenet.privacy.logs import guard_logs

Job = Callable[[dict[str, Any]], bool]
EXAMPLES = """
facenet-data annotate PEOPLE --out cls_train.txt
facenet-data pack PEOPLE pack --size 160
facenet-data shard PEOPLE shards --images-per-shard 5000
facenet-data audit PEOPLE
facenet-data audit PEOPLE --against LFW --checkpoint RUN/checkpoints/best.pt
facenet-data audit PEOPLE --against LFW --checkpoint RUN/checkpoints/best.pt --trust my_faces
facenet-doctor
facenet-doctor --accelerator cpu --processes 2
facenet-doctor --json
facenet-compare-loss outputs/a outputs/b
facenet-compare-loss ours/dllogger-0.json theirs/dllogger-0.json --steps 100 --plot losses.png
facenet-report lr_batch
facenet-report lr_batch --uri http://127.0.0.1:5000 --out page.html
facenet-report lr_batch --faces data/lfw --open
facenet-runs list --limit 50
facenet-runs show 244df88c
facenet-runs reap --dry-run
facenet-runs reap --all-hosts --older-than 48
facenet new faces
facenet-runs sync
facenet-runs sync outputs/2026-11-28
""".splitlines()


class Parser(argparse.ArgumentParser):
    """Its help ends with examples, and a mistake is told in one line. `said`: the help of each argument that is no flag, as it is called."""

    def __init__(self, **given: Any) -> None:
        super().__init__(**given)
        self.said: dict[str, str] = {}

    def take(
        self, name: str, told: str, default: Any = None, kind: Callable[[str], Any] = str, *, choices: Any = None
    ) -> None:
        """Takes `root ROOT`, `root [ROOT]` for one that may be missing, `folders DIR...` for any number, `--out FILE`, or a switch such as `--json`.
        told: its help, which ends with the default where there is one."""
        name, _, called = name.partition(" ")
        if name.startswith("-") and not called:
            self.add_argument(name, action="store_true", help=told)
            return
        told += {type(None): "", float: " (default: %(default)g)"}.get(type(default), " (default: %(default)s)")
        several = "*" if called.endswith("...") else "?" if called.startswith("[") else None
        metavar = None if choices else called.removesuffix("...").strip("[]")
        self.said[called] = told
        self.add_argument(name, metavar=metavar, default=default, type=kind, help=told, choices=choices, nargs=several)

    def take_trust(self, of: str) -> None:
        """Takes `--trust`, as often as there are packages; `do` has them trusted."""
        told = f"trust all code of this package, or of the folder at this path, so that a class of it may be {of}"
        self.add_argument("--trust", metavar="PACKAGE", action="extend", type=trusted.names_in, default=[], help=told)

    def examples(self) -> list[str]:
        return [each for each in EXAMPLES if f"{each} ".startswith(f"{self.prog} ")]

    def format_help(self) -> str:
        return "\n  ".join([f"{super().format_help()}\nExamples", *self.examples()]) + "\n"

    def error(self, message: str) -> NoReturn:
        """Ends the command with what is wrong and the way out, in one line and without its usage."""
        if command := re.fullmatch(r"argument \{(.+)\}: invalid choice: '(.*?)' .*", message):
            from facenet.config.slots import closest

            known = command[1].split(",")
            near = closest(command[2], known) or f"; one of {', '.join(known)}"
            fail(f"{self.prog} {command[2]}: no command{near}", USER)
        if missing := re.fullmatch(r"the following arguments are required: (?:\{(.+)\}|([^,]+).*)", message):
            commands, name = missing.groups()
            told = f"{name} is missing: {self.said[name]}" if name else f"name a command: {commands.replace(',', ', ')}"
            fail(f"{self.prog}: {told}; for example: {self.examples()[0]}{self.dashed_name()}", USER)
        dashed = self.dashed_name() if message.startswith("unrecognized") else dashed_value(message)
        fail(f"{self.prog}: {message}; {self.prog} --help shows what there is{dashed}", USER)

    def dashed_name(self) -> str:
        """How to give a name that begins with a dash, where a word of the command may be meant as one; else nothing."""
        inner = (each.choices.get("".join(sys.argv[1:2])) for each in self._actions if isinstance(each.choices, dict))
        taking = next((each for each in inner if isinstance(each, Parser)), self)
        flags = [flag for each in taking._actions for flag in each.option_strings]
        # One with two dashes is a flag that was spelled wrongly, sooner than a name.
        words = [word for word in sys.argv[1:] if word.startswith("-") and not word.startswith("--")]
        odd = [word for word in words if not any(is_flag(word, each) for each in flags)]
        if "--" in sys.argv or not odd or all(each.option_strings for each in taking._actions):
            return ""
        return f"; a name that begins with - goes last, after --: {typed.command(*taking.prog.split(), '--', odd[0])}"

    def do(self) -> NoReturn:
        """Does the `job` of the arguments with all others by name, and ends the process: with 1 where that says that something is wrong."""
        given = vars(self.parse_args())
        job: Job = given.pop("job")
        guard_logs()
        with told(), trusted.also(given.pop("trust", ())):
            fine = job(given)
        sys.exit(0 if fine else FAILURE)


def is_flag(word: str, flag: str) -> bool:
    """Whether a word gives this flag, also in short as argparse takes it, and with its value."""
    return flag.startswith(word.partition("=")[0])


def dashed_value(message: str) -> str:
    """How to give a flag a value that begins with a dash, where one may be meant; else nothing."""
    flag = message.removeprefix("argument ").removesuffix(": expected one argument")
    for word, value in itertools.pairwise(sys.argv):
        if word == flag and value.startswith("-"):
            return f"; a value that begins with - is given as {typed.quoted(f'{flag}={value}')}"
    return ""


def command(name: str, description: str, epilog: str | None = None, job: Job | None = None) -> Parser:
    """The parser of a command, whose first line this is. job: what it does, where it has no commands of its own."""
    settle()
    parser = Parser(prog=name, description=description, epilog=epilog)
    parser.set_defaults(job=job)
    return parser


def answer(function: str, given: dict[str, Any]) -> bool:
    """Calls `module:function`, imported only now, and prints the text that it gives; False where it says beside it that something is wrong."""
    module, _, name = function.partition(":")
    found = getattr(importlib.import_module(module), name)(**given)
    text, fine = found if isinstance(found, tuple) else (found, True)
    print(printable(text))
    return bool(fine)


def answers(function: str) -> Job:
    """A job that is `answer` of this function."""
    return functools.partial(answer, function)


def positive(text: str) -> int:
    """For `kind=` of a flag."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected 1 or more, got {text}")
    return int(text)
