"""`retrieval compare`: results of several systems, tested against the first."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from retrieval.cli.options import AsJson
from retrieval.config import to_mapping
from retrieval.errors import ConfigError
from retrieval.evaluation.significance import Correction

if TYPE_CHECKING:
    from retrieval.evaluation.comparison import Comparison
    from retrieval.evaluation.moved_queries import MovedQuery

_LEAST_WIDTH = 120
"""Of the tables: a narrower terminal breaks their lines, but nothing is cut off."""


def compare(
    results: Annotated[
        list[Path],
        typer.Argument(
            help="Folders of `retrieval eval --output`, or that hold such folders, of one system "
            "or several; the first system is the baseline."
        ),
    ],
    baseline: Annotated[
        str | None, typer.Option(help="The name of the system that the others are tested against.")
    ] = None,
    metric: Annotated[
        list[str] | None,
        typer.Option(help="May come several times; by default the first that all have."),
    ] = None,
    data: Annotated[
        list[Path] | None,
        typer.Option(help="BEIR folders, or a folder of them, for judgements and texts."),
    ] = None,
    moved: Annotated[
        int, typer.Option(min=0, help="Queries that moved most, shown for each system.")
    ] = 10,
    trials: Annotated[int, typer.Option(help="Random samples for each test.")] = 10_000,
    seed: Annotated[int, typer.Option(help="Of the tests.")] = 0,
    correction: Annotated[Correction, typer.Option(help="For the number of comparisons.")] = "holm",
    as_json: AsJson = False,
    as_markdown: Annotated[bool, typer.Option("--markdown", help="Print Markdown.")] = False,
) -> None:
    """Test systems against the first: differences, intervals, p values, queries that moved."""
    from retrieval import evaluation
    from retrieval.evaluation.moved_queries import find_collections, moved_queries

    if as_json and as_markdown:
        raise ConfigError("--json and --markdown exclude each other: choose one")
    settings = evaluation.SignificanceSettings(trials=trials, seed=seed, correction=correction)
    systems = evaluation.read_measured_systems(results, baseline)
    comparison = evaluation.compare(systems, metric or (), settings)
    first, *others = systems
    collections = find_collections(data or [], first, comparison.data_sets)
    shown = {
        system.name: moved_queries(
            first,
            system,
            comparison.data_sets,
            comparison.metrics[0],
            collections=collections,
            count=moved,
        )
        for system in others
    }
    if as_json:
        _print_json(comparison, shown)
    elif as_markdown:
        _print_markdown(comparison, shown)
    else:
        _print_tables(comparison, shown)


def _print_json(comparison: Comparison, moved: Mapping[str, Sequence[MovedQuery]]) -> None:
    mapping = to_mapping(comparison)
    mapping["moved_queries"] = {
        system: [to_mapping(query) for query in queries] for system, queries in moved.items()
    }
    print(json.dumps(mapping, indent=2, ensure_ascii=False))


def _print_markdown(comparison: Comparison, moved: Mapping[str, Sequence[MovedQuery]]) -> None:
    from retrieval.evaluation import comparison_table

    for metric in comparison.metrics:
        print(comparison_table.comparison_markdown(comparison, metric))
    for note in comparison_table.comparison_notes(comparison):
        print(f"- {note}")
    for system, queries in moved.items():
        if queries:
            print(f"\n{_moved_heading(comparison, system)}")
        for query in queries:
            print()
            print(comparison_table.moved_query_markdown(query, comparison.baseline, system), end="")


def _print_tables(comparison: Comparison, moved: Mapping[str, Sequence[MovedQuery]]) -> None:
    from rich.console import Console
    from rich.text import Text

    from retrieval.evaluation import comparison_table

    console = Console(highlight=False)
    console = Console(highlight=False, width=max(console.width, _LEAST_WIDTH))
    for metric in comparison.metrics:
        console.print(comparison_table.comparison_table(comparison, metric))
    for note in comparison_table.comparison_notes(comparison):
        console.print(Text(note, "dim"), soft_wrap=True)
    for system, queries in moved.items():
        if queries:
            console.print(Text(f"\n{_moved_heading(comparison, system)}\n"), soft_wrap=True)
        for query in queries:
            console.print(Text(comparison_table.moved_query_heading(query), "bold"), soft_wrap=True)
            if query.baseline_ranking or query.ranking:
                console.print(
                    comparison_table.moved_query_table(query, comparison.baseline, system)
                )


def _moved_heading(comparison: Comparison, system: str) -> str:
    return (
        f"Queries that moved most from {comparison.baseline} to {system}, by "
        f"{comparison.metrics[0]} (other: the rank with the other system)"
    )
