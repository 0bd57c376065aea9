"""Numbers that a key can be given and no run can use are told in the plan, in one line; those that are about the wrong unit are told, too."""

from __future__ import annotations

import copy
import math
from types import SimpleNamespace

import pytest

from facenet import config as configs
from facenet.backbones.mobilefacenet import MobileFaceNet
from facenet.data.drawn.synthetic import SyntheticFaces
from facenet.data.transforms import Preprocess
from facenet.errors import UserError
from facenet.tasks.epochs import Epochs
from facenet.tasks.job import prepare
from facenet.tasks.rehearsal import check_preprocess


@pytest.fixture(scope="module")
def base(compose):
    return compose("schedule=constant")


@pytest.mark.parametrize(
    ("key", "value", "told"),
    [
        ("preprocess.size", [10**9, 32], "preprocess.size: at most 4096 pixels a side"),
        ("preprocess.size", [0, 32], "preprocess.size: expected"),
        ("preprocess.std", [1e-320, 1.0, 1.0], "preprocess.std=.*: pixels become infinite"),
        ("preprocess.crop", 2.0, "preprocess.crop: expected a share"),
        ("watch.patience", 0, "watch.patience: expected a number above 0"),
        ("trainer.epochs", 10**19, "trainer.epochs: at most 1,000,000,000"),
        ("data.num_identities", 10**9, "data=synthetic: at most 10,000,000 images are drawn"),
        ("data.images_per_identity", 10**19, "data=synthetic: at most 10,000,000 images"),
    ],
)
def test_what_a_rank_would_refuse_is_refused_in_the_plan(base, key, value, told):
    """Tracebacks, all memory, or a failed run in MLflow."""
    config = copy.deepcopy(base)
    group, name = key.split(".")
    config[group][name] = value
    with pytest.raises(UserError, match=told):
        prepare(config)


@pytest.mark.slow
def test_every_number_of_a_config_is_taken_or_told(base):
    """Each leaf in turn; what fails, fails as a mistake of the user's."""
    from facenet.tasks.recipe import Recipe

    for path in list(numbers(base)):
        for value in (-1, 0, 10**19, 1e-320):
            config = copy.deepcopy(base)
            node = config
            for part in path[:-1]:
                node = node[part]
            node[path[-1]] = value
            try:
                configs.check(config, Recipe)
                prepare(config)
            except UserError as error:
                assert len(str(error)) < 1000, path


def numbers(node, path=()):
    children = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    for key, value in children:
        yield from numbers(value, (*path, key))
    if isinstance(node, (int, float)) and not isinstance(node, bool):
        yield path


@pytest.mark.parametrize(
    ("mean", "std", "warned"),
    [
        ([127.5] * 3, [128.0] * 3, True),  # in units of 0..255: all pixels about -0.99
        ([0.5, 0.5, 127.5], [0.5] * 3, True),
        ([0.0] * 3, [255.0] * 3, True),
        ([0.5] * 3, [128 / 255] * 3, False),
        ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225], False),
        ([0.0] * 3, [1 / 255] * 3, False),
        ([0.0] * 3, [1.0] * 3, False),
    ],
)
def test_a_mean_in_another_unit_is_told(caplog, mean, std, warned):
    check_preprocess(Preprocess(size=[32, 32], mean=mean, std=std))
    assert ("they are in units where white is 1, so 127.5 of 255 is 0.5" in caplog.text) is warned


def test_an_embedding_of_no_numbers_is_refused():
    with pytest.raises(UserError, match="backbone.embedding_size: expected 1 or more, got 0"):
        MobileFaceNet(blocks=[[2, 64, 1, 2]], input_size=[112, 112], embedding_size=0)
    with pytest.raises(
        UserError, match="data.seed: expected 0 or more"
    ):  # of a damaged checkpoint; a command's is checked before
        SyntheticFaces(num_identities=4, images_per_identity=2, size=32, seed=-1)
    assert len(SyntheticFaces(num_identities=1000, images_per_identity=100, size=32)) == 100_000


@pytest.mark.parametrize(("value", "score"), [(0.5, 0.5), (math.nan, None), (math.inf, math.inf)])
def test_a_figure_that_is_no_number_is_no_score(value, score):
    epochs = SimpleNamespace(plan=SimpleNamespace(select="mine/share", lower_is_better=False))
    assert Epochs.score(epochs, {"mine/share": value}) == score
