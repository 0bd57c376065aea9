"""Weight files from elsewhere: which load, what is counted, which are refused."""

from __future__ import annotations

import io
import os
import pickle
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from facenet.backbones.embedder import Embedder, FaceNet
from facenet.backbones.inception_resnet_v1 import InceptionResNetV1
from facenet.backbones.mobilefacenet import MobileFaceNet
from facenet.backbones.mobilenet_v1 import MobileNetV1
from facenet.backbones.weights import load_weights, reference_state_dict
from facenet.errors import UserError

BLOCKS = [[2, 64, 5, 2], [4, 128, 1, 2], [2, 128, 6, 1], [4, 128, 1, 2], [2, 128, 2, 1]]
State = dict[str, torch.Tensor]


def mobilenet() -> FaceNet:
    return FaceNet(trunk=MobileNetV1(width=0.25))  # with the names of the whole one; `test_golden` has its shapes


def marked(embedder: Embedder, value: float = 0.5) -> Embedder:
    """The same network with every number set, counters included, so that what was copied is plain to see."""
    embedder.load_state_dict({name: torch.full_like(tensor, value) for name, tensor in embedder.state_dict().items()})
    return embedder


@pytest.fixture(scope="module")
def state() -> State:
    """What the reference saves of a mobilenet trained on seven identities."""
    return reference_state_dict(marked(mobilenet()), torch.zeros(7, 128), torch.zeros(7))


def saved(path: Path, content: Any) -> Path:
    torch.save(content, path)
    return path


def is_marked(tensors: dict[str, torch.Tensor], value: float = 0.5) -> bool:
    return all(tensor.eq(value).all() for tensor in tensors.values() if tensor.is_floating_point())


WRAPPINGS: dict[str, Callable[[State], Any]] = {
    "plain": lambda state: state,
    "ordered": OrderedDict,
    "module": lambda state: {f"module.{name}": tensor for name, tensor in state.items()},
    "compiled": lambda state: {f"_orig_mod.module.{name}": tensor for name, tensor in state.items()},
    "state_dict": lambda state: {"epoch": 3, "state_dict": state},
    "beside_a_tensor": lambda state: {"best": torch.tensor(0.9), "state_dict": state},
    "model": lambda state: {"model": state, "optimizer": {"state": {}, "param_groups": []}},
    "net_state_dict": lambda state: {"epoch": 3, "net_state_dict": state},
    "twice": lambda state: {"model": {"state_dict": {f"module.{name}": tensor for name, tensor in state.items()}}},
    "half": lambda state: {
        name: tensor.half() if tensor.is_floating_point() else tensor for name, tensor in state.items()
    },
    "lightning": lambda state: {
        "state_dict": {f"model.{name}": tensor for name, tensor in state.items()} | {"loss.weight": torch.zeros(2, 2)}
    },
    "backbone": lambda state: {f"backbone.{name}": tensor for name, tensor in state.items()},
    "encoder in module": lambda state: {f"module.encoder.{name}": tensor for name, tensor in state.items()},
    "net": lambda state: {f"net.module.{name}": tensor for name, tensor in state.items()},
    "insightface": lambda state: {
        "epoch": 3,
        "state_dict_softmax_fc": {"weight": torch.zeros(2, 2)},
        "state_dict_backbone": {f"module.{name}": tensor for name, tensor in state.items()},
    },
    "scores of numpy": lambda state: {
        "model": state,
        "best": np.float64(0.9),
        "row": [np.float32(0.5), np.int64(3), np.bool_(True)],
    },
    "no_counters": lambda state: {name: tensor for name, tensor in state.items() if "num_batches" not in name},
    "no_classifier": lambda state: {name: tensor for name, tensor in state.items() if "classifier" not in name},
}


@pytest.mark.parametrize("wrap", WRAPPINGS.values(), ids=WRAPPINGS)
def test_prefixes_wrappers_and_heads_do_not_matter(wrap: Callable[[State], Any], state: State, tmp_path: Path) -> None:
    embedder = mobilenet()
    report = load_weights(embedder, saved(tmp_path / "w.pth", wrap(state)), whole=True)
    assert is_marked(embedder.state_dict())
    assert report.missing == ()
    num_counters = sum("num_batches" in name for name in state)
    assert len(report.loaded) == 168 - (num_counters if wrap is WRAPPINGS["no_counters"] else 0)
    skipped = {"classifier.weight", "classifier.bias"} if wrap is not WRAPPINGS["no_classifier"] else set[str]()
    assert {*report.skipped} == skipped | ({"loss.weight"} if wrap is WRAPPINGS["lightning"] else set[str]())


def test_report_counts_and_names(state: State, tmp_path: Path) -> None:
    report = load_weights(mobilenet(), saved(tmp_path / "w.pth", state))
    assert str(report) == "w.pth: 168 tensors loaded, 2 of the file skipped (classifier.weight, classifier.bias)"


