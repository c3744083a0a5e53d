"""From a plan to its result: the run by stages, the metrics, the manifest."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from retrieval.config import to_mapping
from retrieval.encoders.protocol import Encoder
from retrieval.evaluation.collection import Collection
from retrieval.evaluation.evaluator import measured_result
from retrieval.evaluation.hardware import this_hardware
from retrieval.evaluation.manifest import Manifest, Plan
from retrieval.evaluation.metrics import Scores, evaluate_run
from retrieval.evaluation.models import ModelFacts, Models, ModelSettings
from retrieval.evaluation.peak_memory import PeakMemory
from retrieval.evaluation.result import Result, Timings
from retrieval.evaluation.runs import Run
from retrieval.evaluation.saved_indexes import saved_checksums
from retrieval.evaluation.staged import (
    DOCUMENT_STORE,
    CollectionStages,
    SearchSettings,
)
from retrieval.evaluation.stages import StageCost
from retrieval.evaluation.system_runs import run_system
from retrieval.evaluation.systems import (
    FusionSystem,
    LexicalSystem,
    RerankSystem,
    SavedSystem,
    System,
    VectorSystem,
    leaves,
    nodes,
)
from retrieval.records import ModelReference


def evaluate_plan(plan: Plan, stages: CollectionStages) -> tuple[Result, Run]:
    """Carry out a plan; stages that are in the cache are not done again.

    Args:
        plan: one system on one collection.
        stages: of that collection, read with the plan's split and title handling.

    Returns:
        The result with its manifest, and the run.

    Raises:
        MissingExtraError: pytrec_eval is not installed.
        InputError: judged documents are missing and the collection is strict; or as in
            `build_index`.
    """
    settings = plan.settings
    search = SearchSettings(
        k=settings.k,
        batch_size=settings.search_batch_size,
        ignore_identical_ids=settings.ignore_identical_ids,
    )
    stage = run_system(stages, plan.system, search)
    run = stages.read_run(stage)
    collection = stages.collection
    scores, scoring = _measure(plan, collection, run)
    costs = (*dict.fromkeys(stage.costs), scoring)
    indexes = {each.name: stages.index(each).facts for each in leaves(plan.system)}
    kind, parameters = _index_of(plan.system, indexes)
    manifest = Manifest(
        plan=plan.published(),
        checksums=stages.checksums,
        models=models_of(plan.system, stages.models),
        index_parameters={name: facts["parameters"] for name, facts in indexes.items()},
        saved_indexes=saved_checksums(plan.system),
        vector_dtype=DOCUMENT_STORE.dtype,
        hardware=this_hardware(),
        stages=costs,
    )
    with stages.open_index(leaves(plan.system)[0]) as index:
        documents = len(index)
        missing = collection.check_documents(index)
    result = measured_result(
        collection,
        scores,
        name=plan.data.name,
        documents=documents,
        missing_documents=len(missing),
        system=plan.system.name,
        timings=Timings(
            queries=len(collection.queries),
            encode_seconds=sum(each.seconds for each in costs if each.name == "encode queries"),
            search_seconds=float(stage.facts["search_seconds"]),
        ),
        settings=settings,
        index_kind=kind,
        index_parameters=parameters,
        index_bytes=sum(facts["bytes"] for facts in indexes.values()),
        model=_reference(plan.system, stages.models),
        manifest=manifest,
    )
    return result, run


def models_of(system: System, models: Models) -> tuple[ModelFacts, ...]:
    """The facts of every model that a system needs, each once; they are loaded for it."""
    found: dict[ModelSettings, ModelFacts] = {}
    for each in nodes(system):
        if isinstance(each, RerankSystem) and each.by == "cross-encoder":
            found[each.model] = models.cross_encoder(each.model).facts
        elif isinstance(each, RerankSystem | VectorSystem | SavedSystem) and each.model:
            found[each.model] = models.facts(each.model)
    return tuple(found.values())


def _measure(plan: Plan, collection: Collection, run: Run) -> tuple[Scores, StageCost]:
    with PeakMemory() as memory:
        started = time.perf_counter()
        scores = evaluate_run(collection.qrels, run, plan.settings.metrics)
        seconds = time.perf_counter() - started
    cost = StageCost(
        name="metrics", of=plan.system.name, seconds=seconds, peak_memory_bytes=memory.bytes
    )
    return scores, cost


def _index_of(
    system: System, indexes: Mapping[str, Mapping[str, Any]]
) -> tuple[str, dict[str, Any]]:
    """The kind and the parameters that tables show."""
    if isinstance(system, LexicalSystem | VectorSystem):
        return system.index, indexes[system.name]["parameters"]
    if isinstance(system, SavedSystem):
        return indexes[system.name]["kind"], indexes[system.name]["parameters"]
    if isinstance(system, FusionSystem):
        of = [each.name for each in system.of]
        return "fusion", {"of": of, "depth": system.depth, **to_mapping(system.fusion)}
    return "rerank", {"first": system.first.name, "by": system.by, "depth": system.depth}


def _reference(system: System, models: Models) -> ModelReference | None:
    if not isinstance(system, VectorSystem | SavedSystem) or system.model is None:
        return None
    encoder: Encoder = models[system.model]
    return encoder.reference._replace(name=models.facts(system.model).name)
