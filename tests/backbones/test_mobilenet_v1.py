"""The width multiplier of MobileNetV1, against the paper's own figures and a count made from its table."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
import torch

from facenet.backbones.embedder import FaceNet
from facenet.backbones.mobilenet_v1 import MobileNetV1
from facenet.backbones.weights import load_weights
from facenet.errors import UserError

# Outputs of table 1's layers: a convolution, then separable ones.
OUTPUTS = (32, 64, 128, 128, 256, 256, 512, *[512] * 5, 1024, 1024)
# Table 6: millions of parameters with a classifier of 1000 classes behind the average.
PUBLISHED = {1.0: 4.2, 0.75: 2.6, 0.5: 1.3, 0.25: 0.5}


def size(network: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


def counted(outputs: list[int]) -> int:
    """Weights of convolutions, and two numbers per channel of each batch norm."""
    total = 3 * 9 * outputs[0] + 2 * outputs[0]
    for before, after in itertools.pairwise(outputs):
        total += 9 * before + 2 * before + before * after + 2 * after
    return total


@pytest.mark.parametrize("width", PUBLISHED)
def test_the_number_of_parameters_is_the_papers(width: float) -> None:
    trunk = MobileNetV1(width=width)
    outputs = [int(width * whole) for whole in OUTPUTS]
    assert size(trunk) == counted(outputs)
    assert trunk.num_features == outputs[-1] == {1.0: 1024, 0.75: 768, 0.5: 512, 0.25: 256}[width]
    classifier = 1000 * outputs[-1] + 1000
    assert (size(trunk) + classifier) / 1e6 == pytest.approx(PUBLISHED[width], abs=0.05)


def test_no_layer_has_fewer_than_eight_channels() -> None:
    trunk = MobileNetV1(width=0.1)
    outputs = [8, 8, 12, 12, 25, 25, *[51] * 6, 102, 102]
    assert size(trunk) == counted(outputs) and trunk.num_features == 102


def test_the_whole_width_is_the_default_and_names_do_not_follow_the_width(mobilenet_names: list[str]) -> None:
    shapes = {name: tensor.shape for name, tensor in MobileNetV1().state_dict().items()}
    assert shapes == {name: tensor.shape for name, tensor in MobileNetV1(width=1.0).state_dict().items()}
    assert list(MobileNetV1(width=0.25).state_dict()) == list(shapes) == mobilenet_names


@pytest.mark.parametrize("width", [0.25, 0.1])
def test_a_narrow_network_embeds_and_learns(width: float) -> None:
    embedder = FaceNet(trunk=MobileNetV1(width=width), embedding_size=16, dropout=0.0)
    images = torch.rand(4, 3, 64, 48, generator=torch.Generator().manual_seed(0))
    assert embedder.backbone.model(images).shape == (4, int(1024 * width), 2, 2)
    embedding = embedder(images)
    torch.testing.assert_close(embedding.norm(dim=1), torch.ones(4))
    (embedding * torch.arange(16.0)).sum().backward()
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in embedder.parameters())


@pytest.mark.parametrize("width", [0.0, -0.5, 1.01, 1e9, float("inf"), float("nan")])
def test_a_width_that_is_no_share_is_refused(width: float) -> None:
    with pytest.raises(UserError, match=r"backbone.trunk.width: expected a share of the channels .*, got "):
        MobileNetV1(width=width)


def test_weights_fill_a_network_of_their_width_alone(tmp_path: Path) -> None:
    torch.save(FaceNet(trunk=MobileNetV1(width=0.25)).state_dict(), path := tmp_path / "narrow.pth")
    first = r"first backbone.model.stage1.0.0.weight \(8, 3, 3, 3\) instead of \(32, 3, 3, 3\)"
    with pytest.raises(
        UserError, match=rf"narrow.pth .*135 have another shape, {first}; .* choose the backbone, width"
    ):
        load_weights(FaceNet(trunk=MobileNetV1()), path)
    report = load_weights(FaceNet(trunk=MobileNetV1(width=0.25)), path, whole=True)
    assert len(report.loaded) == 168 and report.skipped == report.missing == ()
