"""The lexical index: BM25 with weights from bm25s, over words that are stemmed by PyStemmer."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import bm25s
import numpy as np
import Stemmer
from bm25s import stopwords
from numpy.typing import NDArray

from retrieval.errors import ConfigError, IndexFilesError, InputError
from retrieval.files import atomic_write, map_arrays, read_json, save_arrays
from retrieval.indexing.index import Index, Ranking, top_k
from retrieval.indexing.ragged import RaggedRows, rows_of
from retrieval.indexing.saved_rows import check_rows, expect, map_rows
from retrieval.indexing.versions import Draft, Version

_TERMS = "terms.safetensors"
_WEIGHTS = "weights.safetensors"
_VOCABULARY = "vocabulary.json"
_WORD = re.compile(r"\b\w\w+\b")
_PIECE_CHARACTERS = 1_000_000
_STOP_WORDS: dict[str, Sequence[str]] = {
    "none": (),
    "english": stopwords.STOPWORDS_EN,
    "german": stopwords.STOPWORDS_GERMAN,
    "dutch": stopwords.STOPWORDS_DUTCH,
    "french": stopwords.STOPWORDS_FRENCH,
    "spanish": stopwords.STOPWORDS_SPANISH,
    "portuguese": stopwords.STOPWORDS_PORTUGUESE,
    "italian": stopwords.STOPWORDS_ITALIAN,
    "russian": stopwords.STOPWORDS_RUSSIAN,
    "swedish": stopwords.STOPWORDS_SWEDISH,
    "norwegian": stopwords.STOPWORDS_NORWEGIAN,
    "danish": stopwords.STOPWORDS_DANISH,
    "turkish": stopwords.STOPWORDS_TURKISH,
}


@dataclass(frozen=True, kw_only=True)
class LexicalSettings:
    """Settings of BM25; the defaults are Lucene's.

    They give nDCG@10 0.679 on SciFact and 0.325 on the lower-cased NFCorpus (title and text as
    one field); k1 = 1.5 gives 0.686 and 0.326, Pyserini's k1 = 0.9 and b = 0.4 0.676 and 0.324.

    Attributes:
        k1: how slowly repeated words stop counting, at least 0.
        b: how much long documents are held back, from 0 to 1.
        delta: of the methods "bm25l" and "bm25+", without effect on the others.
        method: which of the published formulas.
        stemmer: a language that PyStemmer knows, or "none".
        stop_words: the language whose most frequent words are left out, or "none".
    """

    k1: float = 1.2
    b: float = 0.75
    delta: float = 0.5
    method: Literal["lucene", "robertson", "atire", "bm25l", "bm25+"] = "lucene"
    stemmer: str = "english"
    stop_words: str = "english"

    def __post_init__(self) -> None:
        if self.k1 < 0 or not 0 <= self.b <= 1 or self.delta < 0:
            raise ConfigError(
                f"BM25 with k1={self.k1}, b={self.b}, delta={self.delta}: expected k1 >= 0, "
                "b from 0 to 1, delta >= 0"
            )
        languages = ["none", *Stemmer.algorithms()]
        if self.stemmer not in languages:
            raise ConfigError(f"no stemmer {self.stemmer!r}: expected one of {languages}")
        if self.stop_words not in _STOP_WORDS:
            raise ConfigError(
                f"no stop words {self.stop_words!r}: expected one of {list(_STOP_WORDS)}"
            )


class Tokenizer:
    """Cuts texts into stemmed words of two letters or more, as numbers of a growing vocabulary."""

    def __init__(self, settings: LexicalSettings, terms: Sequence[str] = ()) -> None:
        self.terms = {term: number for number, term in enumerate(terms)}
        self._stop_words = frozenset(_STOP_WORDS[settings.stop_words])
        self._stem = None if settings.stemmer == "none" else Stemmer.Stemmer(settings.stemmer)
        self._numbers: dict[str, int] = {}

    def learn(self, text: str) -> list[int]:
        """The numbers of a document's terms; new terms join the vocabulary."""
        numbers = []
        for word in self._words(text):
            number = self._numbers.get(word)
            if number is None:
                number = self.terms.setdefault(self._term(word), len(self.terms))
                self._numbers[word] = number
            numbers.append(number)
        return numbers

    def look_up(self, text: str) -> list[int]:
        """The numbers of a query's terms; those that no document has are left out."""
        terms = (self._term(word) for word in self._words(text))
        return [self.terms[term] for term in terms if term in self.terms]

    def _words(self, text: str) -> Iterator[str]:
        for piece in _pieces(text.lower()):
            yield from (word for word in _WORD.findall(piece) if word not in self._stop_words)

    def _term(self, word: str) -> str:
        return word if self._stem is None else str(self._stem.stemWord(word))


