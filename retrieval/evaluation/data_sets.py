"""From a data set of a suite to the BEIR folder that holds it: found, or fetched and made."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from retrieval.config import to_mapping
from retrieval.corpus import find_jsonl
from retrieval.errors import InputError
from retrieval.evaluation.beir_archives import unpack
from retrieval.evaluation.collection import splits_of
from retrieval.evaluation.data_folders import (
    check_record,
    exclusive,
    whole_folder,
    write_record,
)
from retrieval.evaluation.downloads import download
from retrieval.evaluation.hub_data import write_hub_data
from retrieval.evaluation.suites import DataSet
from retrieval.training.code_sources import extract_sources, find_code, write_collection

_ARCHIVES = ".archives"


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
        DownloadError: it was made of something else, such as another revision.
    """
    path = data_folder(data_set, folder)
    missing = [
        *(f"{stem}.jsonl" for stem in ("corpus", "queries") if find_jsonl(path, stem) is None),
        *([] if data_set.split in splits_of(path) else [f"qrels/{data_set.split}.tsv"]),
    ]
    if missing:
        raise InputError(
            f"{data_set.name} ({data_set.source}): {path} has no {', '.join(missing)}: "
            f"{_advice(data_set)}"
        )
    if data_set.kind != "folder":  # which may be a copy of any other
        check_record(path, _record(data_set))
    return path


def prepare(data_set: DataSet, folder: Path, *, progress: bool = False) -> Path:
    """The BEIR folder of a data set, which is fetched and made where it is not there.

    It is made in one step: a process that is killed leaves no half of it, and the next one goes
    on with what was downloaded. A folder that is there already is never changed.

    Args:
        data_set: of a suite.
        folder: what holds all data sets; created if missing.
        progress: show bars on stderr.

    Raises:
        InputError: as in `locate`, for data that can't be downloaded.
        DownloadError: no network, a damaged file, another checksum, or no room.
        MissingExtraError: a data set of the hub, and `datasets` is not installed.
    """
    top = data_folder(data_set, folder)
    if data_set.kind == "beir":
        top = folder / data_set.place.split("/")[0]
    if data_set.kind != "folder" and not top.exists():
        with exclusive(top):
            if not top.exists():  # nobody made it while this one waited
                _make(data_set, top, progress)
    return locate(data_set, folder)


def _make(data_set: DataSet, top: Path, progress: bool) -> None:
    if data_set.kind == "beir":
        _make_from_archive(data_set, top, progress)
        return
    with whole_folder(top) as unfinished:
        record = _record(data_set)
        if data_set.kind == "hf":
            advice = f"where there is a network, `retrieval data` makes the folder {top}: copy it"
            write_hub_data(data_set, unfinished, advice=advice)
        else:
            record["packages"] = _write_functions(data_set, unfinished)
        write_record(unfinished, record)


def _make_from_archive(data_set: DataSet, top: Path, progress: bool) -> None:
    assert data_set.archive_url is not None, "of a beir source"
    archive = top.parent / _ARCHIVES / f"{top.name}.zip"
    checksum = download(
        data_set.archive_url,
        archive,
        checksum=data_set.archive_checksum,
        advice=f"put the zip at {archive}, or what is in it at {top}",
        progress=progress,
    )
    with whole_folder(top) as unfinished:
        unpack(archive, top.name, unfinished)
        for corpus in unfinished.rglob("corpus.jsonl*"):
            part = (top.name / corpus.parent.relative_to(unfinished)).as_posix()
            record = {"source": f"beir:{part}", "url": data_set.archive_url}
            write_record(corpus.parent, {**record, "archive_checksum": checksum})
    archive.unlink()


def _write_functions(data_set: DataSet, folder: Path) -> list[str]:
    """The functions of installed packages as a BEIR folder; returns the packages and versions."""
    sources = [source for name in data_set.place.split(",") for source in find_code(name)]
    queries = write_collection(folder, list(extract_sources(sources)))
    if not queries:
        raise InputError(f"{data_set.source}: no function with a docstring")
    return sorted({source.package or source.name for source in sources})


def _record(data_set: DataSet) -> dict[str, Any]:
    """What tells the data set from another one of its name."""
    record: dict[str, Any] = {"source": data_set.source}
    if data_set.archive_checksum:
        record["archive_checksum"] = data_set.archive_checksum
    if data_set.kind == "hf":
        record |= {"revision": data_set.revision, "hub": to_mapping(data_set.hub)}
    return record


def _advice(data_set: DataSet) -> str:
    if data_set.obtain:
        return f"{data_set.obtain}; put it there as a BEIR folder"
    if data_set.kind == "folder":
        return "put a BEIR folder there"
    where = data_set.archive_url or data_set.source
    return f"`retrieval data` fetches it from {where}, or put a BEIR folder there"
