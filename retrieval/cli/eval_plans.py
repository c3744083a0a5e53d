"""What `retrieval eval` is asked to do, as plans: of a collection, a suite, or a result again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from retrieval.config import to_mapping
from retrieval.errors import ConfigError, InputError
from retrieval.evaluation.collection import TitleHandling, choose_split
from retrieval.evaluation.data_checks import check_data
from retrieval.evaluation.data_sets import data_folder, prepare
from retrieval.evaluation.finished import RESULT
from retrieval.evaluation.manifest import DataChoice, Manifest, Plan
from retrieval.evaluation.metrics import DEFAULT_METRICS
from retrieval.evaluation.models import ModelSettings
from retrieval.evaluation.planned import PlannedEvaluation
from retrieval.evaluation.result import Result
from retrieval.evaluation.settings import EvaluationSettings
from retrieval.evaluation.stages import stage_key
from retrieval.evaluation.suites import DataSet, Suite, read_suite
from retrieval.evaluation.systems import System, map_models, with_model_defaults

DATA = Path("data")
"""Where a suite's data sets are by default."""


@dataclass(frozen=True, kw_only=True)
class Chosen:
    """What the command line says; None and () leave it to the suite, or to the defaults."""

    systems: Sequence[System]
    split: str | None = None
    title: TitleHandling | None = None
    metrics: tuple[str, ...] = ()
    k: int = 100
    ignore_identical_ids: bool = False


@dataclass(frozen=True, kw_only=True)
class Home:
    """The folder of results.

    Attributes:
        folder: of a single result, or of DATASET/SYSTEM.
        is_shared: by any evaluations, so that each has a folder that is named by its plan.
    """

    folder: Path
    is_shared: bool = False

    def place(self, planned: PlannedEvaluation, is_single: bool) -> Path:
        """Where a result goes."""
        plan = planned.plan
        if self.is_shared:
            inputs = {"plan": to_mapping(plan.published()), "data": str(planned.data.resolve())}
            return self.folder / stage_key(inputs)
        if is_single:
            return self.folder
        return self.folder / plan.data.name / "-".join(plan.system.name.split())


def plans_for(
    source: Path, only: Sequence[str], data: Path | None, home: Home, chosen: Chosen
) -> tuple[list[PlannedEvaluation], Suite | None]:
    """Every system on a BEIR folder, or on each data set of a suite.

    Args:
        source: a BEIR folder, or a suite's TOML file.
        only: data sets of the suite; () takes all of them.
        data: folder of the suite's data sets.
        home: of the results.
        chosen: on the command line.

    Raises:
        ConfigError: a suite that can't be read, an unknown data set, or options that do not fit.
        InputError: no such folder, or no such split.
    """
    if source.suffix == ".toml":
        suite = read_suite(source).choose(only)
        if chosen.split is not None:
            raise ConfigError("--split is for a BEIR folder: a suite has the splits of its data")
        parts = [_of_suite(suite, each, data or DATA, chosen) for each in suite.data]
    else:
        if only:
            raise ConfigError("--only is for a suite: a BEIR folder is one data set")
        suite, parts = None, [_of_folder(source, data, home, chosen)]
    planned = [each for part in parts for each in part]
    is_single = len(planned) == 1
    return [replace(each, output=home.place(each, is_single)) for each in planned], suite


def plans_from(path: Path, data: Path | None, home: Home) -> list[PlannedEvaluation]:
    """The plan of a result again.

    Args:
        path: a result.json with a manifest.
        data: folder in which the data are.
        home: of the new result.

    Raises:
        ConfigError: the result has no manifest.
        InputError: the data are not there.
    """
    manifest = Result.from_json(path).manifest
    if manifest is None:
        raise ConfigError(
            f"{path}: has no manifest, as results of before: evaluate anew without --from"
        )
    planned = PlannedEvaluation(
        plan=_as_found(manifest),
        data=_find(manifest.plan.data, data),
        output=Path(),
        repeats=manifest,
    )
    return [replace(planned, output=home.place(planned, True))]


