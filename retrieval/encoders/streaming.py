"""Encode an endless stream of texts in windows, so that memory does not grow with the corpus."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import islice

import numpy as np
from numpy.typing import NDArray

Vectors = NDArray[np.float32]

WINDOW_TEXTS = 2048
"""Texts that are sorted by length together: enough that batches hold texts of one length."""


def in_windows(
    texts: Iterable[str], begin: Callable[[list[str]], Callable[[], Iterable[Vectors]]]
) -> Iterator[Vectors]:
    """Yield one embedding a text, in order.

    Args:
        texts: any number of texts.
        begin: starts to encode up to 2,048 texts and returns what gives their embeddings. The
            next window is begun before the embeddings of this one are asked for.
    """
    iterator = iter(texts)
    begun: Callable[[], Iterable[Vectors]] | None = None
    while window := list(islice(iterator, WINDOW_TEXTS)):
        started = begin(window)
        if begun is not None:
            yield from begun()
        begun = started
    if begun is not None:
        yield from begun()
