"""Passages of a wiki's dump (MediaWiki's XML export), with the titles above them."""

from __future__ import annotations

import bz2
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from retrieval.errors import InputError, MissingExtraError
from retrieval.training.prose import MIN_PARAGRAPH_WORDS, ProsePair, passages

_ASIDE = {
    "bibliography",
    "external links",
    "further reading",
    "notes",
    "references",
    "see also",
    "sources",
}


def wiki_pairs(dump: Path) -> Iterator[ProsePair]:
    """Pair the titles above a section with passages of its text.

    Args:
        dump: MediaWiki's XML export (.bz2 too). Redirects and pages outside the articles'
            namespace, and sections of references and links, are left out.

    Raises:
        InputError: no such file, or not such an export.
        MissingExtraError: the extra `wiki` is not installed.
    """
    for title, markup in _articles(dump):
        for heading, text in _sections(markup):
            query = f"{title}: {heading}" if heading else title
            paragraphs = (" ".join(each.split()) for each in text.split("\n"))
            long = [each for each in paragraphs if len(each.split()) >= MIN_PARAGRAPH_WORDS]
            for passage in passages(long):
                yield ProsePair(query, passage, title)


def _articles(dump: Path) -> Iterator[tuple[str, str]]:
    """Title and markup, page by page."""
    try:
        with bz2.open(dump) if dump.suffix == ".bz2" else dump.open("rb") as stream:
            events = ElementTree.iterparse(stream, events=("start", "end"))
            _, root = next(events)
            for event, element in events:
                if event == "start" or _name(element) != "page":
                    continue
                parts = {_name(each): each.text or "" for each in element.iter()}
                if parts.get("ns") == "0" and "redirect" not in parts:
                    yield parts["title"], parts["text"]
                root.clear()  # of all pages up to this one
    except (OSError, EOFError, ElementTree.ParseError, KeyError) as error:
        raise InputError(f"{dump}: cannot be read as MediaWiki's XML export: {error}") from error


def _name(element: ElementTree.Element) -> str:
    """Without the namespace, which has the format's version in it."""
    return element.tag.rsplit("}", 1)[-1]


def _sections(markup: str) -> Iterator[tuple[str, str]]:
    """Heading ("" of the lead) and text of each section, without its subsections."""
    for section in _parse(markup).get_sections(flat=True, include_lead=True):
        headings = section.filter_headings()
        heading = headings[0].title.strip_code().strip() if headings else ""
        if heading.casefold() in _ASIDE:
            continue
        for each in (*headings[:1], *_no_text(section)):
            section.remove(each)
        yield heading, section.strip_code()


def _no_text(section: Any) -> list[Any]:
    """References, tables, pictures and links to categories."""
    tags = section.filter_tags(
        recursive=False, matches=lambda tag: str(tag.tag) in ("ref", "table", "gallery", "math")
    )
    links = section.filter_wikilinks(
        recursive=False, matches=lambda link: re.match(r"\s*[A-Za-z-]+:", str(link.title))
    )
    return [*tags, *links]


def _parse(markup: str) -> Any:
    try:
        import mwparserfromhell
    except ImportError as error:
        raise MissingExtraError("Reading wiki dumps", "wiki") from error
    return mwparserfromhell.parse(markup)
