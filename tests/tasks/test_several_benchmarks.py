"""A run that is tested on several benchmarks: figures side by side, one of which chooses the best epoch, and each known when the run goes on."""

from __future__ import annotations

import contextlib
import json
from types import SimpleNamespace

import numpy as np
import pytest

from facenet import config as configs
from facenet.data.drawn.synthetic import SyntheticFaces
from facenet.data.identities import ImageList, Subset
from facenet.engine import checkpoint
from facenet.errors import UserError
from facenet.evaluation.benchmarks.pair_set import PairSet
from facenet.evaluation.protocol import Protocol
from facenet.launch.local import StopFlag
from facenet.reports.study import study_of
from facenet.reports.study import test_pairs as pairs_key
from facenet.tasks import changed, job
from facenet.tasks.plan import select_metric
from facenet.tasks.recipe import Recipe
from facenet.tasks.run import Run
from facenet.tasks.train import run

TWO = ("+benchmark@benchmarks.other=heldout", "benchmarks.other.num_pairs=40", "benchmarks.other.num_folds=2")


def test_more_benchmarks_are_a_line_each(compose):
    config = compose(*TWO, "benchmark/protocol@benchmarks.other.protocol=flip", "trainer.select=other/eer")
    configs.check(config, Recipe)
    _, plan = job.prepare(config)
    assert (plan.select, plan.lower_is_better) == ("other/eer", True)
    assert (
        plan.benchmark.startswith("heldout: 60 pairs in 3 folds") and "; other: 40 pairs in 2 folds" in plan.benchmark
    )
    rows = [line for line in str(plan).splitlines() if "pairs in" in line]
    assert len(rows) == 2 and rows[0].index("heldout") == rows[1].index("other")
    assert job.prepare(compose(*TWO))[1].select == "heldout/accuracy"
    alone = compose(*TWO, "benchmark=none", "benchmarks.other.num_pairs=40")
    material, plan = job.prepare(alone)
    assert plan.select == "other/accuracy" and [each.name for each in material.benchmarks] == ["other"]
    assert "benchmarks" not in compose()  # what a run of one benchmark records is what it was


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["+benchmark@benchmarks.heldout=heldout"], r"benchmarks\.heldout: benchmark= is called heldout, too"),
        (["+benchmark@benchmarks.val=heldout"], r"benchmarks\.val: figures and files of a run are called so"),
        ([*TWO, "trainer.select=agedb/accuracy"], r"this run measures heldout/\.\.\., other/\.\.\., val/"),
        ([*TWO, "trainer.select=other/acuracy"], r"not among other/accuracy, other/auc"),
        (["+benchmark@benchmarks.x=bin", "benchmarks.x.path=absent.bin"], r"benchmarks\.x\.path: .*absent\.bin"),
        (
            ["+benchmark@benchmarks.x=lfw", "benchmarks.x.root=absent"],
            r"x: absent is not a folder; set benchmarks\.x\.root",
        ),
        ([*TWO, "benchmarks.other.num_pairs=100000000"], "num_pairs: at most"),
    ],
)
def test_what_does_not_go_together_is_one_line(compose, overrides, said):
    with pytest.raises(UserError, match=said) as raised:
        job.prepare(compose(*overrides))
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["+benchmark@benchmarks.x=lfw"], "benchmarks.x.root: needs a value"),
        (["+benchmarks.x={num_pairs:4}"], "benchmarks.x: has no _target_"),
        (["+benchmarks.x=3"], "benchmarks.x: expected Benchmark, got 3"),
        (["+benchmarks=3"], "benchmarks: expected dict, got 3"),
        (["+benchmarks={_target_:facenet.evaluation.HeldOut}"], "'facenet.evaluation.HeldOut' may not be built"),
        (
            ["+benchmarks.x={_target_:facenet.evaluation.Protocol}"],
            "benchmarks.x._target_: 'facenet.evaluation.Protocol' may not",
        ),
        (
            ["+benchmark@benchmarks.x=heldout", "benchmarks.x.protocol._target_=facenet.evaluation.HeldOut"],
            "x.protocol._target_: ",
        ),
    ],
)
def test_what_no_config_of_benchmarks_is(compose, overrides, said):
    with pytest.raises(UserError, match=said.replace(".", r"\.")):
        configs.check(compose(*overrides), Recipe)


@pytest.fixture(scope="module")
def ran(compose, tmp_path_factory):
    """A run that one of two benchmarks of the same faces selects, in this process: config, result and directory."""
    directory = tmp_path_factory.mktemp("several") / "run"
    directory.mkdir()
    config = compose(
        *TWO, "benchmark/protocol@benchmarks.other.protocol=flip", "trainer.select=other/eer", "trainer.epochs=1"
    )
    with contextlib.closing(StopFlag(30.0)) as flag:
        return SimpleNamespace(config=config, result=run(Run(directory, config, None, flag)), dir=directory)


