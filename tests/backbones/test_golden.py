"""Both FaceNet networks against numbers that need no weight file: tensors are filled by formula, in their order."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import nn

from facenet.backbones.embedder import FaceNet
from facenet.backbones.inception_resnet_v1 import InceptionResNetV1
from facenet.backbones.mobilenet_v1 import MobileNetV1
from facenet.backbones.weights import reference_state_dict

NUM_IDENTITIES = 10_575
Trunk = type[MobileNetV1] | type[InceptionResNetV1]


def base(count: int, position: int) -> NDArray[np.float64]:
    """A linear congruential step on each index: float64 in [0, 1), different for every tensor position."""
    i = np.arange(count, dtype=np.int64)
    return ((i * 1103515245 + 12345 + position * 2654435761) % 2**31) / 2**31


def filled(name: str, tensor: torch.Tensor, position: int) -> torch.Tensor:
    if not tensor.is_floating_point():
        return tensor
    values = base(tensor.numel(), position)
    if name.endswith("running_var"):
        values = 0.5 + values
    elif tensor.dim() >= 2:
        values = (values - 0.5) * 2 * np.sqrt(3 / tensor[0].numel())
    elif name.endswith("weight"):
        values = 0.8 + 0.4 * values
    else:  # running means and biases
        values = (values - 0.5) * 0.1
    return torch.from_numpy(values.astype(np.float32)).reshape(tensor.shape)


@dataclass
class Golden:
    embedding: list[float]
    embedding_sum: float
    features: list[float]
    features_norm: float
    map_mean: float
    map_std: float
    logits: list[float]
    best: int
    num_tensors: int
    num_parameters: int
    num_trunk_parameters: int


GOLDEN = {
    MobileNetV1: Golden(
        [0.127696, -0.014279, -0.120023, -0.056874, 0.090469, 0.073024], 0.16522,
        [1.04935, -0.11733, -0.98629, -0.46736], 8.21752, 0.153416, 0.183948,
        [0.46263, 0.20668, 0.00116], 5848, 170, 4_702_479, 3_206_976,
    ),
    InceptionResNetV1: Golden(
        [-0.028356, 0.103082, 0.142323, -0.058671, -0.120959, -0.067978], -0.00475,
        [-0.13316, 0.48408, 0.66835, -0.27552], 4.69603, 0.078009, 0.129129,
        [0.33785, -0.10099, -0.04212], 448, 716, 24_157_903, 22_564_096,
    ),
}  # fmt: skip


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last], ids=["nchw", "channels_last"])
@pytest.mark.parametrize("trunk", [MobileNetV1, InceptionResNetV1])
def test_filled_network_gives_the_published_numbers(trunk: Trunk, memory_format: torch.memory_format) -> None:
    golden = GOLDEN[trunk]
    embedder, classifier = FaceNet(trunk=trunk(init="kaiming")).eval(), nn.Linear(128, NUM_IDENTITIES)
    whole = reference_state_dict(embedder, classifier.weight, classifier.bias)
    whole = {name: filled(name, tensor, position) for position, (name, tensor) in enumerate(whole.items())}
    head = {name: whole.pop(f"classifier.{name}") for name in ("weight", "bias")}
    embedder.load_state_dict(whole)
    classifier.load_state_dict(head)

    images = (
        torch.from_numpy(base(3 * 160 * 160, 0).astype(np.float32))
        .reshape(1, 3, 160, 160)
        .to(memory_format=memory_format)
    )
    with torch.inference_mode():
        maps, features = embedder.backbone.model(images), embedder.features(images)
        embedding, logits = embedder(images)[0], classifier(features)[0]

    close = pytest.approx
    assert embedding[:6].tolist() == close(golden.embedding, abs=1e-4)
    assert embedding.sum().item() == close(golden.embedding_sum, abs=1e-4)
    assert features[0, :4].tolist() == close(golden.features, abs=1e-4)
    assert features.norm().item() == close(golden.features_norm, abs=1e-4)
    assert (maps.mean().item(), maps.std().item()) == close((golden.map_mean, golden.map_std), abs=1e-4)
    assert logits[:3].tolist() == close(golden.logits, abs=1e-4)
    assert logits.argmax().item() == golden.best


@pytest.mark.parametrize("trunk", [MobileNetV1, InceptionResNetV1])
def test_numbers_of_tensors_and_parameters(trunk: Trunk) -> None:
    golden = GOLDEN[trunk]
    embedder, classifier = FaceNet(trunk=trunk()), nn.Linear(128, NUM_IDENTITIES)
    assert len(reference_state_dict(embedder, classifier.weight, classifier.bias)) == golden.num_tensors
    assert sum(p.numel() for p in [*embedder.parameters(), *classifier.parameters()]) == golden.num_parameters
    assert sum(p.numel() for p in embedder.backbone.parameters()) == golden.num_trunk_parameters


@pytest.mark.parametrize(("trunk", "names"), [(MobileNetV1, "mobilenet_names"), (InceptionResNetV1, "inception_names")])
def test_tensors_have_the_reference_names_in_its_order(
    trunk: Trunk, names: str, request: pytest.FixtureRequest
) -> None:
    made = reference_state_dict(FaceNet(trunk=trunk()), torch.zeros(2, 128), torch.zeros(2))
    norm = [f"last_bn.{name}" for name in ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")]
    ends = ["Bottleneck.weight", *norm, "classifier.weight", "classifier.bias"]
    assert list(made) == [f"backbone.model.{name}" for name in request.getfixturevalue(names)] + ends
