"""A report as one HTML page that needs nothing beside itself: no network, fonts or libraries."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from importlib import resources
from typing import NamedTuple

import retrieval
from retrieval.evaluation.charts import Chart
from retrieval.evaluation.report_content import ReportContent, ReportSection
from retrieval.evaluation.report_tables import ABSENT, ReportTable, TableCell
from retrieval.evaluation.result_origins import Origins

_TITLE = "Retrieval report"


class _Part(NamedTuple):
    """A part of the page, with a line in its table of contents."""

    title: str
    body: str


def html_report(content: ReportContent) -> str:
    """The whole page; the same content gives the same bytes."""
    parts = [_Part(each.title, _section(each)) for each in content.sections]
    if content.origins.own:
        parts.append(_Part("What made the results", _origins(content.origins)))
    links = "".join(f'<li><a href="#{_id(part)}">{escape(part.title)}</a></li>' for part in parts)
    body = "".join(
        f'<section aria-labelledby="{_id(part)}">'
        f'<h2 id="{_id(part)}">{escape(part.title)}</h2>{part.body}</section>'
        for part in parts
    )
    return (
        '<!DOCTYPE html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{_TITLE}</title><style>{_page_file('report.css')}</style></head><body>"
        f'<header><h1>{_TITLE}</h1><p class="note">{escape(content.summary)}</p></header>'
        f'<nav aria-label="Contents"><ul>{links}</ul></nav><main>{body}</main>'
        f'<footer><p class="note">modernbert-retrieval {retrieval.__version__}</p></footer>'
        f"<script>{_page_file('report.js')}</script></body></html>\n"
    )


def _section(section: ReportSection) -> str:
    notes = "".join(f'<p class="note">{escape(note)}</p>' for note in section.notes)
    return notes + "".join(map(_table, section.tables)) + _charts(section.charts)


def _table(table: ReportTable) -> str:
    header = "".join(f'<th scope="col">{escape(each)}</th>' for each in table.header)
    rows = "".join(f"<tr>{''.join(_cells(row))}</tr>" for row in table.rows)
    return (
        # A frame that scrolls must be reached by the keyboard, and say what it is.
        f'<div class="frame" role="region" aria-label="{escape(table.caption)}" tabindex="0">'
        f'<table class="sortable"><caption>{escape(table.caption)}</caption>'
        f"<thead><tr>{header}</tr></thead><tbody>{rows}</tbody></table></div>"
    )


def _cells(row: Sequence[TableCell]) -> Iterable[str]:
    for column, cell in enumerate(row):
        text = escape(cell.text)
        if cell.text == ABSENT:
            text = '<span aria-label="not measured">-</span>'
        if cell.is_best:
            text = f"<strong>{text}</strong>"
        if cell.note:
            text += f" <small>{escape(cell.note)}</small>"
        value = "" if cell.value is None else f' data-value="{cell.value!r}"'
        yield f"<td{value}>{text}</td>" if column else f'<th scope="row">{text}</th>'


def _charts(charts: Sequence[Chart]) -> str:
    figures = "".join(
        f"<figure><figcaption>{escape(each.title)}</figcaption>{each.svg()}</figure>"
        for each in charts
    )
    return f'<div class="charts">{figures}</div>' if charts else ""


def _origins(origins: Origins) -> str:
    titled = {"The same in all results": origins.shared, **origins.own}
    return "".join(
        f"<details><summary>{escape(title)}</summary>"
        f'<div class="frame" role="region" aria-label="{escape(title)}" tabindex="0">'
        f"{_facts(facts)}</div></details>"
        for title, facts in titled.items()
        if facts
    )


def _facts(facts: Mapping[str, str]) -> str:
    rows = "".join(
        f'<tr><th scope="row">{escape(name)}</th><td>{escape(value)}</td></tr>'
        for name, value in facts.items()
    )
    return f'<table class="facts"><tbody>{rows}</tbody></table>'


def _id(part: _Part) -> str:
    return re.sub(r"[^a-z0-9]+", "-", part.title.lower()).strip("-")


def _page_file(name: str) -> str:
    return (resources.files("retrieval.evaluation") / "page" / name).read_text("utf-8")
