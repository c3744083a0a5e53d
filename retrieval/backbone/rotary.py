"""Rotary positions of a ModernBERT: cosines and sines of each kind of layer, in float32."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


class RotaryTables:
    """Cosines and sines up to the longest sequence seen, on one device.

    Local and global layers turn at different speeds (rope_theta). The tables are computed from the
    configuration and not taken from the model's buffers, which are rounded when a model is cast to
    bfloat16. `supports_tables` says which models have tables at all.

    Source: Su et al. 2021, arXiv:2104.09864.
    """

    def __init__(self, model: Any) -> None:
        self._model = model
        self._tables: dict[tuple[str, torch.device], tuple[Tensor, Tensor]] = {}

    def __call__(
        self, layer_type: str, positions: int, device: torch.device
    ) -> tuple[Tensor, Tensor]:
        """Cosines and sines, each (at least `positions`, head width / 2) float32."""
        key = (layer_type, device)
        found = self._tables.get(key)
        if found is None or len(found[0]) < positions:
            rows = max(256, 1 << (positions - 1).bit_length())
            found = self._tables[key] = self._compute(layer_type, rows, device)
        return found

    @torch.no_grad()
    def _compute(self, layer_type: str, rows: int, device: torch.device) -> tuple[Tensor, Tensor]:
        # Its own embedding computes them, but a new one: whatever the model was cast to, these
        # frequencies are float32.
        embedding = type(self._model.rotary_emb)(self._model.config).to(device)
        like = torch.empty(0, dtype=torch.float32, device=device)
        positions = torch.arange(rows, device=device)[None]
        cosines, sines = embedding(like, positions, layer_type)
        half = cosines.shape[-1] // 2
        return cosines[0, :, :half].contiguous(), sines[0, :, :half].contiguous()


def supports_tables(model: Any) -> bool:
    """Whether an angle depends on the position alone, and not on the longest text of a batch."""
    parameters = model.config.rope_parameters
    kinds = [parameters[layer_type]["rope_type"] for layer_type in set(model.config.layer_types)]
    return not any(kind == "longrope" or "dynamic" in kind for kind in kinds)


def rotate(x: Tensor, cosines: Tensor, sines: Tensor) -> Tensor:
    """Turn queries or keys by their positions; differentiable.

    Args:
        x: (T, heads, head width).
        cosines: (T, 1, head width / 2) float32.
        sines: like cosines.

    Returns:
        Like x, in its dtype; computed in float32.
    """
    turned: Tensor = _Rotation.apply(x, cosines, sines)  # type: ignore[no-untyped-call]
    return turned


class _Rotation(torch.autograd.Function):
    """A rotation, whose gradient is the rotation back: neither keeps the states."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, cosines: Tensor, sines: Tensor) -> Tensor:
        ctx.save_for_backward(cosines, sines)
        first, second = x.float().chunk(2, dim=-1)
        turned = torch.empty(x.shape, dtype=torch.float32, device=x.device)
        out_first, out_second = turned.chunk(2, dim=-1)
        torch.mul(first, cosines, out=out_first).addcmul_(second, sines, value=-1)
        torch.mul(second, cosines, out=out_second).addcmul_(first, sines)
        return turned.to(x.dtype)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        cosines, sines = ctx.saved_tensors
        return rotate(gradients[0], cosines, -sines), None, None
