"""The commands with plain flags: they compose no config. What each does is a module of `facenet.tasks`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from dataclasses import fields
from importlib import metadata
from importlib.resources import files
from typing import Any

from facenet.commands.parser import Parser, positive
from facenet.errors import FAILURE, printable, told
from facenet.launch.surroundings import settle
from facenet.privacy.logs import guard_logs

Commands = Any  # what argparse's add_subparsers gives, whose class is private


def data() -> None:
    """facenet-data"""
    settle()
    parser = Parser(prog="facenet-data", description="Prepare and inspect folders of faces.")
    commands = parser.add_subparsers(required=True)
    for add in (add_annotate, add_pack, add_shard, add_audit):
        add(commands)
    given = parser.parse_args()
    guard_logs()
    with told():
        clean = given.run(given)
    sys.exit(0 if clean else FAILURE)


def add_annotate(commands: Commands) -> None:
    parser = commands.add_parser(
        "annotate",
        help="write the annotation file of a folder of faces",
        description="Writes one line <label>;<absolute path> per image of ROOT/<identity>/<image>, sorted, labels without gaps.",
    )
    parser.add_argument("root", metavar="ROOT", help="folder of <identity>/<image>")
    parser.add_argument("--out", default="cls_train.txt", metavar="FILE", help="file to write (default: %(default)s)")
    add_depth(parser)

    def run(given: argparse.Namespace) -> bool:
        from facenet.tools.annotate import run_annotate

        print(printable(run_annotate(given.root, given.out, depth=given.depth)))
        return True

    parser.set_defaults(run=run)


def add_pack(commands: Commands) -> None:
    parser = commands.add_parser(
        "pack",
        help="write a folder of faces as one file",
        description="Writes ROOT/<identity>/<image> as OUT/train.rec, train.idx and property, the RecordIO files of insightface, and the names of "
        "the identities. JPEG and PNG files are copied byte by byte. What is interrupted leaves nothing.",
        epilog="Train on it with data=record data.path=OUT.",
    )
    parser.add_argument("root", metavar="ROOT", help="folder of <identity>/<image>")
    parser.add_argument("out", metavar="OUT", help="folder to make; it must not exist")
    add_depth(parser)
    parser.add_argument(
        "--size", type=positive, metavar="PIXELS", help="store JPEG of quality 95 whose longer side is at most this"
    )

    def run(given: argparse.Namespace) -> bool:
        from facenet.tools.pack import run_pack

        print(printable(run_pack(given.root, given.out, depth=given.depth, size=given.size)))
        return True

    parser.set_defaults(run=run)


def add_shard(commands: Commands) -> None:
    parser = commands.add_parser(
        "shard",
        help="write faces as tar shards that are read from front to back",
        description="Writes the images of ROOT as OUT/shard-000000.tar, ... in the convention of WebDataset (<key>.jpg, <key>.cls) and "
        "OUT/index.npz: files byte by byte, in one random order. What is interrupted leaves nothing. Needs facenet[shards].",
        epilog="Train on them with data=shards data.shards=OUT sampler=shuffle loss=arcface.",
    )
    parser.add_argument("root", metavar="ROOT", help="folder of <identity>/<image>, an annotation file, or a pack")
    parser.add_argument("out", metavar="OUT", help="folder to make; it must not exist")
    parser.add_argument(
        "--images-per-shard",
        type=positive,
        default=10_000,
        metavar="N",
        help="of all but the last (default: %(default)s)",
    )
    add_depth(parser)

    def run(given: argparse.Namespace) -> bool:
        from facenet.tools.shard import run_shard

        print(printable(run_shard(given.root, given.out, images_per_shard=given.images_per_shard, depth=given.depth)))
        return True

    parser.set_defaults(run=run)


def add_audit(commands: Commands) -> None:
    parser = commands.add_parser(
        "audit",
        help="report what training on a folder of faces would meet",
        description="Reads every image of ROOT once and reports formats and sizes, files that cannot be read, suspicious ones, copies, one image "
        "under two labels, identities with one image, and with --against the images and people that are also in the test set.",
        epilog="Exit codes: 0 nothing that matters, 1 something marked ! was found, 2 something to correct.",
    )
    parser.add_argument("root", metavar="ROOT", help="folder of <identity>/<image>, or an annotation file")
    add_depth(parser)
    parser.add_argument("--against", metavar="TEST", help="test set that shares nothing with ROOT, such as LFW")
    parser.add_argument("--checkpoint", metavar="FILE", help="also compare people by its network's embeddings")
    parser.add_argument("--weights", metavar="FILE", help="the same, with weights made elsewhere for --backbone")
    parser.add_argument("--backbone", default="mobilenet_v1", metavar="NAME", help="(default: %(default)s)")
    parser.add_argument("--preprocess", default="letterbox", metavar="NAME", help="(default: %(default)s)")
    parser.add_argument("--image-size", type=int, default=160, metavar="PIXELS", help="(default: %(default)s)")
    parser.add_argument(
        "--threshold", type=float, default=0.6, metavar="C", help="cosine of one person's means (default: %(default)s)"
    )
    parser.add_argument("--accelerator", default="auto", metavar="NAME", help="(default: %(default)s)")
    parser.add_argument(
        "--max-pixels",
        type=int,
        default=50_000_000,
        metavar="N",
        help="larger JPEGs are read reduced, others are unreadable (default: %(default)s)",
    )
    parser.add_argument("--num-workers", type=int, default=4, metavar="N", help="threads (default: %(default)s)")
    parser.add_argument("--json", action="store_true", dest="as_json", help="print one JSON object with all names")

    def run(given: argparse.Namespace) -> bool:
        from facenet.tools.audit import run_audit
        from facenet.tools.overlap import Comparison

        report, clean = run_audit(
            given.root,
            depth=given.depth,
            against=given.against,
            comparison=Comparison(**{each.name: getattr(given, each.name) for each in fields(Comparison)}),
            max_pixels=given.max_pixels,
            num_workers=given.num_workers,
            as_json=given.as_json,
        )
        print(printable(report))
        return clean

    parser.set_defaults(run=run)


def add_depth(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--depth",
        type=positive,
        default=1,
        metavar="N",
        help="2 where images are in folders of ROOT/<identity> (default: %(default)s)",
    )


def doctor() -> None:
    """facenet-doctor"""
    settle()
    group = files("facenet.conf").joinpath("accelerator")
    choices = sorted(file.name.removesuffix(".yaml") for file in group.iterdir() if file.name.endswith(".yaml"))
    choices += sorted(point.name for point in metadata.entry_points(group="facenet.devices"))
    parser = Parser(
        prog="facenet-doctor",
        description="Checks whether this machine can train, and says what to fix: versions, devices, precisions, speed, processes, MLflow.",
        epilog="Takes some ten seconds and writes nothing. Exit code: 0 one can train, 1 one cannot, 2 wrong flags.",
    )
    parser.add_argument("--accelerator", choices=choices, default="auto", help="device to check (default: %(default)s)")
    parser.add_argument(
        "--processes",
        type=positive,
        metavar="N",
        help="processes that exchange numbers (default: one per device of that kind, two on a host without)",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object instead")
    arguments = parser.parse_args()
    guard_logs()
    with told():
        from facenet.tools.doctor import run_doctor

        fit = run_doctor(arguments.accelerator, num_processes=arguments.processes, as_json=arguments.json)
    sys.exit(0 if fit else FAILURE)


def compare_loss() -> None:
    """facenet-compare-loss; 1 where the losses differ by more than the tolerance."""
    settle()
    parser = Parser(
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
    guard_logs()
    with told():
        from facenet.tools.compare_loss import run_compare_loss

        text, passed = run_compare_loss(**vars(arguments))
        print(printable(text))
    sys.exit(0 if passed else FAILURE)


def report() -> None:
    """facenet-report"""
    settle()
    parser = Parser(
        prog="facenet-report",
        description="Writes one HTML page about a sweep, also among the best run's artifacts: which setting is best, and is that significant.",
    )
    parser.add_argument("sweep_id", metavar="SWEEP_ID", help="name of the sweep's directory, tag sweep_id of its runs")
    parser.add_argument("--uri", help="MLflow store (default: MLFLOW_TRACKING_URI, else mlflow.db in this directory)")
    parser.add_argument("--out", metavar="FILE", help="page to write (default: report-SWEEP_ID.html)")
    parser.add_argument("--open", action="store_true", help="show the page in a browser")
    arguments = parser.parse_args()
    guard_logs()
    with told():
        from facenet.reports.report import run_report

        print(printable(run_report(**vars(arguments))))


def runs() -> None:
    """facenet-runs"""
    settle()
    parser = Parser(
        prog="facenet-runs",
        description="Shows what is recorded in MLflow, and puts right what a crash or a store that was away left unfinished there.",
        epilog="Exit codes: 0 done, 2 something to correct.",
    )
    commands = parser.add_subparsers(dest="command", required=True)
    store = Parser(add_help=False)
    store.add_argument("--uri", help="MLflow store (default: MLFLOW_TRACKING_URI, else mlflow.db in this directory)")
    reap = commands.add_parser(
        "reap",
        parents=[store],
        help="close runs marked as running whose process is gone",
        description="Closes the runs of this host that MLflow takes for running although their process is gone: as FINISHED or FAILED if their "
        "directory says so, else as KILLED; metrics that were not sent are sent. Each gets the tag reaped.",
    )
    reap.add_argument("--experiment", metavar="NAME", help="only this one (default: all)")
    reap.add_argument("--dry-run", action="store_true", help="show what would be done")
    reap.add_argument(
        "--all-hosts", action="store_true", help="also runs of other hosts that have been silent for long"
    )
    reap.add_argument(
        "--older-than", type=float, default=24.0, metavar="HOURS", help="what long is there (default: %(default)g)"
    )
    sync = commands.add_parser(
        "sync",
        help="send MLflow what runs could not send while it was away",
        description="Sends MLflow the metrics, tags, files and end of runs that it did not get while they ran. May be repeated.",
    )
    sync.add_argument(
        "folders", nargs="*", metavar="DIR", help="run directories, or folders of them (default: outputs and multirun)"
    )
    sync.add_argument("--uri", help="MLflow store (default: the one that the run was recorded in)")
    add_recorded(commands, store)
    arguments = vars(parser.parse_args())
    command = arguments.pop("command")
    guard_logs()
    with told():
        from facenet.tools.recorded import run_list, run_show
        from facenet.tools.runs import run_reap, run_sync

        run: dict[str, Callable[..., str]] = {"reap": run_reap, "sync": run_sync, "list": run_list, "show": run_show}
        print(printable(run[command](**arguments)))


def add_recorded(commands: Commands, store: Parser) -> None:
    listed = commands.add_parser(
        "list",
        parents=[store],
        help="the newest runs: state, lr, batch, best figure and its interval",
        description="Prints a line per run, the newest last: state, learning rate, batch, the selected metric at its best epoch and its interval.",
    )
    listed.add_argument("--experiment", metavar="NAME", help="only this one (default: all)")
    listed.add_argument("--sweep", metavar="SWEEP_ID", help="only the jobs of this sweep")
    listed.add_argument("--limit", type=positive, default=20, metavar="N", help="how many (default: %(default)s)")
    one = commands.add_parser(
        "show",
        parents=[store],
        help="what came of a run, and what to type next",
        description="Prints the description, params and metrics of a run, and the address of its page.",
    )
    one.add_argument("run", metavar="RUN", help="its id or how that begins, its name, or its directory")


def new() -> None:
    """facenet new"""
    settle()
    parser = Parser(
        prog="facenet new",
        description="Writes a small project of your own: a package with a loss and its test, the loss as a choice, and a preset that trains with it.",
    )
    parser.add_argument("directory", metavar="DIR", help="directory to make; it must not exist")
    directory = parser.parse_args().directory
    with told():
        from facenet.tools.new import run_new

        print(printable(run_new(directory)))
