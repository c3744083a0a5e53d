"""Cosines and sines are those of transformers' own embedding, in float32 whatever the model is."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers.models.modernbert.modeling_modernbert import apply_rotary_pos_emb

from retrieval.backbone.modernbert import is_modernbert
from retrieval.backbone.rotary import RotaryTables, rotate

CPU = torch.device("cpu")
KINDS = ("full_attention", "sliding_attention")
SCALED = {
    "full_attention": {
        "rope_type": "yarn",
        "rope_theta": 160_000.0,
        "factor": 4.0,
        "original_max_position_embeddings": 2_048,
    },
    "sliding_attention": {"rope_type": "linear", "rope_theta": 10_000.0, "factor": 2.0},
}


def own_embedding(model: Any, kind: str, positions: int) -> tuple[torch.Tensor, torch.Tensor]:
    both = model.rotary_emb(torch.empty(0), torch.arange(positions)[None], kind)
    cosines, sines = (each[0, :, : each.shape[-1] // 2] for each in both)
    return cosines, sines


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("settings", [{}, {"rope_parameters": SCALED}], ids=["default", "scaled"])
def test_tables_are_those_of_transformers(
    make_model: Any, kind: str, settings: dict[str, Any]
) -> None:
    model = make_model(**settings)
    expected = own_embedding(model, kind, 8_192)
    for ours, theirs in zip(RotaryTables(model)(kind, 8_192, CPU), expected, strict=True):
        assert ours.dtype == torch.float32
        torch.testing.assert_close(ours[:8_192], theirs, atol=1e-6, rtol=0)


def test_local_and_global_layers_turn_at_different_speeds(make_model: Any) -> None:
    rotary = RotaryTables(make_model())
    local, wide = (rotary(kind, 300, CPU)[0] for kind in reversed(KINDS))
    assert (local[299] - wide[299]).abs().max() > 0.1


@pytest.mark.parametrize("settings", [{}, {"rope_parameters": SCALED}], ids=["default", "scaled"])
def test_casting_a_model_to_bfloat16_rounds_no_angle(
    make_model: Any, settings: dict[str, Any]
) -> None:
    expected = RotaryTables(make_model(**settings))
    rounded = RotaryTables(make_model(**settings).to(torch.bfloat16))
    for kind in KINDS:
        assert torch.equal(rounded(kind, 8_192, CPU)[1], expected(kind, 8_192, CPU)[1])


def test_a_longer_text_extends_the_tables_and_changes_no_row(make_model: Any) -> None:
    rotary = RotaryTables(make_model())
    short = rotary(KINDS[0], 3, CPU)[0]
    long = rotary(KINDS[0], len(short) + 1, CPU)[0]
    assert len(long) > len(short) >= 3
    assert torch.equal(long[: len(short)], short)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_rotation_is_that_of_transformers(make_model: Any, dtype: torch.dtype) -> None:
    model = make_model()
    q, k = torch.randn(2, 1, 2, 50, 16).to(dtype)
    both = model.rotary_emb(torch.empty(0), torch.arange(50)[None], KINDS[1])
    expected = apply_rotary_pos_emb(q, k, *both)
    table = [each[:50, None] for each in RotaryTables(model)(KINDS[1], 50, CPU)]
    for x, theirs in zip((q, k), expected, strict=True):
        ours = rotate(x[0].transpose(0, 1), *table)
        assert ours.dtype == dtype
        torch.testing.assert_close(ours, theirs[0].transpose(0, 1), atol=1e-6, rtol=0)


def test_a_model_whose_angles_depend_on_the_batch_is_left_to_its_own_forward(
    make_model: Any,
) -> None:
    assert is_modernbert(make_model())
    dynamic = {"rope_type": "dynamic", "rope_theta": 10_000.0, "factor": 2.0}
    model = make_model(rope_parameters={**SCALED, "full_attention": dynamic})
    assert not is_modernbert(model)
