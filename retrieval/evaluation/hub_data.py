"""Data sets of the Hugging Face hub, written out as BEIR folders."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from retrieval.errors import DownloadError, InputError, MissingExtraError
from retrieval.evaluation.downloads import TIMEOUT_SECONDS, is_offline
from retrieval.evaluation.hub_layout import HubJudgements, HubPairs, HubTable, HubTexts
from retrieval.evaluation.suites import DataSet
from retrieval.files import atomic_write
from retrieval.records import Judgement
from retrieval.training.sources import read_rows


class _Row(NamedTuple):
    place: str
    """The table and the row's number, for messages."""
    number: int
    values: Mapping[str, Any]


def write_hub_data(data_set: DataSet, folder: Path, *, advice: str = "") -> None:
    """Fetch a data set's tables at their revision; write corpus, queries and judgements.

    `datasets` fetches into its own cache, where an interrupted download goes on.

    Args:
        data_set: one with an hf source.
        folder: where the BEIR files go.
        advice: what to do without a network, for the message.

    Raises:
        MissingExtraError: `datasets` is not installed.
        DownloadError: the hub can't be reached, or has no such data set, subset or split.
        InputError: a column is missing or holds what can't be used; the message names the row.
    """
    try:
        if not is_offline() and not Path(data_set.place).exists():
            _check_network()  # `datasets` would try again for half a minute
        _write_tables(data_set, folder)
    except DownloadError as error:
        raise DownloadError(f"{data_set.name}: {error}; {advice}") from error


def _write_tables(data_set: DataSet, folder: Path) -> None:
    layout = data_set.hub
    if layout.pairs is not None:
        documents, queries, judgements = _read_pairs(data_set, layout.pairs)
    else:
        documents = _read_texts(data_set, layout.corpus)
        queries = _read_texts(data_set, layout.queries)
        judgements = _read_judgements(data_set, layout.judgements)
    _write_lines(folder / "corpus.jsonl", documents)
    _write_lines(folder / "queries.jsonl", queries)
    with atomic_write(folder / "qrels" / f"{data_set.split}.tsv") as stream:
        stream.write(b"query-id\tcorpus-id\tscore\n")
        for judgement in judgements:
            stream.write("{}\t{}\t{}\n".format(*judgement).encode())


def _read_texts(data_set: DataSet, table: HubTexts) -> Iterator[dict[str, str]]:
    for row in _rows(data_set, table):
        id_column = table.id or ("_id" if "_id" in row.values else "id")
        title = str(row.values.get(table.title) or "")
        yield {
            "_id": str(_value(row, id_column)),
            **({"title": title} if title else {}),
            "text": _text(row, table.text),
        }


def _read_judgements(data_set: DataSet, table: HubJudgements) -> Iterator[Judgement]:
    for row in _rows(data_set, table):
        relevance = row.values.get(table.relevance, 1)
        if not isinstance(relevance, (int, float)) or relevance != int(relevance):
            raise InputError(
                f"{row.place}: expected a whole number under {table.relevance!r}, "
                f"found {relevance!r}"
            )
        query, document = str(_value(row, table.query)), str(_value(row, table.document))
        yield Judgement(query, document, int(relevance))


def _read_pairs(
    data_set: DataSet, table: HubPairs
) -> tuple[Iterator[dict[str, str]], Iterator[dict[str, str]], Iterator[Judgement]]:
    def identifier(row: _Row) -> str:
        return str(_value(row, table.id)) if table.id else str(row.number)

    def texts(prefix: str, column: str) -> Iterator[dict[str, str]]:
        for row in _rows(data_set, table):
            yield {"_id": f"{prefix}{identifier(row)}", "text": _text(row, column)}

    def judgements() -> Iterator[Judgement]:
        for row in _rows(data_set, table):
            yield Judgement(f"q:{identifier(row)}", identifier(row), 1)

    return texts("", table.document), texts("q:", table.query), judgements()


def _rows(data_set: DataSet, table: HubTable) -> Iterator[_Row]:
    rows, name = _load(data_set, table)
    for number, values in enumerate(rows):
        row = _Row(f"{name}, row {number}", number, values)
        if all(_value(row, column) == wanted for column, wanted in table.where.items()):
            yield row


def _load(data_set: DataSet, table: HubTable) -> tuple[Iterable[Mapping[str, Any]], str]:
    """The rows of a table, and what it is called."""
    try:
        import datasets
        from huggingface_hub import hf_hub_download
    except ImportError as error:
        raise MissingExtraError("Fetching data from the Hugging Face hub", "train") from error
    repository, revision, split = data_set.place, data_set.revision, table.split
    subset = table.file or table.subset or "its only subset"
    try:
        if table.file:
            path = Path(repository) / table.file
            if not path.is_file():
                path = Path(
                    hf_hub_download(repository, table.file, repo_type="dataset", revision=revision)
                )
            return (row.values for row in read_rows(path)), f"{repository} ({subset})"
        if split is None:
            splits = datasets.get_dataset_split_names(repository, table.subset, revision=revision)
            split = _choose_split(data_set, table, splits)
        rows = datasets.load_dataset(repository, table.subset, split=split, revision=revision)
    except (datasets.exceptions.DatasetsError, OSError, ValueError) as error:
        raise DownloadError(
            f"{repository} ({subset}) at {revision} can't be fetched from the hub ({error})"
        ) from error
    return rows, f"{repository} ({subset}, {split})"


def _choose_split(data_set: DataSet, table: HubTable, splits: list[str]) -> str:
    if data_set.split in splits:
        return data_set.split
    if len(splits) == 1:
        return splits[0]
    raise DownloadError(
        f"{data_set.place} ({table.subset}) has no split {data_set.split!r}; there are: "
        f"{', '.join(splits)}: name one in the suite"
    )


def _check_network() -> None:
    from huggingface_hub import constants

    try:
        urllib.request.urlopen(constants.ENDPOINT, timeout=TIMEOUT_SECONDS).close()
    except urllib.error.HTTPError:  # an answer all the same
        pass
    except OSError as error:
        reason = getattr(error, "reason", error)
        raise DownloadError(f"{constants.ENDPOINT}: can't be reached ({reason})") from error


def _value(row: _Row, column: str) -> Any:
    if column not in row.values:
        raise InputError(f"{row.place}: no column {column!r}; there are: {', '.join(row.values)}")
    return row.values[column]


def _text(row: _Row, column: str) -> str:
    value = _value(row, column)
    if isinstance(value, list):
        return " ".join(map(str, value))
    return "" if value is None else str(value)


def _write_lines(path: Path, records: Iterable[Mapping[str, str]]) -> None:
    with atomic_write(path) as stream:
        for record in records:
            stream.write(json.dumps(record, ensure_ascii=False).encode() + b"\n")
