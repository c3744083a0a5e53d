"""The scores that a run gave to relevant documents and to all others that it found."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from retrieval.errors import InputError
from retrieval.evaluation.collection import Collection, read_collection
from retrieval.evaluation.result import Result
from retrieval.evaluation.results_matrix import data_set_name
from retrieval.evaluation.runs import read_run

RUN_FILE = "run.trec"


@dataclass(frozen=True, kw_only=True)
class ScoreDistribution:
    """Scores of one result's hits."""

    system: str
    data_set: str
    relevant: NDArray[np.float64]
    """Of the hits that are judged relevant."""
    others: NDArray[np.float64]
    """Of all other hits, judged or not."""


def score_distributions(
    results: Sequence[Result], paths: Sequence[Path], data: Sequence[Path]
) -> tuple[list[ScoreDistribution], list[str]]:
    """Read the runs beside the results, and the judgements in the data folders.

    Args:
        results: what the runs belong to.
        paths: of the results' files; a run is called run.trec, in the same folder.
        data: BEIR folders, or folders of them; a result's is called as its collection.

    Returns:
        Scores, and for each result that has none a sentence that says why.

    Raises:
        InputError: a data folder is missing, or a run or judgements can't be read.
    """
    for folder in data:
        if not folder.is_dir():
            raise InputError(f"{folder}: no such folder; expected BEIR folders, or one of them")
    found, skipped = [], []
    collections: dict[tuple[str, str], Collection | None] = {}
    for result, path in zip(results, paths):
        key = (result.collection, result.split)
        if key not in collections:
            collections[key] = _collection(data, *key)
        collection = collections[key]
        run_path = path.with_name(RUN_FILE)
        reason = None
        if not run_path.is_file():
            reason = f"no {RUN_FILE} beside the result"
        elif collection is None:
            reason = "its judgements are in none of the data folders"
        elif collection.fingerprint != result.collection_fingerprint:
            reason = f"the judgements in {collection.path.name} are not those of the result"
        if reason or collection is None:
            skipped.append(f"{result.system} on {data_set_name(result)}: {reason}")
        else:
            found.append(_distribution(result, run_path, collection))
    return found, skipped


def _collection(data: Sequence[Path], name: str, split: str) -> Collection | None:
    for folder in data:
        for candidate in (folder / name, folder):
            if candidate.resolve().name == name and (candidate / "qrels" / f"{split}.tsv").exists():
                return read_collection(candidate, split)
    return None


def _distribution(result: Result, run_path: Path, collection: Collection) -> ScoreDistribution:
    scores: tuple[list[float], list[float]] = ([], [])
    for query_id, hits in read_run(run_path).items():
        judged = collection.qrels.get(query_id, {})
        for hit in hits:
            scores[judged.get(hit.document_id, 0) > 0].append(hit.score)
    others, relevant = map(np.array, scores)
    return ScoreDistribution(
        system=result.system,
        data_set=data_set_name(result),
        relevant=relevant.astype(np.float64),
        others=others.astype(np.float64),
    )
