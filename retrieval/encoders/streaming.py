"""Encode an endless stream of texts in windows, so that memory does not grow with the corpus."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

from numpy.typing import NDArray

Vectors = NDArray[Any]
Item = TypeVar("Item")
Result = TypeVar("Result")

Report = Callable[[int, int], None]
"""Told how many texts, and how many tokens of them, have been encoded since it was last called."""

WINDOW_TEXTS = 2048
"""Texts that are sorted by length together: enough that batches hold texts of one length."""

WINDOW_CHARACTERS = 2_000_000
"""And at most so many characters: some 500,000 tokens, or 256 MB of token vectors of width 128."""


def windows(
    items: Iterable[Item],
    size: Callable[[Item], int],
    *,
    count: int = WINDOW_TEXTS,
    characters: int = WINDOW_CHARACTERS,
) -> Iterator[list[Item]]:
    """Cut a stream into runs of at most `count` items and `characters`; an item is never cut.

    >>> list(windows(["aa", "bb", "cccccc", "d"], len, count=3, characters=4))
    [['aa', 'bb'], ['cccccc'], ['d']]
    """
    window: list[Item] = []
    total = 0
    for item in items:
        length = size(item)
        if window and total + length > characters:
            yield window
            window, total = [], 0
        window.append(item)
        total += length
        if len(window) == count:
            yield window
            window, total = [], 0
    if window:
        yield window


def one_ahead(begun: Iterable[Callable[[], Result]]) -> Iterator[Result]:
    """Call one after the other, each only when the next one has been begun."""
    waiting: Callable[[], Result] | None = None
    for call in begun:
        if waiting is not None:
            yield waiting()
        waiting = call
    if waiting is not None:
        yield waiting()


def in_windows(
    items: Iterable[Item],
    begin: Callable[[list[Item]], Callable[[], Iterable[Vectors]]],
    size: Callable[[Item], int],
) -> Iterator[Vectors]:
    """Yield one embedding an item, in order.

    Args:
        items: any number of texts, or texts with something beside them.
        begin: starts to encode a window and returns what gives its embeddings. The next window is
            begun before the embeddings of this one are asked for.
        size: characters of an item.
    """
    for embeddings in one_ahead(map(begin, windows(items, size))):
        yield from embeddings


def silent(texts: int, tokens: int) -> None:
    """A report that nobody reads."""
