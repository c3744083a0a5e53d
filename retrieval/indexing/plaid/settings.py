"""The settings of the PLAID index."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal, Self, get_args

from retrieval.errors import ConfigError
from retrieval.indexing.plaid.numpy_search import Effort
from retrieval.indexing.plaid.quality import LEVELS, Quality
from retrieval.indexing.plaid.searcher import Engine

Count = int | Literal["auto"]


@dataclass(frozen=True, kw_only=True)
class PlaidSettings:
    """Settings of the PLAID index.

    Attributes:
        bits: of each component of a residual, in the mean: 4 keeps the ranking, 2 halves the
            files. With 1 and 2, components that say more get twice as many, and others none, where
            that loses less.
        centroids: how many; "auto" is the power of two nearest 12 * sqrt(tokens), or nearest
            8 * sqrt(tokens) where that would be more than 65,536, and at most a quarter of the
            sampled tokens.
        keep_tokens: keep the tokens in float16 beside their codes, for exact scores.
        quality: of a search: "fast", "balanced" or "best". It does more the more documents there
            are. `PlaidIndex.calibrate` finds the settings for a recall. The settings below say
            more than it where they are not "auto".
        probes: centroids that are looked at for each query token.
        candidates: documents that are ranked by their centroids alone.
        scored: documents whose residuals are scored at the most; never fewer than 2 * k.
        rescored: documents that are scored exactly at the end, with `keep_tokens`; never fewer
            than k.
        margin: how far a token's centroid may score below the document's best one, for any query
            token, for the token's residual to be looked at, in standard deviations of residuals'
            products.
        patience: scoring by residuals stops at a document that would have to gain so many standard
            deviations more than others have gained to come among the k best.
        engine: what builds and searches; "auto" is the compiled library where there is one.
        threads: that share the queries of one search, and the building; "auto" is one for each
            processor core that this process may use.
        sample_tokens: tokens that are held in memory to learn from.
        iterations: rounds of k-means.
        seed: of the sample and of k-means.
    """

    bits: Literal[1, 2, 4, 8] = 4
    centroids: Count = "auto"
    keep_tokens: bool = False
    quality: Quality = "balanced"
    probes: Count = "auto"
    candidates: Count = "auto"
    scored: Count = "auto"
    rescored: Count = "auto"
    margin: float | Literal["auto"] = "auto"
    patience: float | Literal["auto"] = "auto"
    engine: Engine = "auto"
    threads: Count = "auto"
    sample_tokens: int = 1 << 19
    iterations: int = 4
    seed: int = 0

    def __post_init__(self) -> None:
        if self.bits not in (1, 2, 4, 8):
            raise ConfigError(f"bits is {self.bits}, expected 1, 2, 4 or 8")
        for name in ("centroids", "probes", "candidates", "scored", "rescored", "threads"):
            value = getattr(self, name)
            if value != "auto" and (isinstance(value, str) or value < 1):
                raise ConfigError(f'{name} is {value!r}, expected at least 1 or "auto"')
        for name in ("sample_tokens", "iterations"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} is {getattr(self, name)}, expected at least 1")
        for name, expected in (("engine", get_args(Engine)), ("quality", get_args(Quality))):
            if getattr(self, name) not in expected:
                raise ConfigError(f"{name} is {getattr(self, name)!r}, expected one of {expected}")
        for name in ("margin", "patience"):
            value = getattr(self, name)
            if value != "auto" and (isinstance(value, str) or not value > 0):
                raise ConfigError(f'{name} is {value!r}, expected above 0 or "auto"')
            if value != "auto":
                object.__setattr__(self, name, float(value))  # 4 is 4.0, in the manifest too
        if self.seed < 0:
            raise ConfigError(f"seed is {self.seed}, expected at least 0")

    def effort(self, k: int, spread: float, documents: int) -> Effort:
        """What a search does for `k` hits of so many documents; `spread` is the codec's."""
        level = LEVELS[self.quality].effort(k, spread, documents)
        scored = max(_or(self.scored, level.scored), 2 * k)
        return Effort(
            probes=_or(self.probes, level.probes),
            candidates=max(_or(self.candidates, level.candidates), scored),
            scored=scored,
            rescored=max(_or(self.rescored, level.rescored), k) if self.keep_tokens else 0,
            margin=level.margin if self.margin == "auto" else float(self.margin) * spread,
            wanted=k,
            patience=level.patience if self.patience == "auto" else float(self.patience),
        )

    def with_effort(self, effort: Effort, spread: float) -> Self:
        """These settings with the effort of every search given."""
        return replace(
            self,
            probes=effort.probes,
            candidates=effort.candidates,
            scored=effort.scored,
            rescored=effort.rescored or "auto",
            margin=effort.margin / spread if spread else "auto",
            patience=effort.patience,
        )


def _or(value: Count, otherwise: int) -> int:
    return otherwise if isinstance(value, str) else value
