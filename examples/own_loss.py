# %% [markdown]
# # A loss of one's own
# A loss is a `Term`: it takes features, their unit rows and labels, and gives a loss and figures to log.

# %%
import torch

from facenet.backbones import FaceNet, MobileNetV1
from facenet.data.drawn.synthetic import SyntheticFaces
from facenet.losses import LossMix, SoftmaxHead, Term


class Centre(Term):
    """Mean squared distance of unit rows to the mean of their identity in the batch (0..1)."""

    def forward(self, features, embedding, labels):
        same = (labels[:, None] == labels).float()  # (B, B)
        centre = same @ embedding / same.sum(dim=1, keepdim=True)
        loss = (embedding - centre).square().sum(dim=1).mean()
        return loss, {"spread": loss.detach()}


# %% [markdown]
# ## By hand first
# Two rows of one identity at right angles lie 0.5 (squared) from their mean; a row alone lies on it.

# %%
rows = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0]])
loss, figures = Centre()(rows, rows, torch.tensor([0, 0, 1]))
assert abs(float(loss) - 1 / 3) < 1e-6, loss

# %% [markdown]
# ## In a mix, on drawn faces
# Each term is weighted and logged by itself.

# %%
torch.manual_seed(0)
faces = SyntheticFaces(num_identities=6, images_per_identity=8, size=32)
pixels = torch.stack([torch.from_numpy(faces.load(index)) for index in range(len(faces))])  # (48, 32, 32, 3) uint8
images, labels = pixels.permute(0, 3, 1, 2).float() / 255, torch.arange(len(faces)) // 8

network = FaceNet(trunk=MobileNetV1(width=0.25, init="kaiming"), embedding_size=32, dropout=0.0)
mix = LossMix(terms={"ce": {"weight": 1.0, "loss": SoftmaxHead()}, "centre": {"weight": 0.5, "loss": Centre()}})
mix.start(embedding_size=32, num_identities=6)
optimizer = torch.optim.AdamW([*network.parameters(), *mix.parameters()], lr=3e-3)

seen = []
for _ in range(15):
    value = mix(network.features(images), labels)
    optimizer.zero_grad()
    value.total.backward()
    optimizer.step()
    seen.append(float(value.total.detach()))
print(f"{seen[0]:.3f} -> {seen[-1]:.3f}")
assert seen[-1] < seen[0]

# %% [markdown]
# ## In a command
# With the class in a folder my_faces, as its __init__.py:
# `facenet-train trust=./my_faces loss.terms.centre.weight=0.5 loss.terms.centre.loss._target_=my_faces.Centre`
