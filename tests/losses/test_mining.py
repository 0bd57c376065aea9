from __future__ import annotations

import pytest
import torch

from facenet.losses.mining import (
    distance_weighted_triplets,
    given_triplets,
    hardest_by_label,
    hardest_in_chunks,
    hardest_triplets,
    positives_in_groups,
    positives_of,
)


def batch_hard(distances: torch.Tensor, labels: torch.Tensor) -> list[torch.Tensor]:
    *rows, valid = hardest_triplets(distances, labels)
    return [each[valid] for each in rows]


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


def unit_rows(num_rows: int, size: int, seed: int, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    rows = torch.randn(num_rows, size, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    return torch.nn.functional.normalize(rows).to(dtype)


def test_positives_by_position_and_by_label_agree() -> None:
    by_position = positives_in_groups(6, 3, torch.device("cpu"))
    assert by_position.rows.tolist() == [[1, 2], [2, 0], [0, 1], [4, 5], [5, 3], [3, 4]]
    assert torch.equal(by_position.rows, positives_of(torch.tensor([9, 9, 9, 2, 2, 2]), 3).rows)
    index, valid = positives_of(torch.tensor([1, 0, 1, 2, 1]), 3)
    assert index[0].tolist() == [2, 4] and index[2].tolist() == [4, 0] and index[1].tolist() == [1, 1]
    assert valid.tolist() == [[True, True], [False, False], [True, True], [False, False], [True, True]]
    with pytest.raises(ValueError, match="multiple of 4 images, got 6"):
        positives_in_groups(6, 4, torch.device("cpu"))


@pytest.mark.parametrize("seed", range(4))
def test_chunks_find_the_hardest_of_the_whole(seed: int) -> None:
    labels = torch.randint(0, 6, (23,), generator=torch.Generator().manual_seed(seed))
    rows = 3 * unit_rows(23, 5, seed) + 1
    whole = hardest_triplets(torch.cdist(rows, rows), labels)
    positions = hardest_in_chunks(rows, positives_of(labels, most=len(labels)), chunk=7)
    for found in (positions, hardest_by_label(rows, labels, chunk=7)):
        assert torch.equal(found.valid, whole.valid) and found.valid.any()
        for name in ("anchor", "positive", "negative"):
            assert torch.equal(getattr(found, name)[whole.valid], getattr(whole, name)[whole.valid])


def test_distance_weighted_negatives_are_drawn_by_inverse_density() -> None:
    torch.manual_seed(0)
    angle = torch.tensor([0.0, 0.1, 0.6, 1.1, 2.5], dtype=torch.float64)  # of four other identities: 2 near, 1 too far
    rows = torch.nn.functional.pad(torch.stack([angle.cos(), angle.sin()], 1), (0, 2))
    labels = torch.tensor([0, 0, 1, 2, 3])
    positives = positives_of(labels, most=2)
    drawn = [distance_weighted_triplets(rows, positives, chunk=5) for _ in range(2000)]
    assert drawn[0].valid.tolist() == [True, True, False, False, False]
    negative = torch.stack([one.negative[0] for one in drawn])
    squared = (rows[0] - rows[2:4]).square().sum(1)
    weight = 1 / (squared * (1 - squared / 4).sqrt())  # D = 4
    assert set(negative.tolist()) == {2, 3}
    assert (negative == 2).double().mean().item() == pytest.approx((weight[0] / weight.sum()).item(), abs=0.04)
