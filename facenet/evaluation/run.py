"""One benchmark on one network."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from facenet.backbones.embedder import Embedder
from facenet.data.transforms import Preprocess
from facenet.devices.accelerator import Accelerator
from facenet.devices.table import out_of_memory
from facenet.errors import UserError
from facenet.evaluation.benchmarks.choice import PairSet
from facenet.evaluation.benchmarks.readable import without
from facenet.evaluation.embed import Progress, embed
from facenet.evaluation.protocol import verify
from facenet.evaluation.verification import Verification


def run_benchmark(
    embedder: Embedder,
    pair_set: PairSet,
    preprocess: Preprocess,
    accelerator: Accelerator,
    *,
    num_workers: int = 2,
    progress: Progress | None = None,
    unreadable: dict[str, str] | None = None,
    stop: Callable[[], bool] = lambda: False,
) -> Verification:
    """Embeds each image of the pair set once and judges its pairs, without those whose images cannot be read where the set allows that; they are
    added to `unreadable`, name -> reason. UserError where the network gives NaN or a batch finds no memory, Interrupted where `stop` says so."""
    found: dict[int, str] = {}
    try:
        embeddings = embed(
            embedder,
            pair_set.faces,
            preprocess,
            accelerator,
            batch_size=pair_set.batch_size,
            flip=pair_set.protocol.flip,
            num_workers=num_workers,
            progress=progress,
            unreadable=found,
            stop=stop,
        )
    except RuntimeError as error:
        if not out_of_memory(error):
            raise
        raise UserError(
            f"{pair_set.name}: {accelerator.device} ran out of memory (its words: {str(error).splitlines()[0]}); "
            f"lower benchmark.batch_size, now {pair_set.batch_size}: it changes no result"
        ) from None
    pair_set = without(pair_set, found)
    if unreadable is not None:
        unreadable.update({pair_set.faces.name(index): reason for index, reason in found.items()})
    broken = np.flatnonzero(~np.isfinite(embeddings).all(axis=1))
    if len(broken):
        first = pair_set.faces.name(int(broken[0]))
        raise UserError(
            f"{pair_set.name}: {len(broken)} of {len(embeddings)} embeddings are not finite, first that of {first}; "
            "the weights hold NaN or overflow: lower optimizer.lr, or take an earlier checkpoint"
        )
    return verify(embeddings, pair_set.left, pair_set.right, pair_set.same, pair_set.folds, pair_set.protocol)
