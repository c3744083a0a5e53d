"""The command `retrieval` itself: its subcommands, its log, and how errors end it."""

from __future__ import annotations

import logging
import sys
from typing import Annotated

import typer

import retrieval
from retrieval.cli.compare import compare
from retrieval.cli.data import data
from retrieval.cli.demo import demo
from retrieval.cli.encode import encode
from retrieval.cli.eval import evaluate
from retrieval.cli.export import export
from retrieval.cli.index import index
from retrieval.cli.info import info
from retrieval.cli.report import report
from retrieval.cli.search import search
from retrieval.cli.verify import verify
from retrieval.errors import ConfigError, RetrievalError

app = typer.Typer(
    name="retrieval",
    help="Train ModernBERT retrievers, index documents with them, search, and measure the result.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.command("encode")(encode)
app.command("index")(index)
app.command("search")(search)
app.command("data")(data)
app.command("eval")(evaluate)
app.command("report")(report)
app.command("compare")(compare)
app.command("export")(export)
app.command("info")(info)
app.command("verify")(verify)
app.command("demo")(demo)


def _print_version(wanted: bool) -> None:
    if wanted:
        print(retrieval.__version__)
        raise typer.Exit


@app.callback()
def options(
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Log every choice.")] = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print it.")
    ] = False,
) -> None:
    """Results go to stdout; logs and progress to stderr."""
    level = logging.INFO if verbose else logging.WARNING
    logging.basicConfig(level=level, format="%(levelname)s: %(message)s", force=True)


def main() -> None:
    """Run the command line: exit code 0 for success, 1 for failure, 2 for bad usage."""
    try:
        app()
    except RetrievalError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2 if isinstance(error, ConfigError) else 1)
    except KeyboardInterrupt:
        sys.exit(130)
