"""Stages of an evaluation, each done once, kept in a folder that is named by what it depends on.

    CACHE/embeddings/KEY/stage.json    what it was made from, what it took; written at the end
    CACHE/embeddings/KEY/LOCK          locked by the process that works on it
    CACHE/embeddings/KEY/...           what was made
    CACHE/queries/, CACHE/indexes/, CACHE/runs/   likewise

KEY is a SHA-256 of the stage's inputs. Several processes may share a cache: the second one that
wants a stage waits for the first, and finds it done. A killed process leaves its folder without
stage.json; the next one goes on with what is in it. Any folder may be removed at any time when no
evaluation runs: what is missing is made again.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import logging
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from retrieval.config import from_mapping, to_mapping
from retrieval.evaluation.peak_memory import PeakMemory
from retrieval.files import read_json, write_json

logger = logging.getLogger(__name__)

StageName = Literal["embeddings", "queries", "indexes", "runs"]

_RECORD = "stage.json"
_BEGUN = "begun.json"
_LOCK = "LOCK"
_KEY_DIGITS = 32


@dataclass(frozen=True, kw_only=True)
class StageCost:
    """What a stage took.

    Attributes:
        name: such as "encode corpus".
        of: which one: the name of a model, a kind of index, a system.
        seconds: of the work itself, the stages that it needs not counted.
        peak_memory_bytes: resident at the highest, of this process; what the stages before it left
            in memory counts.
        is_reused: it had been done before, and its figures are those of that time.
        is_continued: it was begun by a run that was killed; the seconds are those of the last
            run alone.
    """

    name: str
    of: str
    seconds: float
    peak_memory_bytes: int
    is_reused: bool = False
    is_continued: bool = False


@dataclass(frozen=True, kw_only=True)
class Stage:
    """A stage that is done.

    Attributes:
        key: of its inputs.
        folder: what was made.
        costs: its own first, then those of the stages that it needed.
        facts: what its maker noted.
    """

    key: str
    folder: Path
    costs: tuple[StageCost, ...]
    facts: Mapping[str, Any]


def stage_key(inputs: Mapping[str, Any]) -> str:
    """The name of a stage's folder: the same for equal inputs, whatever their order."""
    content = json.dumps(inputs, sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(content.encode()).hexdigest()[:_KEY_DIGITS]


class StageCache:
    """A folder of stages.

    Attributes:
        folder: created when the first stage is made.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)

    def get(
        self,
        kind: StageName,
        inputs: Mapping[str, Any],
        make: Callable[..., Mapping[str, Any] | None],
        *,
        name: str,
        of: str,
        needs: Sequence[Callable[[], Stage]] = (),
    ) -> Stage:
        """A stage, made now if it is not there.

        Args:
            kind: the folder that it goes to.
            inputs: JSON values, everything that decides what is made.
            make: called as `make(folder, *needed)`; fills the folder, where a killed run may have
                left something, and returns facts for the record.
            name: of its costs.
            of: of its costs.
            needs: give the stages that `make` takes; asked only where it is called.
        """
        key = stage_key(inputs)
        folder = self.folder / kind / key
        found = _read(folder, key)
        if found is not None:
            return found
        with _locked(folder):
            found = _read(folder, key)  # another process may have made it meanwhile
            if found is not None:
                return found
            is_continued = (folder / _BEGUN).exists()
            write_json(folder / _BEGUN, {"inputs": inputs})
            needed = [need() for need in needs]
            with PeakMemory() as memory:
                started = time.perf_counter()
                facts = make(folder, *needed) or {}
                seconds = time.perf_counter() - started
            own = StageCost(
                name=name,
                of=of,
                seconds=seconds,
                peak_memory_bytes=memory.bytes,
                is_continued=is_continued,
            )
            costs = (own, *(cost for each in needed for cost in each.costs))
            record = {"inputs": inputs, "costs": list(map(to_mapping, costs)), "facts": facts}
            write_json(folder / _RECORD, record)
            (folder / _BEGUN).unlink()
        logger.info("%s of %s: %.1f s, kept in %s", name, of, seconds, folder)
        return Stage(key=key, folder=folder, costs=costs, facts=facts)


def _read(folder: Path, key: str) -> Stage | None:
    path = folder / _RECORD
    if not path.is_file():
        return None
    record = read_json(path)
    costs = [from_mapping(StageCost, each, source=str(path)) for each in record["costs"]]
    return Stage(
        key=key,
        folder=folder,
        costs=tuple(replace(each, is_reused=True) for each in costs),
        facts=record["facts"],
    )


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Hold the folder's lock; wait for whoever holds it. The system frees a killed process's."""
    folder.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(folder / _LOCK, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            owner = os.pread(descriptor, 20, 0).decode("ascii", "replace").strip()
            logger.warning("%s: waiting for process %s, which makes it", folder, owner)
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
        yield
    finally:
        os.close(descriptor)
