"""Finished results on disk: found again without opening the data, as long as nothing changed.

FOLDER/result.json    the figures and the manifest
FOLDER/run.trec       the hits
FOLDER/sources.json   names, sizes and times of the files that they were made from
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from retrieval.errors import ConfigError, RetrievalError
from retrieval.evaluation.data_checksums import DataChecksums
from retrieval.evaluation.manifest import Manifest, Plan
from retrieval.evaluation.models import ModelFacts, published_name
from retrieval.evaluation.result import Result
from retrieval.evaluation.runs import Run, write_run
from retrieval.evaluation.systems import FusionSystem, LexicalSystem, SavedSystem, nodes
from retrieval.files import read_json, write_json

RESULT = "result.json"
RUN = "run.trec"
_SOURCES = "sources.json"

_ADVICE = "(--overwrite replaces it, another --output keeps both)"


def save_result(folder: Path, result: Result, run: Run, sources: Mapping[str, str | None]) -> None:
    """Write a result and its run; the result last, so that it stands for all of them.

    Args:
        folder: created if missing; older files are replaced.
        result: of a plan.
        run: its hits; the tag is the system's name with hyphens for spaces.
        sources: as `source_states` gave them before the work began.
    """
    (folder / RESULT).unlink(missing_ok=True)
    write_run(folder / RUN, run, "-".join(result.system.split()))
    write_json(folder / _SOURCES, dict(sources))
    result.to_json(folder / RESULT)


def read_finished(folder: Path, plan: Plan) -> Result | None:
    """The result in a folder, or None where there is none.

    Raises:
        ConfigError: it is the result of another plan.
    """
    if not (folder / RESULT).is_file():
        return None
    result = Result.from_json(folder / RESULT)
    if result.manifest is None or result.manifest.plan != plan.published():
        raise ConfigError(f"{folder}: holds the result of another evaluation already {_ADVICE}")
    return result


def is_untouched(folder: Path, sources: Mapping[str, str | None]) -> bool:
    """Whether the sources of a result are as they were, by the names, sizes and times of files.

    Sources that are gone can't have changed. Where this is False, checksums have to tell.

    Args:
        folder: where `save_result` put the result.
        sources: as `source_states` gives them now.
    """
    try:
        before = read_json(folder / _SOURCES)
    except RetrievalError:  # a result that was copied without it
        return False
    return all(state is None or before.get(name) == state for name, state in sources.items())


def confirm(
    folder: Path,
    manifest: Manifest,
    checksums: DataChecksums,
    models: Sequence[ModelFacts],
    saved_indexes: Mapping[str, str],
    sources: Mapping[str, str | None],
) -> None:
    """Note that a result still stands: its sources were touched, but are the same.

    Raises:
        ConfigError: they are not; the message says what was and what is.
    """
    difference = manifest.difference(checksums, models, saved_indexes)
    if difference:
        raise ConfigError(f"{folder}: holds the result of other sources: {difference} {_ADVICE}")
    write_json(folder / _SOURCES, dict(sources))


def source_states(plan: Plan, data: Path) -> dict[str, str | None]:
    """A state for the data, and for each model and each saved index; None where it is not there."""
    states = {"data": _state(data)}
    for each in nodes(plan.system):
        if isinstance(each, SavedSystem):
            states[f"index {published_name(each.folder)}"] = _state(Path(each.folder))
        if not isinstance(each, LexicalSystem | FusionSystem) and each.model is not None:
            states[f"model {each.model.published().name}"] = _state(Path(each.model.name))
    return states


def _state(folder: Path) -> str | None:
    """A digest of names, sizes and times of change, of every file that is not hidden."""
    if not folder.is_dir():
        return None
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    entries = [
        (str(path.relative_to(folder)), path.stat().st_size, path.stat().st_mtime_ns)
        for path in files
        if not path.name.startswith(".")
    ]
    return hashlib.sha256(json.dumps(entries).encode()).hexdigest()
