"""One benchmark on one network."""

from __future__ import annotations

import numpy as np

from facenet.accelerator import Accelerator, out_of_memory
from facenet.backbones.embedder import Embedder
from facenet.data.transforms import Preprocess
from facenet.errors import UserError
from facenet.evaluation.benchmark import PairSet
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
) -> Verification:
    """Embeds each image of the pair set once and judges its pairs. UserError where the network gives NaN or a batch finds no memory."""
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
        )
    except RuntimeError as error:
        if not out_of_memory(error):
            raise
        raise UserError(
            f"{pair_set.name}: {accelerator.device} ran out of memory (its words: {str(error).splitlines()[0]}); "
            f"lower benchmark.batch_size, now {pair_set.batch_size}: it changes no result"
        ) from None
    broken = np.flatnonzero(~np.isfinite(embeddings).all(axis=1))
    if len(broken):
        first = pair_set.faces.name(int(broken[0]))
        raise UserError(
            f"{pair_set.name}: {len(broken)} of {len(embeddings)} embeddings are not finite, first that of {first}; "
            "the weights hold NaN or overflow: lower optimizer.lr, or take an earlier checkpoint"
        )
    return verify(embeddings, pair_set.left, pair_set.right, pair_set.same, pair_set.folds, pair_set.protocol)
