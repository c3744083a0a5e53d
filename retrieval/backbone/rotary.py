"""Rotary positions of a ModernBERT: cosines and sines of each kind of layer, in float32."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


class RotaryTables:
    """Cosines and sines up to the longest sequence seen, on one device.

    Local and global layers turn at different speeds (rope_theta). The tables are computed from the
    configuration in float32 and not taken from the model's buffers, which are rounded when a model
    is cast to bfloat16.

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
        config = self._model.config
        parameters = config.rope_parameters[layer_type]
        positions = torch.arange(rows, device=device, dtype=torch.float32)
        if parameters["rope_type"] != "default":
            like = torch.empty(0, dtype=torch.float32, device=device)
            cosines, sines = self._model.rotary_emb(like, positions[None], layer_type)
            half = cosines.shape[-1] // 2
            return cosines[0, :, :half].contiguous(), sines[0, :, :half].contiguous()
        width = config.hidden_size // config.num_attention_heads
        exponents = torch.arange(0, width, 2, dtype=torch.float32, device=device) / width
        angles = positions[:, None] / parameters["rope_theta"] ** exponents
        return angles.cos(), angles.sin()


def rotate(x: Tensor, cosines: Tensor, sines: Tensor) -> Tensor:
    """Turn queries or keys by their positions; differentiable.

    Args:
        x: (T, heads, head width).
        cosines: (T, 1, head width / 2) float32.
        sines: like cosines.

    Returns:
        Like x, in its dtype; computed in float32.
    """
    first, second = x.float().chunk(2, dim=-1)
    turned = (first * cosines - second * sines, second * cosines + first * sines)
    return torch.cat(turned, dim=-1).to(x.dtype)
