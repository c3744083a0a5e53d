"""Training examples as the columns that Sentence Transformers' losses take, from any source."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from retrieval.errors import ConfigError
from retrieval.files import BadLines
from retrieval.training.example_store import LABEL, store_examples
from retrieval.training.joined_texts import read_joined_rows
from retrieval.training.leaks import refuse_leaks
from retrieval.training.sources import Row

if TYPE_CHECKING:
    from datasets import Dataset

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class MixedSource:
    """One of several data sets, and its share of the examples."""

    path: str
    """As in `DataSettings.train`."""
    weight: float
    """In proportion to the others'."""

    def __post_init__(self) -> None:
        if not 0 < self.weight < math.inf:
            raise ConfigError(f"{self.path}: the weight is {self.weight}, expected more than 0")


@dataclass(frozen=True, kw_only=True)
class DataSettings:
    """Where the training examples come from."""

    train: tuple[str, ...] = ()
    """JSONL (.gz too) and Parquet files, folders that `datasets` saved, or
    `hf:NAME[:SUBSET[:SPLIT]]`, one after the other. Columns: `anchor` or `query`, `positive` and
    any `negative*`; or, for distillation, `query`, `documents` and `scores` (or `query_id`,
    `document_ids` and `scores`, beside the texts' files or subsets). Paths are from the current
    folder."""
    mix: tuple[MixedSource, ...] = ()
    """Several data sets instead, interleaved at random by weight."""
    mix_until: Literal["first_exhausted", "all_exhausted"] = "first_exhausted"
    """Where a mix ends: with the first data set that has no more, or with the last, the others
    being repeated."""
    limit: int | None = None
    """Read at most this many examples, of each data set of a mix."""
    skip_bad: bool = False
    """Skip and count rows that can't be used."""
    leak_check: tuple[str, ...] = ()
    """BEIR folders whose judged queries must not be trained on."""
    allow_leaks: bool = False
    """Train on them all the same; the number is logged."""
    cache: str | None = None
    """Folder for the examples as Arrow files during the run; the system's temporary one without."""

    def __post_init__(self) -> None:
        if self.train and self.mix:
            raise ConfigError("data.train and data.mix exclude each other")

    @property
    def sources(self) -> tuple[str, ...]:
        """All that is read."""
        return self.train or tuple(each.path for each in self.mix)


def read_examples(
    data: DataSettings, *, scored: bool, limit: int | None = None, seed: int = 0
) -> Dataset:
    """Read what a recipe names, once it is clear that it holds no evaluation data.

    Args:
        data: the recipe's table.
        scored: read queries with scored documents, instead of pairs, triplets or tuples.
        limit: in place of `data.limit`.
        seed: of the order in which data sets are mixed.

    Raises:
        ConfigError: no sources, or data sets of a mix with different columns.
        InputError: a row that can't be used; the message has file and line.
        LeakError: rows that are in the evaluation data.
        MissingExtraError: the extra `train` is not installed.
    """
    refuse_leaks(data.sources, data.leak_check, allow=data.allow_leaks)
    read = read_distillation if scored else read_contrastive
    limit = limit if limit is not None else data.limit
    if not data.mix:
        return read(data.train, limit, skip_bad=data.skip_bad, cache=data.cache)
    from datasets import interleave_datasets

    parts = [
        read([each.path], limit, skip_bad=data.skip_bad, cache=data.cache) for each in data.mix
    ]
    for source, part in zip(data.mix, parts):
        if part.column_names != parts[0].column_names:
            raise ConfigError(
                f"{source.path} has the columns {part.column_names}, {data.mix[0].path} has "
                f"{parts[0].column_names}: a mix needs the same in all"
            )
    total = math.fsum(each.weight for each in data.mix)
    return interleave_datasets(
        parts,
        probabilities=[each.weight / total for each in data.mix],
        seed=seed,
        stopping_strategy=data.mix_until,
    )


def read_contrastive(
    paths: Sequence[str | Path],
    limit: int | None = None,
    *,
    skip_bad: bool = False,
    cache: str | Path | None = None,
) -> Dataset:
    """Read pairs, triplets or n-tuples.

    Args:
        paths: sources with `anchor` (or `query`), `positive` and, in all rows or in none,
            `negative`, `negative_1`, ... columns; other columns are passed over.
        limit: read at most this many rows.
        skip_bad: skip and count rows that can't be used.
        cache: see `store_examples`.

    Returns:
        A dataset with the columns query, positive and the negatives.

    Raises:
        InputError: a row lacks a column or has an empty text; the message has file and line.
        MissingExtraError: the extra `train` is not installed.
    """
    bad_lines = _bad_rows(skip_bad)
    return _stored(_contrastive_rows(paths, bad_lines), bad_lines, limit, cache)