def _pieces(text: str) -> Iterator[str]:
    """Cut a long text at blanks: the words of 200 MB at once take 3 GB, piece by piece nothing."""
    start = 0
    while (cut := text.find(" ", start + _PIECE_CHARACTERS)) >= 0:
        yield text[start:cut]
        start = cut
    yield text[start:]


class _Weights(NamedTuple):
    """What a term adds to the score of each document that has it, by term.

    Term t's documents are `documents[starts[t] : starts[t + 1]]`, with the weights beside them.
    """

    starts: NDArray[np.int64]
    documents: NDArray[np.int32]
    weights: NDArray[np.float32]
    absent: NDArray[np.float32]
    """(terms,) what a term adds to documents that lack it: 0 but in BM25L and BM25+."""


class LexicalIndex(Index[Sequence[str]]):
    """BM25 over texts. A document that shares no term with the query is not a hit.

    The documents' terms are kept, and the weights are computed again for the next search or save
    after a change: numbers of documents, document frequencies and mean length are always those of
    the documents that are there. After a deletion alone `save` leaves them out where no search has
    computed them, and the next search does. A document without terms counts with length 0.

    Source: Lù 2024, arXiv:2407.03618; the formulas are compared in Kamphuis et al. 2020, "Which
    BM25 do you mean?".
    """

    kind = "lexical"
    settings_type = LexicalSettings

    def __init__(self, settings: LexicalSettings | None = None, **keywords: Any) -> None:
        super().__init__(settings, **keywords)
        self._tokenizer = Tokenizer(self.settings)
        self._rows = RaggedRows({"terms": np.empty(0, np.int32)})
        self._weights: _Weights | None = None
        self._is_saved = False

    def _append(self, ids: Sequence[str], items: Sequence[str]) -> None:
        _check_texts(items)
        numbers = [self._tokenizer.learn(text) for text in items]
        flat = np.array([number for each in numbers for number in each], np.int32)
        self._rows.append([len(each) for each in numbers], terms=flat)
        self._weights, self._is_saved = None, False

    def _forget(self) -> None:
        self._weights = None

    def _search(
        self, queries: Sequence[str], k: int, mask: NDArray[np.bool_] | None
    ) -> Iterator[Ranking]:
        _check_texts(queries)
        weights = self._current_weights()
        for query in queries:
            yield top_k(self._score(weights, query), k, mask)

    def _score(self, weights: _Weights, query: str) -> NDArray[np.float32]:
        """One query's score of every position, -inf where no term is shared."""
        scores = np.zeros(self._storage.ids.rows, np.float32)
        matches = np.zeros(self._storage.ids.rows, np.bool_)
        absent = np.float32(0)
        for term, times in Counter(self._tokenizer.look_up(query)).items():
            run = slice(int(weights.starts[term]), int(weights.starts[term + 1]))
            documents = weights.documents[run]
            if not _is_below(documents, len(scores)):
                raise IndexFilesError(
                    f"{self.folder}: {_WEIGHTS} names documents that are not there: rebuild the "
                    "index"
                )
            scores[documents] += np.float32(times) * weights.weights[run]
            matches[documents] = True
            absent += np.float32(times) * weights.absent[term]
        return np.where(matches, scores + absent, np.float32(-np.inf))

    def _current_weights(self) -> _Weights:
        if self._weights is None:
            self._weights = self._compute_weights()
        return self._weights

    def _compute_weights(self) -> _Weights:
        live = np.flatnonzero(self._storage.live())
        rows = _Rows(self._rows, live)
        count = len(self._tokenizer.terms)
        settings = self.settings
        model = bm25s.BM25(
            k1=settings.k1, b=settings.b, delta=settings.delta, method=settings.method
        )
        if not rows.has_terms():
            return _Weights(
                starts=np.zeros(count + 1, np.int64),
                documents=np.empty(0, np.int32),
                weights=np.empty(0, np.float32),
                absent=np.zeros(count, np.float32),
            )
        matrix = model.build_index_from_ids(list(range(count)), rows, show_progress=False)
        absent = model.nonoccurrence_array
        return _Weights(
            starts=matrix["indptr"].astype(np.int64),
            documents=live[matrix["indices"]].astype(np.int32),
            weights=matrix["data"].astype(np.float32),
            absent=np.zeros(count, np.float32) if absent is None else absent.astype(np.float32),
        )

    def _write(self, draft: Draft) -> None:
        if not self._is_saved:
            self._write_rows(draft, self._rows)
        else:
            draft.keep(_TERMS)
            draft.keep(_VOCABULARY)
        if self._weights is not None or not self._is_saved:
            save_arrays(draft.path / _WEIGHTS, self._current_weights()._asdict())

    def _write_rows(self, draft: Draft, rows: RaggedRows) -> None:
        save_arrays(draft.path / _TERMS, rows.arrays())
        with atomic_write(draft.path / _VOCABULARY) as stream:
            stream.write(json.dumps(list(self._tokenizer.terms), ensure_ascii=False).encode())

    def _saved(self, version: Version) -> None:
        self._is_saved = True

    def _write_compacted(self, draft: Draft, live: NDArray[np.bool_]) -> None:
        left = np.flatnonzero(live)
        rows, _ = rows_of(self._rows.offsets[left], self._rows.offsets[left + 1])
        compacted = RaggedRows()
        lengths = np.diff(self._rows.offsets)[left]
        compacted.append(lengths.tolist(), terms=self._rows["terms"][rows])
        self._write_rows(draft, compacted)
        numbers = (np.cumsum(live) - 1).astype(np.int32)
        weights = self._current_weights()
        save_arrays(
            draft.path / _WEIGHTS,
            weights._replace(documents=numbers[weights.documents])._asdict(),
        )

    def _read(self, version: Version) -> None:
        self._rows = map_rows(version.path / _TERMS, {"terms": np.int32})
        check_rows(version.path, self._rows, self._storage.ids.rows)
        self._tokenizer = Tokenizer(self.settings, read_json(version.path / _VOCABULARY))
        self._weights = None
        if _WEIGHTS in version.files:
            self._weights = self._map_weights(version.path / _WEIGHTS)
        self._is_saved = True

    def _map_weights(self, path: Path) -> _Weights:
        arrays = map_arrays(path)
        weights = _Weights(
            starts=expect(path, arrays, "starts", np.int64),
            documents=expect(path, arrays, "documents", np.int32),
            weights=expect(path, arrays, "weights", np.float32),
            absent=expect(path, arrays, "absent", np.float32),
        )
        terms, entries = len(self._tokenizer.terms), len(weights.documents)
        if (
            len(weights.starts) != terms + 1
            or len(weights.absent) != terms
            or len(weights.weights) != entries
            or weights.starts[-1] != entries
        ):
            raise IndexFilesError(f"{path}: not for {terms} terms: rebuild the index")
        return weights

    def _check(self, version: Path) -> None:
        offsets, terms = self._rows.offsets, self._rows["terms"]
        if (np.diff(offsets) < 0).any() or not _is_below(terms, len(self._tokenizer.terms)):
            raise IndexFilesError(f"{version / _TERMS}: terms out of range: rebuild the index")
        weights = self._current_weights()
        if (np.diff(weights.starts) < 0).any() or not _is_below(weights.documents, len(self._rows)):
            raise IndexFilesError(f"{version / _WEIGHTS}: entries out of range: rebuild the index")


def _is_below(numbers: NDArray[np.int32], end: int) -> bool:
    return not len(numbers) or bool(numbers.min() >= 0 and numbers.max() < end)


def _check_texts(texts: Sequence[str]) -> None:
    """Refuse vectors, and one text in place of a list, which would be read letter by letter."""
    if isinstance(texts, str) or not all(isinstance(text, str) for text in texts):
        given = type(texts if isinstance(texts, str) else next(iter(texts))).__name__
        raise InputError(f"a lexical index takes a list of texts, got {given}")


class _Rows(Sequence[list[int]]):
    """The terms of some documents, one list at a time: millions of lists would not fit."""

    def __init__(self, rows: RaggedRows, documents: NDArray[np.int64]) -> None:
        self._starts, self._ends = rows.offsets[:-1][documents], rows.offsets[1:][documents]
        self._terms = rows["terms"]

    def __len__(self) -> int:
        return len(self._starts)

    def __getitem__(self, row: Any) -> Any:
        terms: list[int] = self._terms[self._starts[row] : self._ends[row]].tolist()
        return terms

    def has_terms(self) -> bool:
        return bool((self._ends > self._starts).any())
