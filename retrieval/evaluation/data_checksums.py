"""Checksums of a BEIR folder's files, remembered so that they need not be read again."""

from __future__ import annotations

import hashlib
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from retrieval.corpus import find_jsonl
from retrieval.errors import InputError, RetrievalError
from retrieval.evaluation.data_folders import is_read_only
from retrieval.files import read_json, sha256, write_json

logger = logging.getLogger(__name__)

SIDE_FILE = ".checksums.json"


@dataclass(frozen=True, kw_only=True)
class DataChecksums:
    """The SHA-256, in hexadecimal, of each file that one split of a BEIR folder needs.

    Gzipped files count as they are: packing the same data anew changes them.

    Attributes:
        corpus: of corpus.jsonl[.gz].
        queries: of queries.jsonl[.gz].
        judgements: of the split's file in qrels/.
    """

    corpus: str
    queries: str
    judgements: str

    @property
    def data(self) -> str:
        """One checksum of the three: "sha256:" and 64 hexadecimal digits."""
        content = "".join(f"{each}\n" for each in (self.corpus, self.queries, self.judgements))
        return f"sha256:{hashlib.sha256(content.encode()).hexdigest()}"


def data_checksums(folder: Path, split: str) -> DataChecksums:
    """Compute, or remember, the checksums of a BEIR folder's corpus, queries and one split.

    A file is read once for each size and time of change; what was found is kept in the folder's
    `.checksums.json`, unless the folder is read-only.

    Args:
        folder: a BEIR folder.
        split: the judgements' split.

    Raises:
        InputError: a file is missing.
    """
    paths = {
        "corpus.jsonl": find_jsonl(folder, "corpus"),
        "queries.jsonl": find_jsonl(folder, "queries"),
        f"qrels/{split}.tsv": folder / "qrels" / f"{split}.tsv",
    }
    known = _remembered(folder)
    entries = {}
    for name, path in paths.items():
        if path is None or not path.is_file():
            raise InputError(f"{folder}: no {name} to take a checksum of")
        entries[str(path.relative_to(folder))] = _entry(folder, path, known)
    if any(known.get(name) != entry for name, entry in entries.items()):
        _remember(folder, {**known, **entries})
    corpus, queries, judgements = (str(entry["sha256"]) for entry in entries.values())
    return DataChecksums(corpus=corpus, queries=queries, judgements=judgements)


def data_checksum(folder: Path, split: str) -> str:
    """One checksum of all three files; see `data_checksums`."""
    return data_checksums(folder, split).data


def _entry(folder: Path, path: Path, known: dict[str, Any]) -> dict[str, Any]:
    status = path.stat()
    state = {"bytes": status.st_size, "changed_ns": status.st_mtime_ns}
    before = known.get(str(path.relative_to(folder)))
    if isinstance(before, dict) and state.items() <= before.items() and "sha256" in before:
        return before
    return {**state, "sha256": sha256(path)}


def _remembered(folder: Path) -> dict[str, Any]:
    try:
        known = read_json(folder / SIDE_FILE)
    except RetrievalError:  # absent, or cut off: it is made anew
        return {}
    return known if isinstance(known, dict) else {}


def _remember(folder: Path, entries: dict[str, Any]) -> None:
    if is_read_only(folder):
        return
    try:
        write_json(folder / SIDE_FILE, entries)
    except OSError as error:
        logger.info("%s: checksums are not remembered (%s)", folder, error)
