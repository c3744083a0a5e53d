"""Documents made of other documents' tokens, where real text runs out or is absent.

Each block of documents has its own random numbers: any of them is made again alone, and a set of
any size starts with the smaller ones.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

BLOCK = 1_000
# Lengths of what is added to a unit vector: to all tokens of a document, and to each one.
_DOCUMENT_SHIFT = 0.35
_TOKEN_NOISE = 0.35
_RUN_TOKENS = (8, 40)


class Block(NamedTuple):
    """Some documents, one after the other."""

    tokens: NDArray[np.float16]
    """(T, D), unit length."""
    ids: NDArray[np.int32]
    """(T,) each token's number in a vocabulary."""
    lengths: NDArray[np.int64]
    """(documents,) their tokens."""


def vary(source: Block, number: int, seed: int) -> Block:
    """Make 1,000 documents of runs of 8 to 40 tokens from the source's documents.

    Each takes the length of a random one of them. All its tokens are moved in one direction, which
    makes it a document of its own, and each by some noise, so that no token comes twice.

    Args:
        source: what to draw from; may be mapped from files.
        number: of the block; the same number and seed give the same documents.
        seed: of the whole set.
    """
    generator = np.random.default_rng([seed, number])
    lengths = generator.choice(source.lengths, BLOCK)
    rows = np.empty(int(lengths.sum()), np.int64)
    filled = 0
    for length in lengths.tolist():
        end = filled + length
        while filled < end:
            run = min(int(generator.integers(*_RUN_TOKENS)), end - filled)
            start = int(generator.integers(0, len(source.ids) - run))
            rows[filled : filled + run] = np.arange(start, start + run)
            filled += run
    width = source.tokens.shape[1]
    shifts = _directions(generator, BLOCK, width) * np.float32(_DOCUMENT_SHIFT)
    tokens = source.tokens[rows].astype(np.float32) + np.repeat(shifts, lengths, axis=0)
    tokens += _directions(generator, len(rows), width) * np.float32(_TOKEN_NOISE)
    tokens /= np.linalg.norm(tokens, axis=1, keepdims=True)
    return Block(tokens.astype(np.float16), np.asarray(source.ids[rows]), lengths)


def invent(number: int, width: int, seed: int) -> Block:
    """Make 1,000 documents from nothing: words of a vocabulary in the direction of their document.

    Words come as often as in text, by Zipf's law; documents have 125 tokens or so.
    """
    words = _directions(np.random.default_rng(seed), 8192, width)
    generator = np.random.default_rng([seed, number])
    lengths = np.clip(generator.lognormal(4.7, 0.5, BLOCK), 16, 180).astype(np.int64)
    ids = np.minimum(generator.zipf(1.2, int(lengths.sum())) - 1, len(words) - 1).astype(np.int32)
    topics = _directions(generator, BLOCK, width) * np.float32(0.7)
    tokens = words[ids] + np.repeat(topics, lengths, axis=0)
    tokens += _directions(generator, len(ids), width) * np.float32(0.5)
    tokens /= np.linalg.norm(tokens, axis=1, keepdims=True)
    return Block(tokens.astype(np.float16), ids, lengths)


def invent_queries(source: Block, count: int, tokens: int, seed: int) -> NDArray[np.float16]:
    """Make queries that ask for a part of a document each, (count, tokens, D)."""
    generator = np.random.default_rng([seed, count, tokens])
    starts = generator.integers(0, len(source.ids) - tokens, count)
    rows = starts[:, None] + np.arange(tokens)
    width = source.tokens.shape[1]
    noise = _directions(generator, rows.size, width).reshape(*rows.shape, width)
    queries = source.tokens[rows].astype(np.float32) + noise
    queries /= np.linalg.norm(queries, axis=2, keepdims=True)
    halves: NDArray[np.float16] = queries.astype(np.float16)
    return halves


def _directions(generator: np.random.Generator, count: int, width: int) -> NDArray[np.float32]:
    drawn = generator.standard_normal((count, width), np.float32)
    drawn /= np.linalg.norm(drawn, axis=1, keepdims=True)
    return drawn
