from __future__ import annotations

import pytest
import torch

from facenet.losses.mining import batch_hard, given_triplets, hardest_triplets


def test_batch_hard_picks_extremes_on_a_line() -> None:
    at = torch.tensor([0.0, 1.0, 3.0, 7.0, 8.0])  # identities 0 0 1 1 2; identity 2 has no positive
    anchor, positive, negative = batch_hard((at[:, None] - at).abs(), torch.tensor([0, 0, 1, 1, 2]))
    assert anchor.tolist() == [0, 1, 2, 3]
    assert positive.tolist() == [1, 0, 3, 2]
    assert negative.tolist() == [2, 2, 1, 4]


@pytest.mark.parametrize("seed", range(8))
def test_hardest_triplets_agree_with_a_loop_over_all_of_them(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, 5, (13,), generator=generator)
    rows = torch.randn(13, 3, generator=generator)
    distances = torch.cdist(rows, rows)
    expected = {}
    for a in range(13):
        positives = [i for i in range(13) if i != a and labels[i] == labels[a]]
        negatives = [i for i in range(13) if labels[i] != labels[a]]
        if positives and negatives:
            farthest = max(positives, key=lambda i: float(distances[a, i]))
            expected[a] = (farthest, min(negatives, key=lambda i: float(distances[a, i])))
    anchor, positive, negative = (rows.tolist() for rows in batch_hard(distances, labels))
    assert dict(zip(anchor, zip(positive, negative, strict=True), strict=True)) == expected


@pytest.mark.parametrize("labels", [[0, 0, 0, 0], [0, 1, 2, 3]])
def test_a_batch_without_any_triplet_yields_none(labels: list[int]) -> None:
    triplets = hardest_triplets(torch.rand(4, 4), torch.tensor(labels))
    assert not triplets.valid.any()
    assert len(triplets.anchor) == 4
    assert [len(rows) for rows in batch_hard(torch.rand(4, 4), torch.tensor(labels))] == [0, 0, 0]


def test_given_triplets_are_thirds() -> None:
    anchor, positive, negative, valid = given_triplets(6, torch.device("cpu"))
    assert (anchor.tolist(), positive.tolist(), negative.tolist()) == ([0, 1], [2, 3], [4, 5])
    assert valid.tolist() == [True, True]


def test_a_batch_that_has_no_thirds_is_refused() -> None:
    with pytest.raises(ValueError, match="multiple of 3 images, got 8"):
        given_triplets(8, torch.device("cpu"))
