"""What stands in a report, whatever it is written as: sections of tables and charts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from retrieval.errors import ConfigError
from retrieval.evaluation import charts
from retrieval.evaluation.charts import Chart
from retrieval.evaluation.index_sweep import IndexSweep, sweep_table
from retrieval.evaluation.report import REPORTED_METRICS, format_bytes
from retrieval.evaluation.report_sources import ReportSources, TrainingRun
from retrieval.evaluation.report_tables import ABSENT, ReportTable, TableCell
from retrieval.evaluation.result import Result
from retrieval.evaluation.result_origins import Origins, origins
from retrieval.evaluation.results_matrix import (
    ResultsMatrix,
    data_set_name,
    matrix_table,
    results_matrix,
)
from retrieval.evaluation.score_distributions import score_distributions
from retrieval.training.watching import METRIC


@dataclass(frozen=True, kw_only=True)
class ReportSection:
    """Tables and charts of one sort."""

    title: str
    notes: tuple[str, ...] = ()
    tables: tuple[ReportTable, ...] = ()
    charts: tuple[Chart, ...] = ()


@dataclass(frozen=True, kw_only=True)
class ReportContent:
    """A whole report; made by `report_content`."""

    summary: str
    sections: tuple[ReportSection, ...]
    origins: Origins

    @property
    def tables(self) -> list[ReportTable]:
        """Of all sections."""
        return [table for section in self.sections for table in section.tables]

    @property
    def charts(self) -> list[Chart]:
        """Of all sections."""
        return [chart for section in self.sections for chart in section.charts]


def report_content(
    sources: ReportSources,
    *,
    metrics: Sequence[str] | None = None,
    data: Sequence[Path] = (),
    intervals: bool = True,
    draw: bool = True,
) -> ReportContent:
    """Arrange what was found.

    Args:
        sources: at least one result, sweep or training run.
        metrics: to show, the first with charts; by default nDCG@10, recall@100 and MRR@10, as far
            as they are measured.
        data: BEIR folders, or folders of them, with the judgements for score distributions.
        intervals: put 95 % intervals into the tables.
        draw: False leaves the charts out, and needs no matplotlib.

    Raises:
        ConfigError: an unknown metric, one that no result has measured, or metrics or data
            without any results.
        InputError: as in `score_distributions`.
        MissingExtraError: matplotlib is not installed, and `draw`.
    """
    if not sources.results and (metrics or data):
        raise ConfigError("metrics and data are of results, and there are none: leave them out")
    sections = _result_sections(sources.results, metrics, intervals, draw)
    if data and draw:
        sections.append(_score_section(sources, data))
    sections += [_sweep_section(each, draw) for each in sources.sweeps]
    if sources.runs:
        drawn = charts.training_charts(sources.runs) if draw else []
        sections.append(
            ReportSection(
                title="Training runs",
                tables=(training_table(sources.runs),),
                charts=tuple(drawn),
            )
        )
    return ReportContent(
        summary=_summary(sources), sections=tuple(sections), origins=origins(sources.results)
    )


def _result_sections(
    results: Sequence[Result], metrics: Sequence[str] | None, intervals: bool, draw: bool
) -> list[ReportSection]:
    if not results:
        return []
    sections = [
        ReportSection(
            title=matrix.metric,
            notes=("Means over queries, with 95 % bootstrap intervals over queries.",) * intervals,
            tables=(matrix_table(matrix, intervals=intervals),),
            charts=tuple(charts.bar_charts(matrix)) if draw and not number else (),
        )
        for number, matrix in enumerate(_matrices(results, metrics))
    ]
    cost = ReportSection(title="Size and speed", tables=(cost_table(results),))
    return [*sections, cost]


def _matrices(results: Sequence[Result], metrics: Sequence[str] | None) -> list[ResultsMatrix]:
    if metrics:
        return [results_matrix(results, name) for name in metrics]
    measured = list(dict.fromkeys(name for each in results for name in each.metrics))
    usual = [name for name in REPORTED_METRICS if name in measured]
    return [results_matrix(results, name) for name in usual or measured[:1]]


def _score_section(sources: ReportSources, data: Sequence[Path]) -> ReportSection:
    found, skipped = score_distributions(sources.results, sources.result_paths, data)
    note = "Scores of hits that are judged relevant, and of all others, judged or not."
    return ReportSection(
        title="Scores of relevant and other hits",
        notes=(note, *(f"Not shown: {each}." for each in skipped)),
        charts=tuple(map(charts.score_chart, found)),
    )


def _sweep_section(sweep: IndexSweep, draw: bool) -> ReportSection:
    unit = "token vectors" if sweep.model.is_multi_vector else "vectors"
    threads = f"{sweep.build_threads} thread{'s' if sweep.build_threads > 1 else ''}"
    facts = (
        f"{sweep.documents:,} documents ({sweep.vectors:,} {unit} of width {sweep.model.width}), "
        f"{sweep.queries:,} queries, {sweep.k} hits each. Latency is that of single queries on one "
        f"thread; {threads} built the indexes. In bold: what no other index beats in both p50 "
        "latency and recall@10."
    )
    return ReportSection(
        title=f"Indexes: {sweep.title}",
        notes=(facts, sweep.about) if sweep.about else (facts,),
        tables=(sweep_table(sweep),),
        charts=tuple(charts.pareto_chart(sweep, int(cutoff)) for cutoff in sweep.cutoffs if draw),
    )


def cost_table(results: Sequence[Result]) -> ReportTable:
    """A row a result: the index's size, and queries per second with and without their encoding."""
    rows = []
    for each in results:
        timings = each.timings
        figures = (
            (each.counts.documents, "{:,}"),
            (timings.search_queries_per_second, "{:,.1f}"),
            (timings.queries_per_second, "{:,.1f}"),
        )
        rows.append(
            (
                TableCell(f"{each.system} on {data_set_name(each)}"),
                TableCell(format_bytes(each.index_bytes), value=each.index_bytes),
                *(TableCell(shown.format(value), value=value) for value, shown in figures),
            )
        )
    header = ("system", "index size", "documents", "searches/s", "queries/s, encoded as well")
    return ReportTable(caption="Size and speed", header=header, rows=tuple(rows))


def training_table(runs: Sequence[TrainingRun]) -> ReportTable:
    """A row a run: its steps, its last loss, and nDCG@10 on its dev set, at the end and at best."""
    rows = []
    for run in runs:
        losses = [record["loss"] for record in run.records if "loss" in record]
        scores = [record[METRIC] for record in run.records if METRIC in record]
        figures = (
            (run.records[-1].get("step"), "{:,}"),
            (losses[-1] if losses else None, "{:.4f}"),
            (scores[-1] if scores else None, "{:.3f}"),
            (max(scores) if scores else None, "{:.3f}"),
        )
        cells = (
            TableCell(ABSENT) if value is None else TableCell(shown.format(value), value=value)
            for value, shown in figures
        )
        rows.append((TableCell(run.name), *cells))
    header = ("run", "steps", "last loss", "dev nDCG@10", "best dev nDCG@10")
    return ReportTable(caption="Training runs", header=header, rows=tuple(rows))


def _summary(sources: ReportSources) -> str:
    counts = (
        (len(sources.results), "result"),
        (len(sources.sweeps), "index sweep"),
        (len(sources.runs), "training run"),
    )
    named = [f"{count} {what}{'s' if count > 1 else ''}" for count, what in counts if count]
    return f"Made of {', '.join(named)}."
