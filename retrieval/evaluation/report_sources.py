"""Find what a report is made of: results, index sweeps and training runs, in files and folders."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import zip_longest
from pathlib import Path
from typing import Any

from retrieval.errors import InputError
from retrieval.evaluation.index_sweep import SWEEP_FORMAT, IndexSweep
from retrieval.evaluation.result import Result
from retrieval.evaluation.results_matrix import data_set_name
from retrieval.files import read_json
from retrieval.training.run_folder import LOG
from retrieval.training.run_log import RunLog

logger = logging.getLogger(__name__)

_EXPECTED = (
    "expected result.json files of `retrieval eval`, sweeps of indexes/compare.py, or training "
    f"runs with a {LOG}"
)
_CLOSED = ("CURRENT", "modules.json", "embeddings.json")
"""Folders with one of these are an index, a model, embeddings: no result is inside."""
_RESULT_KEYS = frozenset({"system", "collection", "metrics", "per_query"})


@dataclass(frozen=True, kw_only=True)
class TrainingRun:
    """The log of a training run."""

    name: str
    """The folder's."""
    records: list[dict[str, Any]]


@dataclass(kw_only=True)
class ReportSources:
    """What was found, each in the order of the paths; systems have names of their own."""

    results: list[Result] = field(default_factory=list)
    result_paths: list[Path] = field(default_factory=list)
    """Where each of `results` comes from."""
    sweeps: list[IndexSweep] = field(default_factory=list)
    runs: list[TrainingRun] = field(default_factory=list)


def find_sources(paths: Sequence[Path]) -> ReportSources:
    """Read all results, sweeps and training runs that `paths` name or hold.

    Args:
        paths: files, or folders that are looked through to the bottom. JSON of another kind is
            passed over in a folder. What comes twice is read once.

    Raises:
        InputError: a path is missing, a named file is something else, or nothing was found.
        RetrievalError: a result or a sweep can't be read.
    """
    sources = ReportSources()
    seen: set[Path] = set()
    passed_over = 0
    for path in paths:
        if not path.exists():
            raise InputError(f"{path}: no such file or folder; {_EXPECTED}")
        for found in _files(path) if path.is_dir() else [path]:
            if found.resolve() in seen:
                continue
            seen.add(found.resolve())
            if not _add(sources, found):
                if found == path:
                    raise InputError(f"{path}: not a result, a sweep or a log; {_EXPECTED}")
                passed_over += 1
                logger.info("%s: passed over, neither a result nor a sweep", found)
    if not (sources.results or sources.sweeps or sources.runs):
        named = ", ".join(map(str, paths)) or "no paths"
        looked = f" ({passed_over} JSON files are something else)" if passed_over else ""
        raise InputError(f"{named}: nothing to report{looked}; {_EXPECTED}")
    _name_apart(sources)
    return sources


def _files(folder: Path) -> Iterator[Path]:
    """Logs and JSON files below a folder, sorted; a training run is not looked into further."""
    for current, inner, names in os.walk(folder):
        if LOG in names:
            inner.clear()
            yield Path(current) / LOG
            continue
        if any(name in names for name in _CLOSED):
            inner.clear()
            continue
        inner.sort()
        yield from (Path(current) / name for name in sorted(names) if name.endswith(".json"))


def _add(sources: ReportSources, path: Path) -> bool:
    """Read one file; False where it is of another kind."""
    if path.suffix == ".jsonl":
        records = RunLog(path).records() if path.name == LOG else []
        if not records:
            return False
        sources.runs.append(TrainingRun(name=path.resolve().parent.name, records=records))
        return True
    if path.suffix != ".json":
        return False
    content = read_json(path)
    if not isinstance(content, dict):
        return False
    if content.get("format") == SWEEP_FORMAT:
        sources.sweeps.append(IndexSweep.from_json(path))
        return True
    if content.keys() >= _RESULT_KEYS:
        sources.results.append(Result.from_json(path))
        sources.result_paths.append(path)
        return True
    return False


def _name_apart(sources: ReportSources) -> None:
    """Where systems of one name meet on one data set, add the parts of the paths that differ."""
    groups: dict[tuple[str, str], list[int]] = {}
    for number, result in enumerate(sources.results):
        groups.setdefault((result.system, data_set_name(result)), []).append(number)
    clashing = {key: numbers for key, numbers in groups.items() if len(numbers) > 1}
    for (system, _), numbers in clashing.items():
        paths = [sources.result_paths[number].resolve().with_suffix("").parts for number in numbers]
        steps = list(zip_longest(*paths, fillvalue=""))
        for number, *parts in zip(numbers, *(step for step in steps if len(set(step)) > 1)):
            origin = "/".join(filter(None, parts))
            sources.results[number] = replace(
                sources.results[number], system=f"{system} ({origin})"
            )
