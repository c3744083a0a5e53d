from __future__ import annotations

import numpy as np
import pytest

from retrieval.indexing.sampling import RowSample


def sample_of(rows: int, size: int, seed: int, batch: int) -> RowSample:
    sample = RowSample(size, seed)
    stream = np.arange(rows, dtype=np.float32)[:, None]
    for at in range(0, rows, batch):
        sample.add(stream[at : at + batch])
    return sample


def test_a_short_stream_is_kept_whole() -> None:
    sample = sample_of(50, 100, 0, 7)
    assert sample.seen == 50
    assert sample.rows()[:, 0].tolist() == list(range(50))


@pytest.mark.parametrize("batch", [1, 13, 500, 5000])
def test_the_sample_does_not_depend_on_the_batches(batch: int) -> None:
    expected = sample_of(5000, 100, 3, 5000).rows()
    sample = sample_of(5000, 100, 3, batch)
    assert sample.seen == 5000
    np.testing.assert_array_equal(sample.rows(), expected)


def test_the_sample_has_its_size_in_the_order_of_the_stream() -> None:
    rows = sample_of(5000, 100, 0, 64).rows()[:, 0]
    assert len(rows) == 100
    assert (np.diff(rows) > 0).all()


def test_every_row_has_the_same_chance() -> None:
    chosen = np.zeros(400)
    for seed in range(300):
        rows = sample_of(400, 40, seed, 50).rows()[:, 0]
        chosen[rows.astype(int)] += 1
    # 300 draws at a chance of 0.1: mean 30 and deviation 5.2 for a row, 0.52 for a block of 100.
    assert chosen.min() > 8
    assert chosen.max() < 56
    assert np.abs(chosen.reshape(4, 100).mean(axis=1) - 30).max() < 2.6


def test_memory_is_bounded_by_the_size() -> None:
    sample = RowSample(100, 0)
    most = 0
    for _ in range(500):
        sample.add(np.zeros((150, 2), np.float32))
        most = max(most, sum(len(rows) for rows in sample._rows))
    assert most <= 350


def test_no_rows_give_an_empty_sample() -> None:
    assert RowSample(10, 0).rows().shape == (0, 0)
