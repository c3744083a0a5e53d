"""nDCG, MAP, recall, MRR, P and others at any cutoff, counted by trec_eval through pytrec_eval.

trec_eval's rules apply. A ranking is made from the scores alone, in single precision: the order
of the hits does not count, and equal scores are ranked by document id, the greater first (in
bytes of UTF-8). A document is relevant from relevance 1; 0, negative and missing judgements are
not. nDCG uses the relevance itself as gain. A query without any relevant document scores 0.

Three measures are not trec_eval's, but are made from what it counts in that same order:

- `recall_cap@k`, BEIR's capped recall: the relevant documents among the first k, over as many as k
  can hold, min(k, relevant). Unlike recall, a perfect ranking reaches 1 at any k.
- `judged@k` and `hole@k`: the shares of the first k hits with and without a judgement for their
  query. They say how far the other metrics can be trusted, and add up to 1 for a query with hits;
  fewer than k hits are all of them. (BEIR's hole divides by k even then, and takes a document as
  judged that any query has judged.)
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Mapping, Sequence
from statistics import fmean
from typing import Any, NamedTuple

import numpy as np

from retrieval.errors import ConfigError, InputError, MissingExtraError
from retrieval.records import Hit

logger = logging.getLogger(__name__)

DEFAULT_METRICS = ("nDCG@10", "MAP@100", "recall@100", "MRR@10", "P@10")

_MEASURES = {
    "nDCG": "ndcg_cut",
    "MAP": "map_cut",
    "recall": "recall",
    "MRR": "recip_rank",
    "P": "P",
    "success": "success",
    "recall_cap": "P",
    "judged": "P",
    "hole": "P",
}
"""What trec_eval counts for each measure."""
_OF_JUDGEMENTS = ("judged", "hole")
"""Measures for which any judgement counts, whatever it says."""
_NAMES = {name.lower(): name for name in _MEASURES}
_PATTERN = re.compile(r"([a-z_]+)@([1-9][0-9]*)", re.IGNORECASE)


class Metric(NamedTuple):
    """A measure with its cutoff, such as nDCG@10."""

    name: str
    cutoff: int

    def __str__(self) -> str:
        return f"{self.name}@{self.cutoff}"


class Scores(NamedTuple):
    """The values of one run."""

    mean: dict[str, float]
    """By metric, over all judged queries."""
    per_query: dict[str, dict[str, float]]
    """By query id, then by metric."""


def parse_metrics(names: Iterable[str]) -> list[Metric]:
    """Read names such as `ndcg@10`, in any case; a repeated one is read once.

    Raises:
        ConfigError: names that are unknown, all in one message, or no name at all.

    >>> [str(each) for each in parse_metrics(["ndcg@10", "RECALL@100"])]
    ['nDCG@10', 'recall@100']
    """
    metrics: dict[Metric, None] = {}
    unknown = []
    for each in names:
        match = _PATTERN.fullmatch(each.strip())
        name = _NAMES.get(match[1].lower()) if match else None
        if match is None or name is None:
            unknown.append(each)
        else:
            metrics[Metric(name, int(match[2]))] = None
    if unknown or not metrics:
        known = ", ".join(f"{name}@k" for name in _MEASURES)
        given = ", ".join(map(repr, unknown)) or "none"
        raise ConfigError(f"unknown metrics: {given}; expected {known} with a whole number k >= 1")
    return list(metrics)


def evaluate_run(
    qrels: Mapping[str, Mapping[str, int]],
    run: Mapping[str, Sequence[Hit]],
    metrics: Iterable[str] = DEFAULT_METRICS,
) -> Scores:
    """Score a run by the rules of trec_eval (see the top of this module).

    Args:
        qrels: relevance by query id and document id.
        run: hits by query id. A judged query without hits scores 0 (`trec_eval -c`, BEIR); a
            query without judgements is ignored.
        metrics: names as in `parse_metrics`.

    Raises:
        ConfigError: unknown metrics.
        InputError: there are no judgements, or a query has the same document twice.
        MissingExtraError: pytrec_eval is not installed.
    """
    wanted = parse_metrics(metrics)
    judged = {query_id: documents for query_id, documents in qrels.items() if documents}
    if not judged:
        raise InputError("no judgements to evaluate against")
    scored = {
        query_id: _score_by_id(query_id, run[query_id]) for query_id in judged if query_id in run
    }
    if not scored:
        logger.warning("the run has no hits for any of the %d judged queries", len(judged))
    every_judgement = {query_id: dict.fromkeys(each, 1) for query_id, each in judged.items()}
    # trec_eval writes past its memory where all judgements of a query are below -1.
    relevance = {
        query_id: {document_id: max(0, each) for document_id, each in documents.items()}
        for query_id, documents in judged.items()
    }
    counts = {
        **_count(relevance, scored, [each for each in wanted if each.name not in _OF_JUDGEMENTS]),
        **_count(every_judgement, scored, [each for each in wanted if each.name in _OF_JUDGEMENTS]),
    }
    per_query = {
        query_id: {
            str(metric): _value(
                metric,
                counts[metric].get(query_id),
                relevant=sum(each > 0 for each in documents.values()),
                hits=len(scored.get(query_id, ())),
            )
            for metric in wanted
        }
        for query_id, documents in judged.items()
    }
    mean = {
        str(metric): fmean(each[str(metric)] for each in per_query.values()) for metric in wanted
    }
    return Scores(mean, per_query)


def trec_ranking(hits: Iterable[Hit]) -> list[Hit]:
    """Hits in the order in which trec_eval, and so every metric here, sees them.

    >>> [each.document_id for each in trec_ranking([Hit("a", 1.0), Hit("b", 1.0), Hit("c", 2.0)])]
    ['c', 'b', 'a']
    """
    with np.errstate(over="ignore"):  # a score beyond single precision is infinite there
        return sorted(
            hits, key=lambda hit: (np.float32(hit.score), hit.document_id.encode()), reverse=True
        )


def load_pytrec_eval() -> Any:
    """The module pytrec_eval.

    Raises:
        MissingExtraError: it is not installed.
    """
    try:
        import pytrec_eval
    except ImportError as error:
        raise MissingExtraError("evaluation metrics", "eval") from error
    return pytrec_eval


def _score_by_id(query_id: str, hits: Sequence[Hit]) -> dict[str, float]:
    scores = {hit.document_id: float(hit.score) for hit in hits}
    if len(scores) != len(hits):
        raise InputError(f"query {query_id!r}: the run has the same document twice")
    return scores


def _count(
    qrels: Mapping[str, Mapping[str, int]],
    scored: Mapping[str, Mapping[str, float]],
    metrics: Sequence[Metric],
) -> dict[Metric, Mapping[str, Mapping[str, float]]]:
    """For each metric, what trec_eval counts for the queries of a run."""
    if not metrics:
        return {}
    evaluator = load_pytrec_eval().RelevanceEvaluator(qrels, set(map(_trec_name, metrics)))
    return dict.fromkeys(metrics, evaluator.evaluate(scored))


def _trec_name(metric: Metric) -> str:
    measure = _MEASURES[metric.name]
    return measure if metric.name == "MRR" else f"{measure}.{metric.cutoff}"


def _value(
    metric: Metric, counted: Mapping[str, float] | None, *, relevant: int, hits: int
) -> float:
    if not counted or not hits:
        return 0.0
    if metric.name == "MRR":
        # trec_eval has no cutoff here. The first relevant document is within the first k of its
        # own order exactly if 1/rank >= 1/k, so that equal scores are treated as in the others.
        reciprocal = float(counted["recip_rank"])
        return reciprocal if reciprocal >= 1 / metric.cutoff else 0.0
    value = float(counted[f"{_MEASURES[metric.name]}_{metric.cutoff}"])
    if metric.name not in ("recall_cap", "judged", "hole"):
        return value
    found = round(value * metric.cutoff)
    if metric.name == "recall_cap":
        return found / min(metric.cutoff, relevant) if relevant else 0.0
    share = found / min(metric.cutoff, hits)
    return share if metric.name == "judged" else 1 - share
