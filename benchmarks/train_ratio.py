"""When two trainers' steps may be compared, and how much faster ours is."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean, median
from typing import Any

from train_data import STARTERS

# Steps from the same weights: the learning rate of the first one is 0.
_FROM_SAME_WEIGHTS = 2
# float32 sums in another order, for one loss and after 20 steps. Trained from random weights, a
# ColBERT's best matches are nearly as good as others: where rounding takes another, Adam makes
# much of it; padding alone moves our own losses.
_FLOAT32 = 1e-5, 1e-3
# PyLate's MaxSim gives 0 in place of a negative match to a padded document, which trained weights
# have with documents that do not answer.
_CLAMPED = 1e-3, 1e-2
# What a number of 8 significant bits can say.
_BFLOAT16_RESOLUTION = 2**-8


def loss_difference(losses: Sequence[float], others: Sequence[float]) -> float:
    """The largest difference of the same step, relative to the second one's."""
    return max(_differences(losses, others))


def agree(result: dict[str, Any], system: str) -> bool:
    """Whether our losses are those of a peer, but for rounding.

    bfloat16 rounds other intermediate results in every library, and after a few steps their
    differences are chance. So each is to be as near to the losses of float32 as bfloat16 can tell,
    in the mean of the steps. Without float32 losses beside them ours have to be that near to the
    peer's at every step.
    """
    ours, theirs = (_row(result, name)["losses"] for name in ("ours", system))
    differences = _differences(ours, theirs)
    if result["dtype"] == "float32":
        is_clamped = system == "pylate" and result.get("start") == STARTERS
        tolerance, drift = _CLAMPED if is_clamped else _FLOAT32
        return max(differences[:_FROM_SAME_WEIGHTS]) <= tolerance and max(differences) <= drift
    exact = result.get("float32_losses")
    if exact is None:
        return max(differences) <= _BFLOAT16_RESOLUTION
    return all(fmean(_differences(each, exact)) <= _BFLOAT16_RESOLUTION for each in (ours, theirs))


def _differences(losses: Sequence[float], others: Sequence[float]) -> list[float]:
    return [abs(one - other) / abs(other) for one, other in zip(losses, others, strict=True)]


def rate_over(result: dict[str, Any], system: str) -> tuple[float, list[float]] | None:
    """Ours over a peer's rate, of medians and in every round; None where the losses differ."""
    if not agree(result, system):
        return None
    theirs, ours = (_row(result, name)["step_seconds"] for name in (system, "ours"))
    return median(theirs) / median(ours), [each / own for each, own in zip(theirs, ours)]


def _row(result: dict[str, Any], system: str) -> dict[str, Any]:
    row: dict[str, Any] = next(each for each in result["rows"] if each["system"] == system)
    return row
