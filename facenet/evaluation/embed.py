"""Images to embeddings: each image decoded once and forwarded once, twice where the mirror image counts too."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from facenet.backbones.embedder import Embedder
from facenet.data.feed.loader import Loader
from facenet.data.files.contents import Contents
from facenet.data.identities import Faces, UnreadableImage
from facenet.data.transforms import Preprocess
from facenet.devices.accelerator import Accelerator
from facenet.distributed import collectives
from facenet.errors import UserError
from facenet.evaluation.folded import fold
from facenet.evaluation.verification import Flip

Progress = Callable[[int, int], bool | None]  # images done, images in all; True ends it, in all processes
WORTH = 100  # images whose forward pass saves what the folding takes, 0.1 s


def embed(
    embedder: Embedder,
    faces: Faces,
    preprocess: Preprocess,
    accelerator: Accelerator,
    *,
    batch_size: int,
    flip: Flip | Literal["both"] = "none",
    num_workers: int = 2,
    progress: Progress | None = None,
    unreadable: dict[int, str] | None = None,
) -> NDArray[np.float32]:
    """Unit rows (N, D), or (N, 2D) for `flip="concat"`, float32.

    The forward pass runs in the accelerator's precision; the network may be in training mode and is left as it was. Several processes
    share the batches and each returns all rows: the same as one process computes, since the batches are the same.
    UserError names an image that cannot be read: a stand-in would be judged in its place. With `unreadable` it is noted there instead, by
    number and with the reason, in all processes; its row means nothing then. Interrupted where `progress` ends it in one of them."""
    total = len(faces)
    batches = [np.arange(start, min(start + batch_size, total)) for start in range(0, total, batch_size)]
    none, ranks = np.empty(0, np.int64), range(accelerator.world_size)
    shares = [np.concatenate([none, *batches[rank :: len(ranks)]]) for rank in ranks]  # by rank
    readable = Readable(faces, raises=unreadable is None)
    loader = Loader(readable, preprocess, num_workers=num_workers)
    width = embedder.embedding_size * (2 if flip in ("concat", "both") else 1)
    rows, done, stopped = [torch.empty((0, width), device=accelerator.device)], 0, False
    stream = loader.epoch(batches[accelerator.rank :: len(ranks)])
    with contextlib.ExitStack() as stack:
        stack.enter_context(contextlib.closing(stream))  # type: ignore[type-var]
        stack.enter_context(evaluating(embedder))
        network = fold(embedder) if total >= WORTH else embedder
        stack.enter_context(torch.inference_mode())
        stack.enter_context(accelerator.autocast())
        for batch in stream:
            images = preprocess.normalize(accelerator.to_device(batch.images))
            rows.append(embed_batch(network, images, flip))
            done += len(batch.indices)
            if progress is not None and (stopped := bool(progress(min(done * len(ranks), total), total))):
                break
    if accelerator.any(stopped):
        raise Interrupted
    if unreadable is not None:
        for text in collectives.gather_texts(json.dumps(readable.found), accelerator.device):
            unreadable.update({int(index): reason for index, reason in json.loads(text).items()})
    # The device is waited for once, not once per batch. Outside of inference mode, in which torch 2.4 refuses collectives.
    gathered = torch.cat(collectives.gather(torch.cat(rows), [len(share) for share in shares])).numpy(force=True)
    ordered = np.empty((total, width), np.float32)
    ordered[np.concatenate(shares)] = gathered
    return ordered


def embed_batch(network: nn.Module, images: Tensor, flip: Flip | Literal["both"]) -> Tensor:
    """(N, D) or (N, 2D) unit rows of images (N, 3, H, W), on their device; for "both" those of image and mirror image, which `combined` takes."""
    rows: Tensor = network(images)
    if flip == "none":
        return rows
    mirrored: Tensor = network(images.flip(dims=[3]))
    if flip == "both":
        return torch.cat([rows, mirrored], dim=1)
    return joined(rows, mirrored, flip)


def combined(rows: NDArray[np.float32], flip: Flip) -> NDArray[np.float32]:
    """What `flip` makes of rows that were embedded for "both"."""
    plain, mirrored = torch.from_numpy(rows).chunk(2, dim=1)
    return plain.numpy() if flip == "none" else joined(plain, mirrored, flip).numpy()


def joined(rows: Tensor, mirrored: Tensor, flip: Flip) -> Tensor:
    return F.normalize(torch.cat([rows, mirrored], dim=1) if flip == "concat" else rows + mirrored, dim=1)


class Interrupted(Exception):
    """A stop signal came before all images were embedded."""


class Readable:
    """The same faces, where an unreadable image is not replaced by another: it `raises` UserError, or is black and in `found`, with the reason."""

    def __init__(self, faces: Faces, *, raises: bool) -> None:
        self.faces, self.raises = faces, raises
        self.found: dict[int, str] = {}
        self.labels, self.identities, self.fingerprint = faces.labels, faces.identities, faces.fingerprint

    def __len__(self) -> int:
        return len(self.faces)

    def name(self, index: int) -> str:
        return self.faces.name(index)

    def stamp(self) -> str:
        return self.faces.stamp()

    def contents(self, index: int) -> Contents | None:
        return self.faces.contents(index)

    def load(self, index: int) -> NDArray[np.uint8]:
        try:
            return self.faces.load(index)
        except UnreadableImage as error:
            if self.raises:
                raise UserError(
                    f"{error.name}: cannot be read ({error.reason}); mend or replace the file to embed it"
                ) from error
            self.found[index] = error.reason
            return np.zeros((1, 1, 3), np.uint8)


@contextlib.contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Evaluation mode inside; afterwards each part is in the mode it was in, frozen parts of a training network too."""
    training = [part for part in module.modules() if part.training]
    module.eval()
    try:
        yield
    finally:
        for part in training:
            part.training = True
