"""One metric of many results as a matrix, systems by data sets."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from retrieval.errors import ConfigError, InputError
from retrieval.evaluation.metrics import parse_metrics
from retrieval.evaluation.report_tables import ABSENT, ReportTable, TableCell
from retrieval.evaluation.result import Result
from retrieval.evaluation.significance import SignificanceSettings, bootstrap

MEAN = "mean"

_TRIALS = 2_000


class Interval(NamedTuple):
    """A range that holds a mean with a confidence of 95 %."""

    low: float
    high: float


class Cell(NamedTuple):
    """What one system reached on one data set, or on the mean of all."""

    value: float
    interval: Interval
    """How far the value may move with other queries of the same data sets."""
    is_best: bool
    """Of its column, as shown with three digits, where there are several."""

    def __str__(self) -> str:
        return f"{self.value:.3f}"


@dataclass(frozen=True, kw_only=True)
class ResultsMatrix:
    """One metric of all systems on all data sets; made by `results_matrix`."""

    metric: str
    columns: tuple[str, ...]
    """Data sets, then "mean" where there are several."""
    rows: dict[str, tuple[Cell | None, ...]]
    """Cells by system; None where it was not measured, and for a mean that lacks a data set."""


def data_set_name(result: Result) -> str:
    """The collection, with its split where that is not "test"."""
    return result.collection if result.split == "test" else f"{result.collection} {result.split}"


def results_matrix(results: Sequence[Result], metric: str) -> ResultsMatrix:
    """Arrange one metric by system and data set, in the order of the results.

    Raises:
        InputError: there are no results, or two of a system on the same data set.
        ConfigError: an unknown metric, or one that no result has measured.
    """
    if not results:
        raise InputError("no results to show")
    name = str(parse_metrics([metric])[0])
    measured = [each for each in results if name in each.metrics]
    if not measured:
        known = ", ".join(dict.fromkeys(key for each in results for key in each.metrics))
        raise ConfigError(f"no result has measured {name}; there are: {known}")
    found: dict[tuple[str, str], Result] = {}
    for each in measured:
        key = (each.system, data_set_name(each))
        if key in found:
            raise InputError(
                f"two results on {key[1]} are called {key[0]!r}: give each system a name of its own"
            )
        found[key] = each
    data_sets = list(dict.fromkeys(data_set_name(each) for each in measured))
    rows = {
        system: _row([found.get((system, data_set)) for data_set in data_sets], name)
        for system in dict.fromkeys(each.system for each in measured)
    }
    columns = [*data_sets, MEAN] if len(data_sets) > 1 else data_sets
    return ResultsMatrix(metric=name, columns=tuple(columns), rows=_with_best(rows))


def matrix_table(matrix: ResultsMatrix, *, intervals: bool = True) -> ReportTable:
    """The matrix with a row a system; `intervals` puts each behind its value."""
    return ReportTable(
        caption=matrix.metric,
        header=("system", *matrix.columns),
        rows=tuple(
            (TableCell(system), *(_table_cell(cell, intervals) for cell in cells))
            for system, cells in matrix.rows.items()
        ),
    )


def _row(results: Sequence[Result | None], metric: str) -> list[Cell | None]:
    samples = [_values(each, metric) if each else None for each in results]
    cells: list[Cell | None] = [
        Cell(each.metrics[metric], _interval([values]), False)
        if each is not None and values is not None
        else None
        for each, values in zip(results, samples)
    ]
    if len(cells) > 1:
        measured = [each.value for each in cells if each is not None]
        known = [each for each in samples if each is not None]
        is_complete = len(known) == len(cells)
        cells.append(Cell(fmean(measured), _interval(known), False) if is_complete else None)
    return cells


def _values(result: Result, metric: str) -> NDArray[np.float64]:
    return np.array([each[metric] for each in result.per_query.values()])


def _interval(samples: Sequence[NDArray[np.float64]]) -> Interval:
    drawn = bootstrap(samples, SignificanceSettings(trials=_TRIALS))
    return Interval(max(drawn.low, 0.0), min(drawn.high, 1.0))  # no metric goes beyond


def _with_best(rows: dict[str, list[Cell | None]]) -> dict[str, tuple[Cell | None, ...]]:
    """Mark the best of each column; compared as shown, so that what looks equal is marked alike."""
    if len(rows) < 2:
        return {system: tuple(cells) for system, cells in rows.items()}
    best = [max(map(str, filter(None, column)), default="") for column in zip(*rows.values())]
    return {
        system: tuple(
            cell._replace(is_best=str(cell) == top) if cell else None
            for cell, top in zip(cells, best)
        )
        for system, cells in rows.items()
    }


def _table_cell(cell: Cell | None, with_interval: bool) -> TableCell:
    if cell is None:
        return TableCell(ABSENT)
    note = f"{cell.interval.low:.3f} to {cell.interval.high:.3f}" if with_interval else ""
    return TableCell(str(cell), cell.is_best, note, cell.value)
