"""Runs whose candidates are ranked anew, by exact MaxSim or by a cross-encoder."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from retrieval.encoders.embedding_store import EmbeddingStore
from retrieval.errors import InputError
from retrieval.evaluation.collection import Collection
from retrieval.evaluation.cross_encoders import CrossEncoder
from retrieval.evaluation.runs import Run
from retrieval.indexing.rerank import rerank
from retrieval.indexing.token_vectors import StoredTokenVectors
from retrieval.indexing.vectors import Vectors
from retrieval.progress import track
from retrieval.records import Hit, Query

_SCORES = "scores.jsonl"


def rerank_by_maxsim(
    candidates: Mapping[str, Sequence[Hit]],
    queries: Mapping[str, Vectors],
    documents: EmbeddingStore,
    k: int,
) -> Run:
    """Rank candidates by exact MaxSim.

    Args:
        candidates: by query id.
        queries: (tokens, D) by query id, all those of `candidates`.
        documents: of a multi-vector model, all candidates among them.
        k: hits a query.

    Raises:
        As in `retrieval.indexing.rerank.rerank`.
    """
    ids = list(candidates)
    ranked = rerank(
        [queries[each] for each in ids],
        [candidates[each] for each in ids],
        StoredTokenVectors(documents),
        k,
    )
    return dict(zip(ids, ranked, strict=True))


def rerank_by_cross_encoder(
    folder: Path,
    candidates: Mapping[str, Sequence[Hit]],
    collection: Collection,
    model: CrossEncoder,
    k: int,
    *,
    progress: bool = False,
) -> Run:
    """Rank candidates by a cross-encoder; equal scores leave them in their order.

    Args:
        folder: keeps the scores of each query as soon as they are there, so that a killed run goes
            on behind the last of them.
        candidates: by query id.
        collection: their texts.
        model: scores pairs.
        k: hits a query.
        progress: show a bar on stderr.

    Raises:
        InputError: the corpus lacks a candidate.
    """
    path = folder / _SCORES
    known = _read_scores(path)
    missing = [
        each for each in collection.queries if each.id in candidates and each.id not in known
    ]
    texts = _texts(collection, {hit.document_id for each in missing for hit in candidates[each.id]})
    with path.open("a", encoding="utf-8") as stream:
        for query in track(missing, "scoring candidates", len(missing), progress):
            scores = _score(model, query, candidates[query.id], texts)
            stream.write(json.dumps([query.id, scores]) + "\n")
            stream.flush()
            known[query.id] = scores
    return {each: _ranked(hits, known[each])[:k] for each, hits in candidates.items()}


def _score(
    model: CrossEncoder, query: Query, hits: Sequence[Hit], texts: Mapping[str, str]
) -> list[float]:
    documents = [texts[hit.document_id] for hit in hits]
    return [float(score) for score in model.score(query.text, documents)]


def _ranked(hits: Sequence[Hit], scores: Sequence[float]) -> list[Hit]:
    scored = [Hit(hit.document_id, score) for hit, score in zip(hits, scores, strict=True)]
    return sorted(scored, key=lambda hit: -hit.score)


def _texts(collection: Collection, wanted: set[str]) -> dict[str, str]:
    if not wanted:
        return {}
    found = {each.id: each.contents for each in collection.documents() if each.id in wanted}
    if len(found) < len(wanted):
        lacking = ", ".join(map(repr, sorted(wanted - set(found))[:10]))
        raise InputError(f"{collection.path}: candidates are not in the corpus: {lacking}")
    return found


def _read_scores(path: Path) -> dict[str, list[float]]:
    """What a killed run left; its last line may be cut off, and is cut away."""
    known: dict[str, list[float]] = {}
    if not path.exists():
        return known
    whole = path.read_bytes().rpartition(b"\n")[0]
    for line in whole.splitlines():
        query_id, scores = json.loads(line)
        known[query_id] = scores
    with path.open("r+b") as stream:
        stream.truncate(len(whole) + 1 if whole else 0)
    return known
