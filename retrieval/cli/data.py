"""`retrieval data`: the data sets of a suite, fetched and checked."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from retrieval.cli.options import AsJson
from retrieval.errors import RetrievalError

if TYPE_CHECKING:
    from retrieval.evaluation.data_checks import CheckedData
    from retrieval.evaluation.suites import DataSet

_COLUMNS = ("data set", "documents", "queries", "relevant", "MB", "checksum", "licence")


def data(
    suite: Annotated[Path, typer.Argument(help="A suite, such as eval/suites/beir-13.toml.")],
    folder: Annotated[
        Path, typer.Option("--data", help="Folder that holds, or will hold, the data sets.")
    ] = Path("data"),
    only: Annotated[
        list[str] | None,
        typer.Option(help="A data set or group of the suite; may come several times."),
    ] = None,
    check: Annotated[
        bool, typer.Option("--check", help="Fetch nothing; check what is there.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Fetch the data sets of a suite, go on where that was interrupted, and check them."""
    from retrieval.evaluation.data_checks import check_data
    from retrieval.evaluation.data_sets import prepare
    from retrieval.evaluation.suites import read_suite

    rows, problems = [], []
    for data_set in read_suite(suite).choose(only or []).data:
        try:
            if not check:
                prepare(data_set, folder, progress=True)
            rows.append(_row(data_set, check_data(data_set, folder)))
        except RetrievalError as error:
            problems.append(str(error))
            print(f"error: {error}", file=sys.stderr)
    if as_json:
        print(json.dumps(rows, indent=2, ensure_ascii=False))
    elif rows:
        _print(rows)
    if problems:
        missing = f"{len(problems)} of {len(rows) + len(problems)} data sets are not ready"
        raise RetrievalError(f"{missing}: see above")


def _row(data_set: DataSet, checked: CheckedData) -> dict[str, Any]:
    facts = checked.facts
    return {
        "data set": data_set.name,
        "path": str(checked.path),
        "split": data_set.split,
        "documents": facts.documents,
        "queries": facts.queries,
        "relevant": facts.relevant,
        "bytes": facts.bytes,
        "checksum": facts.checksum,
        "first seen": checked.is_first_seen,
        "licence": data_set.licence,
    }


def _print(rows: list[dict[str, Any]]) -> None:
    cells = [
        (
            row["data set"],
            f"{row['documents']:,}",
            f"{row['queries']:,}",
            f"{row['relevant']:,}",
            f"{row['bytes'] / 1e6:,.1f}",
            f"{row['checksum'][:15]} {'first seen' if row['first seen'] else 'ok'}",
            row["licence"] or "not stated",
        )
        for row in rows
    ]
    widths = [max(map(len, column)) for column in zip(_COLUMNS, *cells)]
    for line in (_COLUMNS, *cells):
        aligned = (
            f"{cell:>{width}}" if 0 < number < 5 else f"{cell:{width}}"
            for number, (cell, width) in enumerate(zip(line, widths))
        )
        print("  ".join(aligned).rstrip())
