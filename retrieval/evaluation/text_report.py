"""A report's tables as text, in Markdown or in LaTeX."""

from __future__ import annotations

from collections.abc import Sequence

from retrieval.evaluation.report_tables import (
    ReportTable,
    latex_text,
    table_latex,
    table_markdown,
)


def markdown_report(tables: Sequence[ReportTable]) -> str:
    """The tables under headings."""
    return "\n".join(f"## {table.caption}\n\n{table_markdown(table)}" for table in tables)


def latex_report(tables: Sequence[ReportTable]) -> str:
    r"""The tables as floats with captions; the preamble needs `\usepackage{booktabs}`."""
    return "\n".join(
        f"\\begin{{table}}\n\\centering\n\\caption{{{latex_text(table.caption)}}}\n"
        f"{table_latex(table)}\\end{{table}}\n"
        for table in tables
    )
