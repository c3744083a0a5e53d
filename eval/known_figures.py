"""Figures that are known from elsewhere, beside ours: a second opinion on data and metrics."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from retrieval.evaluation import Result

MINILM = "all-MiniLM-L6-v2"


class KnownFigure(NamedTuple):
    """An nDCG@10 that somebody else, or other code, measured."""

    collection: str
    """The folder's name."""
    system: str
    value: float
    source: str


_BEIR = "BEIR, title and text as two fields (arXiv:2104.08663)"
_PYSERINI = "Pyserini, title and text as one field (arXiv:2306.07471)"
_EARLIER = "measured with other code when the collection was made"

KNOWN_FIGURES = (
    KnownFigure("scifact", "BM25", 0.665, _BEIR),
    KnownFigure("scifact", "BM25", 0.679, _PYSERINI),
    KnownFigure("scifact", MINILM, 0.645, "MTEB's leaderboard"),
    KnownFigure("nfcorpus-lc", "BM25", 0.325, f"{_BEIR}; its text is not lower-cased"),
    KnownFigure("nfcorpus-lc", MINILM, 0.299, _EARLIER),
    KnownFigure("cranfield", "BM25", 0.376, _EARLIER),
    KnownFigure("cranfield", MINILM, 0.396, _EARLIER),
    KnownFigure("vaswani", "BM25", 0.436, _EARLIER),
    KnownFigure("vaswani", MINILM, 0.437, _EARLIER),
    KnownFigure("nq-qed-dev", "BM25", 0.915, _EARLIER),
    KnownFigure("nq-qed-dev", MINILM, 0.975, _EARLIER),
    KnownFigure("docstr-py-dev", "BM25", 0.315, _EARLIER),
)


def known_table(results: Sequence[Result], metric: str = "nDCG@10") -> str:
    """Markdown, a row for each known figure that has a result of ours."""
    ours = {(each.collection, each.system): each.metrics[metric] for each in results}
    lines = [
        f"| collection | system | {metric} here | elsewhere | difference | source |",
        "|---|---|---:|---:|---:|---|",
    ]
    for known in KNOWN_FIGURES:
        value = ours.get((known.collection, known.system))
        if value is None:
            continue
        difference = round(value - known.value, 3) or 0.0  # not -0.000
        lines.append(
            f"| {known.collection} | {known.system} | {value:.3f} | {known.value:.3f} | "
            f"{difference:+.3f} | {known.source} |"
        )
    return "".join(f"{line}\n" for line in lines)
