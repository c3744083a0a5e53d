"""The charts of a report: drawn once, written as PNG or as SVG that follows a page's colours."""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np

from retrieval.errors import MissingExtraError
from retrieval.evaluation.index_sweep import IndexSweep, format_ms, front_of
from retrieval.evaluation.report_sources import TrainingRun
from retrieval.evaluation.results_matrix import MEAN, ResultsMatrix
from retrieval.evaluation.score_distributions import ScoreDistribution
from retrieval.files import atomic_write
from retrieval.training.watching import BM25, METRIC

# Okabe and Ito's colours, which stay apart for colour-blind readers.
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#999999")
_INK, _FAINT, _GRID, _PAPER = "#333333", "#666666", "#DDDDDD", "#FFFFFF"
_STYLE = {
    **{colour: f"var(--series-{number})" for number, colour in enumerate(COLOURS, start=1)},
    _INK: "var(--ink)",
    _FAINT: "var(--faint)",
    _GRID: "var(--grid)",
    _PAPER: "var(--paper)",
}
_MARKERS = "osD^vPX"
_WIDTH_INCHES = 4.4
"""Narrow enough for a telephone, where a page shows one chart beside nothing."""
_FONT_POINTS = 9.5
_LONGEST_NAME = 40
_BINS = 30


@dataclass(frozen=True, kw_only=True)
class Chart:
    """A drawing with the words that stand beside it."""

    name: str
    """For a file: letters, digits, hyphens."""
    title: str
    description: str
    """What the drawing shows, for those who don't see it."""
    figure: Any
    """Of matplotlib."""

    def svg(self) -> str:
        """An `<svg>` to stand in a page, its colours the page's custom properties."""
        stream = io.StringIO()
        # Text stays text, in the page's font; ids and dates that differ from run to run are out.
        import matplotlib

        with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": self.name}):
            self.figure.savefig(stream, format="svg", transparent=True, metadata={"Date": None})
        drawing = stream.getvalue()
        drawing = drawing[drawing.index("<svg") :]
        drawing = re.sub(r"<metadata>.*?</metadata>\s*", "", drawing, flags=re.DOTALL)
        drawing = re.sub(r'<g id="[^"]*"', "<g", drawing).replace("xlink:href", "href")
        drawing = re.sub(r"font: ([\d.]+)px [^;\"]*", r"font: \1px var(--font)", drawing)
        drawing = re.sub(
            r"#[0-9a-f]{6}", lambda match: _STYLE.get(match[0].upper(), match[0]), drawing
        )
        attributes = f'<svg role="img" aria-label="{escape(self.description)}"'
        return re.sub(r'<svg [^>]*?(viewBox="[^"]*")[^>]*>', rf"{attributes} \1>", drawing, count=1)

    def write_png(self, path: Path) -> None:
        """Write a PNG on white with the title above, replaced in one step."""
        self.figure.suptitle(self.title, fontsize=_FONT_POINTS + 1, color=_INK)
        with atomic_write(path) as stream:
            self.figure.savefig(stream, format="png", dpi=180)
        self.figure.suptitle("")  # a page has it in words


def bar_charts(matrix: ResultsMatrix) -> list[Chart]:
    """A bar a system with its 95 % interval, the mean first, then each data set, on one scale."""
    cells = [cell for row in matrix.rows.values() for cell in row if cell is not None]
    # Room for the figure behind the longest interval.
    end = 1.16 * max(0.1, *(max(cell.value, cell.interval.high) for cell in cells))
    places = sorted(range(len(matrix.columns)), key=lambda at: matrix.columns[at] != MEAN)
    return [_bar_chart(matrix, at, end) for at in places]


def pareto_chart(sweep: IndexSweep, cutoff: int = 10) -> Chart:
    """Recall over latency: a point an index, those that no other one beats joined by a line."""
    figure, panel = _figure(3.9)
    from matplotlib.ticker import LogLocator

    points = [(each.p50_ms, each.recall[str(cutoff)]) for each in sweep.indexes]
    front = sorted(point for point, is_on in zip(points, front_of(sweep, cutoff)) if is_on)
    panel.plot(*zip(*front), color=_FAINT, linewidth=1, zorder=1, label="front")
    builds: dict[str, list[tuple[float, float]]] = {}
    for each, point in zip(sweep.indexes, points):
        builds.setdefault(each.name.split(",")[0], []).append(point)
    for (name, found), colour, marker in zip(builds.items(), cycle(COLOURS), cycle(_MARKERS)):
        panel.scatter(*zip(*found), color=colour, marker=marker, s=26, label=name, zorder=2)
    panel.set_xscale("log")
    panel.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    panel.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    panel.xaxis.set_minor_formatter(lambda value, _: "")
    panel.set_xlabel("p50 latency of a query, ms", color=_FAINT, fontsize=_FONT_POINTS)
    panel.set_ylabel(f"recall@{cutoff} of exact search", color=_FAINT, fontsize=_FONT_POINTS)
    _legend(figure, panel)
    named = sorted(zip(points, (each.name for each in sweep.indexes)))
    best = ", ".join(
        f"{name} {value:.3f} in {format_ms(ms)} ms"
        for (ms, value), name in named
        if (ms, value) in front
    )
    return Chart(
        name=_file_name(f"recall-{cutoff}", sweep.title),
        title=f"{sweep.title}: recall@{cutoff} and latency",
        description=f"Recall at {cutoff} over the median latency. On the front: {best}.",
        figure=figure,
    )


