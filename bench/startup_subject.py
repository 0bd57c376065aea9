"""Commands that train nothing, against a Hydra application that has the same config and does nothing. Goal 8."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from bench.context import Context, Outcome, require
from bench.goals import Goal
from bench.rounds import Candidate, Table, measure

BARE = """
import hydra
from omegaconf import OmegaConf
OmegaConf.register_new_resolver("facenet_own_experiments", lambda: "pkg://facenet.experiments")
@hydra.main(version_base="1.3", config_path="pkg://facenet.conf", config_name="train")
def main(config): pass
main()
"""
OURS = "from facenet.commands.front import train; train()"
HEAVY = ("torch", "numpy", "mlflow", "albumentations", "matplotlib", "sklearn", "scipy", "PIL")
# What is in the way of each: --help reads the YAML files and starts no Hydra.
LIMITS = {
    "--help": "starting Python",
    "--cfg job": "Hydra itself",
    "a config error": "the complaint names every wrong key, for which the signatures are imported, and torch with them",
}
ASKED = {"--help": ["--help"], "--cfg job": ["--cfg", "job"], "a config error": ["no_such_key=1"]}


def run(context: Context) -> Outcome:
    tables, goals = [], []
    bare = context.scratch / "bare.py"
    bare.write_text(BARE)
    for number, (name, arguments) in enumerate(ASKED.items(), 1):
        table = compared(context, name, bare, arguments)
        tables.append(table)
        ratio = table.rows[1].ratio
        goals.append(
            Goal(
                f"8.{number}",
                f"{name} against a bare Hydra app, CPU",
                1.25,
                None if ratio is None else 1 / ratio,
                at_most=True,
                limit=LIMITS[name],
            )
        )
    counters = {f"heavy modules imported by {name}": num_heavy(ASKED[name]) for name in ("--help", "--cfg job")}
    return Outcome(tables, goals, counters)


def compared(context: Context, name: str, bare: Path, arguments: list[str]) -> Table:
    candidates = [
        Candidate("bare Hydra app, same config", command([str(bare), *arguments], context.scratch), 1),
        Candidate("facenet-train", command(["-c", OURS, *arguments], context.scratch), 1),
    ]
    if name == "--help":
        candidates.append(
            Candidate("import torch", command(["-c", "import torch"], context.scratch), 1)
        )  # what a top-level import adds
    return measure("startup", f"facenet-train {' '.join(arguments)}", "command", candidates, rounds=context.rounds)


def command(arguments: list[str], where: Path) -> Callable[[], int]:
    environment = {**os.environ, "PYTHONWARNINGS": "ignore"}

    def work() -> int:
        done = subprocess.run(
            [sys.executable, *arguments], cwd=where, env=environment, capture_output=True, check=False
        )
        return done.returncode

    return work


def num_heavy(arguments: list[str]) -> int:
    code = (
        f"import atexit, sys; sys.argv[1:] = {arguments!r}; "
        f"atexit.register(lambda: print('HEAVY', sum(name in sys.modules for name in {HEAVY!r}))); {OURS}"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    require("HEAVY" in done.stdout, done.stderr[-500:])
    return int(done.stdout.rpartition("HEAVY")[2])
