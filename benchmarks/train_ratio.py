"""When two trainers' steps may be compared, and how much faster ours is."""

from __future__ import annotations

from statistics import median
from typing import Any

# How far losses of the same step may be apart, relative to the peer's: float32 sums in another
# order, bfloat16 rounds other intermediate results; both grow with the steps.
TOLERANCES = {"float32": 1e-3, "bfloat16": 2e-2}


def rate_over(result: dict[str, Any], system: str) -> tuple[float, list[float]] | None:
    """Ours over a peer's rate, of medians and in every round; None where the losses differ."""
    rows = {row["system"]: row for row in result["rows"]}
    if system not in rows or rows[system]["loss_difference"] > TOLERANCES[result["dtype"]]:
        return None
    theirs, ours = (rows[name]["step_seconds"] for name in (system, "ours"))
    return median(theirs) / median(ours), [each / own for each, own in zip(theirs, ours)]
