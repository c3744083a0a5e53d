"""bfloat16 is chosen only where the processor computes it in hardware."""

from __future__ import annotations

import pytest
import torch

from retrieval.backbone.precision import uses_bfloat16


@pytest.mark.parametrize(
    ("capabilities", "expected"),
    [
        ({"avx2": True, "avx512_bf16": False}, False),
        ({"avx512_bf16": True}, True),
        ({"amx_bf16": True}, True),
    ],
)
def test_auto_asks_the_processor(
    monkeypatch: pytest.MonkeyPatch, capabilities: dict[str, bool], expected: bool
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities, raising=False)
    assert uses_bfloat16("auto", "cpu") is expected


def test_a_stated_precision_is_taken_as_it_is() -> None:
    assert uses_bfloat16("bfloat16", "cpu")
    assert not uses_bfloat16("float32", "cuda")
