from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from retrieval.indexing.ragged import RaggedRows, rows_of


@given(st.lists(st.lists(st.integers(0, 5), max_size=4), max_size=6), st.booleans())
def test_appended_parts_read_as_one_array(parts: list[list[int]], looks_between: bool) -> None:
    rows = RaggedRows()
    expected: list[int] = []
    for lengths in parts:
        values = np.arange(len(expected), len(expected) + sum(lengths))
        rows.append(lengths, value=values, double=2 * values)
        expected.extend(values.tolist())
        if looks_between:
            assert rows["value"].tolist() == expected
    flat = [length for lengths in parts for length in lengths]
    assert np.diff(rows.offsets).tolist() == flat
    if parts:
        assert rows["value"].tolist() == expected
        assert rows["double"].tolist() == [2 * value for value in expected]
    again = RaggedRows.from_arrays(rows.arrays())
    again.append([1], value=np.array([-1]), double=np.array([-2]))
    assert again["value"].tolist() == [*expected, -1]
    assert np.diff(again.offsets).tolist() == [*flat, 1]


@given(st.lists(st.integers(0, 4), min_size=1, max_size=8), st.data())
def test_rows_of_documents_are_their_runs(lengths: list[int], data: st.DataObject) -> None:
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    chosen = data.draw(st.lists(st.integers(0, len(lengths) - 1), max_size=10))
    places = np.array(chosen, np.int64)
    rows, starts = rows_of(offsets[places], offsets[places + 1])
    runs = [list(range(offsets[each], offsets[each + 1])) for each in chosen]
    assert rows.tolist() == [row for run in runs for row in run]
    assert starts.tolist() == [sum(map(len, runs[:place])) for place in range(len(chosen))]
