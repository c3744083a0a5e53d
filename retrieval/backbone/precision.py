"""Choose the number format that a device computes fast and correctly."""

from __future__ import annotations

from typing import Literal

import torch

Precision = Literal["auto", "float32", "bfloat16"]


def has_fast_bfloat16(device: str) -> bool:
    """Whether bfloat16 products run in hardware.

    A processor without AVX512-BF16 or AMX emulates them some 50 times slower than float32.

    Args:
        device: "cpu", "cuda", "cuda:1", "mps", ...
    """
    if device.startswith("cuda"):
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if device != "cpu" or not hasattr(torch.cpu, "get_capabilities"):
        return False
    capabilities = torch.cpu.get_capabilities()
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))


def uses_bfloat16(precision: Precision, device: str) -> bool:
    """Resolve "auto": bfloat16 where the device computes it in hardware, else float32."""
    return has_fast_bfloat16(device) if precision == "auto" else precision == "bfloat16"
