"""Results in files and folders, as `retrieval eval --output` leaves them, gathered by system."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

from retrieval.errors import ConfigError, InputError
from retrieval.evaluation.report_sources import find_sources
from retrieval.evaluation.result import Result
from retrieval.evaluation.score_distributions import RUN_FILE

_RESULT = "result.json"


class DataSet(NamedTuple):
    """What a result was measured on, by name."""

    collection: str
    split: str

    def __str__(self) -> str:
        return self.collection if self.split == "test" else f"{self.collection} {self.split}"


@dataclass(frozen=True, kw_only=True)
class MeasuredSystem:
    """One system and its results; made by `read_measured_systems`."""

    name: str
    results: dict[DataSet, Result]
    runs: dict[DataSet, Path]
    """TREC runs, of the results that have kept theirs."""


def read_measured_systems(
    paths: Sequence[Path], baseline: str | None = None
) -> list[MeasuredSystem]:
    """Read the systems of result files, or of folders that hold results at any depth.

    Results of one path with the same name are one system; two of them on the same data set are
    two, called by what differs in their paths. A name that comes in several paths is a system for
    each, with the path behind its name.

    Args:
        paths: files and folders.
        baseline: the name of the system that comes first; by default as the paths have them.

    Raises:
        InputError: nothing is at a path, or it holds no result.
        ConfigError: a path is given twice, a result can't be read, or no system is called as the
            baseline.
        RetrievalError: a file is not JSON.
    """
    for at, path in enumerate(paths):
        if path.resolve() in [each.resolve() for each in paths[:at]]:
            raise ConfigError(f"{path}: given twice; each system has results of its own")
    found = [(path, system) for path in paths for system in _read_path(path)]
    names = Counter(system.name for _, system in found)
    systems = [
        replace(system, name=f"{system.name} ({path})") if names[system.name] > 1 else system
        for path, system in found
    ]
    if baseline is not None:
        if baseline not in [each.name for each in systems]:
            known = ", ".join(each.name for each in systems)
            raise ConfigError(f"no system is called {baseline!r}; there are: {known}")
        systems.sort(key=lambda system: system.name != baseline)
    return systems


def _read_path(path: Path) -> list[MeasuredSystem]:
    sources = find_sources([path])
    if not sources.results:
        raise InputError(f"{path}: no result here (`retrieval eval --output` writes result.json)")
    systems: dict[str, MeasuredSystem] = {}
    for file, result in zip(sources.result_paths, sources.results):
        data_set = DataSet(result.collection, result.split)
        empty = MeasuredSystem(name=result.system, results={}, runs={})
        system = systems.setdefault(result.system, empty)
        system.results[data_set] = result
        run = file.with_name(RUN_FILE) if file.name == _RESULT else file.with_suffix(".trec")
        if run.exists():
            system.runs[data_set] = run
    return list(systems.values())
