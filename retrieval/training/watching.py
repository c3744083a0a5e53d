"""What a run is looked at by: settings, the dev set that it is measured on, and the verdict."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple, Protocol

from retrieval.encoders.protocol import Encoder
from retrieval.errors import ConfigError

METRIC = "dev_ndcg@10"
BM25 = "bm25_ndcg@10"


@dataclass(frozen=True, kw_only=True)
class WatchSettings:
    """A dev set to measure on before, during and after a run, and where the curves go.

    The dev set is a BEIR folder or a share of the training pairs; without either, nothing is
    measured.
    """

    dev: str | None = None
    """A BEIR folder, from the current folder."""
    split: str | None = None
    """Of `dev`; None takes the only one there is."""
    held_out: int = 0
    """Take so many training examples away, and measure on them, where `dev` names no folder. Their
    documents, negatives included, are the corpus."""
    every: int | None = None
    """Steps between two measurements; None measures at the start and at the end."""
    keep: Literal["last", "best"] = "last"
    """Which weights become the model: the last ones, or those of the best measurement."""
    report_to: tuple[str, ...] = ()
    """Where the curves go as well: transformers' names, such as tensorboard, trackio, wandb."""

    def __post_init__(self) -> None:
        if self.held_out < 0 or (self.every is not None and self.every < 1):
            raise ConfigError(
                f"watch.held_out is {self.held_out} and watch.every {self.every}, expected 0 or "
                "more and at least 1"
            )
        if self.dev is not None and self.held_out:
            raise ConfigError("watch.dev and watch.held_out exclude each other: give one of them")
        if not self.is_measured and (self.every is not None or self.keep == "best"):
            raise ConfigError(
                "watch.every and watch.keep='best' need a dev set: give watch.dev or watch.held_out"
            )

    @property
    def is_measured(self) -> bool:
        """Whether there is a dev set."""
        return self.dev is not None or self.held_out > 0


class Pair(NamedTuple):
    """A query, the document that answers it, and documents that don't."""

    query: str
    positive: str
    others: tuple[str, ...]


class DevSet(Protocol):
    """A small collection that gives nDCG@10 by exact search."""

    def measure(self, encoder: Encoder) -> float:
        """nDCG@10 of an encoder."""

    def measure_bm25(self) -> float:
        """nDCG@10 of BM25."""


class DevSets(Protocol):
    """Makes dev sets: `retrieval.evaluation.dev_set.MeasuredSet`.

    It comes in as an argument, because evaluation and indexes are no business of training (the
    import contract forbids both).
    """

    def from_folder(self, folder: Path, split: str | None) -> DevSet:
        """Read a BEIR folder."""

    def from_pairs(self, pairs: Sequence[Pair]) -> DevSet:
        """Take each query's own document as its only relevant one."""


def open_dev_set(
    watch: WatchSettings, examples: Any, dev_sets: DevSets | None
) -> tuple[Any, DevSet | None]:
    """Read or cut off the dev set of a recipe.

    Returns:
        The examples that are left for training, and the dev set, None where the recipe names none.

    Raises:
        ConfigError: a dev set is named but `dev_sets` is None, or the held-out share leaves
            nothing to train on.
    """
    if not watch.is_measured:
        return examples, None
    if dev_sets is None:
        raise ConfigError(
            "the recipe's [watch] names a dev set, and this program gives nothing to measure it "
            "with: pass dev_sets=retrieval.evaluation.dev_set.MeasuredSet"
        )
    if watch.dev is not None:
        return examples, dev_sets.from_folder(Path(watch.dev), watch.split)
    rest, pairs = hold_out(examples, watch.held_out)
    return rest, dev_sets.from_pairs(pairs)


def hold_out(examples: Any, count: int) -> tuple[Any, list[Pair]]:
    """Take `count` examples away, always the same ones, and every other that has their texts.

    Raises:
        ConfigError: nothing is left, or the examples are several datasets.
    """
    columns = getattr(examples, "column_names", None)
    if not isinstance(columns, list) or "query" not in columns:
        raise ConfigError(
            "watch.held_out needs one dataset with queries: name a folder in watch.dev"
        )
    chosen = sorted(random.Random(0).sample(range(len(examples)), min(count, len(examples))))
    pairs = [_pair(examples[row]) for row in chosen]
    queries, positives = ({getattr(pair, name) for pair in pairs} for name in ("query", "positive"))
    answers = examples["positive"] if "positive" in columns else [None] * len(examples)
    kept = [
        row
        for row, (query, answer) in enumerate(zip(examples["query"], answers))
        if query not in queries and answer not in positives
    ]
    if not kept:
        raise ConfigError(
            f"watch.held_out={count} leaves none of {len(examples)} examples to train on: lower it"
        )
    return examples.select(kept), pairs


def _pair(row: dict[str, Any]) -> Pair:
    if "positive" in row:
        others = [text for name, text in row.items() if name.startswith("negative")]
        return Pair(row["query"], row["positive"], tuple(others))
    texts = [row[name] for name in row if name.startswith("document")]
    labels = row["label"]
    best = max(range(len(texts)), key=lambda at: labels[at])
    return Pair(row["query"], texts[best], (*texts[:best], *texts[best + 1 :]))


class Scores(NamedTuple):
    """nDCG@10 on the dev set."""

    start: float
    end: float
    """Of the model that was kept."""
    step: int
    """The step whose weights were kept."""
    bm25: float

    def verdict(self) -> str:
        """Better or worse than the start, and than BM25, in one line.

        >>> print(Scores(start=0.41, end=0.53, step=300, bm25=0.6).verdict())
        dev nDCG@10 0.5300 (step 300): better than the start (0.4100), worse than BM25 (0.6000)
        """
        than_start = _compared(self.end, self.start, "the start")
        than_bm25 = _compared(self.end, self.bm25, "BM25")
        return f"dev nDCG@10 {self.end:.4f} (step {self.step}): {than_start}, {than_bm25}"


def _compared(ours: float, theirs: float, name: str) -> str:
    difference = ours - theirs
    if abs(difference) < 0.00005:
        return f"as good as {name} ({theirs:.4f})"
    return f"{'better' if difference > 0 else 'worse'} than {name} ({theirs:.4f})"
