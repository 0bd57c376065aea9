"""Which images train, which validate and which identities only make test pairs. A split is a function of the seed; the
file is its record.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from facenet.data.identities import Faces, Subset
from facenet.errors import UserError
from facenet.files.atomic import replacing

Indices = NDArray[np.int64]


def split_images(faces: Faces, fraction: float, seed: int | None) -> tuple[Indices, Indices]:
    """(train, validation) image indices, each sorted: the last int(fraction * N) images after a shuffle validate; seed None: as they are, unshuffled.

    With seed 10101 and fraction 0.01 this is the reference's rule on the same list. An image goes back to training when
    its identity would have none left there, since a classifier needs every identity."""
    _check_share("data.val_images", fraction)
    if not int(fraction * len(faces)):  # nothing to draw: a hundred million images need no order
        return np.arange(len(faces)), np.empty(0, np.int64)
    shuffled = np.arange(len(faces)) if seed is None else np.random.RandomState(seed).permutation(len(faces))
    num_val = int(fraction * len(faces))
    cut = len(faces) - num_val
    in_training = np.zeros(len(faces), bool)
    in_training[shuffled[:cut]] = True
    has_training = np.zeros(len(faces.identities), bool)
    has_training[faces.labels[in_training]] = True
    for index in shuffled[cut:]:
        if not has_training[faces.labels[index]]:
            in_training[index] = has_training[faces.labels[index]] = True
    return np.flatnonzero(in_training), np.flatnonzero(~in_training)


def split_identities(faces: Faces, fraction: float, seed: int) -> tuple[Indices, Indices]:
    """(train, held-out) image indices, each sorted, with no identity on both sides; round(fraction * I) identities, at
    least two, are held out.

    Nothing is held out when fraction is 0. UserError when fewer than two identities would be left to train on."""
    _check_share("data.val_identities", fraction)
    num_identities = len(faces.identities)
    num_held = max(2, round(fraction * num_identities)) if fraction else 0
    if num_identities - num_held < 2:
        raise UserError(
            f"data.val_identities={fraction:g}: holding out {num_held} of {num_identities} identities leaves "
            f"{num_identities - num_held} to train on, two are needed; lower it or use more identities"
        )
    held = np.zeros(num_identities, bool)
    held[np.random.RandomState(seed).permutation(num_identities)[num_identities - num_held :]] = True
    return np.flatnonzero(~held[faces.labels]), np.flatnonzero(held[faces.labels])


def _check_share(key: str, fraction: float) -> None:
    if not 0 <= fraction < 1:
        raise UserError(f"{key}: expected a share in [0, 1), got {fraction}")


def save_split(path: str | Path, faces: Faces, *, seed: int, val: Indices, heldout: Indices) -> None:
    """Write what is not trained on, as JSON: names of validation images and of held-out identities; every other image
    of `faces` trains."""
    record = {
        "fingerprint": faces.fingerprint,
        "seed": seed,
        "num_images": {"train": len(faces) - len(val) - len(heldout), "val": len(val), "heldout": len(heldout)},
        "val_images": [faces.name(int(index)) for index in val],
        "heldout_identities": list(Subset(faces, heldout).identities),
    }
    replace_text(path, json.dumps(record, indent=1) + "\n")


def replace_text(path: str | Path, text: str) -> None:
    """Write the whole file or leave the old one: through a neighbour and a rename. UserError where the folder does not
    allow it."""
    target = Path(path)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with replacing(target) as partial:
            partial.write_bytes(text.encode("utf-8", "surrogateescape"))
    except OSError as error:
        raise UserError(
            f"{target}: cannot be written ({error.strerror}: {error.filename}); choose another place"
        ) from error
