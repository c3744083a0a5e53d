"""The curves of a run as a picture; the one place that knows matplotlib here."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from retrieval.files import atomic_write
from retrieval.training.watching import BM25, METRIC

logger = logging.getLogger(__name__)

_PANELS = (
    ("loss", "loss"),
    ("learning_rate", "learning rate"),
    (METRIC, "dev nDCG@10"),
    ("samples_per_second", "examples/s"),
)


def plot_curves(records: Sequence[dict[str, Any]], path: Path) -> bool:
    """Draw what `log.jsonl` holds over the steps, as PNG.

    Returns:
        False where matplotlib is not installed: that is worth one warning, and no run.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        logger.warning(
            '%s is not drawn: run `pip install "modernbert-retrieval[eval]"` for matplotlib',
            path.name,
        )
        return False
    panels = [(key, name) for key, name in _PANELS if sum(key in record for record in records) > 0]
    if not panels:
        return False
    # Without pyplot, which keeps state and may look for a display.
    figure = Figure(figsize=(7, 1.9 * len(panels)), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(len(panels), sharex=True, squeeze=False)[:, 0]
    bm25 = next((record[BM25] for record in records if BM25 in record), None)
    for axis, (key, name) in zip(axes, panels):
        points = [(record["step"], record[key]) for record in records if key in record]
        marker = "o" if len(points) < 30 else ""
        axis.plot(*zip(*points), marker=marker, markersize=3, linewidth=1.2, color="tab:blue")
        axis.set_ylabel(name)
        axis.grid(alpha=0.3)
        if key == METRIC and bm25 is not None:
            axis.axhline(bm25, color="tab:orange", linestyle="--", linewidth=1, label="BM25")
            axis.legend(loc="best", frameon=False)
        if key == "learning_rate":
            axis.ticklabel_format(axis="y", style="sci", scilimits=(0, 0))
    axes[-1].set_xlabel("step")
    with atomic_write(path) as stream:
        figure.savefig(stream, format="png", dpi=120)
    return True
