"""The folder of a run: who may write into it, what it was started with, and what it came to.

`run.json` is there from the first moment, `summary.json` only when the model is complete.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Iterator, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from retrieval.errors import ConfigError
from retrieval.files import read_json, write_json
from retrieval.training import checkpoints
from retrieval.training.example_store import fingerprint
from retrieval.training.model_card import Cost
from retrieval.training.watching import Scores

logger = logging.getLogger(__name__)

RUN, SUMMARY, LOG, MODEL = "run.json", "summary.json", "log.jsonl", "model"
BEST = "best"
CURVES = "curves.png"
_LIBRARIES = (
    "modernbert-retrieval",
    "sentence-transformers",
    "transformers",
    "torch",
    "datasets",
    "accelerate",
)
# What may change between a run and its resumption: it changes no weight.
_FREE = ("recipe.about", "recipe.optimizer.checkpoint_every", "recipe.optimizer.checkpoint_minutes")


def claim_output(output: Path, overwrite: bool, *, resume: bool = False) -> None:
    """Make sure that a run destroys nothing; `overwrite` removes what an earlier run left.

    Raises:
        ConfigError: `output` holds files and neither `overwrite` nor `resume` is set, both are, or
            there is no run to resume.
    """
    if overwrite and resume:
        raise ConfigError("--overwrite and --resume exclude each other: give one of them")
    if resume:
        if not (output / RUN).is_file():
            raise ConfigError(f"{output}: no run to resume ({RUN} is missing): leave out --resume")
        return
    if not (output.is_dir() and any(output.iterdir())):
        return
    if not overwrite:
        raise ConfigError(
            f"{output}: not empty{_state(output)} (--overwrite replaces what is there)"
        )
    # The summary goes first: without it, nobody takes the rest for a finished run.
    for name in (SUMMARY, RUN, LOG, CURVES):
        (output / name).unlink(missing_ok=True)
    for name in (checkpoints.FOLDER, BEST):
        shutil.rmtree(output / name, ignore_errors=True)


def is_finished(output: Path) -> bool:
    """Whether the run in `output` came to its end."""
    return (output / SUMMARY).is_file()


def start_of_run(
    recipe: Mapping[str, Any],
    examples: Any,
    model_fingerprint: str,
    *,
    processes: int,
    dry_run: bool,
) -> dict[str, Any]:
    """What decides every number of a run, for `run.json` and to compare with it."""
    return {
        "recipe": dict(recipe),
        "data": fingerprint(examples),
        "model": model_fingerprint,
        "processes": processes,
        "dry_run": dry_run,
        "versions": library_versions(),
    }


def check_same_run(output: Path, start: Mapping[str, Any]) -> None:
    """Compare what a run was started with and what it would be resumed with.

    Raises:
        ConfigError: recipe, data, starting model or the number of processes differ; the message
            names what, with both values.
    """
    before, now = _flat(read_json(output / RUN)), _flat(start)
    differing = [
        f"{key.removeprefix('recipe.')} is {now.get(key)!r} and was {before.get(key)!r}"
        for key in dict.fromkeys([*before, *now])
        if before.get(key) != now.get(key) and key not in _FREE and not key.startswith("versions.")
    ]
    if differing:
        raise ConfigError(
            f"{output}: the run can't be resumed with other settings than it began with: "
            f"{'; '.join(differing)} (undo that, or start again with --overwrite)"
        )
    for key, value in before.items():
        if key.startswith("versions.") and value != now.get(key):
            logger.warning(
                "the run began with %s %s, now it is %s: the numbers may differ in their last "
                "digits",
                key.removeprefix("versions."),
                value,
                now.get(key),
            )


def write_start(output: Path, start: Mapping[str, Any]) -> None:
    """Write `run.json`."""
    write_json(output / RUN, start)


def write_summary(output: Path, scores: Scores | None, cost: Cost, model_fingerprint: str) -> None:
    """Write `summary.json`, which says that the run is finished."""
    measured = None if scores is None else {**scores._asdict(), "verdict": scores.verdict()}
    write_json(
        output / SUMMARY,
        {"model": model_fingerprint, "dev_ndcg@10": measured, **cost._asdict()},
    )


def library_versions() -> dict[str, str]:
    """Versions of what the numbers of a run depend on."""
    versions = {}
    for name in _LIBRARIES:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            continue
    return versions


def _state(output: Path) -> str:
    """What an earlier run left in a folder, for the message."""
    if is_finished(output):
        return ", a finished run is in it"
    if not (output / RUN).is_file():
        return ""
    found = checkpoints.list_checkpoints(output / checkpoints.FOLDER)
    where = (
        f"its last checkpoint is of step {checkpoints.step_of(found[-1])}"
        if found
        else ("it has no checkpoint yet")
    )
    return f", an unfinished run is in it, {where}: --resume continues it"


def _flat(value: Any, prefix: str = "") -> dict[str, Any]:
    return dict(_leaves(value, prefix))


def _leaves(value: Any, prefix: str) -> Iterator[tuple[str, Any]]:
    if not isinstance(value, Mapping):
        yield prefix, value
        return
    for key, inner in value.items():
        yield from _leaves(inner, f"{prefix}.{key}" if prefix else str(key))
