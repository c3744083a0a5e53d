"""Hard negatives: documents that a retriever ranks high for a query that they do not answer.

Works with any index: exact, FAISS, PLAID or lexical, one vector a text or one a token. A score is
what the index gives: a cosine in [-1, 1], BM25, or MaxSim, which sums over query tokens and grows
with their number. So a relative margin means the same for all of them, and an absolute margin,
`max_score` and `min_score` are in the unit of the score.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, Protocol

import numpy as np

from retrieval.errors import ConfigError, InputError
from retrieval.records import Allowed, Document, Hit
from retrieval.training.mining_pairs import Question, document_id
from retrieval.training.text_matching import text_key

Teacher = Callable[[str, Sequence[str]], Sequence[float]]
"""Scores texts for a query; higher is more relevant."""


class Searcher(Protocol):
    """What mining asks of an index: `retrieval.indexing.Retriever` and the hybrid ones are such."""

    def find(
        self, questions: Sequence[str], k: int = 10, *, allowed: Allowed | None = None
    ) -> list[list[Hit]]:
        """The best documents for every question, best first."""

    def document(self, document_id: str) -> Document | None:
        """The document that the index keeps."""


@dataclass(frozen=True, kw_only=True)
class MiningSettings:
    """Which of the documents that are found become negatives."""

    negatives: int = 1
    """How many a query; one with fewer is left out (of triplets, one with none)."""
    first: int = 1
    """The first rank that is taken, counted from 1 over documents that are no positives."""
    last: int = 100
    absolute_margin: float | None = None
    """A negative scores at most the positive's score less this."""
    relative_margin: float | None = None
    """A negative scores at most the positive's score less this share of its magnitude: 0.05 asks
    for 95 % of a positive score; below zero, for 5 % further down."""
    max_score: float | None = None
    min_score: float | None = None
    sampling: Literal["top", "random"] = "top"
    """Take those with the highest scores, or draw among all that are left."""
    seed: int = 0

    def __post_init__(self) -> None:
        if self.negatives < 1:
            raise ConfigError(f"negatives is {self.negatives}, expected at least 1")
        if not 1 <= self.first <= self.last or self.negatives > self.last - self.first + 1:
            raise ConfigError(
                f"{self.negatives} negatives from rank {self.first} to {self.last}: expected first "
                "from 1 on, and as many ranks as negatives"
            )
        for name in ("absolute_margin", "relative_margin"):
            margin = getattr(self, name)
            if margin is not None and not 0 <= margin < math.inf:
                raise ConfigError(f"{name} is {margin}, expected 0 or more")

    @property
    def compares(self) -> bool:
        """Whether the positives' scores matter."""
        return self.absolute_margin is not None or self.relative_margin is not None


class Scored(NamedTuple):
    """A text with its score."""

    text: str
    score: float


class Mined(NamedTuple):
    """A query with what was found for it; without negatives where there were too few."""

    question: Question
    positives: list[Scored]
    """A score is NaN where the index does not find the positive, such as BM25 without a word."""
    negatives: list[Scored]


def mine(
    questions: Sequence[Question],
    searcher: Searcher,
    settings: MiningSettings,
    *,
    teacher: Teacher | None = None,
    min_negatives: int | None = None,
) -> tuple[list[Mined], Counter[str]]:
    """Find negatives for some questions.

    Args:
        questions: a batch: their positives are scored together.
        searcher: over an index of `PairTable.documents`, which keeps its documents.
        settings: which documents are taken.
        teacher: a second model, whose scores are compared instead of the index's: the index finds
            candidates, the teacher says which of them answer the query after all.
        min_negatives: a question with fewer is left out; all of `settings.negatives` by default.

    Returns:
        One result a question, and what became of every candidate, each under one name: positive,
        same_text (as a positive, as the query, as a candidate before), before_first, after_last,
        above_max_score, below_min_score, absolute_margin, relative_margin, unscored_positive, of a
        query with too_few, surplus, mined. `candidates` is their sum.
    """
    needed = settings.negatives if min_negatives is None else min_negatives
    counts: Counter[str] = Counter()
    depth = settings.last + max(len(each.positives) for each in questions)
    rankings = searcher.find([each.query for each in questions], depth)
    positives = _positive_scores(questions, searcher) if teacher is None else None
    results = []
    for at, (question, hits) in enumerate(zip(questions, rankings)):
        counts["candidates"] += len(hits)
        candidates = _candidates(question, hits, searcher, settings, counts)
        scored = positives[at] if positives is not None else None
        if teacher is not None:
            scored, candidates = _taught(question, candidates, teacher)
        assert scored is not None
        left = _filtered(candidates, scored, settings, counts)
        chosen = _sampled(left, settings, question.number)
        if len(chosen) < needed:
            counts["too_few"] += len(left)
            chosen = []
        else:
            counts["mined"] += len(chosen)
            counts["surplus"] += len(left) - len(chosen)
        results.append(Mined(question, scored, chosen))
    return results, counts


