"""How near one single-vector encoder's embeddings are to another's, by kind of text.

A distilled encoder follows its teacher on texts like those it was trained on, and less on others:
which texts are missing shows before any collection is searched.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from retrieval.corpus import find_jsonl, read_corpus, read_queries
from retrieval.encoders.protocol import Encoder
from retrieval.errors import ConfigError, InputError
from retrieval.scoring import cosine
from retrieval.training.sources import read_rows


class Likeness(NamedTuple):
    """Cosines of the same texts' embeddings by two encoders."""

    source: str
    kind: str
    """"queries" or "documents"."""
    texts: int
    words: float
    """In a text, in the mean."""
    cosine: float
    """The mean."""
    low: float
    """What nine tenths of the texts reach."""


def likenesses(
    student: Encoder,
    teacher: Encoder,
    sources: Iterable[str | Path],
    *,
    texts: int = 300,
    words: int = 120,
    seed: int = 0,
) -> Iterator[Likeness]:
    """Compare queries and documents of each source.

    Args:
        student: single-vector; its prompts are its own, as the teacher's are.
        teacher: of the same width.
        sources: BEIR folders, whose queries and corpus are read, or pairs as training takes them,
            with `anchor` (or `query`) and `positive`.
        texts: drawn of each kind.
        words: that a text is cut at, so that limits on tokens do not tell the encoders apart.
        seed: of the draw.

    Raises:
        ConfigError: a multi-vector encoder, widths that differ, or a number below 1.
        InputError: a source that is not there, can't be read, or has no texts.
    """
    if texts < 1 or words < 1:
        raise ConfigError(f"{texts} texts of {words} words, expected at least 1 of each")
    if student.reference.is_multi_vector or teacher.reference.is_multi_vector:
        raise ConfigError("only single-vector encoders are compared: name two of these")
    if student.reference.width != teacher.reference.width:
        raise ConfigError(
            f"widths differ ({student.reference.width} and {teacher.reference.width}), so that "
            "there are no cosines between the two"
        )
    for source in sources:
        drawn = _draw(Path(source), texts, words, seed)
        if not any(drawn.values()):
            raise InputError(f"{source}: no texts")
        for kind, chosen in drawn.items():
            if chosen:
                yield _compare(student, teacher, str(source), kind, chosen)


def _compare(
    student: Encoder, teacher: Encoder, source: str, kind: str, chosen: Sequence[str]
) -> Likeness:
    by_both = [_embed(encoder, kind, chosen) for encoder in (student, teacher)]
    found = np.diagonal(cosine(*by_both))
    lengths = [len(text.split()) for text in chosen]
    mean, low = float(found.mean()), float(np.quantile(found, 0.1))
    return Likeness(source, kind, len(chosen), float(np.mean(lengths)), mean, low)


def _embed(encoder: Encoder, kind: str, texts: Sequence[str]) -> NDArray[np.float32]:
    encode = encoder.encode_queries if kind == "queries" else encoder.encode_documents
    return np.stack(list(encode(texts)))


def _draw(source: Path, count: int, words: int, seed: int) -> dict[str, list[str]]:
    """Texts of a source by kind, each as likely as any other, in memory no more than `count`."""
    draws: dict[str, _Draw] = {kind: _Draw(count, seed) for kind in ("queries", "documents")}
    for kind, text in _texts(source):
        cut = " ".join(text.split()[:words])
        if cut:
            draws[kind].add(cut)
    return {kind: draw.texts for kind, draw in draws.items()}


def _texts(source: Path) -> Iterator[tuple[str, str]]:
    queries, corpus = find_jsonl(source, "queries"), find_jsonl(source, "corpus")
    if queries:
        yield from (("queries", query.text) for query in read_queries(queries))
    if corpus:
        yield from (("documents", document.contents) for document in read_corpus(corpus))
    if queries or corpus:
        return
    for row in read_rows(source):
        for kind, text in _of_pair(row.values):
            if isinstance(text, str):
                yield kind, text


def _of_pair(values: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    yield "queries", values.get("anchor", values.get("query"))
    yield "documents", values.get("positive")


class _Draw:
    """A uniform sample of a stream. Source: Vitter 1985, "Random sampling with a reservoir"."""

    def __init__(self, count: int, seed: int) -> None:
        self.texts: list[str] = []
        self._count = count
        self._seen = 0
        self._random = random.Random(seed)

    def add(self, text: str) -> None:
        self._seen += 1
        if len(self.texts) < self._count:
            self.texts.append(text)
        elif (place := self._random.randrange(self._seen)) < self._count:
            self.texts[place] = text
