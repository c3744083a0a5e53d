"""Fusion: one ranking from several of the same query, by ranks or by normalised scores."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

from retrieval.errors import ConfigError, DuplicateIdError, InputError
from retrieval.records import Hit

Method = Literal["rrf", "min-max", "z-score"]

_METHODS = ("rrf", "min-max", "z-score")


@dataclass(frozen=True, kw_only=True)
class FusionSettings:
    """How rankings are fused.

    Attributes:
        method: "rrf" looks at ranks alone; "min-max" and "z-score" keep how far apart scores are.
        weights: of the rankings in their order, at least 0; None weighs all alike.
        constant: of "rrf", above 0: the larger, the smaller is the lead of the first ranks.
    """

    method: Method = "rrf"
    weights: tuple[float, ...] | None = None
    constant: float = 60

    def __post_init__(self) -> None:
        if self.method not in _METHODS:
            raise ConfigError(f"method is {self.method!r}, expected one of {', '.join(_METHODS)}")
        if not 0 < self.constant < math.inf:
            raise ConfigError(f"constant is {self.constant}, expected a number above 0")
        _check_weights(self.weights)


def fuse(rankings: Sequence[Sequence[Hit]], settings: FusionSettings | None = None) -> list[Hit]:
    """Fuse the rankings of one query as the settings say."""
    settings = settings or FusionSettings()
    if settings.method == "rrf":
        return reciprocal_rank_fusion(
            rankings, weights=settings.weights, constant=settings.constant
        )
    return score_fusion(rankings, normalization=settings.method, weights=settings.weights)


def reciprocal_rank_fusion(
    rankings: Sequence[Sequence[Hit]],
    *,
    weights: Sequence[float] | None = None,
    constant: float = 60,
) -> list[Hit]:
    """Sum 1 / (constant + rank) over the rankings that have a document, ranks from 1.

    A document that a ranking lacks gets nothing from it. Equal sums go by the best rank that a
    document has anywhere, then by id, so that the order of the rankings decides nothing.

    Args:
        rankings: of one query, each best first; their scores are not looked at.
        weights: one for each ranking, at least 0; a ranking of weight 0 is left out.
        constant: as in the paper, which found 60 on TREC runs and little change around it.

    Returns:
        Every document of any ranking, best first.

    Raises:
        DuplicateIdError: a ranking has an id twice.
        ConfigError: weights below 0, all 0, or another number of them than of rankings.

    Source: Cormack, Clarke and Buettcher 2009, "Reciprocal Rank Fusion outperforms Condorcet and
    individual Rank Learning Methods", SIGIR.

    >>> dense = [Hit("a", 0.9), Hit("b", 0.8)]
    >>> lexical = [Hit("b", 21.0), Hit("c", 3.0)]
    >>> [hit.document_id for hit in reciprocal_rank_fusion([dense, lexical])]
    ['b', 'a', 'c']
    """
    if not 0 < constant < math.inf:
        raise ConfigError(f"constant is {constant}, expected a number above 0")
    parts = [
        _Part(weight, {hit.document_id: 1 / (constant + rank) for rank, hit in _ranked(ranking)}, 0)
        for weight, ranking in _weighted(rankings, weights)
    ]
    return _sum(parts)


def score_fusion(
    rankings: Sequence[Sequence[Hit]],
    *,
    normalization: Literal["min-max", "z-score"] = "min-max",
    weights: Sequence[float] | None = None,
) -> list[Hit]:
    """Sum the rankings' scores after each ranking's were brought to one scale.

    "min-max" puts a ranking's scores between 0 and 1, "z-score" takes their mean away and divides
    by their standard deviation. A document that a ranking lacks counts there like its last hit: 0
    after min-max, the lowest z-score after the other. (A z-score of 0 would put it above every hit
    below the mean.) Where all of a ranking's scores are equal, its hits are ahead of the others by
    1. An empty ranking counts for nobody. Ties as in `reciprocal_rank_fusion`.

    Args:
        rankings: of one query, each best first; where few hits are asked for, the range of their
            scores is small and says little, so that 100 or more are better than 10.
        normalization: how scores of different systems are made comparable.
        weights: one for each ranking, at least 0; a ranking of weight 0 is left out.

    Returns:
        Every document of any ranking, best first.

    Raises:
        InputError: a score is NaN or infinite.
        DuplicateIdError, ConfigError: as in `reciprocal_rank_fusion`.

    Source: Montague and Aslam 2001, "Relevance Score Normalization for Metasearch", CIKM; weights
    and the comparison with ranks: Bruch, Gai and Ingber 2023, arXiv:2210.11934.

    >>> dense = [Hit("a", 0.9), Hit("b", 0.8), Hit("c", 0.5)]
    >>> lexical = [Hit("b", 21.0), Hit("d", 1.0)]
    >>> [(hit.document_id, round(hit.score, 2)) for hit in score_fusion([dense, lexical])]
    [('b', 1.75), ('a', 1.0), ('d', 0.0), ('c', 0.0)]
    """
    if normalization not in _METHODS[1:]:
        raise ConfigError(f'normalization is {normalization!r}, expected "min-max" or "z-score"')
    normalize = _min_max if normalization == "min-max" else _z_score
    parts = []
    for weight, ranking in _weighted(rankings, weights):
        if ranking:
            ids = [hit.document_id for _, hit in _ranked(ranking)]
            values, lowest = normalize(_finite_scores(ranking))
            parts.append(_Part(weight, dict(zip(ids, values, strict=True)), lowest))
    return _sum(parts)


class _Part(NamedTuple):
    """What one ranking gives to the sum."""

    weight: float
    values: dict[str, float]
    """By id, in the ranking's order."""
    missing: float
    """For every other id."""


