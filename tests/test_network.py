"""`facenet.load`: the network of a checkpoint in another program."""

from __future__ import annotations

import functools
import subprocess
import sys
import tarfile
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import facenet
from facenet.backbones import FaceNet
from facenet.config import build
from facenet.data.drawn.synthetic import SyntheticFaces
from facenet.data.identities import ImageList
from facenet.devices import Accelerator, DeviceChoice, Precision
from facenet.engine import checkpoint
from facenet.evaluation.embed import embed
from facenet.evaluation.protocol import Protocol, verify
from facenet.evaluation.run import run_benchmarks
from facenet.tasks.as_trained import as_trained
from facenet.tasks.evaluate import opened_on
from facenet.tasks.restore import from_checkpoint

ROUNDING = 1e-4  # of one image in batches of several sizes; two images here differ by 0.1
OFF_CENTRE = (0.5, *31 * (0.0,))


def threshold(value=1.0, distance="l2", flip="none", mean=None):
    return {"value": value, "distance": distance, "flip": flip, "mean": mean}


@pytest.fixture(scope="module")
def content(compose):
    """A checkpoint of a narrow network that no run has trained, whose batch norms have seen drawn faces."""
    import torch

    torch.manual_seed(3)
    config = compose("backbone.trunk.width=0.05", "backbone.embedding_size=32", "data.image_size=32")
    embedder = build(config["backbone"], "backbone")
    for part in embedder.modules():
        part.momentum = 1.0  # of a batch norm
    faces, preprocess = (
        SyntheticFaces(num_identities=8, images_per_identity=2, size=32, seed=3),
        build(config["preprocess"]),
    )
    with torch.no_grad():
        embedder.train()(preprocess.normalize(torch.from_numpy(np.stack([faces.load(index) for index in range(16)]))))
    return {
        "config": config,
        "identities": ["a", "b"],
        "embedder": embedder.state_dict(),
        "loss": {},
        "epoch": 1,
        "step": 8,
        "metrics": {},
        "threshold": threshold(),
    }


