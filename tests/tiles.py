"""AMX tiles, emulated, for tests of what computes on them."""

from __future__ import annotations

VECTORS_OF = {"amx_emulated": "avx512_bf16", "amx_emulated_portable": "portable"}
"""Each emulation, and the instruction set that it is made of without tiles."""
