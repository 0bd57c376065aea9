# %% [markdown]
# # Compare two networks
# The same faces, the same seed, the same pairs; only the network differs. Sizes are cut down to some seconds: what it prints says nothing
# about the two at full size.

# %%
import facenet

SMALL = [
    *("data.num_identities=12", "data.images_per_identity=8", "data.image_size=32", "data.batch_size=12"),
    *("data.val_identities=0.34", "benchmark.num_pairs=60", "benchmark.num_folds=3", "trainer.epochs=1"),
]
NETWORKS = {
    "wide": ["backbone=mobilenet_v1", "backbone.trunk.width=0.5", "backbone.trunk.init=kaiming"],
    "narrow": ["backbone=mobilenet_v1", "backbone.trunk.width=0.25", "backbone.trunk.init=kaiming"],
}

# %% [markdown]
# ## Train both
# As one command: `facenet-train -m backbone.trunk.width=0.5,0.25 ...`, which also says whether the difference is more than chance.

# %%
runs = {name: facenet.train([*SMALL, *choice, f"hydra.run.dir=runs/{name}"]) for name, choice in NETWORKS.items()}

# %% [markdown]
# ## Judge both by another protocol
# A checkpoint carries its network, its preprocessing and the pairs of its run.

# %%
for name, run in runs.items():
    flipped = facenet.evaluate([f"checkpoint={run.checkpoint}", "benchmark=heldout", "benchmark/protocol=flip"])
    print(
        f"{name}: {run.metrics['heldout/accuracy']:.3f}, with the mirror image {flipped.metrics['heldout/accuracy']:.3f}"
    )

# %% [markdown]
# ## Look at one pair
# The same two images through both networks; each distance is in the unit of its run.

# %%
from facenet.data.drawn.synthetic import SyntheticFaces  # noqa: E402

faces = SyntheticFaces(num_identities=2, images_per_identity=2, size=32, seed=3)
for name, run in runs.items():
    network = facenet.load(run.directory)
    first, second = network.embed([faces.load(0), faces.load(1)])
    print(name, network.distance(first, second), network.protocol.distance)
