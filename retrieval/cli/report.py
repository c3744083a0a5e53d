"""`retrieval report`: results, index sweeps and training runs as a page, pictures or tables."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from retrieval.cli.options import Overwrite
from retrieval.errors import ConfigError

if TYPE_CHECKING:
    from retrieval.evaluation.charts import Chart


class ReportFormat(StrEnum):
    """What a report is written as."""

    HTML = "html"
    PNG = "png"
    MARKDOWN = "markdown"
    LATEX = "latex"


_BY_SUFFIX = {
    ".html": ReportFormat.HTML,
    ".md": ReportFormat.MARKDOWN,
    ".tex": ReportFormat.LATEX,
}


def report(
    paths: Annotated[
        list[Path],
        typer.Argument(help="Results, sweeps of indexes, training runs, or folders of them."),
    ],
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", help="A file, or a folder for PNGs; without it Markdown to stdout."
        ),
    ] = None,
    format: Annotated[
        ReportFormat | None, typer.Option(help="By default as the output's name ends.")
    ] = None,
    metric: Annotated[
        list[str] | None,
        typer.Option(help="A metric to show, the first with charts; may come several times."),
    ] = None,
    data: Annotated[
        list[Path] | None,
        typer.Option(help="BEIR folders, or a folder of them: adds the scores of relevant hits."),
    ] = None,
    intervals: Annotated[
        bool, typer.Option(help="Intervals (95 %, bootstrap over queries) in tables.")
    ] = True,
    overwrite: Overwrite = False,
) -> None:
    """Show what was measured: tables and charts in one HTML page, PNGs, Markdown or LaTeX."""
    from retrieval.evaluation.report_content import report_content
    from retrieval.evaluation.report_sources import find_sources

    chosen = format or _format_of(output)
    is_drawn = chosen in (ReportFormat.HTML, ReportFormat.PNG)
    if output is None and is_drawn:
        raise ConfigError(f"--format {chosen} needs --output")
    if output is not None and output.exists() and not overwrite:
        raise ConfigError(f"{output}: exists already (--overwrite replaces it)")
    content = report_content(
        find_sources(paths), metrics=metric, data=data or (), intervals=intervals, draw=is_drawn
    )
    if chosen is ReportFormat.PNG:
        assert output is not None
        _write_pngs(content.charts, output)
    elif chosen is ReportFormat.HTML:
        from retrieval.evaluation.html_report import html_report

        _write(html_report(content), output)
    else:
        from retrieval.evaluation.text_report import latex_report, markdown_report

        write = latex_report if chosen is ReportFormat.LATEX else markdown_report
        _write(write(content.tables), output)


def _format_of(output: Path | None) -> ReportFormat:
    if output is None:
        return ReportFormat.MARKDOWN
    if output.suffix not in _BY_SUFFIX:
        raise ConfigError(
            f"{output}: no format is known by this name: end it in {', '.join(_BY_SUFFIX)}, or "
            "give --format"
        )
    return _BY_SUFFIX[output.suffix]


def _write(text: str, output: Path | None) -> None:
    from retrieval.files import atomic_write

    if output is None:
        print(text, end="")
        return
    with atomic_write(output) as stream:
        stream.write(text.encode())
    print(output)


def _write_pngs(charts: list[Chart], folder: Path) -> None:
    """One file a chart; files of other names stay."""
    if not charts:
        raise ConfigError("there is nothing to draw: --format markdown has the tables")
    for chart in charts:
        path = folder / f"{chart.name}.png"
        chart.write_png(path)
        print(path)
