"""Many plans one after the other: finished ones are read, the others carried out and saved."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from retrieval.errors import InputError
from retrieval.evaluation.collection import read_collection
from retrieval.evaluation.data_checksums import data_checksums
from retrieval.evaluation.finished import (
    confirm,
    is_untouched,
    read_finished,
    save_result,
    source_states,
)
from retrieval.evaluation.manifest import DataChoice, Manifest, Plan
from retrieval.evaluation.metrics import load_pytrec_eval
from retrieval.evaluation.models import Models
from retrieval.evaluation.plan_results import evaluate_plan, models_of
from retrieval.evaluation.result import Result
from retrieval.evaluation.runs import check_run_ids
from retrieval.evaluation.saved_indexes import saved_checksums
from retrieval.evaluation.staged import CollectionStages
from retrieval.evaluation.stages import StageCache
from retrieval.evaluation.systems import SavedSystem, leaves
from retrieval.files import BadLines


@dataclass(frozen=True, kw_only=True)
class PlannedEvaluation:
    """A plan, where its data are, and where its result goes.

    Attributes:
        plan: one system on one collection.
        data: the BEIR folder.
        output: folder of the result.
        prepare: gets the data where they are not there; called before they are read.
        repeats: the manifest of a result that is repeated; None for a new evaluation.
    """

    plan: Plan
    data: Path
    output: Path
    prepare: Callable[[], object] | None = None
    repeats: Manifest | None = None


class Evaluations:
    """Carries out plans; those of one collection share their stages.

    Attributes:
        cache: where stages are kept.
        models: the encoders and cross-encoders.
        bad_lines: what to do with lines of a collection that can't be used.
    """

    def __init__(
        self,
        cache: StageCache,
        models: Models | None = None,
        *,
        devices: Sequence[str] | None = None,
        bad_lines: BadLines | None = None,
        strict: bool = False,
        overwrite: bool = False,
        progress: bool = False,
    ) -> None:
        """Nothing is done yet.

        Args:
            cache: where stages are kept.
            models: loaded when they are first needed.
            devices: encode in one process for each; see `write_embeddings`.
            bad_lines: raises by default.
            strict: judged ids that are missing are an error.
            overwrite: carry out plans that have a result already, and replace it.
            progress: show bars on stderr.
        """
        self.cache = cache
        self.models = models or Models()
        self.bad_lines = bad_lines or BadLines()
        self._devices = devices
        self._strict = strict
        self._overwrite = overwrite
        self._progress = progress
        self._stages: tuple[DataChoice, Path, CollectionStages] | None = None

    def result(self, planned: PlannedEvaluation) -> Result:
        """The result of a plan: read where it is finished, else computed and saved.

        A finished one whose data and models were not touched is found without opening them.

        Raises:
            MissingExtraError: pytrec_eval is not installed; raised before anything is encoded.
            ConfigError: the output holds the result of another plan, other data or other models.
            InputError: the data or the models are not those of the result that is repeated; or
                they can't be used.
        """
        load_pytrec_eval()
        sources = source_states(planned.plan, planned.data)
        if not self._overwrite:
            finished = self._finished(planned, sources)
            if finished is not None:
                return finished
        if planned.prepare is not None:
            planned.prepare()
            sources = source_states(planned.plan, planned.data)
        stages = self._stages_of(planned)
        if planned.repeats is not None:
            models = models_of(planned.plan.system, self.models)
            saved = saved_checksums(planned.plan.system)
            difference = planned.repeats.difference(stages.checksums, models, saved)
            if difference:
                raise InputError(
                    f"{planned.data}: not what made the result: {difference}: find the same, or "
                    "evaluate anew without --from"
                )
        result, run = evaluate_plan(planned.plan, stages)
        save_result(planned.output, result, run, sources)
        return result

    def take_index(self, planned: PlannedEvaluation, folder: Path) -> None:
        """Move the index of a plan that was carried out here from the cache to a folder.

        Whatever is in that folder is replaced. The cache lacks the index then: it is for caches
        that end with the evaluation. Nothing happens where there is no such index: for systems
        with several, for one that was there already, and for a result that was finished before.
        """
        systems = leaves(planned.plan.system)
        if self._stages is None or len(systems) != 1 or isinstance(systems[0], SavedSystem):
            return
        self._stages[2].take_index(systems[0], folder)

    def _finished(
        self, planned: PlannedEvaluation, sources: dict[str, str | None]
    ) -> Result | None:
        result = read_finished(planned.output, planned.plan)
        if result is None or result.manifest is None:
            return None
        if not is_untouched(planned.output, sources):
            confirm(
                planned.output,
                result.manifest,
                data_checksums(planned.data, planned.plan.data.split),
                models_of(planned.plan.system, self.models),
                saved_checksums(planned.plan.system),
                sources,
            )
        missing = result.counts.missing_documents + result.counts.missing_queries
        if self._strict and missing:
            raise InputError(
                f"{planned.output}: {missing} judged ids were missing "
                "(--strict makes this an error)"
            )
        return result

    def _stages_of(self, planned: PlannedEvaluation) -> CollectionStages:
        choice, data = planned.plan.data, planned.data
        if self._stages is None or self._stages[:2] != (choice, data):
            collection = read_collection(
                data,
                choice.split,
                bad_lines=self.bad_lines,
                strict=self._strict,
                title=choice.title,
            )
            check_run_ids(collection.qrels)
            stages = CollectionStages(
                self.cache,
                collection,
                data_checksums(data, choice.split),
                self.models,
                devices=self._devices,
                progress=self._progress,
            )
            self._stages = (choice, data, stages)
        return self._stages[2]
