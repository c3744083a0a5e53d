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
    texts: Iterable[str], encode: Callable[[list[str]], Iterable[Vectors]]
) -> Iterator[Vectors]:
    """Yield one embedding a text, in order.

    Args:
        texts: any number of texts.
        encode: gives the embeddings of up to 2,048 texts.
    """
    iterator = iter(texts)
    while window := list(islice(iterator, WINDOW_TEXTS)):
        yield from encode(window)
