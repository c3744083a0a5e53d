"""A comparison to read: tables for the terminal, the same in Markdown, rankings side by side."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rich import box
from rich.table import Table
from rich.text import Text

from retrieval.evaluation.comparison import Comparison, Contrast, PValue
from retrieval.evaluation.moved_queries import MovedQuery, RankedDocument

_ABSENT = "-"
_TEXT_CHARACTERS = 60
"""Of a document without a title."""
_DOCUMENT_WIDTH = 34
"""Columns of a terminal for a document's id and title."""

Cells = list[tuple[str, bool]]
"""The cells of a row, each with whether it stands out."""


def comparison_table(comparison: Comparison, metric: str) -> Table:
    """One metric as a rich table: for each data set the baseline, then every system beside it.

    Corrected p values below the level of the intervals are in bold.
    """
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for column, name in enumerate(_header(comparison, metric)):
        is_text = column == 0
        table.add_column(name, justify="left" if is_text else "right", no_wrap=not is_text)
    for name, rows in _groups(comparison, metric):
        table.add_section()
        table.add_row(Text(name, "italic"))
        for row in rows:
            table.add_row(*(Text(cell, "bold" if stands_out else "") for cell, stands_out in row))
    return table


def comparison_markdown(comparison: Comparison, metric: str) -> str:
    """The table of `comparison_table` as GitHub-flavoured Markdown, with a final newline."""
    header = ["data set", *_header(comparison, metric)]
    rule = ["---", "---", *["---:"] * (len(header) - 2)]
    rows = [
        [name, *map(_emphasised, row)] for name, rows in _groups(comparison, metric) for row in rows
    ]
    return _markdown([header, rule, *rows])


def comparison_notes(comparison: Comparison) -> list[str]:
    """What the columns mean, and what the reader has to know, a sentence or two each."""
    settings = comparison.settings
    count = len(comparison.contrasts)
    if count == 1:
        correction = "one comparison"
    elif settings.correction == "none":
        correction = "not corrected for the number of comparisons"
    else:
        correction = f"corrected for {count} comparisons ({settings.correction.capitalize()})"
    level = f"bold below {1 - settings.confidence:.2g}"
    return [
        f"Differences are from {comparison.baseline}, with {settings.confidence:.0%} bootstrap "
        "intervals, which are not corrected.",
        f"p: paired randomisation and paired bootstrap test, two-sided, {settings.trials:,} "
        f"trials, seed {settings.seed}, {correction}; {level}.",
        "effect: the mean difference in standard deviations of the queries' differences. "
        "W/T/L: queries won, tied, lost.",
        *(f"Warning: {each}." for each in comparison.warnings),
    ]


def moved_query_table(query: MovedQuery, baseline: str, system: str) -> Table:
    """Both rankings of a query beside each other.

    Relevant documents are in bold. "other" is the document's rank with the other system.
    """
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name in _moved_header(query, baseline, system):
        is_text = name in (baseline, system)
        table.add_column(
            Text(name),
            justify="left" if is_text else "right",
            no_wrap=True,
            max_width=_DOCUMENT_WIDTH if is_text else None,
            overflow="ellipsis",
        )
    for row in _moved_rows(query):
        table.add_row(*(Text(cell, "bold" if stands_out else "") for cell, stands_out in row))
    return table


def moved_query_markdown(query: MovedQuery, baseline: str, system: str) -> str:
    """The table of `moved_query_table` as GitHub-flavoured Markdown, under a bold heading.

    Only the heading where there are no rankings.
    """
    heading = f"**{moved_query_heading(query)}**\n"
    if not (query.baseline_ranking or query.ranking):
        return heading
    header = _moved_header(query, baseline, system)
    rule = ["---" if name in (baseline, system) else "---:" for name in header]
    rows = [[_emphasised(cell) for cell in row] for row in _moved_rows(query)]
    return f"{heading}\n{_markdown([header, rule, *rows])}"


