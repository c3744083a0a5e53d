"""What an evaluation measures, and how it searches."""

from __future__ import annotations

from dataclasses import dataclass

from retrieval.errors import ConfigError
from retrieval.evaluation.metrics import DEFAULT_METRICS, parse_metrics


@dataclass(frozen=True, kw_only=True)
class EvaluationSettings:
    """Settings of an evaluation; saved with its result.

    Attributes:
        k: hits a query, at least the greatest cutoff among the metrics.
        metrics: names such as nDCG@10, in any case.
        split: the split to evaluate on; None takes "test" or the only one.
        search_batch_size: queries that are searched together.
        ignore_identical_ids: leave out a document whose id is the query's. Right for ArguAna and
            Quora, whose queries are documents themselves (BEIR does so everywhere); wrong
            where queries and documents are numbered independently.
    """

    k: int = 100
    metrics: tuple[str, ...] = DEFAULT_METRICS
    split: str | None = None
    search_batch_size: int = 64
    ignore_identical_ids: bool = False

    def __post_init__(self) -> None:
        deepest = max(parse_metrics(self.metrics), key=lambda metric: metric.cutoff)
        if self.k < deepest.cutoff:
            raise ConfigError(
                f"k is {self.k}, but {deepest} looks at {deepest.cutoff} hits: raise k or lower "
                "the cutoff"
            )
        if self.search_batch_size < 1:
            raise ConfigError(f"search_batch_size is {self.search_batch_size}, expected 1 or more")
