"""The commands with plain flags: they compose no config. What each does is a module of `facenet.tasks`."""

from __future__ import annotations

from dataclasses import fields
from importlib import metadata
from importlib.resources import files
from typing import Any

from facenet.commands.parser import Job, Parser, answers, command, positive
from facenet.errors import printable
from facenet.launch.surroundings import say_loading

Commands = Any  # what argparse's add_subparsers gives, whose class is private
FOLDER, DEPTH = "folder of <identity>/<image>", "2 where images are in folders of ROOT/<identity>"
STORE = "MLflow store (default: MLFLOW_TRACKING_URI, else mlflow.db in this directory)"


def sub(commands: Commands, name: str, told: str, description: str, job: Job, epilog: str | None = None) -> Parser:
    """The parser of a command within another."""
    parser: Parser = commands.add_parser(name, help=told, description=description, epilog=epilog)
    parser.set_defaults(job=job)
    return parser


def data() -> None:
    """facenet-data"""
    parser = command("facenet-data", "Prepare and inspect folders of faces.")
    commands = parser.add_subparsers(required=True)
    annotate = sub(
        commands,
        "annotate",
        "write the annotation file of a folder of faces",
        "Writes one line <label>;<absolute path> per image of ROOT/<identity>/<image>, sorted, labels without gaps.",
        answers("facenet.tools.annotate:run_annotate"),
    )
    annotate.take("root ROOT", FOLDER)
    annotate.take("--out FILE", "file to write", "cls_train.txt")
    annotate.take("--depth N", DEPTH, 1, positive)
    pack = sub(
        commands,
        "pack",
        "write a folder of faces as one file",
        "Writes ROOT/<identity>/<image> as OUT/train.rec, train.idx and property, the RecordIO files of insightface, and the names of the "
        "identities. JPEG and PNG files are copied byte by byte. What is interrupted leaves nothing.",
        answers("facenet.tools.pack:run_pack"),
        "Train on it with data=record data.path=OUT.",
    )
    pack.take("root ROOT", FOLDER)
    pack.take("out OUT", "folder to make; it must not exist")
    pack.take("--depth N", DEPTH, 1, positive)
    pack.take("--size PIXELS", "store JPEG of quality 95 whose longer side is at most this", None, positive)
    shard = sub(
        commands,
        "shard",
        "write faces as tar shards that are read from front to back",
        "Writes the images of ROOT as OUT/shard-000000.tar, ... in the convention of WebDataset (<key>.jpg, <key>.cls) and OUT/index.npz: files "
        "byte by byte, in one random order. What is interrupted leaves nothing. Needs facenet[shards].",
        answers("facenet.tools.shard:run_shard"),
        "Train on them with data=shards data.shards=OUT sampler=shuffle loss=arcface.",
    )
    shard.take("root ROOT", f"{FOLDER}, an annotation file, or a pack")
    shard.take("out OUT", "folder to make; it must not exist")
    shard.take("--images-per-shard N", "of all but the last", 10_000, positive)
    shard.take("--depth N", DEPTH, 1, positive)
    add_audit(commands)
    parser.do()


def add_audit(commands: Commands) -> None:
    parser = sub(
        commands,
        "audit",
        "report what training on a folder of faces would meet",
        "Reads every image of ROOT once and reports formats and sizes, files that cannot be read, suspicious ones, copies, one image under two "
        "labels, identities with one image, and with --against the images and people that are also in the test set.",
        run_audit,
        "Exit codes: 0 nothing that matters, 1 something marked ! was found, 2 something to correct.",
    )
    parser.take("root ROOT", f"{FOLDER}, or an annotation file")
    parser.take("--depth N", DEPTH, 1, positive)
    parser.take("--against TEST", "test set that shares nothing with ROOT, such as LFW")
    parser.take("--checkpoint FILE", "also compare people by its network's embeddings")
    parser.take_trust("its network")
    parser.take("--weights FILE", "the same, with weights made elsewhere for --backbone")
    parser.take("--backbone NAME", "", "mobilenet_v1")
    parser.take("--preprocess NAME", "", "letterbox")
    parser.take("--image-size PIXELS", "", 160, int)
    parser.take("--threshold C", "cosine of one person's means", 0.6, float)
    parser.take("--accelerator NAME", "", "auto")
    parser.take("--max-pixels N", "larger JPEGs are read reduced, others are unreadable", 50_000_000, int)
    parser.take("--num-workers N", "threads", 4, int)
    parser.take("--json", "print one JSON object with all names")


def run_audit(given: dict[str, Any]) -> bool:
    say_loading("facenet-data audit", "torch and the lists of images")
    from facenet.tools import audit
    from facenet.tools.overlap import Comparison

    comparison = Comparison(**{each.name: given.pop(each.name) for each in fields(Comparison)})
    report, clean = audit.run_audit(comparison=comparison, as_json=given.pop("json"), **given)
    print(printable(report))
    return clean


