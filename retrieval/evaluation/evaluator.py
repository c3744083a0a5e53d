"""Queries in, ranked documents, metrics and timings out, for lexical and for vector indexes."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from retrieval.config import to_mapping
from retrieval.encoders.protocol import Encoder
from retrieval.errors import ConfigError, InputError
from retrieval.evaluation.collection import Collection
from retrieval.evaluation.metrics import Scores, evaluate_run, load_pytrec_eval
from retrieval.evaluation.result import (
    Counts,
    Result,
    Timings,
    library_versions,
    python_version,
)
from retrieval.evaluation.runs import Run, check_run_ids, write_run
from retrieval.evaluation.settings import EvaluationSettings
from retrieval.indexing.index import Index, check_model
from retrieval.indexing.versions import index_bytes
from retrieval.parallel import cpu_count
from retrieval.progress import track
from retrieval.records import Hit, Query

_TEXT_INDEXES = ("lexical",)
"""Kinds of index that take the queries' texts."""


def run_queries(
    index: Index[Any],
    encoder: Encoder | None,
    queries: Sequence[Query],
    k: int,
    *,
    batch_size: int = 64,
    ignore_identical_ids: bool = False,
    progress: bool = False,
) -> tuple[Run, Timings]:
    """Search for all queries; the first is asked once before the clock starts.

    Args:
        index: any index; a lexical one takes the texts themselves.
        encoder: encodes the queries; None for a lexical index.
        queries: ids and texts.
        k: hits a query.
        batch_size: queries that are searched together; encoders make their own batches.
        ignore_identical_ids: leave out a document whose id is the query's.
        progress: show bars on stderr.

    Raises:
        InputError: the index needs an encoder and there is none, or the reverse.
        ModelMismatchError: the index was filled by another model than `encoder`.
    """
    _check_pair(index, encoder)
    texts = [query.text for query in queries]
    if texts:  # encoder and index are warm before the clock starts
        index.search(_items(texts[:1], encoder), k)
    started = time.perf_counter()
    items: Any = texts
    if encoder is not None:
        encoded = encoder.encode_queries(texts)
        items = list(track(encoded, "encoding queries", len(texts), progress))
    encode_seconds = time.perf_counter() - started if encoder else 0.0
    run, search_seconds = search_items(
        index,
        [query.id for query in queries],
        items,
        k,
        batch_size=batch_size,
        ignore_identical_ids=ignore_identical_ids,
        progress=progress,
    )
    return run, Timings(
        queries=len(queries), encode_seconds=encode_seconds, search_seconds=search_seconds
    )


def search_items(
    index: Index[Any],
    query_ids: Sequence[str],
    items: Sequence[Any],
    k: int,
    *,
    batch_size: int = 64,
    ignore_identical_ids: bool = False,
    progress: bool = False,
) -> tuple[Run, float]:
    """Search for queries that are encoded already.

    Args:
        index: any index.
        query_ids: one for each item.
        items: texts for a lexical index, (D,) vectors, or (tokens, D) token vectors.
        k: hits a query.
        batch_size: queries that are searched together.
        ignore_identical_ids: leave out a document whose id is the query's.
        progress: show a bar on stderr.

    Returns:
        The run, and the seconds that the index took.
    """
    depth = k + ignore_identical_ids
    seconds = 0.0

    def search() -> Iterator[list[Hit]]:
        nonlocal seconds
        for start in range(0, len(items), batch_size):
            batch = _stacked(items[start : start + batch_size])
            begun = time.perf_counter()
            found = index.search(batch, depth)
            seconds += time.perf_counter() - begun
            yield from found

    run: Run = {}
    ranked = track(search(), "searching", len(items), progress)
    for query_id, hits in zip(query_ids, ranked, strict=True):
        if ignore_identical_ids:
            hits = [hit for hit in hits if hit.document_id != query_id]
        run[query_id] = hits[:k]
    return run, seconds


