"""Whether the data that are there are those that a suite means: their sizes and their checksum."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from retrieval.config import from_mapping, to_mapping
from retrieval.corpus import find_jsonl
from retrieval.errors import DownloadError
from retrieval.evaluation.data_checksums import data_checksum
from retrieval.evaluation.data_folders import exclusive, is_read_only, read_record
from retrieval.evaluation.data_sets import locate
from retrieval.evaluation.suites import DataSet
from retrieval.files import count_lines, read_json, write_json
from retrieval.qrels import read_qrels

logger = logging.getLogger(__name__)

SEEN_FILE = "seen.json"
"""In the folder of data: the checksum and sizes of each data set when it was seen first."""


@dataclass(frozen=True, kw_only=True)
class DataFacts:
    """What a data set was found to be."""

    checksum: str
    """As `data_checksum` computes it."""
    documents: int
    queries: int
    """That are judged in the split."""
    relevant: int
    """Judgements of 1 or more."""
    bytes: int
    """Of the corpus, the queries and the split's judgements on disk."""


@dataclass(frozen=True, kw_only=True)
class CheckedData:
    """A data set that is what its suite says, as far as that says something."""

    path: Path
    facts: DataFacts
    is_first_seen: bool
    """Nothing stated the checksum, and this was the first look: it is what later ones must find."""


def check_data(data_set: DataSet, folder: Path) -> CheckedData:
    """Compare a data set that is there with the sizes and the checksum that it must have.

    The checksum is the suite's, else the one that was found first, which `seen.json` in the
    folder of data keeps (unless that folder is read-only). Files that have not changed since are
    not read. A folder that somebody has put there is taken for what its name says, with a warning
    at the first look where the suite has no checksum.

    Args:
        data_set: of a suite.
        folder: what holds all data sets.

    Raises:
        InputError: it is not there, or its judgements can't be read.
        DownloadError: another size or checksum; the message names what was found and expected.
    """
    path = locate(data_set, folder)
    checksum = data_checksum(path, data_set.split)
    key = " ".join(filter(None, (data_set.source, data_set.revision, data_set.split)))
    entries = _seen(folder)
    seen = entries.get(key)
    if not seen and not data_set.checksum and data_set.kind != "folder" and not read_record(path):
        others = [name for name, each in entries.items() if each.checksum == checksum]
        also = f", and they were taken for {others[0]} before" if others else ""
        logger.warning(
            "%s: nothing says that the data in %s are those of %s%s: they are taken for them",
            data_set.name, path, data_set.source, also,
        )  # fmt: skip
    expected = data_set.checksum or (seen.checksum if seen else checksum)
    if checksum != expected:
        origin = "the suite says" if data_set.checksum else f"{folder / SEEN_FILE} says"
        raise DownloadError(
            f"{data_set.name}: the checksum of {path} is {checksum}, and {origin} {expected}: the "
            "data have changed. Remove them to have them made anew, or remove that entry to trust "
            "these"
        )
    facts = seen if seen and seen.checksum == checksum else _facts(path, data_set.split, checksum)
    _check_sizes(data_set, path, facts)
    if facts != seen and not is_read_only(folder):
        with exclusive(folder / SEEN_FILE):
            write_json(
                folder / SEEN_FILE,
                {name: to_mapping(each) for name, each in {**_seen(folder), key: facts}.items()},
            )
    return CheckedData(
        path=path, facts=facts, is_first_seen=seen is None and data_set.checksum is None
    )


def _check_sizes(data_set: DataSet, path: Path, facts: DataFacts) -> None:
    problems = [
        f"{found:,} {name}, not {expected:,}"
        for name in ("documents", "queries", "relevant")
        if (expected := getattr(data_set, name)) not in (None, found := getattr(facts, name))
    ]
    if problems:
        raise DownloadError(
            f"{data_set.name}: {path} ({data_set.split}) has {'; '.join(problems)}: these are "
            "other data than the suite's, or a part of them"
        )


def _facts(path: Path, split: str, checksum: str) -> DataFacts:
    corpus, queries = find_jsonl(path, "corpus"), find_jsonl(path, "queries")
    assert corpus is not None, "located"
    assert queries is not None, "located"
    judgements = path / "qrels" / f"{split}.tsv"
    qrels = read_qrels(judgements)
    return DataFacts(
        checksum=checksum,
        documents=count_lines(corpus),
        queries=len(qrels),
        relevant=sum(grade > 0 for judged in qrels.values() for grade in judged.values()),
        bytes=sum(each.stat().st_size for each in (corpus, queries, judgements)),
    )


def _seen(folder: Path) -> dict[str, DataFacts]:
    path = folder / SEEN_FILE
    if not path.exists():
        return {}
    entries: dict[str, Any] = read_json(path)
    return {key: from_mapping(DataFacts, each, source=f"{path}") for key, each in entries.items()}
