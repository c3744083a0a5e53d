"""How thorough a search is: three levels, and the cheapest effort that reaches a recall."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Literal, NamedTuple

import numpy as np

from retrieval.errors import ConfigError
from retrieval.indexing.plaid.numpy_search import Effort, Mask, Positions
from retrieval.indexing.plaid.searcher import Searcher
from retrieval.indexing.plaid.values import Floats

Quality = Literal["fast", "balanced", "best"]

EXHAUSTIVE = 50_000
"""Up to so many documents a calibration takes the scores of all of them for the truth."""


_MEASURED = 20_000
"""Documents that levels and efforts are made for; what more of them need is `_for_documents`."""
_CANDIDATES_GROWTH, _SCORED_GROWTH = 0.51, 0.18
"""Exponents by which probes and candidates, and how many of these are scored, grow."""
_PATIENCE_GROWTH = 0.32
"""What is added to patience for ten times as many documents."""


class Level(NamedTuple):
    """An effort for any number of hits, the margin in standard deviations of the residuals.

    Measured on 20,000 documents of 94 tokens of a trained retriever (starter-colbert), 4 bits:
    asked for ten hits the levels find .94, .96 and .97 of the ten best; asked for a hundred, .89,
    .95 and .97 of the hundred best and .95, .97 and .97 of the ten best. Chosen among some 1,200
    efforts by other queries than these recalls are of.
    """

    probes: int
    candidates: tuple[int, int]
    """The least, and for each hit."""
    scored: tuple[int, int]
    rescored: tuple[int, float]
    margin: float
    patience: float
    """For one hit. It is one less for ten times as many: the fewer are asked for, the more a small
    patience loses."""

    def effort(self, k: int, spread: float, documents: int) -> Effort:
        """What to do for `k` hits.

        Args:
            k: hits that are wanted.
            spread: of residuals' products.
            documents: that may be found.
        """
        effort = Effort(
            self.probes,
            max(self.candidates[0], self.candidates[1] * k),
            max(self.scored[0], self.scored[1] * k),
            max(self.rescored[0], int(self.rescored[1] * k)),
            self.margin * spread,
            k,
            _for_hits(self.patience, k),
        )
        return _for_documents(effort, documents)


LEVELS: dict[Quality, Level] = {
    "fast": Level(8, (750, 15), (300, 6), (16, 1), 1.75, 3.5),
    "balanced": Level(10, (1500, 30), (500, 20), (32, 1.5), 2.5, 4.0),
    "best": Level(16, (4000, 40), (1000, 20), (128, 2), 3.0, 4.5),
}


def _for_hits(patience: float, k: int) -> float:
    return max(patience - math.log10(k), 1.0)


def _for_documents(effort: Effort, documents: int) -> Effort:
    """More thorough for more documents, among which the best ones stand closer.

    Measured on 20,000, 60,000 and 120,000 real texts, of whose best ones as many are found: six
    times as many documents need 2.5 times as many probes and candidates. Scored documents and
    patience grow for a million generated ones as well; real ones gain little by that.
    """
    more = max(1.0, documents / _MEASURED)
    return effort._replace(
        probes=round(effort.probes * more**_CANDIDATES_GROWTH),
        candidates=round(effort.candidates * more**_CANDIDATES_GROWTH),
        scored=round(effort.scored * more**_SCORED_GROWTH),
        patience=effort.patience + _PATIENCE_GROWTH * math.log10(more),
    )


def efforts(k: int, spread: float, documents: int) -> Iterator[Effort]:
    """From cheap to thorough, each about 1.3 times the one before it; for what, as in `Level`."""
    for step in range(16):
        more = 1.3**step
        effort = Effort(
            probes=round(4 * more**0.6),
            candidates=round(max(300, 5 * k) * more),
            scored=round(max(75, 3 * k) * more),
            rescored=round(max(16, k) * more**0.5),
            margin=min(1.25 + 0.15 * step, 3.0) * spread,
            wanted=k,
            patience=_for_hits(3.0 + 0.1 * step, k),
        )
        yield _for_documents(effort, documents)


def calibrate(
    searcher: Searcher,
    queries: Sequence[Floats],
    possible: Mask,
    *,
    k: int,
    recall: float,
    spread: float,
    most_probes: int,
    has_tokens: bool,
) -> Effort:
    """Find the cheapest effort whose mean recall of the best `k` reaches `recall`.

    The truth is what scoring every document gives, exactly where tokens are kept, else by
    residuals; above 50,000 documents it is that of a search four times as thorough as the last
    one that is tried.

    Args:
        searcher: of the index.
        queries: each (M, D), M at least 1; like those to come.
        possible: True for the documents that may be found.
        k: hits that are wanted.
        recall: the share of them, above 0 and at most 1.
        spread: of the codec.
        most_probes: how many centroids there are.
        has_tokens: whether tokens are kept for exact scores.

    Returns:
        The effort; where none reaches the recall, the most thorough one.

    Raises:
        ConfigError: `recall` out of range, or no queries.
    """
    if not 0 < recall <= 1:
        raise ConfigError(f"recall is {recall}, expected above 0 and at most 1")
    if not queries:
        raise ConfigError("a calibration needs queries")
    ladder = [
        effort._replace(
            probes=min(effort.probes, most_probes), rescored=effort.rescored if has_tokens else 0
        )
        for effort in efforts(k, spread, int(np.count_nonzero(possible)))
    ]
    truth = [_truth(searcher, query, possible, ladder[-1], k) for query in queries]
    for effort in ladder:
        found = [
            len(np.intersect1d(searcher.search(query, effort, possible)[0][:k], best))
            / max(1, len(best))
            for query, best in zip(queries, truth)
        ]
        if np.mean(found) >= recall:
            return effort
    return ladder[-1]


def _truth(searcher: Searcher, query: Floats, possible: Mask, last: Effort, k: int) -> Positions:
    if len(possible) <= EXHAUSTIVE:
        positions = np.flatnonzero(possible)
        everything = last._replace(
            margin=np.inf, patience=np.inf, rescored=len(positions) if last.rescored else 0
        )
        return searcher.rank(query, positions, everything)[0][:k]
    deeper = last._replace(
        candidates=4 * last.candidates,
        scored=4 * last.scored,
        rescored=4 * last.rescored,
        patience=np.inf,
    )
    return searcher.search(query, deeper, possible)[0][:k]


class SearchPlan(NamedTuple):
    """What is done for every query of a search."""

    effort: Effort
    few: Positions | None
    """The documents that may be found, where they are so few that all are scored."""
    allowed: Mask | None
    """True for documents that may be found; None where all may."""
    k: int
    """Hits that are wanted, at most as many as there are to be found."""


def ranking(searcher: Searcher, plan: SearchPlan, query: Floats) -> tuple[Positions, Floats]:
    """Search with more and more probes until `k` documents are met, or all that can be."""
    if not len(query) or not plan.k:
        return np.empty(0, np.int64), np.empty(0, np.float32)
    if plan.few is not None:
        positions, scores = searcher.rank(query, plan.few, plan.effort)
        return positions[: plan.k], scores[: plan.k]
    effort = plan.effort
    while True:
        positions, scores = searcher.search(query, effort, plan.allowed)
        if len(positions) >= plan.k or effort.probes >= searcher.centroids:
            return positions[: plan.k], scores[: plan.k]
        effort = effort._replace(probes=min(searcher.centroids, 2 * effort.probes))