def test_bare_trunk_loads_and_its_own_head_is_skipped(tmp_path: Path) -> None:
    trunk = {name: torch.full_like(tensor, 0.5) for name, tensor in MobileNetV1(width=0.25).state_dict().items()}
    path = saved(tmp_path / "trunk.pth", {**trunk, "fc.weight": torch.zeros(1000, 1024), "fc.bias": torch.zeros(1000)})
    embedder = mobilenet()
    before = embedder.Bottleneck.weight.clone()
    report = load_weights(embedder, path)
    assert is_marked(embedder.backbone.state_dict())
    assert torch.equal(embedder.Bottleneck.weight, before)
    assert (len(report.loaded), report.skipped) == (162, ("fc.weight", "fc.bias"))
    assert report.missing == (
        "Bottleneck.weight",
        *(f"last_bn.{name}" for name in ("weight", "bias", "running_mean", "running_var")),
    )
    with pytest.raises(UserError, match=r"first Bottleneck\.weight"):
        load_weights(embedder, path, whole=True)


def test_inception_weights_of_the_port_with_512_numbers_load_as_a_trunk(
    inception_names: list[str], tmp_path: Path
) -> None:
    shapes = InceptionResNetV1().state_dict()
    assert list(shapes) == inception_names
    trunk = {name: torch.full(tuple(shapes[name].shape), 0.5) for name in inception_names}
    ends = {
        "last_linear.weight": torch.zeros(512, 1792),
        "logits.weight": torch.zeros(8631, 512),
        "logits.bias": torch.zeros(8631),
    }
    ends |= {f"last_bn.{name}": torch.zeros(512) for name in ("weight", "bias", "running_mean", "running_var")}
    embedder = FaceNet(trunk=InceptionResNetV1())
    report = load_weights(embedder, saved(tmp_path / "vggface2.pt", {**trunk, **ends}))
    assert is_marked(embedder.backbone.state_dict())
    assert len(report.loaded) == len(trunk) == 708
    assert set(report.skipped) == set(ends)
    assert not embedder.last_bn.weight.eq(0).any()  # theirs has the same name and is another tensor


def test_the_port_is_whole_in_a_network_of_its_size(inception_names: list[str], tmp_path: Path) -> None:
    """facenet-pytorch's own names: trunk, `last_linear`, `last_bn`, and the classifier `logits`."""
    embedder = FaceNet(trunk=InceptionResNetV1(), embedding_size=512)
    shapes = embedder.state_dict()
    theirs = {name: torch.full(tuple(shapes[f"backbone.model.{name}"].shape), 0.5) for name in inception_names}
    theirs |= {"last_linear.weight": torch.full((512, 1792), 0.5), "logits.bias": torch.zeros(8631)}
    theirs |= {name: torch.full(tuple(shapes[name].shape), 0.5) for name in shapes if name.startswith("last_bn.")}
    report = load_weights(embedder, saved(tmp_path / "vggface2.pt", theirs), whole=True)
    assert is_marked(embedder.state_dict()) and report.skipped == ("logits.bias",) and report.missing == ()


def test_two_networks_in_one_file_are_named(state: State, tmp_path: Path) -> None:
    both = {f"{prefix}.{name}": tensor for prefix in ("model", "net") for name, tensor in state.items()}
    with pytest.raises(UserError, match=r"two networks that fit, net\.\* and model\.\*; save"):
        load_weights(mobilenet(), saved(tmp_path / "w.pth", both))
    assert load_weights(mobilenet(), saved(tmp_path / "w.pth", both | state)).missing == ()  # one as it is named here


def test_other_embedding_size_keeps_the_trunk(state: State, tmp_path: Path) -> None:
    embedder = FaceNet(trunk=MobileNetV1(width=0.25), embedding_size=64)
    report = load_weights(embedder, saved(tmp_path / "w.pth", state))
    assert is_marked(embedder.backbone.state_dict())
    assert "Bottleneck.weight" in report.missing
    assert "Bottleneck.weight" in report.skipped


def test_missing_trunk_tensor_is_an_error_and_changes_nothing(state: State, tmp_path: Path) -> None:
    name = "backbone.model.stage2.3.1.running_var"
    path = saved(tmp_path / "w.pth", {key: tensor for key, tensor in state.items() if key != name})
    embedder = mobilenet()
    before = {key: tensor.clone() for key, tensor in embedder.state_dict().items()}
    with pytest.raises(UserError, match=f"1 of its tensors are absent, first {name}"):
        load_weights(embedder, path)
    assert all(torch.equal(tensor, before[key]) for key, tensor in embedder.state_dict().items())


def test_weights_of_another_backbone_are_refused(state: State, tmp_path: Path) -> None:
    path = saved(tmp_path / "mobilenet.pth", state)
    first = r"first backbone\.model\.conv2d_1a\.conv\.weight; the file begins with backbone\.model\.stage1"
    with pytest.raises(UserError, match=f"597 of its tensors are absent, {first}.*; choose the backbone") as caught:
        load_weights(FaceNet(trunk=InceptionResNetV1()), path)
    assert "\n" not in str(caught.value)


