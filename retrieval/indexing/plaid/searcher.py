"""Which code searches: the compiled library where it is to be had, else NumPy."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from functools import cache
from typing import Literal

from retrieval import native
from retrieval.errors import ConfigError
from retrieval.indexing.plaid.codec import ResidualCodec
from retrieval.indexing.plaid.native_search import NativeSearcher
from retrieval.indexing.plaid.numpy_search import NumpySearcher
from retrieval.indexing.plaid.segment import Segment

logger = logging.getLogger(__name__)

Engine = Literal["auto", "native", "numpy"]


def engine_name(engine: Engine, width: int) -> str:
    """What an index of this width runs on: "native" or "numpy".

    Raises:
        ConfigError: the library was asked for and is not there, or does not take the width.
    """
    if engine == "numpy":
        return "numpy"
    problem = None
    if native.library() is None:
        problem = "there is no compiled library"
    elif width % 8:
        problem = f"the compiled library takes widths that are a multiple of 8, not {width}"
    if problem and engine == "native":
        raise ConfigError(f'engine is "native", but {problem}: take "auto" or "numpy"')
    chosen = "numpy" if problem else "native"
    _log(chosen, problem or f"instruction set {native.instruction_set()}")
    return chosen


def make_searcher(
    codec: ResidualCodec, segments: Sequence[Segment], engine: Engine = "auto"
) -> NumpySearcher | NativeSearcher:
    """What searches these segments; errors as in `engine_name`."""
    if engine_name(engine, codec.width) == "native":
        return NativeSearcher(codec, segments)
    return NumpySearcher(codec, segments)


@cache
def _log(chosen: str, reason: str) -> None:
    logger.info("PLAID runs on %s: %s", chosen, reason)
