"""How results look on a terminal."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.console import Console
from rich.text import Text

from retrieval.files import BadLines
from retrieval.indexing.retriever import Passage

if TYPE_CHECKING:
    from retrieval.indexing.explain import Explanation

_SHOWN_LINES = 4
_SHOWN_CHARACTERS = 400


def print_passages(
    console: Console,
    question: str,
    passages: Sequence[Passage],
    explanations: Sequence[Explanation] | None = None,
) -> None:
    """Print ranked passages, each with its score, id, first lines, and why it was found."""
    console.print(Text(question, "bold"))
    if not passages:
        console.print("  nothing found")
    for rank, passage in enumerate(passages, start=1):
        name = passage.id if passage.title in passage.id else f"{passage.id}  {passage.title}"
        heading = Text.assemble(f"{rank:3}. {passage.score:8.3f}  ", (name, "cyan"))
        console.print(heading, soft_wrap=True)
        lines = passage.text[:_SHOWN_CHARACTERS].splitlines()
        for line in [each for each in lines if each.strip()][:_SHOWN_LINES]:
            console.print(Text(f"     {line}", "dim"), overflow="ellipsis", no_wrap=True)
        if explanations:
            for line in str(explanations[rank - 1]).splitlines():
                console.print(Text(f"     {line}"), overflow="ellipsis", no_wrap=True)
    console.print()


def report_skipped(bad_lines: BadLines) -> None:
    """Say on stderr how many lines were skipped, if any."""
    if bad_lines.count:
        print(f"skipped {bad_lines.count:,} bad lines", file=sys.stderr)
