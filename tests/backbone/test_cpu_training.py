"""Gradients of the compiled kernels are those of torch, on every instruction set and on tiles."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from retrieval import native
from retrieval.backbone import cpu_training, kernels, onednn
from retrieval.backbone.modernbert import PackedModernBert
from retrieval.backbone.packing import pack
from retrieval.errors import ConfigError
from tests.backbone.attention_cases import attend_in_torch, offsets_of, tables

pytestmark = pytest.mark.skipif(native.library() is None, reason="needs the compiled kernels")

# Of the largest gradient. In bfloat16 outputs and gradients are rounded, by 1/512 of each, and so
# are probabilities and slopes on the way.
TOLERANCES = {torch.float32: 5e-6, torch.bfloat16: 2e-2}
DTYPES = list(TOLERANCES)
LENGTHS = [1, 2, 7, 8, 17, 33, 48, 49, 65, 97, 130, 1, 300]


class Case(NamedTuple):
    """Random queries, keys and values, and the gradient of what is attended."""

    lengths: list[int]
    heads: int
    width: int
    dtype: torch.dtype
    window: int | None = None
    key_lengths: list[int] | None = None
    growth: float = 1.0
    """How much larger the last keys are than the first."""

    @property
    def qkv(self) -> Tensor:
        qkv = self._random(3, 0)
        keys = qkv[:, self.heads * self.width : 2 * self.heads * self.width]
        keys *= torch.linspace(1, self.growth, len(qkv))[:, None]
        return qkv.to(self.dtype)

    @property
    def of_output(self) -> Tensor:
        return self._random(1, 1).to(self.dtype)

    @property
    def kernel(self) -> kernels.Attention:
        keys = None if self.key_lengths is None else np.asarray(self.key_lengths, np.int32)
        cosines, sines = self.tables
        return kernels.Attention(
            heads=self.heads,
            offsets=offsets_of(self.lengths),
            key_lengths=keys,
            window=self.window,
            cosines=cosines,
            sines=sines,
        )

    @property
    def tables(self) -> tuple[Tensor, Tensor]:
        return tables(max(self.lengths), self.width)

    def _random(self, parts: int, seed: int) -> Tensor:
        generator = torch.Generator().manual_seed(seed)
        return torch.randn(sum(self.lengths), parts * self.heads * self.width, generator=generator)


def found(case: Case) -> tuple[Tensor, Tensor]:
    """The output, and the gradient of queries, keys and values."""
    qkv = case.qkv.requires_grad_()
    out: Tensor = cpu_training._Attention.apply(qkv, case.kernel)  # type: ignore[no-untyped-call]
    torch.autograd.backward(out, case.of_output)
    assert qkv.grad is not None
    return out.detach(), qkv.grad


def expected(case: Case) -> Tensor:
    """The gradient by torch, in float32."""
    qkv = case.qkv.float().requires_grad_()
    cosines, sines = case.tables
    out = attend_in_torch(
        qkv,
        heads=case.heads,
        lengths=case.lengths,
        key_lengths=case.key_lengths,
        window=case.window,
        cosines=cosines,
        sines=sines,
    )
    torch.autograd.backward(out, case.of_output.float())
    assert qkv.grad is not None
    return qkv.grad


def check(case: Case) -> None:
    _, gradient = found(case)
    assert gradient.dtype == case.dtype
    right = expected(case)
    assert (gradient.float() - right).abs().max() < TOLERANCES[case.dtype] * right.abs().max()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("width", [2, 16, 20, 24, 64, 96, 256])
@pytest.mark.parametrize("window", [None, 1, 5, 64], ids=lambda each: f"window {each}")
@pytest.mark.parametrize("some", [False, True], ids=["all keys", "some keys"])
def test_the_gradient_of_attention_is_that_of_torch(
    instruction_set: str, dtype: torch.dtype, width: int, window: int | None, some: bool
) -> None:
    key_lengths = [max(1, length // 3) for length in LENGTHS] if some else None
    check(Case(LENGTHS, 2, width, dtype, window, key_lengths))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("window", [None, 64], ids=lambda each: f"window {each}")
def test_the_gradient_over_many_blocks_is_that_of_torch(
    instruction_set: str, dtype: torch.dtype, window: int | None
) -> None:
    check(Case([1_100, 513, 512, 511], 1, 64, dtype, window, growth=3))


@pytest.fixture(params=["amx_emulated", "amx_emulated_portable"])
def tiles(request: pytest.FixtureRequest) -> Iterator[str]:
    before = native.instruction_set()
    assert before is not None
    try:
        native.choose_instruction_set(request.param)
    except ConfigError:
        pytest.skip("this processor has no bfloat16 vectors")
    yield request.param
    native.choose_instruction_set(before)


@pytest.mark.parametrize("width", [32, 64, 96, 256])
@pytest.mark.parametrize("window", [None, 1, 5, 64, 2**31 - 1], ids=lambda each: f"window {each}")
@pytest.mark.parametrize("some", [False, True], ids=["all keys", "some keys"])
def test_the_gradient_on_tiles_is_that_of_torch(
    tiles: str, width: int, window: int | None, some: bool
) -> None:
    lengths = [1, 2, 15, 16, 17, 31, 32, 33, 63, 64, 65, 256, 257, 300]
    key_lengths = [max(1, length // 3) for length in lengths] if some else None
    check(Case(lengths, 2, width, torch.bfloat16, window, key_lengths))


def test_the_gradient_on_tiles_over_many_blocks_is_that_of_torch(tiles: str) -> None:
    check(Case([700, 513], 1, 64, torch.bfloat16, growth=3))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_what_sees_nothing_and_is_not_seen_has_no_gradient(
    instruction_set: str, dtype: torch.dtype
) -> None:
    # Key number 3 is the last, and query number 8 the last that sees it; then a text without keys.
    case = Case([30, 5], 1, 16, dtype, window=5, key_lengths=[4, 0])
    out, gradient = found(case)
    queries, keys, values = gradient.view(35, 3, 16).unbind(1)
    assert torch.equal(queries[9:], torch.zeros(26, 16, dtype=dtype))
    assert torch.equal(out[9:], torch.zeros(26, 16, dtype=dtype))
    for each in (keys, values):
        assert torch.equal(each[4:], torch.zeros(31, 16, dtype=dtype))
        assert each[:4].abs().sum(1).gt(0).all()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_scores_of_thousands_give_gradients_that_are_numbers(
    instruction_set: str, dtype: torch.dtype
) -> None:
    case = Case([40], 1, 16, dtype)
    qkv = case.qkv
    qkv[:, :32] *= 100
    normalisers = torch.empty(40, 1)
    out = case.kernel.attend(qkv, normalisers)
    gradient = case.kernel.gradient(qkv, out, normalisers, case.of_output)
    assert gradient.isfinite().all()
    # Each query sees one key alone, whose value's gradient is the sum of what such queries got.
    cosines, sines = case.tables
    q, k = (torch.cat([each[:, :8], each[:, 8:]], 1) for each in qkv[:, :32].float().chunk(2, 1))
    turned = []
    for each in (q, k):
        a, b = each.chunk(2, 1)
        turned.append(torch.cat([a * cosines - b * sines, b * cosines + a * sines], 1).to(dtype))
    seen = (turned[0].float() @ turned[1].float().T).argmax(1)
    sums = torch.zeros(40, 16).index_add_(0, seen, case.of_output.float())
    torch.testing.assert_close(gradient[:, 32:].float(), sums, atol=0.05, rtol=0.02)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("lengths", [[300], [1, 250, 3, 90, 64], [0, 40, 0, 40]])
def test_threads_change_no_bit(dtype: torch.dtype, lengths: list[int]) -> None:
    before = torch.get_num_threads()
    case = Case(lengths, 3, 16, dtype, key_lengths=[length // 2 for length in lengths])
    try:
        outputs = []
        for threads in (1, 2, 7):
            torch.set_num_threads(threads)
            outputs.append(found(case))
    finally:
        torch.set_num_threads(before)
    for output in outputs[1:]:
        assert all(map(torch.equal, outputs[0], output))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("width", [1, 5, 16, 37, 384])
def test_the_gradient_of_geglu_is_that_of_torch(
    instruction_set: str, dtype: torch.dtype, width: int
) -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(9, 2 * width, generator=generator) * 3
    x[0, :width] = torch.linspace(-12, 12, width)
    x = x.to(dtype)
    of_output = torch.randn(9, width, generator=generator).to(dtype)
    own, other = x.clone().requires_grad_(), x.float().requires_grad_()
    torch.autograd.backward(cpu_training.geglu(own), of_output)
    first, gate = other.chunk(2, dim=-1)
    torch.autograd.backward(F.gelu(first) * gate, of_output.float())
    assert own.grad is not None
    assert own.grad.dtype == dtype
    assert other.grad is not None
    rounding = 1e-5 if dtype == torch.float32 else 1 / 128
    torch.testing.assert_close(own.grad.float(), other.grad, atol=1e-5, rtol=rounding)


def test_gradients_of_gradients_are_refused_and_not_wrong() -> None:
    x = torch.randn(3, 8, requires_grad=True)
    loss = cpu_training.geglu(x).square().sum()
    (first,) = torch.autograd.grad(loss, x, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        torch.autograd.backward(first.sum())


def test_training_on_a_processor_takes_the_kernels_unless_told_otherwise(
    make_model: Any, token_ids: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    attended, multiplied = [], []
    attend, multiply = kernels.Attention.attend, onednn.linear

    def counted(kernel: kernels.Attention, *arguments: Tensor) -> Tensor:
        attended.append(arguments[0].dtype)
        return attend(kernel, *arguments)

    def counted_product(x: Tensor, *rest: Tensor | None) -> Tensor:
        multiplied.append(x.dtype)
        return multiply(x, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(kernels.Attention, "attend", counted)
    monkeypatch.setattr(onednn, "linear", counted_product)
    model, batch = make_model().train(), pack(token_ids([9, 70]))

    def layers(model: Any, attention: str = "auto") -> list[torch.dtype]:
        attended.clear()
        multiplied.clear()
        packed = PackedModernBert(model, attention=attention)  # type: ignore[arg-type]
        torch.autograd.backward(packed(batch).float().sum())
        return list(attended)

    assert layers(model) == layers(model, "cpu") == [torch.float32] * 4
    # Four linear layers in each, and the gradients of what goes into them.
    assert multiplied == [torch.float32] * 32
    with torch.autocast("cpu", torch.bfloat16):
        assert layers(model) == [torch.bfloat16] * 4
    assert layers(model, "sdpa") == multiplied == []
    assert layers(make_model(attention_dropout=0.1).train()) == []
    assert layers(make_model(hidden_activation="relu").train()) == []


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("has_bias", [False, True])
@pytest.mark.parametrize("frozen", ["", "x", "weight", "bias"])
def test_the_gradient_of_a_linear_layer_is_that_of_torch(
    dtype: torch.dtype, has_bias: bool, frozen: str
) -> None:
    torch.manual_seed(0)
    layer = torch.nn.Linear(48, 20, bias=has_bias)
    for name, parameter in layer.named_parameters():
        parameter.requires_grad_(name != frozen)
    x = torch.randn(37, 48)
    of_output = torch.randn(20, 37).T

    def gradients(x: Tensor, out_dtype: torch.dtype, *, is_own: bool) -> list[Tensor | None]:
        x = x.clone().requires_grad_(frozen != "x")
        layer.zero_grad()
        out = cpu_training.linear(layer, x, out_dtype) if is_own else layer(x)
        assert out.dtype == out_dtype
        torch.autograd.backward(out, of_output.to(out_dtype))
        return [out.detach().float(), x.grad, layer.weight.grad, layer.bias.grad if has_bias else x]

    own = gradients(x, dtype, is_own=True)
    for found, right in zip(own, gradients(x, torch.float32, is_own=False), strict=True):
        assert (found is None) == (right is None)
        if found is not None and right is not None:
            tolerance = TOLERANCES[dtype] * right.abs().max().item()
            torch.testing.assert_close(found, right, atol=tolerance, rtol=0)


def test_what_hooks_do_to_a_linear_layer_is_done() -> None:
    from torch.nn.utils import prune

    torch.manual_seed(0)
    layer: Any = torch.nn.Linear(6, 4)
    x = torch.randn(3, 6)
    prune.l1_unstructured(layer, "weight", amount=0.5)  # type: ignore[no-untyped-call]
    for step in range(2):
        with torch.no_grad():
            layer.weight_orig += step
        right = F.linear(x, layer.weight_orig * layer.weight_mask, layer.bias)
        assert torch.equal(cpu_training.linear(layer, x, torch.float32), right)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("key_lengths", [None, [20, 1, 90]], ids=["all keys", "some keys"])
def test_a_text_of_padding_changes_no_gradient(
    make_model: Any,
    token_ids: Any,
    dtype: torch.dtype,
    key_lengths: list[int] | None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = make_model().train()
    batch = pack(token_ids([40, 3, 90]), key_lengths)

    def gradients(spare: int) -> list[Tensor]:
        monkeypatch.setattr(onednn, "spare_rows", lambda *_, **__: spare)
        model.zero_grad()
        with torch.autocast("cpu", dtype, enabled=dtype == torch.bfloat16):
            states = PackedModernBert(model)(batch)
        assert len(states) == 133
        torch.autograd.backward(states.float().square().sum())
        return [each.grad for each in model.parameters()]

    for one, other in zip(gradients(0), gradients(27), strict=True):
        tolerance = TOLERANCES[dtype] * one.abs().max().item()
        torch.testing.assert_close(one, other, atol=tolerance, rtol=0)


def test_a_gradient_that_is_laid_out_otherwise_is_taken() -> None:
    case = Case([20, 30], 2, 16, torch.float32)
    whole = case.qkv.requires_grad_()
    parts = case.qkv.T.contiguous().requires_grad_()
    for qkv in (whole, parts.T):
        out: Tensor = cpu_training._Attention.apply(  # type: ignore[no-untyped-call]
            qkv, case.kernel
        )
        torch.autograd.backward(out.T, case.of_output.T.contiguous())
    assert whole.grad is not None
    assert parts.grad is not None
    assert torch.equal(whole.grad, parts.grad.T)