def test_weights_for_another_input_size_name_the_shapes(tmp_path: Path) -> None:
    path = saved(tmp_path / "w.pth", MobileFaceNet(blocks=BLOCKS, input_size=[112, 112]).state_dict())
    with pytest.raises(
        UserError, match=r"1 have another shape, first gather.0.weight \(512, 1, 7, 7\) instead of \(512, 1, 7, 6\)"
    ):
        load_weights(MobileFaceNet(blocks=BLOCKS, input_size=[112, 96]), path)


class Bomb:
    """Makes a folder when unpickled in full."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.target),)


@pytest.mark.parametrize(
    "write",
    [torch.save, lambda content, path: path.write_bytes(pickle.dumps(content, protocol=2))],
    ids=["torch", "pickle"],
)
def test_pickle_bomb_is_refused_unexecuted(write: Callable[[Any, Path], Any], state: State, tmp_path: Path) -> None:
    path, target = tmp_path / "bomb.pth", tmp_path / "executed"
    write({"state_dict": dict(list(state.items())[:3]), "extra": Bomb(target)}, path)
    with pytest.raises(UserError, match=r"bomb\.pth is damaged or holds more than tensors"):
        load_weights(mobilenet(), path)
    assert not target.exists()


def test_damaged_files_are_refused_in_one_line(state: State, tmp_path: Path) -> None:
    whole = saved(tmp_path / "whole.pth", state).read_bytes()
    for content in (b"", b"not a weight file", whole[: len(whole) // 2], whole[:-100], b"\x80\x02}q\x00" + bytes(50)):
        (path := tmp_path / "damaged.pth").write_bytes(content)
        with pytest.raises(UserError, match=r"damaged.pth is damaged or holds more than tensors") as caught:
            load_weights(mobilenet(), path)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [[1, 2], {}, {"epoch": 3}, torch.zeros(3), {"model": {"lr": 0.1}}])
def test_files_without_named_tensors_are_refused(content: Any, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds no named tensors"):
        load_weights(mobilenet(), saved(tmp_path / "w.pth", content))


def test_absent_file_and_folder_are_named(tmp_path: Path) -> None:
    for path in (tmp_path / "absent.pth", tmp_path):
        with pytest.raises(UserError, match=f"weights: no file at {path}"):
            load_weights(mobilenet(), path)


PUBLISHED = {
    "bubbliiiing_arcface_mobilefacenet_112x112.pth": ([112, 112], 1_003_136),
    "xiaoccer_mobilefacenet_068_112x96.ckpt": ([112, 96], 999_552),
}


@pytest.mark.slow
@pytest.mark.data
@pytest.mark.parametrize("name", PUBLISHED)
def test_published_mobilefacenet_fills_every_tensor_and_tells_faces_apart(name: str, shared_data: Path) -> None:
    (height, width), num_parameters = PUBLISHED[name]
    embedder = MobileFaceNet(blocks=BLOCKS, input_size=[height, width]).eval()
    report = load_weights(embedder, shared_data / "weights" / name, whole=True)
    assert (len(report.loaded), report.skipped, report.missing) == (333, (), ())
    assert sum(p.numel() for p in embedder.parameters()) == num_parameters

    pairs = (shared_data / "lfw" / "pairs.txt").read_text().splitlines()[1:]
    same = similarities(embedder, shared_data / "lfw" / "lfw_160_pairs.zip", pairs[:30], width)
    different = similarities(embedder, shared_data / "lfw" / "lfw_160_pairs.zip", pairs[300:330], width)
    num_right = max(int((same >= t).sum() + (different < t).sum()) for t in same)
    assert num_right >= 58  # of 60


def similarities(embedder: Embedder, archive: Path, pairs: list[str], width: int) -> torch.Tensor:
    """Cosine of each pair of the standard list, on the middle columns of 112 x 112 images scaled to [-1, 1]."""
    sides = []
    for fields in (line.split("\t") for line in pairs):
        first, second = (fields[0], fields[1]), (fields[-2], fields[-1]) if len(fields) == 4 else (fields[0], fields[2])
        sides.append([f"{identity}/{identity}_{int(number):04d}.jpg" for identity, number in (first, second)])
    with zipfile.ZipFile(archive) as file, torch.inference_mode():
        stored = {name.removeprefix("lfw/"): name for name in file.namelist()}
        pixels = [
            np.asarray(Image.open(io.BytesIO(file.read(stored[name]))).resize((112, 112), 2))
            for pair in sides
            for name in pair
        ]
        start = (112 - width) // 2
        images = torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2)[..., start : start + width]
        left, right = embedder(images.float() / 127.5 - 1).reshape(-1, 2, embedder.embedding_size).unbind(1)
        cosines: torch.Tensor = (left * right).sum(1)
    return cosines
