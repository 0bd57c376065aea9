"""What a run knows of its benchmarks: where their images lie, and by which key a mistake in them is told."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from facenet import config as configs
from facenet.data.drawn.synthetic import SyntheticFaces
from facenet.data.identities import Subset
from facenet.data.source import FolderData, SyntheticData
from facenet.errors import UserError
from facenet.evaluation.benchmarks.choice import HeldOut, Lfw
from facenet.evaluation.benchmarks.together import together
from facenet.evaluation.protocol import Protocol
from facenet.tasks.job import datasets
from facenet.tasks.tested import opened_of

FACES = SyntheticFaces(num_identities=6, images_per_identity=4, size=16, seed=0)
HELD = Subset(FACES, np.arange(16))
PROTOCOL = {"_target_": "facenet.evaluation.Protocol"}


@pytest.fixture
def lfw(tmp_path):
    """A folder of two people and its list; the list's text."""
    for name in ("A_B", "C_D"):
        for number in (1, 2, 3):
            (tmp_path / name).mkdir(exist_ok=True)
            (tmp_path / name / f"{name}_000{number}.jpg").write_bytes(b"x")
    lines = ["A_B 1 2", "C_D 1 2", "A_B 1 C_D 1", "A_B 2 C_D 2"]
    (tmp_path / "pairs.txt").write_text("\n".join(lines))
    return tmp_path


def test_each_benchmark_says_where_its_images_lie(lfw):
    drawn, folder = SyntheticData(num_identities=6, images_per_identity=4), FolderData(root="/people")
    held = HeldOut(num_pairs=8, num_folds=2, protocol=Protocol())
    found = opened_of([held, Lfw(root=str(lfw), protocol=Protocol())], HELD, folder)
    assert [each.location for each in found] == ["/people", str(lfw)]
    assert opened_of([held], HELD, drawn)[0].location is None


def test_mlflow_has_the_source_of_each():
    faces = SimpleNamespace(fingerprint="f")
    tested = {
        "heldout": ("/people", Subset(HELD, [0])),
        "agedb": ("/sets/a.bin", faces),
        "mine": (None, faces),
        "shards": ("http://me:secret@host/x?sig=1", faces),
        "drawn": (None, Subset(HELD, [0])),
    }
    opened = [SimpleNamespace(name=name, location=place, faces=found) for name, (place, found) in tested.items()]
    material = SimpleNamespace(benchmarks=opened, location="/people", heldout=HELD)
    found = datasets({}, material, SimpleNamespace(images=SimpleNamespace(data_fingerprint="d")))
    assert found.pop("train") == ("people", "/people", "d")
    sources = {name: source for name, source, _ in found.values()}
    assert sources == {**sources, "heldout": "/people", "agedb": "/sets/a.bin", "mine": "mine", "drawn": "/people"}
    assert list(found)[:2] == ["test", "test agedb"] and "secret" not in sources["shards"]


@pytest.mark.parametrize("key", ["benchmark", "benchmarks.agedb"])
@pytest.mark.parametrize(
    ("target", "values", "said"),
    [
        ("HeldOut", {"num_pairs": 4, "num_folds": 5}, "KEY.num_folds must be at least 2 and KEY.num_pairs at least"),
        ("HeldOut", {"num_pairs": 10**9}, "KEY.num_pairs: at most"),
        ("HeldOut", {"num_pairs": 60, "batch_size": 0}, "KEY.batch_size: expected at least 1"),
        ("Lfw", {"root": "/lfw", "batch_size": -1}, "KEY.batch_size: expected at least 1"),
        ("Bin", {"path": "/benchmark.root", "batch_size": 0}, "KEY.batch_size: expected at least 1"),
    ],
)
def test_a_mistake_in_the_numbers_of_a_benchmark_is_told_at_its_own_key(key, target, values, said):
    node = {"_target_": f"facenet.evaluation.{target}", "protocol": PROTOCOL, **values}
    with pytest.raises(UserError) as raised:
        configs.build(node, key)
    assert said.replace("KEY", key) in str(raised.value)
    assert key == "benchmark" or "benchmark." not in str(raised.value)


def test_a_mistake_in_the_list_of_a_named_benchmark_is_told_at_its_own_key(lfw):
    text = (lfw / "pairs.txt").read_text()
    (lfw / "benchmark.pairs").write_text("a/../b.jpg c.jpg 1\n" + text)
    chosen = Lfw(root=str(lfw), pairs=str(lfw / "benchmark.pairs"), protocol=Protocol())
    (named,) = together(chosen, {"agedb": chosen})[1:]
    for benchmark, key in ((chosen, "benchmark"), (named, "benchmarks.agedb")):
        with pytest.raises(UserError) as raised:
            opened_of([benchmark])
        told = str(raised.value)
        assert f"a path is one below {key}.root" in told and told.startswith(f"{lfw}/benchmark.pairs, line 1")
