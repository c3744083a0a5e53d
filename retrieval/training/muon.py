"""Muon, in the number format that the processor computes fast.

`torch.optim.Muon` orthogonalises in bfloat16 whatever the device: where that is emulated, a step of
22 million parameters takes longer than the forward and backward pass before it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

from retrieval.backbone.precision import has_fast_bfloat16

# Keller Jordan, https://kellerjordan.github.io/posts/muon/: singular values end between .7 and 1.2
_COEFFICIENTS = (3.4445, -4.7750, 2.0315)
_ITERATIONS = 5
_SMALLEST_NORM = 1e-7


class Muon(torch.optim.Optimizer):
    """Moves matrices along their momentum with all singular values near 1.

    A step has AdamW's size: 0.2 times the root of the longer side, so that AdamW's learning rates
    do. Nesterov momentum, no weight decay.
    Sources: https://kellerjordan.github.io/posts/muon/, https://arxiv.org/abs/2502.16982.
    """

    def __init__(
        self, params: Iterable[Tensor] | Iterable[dict[str, Any]], lr: float, momentum: float = 0.95
    ) -> None:
        """Take matrices.

        Raises:
            ValueError: one of them is no matrix.
        """
        super().__init__(params, {"lr": lr, "momentum": momentum})
        for group in self.param_groups:
            for each in group["params"]:
                if each.ndim != 2:
                    raise ValueError(f"Muon takes matrices, not the shape {tuple(each.shape)}")

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Take one step; a matrix without a gradient stays as it is."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for matrix in group["params"]:
                if matrix.grad is None:
                    continue
                state = self.state[matrix]
                if not state:
                    state["momentum_buffer"] = torch.zeros_like(matrix.grad)
                average = state["momentum_buffer"].lerp_(matrix.grad, 1 - group["momentum"])
                direction = orthogonalised(matrix.grad.lerp(average, group["momentum"]))
                size = 0.2 * max(matrix.shape) ** 0.5
                matrix.add_(direction, alpha=-group["lr"] * size)
        return loss


def orthogonalised(matrix: Tensor) -> Tensor:
    """A matrix of the same singular vectors, its singular values near 1 (Newton-Schulz)."""
    is_tall = matrix.shape[0] > matrix.shape[1]
    dtype = torch.bfloat16 if has_fast_bfloat16(matrix.device.type) else torch.float32
    wide = (matrix.T if is_tall else matrix).to(dtype)
    wide = wide / wide.norm().clamp(min=_SMALLEST_NORM)
    first, third, fifth = _COEFFICIENTS
    for _ in range(_ITERATIONS):
        gram = wide @ wide.T
        wide = torch.addmm(
            wide, torch.addmm(gram, gram, gram, beta=third, alpha=fifth), wide, beta=first
        )
    return (wide.T if is_tall else wide).to(matrix.dtype)
