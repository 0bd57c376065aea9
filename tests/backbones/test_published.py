"""Files that people have are known again, and what they were made for is said where they get other images."""

from __future__ import annotations

import logging

import pytest

from facenet.backbones.mobilefacenet import MobileFaceNet
from facenet.backbones.published import KNOWN, advice, alike, layout_of
from facenet.backbones.weights import load_weights
from facenet.data.transforms import Preprocess
from facenet.tasks.restore import tell

FILES = ("bubbliiiing_arcface_mobilefacenet_112x112.pth", "xiaoccer_mobilefacenet_068_112x96.ckpt")
BLOCKS = [[2, 64, 5, 2], [4, 128, 1, 2], [2, 128, 6, 1], [4, 128, 1, 2], [2, 128, 2, 1]]


@pytest.mark.data
@pytest.mark.parametrize(("file", "known"), [*zip(FILES, KNOWN, strict=True)])
def test_a_published_file_with_other_images_than_its_own_is_told(shared_data, caplog, file, known):
    network = MobileFaceNet(blocks=BLOCKS, input_size=known.preprocess["size"])
    report = load_weights(network, shared_data / "weights" / file, whole=True)
    assert report.layout == known.layout
    tell(report, Preprocess(size=known.preprocess["size"]))
    (warning,) = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert f"is {known.name}, made for " in warning and warning.endswith(f"use {known.overrides}")
    assert "mean [0.5, 0.5, 0.5]" in warning and "size [" not in warning.partition("made for")[2].partition(";")[0]
    caplog.clear()
    tell(report, Preprocess(**known.preprocess))
    assert caplog.text == ""


def test_a_file_of_the_same_layout_may_have_its_preprocessing(tmp_path):
    path = tmp_path / "tuned.pth"
    path.write_bytes(b"other weights")
    told = advice(path, KNOWN[0].layout, Preprocess(size=[112, 112]).as_dict())
    assert told is not None and "has the names and shapes of arcface_mobilefacenet.pth" in told


def test_other_files_are_not_known(tmp_path):
    network = MobileFaceNet(input_size=[112, 112], blocks=BLOCKS)
    assert advice(tmp_path / "own.pth", layout_of(network.state_dict()), Preprocess(size=[112, 112]).as_dict()) is None


def test_a_rounded_number_is_alike():
    assert alike([0.50196] * 3, [128 / 255] * 3) and not alike([0.5] * 3, [0.0] * 3) and not alike([112], [112, 96])


@pytest.mark.parametrize("known", KNOWN)
def test_the_overrides_give_the_preprocessing(known):
    """As a shell would hand them on."""
    import shlex

    from hydra import compose, initialize_config_module

    from facenet import config
    from facenet.commands import composed as cli

    assert cli.own_experiments  # its import registers a resolver of the config
    overrides = ["backbone=mobilefacenet", "tracking=none", "benchmark=none", *shlex.split(known.overrides)]
    with initialize_config_module("facenet.conf", version_base="1.3"):
        found = config.resolve(compose("train", overrides=overrides))["preprocess"]
    assert all(alike(found[key], value) for key, value in known.preprocess.items())