def read_distillation(
    paths: Sequence[str | Path],
    limit: int | None = None,
    *,
    skip_bad: bool = False,
    cache: str | Path | None = None,
) -> Dataset:
    """Read queries with scored documents.

    Args:
        paths: sources with `query`, `documents` (texts) and `scores` (numbers); every row has the
            same number of documents, at least 2. Rows with `query_id` and `document_ids` are
            joined with the texts beside them, see `joined_texts`.
        limit: read at most this many rows.
        skip_bad: skip and count rows that can't be used.
        cache: see `store_examples`.

    Returns:
        A dataset with the columns query, document_1 ... document_N and label (N scores).

    Raises:
        InputError: a row of another form; the message has file and line.
        MissingExtraError: the extra `train` is not installed.
    """
    bad_lines = _bad_rows(skip_bad)
    return _stored(_distillation_rows(paths, bad_lines), bad_lines, limit, cache)


def _contrastive_rows(paths: Sequence[str | Path], bad_lines: BadLines) -> Iterator[dict[str, Any]]:
    columns: list[str] | None = None
    for row in _rows(paths, bad_lines):
        example = {"query": row.values.get("anchor", row.values.get("query"))}
        example["positive"] = row.values.get("positive")
        example |= {key: row.values[key] for key in sorted(row.values) if _is_negative(key)}
        problem = _text_problem(example, row.values)
        if problem is None and list(example) != (columns or list(example)):
            problem = f"has {list(example)}, the lines before {columns}"
        if problem:
            bad_lines.report(row.source, row.number, problem)
            continue
        columns = columns or list(example)
        yield example


def _distillation_rows(
    paths: Sequence[str | Path], bad_lines: BadLines
) -> Iterator[dict[str, Any]]:
    count: int | None = None
    for row in _rows(paths, bad_lines):
        values = row.values
        problem = _score_problem(values, count)
        if problem:
            bad_lines.report(row.source, row.number, problem)
            continue
        count = count or len(values["documents"])
        example: dict[str, Any] = {"query": values["query"]}
        example |= {f"document_{at}": text for at, text in enumerate(values["documents"], 1)}
        example[LABEL] = [float(score) for score in values["scores"]]
        yield example


def _is_negative(column: str) -> bool:
    return column == "negative" or column.startswith(("negative_", "negative-"))


def _text_problem(example: Mapping[str, Any], values: Mapping[str, Any]) -> str | None:
    if "anchor" in values and "query" in values:
        return "has both 'anchor' and 'query', expected one of them"
    for column, text in example.items():
        if not isinstance(text, str) or not text.strip():
            return f"expected text under '{column}', found {text!r} among the keys {sorted(values)}"
    return None


def _score_problem(values: Mapping[str, Any], count: int | None) -> str | None:
    query, documents, scores = (values.get(each) for each in ("query", "documents", "scores"))
    if not isinstance(query, str) or not query.strip():
        return f"expected text under 'query', found {query!r}"
    if not isinstance(documents, list) or not isinstance(scores, list):
        return "expected lists under 'documents' and 'scores'"
    expected = max(count or len(documents), 2)
    if not len(documents) == len(scores) == expected:
        return (
            f"{len(documents)} documents and {len(scores)} scores, expected {expected} of each, as "
            "in the first line"
        )
    if not all(isinstance(text, str) and text.strip() for text in documents):
        return "expected texts under 'documents', one is empty"
    if not all(type(score) in (int, float) and math.isfinite(score) for score in scores):
        return f"expected finite numbers under 'scores', found {scores}"
    return None


def _rows(paths: Sequence[str | Path], bad_lines: BadLines) -> Iterator[Row]:
    if not paths:
        raise ConfigError("data.train names no files")
    for path in paths:
        yield from read_joined_rows(path, bad_lines)


def _stored(
    rows: Iterator[dict[str, Any]],
    bad_lines: BadLines,
    limit: int | None,
    cache: str | Path | None,
) -> Dataset:
    try:
        return store_examples(rows, limit=limit, cache=cache)
    finally:
        if bad_lines.count:
            logger.warning("%d rows that can't be used were skipped", bad_lines.count)


def _bad_rows(skip: bool) -> BadLines:
    return BadLines(skip=skip, advice="data.skip_bad = true skips and counts such rows")
