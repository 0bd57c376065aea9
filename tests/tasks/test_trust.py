"""A stranger's class and words of trust at drawn places of checkpoints, presets and commands on record."""

from __future__ import annotations

import json
import random
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from facenet.config import overlays
from facenet.engine import checkpoint as checkpoints
from facenet.errors import UserError
from facenet.files import trusted
from facenet.tasks.restore import from_checkpoint

pytestmark = pytest.mark.nightly
DRAWS = 200
NAME = "package_of_a_stranger"
WORDS: list[dict[str, Any]] = [
    {"trust": NAME},
    {"trust": [NAME]},
    {"+trust": NAME},
    {"FACENET_TRUST": json.dumps([[NAME, None]])},
    {"PYTHONPATH": "."},
    {"_trust_": NAME},
]


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """In the working directory, beside what is read, and leaving a mark where it is imported."""
    folder = tmp_path / NAME
    folder.mkdir()
    code = f"open({str(tmp_path / 'imported')!r}, 'a').close()\nfrom torch.nn import Identity\nclass Own(Identity):\n    num_features = 3\n"
    (folder / "__init__.py").write_text(code)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", ["", *sys.path])
    yield folder
    trusted.finder.packages.pop(NAME, None)
    sys.modules.pop(NAME, None)


def strewn(node: Any, draw: random.Random) -> Any:
    """With words of trust at drawn depths."""
    if isinstance(node, dict):
        node = {key: strewn(value, draw) for key, value in node.items()}
        return {**node, **draw.choice(WORDS)} if "_target_" not in node and draw.random() < 0.5 else node
    return [strewn(value, draw) for value in node] if isinstance(node, list) else node


@pytest.mark.parametrize("seed", range(2))
def test_no_drawn_file_brings_its_class_along(seed: int, package: Path, tmp_path: Path) -> None:
    draw, head = (
        random.Random(seed),
        {"identities": [], "embedder": {}, "loss": {}, "epoch": 1, "step": 1, "metrics": {}},
    )
    for number in range(DRAWS // 2):
        node: Any = {"_target_": draw.choice([f"{NAME}.Own", f"{NAME}.Identity", NAME])}
        for _ in range(draw.randint(0, 4)):
            node = draw.choice([{"_target_": f"{NAME}.Own", "x": node}, [node], {"x": node}])
        place = draw.choice(["backbone", "preprocess", "loss"])
        if place == "backbone" and draw.random() < 0.5:
            node = {"_target_": "facenet.backbones.FaceNet", "trunk": node}
        config = {"backbone": {"_target_": f"{NAME}.Own"}, "preprocess": {}, place: node}
        checkpoints.save({"config": strewn(config, draw), **head}, tmp_path / f"{number}.pt")
        with pytest.raises(UserError):
            from_checkpoint(str(tmp_path / f"{number}.pt"))
        (tmp_path / f"{number}.pt").unlink()
        read = yaml.safe_load(yaml.safe_dump(strewn({place: node}, draw)))
        assert list(overlays.problems_of(read, "preset/x", "_global_")), read
        sign = draw.choice(["", "+", "++"])
        recorded = draw.choice([f"{sign}trust={NAME}", f"{sign}backbone._target_={NAME}.Own", f"{sign}trust=[{NAME}]"])
        assert list(overlays.strange_arguments([recorded])), recorded
    assert not (tmp_path / "imported").exists()


def test_where_it_is_trusted_it_is_made(package: Path, tmp_path: Path) -> None:
    node = {"_target_": "facenet.backbones.FaceNet", "trunk": {"_target_": f"{NAME}.Own"}, "embedding_size": 4}
    with trusted.also([str(package)]):
        from facenet.config import build

        made = build(node, "backbone", of_others=True)
    assert (tmp_path / "imported").exists() and type(made.backbone.model).__name__ == "Own"
