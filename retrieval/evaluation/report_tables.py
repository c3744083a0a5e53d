"""A table of a report, and how it is written in Markdown and in LaTeX."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

ABSENT = "-"

_LATEX_SPECIAL = {
    **{each: f"\\{each}" for each in "&%$#_{}"},
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
}


class TableCell(NamedTuple):
    """One cell."""

    text: str
    is_best: bool = False
    note: str = ""
    """Said behind the text, smaller where that can be: an interval."""
    value: float | None = None
    """What the cell is sorted by; None for text and for what is missing."""


@dataclass(frozen=True, kw_only=True)
class ReportTable:
    """Rows of cells; the first column names the row and is text, the others are numbers."""

    caption: str
    header: tuple[str, ...]
    rows: tuple[tuple[TableCell, ...], ...]


def table_markdown(table: ReportTable) -> str:
    """GitHub-flavoured Markdown without the caption, what is best in bold, with a final newline."""
    rows = [[_markdown_cell(cell) for cell in row] for row in table.rows]
    header, *lines = [
        f"| {' | '.join(each.replace('|', chr(92) + '|') for each in row)} |"
        for row in ([*table.header], *rows)
    ]
    rule = f"|---|{'---:|' * (len(table.header) - 1)}"
    return "".join(f"{line}\n" for line in (header, rule, *lines))


def table_latex(table: ReportTable) -> str:
    r"""A `tabular` with the rules of booktabs, what is best in bold, with a final newline.

    The preamble needs `\usepackage{booktabs}`.
    """
    lines = [
        rf"\begin{{tabular}}{{l{'r' * (len(table.header) - 1)}}}",
        r"\toprule",
        rf"{' & '.join(map(latex_text, table.header))} \\",
        r"\midrule",
        *(rf"{' & '.join(map(_latex_cell, row))} \\" for row in table.rows),
        r"\bottomrule",
        r"\end{tabular}",
    ]
    return "".join(f"{line}\n" for line in lines)


def latex_text(text: str) -> str:
    r"""Text with LaTeX's special characters written out.

    >>> latex_text("PLAID_4 & 50%")
    'PLAID\\_4 \\& 50\\%'
    """
    return "".join(_LATEX_SPECIAL.get(each, each) for each in text)


def _markdown_cell(cell: TableCell) -> str:
    text = f"**{cell.text}**" if cell.is_best else cell.text
    return f"{text} ({cell.note})" if cell.note else text


def _latex_cell(cell: TableCell) -> str:
    if cell.text == ABSENT:
        return "--"
    text = latex_text(cell.text)
    text = rf"\textbf{{{text}}}" if cell.is_best else text
    return rf"{text} {{\scriptsize ({latex_text(cell.note)})}}" if cell.note else text
