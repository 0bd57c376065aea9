import pytest
import torch
from torch import nn

from facenet.backbones.embedder import Embedder, FaceNet
from facenet.backbones.inception_resnet_v1 import InceptionResNetV1
from facenet.backbones.mobilefacenet import MobileFaceNet
from facenet.backbones.mobilenet_v1 import MobileNetV1
from facenet.evaluation.folded import fold


def used(network: Embedder) -> Embedder:
    """As after some training: statistics and scales that are not 0 and 1."""
    torch.manual_seed(0)
    for part in network.modules():
        if isinstance(part, nn.modules.batchnorm._BatchNorm):
            part.running_mean.normal_()
            part.running_var.uniform_(0.5, 2)
            nn.init.uniform_(part.weight, 0.5, 2)
            nn.init.normal_(part.bias)
    return network.eval()


@pytest.mark.parametrize(
    ("make", "size", "norms_left"),
    [
        (lambda: FaceNet(trunk=MobileNetV1()), 64, 1),  # that of the embedding, behind a linear layer
        (lambda: FaceNet(trunk=MobileNetV1(), checkpointing=True), 64, 1),
        (lambda: FaceNet(trunk=InceptionResNetV1()), 96, 1),
        (lambda: MobileFaceNet(blocks=[[2, 64, 2, 2], [4, 128, 1, 2]], input_size=[32, 32]), 32, 0),
    ],
)
def test_rows_are_the_same_and_the_network_is_left_as_it_was(make, size, norms_left):
    network = used(make())
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    images = torch.randn(2, 3, size, size).to(memory_format=torch.channels_last)
    with torch.inference_mode():
        expected = network(images)
        short = fold(network)
        torch.testing.assert_close(short(images), expected, rtol=0, atol=2e-6)
    assert sum(isinstance(part, nn.modules.batchnorm._BatchNorm) for part in short.modules()) == norms_left
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())


def test_a_network_that_cannot_be_followed_stays_as_it_is():
    class Own(Embedder):
        embedding_size = 3

        def features(self, images: torch.Tensor) -> torch.Tensor:
            return images.mean((2, 3)) if images.sum() > 0 else images.amax((2, 3))

    network = Own().eval()
    assert fold(network) is network
