"""Write the tables of the READMEs from the results' JSON files.

    python eval/tables.py             # writes what is stale anew, and names it
    python eval/tables.py --check     # only names it; exit code 1 where there is any

A table stands between two lines of its document:

    <!-- table: results FOLDER METRIC -->
    <!-- end of table -->

`results FOLDER METRIC` has systems by data sets from the results below a folder; `known SUITE
FOLDER` has them beside the figures that the suite knows from elsewhere; `sweep FILE` has the
indexes of a sweep of indexes/compare.py. Paths are from the document's folder. Hardware: any; some
seconds.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Callable
from pathlib import Path

from retrieval.errors import ConfigError
from retrieval.evaluation.index_sweep import IndexSweep, sweep_table
from retrieval.evaluation.references import known_figures, known_figures_table
from retrieval.evaluation.report_sources import find_sources
from retrieval.evaluation.report_tables import table_markdown
from retrieval.evaluation.results_matrix import matrix_table, results_matrix
from retrieval.evaluation.suites import read_suite
from retrieval.files import atomic_write
from retrieval.training.script import report_errors

ROOT = Path(__file__).parents[1]
DOCUMENTS = ("README.md", "train/README.md", "eval/README.md", "indexes/README.md")
_BEGINNING = re.compile(r"^<!-- table: (?P<call>[^\n]*?) -->$", re.MULTILINE)
_END = "<!-- end of table -->"


@report_errors
def main() -> None:
    """Go through the documents."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("documents", nargs="*", type=Path, help="by default the READMEs")
    parser.add_argument("--check", action="store_true", help="write nothing, fail on stale tables")
    given = parser.parse_args()
    stale = []
    for path in given.documents or [ROOT / name for name in DOCUMENTS]:
        text = path.read_text("utf-8")
        written = with_tables(text, path)
        if written == text:
            continue
        stale.append(path)
        print(f"{path}: {'stale' if given.check else 'written anew'}")
        if not given.check:
            with atomic_write(path) as stream:
                stream.write(written.encode())
    if given.check and stale:
        print("run `python eval/tables.py`, and commit what it writes", file=sys.stderr)
        sys.exit(1)


def with_tables(text: str, path: Path) -> str:
    """A document's text with every table made anew.

    Raises:
        ConfigError: a table that is unknown, lacks something, or has no end.
    """
    parts = []
    position = 0
    for beginning in _BEGINNING.finditer(text):
        end = text.find(_END, beginning.end())
        following = _BEGINNING.search(text, beginning.end())
        where = f"{path}: table {beginning['call']!r}"
        if end < 0 or (following and following.start() < end):
            raise ConfigError(f"{where} has no end: expected a line {_END}")
        parts += [text[position : beginning.end()], f"\n\n{_made(beginning['call'], path)}\n"]
        position = end
    return "".join([*parts, text[position:]])


def _made(call: str, path: Path) -> str:
    name, *arguments = call.split()
    if name not in _TABLES or len(arguments) != _TABLES[name][0]:
        known = ", ".join(_TABLES)
        raise ConfigError(f"{path}: no table {call!r}: expected {known}, as eval/tables.py says")
    return _TABLES[name][1](path.parent, *arguments)


def _results(folder: Path, results: str, metric: str) -> str:
    found = find_sources([folder / results]).results
    return table_markdown(matrix_table(results_matrix(found, metric), intervals=False))


def _known(folder: Path, suite: str, results: str) -> str:
    found = find_sources([folder / results]).results
    return table_markdown(known_figures_table(known_figures(read_suite(folder / suite), found)))


def _sweep(folder: Path, sweep: str) -> str:
    return table_markdown(sweep_table(IndexSweep.from_json(folder / sweep)))


_TABLES: dict[str, tuple[int, Callable[..., str]]] = {
    "results": (2, _results),
    "known": (2, _known),
    "sweep": (1, _sweep),
}
"""By name, with the number of arguments."""


if __name__ == "__main__":
    main()