def evaluate(
    collection: Collection,
    index: Index[Any],
    encoder: Encoder | None = None,
    settings: EvaluationSettings | None = None,
    *,
    system: str | None = None,
    run_path: Path | None = None,
    progress: bool = False,
) -> Result:
    """Ask all queries of a collection and measure the answers.

    The objects may be anything that was made in memory, so that the result has no manifest. An
    index in a folder is measured with one as a `SavedSystem`, by `Evaluations` or by
    `retrieval eval --index FOLDER`.

    Args:
        collection: queries and judgements; the corpus is not read.
        index: an index of the collection's documents.
        encoder: the encoder that filled the index; None for a lexical index.
        settings: defaults where None.
        system: the name in tables; by default the model's folder and the kind of index.
        run_path: where to write the TREC run, before it is scored; its tag is `system` with
            hyphens for spaces.
        progress: show bars on stderr.

    Raises:
        MissingExtraError: pytrec_eval is not installed; raised before the first search.
        ConfigError: `settings` name another split than the collection's.
        InputError: judged documents are missing and the collection is strict, a judged id holds
            whitespace and a run is to be written, or as in `run_queries`.
        ModelMismatchError: as in `run_queries`.
    """
    settings = settings or EvaluationSettings()
    load_pytrec_eval()
    if settings.split not in (None, collection.split):
        raise ConfigError(
            f"the settings ask for the split {settings.split!r}, the collection is "
            f"{collection.split!r}: read it with that split"
        )
    if run_path is not None:
        check_run_ids(collection.qrels)
    missing = collection.check_documents(index)
    system = system or _system_name(index, encoder)
    run, timings = run_queries(
        index,
        encoder,
        collection.queries,
        settings.k,
        batch_size=settings.search_batch_size,
        ignore_identical_ids=settings.ignore_identical_ids,
        progress=progress,
    )
    if run_path is not None:
        write_run(run_path, run, "-".join(system.split()))
    return measured_result(
        collection,
        evaluate_run(collection.qrels, run, settings.metrics),
        name=collection.name,
        documents=len(index),
        missing_documents=len(missing),
        system=system,
        timings=timings,
        settings=settings,
        index_kind=index.kind,
        index_parameters=to_mapping(index.settings),
        index_bytes=index_bytes(index.folder) if index.folder else None,
        model=encoder.reference if encoder else None,
    )


def measured_result(
    collection: Collection,
    scores: Scores,
    *,
    name: str,
    documents: int,
    missing_documents: int,
    **facts: Any,
) -> Result:
    """A result of now and here.

    Args:
        collection: what was asked.
        scores: of the run.
        name: of the data set, which a suite may call otherwise than its folder.
        documents: in the index.
        missing_documents: judged, but not there.
        facts: the fields of `Result` that collection, scores and environment do not tell.
    """
    return Result(
        collection=name,
        split=collection.split,
        collection_fingerprint=collection.fingerprint,
        metrics=scores.mean,
        per_query=scores.per_query,
        counts=Counts(
            documents=documents,
            queries=len(collection.queries),
            judgements=sum(map(len, collection.qrels.values())),
            missing_documents=missing_documents,
            missing_queries=len(collection.missing_queries),
        ),
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        python=python_version(),
        cpu_count=cpu_count(),
        versions=library_versions(),
        **facts,
    )


def _check_pair(index: Index[Any], encoder: Encoder | None) -> None:
    takes_texts = index.kind in _TEXT_INDEXES
    if encoder is None and not takes_texts:
        model = f", which {index.model.name} filled," if index.model else ""
        raise InputError(f"the {index.kind} index{model} needs an encoder for the queries")
    if encoder is not None and takes_texts:
        raise InputError(f"the {index.kind} index searches texts: leave the encoder out")
    if encoder is not None:
        check_model(index.folder or Path(index.kind), index.model, encoder.reference)


def _items(texts: Sequence[str], encoder: Encoder | None) -> Any:
    return texts if encoder is None else _stacked(list(encoder.encode_queries(texts)))


def _stacked(items: Sequence[Any]) -> Any:
    """Single vectors as (Q, D), which their indexes take; multi-vectors and texts as they are."""
    is_single = len(items) > 0 and isinstance(items[0], np.ndarray) and items[0].ndim == 1
    return np.stack(items) if is_single else items


def _system_name(index: Index[Any], encoder: Encoder | None) -> str:
    return f"{Path(encoder.reference.name).name} {index.kind}" if encoder else index.kind