def training_charts(runs: Sequence[TrainingRun]) -> list[Chart]:
    """The loss and nDCG@10 on the dev set over the steps, a line a run, BM25's as a level."""
    charts = []
    for key, name in (("loss", "loss"), (METRIC, "dev nDCG@10")):
        shown = [run for run in runs if any(key in record for record in run.records)]
        if not shown:
            continue
        figure, panel = _figure(3.0)
        ends = []
        for run, colour in zip(shown, cycle(COLOURS)):
            points = [(each["step"], each[key]) for each in run.records if key in each]
            marker = "o" if len(points) < 30 else ""
            panel.plot(
                *zip(*points), color=colour, marker=marker, markersize=3, linewidth=1.3,
                label=_short(run.name),
            )  # fmt: skip
            ends.append(f"{run.name} ends at {points[-1][1]:.4g} after {points[-1][0]:,} steps")
        levels = {each[BM25] for run in shown for each in run.records if BM25 in each}
        for number, level in enumerate(sorted(levels) if key == METRIC else []):
            label = None if number else "BM25"
            panel.axhline(level, color=_FAINT, linestyle="--", linewidth=1, label=label)
        panel.set_xlabel("step", color=_FAINT, fontsize=_FONT_POINTS)
        _legend(figure, panel)
        charts.append(
            Chart(
                name=_file_name("training", name),
                title=f"Training: {name}",
                description=f"{name} over the steps. {'; '.join(ends)}.",
                figure=figure,
            )
        )
    return charts


def score_chart(scores: ScoreDistribution) -> Chart:
    """How the scores of relevant hits and of all others are spread, each area the same."""
    figure, panel = _figure(2.7)
    everything = np.concatenate([scores.relevant, scores.others])
    edges = np.histogram_bin_edges(everything, _BINS)
    for values, colour, label in (
        (scores.others, COLOURS[1], "others"),
        (scores.relevant, COLOURS[0], "relevant"),
    ):
        if len(values):
            panel.hist(
                values, edges, density=True, color=colour, alpha=0.55, histtype="stepfilled",
                label=f"{label} ({len(values):,})",
            )  # fmt: skip
    panel.set_yticks([])
    panel.set_xlabel("score", color=_FAINT, fontsize=_FONT_POINTS)
    _legend(figure, panel)
    medians = " and ".join(
        f"{np.median(values):.3g} of {name} hits"
        for values, name in ((scores.relevant, "relevant"), (scores.others, "other"))
        if len(values)
    )
    return Chart(
        name=_file_name("scores", f"{scores.data_set} {scores.system}"),
        title=f"{scores.system} on {scores.data_set}",
        description=f"Histograms of scores, with medians of {medians}.",
        figure=figure,
    )


def _bar_chart(matrix: ResultsMatrix, at: int, end: float) -> Chart:
    rows = [(system, row[at]) for system, row in matrix.rows.items()]
    known = [(system, cell) for system, cell in rows if cell is not None]
    figure, panel = _figure(0.45 + 0.46 * len(known))
    for place, (system, cell) in enumerate(known):
        colour = COLOURS[list(matrix.rows).index(system) % len(COLOURS)]
        panel.barh(place, cell.value, 0.42, color=colour)
        # The wider line below keeps the interval apart from a bar of any colour.
        for colour, width in ((_PAPER, 3.2), (_INK, 1.4)):
            panel.plot(cell.interval, (place, place), color=colour, linewidth=width)
        weight = "bold" if cell.is_best else "normal"
        panel.text(0, place - 0.28, _short(system), fontsize=_FONT_POINTS, color=_INK, va="bottom")
        panel.text(
            max(cell.value, cell.interval.high) + 0.012 * end, place, str(cell),
            fontsize=_FONT_POINTS, color=_INK, va="center", fontweight=weight,
        )  # fmt: skip
    panel.set_xlim(0, end)
    panel.set_ylim(len(known) - 0.6, -0.75)
    panel.set_yticks([])
    panel.grid(axis="y", visible=False)
    values = ", ".join(
        f"{system} {cell} ({cell.interval.low:.3f} to {cell.interval.high:.3f})"
        for system, cell in known
    )
    name = matrix.columns[at]
    return Chart(
        name=_file_name(matrix.metric, name),
        title=f"{name}, {matrix.metric}",
        description=f"{matrix.metric} on {name} with 95 % intervals: {values}.",
        figure=figure,
    )


def _figure(height_inches: float) -> tuple[Any, Any]:
    """A figure with one panel, without pyplot, which keeps state and may look for a display."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingExtraError("a report's charts", "eval") from error
    figure = Figure(figsize=(_WIDTH_INCHES, height_inches), layout="constrained")
    FigureCanvasAgg(figure)
    panel = figure.subplots()
    panel.grid(color=_GRID, linewidth=0.7)
    panel.set_axisbelow(True)
    panel.tick_params(
        which="both", length=0, color=_FAINT, labelsize=_FONT_POINTS, labelcolor=_FAINT
    )
    panel.spines[["top", "right", "left"]].set_visible(False)
    panel.spines["bottom"].set_color(_FAINT)
    return figure, panel


def _legend(figure: Any, panel: Any) -> None:
    """Below the panel, in as many columns as fit."""
    labels = panel.get_legend_handles_labels()[1]
    columns = max(1, min(len(labels), int(58 / (6 + max(map(len, labels))))))
    figure.legend(
        loc="outside lower center",
        ncols=columns,
        frameon=False,
        fontsize=_FONT_POINTS,
        labelcolor=_INK,
    )


def _short(name: str) -> str:
    return name if len(name) <= _LONGEST_NAME else f"{name[: _LONGEST_NAME - 1]}…"


def _file_name(*parts: str) -> str:
    return re.sub(r"[^A-Za-z0-9.]+", "-", "-".join(parts)).strip("-")
