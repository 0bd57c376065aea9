import pytest

from facenet.engine.memory import advice, largest_fitting


@pytest.mark.parametrize(
    ("limit", "size", "unit", "expected"),
    [(17, 32, 1, 17), (17, 30, 3, 15), (2, 30, 3, 0), (100, 32, 1, 31), (0, 8, 1, 0), (31, 32, 8, 24)],
)
def test_the_largest_multiple_below_the_size(limit, size, unit, expected):
    tried = []

    def fits(batch):
        tried.append(batch)
        return batch <= limit

    assert largest_fitting(fits, size, unit) == expected
    assert all(0 < batch < size and batch % unit == 0 for batch in tried) and len(tried) <= 5


@pytest.mark.parametrize(
    ("size", "fitting", "unit", "num_processes", "accumulate", "batch_size", "parts"),
    [
        (32, 17, 1, 1, 1, 17, 2),
        (30, 9, 3, 3, 1, 27, 5),  # 30 / 4 is no whole number of triplets, 30 / 5 is two
        (16, 5, 1, 2, 2, 20, 8),
    ],
)
def test_both_ways_out_fit_and_divide(size, fitting, unit, num_processes, accumulate, batch_size, parts):
    told = advice(size, fitting, unit=unit, num_processes=num_processes, accumulate=accumulate)
    assert f"data.batch_size={batch_size}, or trainer.accumulate={parts} " in told
    assert size * accumulate / parts <= fitting and size * accumulate % (parts * unit) == 0
