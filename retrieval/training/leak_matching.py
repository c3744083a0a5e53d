"""One evaluation folder, indexed so that training rows can be held against it."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple, get_args

import numpy as np

from retrieval.corpus import find_jsonl, read_corpus, read_queries
from retrieval.errors import ConfigError, InputError
from retrieval.qrels import read_qrels
from retrieval.training.sources import Row
from retrieval.training.text_matching import (
    ShingleIndex,
    Shingles,
    jaccard,
    shingles,
    text_key,
    words,
)

Kind = Literal["query", "pair", "document"]
KINDS: tuple[Kind, ...] = get_args(Kind)

DOCUMENT_WORDS = 5
"""Words of a document's shingle."""
MIN_SHINGLES = 8
"""A shorter text of the two must be equal: it may be contained in others by chance."""
MAX_DOCUMENTS = 100
"""A shingle of more evaluation documents is boilerplate, such as a licence, and counts nowhere."""


@dataclass(frozen=True, kw_only=True)
class LeakSettings:
    """From which likeness on texts are nearly the same."""

    query_jaccard: float = 0.8
    """Of two queries' sets of words: 9 words of 10 in common, and no others."""
    pair_jaccard: float = 0.5
    """The same, where the documents match already."""
    document_containment: float = 0.8
    """Of two documents' sets of five-word shingles: the share of the smaller that the larger
    holds. An excerpt of a document is nearly the same as the document."""
    documents_leak: bool = False
    """A document alone is a leak too."""

    def __post_init__(self) -> None:
        for name in ("query_jaccard", "pair_jaccard", "document_containment"):
            if not 0 < getattr(self, name) <= 1:
                raise ConfigError(f"{name} is {getattr(self, name)}, expected above 0, up to 1")


class Match(NamedTuple):
    """A training row that holds something of an evaluation folder."""

    kind: Kind
    is_exact: bool
    """Whether the texts have the same words: queries, or for a pair and a document, documents."""
    source: Path
    number: int
    evaluation: Path
    id: str
    """Of the evaluation's query, or of its document where `kind` is "document"."""
    text: str
    """Of the training row."""

    def __str__(self) -> str:
        likeness = "is" if self.is_exact else "is nearly"
        found = {
            "query": f"{likeness} the query",
            "pair": f"comes with what {likeness} a relevant document of the query",
            "document": f"{likeness} the document",
        }[self.kind]
        return (
            f"{self.source}:{self.number}: {self.text[:100]!r} {found} {self.id!r} of "
            f"{self.evaluation}"
        )


class RowTexts(NamedTuple):
    """A training row, ready to be compared."""

    query: str
    query_words: Shingles
    texts: list[str]
    keys: list[bytes]
    document_shingles: list[Shingles]

    @classmethod
    def of(cls, row: Row) -> RowTexts:
        """Take the texts of a contrastive or a distillation row."""
        query = row.values.get("anchor", row.values.get("query"))
        query = query if isinstance(query, str) else ""
        texts = [query, *_document_texts(row)]
        split = [words(each) for each in texts]
        return cls(
            query,
            shingles(split[0], 1),
            texts,
            [text_key(each) for each in texts],
            [shingles(each, DOCUMENT_WORDS) for each in split],
        )


def _document_texts(row: Row) -> Iterator[str]:
    for column, value in row.values.items():
        if column == "positive" or column.startswith("negative"):
            if isinstance(value, str):
                yield value
        elif column == "documents" and isinstance(value, list):
            yield from (each for each in value if isinstance(each, str))