def test_the_figures_of_all_stand_side_by_side(ran):
    row = ran.result["metrics"]
    for name in ("heldout", "other"):
        assert {f"{name}/{figure}" for figure in ("accuracy", "auc", "eer", "threshold", "spread")} <= set(row)
        record = json.loads((ran.dir / f"{name}.json").read_text())
        assert record["accuracy"] == row[f"{name}/accuracy"] and record["benchmark"] == name
    assert ran.result["objective"] == row["other/eer"]
    assert ran.result["collapsed"] is None is ran.result["way_out"]  # what a good run leaves offers no way out of it
    content = checkpoint.load(ran.dir / "checkpoints" / "best.pt")
    assert content["best"]["score"] == -row["other/eer"]  # lower is better
    assert content["threshold"]["value"] == row["other/threshold"] and content["threshold"]["flip"] == "concat"
    assert (ran.dir / "roc.png").stat().st_size > 5000


def sets(folder):
    paths = [str(folder / f"{number}.jpg") for number in range(4)]
    options = {"same": np.array([True, False]), "folds": np.array([0, 1]), "protocol": Protocol()}
    ends = {"left": np.array([0, 1]), "right": np.array([2, 3])}
    first = PairSet(name="lfw", faces=ImageList(paths[:2], [0, 1], ["a", "b"]), **ends, **options)
    second = PairSet(
        name="agedb", key="benchmarks.agedb", faces=ImageList(paths[2:], [0, 1], ["c", "d"]), **ends, **options
    )
    return first, second


def test_each_is_known_again_when_the_run_goes_on(tmp_path):
    for number in range(4):
        (tmp_path / f"{number}.jpg").write_bytes(b"%d" % number)
    source = SyntheticFaces(num_identities=3, images_per_identity=2, size=16, seed=0)
    held = Subset(source, [0, 1])
    first, second = sets(tmp_path)
    drawn = PairSet(**{**vars(first), "name": "heldout", "key": "benchmarks.heldout", "faces": Subset(held, [0, 1])})
    material = SimpleNamespace(source=source, heldout=held, benchmarks=(first, second, drawn))
    noted = changed.samples(material, seed=0)
    assert set(noted) == {"data", "benchmark", "benchmarks.agedb"}  # held-out images are the data's
    assert changed.changed_images(material, noted) == [] and not changed.other_pairs(material, noted)
    (tmp_path / "3.jpg").write_bytes(b"another")
    (line,) = changed.changed_images(material, noted)
    assert line.startswith("benchmarks.agedb: 1 of 2 sampled images have other contents")
    noted["benchmarks.agedb"]["pairs"] = "0" * 16
    assert changed.other_pairs(material, noted)
    assert not changed.other_pairs(material, None) and not changed.other_pairs(material, {"benchmark": None})


def test_a_place_of_a_named_one_may_move_and_its_pairs_may_not():
    before = {"benchmarks": {"agedb": {"path": "/a", "num_folds": 10}}}
    assert changed.changes(before, {"benchmarks": {"agedb": {"path": "/b", "num_folds": 10}}}) == []
    assert changed.list_moved(before, {"benchmarks": {"agedb": {"path": "/b", "num_folds": 10}}}) == [
        "benchmarks.agedb.path: was /a, is /b"
    ]
    assert changed.changes(before, {"benchmarks": {"agedb": {"path": "/a", "num_folds": 5}}}) != []
    assert changed.changes({}, before) != [] == changed.changes(before, before)


def record(number, **params):
    given = {"plan.select": "ids/error", "plan.batch_size": "8", **params}
    found = {"params": given, "tags": {"job_num": str(number)}, "metrics": {"best/ids/error": 0.1}}
    return SimpleNamespace(id=str(number), name="", status="FINISHED", start=0.0, end=None, experiment_id="0", **found)


def test_a_report_takes_the_direction_that_the_plan_recorded():
    assert study_of("s", [record(0, **{"plan.lower_is_better": "True"})]).lower_is_better
    assert not study_of("s", [record(0, **{"plan.lower_is_better": "False"})]).lower_is_better
    assert not study_of("s", [record(0)]).lower_is_better  # of an earlier version, whose names say it
    assert study_of("s", [record(0, **{"plan.select": "lfw/eer"})]).lower_is_better


def test_a_report_compares_the_pairs_of_the_benchmark_that_selects():
    both = "lfw: 6,000 pairs in 10 folds, 7,701 images; other: 40 pairs in 2 folds, 30 images"
    params = {
        "plan.benchmark": both,
        "plan.data_fingerprint": "d",
        "benchmarks.other.seed": "0",
    }
    assert pairs_key(params, "lfw") == "lfw: 6,000 pairs in 10 folds, 7,701 images"
    assert pairs_key(params, "other").startswith("other: 40 pairs in 2 folds, 30 images d")
    alone = {"plan.benchmark": "heldout: 60 pairs", "plan.data_fingerprint": "d", "benchmark.seed": "0"}
    assert pairs_key(alone, "heldout") == pairs_key(alone, "val") == "heldout: 60 pairs d  0"


def test_the_direction_is_the_benchmarks_own_word():
    strange = [SimpleNamespace(name="ids", measures={"error": True, "rank1": False})]
    assert select_metric(None, strange, 0) == ("ids/error", True)
    assert select_metric("ids/rank1", strange, 0) == ("ids/rank1", False)
    assert select_metric(None, [], 0) == ("train/loss", True)
