"""Results as `retrieval eval --output` leaves them in folders, gathered by system."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

from retrieval.errors import ConfigError, InputError
from retrieval.evaluation.result import Result

_RESULT = "result.json"
_RUN = "run.trec"


class DataSet(NamedTuple):
    """What a result was measured on, by name."""

    collection: str
    split: str

    def __str__(self) -> str:
        return self.collection if self.split == "test" else f"{self.collection} {self.split}"


@dataclass(frozen=True, kw_only=True)
class MeasuredSystem:
    """One system and its results; made by `read_systems`."""

    name: str
    results: dict[DataSet, Result]
    runs: dict[DataSet, Path]
    """TREC runs, of the results that have kept theirs."""


def read_systems(paths: Sequence[Path], baseline: str | None = None) -> list[MeasuredSystem]:
    """Read the systems of result files, or of folders that hold results at any depth.

    Results of one path that bear the same system's name are one system. Where that name comes in
    several paths, it is a system for each, with the path behind its name.

    Args:
        paths: files and folders.
        baseline: the name of the system that comes first; by default as the paths have them.

    Raises:
        InputError: nothing is at a path, it holds no result, or two of one system on one data set.
        ConfigError: a path is given twice, a file does not hold a result, or no system is called
            as the baseline.
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
    systems: dict[str, MeasuredSystem] = {}
    files: dict[tuple[str, DataSet], Path] = {}
    for file in _result_files(path):
        result = Result.from_json(file)
        data_set = DataSet(result.collection, result.split)
        other = files.setdefault((result.system, data_set), file)
        if other != file:
            raise InputError(
                f"{path}: two results of {result.system} on {data_set}, {other} and {file}: give "
                "the path of each"
            )
        empty = MeasuredSystem(name=result.system, results={}, runs={})
        system = systems.setdefault(result.system, empty)
        system.results[data_set] = result
        run = _run_file(file)
        if run.exists():
            system.runs[data_set] = run
    return list(systems.values())


def _result_files(path: Path) -> list[Path]:
    if path.is_file():
        return [path]
    if not path.exists():
        raise InputError(f"{path}: no such file or folder")
    files = sorted(path.rglob(_RESULT))
    if not files:
        raise InputError(
            f"{path}: no {_RESULT} in this folder or below (`retrieval eval --output` writes it)"
        )
    return files


def _run_file(result: Path) -> Path:
    return result.with_name(_RUN) if result.name == _RESULT else result.with_suffix(".trec")
