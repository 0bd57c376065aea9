# %% [markdown]
# # A first training
# Drawn faces, no files. At this size it takes some ten seconds on a CPU; leave the overrides out for the real thing (two to three minutes).

# %%
import json

import facenet

SMALL = [
    *("data.num_identities=12", "data.images_per_identity=8", "data.image_size=32", "data.batch_size=12"),
    *("data.val_identities=0.34", "benchmark.num_pairs=60", "benchmark.num_folds=3"),
    *("backbone.trunk.width=0.25", "backbone.trunk.init=kaiming", "trainer.epochs=2"),
]
result = facenet.train([*SMALL, "hydra.run.dir=runs/first"])

# %% [markdown]
# ## What came of it
# Metrics are those of the best epoch; the directory holds the checkpoint, curves and every value of the run.

# %%
print(result.metrics["heldout/accuracy"], result.checkpoint)
for epoch in json.loads((result.directory / "history.json").read_text()):
    print(int(epoch["epoch"]), epoch["train/loss"])

# %% [markdown]
# ## Use it
# Embeddings of two images, and whether they show one identity.

# %%
from facenet.data.drawn.synthetic import SyntheticFaces  # noqa: E402

faces = SyntheticFaces(num_identities=2, images_per_identity=2, size=32, seed=3)
network = facenet.load(result.directory)
rows = network.embed([faces.load(index) for index in range(4)])  # (4, D) float32, unit length
print(network.distance(rows[0], rows[1:]))
if network.threshold is not None:
    print(network.same(rows[:1], rows))
