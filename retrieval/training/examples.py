"""Training examples from JSON lines, as the columns that Sentence Transformers' losses take."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from retrieval.errors import ConfigError, InputError, MissingExtraError
from retrieval.files import BadLines, read_jsonl

if TYPE_CHECKING:
    from datasets import Dataset


@dataclass(frozen=True, kw_only=True)
class DataSettings:
    """Where the training examples come from."""

    train: tuple[str, ...]
    """JSONL files (.gz too) with `anchor`/`query`, `positive` and any `negative*` columns, or, for
    distillation, `query`, `documents` and `scores`; paths from the current folder."""
    limit: int | None = None
    """Read at most this many examples."""


def read_contrastive(paths: Sequence[str | Path], limit: int | None = None) -> Dataset:
    """Read pairs, triplets or n-tuples.

    Args:
        paths: JSONL files with `anchor` (or `query`), `positive` and, in all lines or in none,
            `negative`, `negative_1`, ... columns; other columns are passed over.
        limit: read at most this many lines.

    Returns:
        A dataset with the columns query, positive and the negatives.

    Raises:
        InputError: a line lacks a column or has an empty text; the message has file and line.
        MissingExtraError: the extra `train` is not installed.
    """
    return _dataset(_contrastive_rows(paths), limit)


def read_distillation(paths: Sequence[str | Path], limit: int | None = None) -> Dataset:
    """Read queries with scored documents.

    Args:
        paths: JSONL files with `query`, `documents` (texts) and `scores` (numbers); every line
            has the same number of documents, at least 2.
        limit: read at most this many lines.

    Returns:
        A dataset with the columns query, document_1 ... document_N and label (N scores).

    Raises:
        InputError: a line of another form; the message has file and line.
        MissingExtraError: the extra `train` is not installed.
    """
    return _dataset(_distillation_rows(paths), limit)


def _contrastive_rows(paths: Sequence[str | Path]) -> Iterator[dict[str, Any]]:
    columns: list[str] | None = None
    for path, number, record in _records(paths):
        row = {"query": record.get("anchor", record.get("query"))}
        row["positive"] = record.get("positive")
        row |= {key: record[key] for key in sorted(record) if key.startswith("negative")}
        for column, text in row.items():
            if not isinstance(text, str) or not text.strip():
                raise InputError(
                    f"{path}:{number}: expected text under '{column}', found {text!r} among the "
                    f"keys {sorted(record)}"
                )
        columns = columns or list(row)
        if list(row) != columns:
            raise InputError(f"{path}:{number}: has {list(row)}, the lines before {columns}")
        yield row


def _distillation_rows(paths: Sequence[str | Path]) -> Iterator[dict[str, Any]]:
    count: int | None = None
    for path, number, record in _records(paths):
        documents, scores = record.get("documents"), record.get("scores")
        if not isinstance(record.get("query"), str):
            raise InputError(f"{path}:{number}: expected text under 'query'")
        if not isinstance(documents, list) or not isinstance(scores, list):
            raise InputError(f"{path}:{number}: expected lists under 'documents' and 'scores'")
        count = count or len(documents)
        if not len(documents) == len(scores) == count or count < 2:
            raise InputError(
                f"{path}:{number}: {len(documents)} documents and {len(scores)} scores, expected "
                f"{max(count, 2)} of each, as in the first line"
            )
        row: dict[str, Any] = {"query": record["query"]}
        row |= {f"document_{at}": text for at, text in enumerate(documents, start=1)}
        row["label"] = [float(score) for score in scores]
        yield row


def _records(paths: Sequence[str | Path]) -> Iterator[tuple[Path, int, dict[str, Any]]]:
    if not paths:
        raise ConfigError("data.train names no files")
    for path in map(Path, paths):
        for number, record in read_jsonl(path, BadLines()):
            yield path, number, record


def _dataset(rows: Iterator[dict[str, Any]], limit: int | None) -> Dataset:
    try:
        import accelerate  # noqa: F401  (the trainers stop without it, later and less clearly)
        from datasets import Dataset
    except ImportError as error:
        raise MissingExtraError("Training", "train") from error
    examples = list(islice(rows, limit))
    if not examples:
        raise InputError("the training files hold no examples")
    return Dataset.from_list(examples)