def doctor() -> None:
    """facenet-doctor"""
    parser = command(
        "facenet-doctor",
        "Checks whether this machine can train, and says what to fix: versions, devices, precisions, speed, processes, MLflow.",
        "Takes some ten seconds and writes nothing. Exit code: 0 one can train, 1 one cannot, 2 wrong flags.",
        run_doctor,
    )
    group = files("facenet.conf").joinpath("accelerator")
    choices = sorted(file.name.removesuffix(".yaml") for file in group.iterdir() if file.name.endswith(".yaml"))
    choices += sorted(point.name for point in metadata.entry_points(group="facenet.devices"))
    each = "default: one per device of that kind, two on a host without"
    parser.take("--accelerator NAME", "device to check", "auto", choices=choices)
    parser.take_trust("the device")
    parser.take("--processes N", f"processes that exchange numbers ({each})", None, positive)
    parser.take("--json", "print one JSON object instead")
    parser.do()


def run_doctor(given: dict[str, Any]) -> bool:
    from facenet.tools import doctor

    return doctor.run_doctor(given["accelerator"], num_processes=given["processes"], as_json=given["json"])


def compare_loss() -> None:
    """facenet-compare-loss; 1 where the losses differ by more than the tolerance."""
    parser = command(
        "facenet-compare-loss",
        "Compares the losses of run A with those of reference run B, iteration by iteration.",
        "Each of A and B is a log with TCAPPDLL or DLLL lines (tracking.dllogger=true writes one per process), a run directory that holds "
        "dllogger-0.json, or an MLflow run: its 32-digit id or runs:/ID. "
        "Exit codes: 0 the mean of |A - B| / |B| is within the tolerance, 1 it is not, 2 something to correct.",
        answers("facenet.tools.compare_loss:run_compare_loss"),
    )
    parser.take("a A", "the run to judge")
    parser.take("b B", "the reference")
    parser.take("--steps N", "compare the first N common iterations (default: all)", None, int)
    parser.take("--metric NAME", "", "train.loss")
    parser.take("--tolerance T", "of the mean of |A - B| / |B|", 0.05, float)
    parser.take("--uri URI", STORE)
    parser.take("--plot FILE.png", "draw both curves and their difference")
    parser.take("--json", "print the figures as JSON")
    parser.do()


def report() -> None:
    """facenet-report"""
    parser = command(
        "facenet-report",
        "Writes one HTML page about a sweep, also among the best run's artifacts: which setting is best, and is that significant.",
        job=answers("facenet.reports.report:run_report"),
    )
    parser.take(
        "sweep_id [SWEEP_ID]",
        "name of the sweep's directory, tag sweep_id of its runs, or its path where others have that name; without it those that MLflow has are told",
    )
    parser.take("--uri URI", STORE)
    parser.take("--out FILE", "page to write here (default: report-SWEEP_ID.html)")
    parser.take("--faces DIR", "folder of the benchmark's images: faces in the page, which is then not sent to MLflow")
    parser.take("--open", "show the page in a browser")
    parser.do()


def runs() -> None:
    """facenet-runs"""
    parser = command(
        "facenet-runs",
        "Shows what is recorded in MLflow, and puts right what a crash or a store that was away left unfinished there.",
        "Exit codes: 0 done, 2 something to correct.",
    )
    commands = parser.add_subparsers(required=True)
    reap = sub(
        commands,
        "reap",
        "close runs marked as running whose process is gone",
        "Closes the runs of this host that MLflow takes for running although their process is gone: as FINISHED or FAILED if their directory says "
        "so, else as KILLED; metrics that were not sent are sent. Each gets the tag reaped.",
        answers("facenet.tools.runs:run_reap"),
    )
    reap.take("--experiment NAME", "only this one (default: all)")
    reap.take("--dry-run", "show what would be done")
    reap.take("--all-hosts", "also runs of other hosts that have been silent for long")
    reap.take("--older-than HOURS", "what long is there", 24.0, float)
    sync = sub(
        commands,
        "sync",
        "send MLflow what runs could not send while it was away",
        "Sends MLflow the metrics, tags, files and end of runs that it did not get while they ran. May be repeated.",
        answers("facenet.tools.runs:run_sync"),
    )
    sync.take("folders DIR...", "run directories, or folders of them (default: outputs and multirun)")
    sync.take("--uri URI", "MLflow store (default: the one that the run was recorded in)")
    listed = sub(
        commands,
        "list",
        "the newest runs: state, lr, batch, best figure and its interval",
        "Prints a line per run, the newest last: state, learning rate, batch, the selected metric at its best epoch, its interval and the run's "
        "directory.",
        answers("facenet.tools.recorded:run_list"),
    )
    listed.take("--experiment NAME", "only this one (default: all)")
    listed.take("--sweep SWEEP_ID", "only the jobs of this sweep")
    listed.take("--limit N", "how many", 20, positive)
    one = sub(
        commands,
        "show",
        "what came of a run, and what to type next",
        "Prints the description, params and metrics of a run, and the address of its page.",
        answers("facenet.tools.recorded:run_show"),
    )
    one.take("run RUN", "its id or how that begins, its name, or its directory, which facenet-runs list shows")
    for each in (reap, listed, one):
        each.take("--uri URI", STORE)
    parser.do()


def new() -> None:
    """facenet new"""
    parser = command(
        "facenet new",
        "Writes a small project of your own: a package with a loss and its test, the loss as a choice, and a preset that trains with it.",
        job=answers("facenet.tools.new:run_new"),
    )
    parser.take("directory DIR", "directory to make; it must not exist")
    parser.do()
