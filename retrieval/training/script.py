"""What the training programs share: their arguments and how they end on an error."""

from __future__ import annotations

import argparse
import functools
import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

from retrieval.config import from_mapping, read_recipe
from retrieval.errors import ConfigError, RetrievalError
from retrieval.files import read_json
from retrieval.training.processes import is_first_process, leave_group
from retrieval.training.run_folder import MODEL, SUMMARY

Recipe = TypeVar("Recipe")


@dataclass(frozen=True, kw_only=True)
class TrainingArguments(Generic[Recipe]):
    """A checked recipe and where its model goes."""

    recipe: Recipe
    output: Path
    overwrite: bool
    dry_run: bool
    resume: bool
    json: bool


def parse_arguments(kind: type[Recipe], description: str | None) -> TrainingArguments[Recipe]:
    """Read `RECIPE --output DIR [--overwrite | --resume] [--dry-run] [--json] [key=value ...]`.

    Raises:
        ConfigError: a recipe or override that does not fit `kind`.
    """
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("recipe", type=Path, help="a TOML recipe, or a run's recipe.json")
    parser.add_argument("overrides", nargs="*", help="table.key=value, over the recipe's")
    parser.add_argument("--output", type=Path, required=True, help="folder for the model")
    parser.add_argument("--overwrite", action="store_true", help="replace what is in --output")
    parser.add_argument("--resume", action="store_true", help="go on with the run in --output")
    parser.add_argument("--json", action="store_true", help="print what summary.json holds")
    parser.add_argument("--dry-run", action="store_true", help="two steps on a tiny sample")
    arguments = parser.parse_intermixed_args()
    settings = read_recipe(arguments.recipe, arguments.overrides)
    return TrainingArguments(
        recipe=from_mapping(kind, settings, source=str(arguments.recipe)),
        output=arguments.output,
        overwrite=arguments.overwrite,
        dry_run=arguments.dry_run,
        resume=arguments.resume,
        json=arguments.json,
    )


def report_result(output: Path, *, as_json: bool) -> None:
    """Print, on the first process, the verdict of a finished run and where its model is."""
    if not is_first_process():
        return
    summary = read_json(output / SUMMARY)
    if as_json:
        print(json.dumps({"folder": str(output / MODEL), **summary}))
        return
    if summary["dev_ndcg@10"] is not None:
        print(summary["dev_ndcg@10"]["verdict"])
    print(output / MODEL)


def report_errors(main: Callable[[], None]) -> Callable[[], None]:
    """Turn a RetrievalError into one line on stderr: exit code 2 for bad settings, else 1."""

    @functools.wraps(main)
    def guarded() -> None:
        try:
            main()
            leave_group()
        except RetrievalError as error:
            print(f"error: {error}", file=sys.stderr)
            sys.exit(2 if isinstance(error, ConfigError) else 1)

    return guarded
