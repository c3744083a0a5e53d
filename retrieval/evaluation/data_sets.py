"""From a data set of a suite to the BEIR folder that holds it."""

from __future__ import annotations

from pathlib import Path

from retrieval.corpus import find_jsonl
from retrieval.errors import InputError
from retrieval.evaluation.collection import splits_of
from retrieval.evaluation.suites import DataSet


def data_folder(data_set: DataSet, folder: Path) -> Path:
    """Where the BEIR folder of a data set is, or will be, below the folder of data."""
    return folder / (data_set.place if data_set.kind in ("beir", "folder") else data_set.name)


def locate(data_set: DataSet, folder: Path) -> Path:
    """The BEIR folder of a data set that is there already.

    Args:
        data_set: of a suite.
        folder: what holds all data sets.

    Raises:
        InputError: it is not there, or a file of it is missing; the message says how to get it.
    """
    path = data_folder(data_set, folder)
    missing = [
        *(f"{stem}.jsonl" for stem in ("corpus", "queries") if find_jsonl(path, stem) is None),
        *([] if data_set.split in splits_of(path) else [f"qrels/{data_set.split}.tsv"]),
    ]
    if missing:
        raise InputError(
            f"{data_set.name} ({data_set.source}): {path} has no {', '.join(missing)}: "
            f"{_advice(data_set, path)}"
        )
    return path


def prepare(data_set: DataSet, folder: Path) -> Path:
    """The BEIR folder of a data set.

    Raises:
        InputError: as in `locate`.
    """
    return locate(data_set, folder)


def _advice(data_set: DataSet, path: Path) -> str:
    if data_set.obtain:
        return f"{data_set.obtain}; put it there as a BEIR folder"
    if data_set.archive_url:
        return f"unpack {data_set.archive_url} there"
    return "put a BEIR folder there"