class EvaluationTexts:
    """The judged queries and the relevant documents of one folder, indexed."""

    def __init__(self, path: Path, settings: LeakSettings) -> None:
        self.path = path
        self._settings = settings
        relevant = _relevant(path)
        queries_path, corpus_path = find_jsonl(path, "queries"), find_jsonl(path, "corpus")
        if queries_path is None or corpus_path is None:
            raise InputError(f"{path}: no queries.jsonl[.gz] or corpus.jsonl[.gz]: BEIR's layout")
        queries = [each for each in read_queries(queries_path) if each.id in relevant]
        self._query_ids = [each.id for each in queries]
        self._query_words = [shingles(words(each.text), 1) for each in queries]
        self._query_keys = {text_key(each.text): at for at, each in enumerate(queries)}
        self._query_index = ShingleIndex(_rarest(self._query_words, settings.query_jaccard))
        queries_of: dict[str, list[int]] = defaultdict(list)
        for at, identifier in enumerate(self._query_ids):
            for document_id in relevant[identifier]:
                queries_of[document_id].append(at)
        self._document_ids: list[str] = []
        self._queries_of: list[list[int]] = []
        self._document_keys: dict[bytes, int] = {}
        document_shingles: list[Shingles] = []
        for document in read_corpus(corpus_path):
            if document.id not in queries_of:
                continue
            # With and without the title: training files are made either way.
            for text in {document.contents, document.text}:
                self._document_keys.setdefault(text_key(text), len(self._document_ids))
            document_shingles.append(shingles(words(document.contents), DOCUMENT_WORDS))
            self._document_ids.append(document.id)
            self._queries_of.append(queries_of[document.id])
        self._document_index = ShingleIndex(document_shingles, max_texts=MAX_DOCUMENTS)

    def match(self, row: Row, texts: RowTexts) -> Match | None:
        """The first of: a query, a pair, a document."""
        found = self._query_match(texts) or self._document_match(texts)
        if found is None:
            return None
        kind, is_exact, identifier, text = found
        return Match(kind, is_exact, row.source, row.number, self.path, identifier, text)

    def _query_match(self, texts: RowTexts) -> tuple[Kind, bool, str, str] | None:
        for text, key in zip(texts.texts, texts.keys):
            if key in self._query_keys:
                return "query", True, self._query_ids[self._query_keys[key]], text
        for at in self._query_index.overlaps(texts.query_words)[0]:
            if self._query_likeness(texts, int(at)) >= self._settings.query_jaccard:
                return "query", False, self._query_ids[at], texts.query
        return None

    def _document_match(self, texts: RowTexts) -> tuple[Kind, bool, str, str] | None:
        first: tuple[Kind, bool, str, str] | None = None
        for text, key, shingles_of_text in zip(texts.texts, texts.keys, texts.document_shingles):
            for at, is_exact in self._documents_like(key, shingles_of_text):
                for query in self._queries_of[at]:
                    if self._query_likeness(texts, query) >= self._settings.pair_jaccard:
                        return "pair", is_exact, self._query_ids[query], texts.query
                first = first or ("document", is_exact, self._document_ids[at], text)
        return first

    def _documents_like(self, key: bytes, text: Shingles) -> Iterator[tuple[int, bool]]:
        if key in self._document_keys and key != _EMPTY:
            yield self._document_keys[key], True
        found, shared = self._document_index.overlaps(text)
        if not len(found) or shared.max() < MIN_SHINGLES * self._settings.document_containment:
            return
        smaller = np.minimum(self._document_index.sizes[found], self._document_index.size(text))
        is_near = (smaller >= MIN_SHINGLES) & (
            shared >= self._settings.document_containment * smaller
        )
        for at in found[is_near]:
            yield int(at), False

    def _query_likeness(self, texts: RowTexts, query: int) -> float:
        return jaccard(texts.query_words, self._query_words[query])


_EMPTY = text_key("")


def _rarest(texts: Sequence[Shingles], threshold: float) -> list[Shingles]:
    """The rarest shingles of each text: every other text that is so like it has one of them.

    A text that holds at least `threshold` of N shingles can lack all of at most
    N - ceil(threshold * N) of them. Source: Chaudhuri et al. 2006, A Primitive Operator for
    Similarity Joins in Data Cleaning, the prefix filter.
    """
    frequency: Counter[int] = Counter()
    for each in texts:
        frequency.update(each.tolist())
    kept = []
    for each in texts:
        count = len(each) - int(np.ceil(threshold * len(each) - 1e-9)) + 1
        ordered = sorted(each.tolist(), key=lambda hashed: (frequency[hashed], hashed))
        kept.append(np.array(sorted(ordered[:count]), np.uint64))
    return kept


def _relevant(path: Path) -> dict[str, set[str]]:
    """The relevant documents of every judged query, over all splits but "train"."""
    files = [each for each in sorted((path / "qrels").glob("*.tsv")) if each.stem != "train"]
    if not files:
        raise InputError(f"{path}: no judgements in qrels/*.tsv but perhaps of a split 'train'")
    relevant: dict[str, set[str]] = defaultdict(set)
    for file in files:
        for query_id, judged in read_qrels(file).items():
            relevant[query_id] |= {each for each, relevance in judged.items() if relevance > 0}
    return relevant
