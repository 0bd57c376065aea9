"""The names of a run directory's files: those that run directories have had from the first, and in no other module."""

import os
import re
from importlib.resources import files
from pathlib import Path

from facenet.files.run_dir import Each, Named, RunDir, is_of_run, told_runs_in

KNOWN = {
    "resolved.yaml resolved.pending.yaml metrics.jsonl tracking.json result.json output.log split.json history.json",
    "unreadable.json roc.png epoch_loss.png epoch_acc.png faces-batch.png checkpoints ranks tensorboard",
}


def test_a_run_directory_has_the_names_that_it_always_had(tmp_path):
    place, kept = RunDir(tmp_path), RunDir(tmp_path).checkpoints
    found = {each.name for each in vars(RunDir).values() if isinstance(each, Named) and not isinstance(each, Each)}
    assert found == {*" ".join(KNOWN).split()}
    several = [place.failure(1), place.hang(2), place.nonfinite(0), place.vendor_log(0), place.benchmark("lfw")]
    several += [place.log(0), place.log(3), place.journal_of("abc"), kept.of_epoch(7), kept.best_of(12), kept.last]
    names = "failure-1.json ranks/hang-2.txt nonfinite-0.pt dllogger-0.json lfw.json train.log ranks/3.log metrics-abc.jsonl"
    in_checkpoints = [f"checkpoints/{name}" for name in ("epoch-007.pt", "best-epoch-012.pt", "last.pt")]
    assert [path.relative_to(tmp_path).as_posix() for path in several] == [*names.split(), *in_checkpoints]


def test_a_benchmark_takes_none_of_a_runs_records():
    taken = ["history", "result", "split", "tracking", "unreadable", "failure-0", "dllogger-12", "Split"]
    assert [is_of_run(f"{name}.json") for name in [*taken, "lfw", "failure", "splits"]] == [True] * len(taken) + [
        False
    ] * 3


def test_numbered_checkpoints_are_those_of_epochs_in_their_order(tmp_path):
    kept = RunDir(tmp_path).checkpoints
    kept.path.mkdir()
    for name in ("epoch-010.pt", "epoch-9.pt", "epoch-x.pt", "best-epoch-001.pt", "last.pt"):
        (kept.path / name).touch()
    assert {path.name: epoch for path, epoch in kept.numbered().items()} == {"epoch-9.pt": 9, "epoch-010.pt": 10}
    assert next(iter(kept.numbered())).name == "epoch-9.pt"
    assert [path.name for path in kept.set_aside()] == ["best-epoch-001.pt"]


def test_no_other_module_has_such_a_name():
    names = [*" ".join(KNOWN).split(), "last.pt", "best.pt", "train.log"]
    names.remove("tensorboard")  # a package too
    said = re.compile(rf'"(?:\w+/)?(?:{"|".join(map(re.escape, names))})"')
    modules = sorted(Path(str(files("facenet"))).rglob("*.py"))
    found = {path.name: said.findall(path.read_text(encoding="utf-8")) for path in modules}
    assert len(found["run_dir.py"]) == len(names)
    assert {name: each for name, each in found.items() if each and name != "run_dir.py"} == {}


def test_a_folder_of_runs_names_them_the_newest_last(tmp_path):
    assert told_runs_in(tmp_path) == ""
    for number in (3, 1, 2):
        (tmp_path / f"{number}" / "checkpoints").mkdir(parents=True)
        (tmp_path / f"{number}" / "checkpoints" / "last.pt").touch()
        os.utime(tmp_path / f"{number}", (number, number))
    assert told_runs_in(tmp_path) == f"; runs lie in it: {tmp_path}/1, {tmp_path}/2, {tmp_path}/3"