@pytest.fixture
def network(content, tmp_path):
    """network(**threshold): a network with this threshold, loaded from a file."""

    def loaded(**stored):
        checkpoint.save({**content, "threshold": threshold(**stored)}, tmp_path / "net.pt")
        return facenet.load(tmp_path / "net.pt", device="cpu")

    return loaded


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Four files as people have them: a face as JPEG, one turned by EXIF, a grey one and one with a transparent ground."""
    folder = tmp_path_factory.mktemp("photos")
    drawn = SyntheticFaces(num_identities=4, images_per_identity=1, size=48, seed=7)
    images = [Image.fromarray(drawn.load(index)) for index in range(4)]
    turned = Image.Exif()
    turned[0x0112] = 6
    images[0].save(folder / "a.jpg", quality=95)
    images[1].crop((0, 0, 48, 30)).save(folder / "b.jpg", quality=95, exif=turned)
    images[2].convert("L").save(folder / "c.png")
    images[3].putalpha(images[2].convert("L"))
    images[3].save(folder / "d.png")
    return sorted(folder.iterdir())


def as_evaluated(network, paths):
    """The rows that an evaluation has of these files."""
    faces = ImageList([str(path) for path in paths], [0] * len(paths), ["x"])
    with Accelerator.start(DeviceChoice(name="cpu"), Precision(), alone=True) as device:
        return embed(
            network.embedder,
            faces,
            network.preprocess,
            device,
            batch_size=64,
            flip=network.protocol.flip,
            num_workers=0,
        )


@pytest.mark.parametrize("flip", ["none", "concat", "sum"])
def test_paths_images_and_arrays_give_the_rows_of_an_evaluation(network, photos, flip):
    network = network(flip=flip)
    expected = as_evaluated(network, photos)
    assert expected.shape == (4, 64 if flip == "concat" else 32) == (4, network.embedding_size)
    opened = [Image.open(path) for path in photos]
    upright = [np.asarray(Image.open(path).convert("RGB")) for path in photos]
    upright[1] = np.rot90(upright[1], -1)
    for images in (photos, [str(path) for path in photos], (path for path in photos), opened, upright):
        found = network.embed(images)
        assert found.dtype == np.float32 and np.array_equal(found, expected)
    assert np.abs(expected[0] - expected[1]).max() > 0.1, "all images alike show nothing"


def test_one_image_gives_one_row_and_none_none(network, photos):
    network = network()
    expected = as_evaluated(network, photos)
    grey = np.asarray(Image.open(photos[2]))
    for one in (grey, grey[:, :, None], Image.open(photos[2]), str(photos[2]), photos[2]):
        assert network.embed(one).shape == (1, 32)
        np.testing.assert_allclose(network.embed(one)[0], expected[2], atol=1e-4)
    stacked = np.stack([np.asarray(Image.open(photos[0]))] * 3)
    np.testing.assert_allclose(network.embed(stacked, batch_size=2), expected[[0, 0, 0]], atol=1e-4)
    assert network.embed([]).shape == (0, 32) and network.embed([]).dtype == np.float32


def test_an_iterator_is_read_some_at_a_time(network, photos, monkeypatch):
    monkeypatch.setattr("facenet.data.given.AT_A_TIME", 2)
    network, taken = network(), []
    rows = network.embed(taken.append(path) or path for path in [*photos, photos[0]])
    np.testing.assert_allclose(rows, as_evaluated(network, [*photos, photos[0]]), atol=1e-4)
    with pytest.raises(facenet.UserError, match=r"images\[3\]: expected a path, .* got builtins.int"):
        network.embed(iter([*photos[:3], 5, *photos]))


UNIT = np.eye(32)
SLANTED = (3 * UNIT[0] + 4 * UNIT[1]) / 5  # at a cosine of 0.6 to the first axis, 0.8 to the second


@pytest.mark.parametrize(
    "distance, expected",
    [("l2", [0.8**0.5, 0.4**0.5, 2**0.5]), ("squared_l2", [0.8, 0.4, 2]), ("cosine", [0.4, 0.2, 1])],
)
def test_distances_and_decisions_by_hand(network, distance, expected):
    value = float(np.mean(expected[:2]))  # between the first two
    network = network(distance=distance, value=value)
    left, right = np.stack([SLANTED, SLANTED, UNIT[2]]), UNIT[:3] * [[1], [7], [1]]  # a length counts for nothing
    right[2] = UNIT[3]
    np.testing.assert_allclose(network.distance(left, right), expected, atol=1e-12)
    assert network.same(left, right).tolist() == [False, True, False]
    assert network.same(left, right, threshold=2.5).all() and network.same(left, right, threshold=2.5).dtype == bool
    np.testing.assert_allclose(network.distance(SLANTED, right), network.distance(right, [SLANTED]), atol=1e-12)
    np.testing.assert_allclose(network.distance(SLANTED, right), [*expected[:2], expected[2]], atol=1e-12)
    assert network.distance(SLANTED, UNIT[1]).shape == () and network.same(SLANTED, UNIT[1])
    assert not network.same(UNIT[0], UNIT[0], threshold=0.0), "below, not at"


def test_the_mean_of_the_threshold_is_taken_away(network):
    network = network(distance="cosine", mean=OFF_CENTRE)
    # (1, 0) less (0.5, 0) is (0.5, 0), (0, 1) less it (-0.5, 1)
    assert network.distance(UNIT[0], UNIT[1]) == pytest.approx(1 + 0.5 / 1.25**0.5)
    assert network.protocol == Protocol(distance="cosine", subtract_mean=True)


def test_distances_are_those_of_the_verification(network, photos):
    """The threshold parts the pairs as `verify`, which chose it, does."""
    network = network()
    rows = network.embed(photos)
    left, right = np.array([0, 1, 2, 0, 1, 2]), np.array([1, 2, 3, 2, 3, 0])
    same = np.array([True, False, False, True, False, False])
    protocol = replace(network.protocol, distance="squared_l2", subtract_mean=True)
    judged = verify(rows, left, right, same, np.array([0, 0, 0, 1, 1, 1]), protocol)
    stored = replace(network, threshold=judged.threshold, protocol=protocol)
    distances = stored.distance(rows[left], rows[right])
    accepted = stored.same(rows[left], rows[right])
    centred = rows - np.array(judged.threshold.mean)
    centred /= np.linalg.norm(centred, axis=1, keepdims=True)
    np.testing.assert_allclose(distances, np.square(centred[left] - centred[right]).sum(axis=1), atol=1e-4)
    assert accepted.tolist() == (distances < judged.threshold.value).tolist()


def test_a_network_without_a_threshold_asks_for_one(content, tmp_path):
    stored = {**content, "threshold": None}
    stored["config"] = {**content["config"], "benchmark": {"protocol": {"distance": "cosine", "flip": "sum"}}}
    checkpoint.save(stored, tmp_path / "net.pt")
    network = facenet.load(tmp_path / "net.pt", device="cpu")
    assert network.threshold is None and network.protocol == Protocol(distance="cosine", flip="sum")
    with pytest.raises(
        facenet.UserError, match=r"net.pt: has no threshold, .* in its unit, cosine: same\(a, b, threshold="
    ) as raised:
        network.same(UNIT[0], UNIT[1])
    assert "\n" not in str(raised.value)
    assert network.same(UNIT[0], UNIT[1], threshold=1.1) and not network.same(UNIT[0], UNIT[1], threshold=1.0)


def test_a_run_directory_stands_for_its_best_else_its_last(content, tmp_path):
    folder = tmp_path / "run" / "checkpoints"
    checkpoint.save(content, folder / "last.pt")
    assert facenet.load(tmp_path / "run", device="cpu").path == folder / "last.pt"
    checkpoint.save({**content, "threshold": threshold(0.25)}, folder / "best.pt")
    for place in (tmp_path / "run", str(folder), folder / "best.pt"):
        assert facenet.load(place, device="cpu").path == folder / "best.pt"
    loaded = facenet.load(folder, device="cpu")
    assert loaded.threshold.value == 0.25 and isinstance(loaded.embedder, FaceNet) and not loaded.embedder.training
    assert not any(each.requires_grad for each in loaded.embedder.parameters())
    assert "32 x 32 pixels -> 32, threshold 0.25 (l2), on cpu" in repr(loaded)


def test_mistakes_of_a_load_are_told_in_one_line(content, tmp_path):
    checkpoint.save(content, tmp_path / "net.pt")
    (tmp_path / "empty").mkdir()
    (tmp_path / "text.pt").write_text("no checkpoint")
    for arguments, told in (
        ({"path": tmp_path / "none.pt"}, "none.pt: no such file"),
        ({"path": tmp_path / "empty"}, "empty: neither a checkpoint nor a run directory"),
        ({"path": tmp_path / "text.pt"}, "text.pt: damaged, or no checkpoint"),
        ({"path": tmp_path / "net.pt", "device": "cpu:0"}, "device='cpu:0': expected one of auto, "),
        ({"path": tmp_path / "net.pt", "precision": "half"}, "precision='half': expected one of fp32, "),
    ):
        with pytest.raises(facenet.UserError, match=told) as raised:
            facenet.load(**arguments)
        assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    "stored",
    [
        7,
        {"value": 1.0},
        threshold(float("nan")),
        threshold("1.0"),
        threshold(distance="taxicab"),
        threshold(flip=["none"]),
        threshold(mean=(0.0,) * 31),
        threshold(mean=("0",) * 32),
        {**threshold(), "__class__": 1},
    ],
)
def test_a_threshold_that_no_run_wrote_is_damage(content, tmp_path, stored):
    checkpoint.save({**content, "threshold": stored}, tmp_path / "net.pt")
    with pytest.raises(facenet.UserError, match="net.pt: damaged, its threshold"):
        facenet.load(tmp_path / "net.pt", device="cpu")


def test_a_checkpoint_opens_nothing_when_it_is_loaded(content, tmp_path):
    """As for facenet-evaluate: what its config names beyond parts of a network is refused."""
    backbone = {
        **content["config"]["backbone"],
        "trunk": {"_target_": "torch.hub.load", "repo_or_dir": "a/b", "model": "c"},
    }
    checkpoint.save({**content, "config": {**content["config"], "backbone": backbone}}, tmp_path / "net.pt")
    with pytest.raises(facenet.UserError, match="backbone.trunk"):
        facenet.load(tmp_path / "net.pt", device="cpu")


def test_mistakes_of_an_embed_are_told_in_one_line(network, photos, tmp_path):
    network = network()
    (tmp_path / "cut.jpg").write_bytes(photos[0].read_bytes()[:-300])
    for images, told in (
        (tmp_path / "none.jpg", "none.jpg: cannot be read"),
        ([photos[0], tmp_path / "cut.jpg"], "cut.jpg: cannot be read"),
        ([Image.open(photos[0]), Image.open(tmp_path / "cut.jpg")], r"images\[1\]: cannot be read"),
        (tmp_path, "cannot be read"),
        (np.zeros((8, 8, 3), np.float32), r"images\[0\]: expected .*; got float32 of shape \(8, 8, 3\)"),
        (np.zeros((2, 8, 8), np.uint8), r"got uint8 of shape \(2, 8, 8\)"),
        (np.zeros((0, 8, 3), np.uint8), r"got uint8 of shape \(0, 8, 3\)"),
        ([photos[0], None], r"images\[1\]: expected .*; got builtins.NoneType"),
        (None, "images: expected .*; got NoneType"),
    ):
        with pytest.raises(facenet.UserError, match=told) as raised:
            network.embed(images)
        assert "\n" not in str(raised.value)
    with pytest.raises(facenet.UserError, match="batch_size=0"):
        network.embed(photos, batch_size=0)


def test_mistakes_of_a_distance_are_told_in_one_line(network):
    network = network()
    for a, b, told in (
        (UNIT[:2], UNIT[:3], "2 embeddings and 3: expected pairs of rows, or one against many"),
        (
            UNIT[0, :31],
            UNIT[0],
            r"a: expected finite embeddings of this network, \(N, 32\) or \(32,\); got shape \(31,\)",
        ),
        (UNIT[0], np.full(32, np.nan), "b: expected finite embeddings of .*,\\)$"),
        ("a.jpg", "b.jpg", "a: expected embeddings, .*; embed images first: network.embed"),
        (UNIT[0], [Path("b.jpg")], "b: expected embeddings, .*; embed images first"),
        (UNIT[0], None, "b: expected .*"),
        (Image.new("RGB", (32, 30)), UNIT[0], r"a: .* got shape \(30, 32, 3\); embed images first"),
        (np.zeros((2, 30, 31, 3), np.uint8), UNIT[0], "a: .*; embed images first"),
    ):
        for compare in (network.distance, functools.partial(network.same, threshold=1.0)):
            with pytest.raises(facenet.UserError, match=told):
                compare(a, b)
    assert network.distance(UNIT[:1], UNIT[:3]).shape == (3,)


def test_embeddings_that_are_not_finite_are_told(content, photos, tmp_path):
    weights = {name: tensor.clone() for name, tensor in content["embedder"].items()}
    next(tensor for name, tensor in weights.items() if name.endswith("weight")).fill_(float("nan"))
    checkpoint.save({**content, "embedder": weights}, tmp_path / "net.pt")
    with pytest.raises(facenet.UserError, match="a.jpg: its embedding by .*net.pt is not finite"):
        facenet.load(tmp_path / "net.pt", device="cpu").embed(photos)


@pytest.mark.cold
def test_the_import_is_light_and_its_names_are_there():
    code = (
        "import sys, time; import pathlib, importlib.util; began = time.perf_counter(); import facenet; took = time.perf_counter() - began; "
        "heavy = {'torch', 'numpy', 'hydra', 'omegaconf', 'mlflow', 'PIL'} & set(sys.modules); "
        "print(facenet.__version__, sorted(heavy), dir(facenet)); assert took < 0.5, took"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"{version('facenet')} [] ")
    assert "'load'" in done.stdout and "'Network'" in done.stdout
    with pytest.raises(AttributeError, match="no_such_name"):
        _ = facenet.no_such_name


def test_its_decisions_are_those_behind_the_figures_of_its_run(compose_evaluate, tmp_path):
    """On the held-out pairs of a run of an earlier commit, with mirror images beside the images: the stored threshold is the best on all pairs."""
    golden = Path(__file__).parent / "golden" / "before_rooms.tar.xz"
    with tarfile.open(golden) as archive:
        member = next(each for each in archive if each.name.endswith("finished/checkpoints/best.pt"))
        (tmp_path / "best.pt").write_bytes(archive.extractfile(member).read())
    network = facenet.load(tmp_path, device="cpu")
    assert network.protocol.flip == "concat" and network.embedding_size == 64
    restored = from_checkpoint(str(network.path))
    benchmark = build(compose_evaluate("benchmark=heldout")["benchmark"], "benchmark")
    (pairs,) = opened_on([as_trained(benchmark, restored.content, [])], restored, {})
    rows = network.embed(pairs.faces.load(index) for index in range(len(pairs.faces)))
    judged = run_benchmarks(network.embedder, [pairs], network.preprocess, network.accelerator)["heldout"]
    accepted = network.same(rows[pairs.left], rows[pairs.right])
    positive, negative = int(pairs.same.sum()), int((~pairs.same).sum())
    best = max(judged.roc.tpr * positive + (1 - judged.roc.fpr) * negative)
    assert abs(int((accepted == pairs.same).sum()) - best) <= 2 and 0 < accepted.sum() < len(accepted)
    assert judged.threshold.value == pytest.approx(network.threshold.value, abs=1e-4)
