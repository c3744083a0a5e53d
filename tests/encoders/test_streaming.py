"""Windows of a stream: bounded in texts and in characters, one begun ahead."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from retrieval.encoders.streaming import in_windows, one_ahead, windows


@given(st.lists(st.integers(0, 9)), st.integers(1, 5), st.integers(1, 20))
def test_windows_hold_every_item_in_order_and_are_as_full_as_they_may_be(
    sizes: list[int], count: int, characters: int
) -> None:
    items = list(enumerate(sizes))
    cut = list(windows(items, lambda item: item[1], count=count, characters=characters))
    assert [item for window in cut for item in window] == items
    for window, following in zip(cut, [*cut[1:], None]):
        total = sum(size for _, size in window)
        assert 1 <= len(window) <= count
        assert total <= characters or len(window) == 1
        if following is not None:
            assert len(window) == count or total + following[0][1] > characters


def test_a_full_window_is_given_before_another_item_is_read() -> None:
    def items() -> Iterator[str]:
        yield from "ab"
        raise AssertionError("read ahead")

    assert next(windows(items(), len, count=2)) == ["a", "b"]


def test_long_texts_make_small_windows() -> None:
    """8,192 texts of a megabyte would be eight gigabytes at once."""
    held: list[int] = []

    def begin(window: list[str]) -> Callable[[], list[NDArray[np.float32]]]:
        held.append(sum(map(len, window)))
        return lambda: [np.zeros(1, np.float32)] * len(window)

    texts = ("x" * 900_000 for _ in range(7))
    assert len(list(in_windows(texts, begin, len))) == 7
    assert max(held) <= 2_000_000
    assert len(held) == 4


def test_each_is_finished_when_the_next_one_has_begun() -> None:
    events: list[str] = []

    def finish(number: int) -> int:
        events.append(f"finish {number}")
        return number

    def begun() -> Iterator[Callable[[], int]]:
        for number in range(3):
            events.append(f"begin {number}")
            yield partial(finish, number)

    assert list(one_ahead(begun())) == [0, 1, 2]
    assert events == ["begin 0", "begin 1", "finish 0", "begin 2", "finish 1", "finish 2"]