def _sum(parts: Sequence[_Part]) -> list[Hit]:
    best_rank: dict[str, int] = {}
    for part in parts:
        for rank, each in enumerate(part.values, start=1):
            best_rank[each] = min(rank, best_rank.get(each, rank))
    # fsum rounds once, so that the order of the rankings does not show in the last bit.
    scores = {
        each: math.fsum(part.weight * part.values.get(each, part.missing) for part in parts)
        for each in best_rank
    }
    order = sorted(scores, key=lambda each: (-scores[each], best_rank[each], each))
    return [Hit(each, scores[each]) for each in order]


def _min_max(scores: list[float]) -> tuple[list[float], float]:
    low, high = min(scores), max(scores)
    if low == high:
        return [1.0] * len(scores), 0.0
    return [(score - low) / (high - low) for score in scores], 0.0


def _z_score(scores: list[float]) -> tuple[list[float], float]:
    mean = math.fsum(scores) / len(scores)
    deviation = math.sqrt(math.fsum((score - mean) ** 2 for score in scores) / len(scores))
    if min(scores) == max(scores) or deviation == 0:
        return [0.0] * len(scores), -1.0
    values = [(score - mean) / deviation for score in scores]
    return values, min(values)


def _ranked(ranking: Sequence[Hit]) -> list[tuple[int, Hit]]:
    """The hits with their ranks, once it is known that no id comes twice."""
    seen: set[str] = set()
    for hit in ranking:
        if hit.document_id in seen:
            raise DuplicateIdError(f"a ranking has the id {hit.document_id!r} twice")
        seen.add(hit.document_id)
    return list(enumerate(ranking, start=1))


def _finite_scores(ranking: Sequence[Hit]) -> list[float]:
    for hit in ranking:
        if not math.isfinite(hit.score):
            raise InputError(
                f"the score of {hit.document_id!r} is {hit.score}: only finite scores can be "
                'normalised; the method "rrf" needs none'
            )
    return [float(hit.score) for hit in ranking]


def _weighted(
    rankings: Sequence[Sequence[Hit]], weights: Sequence[float] | None
) -> list[tuple[float, Sequence[Hit]]]:
    """The rankings that count, each with its weight."""
    _check_weights(weights)
    if weights is not None and len(weights) != len(rankings):
        raise ConfigError(f"{len(weights)} weights for {len(rankings)} rankings")
    given = [1.0] * len(rankings) if weights is None else weights
    return [(weight, ranking) for weight, ranking in zip(given, rankings) if weight > 0]


def _check_weights(weights: Sequence[float] | None) -> None:
    if weights is None:
        return
    if not all(0 <= weight < math.inf for weight in weights) or not any(weights):
        raise ConfigError(f"weights are {tuple(weights)}, expected 0 or more, one of them above 0")
