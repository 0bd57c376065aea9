"""Sources as the configuration makes them, and the YAML of the groups data, sampler, augment and preprocess."""

from __future__ import annotations

import inspect
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hydra.utils import get_class, instantiate
from omegaconf import OmegaConf

from facenet.backbones.embedder import Embedder
from facenet.backbones.weights import load_weights
from facenet.config.near import PLACES, filled
from facenet.config.overrides import parsed, text_of
from facenet.data.files.annotation import annotate
from facenet.data.files.pack import pack_folder
from facenet.data.identities import FolderFaces
from facenet.data.source import AnnotationData, FolderData, RecordData, ShardData, SyntheticData, way_out
from facenet.data.transforms import Augment, Preprocess
from facenet.engine import checkpoint
from facenet.errors import UserError
from facenet.evaluation.benchmarks.choice import Bin, Lfw
from facenet.evaluation.protocol import Protocol
from facenet.files.choices import with_bases
from facenet.files.reading import reason_of

from .conftest import MakeFolder

CONF = Path(__file__).parents[2] / "conf"
FILES = [
    path for group in ("data", "sampler", "augment", "preprocess") for path in sorted((CONF / group).glob("*.yaml"))
]


def test_folder_and_annotation_open_the_same_faces(make_folder: MakeFolder) -> None:
    root = make_folder({"a": 3, "b": 1, "c": 2})
    annotate(root, root.parent / "list.txt")
    folder = FolderData(root=str(root), min_images=2).open()
    listed = AnnotationData(list=str(root.parent / "list.txt"), min_images=2).open()
    assert folder.identities == listed.identities == ("a", "c")
    assert folder.labels.tolist() == listed.labels.tolist() == [0, 0, 0, 1, 1]
    assert folder.fingerprint == listed.fingerprint


def test_synthetic_is_drawn_at_the_input_size() -> None:
    faces = SyntheticData(num_identities=3, images_per_identity=2, image_size=40).open()
    assert len(faces) == 6
    assert faces.load(0).shape == (40, 40, 3)


def test_folder_errors_name_the_key(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"^data.root: .*gone: no such folder.*; .* where it is now: data.root=NEW$"):
        FolderData(root=str(tmp_path / "gone")).open()
    with pytest.raises(UserError, match=r"^data.root: .*: no images; expected .*<image>$"):
        FolderData(root=str(tmp_path)).open()
    with pytest.raises(UserError, match=r"^data.path: .*gone: no such file .*: data.path=NEW$"):
        RecordData(path=str(tmp_path / "gone")).open()
    with pytest.raises(UserError, match=r"^data.list: .*gone cannot be read .*: data.list=NEW$"):
        AnnotationData(list=str(tmp_path / "gone")).open()
    with pytest.raises(UserError, match="data.depth: expected 1 to 5, got 0"):
        FolderData(root="x", depth=0)


@pytest.mark.parametrize("place", ["x" * 300, "/" + "y/" * 3000, "a\0b", "/etc/passwd/x", "/dev/null"], ids=ascii)
def test_places_of_which_the_system_says_nothing_are_refused_in_a_line(place: str) -> None:
    """Path.is_file() raises for these, and for a folder that one may not look into."""
    pytest.importorskip("webdataset", reason="needs facenet[shards]")
    protocol = Protocol()
    opened: list[Callable[[], object]] = [
        *(
            kind(**{key: place}).open
            for kind, key in (
                (FolderData, "root"),
                (AnnotationData, "list"),
                (RecordData, "path"),
                (ShardData, "shards"),
            )
        ),
        *(
            Bin(path=place, protocol=protocol).open,
            Lfw(root=place, protocol=protocol).open,
            Lfw(root="/", pairs=place, protocol=protocol).open,
        ),
        *(lambda: load_weights(Embedder(), place), lambda: checkpoint.load(place)),
    ]
    for each in opened:
        with pytest.raises(UserError) as caught:
            each()
        assert "\n" not in str(caught.value)
    assert (
        reason_of(Path("/nowhere")) is reason_of(Path("/")) is None
        and reason_of(Path("x" * 300)) == "File name too long"
    )


def test_data_of_another_kind_are_told_as_what_they_are(make_folder: MakeFolder, tmp_path: Path) -> None:
    """Each place opened as each other kind: a line that names its own."""
    pytest.importorskip("webdataset", reason="needs facenet[shards]")
    people = make_folder({"a": 2, "b": 1})
    annotate(people, tmp_path / "list.txt")
    pack_folder(FolderFaces(people), tmp_path / "pack")
    (tmp_path / "tars").mkdir()
    (tmp_path / "tars" / "a.tar").touch()
    places = {
        "folder": people,
        "annotation": tmp_path / "list.txt",
        "record": tmp_path / "pack",
        "shards": tmp_path / "tars",
    }
    kinds = {
        "folder": (FolderData, "root"),
        "annotation": (AnnotationData, "list"),
        "record": (RecordData, "path"),
        "shards": (ShardData, "shards"),
    }
    for name, place in places.items():
        for other, (kind, key) in kinds.items():
            if other != name:
                with pytest.raises(
                    UserError, match=rf"; it seems to be .*: data={name} data.{kinds[name][1]}={place}$"
                ):
                    kind(**{key: str(place)}).open()
    assert len(RecordData(path=str(tmp_path / "pack" / "train.idx")).open()) == 3


@pytest.mark.parametrize(
    "wrong",
    [
        {"batch_size": 0}, {"image_size": 0}, {"num_workers": -1}, {"min_images": 0}, {"val_images": 1.5},
        {"val_identities": -0.1}, {"max_unreadable": 2.0},
    ],
)  # fmt: skip
def test_wrong_numbers_name_the_key(wrong: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=f"^data.{next(iter(wrong))}: expected"):
        FolderData(root="x", **wrong)


@pytest.mark.parametrize("path", FILES, ids=lambda path: f"{path.parent.name}={path.stem}")
def test_yaml_spells_every_parameter_and_builds(path: Path) -> None:
    config = OmegaConf.merge(*map(OmegaConf.create, with_bases(path.parent.name, path.stem)))
    config.pop("defaults", None)
    if path.parent.name == "augment":
        pytest.importorskip("albumentations")
    for key in ("root", "list", "path", "shards"):
        if OmegaConf.is_missing(config, key):
            config[key] = "somewhere"
    assert set(config) - {"_target_"} == set(inspect.signature(get_class(config._target_)).parameters)
    context = OmegaConf.create({"data": {"image_size": 48}, "it": config})
    built = instantiate(context.it, _convert_="all")
    if isinstance(built, Preprocess):
        assert built.size == [48, 48]
    if isinstance(built, Augment):
        image = np.random.default_rng(0).integers(0, 256, (48, 48, 3), dtype=np.uint8)
        for number in range(30):
            changed = built(image, key=(number,))
            assert changed.shape == (48, 48, 3)
            assert changed.dtype == np.uint8


def test_another_kind_of_data_is_named_as_hydra_and_a_shell_take_it(tmp_path: Path) -> None:
    (tmp_path / "人 脸" / "a").mkdir(parents=True)
    *_, word = shlex.split(way_out("list", str(tmp_path / "人 脸")))
    assert text_of(word) == str(tmp_path / "人 脸") and parsed(word) is not None
    assert shlex.split(filled(PLACES["data"], "人 脸")) == ["data=folder", 'data.root="人 脸"']
