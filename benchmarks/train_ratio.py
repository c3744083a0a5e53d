"""When two trainers' steps may be compared, and how much faster ours is."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median
from typing import Any

# float32 sums in another order: 7e-7 apart at most after 20 steps, in what was measured.
_FLOAT32_TOLERANCE = 1e-4
# What a number of 8 significant bits can say.
_BFLOAT16_RESOLUTION = 2**-8


def loss_difference(losses: Sequence[float], others: Sequence[float]) -> float:
    """The largest difference of the same step, relative to the second one's."""
    return max(abs(one - other) / abs(other) for one, other in zip(losses, others, strict=True))


def tolerance(result: dict[str, Any], system: str) -> float:
    """How far our losses may be from a peer's.

    bfloat16 rounds other intermediate results in every library, so the measure is the peer's own
    distance from the losses of float32: of two roundings of one computation, neither of them worse
    than the peer's, the losses are at most twice that apart. Without float32 losses beside them
    nothing but the resolution of bfloat16 is granted.
    """
    if result["dtype"] == "float32":
        return _FLOAT32_TOLERANCE
    exact = result.get("float32_losses")
    if exact is None:
        return _BFLOAT16_RESOLUTION
    return 2 * loss_difference(_row(result, system)["losses"], exact)


def rate_over(result: dict[str, Any], system: str) -> tuple[float, list[float]] | None:
    """Ours over a peer's rate, of medians and in every round; None where the losses differ."""
    if _row(result, system)["loss_difference"] > tolerance(result, system):
        return None
    theirs, ours = (_row(result, name)["step_seconds"] for name in (system, "ours"))
    return median(theirs) / median(ours), [each / own for each, own in zip(theirs, ours)]


def _row(result: dict[str, Any], system: str) -> dict[str, Any]:
    row: dict[str, Any] = next(each for each in result["rows"] if each["system"] == system)
    return row
