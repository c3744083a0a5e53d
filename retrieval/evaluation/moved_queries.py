"""The queries that two systems answer most differently, with both rankings."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from retrieval.errors import InputError
from retrieval.evaluation.collection import Collection, read_collection, splits_of
from retrieval.evaluation.metrics import trec_ranking
from retrieval.evaluation.result_files import DataSet, MeasuredSystem
from retrieval.evaluation.runs import Run, read_run
from retrieval.evaluation.significance import TIE
from retrieval.records import Document

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class RankedDocument:
    """A document in one system's ranking."""

    document_id: str
    other_rank: int | None
    """Its place with the other system, from 1; None where that one has not found it."""
    relevance: int | None
    """None without a judgement, or where the collection is not at hand."""
    title: str | None
    """None where the collection is not at hand, as the text."""
    text: str | None


@dataclass(frozen=True, kw_only=True)
class MovedQuery:
    """A query that the baseline and another system answer differently."""

    data_set: DataSet
    query_id: str
    text: str | None
    """None where the collection is not at hand."""
    baseline_value: float
    value: float
    baseline_ranking: tuple[RankedDocument, ...]
    """Best first; empty where nothing was found or the run was not kept."""
    ranking: tuple[RankedDocument, ...]

    @property
    def difference(self) -> float:
        """The system's value less the baseline's."""
        return self.value - self.baseline_value


def find_collections(
    folders: Sequence[Path], system: MeasuredSystem, data_sets: Sequence[DataSet]
) -> dict[DataSet, Collection]:
    """Find a system's data sets among BEIR folders, by their queries and judgements.

    Args:
        folders: BEIR folders, or folders of such that are called as their collections.
        system: whose results have to be of the same queries and judgements.
        data_sets: those to look for.

    Raises:
        InputError: a folder can't be read, or none of the data sets is there.
    """
    found: dict[DataSet, Collection] = {}
    for folder in folders:
        matches = {
            data_set: collection
            for data_set in data_sets
            if (collection := _collection(folder, data_set)) is not None
            and collection.fingerprint == system.results[data_set].collection_fingerprint
        }
        if not matches:
            names = ", ".join(map(str, data_sets))
            raise InputError(
                f"{folder}: none of the compared data sets ({names}) is here with the queries and "
                "judgements that the results were measured on"
            )
        found |= matches
    return found


def moved_queries(
    baseline: MeasuredSystem,
    system: MeasuredSystem,
    data_sets: Sequence[DataSet],
    metric: str,
    *,
    collections: Mapping[DataSet, Collection] | None = None,
    count: int = 10,
    depth: int = 10,
) -> list[MovedQuery]:
    """The queries whose values differ most, in either direction, the greatest difference first.

    Args:
        baseline: has results on all data sets, as the system.
        system: what the baseline is compared with.
        data_sets: where the queries come from; all compete for the same places.
        metric: which both have measured.
        collections: for the texts and judgements, as far as they are at hand. A corpus is read
            up to the last document that is shown.
        count: queries at most; those with equal values are not among them.
        depth: documents of each ranking.

    Raises:
        InputError: a run or a corpus can't be read.
    """
    differences = {
        (data_set, query_id): system.results[data_set].per_query[query_id][metric] - values[metric]
        for data_set in data_sets
        for query_id, values in baseline.results[data_set].per_query.items()
    }
    moved = [each for each, difference in differences.items() if abs(difference) > TIE]
    # By name where the differences are equal, as many are with some metrics.
    moved.sort(key=lambda each: (-abs(differences[each]), each))
    chosen = moved[:count]
    found: dict[tuple[DataSet, str], MovedQuery] = {}
    for data_set in dict.fromkeys(each for each, _ in chosen):
        query_ids = [query_id for of, query_id in chosen if of == data_set]
        runs = _read(baseline, data_set), _read(system, data_set)
        collection = (collections or {}).get(data_set)
        for query_id, pair in _rankings(query_ids, runs, collection, depth).items():
            found[data_set, query_id] = MovedQuery(
                data_set=data_set,
                query_id=query_id,
                text=_query_text(collection, query_id),
                baseline_value=baseline.results[data_set].per_query[query_id][metric],
                value=system.results[data_set].per_query[query_id][metric],
                baseline_ranking=pair[0],
                ranking=pair[1],
            )
    return [found[each] for each in chosen]


def _collection(folder: Path, data_set: DataSet) -> Collection | None:
    if not splits_of(folder):
        folder /= data_set.collection
    return read_collection(folder, data_set.split) if data_set.split in splits_of(folder) else None


def _read(system: MeasuredSystem, data_set: DataSet) -> Run:
    if data_set not in system.runs:
        logger.warning("%s: %s kept no run, so its rankings are not shown", data_set, system.name)
        return {}
    return read_run(system.runs[data_set])


def _rankings(
    query_ids: Sequence[str], runs: tuple[Run, Run], collection: Collection | None, depth: int
) -> dict[str, tuple[tuple[RankedDocument, ...], tuple[RankedDocument, ...]]]:
    """Both rankings of each query."""
    ranked = {
        query_id: tuple(
            [hit.document_id for hit in trec_ranking(run.get(query_id, []))] for run in runs
        )
        for query_id in query_ids
    }
    shown = {each for pair in ranked.values() for ids in pair for each in ids[:depth]}
    documents = _documents(collection, shown) if collection else {}

    def describe(query_id: str, ids: list[str], others: list[str]) -> tuple[RankedDocument, ...]:
        judgements = collection.qrels[query_id] if collection else {}
        ranks = {each: rank for rank, each in enumerate(others, start=1)}
        return tuple(
            RankedDocument(
                document_id=each,
                other_rank=ranks.get(each),
                relevance=judgements.get(each),
                title=documents[each].title if each in documents else None,
                text=documents[each].text if each in documents else None,
            )
            for each in ids[:depth]
        )

    return {
        query_id: (describe(query_id, before, after), describe(query_id, after, before))
        for query_id, (before, after) in ranked.items()
    }


def _query_text(collection: Collection | None, query_id: str) -> str | None:
    queries = collection.queries if collection else ()
    return next((query.text for query in queries if query.id == query_id), None)


def _documents(collection: Collection, wanted: set[str]) -> dict[str, Document]:
    """The documents with these ids; the corpus is read up to the last of them."""
    found: dict[str, Document] = {}
    for document in collection.documents():
        if len(found) == len(wanted):
            break
        if document.id in wanted:
            found[document.id] = document
    return found
