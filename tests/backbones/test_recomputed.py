import copy

import pytest
import torch
from torch import nn

from facenet.backbones.embedder import FaceNet
from facenet.backbones.inception_resnet_v1 import InceptionResNetV1
from facenet.backbones.mobilenet_v1 import MobileNetV1
from facenet.errors import UserError


@pytest.mark.parametrize("trunk", [MobileNetV1, pytest.param(InceptionResNetV1, marks=pytest.mark.slow)])
def test_maps_computed_again_give_the_same_gradients_and_statistics(trunk, monkeypatch):
    torch.manual_seed(0)
    plain = FaceNet(trunk=trunk(init="kaiming"), dropout=0.0)
    again = FaceNet(trunk=copy.deepcopy(plain.backbone.model), dropout=0.0, checkpointing=True)
    again.load_state_dict(plain.state_dict())
    convolutions = 0

    def count(*_):
        nonlocal convolutions
        convolutions += 1

    for part in again.modules():
        if isinstance(part, nn.Conv2d):
            part.register_forward_hook(count)
    images, target = torch.rand(2, 3, 80, 80), torch.rand(2, 128)
    for network in (plain, again):
        (network.train()(images) * target).sum().backward()
    once = sum(isinstance(part, nn.Conv2d) for part in again.modules())
    assert once < convolutions <= 2 * once
    for (name, one), two in zip(plain.named_parameters(), again.parameters(), strict=True):
        torch.testing.assert_close(two.grad, one.grad, rtol=1e-5, atol=1e-6, msg=name)
    for name, value in plain.state_dict().items():
        assert torch.equal(again.state_dict()[name], value), name
    assert again.eval()(images).shape == (2, 128)


def test_a_trunk_without_blocks_is_refused():
    class Flat(nn.Conv2d):
        num_features = 8

    with pytest.raises(UserError, match="backbone.checkpointing: Flat has no blocks"):
        FaceNet(trunk=Flat(3, 8, 3), checkpointing=True)
