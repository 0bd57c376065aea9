"""The commands with plain flags: they compose no config. What each does is a module of `facenet.tasks`."""

from __future__ import annotations

import argparse
import sys
from importlib.resources import files

from facenet.errors import FAILURE, told


def data() -> None:
    """facenet-data"""
    parser = argparse.ArgumentParser(prog="facenet-data", description="Prepare and inspect folders of faces.")
    commands = parser.add_subparsers(dest="command", required=True)
    annotate = commands.add_parser(
        "annotate",
        help="write the annotation file of a folder of faces",
        description="Writes one line <label>;<absolute path> per image of ROOT/<identity>/<image>, sorted, labels without gaps.",
    )
    annotate.add_argument("root", metavar="ROOT", help="folder of <identity>/<image>")
    annotate.add_argument("--out", default="cls_train.txt", metavar="FILE", help="file to write (default: %(default)s)")
    arguments = parser.parse_args()
    with told():
        from facenet.tasks.annotate import run_annotate

        print(run_annotate(arguments.root, arguments.out))


def doctor() -> None:
    """facenet-doctor"""
    group = files("facenet.conf").joinpath("accelerator")
    choices = sorted(file.name.removesuffix(".yaml") for file in group.iterdir() if file.name.endswith(".yaml"))
    parser = argparse.ArgumentParser(
        prog="facenet-doctor",
        description="Checks whether this machine can train, and says what to fix: versions, devices, precisions, speed, processes, MLflow.",
        epilog="Takes some ten seconds and writes nothing. Exit code: 0 one can train, 1 one cannot, 2 wrong flags.",
    )
    parser.add_argument("--accelerator", choices=choices, default="auto", help="device to check (default: %(default)s)")
    parser.add_argument(
        "--processes",
        type=int,
        metavar="N",
        help="processes that exchange numbers (default: one per device of that kind, two on a host without)",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object instead")
    arguments = parser.parse_args()
    if arguments.processes is not None and arguments.processes < 1:
        parser.error(f"argument --processes: expected 1 or more, got {arguments.processes}")
    with told():
        from facenet.tasks.doctor import run_doctor

        fit = run_doctor(arguments.accelerator, num_processes=arguments.processes, as_json=arguments.json)
    sys.exit(0 if fit else FAILURE)


def compare_loss() -> None:
    """facenet-compare-loss; 1 where the losses differ by more than the tolerance."""
    parser = argparse.ArgumentParser(
        prog="facenet-compare-loss",
        description="Compares the losses of run A with those of reference run B, iteration by iteration.",
        epilog="Each of A and B is a log with TCAPPDLL or DLLL lines (tracking.dllogger=true writes one per process), a run directory that holds "
        "dllogger-0.json, or an MLflow run: its 32-digit id or runs:/ID. "
        "Exit codes: 0 the mean of |A - B| / |B| is within the tolerance, 1 it is not, 2 something to correct.",
    )
    parser.add_argument("a", metavar="A", help="the run to judge")
    parser.add_argument("b", metavar="B", help="the reference")
    parser.add_argument("--steps", type=int, metavar="N", help="compare the first N common iterations (default: all)")
    parser.add_argument("--metric", default="train.loss", metavar="NAME", help="(default: %(default)s)")
    parser.add_argument(
        "--tolerance", type=float, default=0.05, metavar="T", help="of the mean of |A - B| / |B| (default: %(default)s)"
    )
    parser.add_argument("--uri", help="MLflow store (default: MLFLOW_TRACKING_URI, else mlflow.db in this directory)")
    parser.add_argument("--plot", metavar="FILE.png", help="draw both curves and their difference")
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")
    arguments = parser.parse_args()
    with told():
        from facenet.tasks.compare_loss import run_compare_loss

        text, passed = run_compare_loss(**vars(arguments))
        print(text)
    sys.exit(0 if passed else FAILURE)
