"""Results as `retrieval eval --output` leaves them in folders, gathered by system."""

from __future__ import annotations

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


def read_systems(paths: Sequence[Path]) -> list[MeasuredSystem]:
    """Read one system from each path: a result file, or a folder with results at any depth.

    A system is called what its results call it. Where they do not agree, or two systems would
    have the same name, the paths are the names.

    Raises:
        InputError: nothing is at a path, it holds no result, or two results of one data set.
        ConfigError: a path is given twice, or a file does not hold a result.
        RetrievalError: a file is not JSON.
    """
    for at, path in enumerate(paths):
        if path.resolve() in [each.resolve() for each in paths[:at]]:
            raise ConfigError(f"{path}: given twice; each system has results of its own")
    systems = [_read_system(path) for path in paths]
    names = [{result.system for result in each.results.values()} for each in systems]
    if all(len(each) == 1 for each in names) and len(set().union(*names)) == len(names):
        return [replace(each, name=name) for each, (name,) in zip(systems, names)]
    return systems


def _read_system(path: Path) -> MeasuredSystem:
    found: dict[DataSet, Path] = {}
    results: dict[DataSet, Result] = {}
    for file in _result_files(path):
        result = Result.from_json(file)
        data_set = DataSet(result.collection, result.split)
        if data_set in found:
            raise InputError(
                f"{path}: two results on {data_set}, {found[data_set]} and {file}: give each "
                "system's results a folder of their own"
            )
        found[data_set], results[data_set] = file, result
    runs = {data_set: run for data_set, file in found.items() if (run := _run_file(file)).exists()}
    return MeasuredSystem(name=str(path), results=results, runs=runs)


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