def _of_folder(
    folder: Path, data: Path | None, home: Home, chosen: Chosen
) -> list[PlannedEvaluation]:
    split = _split(folder, chosen.split, home)
    choice = DataChoice(
        name=folder.resolve().name,
        folder=_published(folder, data),
        split=split,
        title=chosen.title or "join",
    )
    settings = EvaluationSettings(
        k=chosen.k,
        metrics=chosen.metrics or DEFAULT_METRICS,
        split=split,
        ignore_identical_ids=chosen.ignore_identical_ids,
    )
    return [
        PlannedEvaluation(
            plan=Plan(data=choice, system=system, settings=settings), data=folder, output=Path()
        )
        for system in chosen.systems
    ]


def _of_suite(
    suite: Suite, data_set: DataSet, data: Path, chosen: Chosen
) -> list[PlannedEvaluation]:
    folder = data_folder(data_set, data)
    choice = DataChoice(
        name=data_set.name,
        folder=_published(folder, data),
        suite=suite.name,
        source=data_set.source,
        revision=data_set.revision,
        split=data_set.split,
        title=chosen.title or data_set.title,
    )
    metrics = chosen.metrics or tuple(dict.fromkeys((data_set.metric, *DEFAULT_METRICS)))
    settings = EvaluationSettings(
        k=chosen.k,
        metrics=metrics,
        split=data_set.split,
        ignore_identical_ids=chosen.ignore_identical_ids or data_set.ignore_identical_ids,
    )
    defaults: dict[str, Any] = {
        name: getattr(data_set, name)
        for name in ("query_length", "document_length", "query_prompt", "document_prompt")
    }
    return [
        PlannedEvaluation(
            plan=Plan(
                data=choice, system=with_model_defaults(system, **defaults), settings=settings
            ),
            data=folder,
            output=Path(),
            prepare=partial(_prepare, data_set, data),
        )
        for system in chosen.systems
    ]


def _prepare(data_set: DataSet, data: Path) -> None:
    """Fetch what is not there, and compare all of it with what the suite says."""
    prepare(data_set, data, progress=True)
    check_data(data_set, data)


def _split(folder: Path, split: str | None, home: Home) -> str:
    """The split that is meant; that of the finished result where the data are gone."""
    if split is not None:
        return split
    if not folder.is_dir():
        found = [home.folder / RESULT, *home.folder.glob(f"{folder.name}/*/{RESULT}")]
        return next((Result.from_json(path).split for path in found if path.exists()), "test")
    return choose_split(folder, None)


def _published(folder: Path, data: Path | None) -> str:
    """A folder of data as others may read it: no absolute path."""
    for base in (data, Path.cwd()):
        if base is not None and folder.resolve().is_relative_to(base.resolve()):
            return str(folder.resolve().relative_to(base.resolve()))
    return folder.name if folder.is_absolute() else str(folder)


def _as_found(manifest: Manifest) -> Plan:
    """The plan, each number format that was left to the hardware as it was chosen then."""
    weights = {each.name: each.weights for each in manifest.models}

    def change(model: ModelSettings) -> ModelSettings:
        dtype: Any = weights[model.name] if model.dtype == "auto" else model.dtype
        return replace(model, dtype=dtype)

    return replace(manifest.plan, system=map_models(manifest.plan.system, change))


def _find(choice: DataChoice, data: Path | None) -> Path:
    tried = [Path(choice.folder)]
    if data is not None:
        tried = [data / choice.folder, data / choice.name]
    for each in tried:
        if each.is_dir():
            return each
    raise InputError(
        f"{tried[0]}: no such folder, where the data of the result should be"
        + (f" ({choice.source}, suite {choice.suite})" if choice.suite else "")
        + ": say with --data in which folder they are"
    )
