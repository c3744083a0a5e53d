"""Inference with packed weights always knows the weights that the model has now."""

from __future__ import annotations

import copy
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from retrieval import native
from retrieval.backbone import cpu_inference
from retrieval.backbone.cpu_inference import CpuModernBert
from retrieval.backbone.modernbert import PackedModernBert
from retrieval.backbone.packing import pack

LENGTHS = [3, 130, 40]
DTYPES = [torch.float32, torch.bfloat16]

pytestmark = pytest.mark.skipif(not native.instruction_sets(), reason="needs compiled kernels")


def turn_a_weight(model: Any) -> None:
    with torch.no_grad():
        model.layers[1].attn.Wo.weight.mul_(-3)


def scale_a_norm(model: Any) -> None:
    with torch.no_grad():
        model.layers[2].mlp_norm.weight.mul_(3)


def take_an_optimizer_step(model: Any, fused: bool = False) -> None:
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1, fused=fused)
    model(input_ids=torch.tensor([[5, 6, 7]])).last_hidden_state.square().sum().backward()
    optimizer.step()
    model.zero_grad()


def take_a_fused_optimizer_step(model: Any) -> None:
    take_an_optimizer_step(model, fused=True)


def load_other_weights(model: Any) -> None:
    generator = torch.Generator().manual_seed(9)
    model.load_state_dict(
        {
            name: torch.randn(each.shape, generator=generator) * 0.2
            for name, each in model.state_dict().items()
        }
    )


def replace_a_layer(model: Any) -> None:
    torch.manual_seed(9)
    model.layers[1].mlp.Wi = torch.nn.Linear(32, 96, bias=False).to(model.dtype)


def assert_equal(packed: PackedModernBert, ids: list[list[int]], expected: Tensor) -> None:
    with torch.no_grad():
        found = packed(pack(ids))
    if found.dtype == torch.float32:
        torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)
    else:
        assert float(F.cosine_similarity(found.double(), expected.double()).min()) >= 0.999


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(
    "change",
    [
        turn_a_weight,
        scale_a_norm,
        take_an_optimizer_step,
        take_a_fused_optimizer_step,
        load_other_weights,
        replace_a_layer,
    ],
)
def test_changed_weights_are_the_ones_that_count(
    make_model: Any,
    token_ids: Any,
    padded_states: Any,
    dtype: torch.dtype,
    change: Callable[[Any], None],
) -> None:
    model, ids = make_model().to(dtype), token_ids(LENGTHS)
    packed = PackedModernBert(model)
    with torch.no_grad():
        before = packed(pack(ids))
    change(model)
    with torch.no_grad():
        expected = padded_states(copy.deepcopy(model).float(), ids)
    assert float((before - expected).abs().max()) > 0.1
    assert_equal(packed, ids, expected)


def test_a_model_that_is_cast_runs_in_its_new_dtype(
    make_model: Any, token_ids: Any, padded_states: Any
) -> None:
    model, ids = make_model(), token_ids(LENGTHS)
    packed = PackedModernBert(model)
    with torch.no_grad():
        expected = padded_states(model, ids)
    for dtype in (torch.float32, torch.bfloat16, torch.float32):
        model.to(dtype)
        with torch.no_grad():
            assert packed(pack(ids)).dtype == dtype
    packed = PackedModernBert(make_model())
    assert_equal(packed, ids, expected)


def test_weights_are_packed_once(
    make_model: Any, token_ids: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    packings: list[int] = []
    original: Any = cpu_inference._Layer

    def count(*given: Any) -> Any:
        packings.append(0)
        return original(*given)

    monkeypatch.setattr(cpu_inference, "_Layer", count)
    model = make_model()
    packed = PackedModernBert(model)
    with torch.no_grad(), ThreadPoolExecutor(4) as pool:
        batches = [pack(token_ids(LENGTHS, seed)) for seed in range(8)]

        def run(batch: Any) -> Tensor:
            with torch.no_grad():
                return packed(batch)

        outs = list(pool.map(run, batches))
    assert len(packings) == len(model.layers)
    for batch, out in zip(batches, outs, strict=True):
        with torch.no_grad():
            assert torch.equal(packed(batch), out)


def test_the_compiled_path_is_taken_where_it_may_be(
    make_model: Any, token_ids: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken: list[int] = []
    original = CpuModernBert.__call__

    def count(self: CpuModernBert, *arguments: Any) -> Tensor:
        taken.append(0)
        return original(self, *arguments)

    monkeypatch.setattr(CpuModernBert, "__call__", count)
    model, batch = make_model(), pack(token_ids(LENGTHS))
    packed = PackedModernBert(model)
    with torch.inference_mode():
        packed(batch)
    assert len(taken) == 1
    packed(batch)  # gradients may be asked for
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        packed(batch)
    with torch.no_grad():
        packed(pack(token_ids([3])))
        model.train()
        packed(batch)
        model.eval().half()
        packed(batch)
        PackedModernBert(model.float(), attention="sdpa")(batch)
    assert len(taken) == 2


def test_states_of_a_frozen_backbone_can_train_what_follows(
    make_model: Any, token_ids: Any
) -> None:
    with torch.no_grad():
        states = PackedModernBert(make_model())(pack(token_ids(LENGTHS)))
    head = torch.nn.Linear(32, 1)
    torch.autograd.backward(head(states).sum())
    assert head.weight.grad is not None
    torch.testing.assert_close(head.weight.grad[0], states.sum(0))
