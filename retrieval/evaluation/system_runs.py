"""The run of any system: searched in an index, fused from other runs, or reranked."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from retrieval.config import to_mapping
from retrieval.evaluation.models import model_inputs, short_name
from retrieval.evaluation.reranked_runs import rerank_by_cross_encoder, rerank_by_maxsim
from retrieval.evaluation.staged import CollectionStages, SearchSettings, open_vectors, rows_of
from retrieval.evaluation.stages import Stage
from retrieval.evaluation.systems import FusionSystem, RerankSystem, System, leaves
from retrieval.indexing.fusion import fuse
from retrieval.records import Hit


def run_system(stages: CollectionStages, system: System, settings: SearchSettings) -> Stage:
    """The run of a system, made with the runs below it where they are not there.

    Its fact `search_seconds` is the time of all searches that it needs, of fusion and of scoring,
    queries' encoding not counted.
    """
    if isinstance(system, FusionSystem):
        return _fused(stages, system, settings)
    if isinstance(system, RerankSystem):
        return _reranked(stages, system, settings)
    return stages.search(system, settings)


def _fused(stages: CollectionStages, system: FusionSystem, settings: SearchSettings) -> Stage:
    deeper = replace(settings, k=max(settings.k, system.depth))
    found = [run_system(stages, each, deeper) for each in system.of]

    def make(folder: Path, *needed: Stage) -> dict[str, Any]:
        started = time.perf_counter()
        runs = [_with_every_query(stages, stages.read_run(each)) for each in needed]
        run = {
            query_id: fuse(rankings, system.fusion)[: settings.k]
            for query_id, *rankings in zip(runs[0], *(each.values() for each in runs))
        }
        seconds = time.perf_counter() - started
        stages.keep_run(folder, run)
        return {"search_seconds": _search_seconds(*needed) + seconds}

    inputs = {
        "fusion": to_mapping(system.fusion),
        "of": [each.key for each in found],
        "search": to_mapping(settings),
    }
    needs = [partial(_itself, each) for each in found]
    return stages.cache.get("runs", inputs, make, name="fuse", of=system.name, needs=needs)


def _reranked(stages: CollectionStages, system: RerankSystem, settings: SearchSettings) -> Stage:
    deeper = replace(settings, k=max(settings.k, system.depth))
    first = run_system(stages, system.first, deeper)
    inputs: dict[str, Any] = {"first": first.key, "by": system.by, "search": to_mapping(settings)}
    needs = [partial(_itself, first)]
    if system.by == "maxsim":
        needs.append(partial(_candidate_vectors, stages, system, first))
        needs.append(partial(stages.query_vectors, system.model))
        inputs["model"] = model_inputs(system.model, stages.models.facts(system.model))
    else:
        facts = stages.models.cross_encoder(system.model).facts
        inputs["model"] = model_inputs(system.model, facts)

    def make(folder: Path, found: Stage, *vectors: Stage) -> dict[str, Any]:
        candidates = _with_every_query(stages, stages.read_run(found))
        started = time.perf_counter()
        if vectors:
            documents, queries = map(open_vectors, vectors)
            by_query = dict(zip(candidates, rows_of(queries), strict=True))
            run = rerank_by_maxsim(candidates, by_query, documents, settings.k)
        else:
            run = rerank_by_cross_encoder(
                folder,
                candidates,
                stages.collection,
                stages.models.cross_encoder(system.model),
                settings.k,
                progress=stages.progress,
            )
        seconds = time.perf_counter() - started
        stages.keep_run(folder, run)
        return {"search_seconds": _search_seconds(found) + seconds}

    name = f"rerank with {short_name(system.model)}"
    return stages.cache.get("runs", inputs, make, name=name, of=system.name, needs=needs)


def _candidate_vectors(stages: CollectionStages, system: RerankSystem, first: Stage) -> Stage:
    with stages.open_index(leaves(system.first)[0]) as index:
        documents = len(index)
    return stages.candidate_vectors(system.model, first, documents)


def _itself(stage: Stage) -> Stage:
    return stage


def _search_seconds(*stages: Stage) -> float:
    return sum(float(each.facts["search_seconds"]) for each in stages)


def _with_every_query(
    stages: CollectionStages, run: Mapping[str, list[Hit]]
) -> dict[str, list[Hit]]:
    """In the collection's order; a run that was read from a file lacks queries without hits."""
    return {each.id: run.get(each.id, []) for each in stages.collection.queries}