def moved_query_heading(query: MovedQuery) -> str:
    """Such as "scifact 12: 0.000 -> 1.000 (+1.000)  the query's text"."""
    values = f"{query.baseline_value:.3f} -> {query.value:.3f} ({query.difference:+.3f})"
    text = f"  {' '.join(query.text.split())}" if query.text else ""
    return f"{query.data_set} {query.query_id}: {values}{text}"


def _header(comparison: Comparison, metric: str) -> list[str]:
    interval = f"{comparison.settings.confidence:.0%} interval"
    return ["system", metric, "difference", interval, "p rand.", "p boot.", "effect", "W/T/L"]


def _groups(comparison: Comparison, metric: str) -> Iterator[tuple[str, list[Cells]]]:
    """For each data set, and their mean, its name and rows."""
    contrasts = [each for each in comparison.contrasts if each.metric == metric]
    level = 1 - comparison.settings.confidence
    for data_set in dict.fromkeys(each.data_set for each in contrasts):
        group = [each for each in contrasts if each.data_set == data_set]
        count = len(comparison.data_sets)
        name = str(data_set) if data_set else f"mean of {count} sets"
        first: Cells = [(comparison.baseline, False), (f"{group[0].baseline_value:.4f}", False)]
        first += [("", False)] * 6
        yield (
            f"{name} ({group[0].queries:,} queries)",
            [first, *(_cells(each, level) for each in group)],
        )


def _cells(contrast: Contrast, level: float) -> Cells:
    effect = _ABSENT if contrast.effect is None else f"{contrast.effect:+.2f}"
    return [
        (contrast.system, False),
        (f"{contrast.value:.4f}", False),
        (f"{contrast.difference:+.4f}", False),
        (f"{contrast.low:+.3f} to {contrast.high:+.3f}", False),
        (_format_p(contrast.randomisation), contrast.randomisation.corrected < level),
        (_format_p(contrast.bootstrap), contrast.bootstrap.corrected < level),
        (effect, False),
        (f"{contrast.wins}/{contrast.ties}/{contrast.losses}", False),
    ]


def _format_p(p: PValue) -> str:
    return "<0.001" if p.corrected < 0.001 else f"{p.corrected:.3f}"


def _moved_header(query: MovedQuery, baseline: str, system: str) -> list[str]:
    relevance = ["rel."] if query.text is not None else []
    return ["rank", baseline, *relevance, "other", system, *relevance, "other"]


def _moved_rows(query: MovedQuery) -> list[Cells]:
    rows = []
    for at in range(max(len(query.baseline_ranking), len(query.ranking))):
        row: Cells = [(str(at + 1), False)]
        for ranking in (query.baseline_ranking, query.ranking):
            document = ranking[at] if at < len(ranking) else None
            row += _document_cells(document, with_relevance=query.text is not None)
        rows.append(row)
    return rows


def _document_cells(document: RankedDocument | None, with_relevance: bool) -> Cells:
    if document is None:
        return [("", False)] * (3 if with_relevance else 2)
    described = document.title or (document.text or "")[:_TEXT_CHARACTERS]
    name = f"{document.document_id}  {' '.join(described.split())}".strip()
    is_relevant = document.relevance is not None and document.relevance > 0
    relevance = _ABSENT if document.relevance is None else str(document.relevance)
    other = _ABSENT if document.other_rank is None else str(document.other_rank)
    cells = [(name, is_relevant), (relevance, is_relevant), (other, False)]
    return cells if with_relevance else [cells[0], cells[2]]


def _emphasised(cell: tuple[str, bool]) -> str:
    text, stands_out = cell
    return f"**{text}**" if stands_out else text


def _markdown(lines: Sequence[Sequence[str]]) -> str:
    escaped = [[cell.replace("|", "\\|") for cell in line] for line in lines]
    return "".join(f"| {' | '.join(line)} |\n" for line in escaped)
