"""Documents and queries of every sort, with what brute force says of them."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence
from functools import cache
from typing import Any, NamedTuple

import numpy as np
import Stemmer
from bm25s.stopwords import STOPWORDS_EN
from numpy.typing import NDArray

from retrieval.records import Hit
from retrieval.scoring import dot, maxsim
from tests.indexing.plaid.plaid_worlds import unequal_directions

WIDTH = 32


class World(NamedTuple):
    """Documents, queries, and what brute force says of them."""

    ids: list[str]
    items: Any
    queries: Any
    scores: NDArray[np.float32]
    """(queries, documents); -inf where a document is no match."""

    def take(self, rows: Sequence[int]) -> Any:
        return (
            self.items[list(rows)]
            if isinstance(self.items, np.ndarray)
            else [self.items[row] for row in rows]
        )

    def best(self, query: int, k: int, rows: Sequence[int] | None = None) -> list[Hit]:
        rows = range(len(self.ids)) if rows is None else rows
        hits = [Hit(self.ids[row], float(self.scores[query, row])) for row in rows]
        matching = [hit for hit in hits if hit.score > -math.inf]
        return sorted(matching, key=lambda hit: -hit.score)[:k]


@cache
def single_vectors() -> World:
    generator = np.random.default_rng(1)
    centres = generator.standard_normal((12, WIDTH))
    items = centres[generator.integers(0, 12, 600)] + generator.standard_normal((600, WIDTH))
    queries = centres[generator.integers(0, 12, 20)] + generator.standard_normal((20, WIDTH))
    items, queries = items.astype(np.float32), queries.astype(np.float32)
    return World([f"d{row}" for row in range(600)], items, queries, dot(queries, items))


@cache
def multi_vectors() -> World:
    return _multi_vectors(np.eye(WIDTH))


@cache
def uneven_multi_vectors() -> World:
    """Tokens are spread along few directions, as a trained retriever's are."""
    return _multi_vectors(unequal_directions(WIDTH, np.random.default_rng(4)))


def _multi_vectors(directions: NDArray[np.floating]) -> World:
    generator = np.random.default_rng(2)
    topics = generator.standard_normal((40, WIDTH))

    def tokens(count: int) -> NDArray[np.float32]:
        # A text's tokens come from a few topics, as those of a sentence do.
        drawn = generator.choice(generator.choice(40, 4), count)
        rows = topics[drawn] + 0.7 * generator.standard_normal((count, WIDTH)) @ directions
        units: NDArray[np.float32] = rows / np.linalg.norm(rows, axis=1, keepdims=True)
        return units.astype(np.float32)

    items = [tokens(int(count)) for count in generator.integers(3, 20, 400)]
    items[7] = items[100] = np.empty((0, WIDTH), np.float32)
    queries = [tokens(6) for _ in range(20)]
    return World([f"d{row}" for row in range(400)], items, queries, maxsim(queries, items))


@cache
def texts() -> World:
    generator = np.random.default_rng(3)
    words = [
        "the",
        "of",
        "running",
        "runner",
        "runs",
        "indexes",
        "index",
        "quickly",
        "cells",
        "cell",
    ]
    words += [f"word{number}" for number in range(200)]
    weights = 1 / np.arange(1, len(words) + 1)

    def text(count: int) -> str:
        return " ".join(generator.choice(words, count, p=weights / weights.sum()))

    items = [text(int(count)) for count in generator.integers(2, 40, 300)]
    items[7] = ""
    queries = [text(4) for _ in range(20)]
    ids = [f"d{row}" for row in range(300)]
    return World(ids, items, queries, bm25(queries, items))


def bm25(queries: list[str], documents: list[str]) -> NDArray[np.float32]:
    """BM25 as Lucene computes it, term by term."""
    stem = Stemmer.Stemmer("english").stemWord

    def terms(text: str) -> list[str]:
        words = re.findall(r"\w\w+", text.lower())
        return [stem(word) for word in words if word not in STOPWORDS_EN]

    counts = [Counter(terms(document)) for document in documents]
    mean = sum(each.total() for each in counts) / len(counts)
    scores = np.full((len(queries), len(documents)), -np.inf, np.float32)
    for row, query in enumerate(queries):
        for column, each in enumerate(counts):
            shared = [term for term in terms(query) if each[term]]
            if not shared:
                continue
            total = 0.0
            for term in shared:
                having = sum(term in other for other in counts)
                idf = math.log(1 + (len(counts) - having + 0.5) / (having + 0.5))
                held_back = 1.2 * (1 - 0.75 + 0.75 * each.total() / mean)
                total += idf * each[term] / (each[term] + held_back)
            scores[row, column] = total
    return scores
