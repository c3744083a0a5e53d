"""Results side by side: a table for the terminal, the same in Markdown, and a plot."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from rich import box
from rich.table import Table
from rich.text import Text

from retrieval.errors import InputError, MissingExtraError
from retrieval.evaluation.metrics import parse_metrics
from retrieval.evaluation.result import Result
from retrieval.files import atomic_write

REPORTED_METRICS = ("nDCG@10", "recall@100", "MRR@10")

# Okabe and Ito's colours, which stay apart for colour-blind readers; the yellow is left out
# because it vanishes on white.
_COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#999999")
_HATCHES = ("", "///", "...", "xxx")
_ABSENT = "-"

Row = list[tuple[str, bool]]
"""Cells, each with whether it is the best of its collection."""


def results_table(results: Sequence[Result], metrics: Sequence[str] = REPORTED_METRICS) -> Table:
    """A rich table with one row a result, the best value of each metric in bold.

    Args:
        results: at least one; those of a collection stand together, under its name where there
            are several.
        metrics: the metrics to show; "-" where a result has not measured one.

    Raises:
        InputError: there are no results.
        ConfigError: unknown metrics.
    """
    header, groups = _cells(results, metrics)
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for column, name in enumerate(header):
        is_text = column == 0
        table.add_column(name, justify="left" if is_text else "right", no_wrap=not is_text)
    for collection, rows in groups.items():
        if len(groups) > 1:
            table.add_section()
            table.add_row(Text(collection, "italic"))
        for row in rows:
            table.add_row(*(Text(cell, "bold" if is_best else "") for cell, is_best in row))
    return table


def results_markdown(results: Sequence[Result], metrics: Sequence[str] = REPORTED_METRICS) -> str:
    """The table of `results_table` as GitHub-flavoured Markdown, aligned, with a final newline.

    Where there are several collections, they have a column of their own.
    """
    header, groups = _cells(results, metrics)
    lines = [
        [collection, *(f"**{cell}**" if is_best else cell for cell, is_best in row)]
        for collection, rows in groups.items()
        for row in rows
    ]
    table = [["collection", *header], *lines]
    first = 0 if len(groups) > 1 else 1
    table = [[cell.replace("|", "\\|") for cell in line[first:]] for line in table]
    text_columns = 2 - first
    widths = [max(map(len, column)) for column in zip(*table)]
    rule = [
        "-" * width if column < text_columns else "-" * (width - 1) + ":"
        for column, width in enumerate(widths)
    ]
    aligned = [
        [
            cell.ljust(width) if column < text_columns else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(line, widths))
        ]
        for line in [table[0], rule, *table[1:]]
    ]
    return "".join(f"| {' | '.join(line)} |\n" for line in aligned)


def plot_results(
    results: Sequence[Result], path: Path, metrics: Sequence[str] = REPORTED_METRICS
) -> None:
    """Draw a bar for each metric and system as a PNG, one panel a collection.

    Args:
        results: at least one.
        path: the PNG to write; replaced in one step.
        metrics: the metrics to draw; a result that has not measured one has no bar there.

    Raises:
        InputError: there are no results, or two of a collection have the same system's name.
        ConfigError: unknown metrics.
        MissingExtraError: matplotlib is not installed.
    """
    _check_any(results)
    _check_names(results)
    names = [str(metric) for metric in parse_metrics(metrics)]
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
        from matplotlib.layout_engine import ConstrainedLayoutEngine
    except ImportError as error:
        raise MissingExtraError("the plot", "eval") from error
    collections = list(dict.fromkeys(_collection(each) for each in results))
    systems = list(dict.fromkeys(each.system for each in results))
    # Wide enough for a bar's label of four digits, with a gap between the groups of bars.
    width = max(6.4, 1.2 + 0.52 * len(names) * (len(systems) + 1))
    layout = ConstrainedLayoutEngine(w_pad=0.12, h_pad=0.12)
    figure = Figure(figsize=(width, 0.9 + 3.3 * len(collections)), layout=layout)
    FigureCanvasAgg(figure)
    panels = figure.subplots(len(collections), 1, squeeze=False)[:, 0]
    for panel, collection in zip(panels, collections):
        chosen = [each for each in results if _collection(each) == collection]
        _draw(panel, collection, chosen, systems, names)
    handles, labels = _legend(panels)
    figure.legend(
        handles,
        labels,
        loc="outside lower center",
        ncols=_legend_columns(labels, width),
        frameon=False,
    )
    with atomic_write(path) as stream:
        figure.savefig(stream, format="png", dpi=160)


def format_bytes(count: int | None) -> str:
    """Bytes with decimal units and three digits; "-" for None.

    >>> format_bytes(812), format_bytes(1_234_567), format_bytes(25_900_000_000)
    ('812 B', '1.23 MB', '25.9 GB')
    """
    if count is None:
        return _ABSENT
    value, unit = float(count), "B"
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if value < 999.5 or unit == "TB":
            break
        value /= 1000
    decimals = 0 if unit == "B" or value >= 99.95 else 1 if value >= 9.995 else 2
    return f"{value:.{decimals}f} {unit}"


def _cells(
    results: Sequence[Result], metrics: Sequence[str]
) -> tuple[list[str], dict[str, list[Row]]]:
    """The header, and rows by collection."""
    _check_any(results)
    names = [str(metric) for metric in parse_metrics(metrics)]
    groups: dict[str, list[Row]] = {}
    for result in results:
        peers = [each for each in results if _collection(each) == _collection(result)]
        row: Row = [(result.system, False)]
        for name in names:
            cell = _format_metric(result, name)
            # Compared as shown, so that values that look equal are both the best.
            best = max(_format_metric(each, name) for each in peers)
            row.append((cell, len(peers) > 1 and cell == best != _ABSENT))
        row.append((format_bytes(result.index_bytes), False))
        row.append((_format_rate(result.timings.queries_per_second), False))
        groups.setdefault(_collection(result), []).append(row)
    return ["system", *names, "index size", "queries/s"], groups


def _draw(
    panel: Any, collection: str, results: Sequence[Result], systems: list[str], names: list[str]
) -> None:
    width = min(0.84 / len(systems), 0.28)
    for result in results:
        place = systems.index(result.system)
        shown = [at for at, name in enumerate(names) if name in result.metrics]
        values = [result.metrics[names[at]] for at in shown]
        bars = panel.bar(
            [at + (place - (len(systems) - 1) / 2) * width for at in shown],
            values,
            width * 0.92,
            label=result.system,
            color=_COLOURS[place % len(_COLOURS)],
            hatch=_HATCHES[place // len(_COLOURS) % len(_HATCHES)],
            edgecolor="white",
            linewidth=0,
        )
        labels = [f"{value:.3f}".removeprefix("0") for value in values]
        # The white box keeps the grid's lines out of the figures.
        paper = {"facecolor": "white", "edgecolor": "none", "pad": 0.8}
        panel.bar_label(bars, labels, padding=2.5, fontsize=8, color="#333333", bbox=paper)
    panel.set_title(collection, loc="left", fontsize=11)
    panel.set_xticks(range(len(names)), names)
    panel.tick_params(axis="x", length=0, labelsize=10)
    panel.tick_params(axis="y", length=0, labelsize=8, labelcolor="#666666")
    panel.set_xlim(-0.55, len(names) - 0.45)
    panel.set_ylim(0, 1.06)
    panel.set_yticks([0, 0.2, 0.4, 0.6, 0.8, 1.0])
    panel.grid(axis="y", color="#DDDDDD", linewidth=0.7)
    panel.set_axisbelow(True)
    panel.spines[["top", "right", "left"]].set_visible(False)
    panel.spines["bottom"].set_color("#888888")


def _legend(panels: Iterable[Any]) -> tuple[list[Any], list[str]]:
    """One entry a system, over all panels."""
    entries: dict[str, Any] = {}
    for panel in panels:
        handles, labels = panel.get_legend_handles_labels()
        for label, handle in zip(labels, handles):
            entries.setdefault(label, handle)
    return list(entries.values()), list(entries)


def _legend_columns(labels: Sequence[str], width: float) -> int:
    """As many columns as fit into `width` inches, at some 0.09 inches a character."""
    return max(1, min(len(labels), int(width / (0.6 + 0.09 * max(map(len, labels))))))


def _format_metric(result: Result, name: str) -> str:
    return f"{result.metrics[name]:.3f}" if name in result.metrics else _ABSENT


def _format_rate(rate: float) -> str:
    return f"{rate:,.0f}" if rate >= 100 else f"{rate:.1f}"


def _collection(result: Result) -> str:
    return result.collection if result.split == "test" else f"{result.collection} {result.split}"


def _check_any(results: Sequence[Result]) -> None:
    if not results:
        raise InputError("no results to show")


def _check_names(results: Sequence[Result]) -> None:
    seen = set()
    for result in results:
        key = (_collection(result), result.system)
        if key in seen:
            raise InputError(
                f"two results on {key[0]} are called {result.system!r}, and their bars would "
                "cover each other: evaluate with a name for each system"
            )
        seen.add(key)
