"""What every backbone keeps, whatever its architecture."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra.utils import get_class, instantiate
from omegaconf import OmegaConf

from facenet.backbones.embedder import Embedder, FaceNet
from facenet.backbones.inception_resnet_v1 import InceptionResNetV1
from facenet.backbones.mobilefacenet import MobileFaceNet
from facenet.backbones.mobilenet_v1 import MobileNetV1
from facenet.errors import UserError

BLOCKS = [[2, 64, 5, 2], [4, 128, 1, 2], [2, 128, 6, 1], [4, 128, 1, 2], [2, 128, 2, 1]]
Make = Callable[[int], Embedder]
BACKBONES: dict[str, Make] = {
    "mobilenet_v1": lambda side: FaceNet(trunk=MobileNetV1()),
    "inception_resnet_v1": lambda side: FaceNet(trunk=InceptionResNetV1()),
    "mobilefacenet": lambda side: MobileFaceNet(blocks=BLOCKS, input_size=[side, side]),
}
CONFIGURATIONS = sorted((Path(__file__).parents[2] / "conf" / "backbone").glob("*.yaml"))
each_backbone = pytest.mark.parametrize("make", BACKBONES.values(), ids=BACKBONES)


def images(side: int, count: int = 2) -> torch.Tensor:
    return torch.rand(count, 3, side, side, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("side", [112, 160])
@each_backbone
def test_embeddings_are_unit_rows_of_the_features(make: Make, side: int) -> None:
    embedder = make(side).eval()
    with torch.inference_mode():
        embedding, features = embedder(images(side)), embedder(images(side), normalize=False)
    assert embedding.shape == features.shape == (2, embedder.embedding_size)
    assert embedding.dtype == torch.float32
    torch.testing.assert_close(embedding.norm(dim=1), torch.ones(2))
    torch.testing.assert_close(embedding * features.norm(dim=1, keepdim=True), features)
    assert not torch.allclose(embedding[0], embedding[1], atol=1e-3)


@each_backbone
def test_every_parameter_gets_a_gradient(make: Make) -> None:
    torch.manual_seed(0)
    embedder = make(112).train()
    embedding = embedder(images(112, count=4).contiguous(memory_format=torch.channels_last))
    (embedding * torch.randn_like(embedding)).sum().backward()
    idle = [
        name
        for name, p in embedder.named_parameters()
        if p.grad is None or not p.grad.any() or not p.grad.isfinite().all()
    ]
    assert idle == []


@each_backbone
def test_memory_format_changes_nothing(make: Make) -> None:
    embedder = make(112).eval()
    with torch.inference_mode():
        plain = embedder(images(112))
        embedder.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's stubs lack it
        last = embedder(images(112).contiguous(memory_format=torch.channels_last))
    torch.testing.assert_close(plain, last, atol=1e-5, rtol=0)


@each_backbone
def test_state_dict_makes_a_second_network_the_same(make: Make) -> None:
    first, second = make(112).eval(), make(112).eval()
    with torch.inference_mode():
        assert not torch.allclose(first(images(112)), second(images(112)))
        second.load_state_dict(first.state_dict())
        torch.testing.assert_close(first(images(112)), second(images(112)), atol=0, rtol=0)


@each_backbone
def test_sixteen_bit_arithmetic_still_gives_unit_rows_in_float32(make: Make) -> None:
    embedder = make(112).eval()
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        embedding = embedder(images(112))
    assert embedding.dtype == torch.float32
    torch.testing.assert_close(embedding.norm(dim=1), torch.ones(2))


@pytest.mark.parametrize("path", CONFIGURATIONS, ids=lambda path: path.stem)
def test_configuration_spells_every_parameter_and_builds(path: Path) -> None:
    config = OmegaConf.create({"preprocess": {"size": [112, 96]}, "backbone": OmegaConf.load(path)})
    plain: Any = OmegaConf.to_container(config, resolve=True)
    for node in (plain["backbone"], plain["backbone"].get("trunk")):
        if node is not None:
            assert set(node) - {"_target_"} == set(inspect.signature(get_class(node["_target_"])).parameters)
    embedder = instantiate(plain["backbone"], _convert_="all").eval()
    assert embedder(torch.rand(1, 3, 112, 96)).shape == (1, 128)


@pytest.mark.parametrize("trunk", [MobileNetV1, InceptionResNetV1])
def test_initialisation_is_the_one_asked_for(trunk: type[MobileNetV1 | InceptionResNetV1]) -> None:
    torch.manual_seed(0)
    reference = [m.weight for m in trunk(init="reference").modules() if isinstance(m, torch.nn.Conv2d)]
    assert torch.cat([weight.flatten() for weight in reference]).std().item() == pytest.approx(0.1, rel=0.01)
    for weight in (m.weight for m in trunk(init="kaiming").modules() if isinstance(m, torch.nn.Conv2d)):
        fan_out = weight.shape[0] * weight[0, 0].numel()
        assert weight.std().item() == pytest.approx((2 / fan_out) ** 0.5, rel=0.15)


def test_dropout_is_the_share_of_features_zeroed() -> None:
    embedder = FaceNet(trunk=MobileNetV1(), embedding_size=64, dropout=0.25)
    assert embedder.Dropout(torch.ones(100_000)).eq(0).float().mean().item() == pytest.approx(0.25, abs=0.01)
    assert embedder.eval()(images(112)).shape == (2, 64)


def test_trunk_without_num_features_is_refused() -> None:
    with pytest.raises(UserError, match="Linear does not say its number of channels"):
        FaceNet(trunk=torch.nn.Linear(3, 3))


def test_mobilefacenet_names_the_setting_when_the_input_has_another_size() -> None:
    embedder = MobileFaceNet(blocks=BLOCKS, input_size=[112, 96])
    with pytest.raises(UserError, match=r"images are \(112, 112\) pixels but this network takes \(112, 96\)"):
        embedder(images(112))


@pytest.mark.parametrize(
    ("blocks", "input_size", "message"),
    [
        ([[2, 64, 5]], [112, 112], r"backbone.blocks: a row is .* got \[2, 64, 5\]"),
        ([], [112, 112], "backbone.blocks: expected at least one row"),
        (BLOCKS, [112], r"backbone.input_size: expected \[height, width\] in pixels, got \[112\]"),
    ],
)
def test_mobilefacenet_refuses_a_wrong_table(blocks: list[list[int]], input_size: list[int], message: str) -> None:
    with pytest.raises(UserError, match=message):
        MobileFaceNet(blocks=blocks, input_size=input_size)
