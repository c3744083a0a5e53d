"""Figures of a suite's data sets that are known from elsewhere, beside those measured here."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from retrieval.evaluation.report_tables import ReportTable, TableCell
from retrieval.evaluation.result import Result
from retrieval.evaluation.suites import Suite


class KnownFigure(NamedTuple):
    """The main metric of a system that was measured here, too."""

    data_set: str
    reference: str
    """The system and the source, as the suite has them."""
    metric: str
    here: float
    elsewhere: float

    @property
    def difference(self) -> float:
        """What was measured here, less what is known; three digits, as the known ones have."""
        return round(self.here - self.elsewhere, 3) or 0.0  # not -0.000


def known_figures(suite: Suite, results: Sequence[Result]) -> list[KnownFigure]:
    """The suite's references to systems that have a result, in the suite's order.

    Args:
        suite: its references are called "SYSTEM, SOURCE".
        results: of the suite; others are passed over.
    """
    measured = {(each.collection, each.system): each.metrics for each in results}
    found = []
    for data_set in suite.data:
        for reference, value in data_set.reference.items():
            system = reference.partition(", ")[0]
            here = measured.get((data_set.name, system), {}).get(data_set.metric)
            if here is not None:
                figure = KnownFigure(data_set.name, reference, data_set.metric, here, value)
                found.append(figure)
    return found


def known_figures_table(figures: Sequence[KnownFigure]) -> ReportTable:
    """A row for each."""
    return ReportTable(
        caption="known figures",
        header=("data set, system, source", "here", "elsewhere", "difference"),
        rows=tuple(
            (
                TableCell(f"{each.data_set}, {each.reference}"),
                TableCell(f"{each.here:.3f}"),
                TableCell(f"{each.elsewhere:.3f}"),
                TableCell(f"{each.difference:+.3f}"),
            )
            for each in figures
        ),
    )