def _candidates(
    question: Question,
    hits: Sequence[Hit],
    searcher: Searcher,
    settings: MiningSettings,
    counts: Counter[str],
) -> list[Scored]:
    """The texts of the range of ranks, without positives and repeated texts."""
    positive_ids = {document_id(each) for each in question.positives}
    seen = {text_key(each) for each in (question.query, *question.positives)}
    found: list[Scored] = []
    rank = 0
    for hit in hits:
        if hit.document_id in positive_ids:
            counts["positive"] += 1
            continue
        document = searcher.document(hit.document_id)
        if document is None:
            raise InputError(f"the index keeps no text of {hit.document_id!r}: build it with texts")
        key = text_key(document.contents)
        if key in seen:
            counts["same_text"] += 1
            continue
        seen.add(key)
        rank += 1
        if settings.first <= rank <= settings.last:
            found.append(Scored(document.contents, hit.score))
        else:
            counts["before_first" if rank < settings.first else "after_last"] += 1
    return found


def _positive_scores(questions: Sequence[Question], searcher: Searcher) -> list[list[Scored]]:
    """The index's own scores of the positives, wherever they rank."""
    ids = sorted({document_id(text) for each in questions for text in each.positives})
    rankings = searcher.find([each.query for each in questions], len(ids), allowed=ids)
    scored = []
    for question, hits in zip(questions, rankings):
        scores = {hit.document_id: hit.score for hit in hits}
        scored.append(
            [Scored(text, scores.get(document_id(text), math.nan)) for text in question.positives]
        )
    return scored


def _taught(
    question: Question, candidates: Sequence[Scored], teacher: Teacher
) -> tuple[list[Scored], list[Scored]]:
    """Positives and candidates with the teacher's scores, the latter in their new order."""
    texts = [*question.positives, *(each.text for each in candidates)]
    scored = [
        Scored(text, float(score)) for text, score in zip(texts, teacher(question.query, texts))
    ]
    count = len(question.positives)
    return scored[:count], sorted(scored[count:], key=lambda each: -each.score)


def _filtered(
    candidates: Sequence[Scored],
    positives: Sequence[Scored],
    settings: MiningSettings,
    counts: Counter[str],
) -> list[Scored]:
    # Of several positives the hardest: no negative may score like any of them.
    lowest = min((each.score for each in positives), key=lambda score: (score == score, score))
    left = []
    for each in candidates:
        reason = _reason_against(each.score, lowest, settings)
        if reason:
            counts[reason] += 1
        else:
            left.append(each)
    return left


def _reason_against(score: float, positive: float, settings: MiningSettings) -> str | None:
    if settings.max_score is not None and score > settings.max_score:
        return "above_max_score"
    if settings.min_score is not None and score < settings.min_score:
        return "below_min_score"
    if settings.compares and math.isnan(positive):
        return "unscored_positive"
    if settings.absolute_margin is not None and score > positive - settings.absolute_margin:
        return "absolute_margin"
    if (
        settings.relative_margin is not None
        and score > positive - abs(positive) * settings.relative_margin
    ):
        return "relative_margin"
    return None


def _sampled(left: Sequence[Scored], settings: MiningSettings, number: int) -> list[Scored]:
    if settings.sampling == "top" or len(left) <= settings.negatives:
        return list(left[: settings.negatives])
    # A seed of the query's own: a run that goes on draws what an uninterrupted one does.
    generator = np.random.default_rng([settings.seed, number])
    drawn = generator.choice(len(left), settings.negatives, replace=False)
    return [left[at] for at in sorted(drawn.tolist())]
