"""One door chooses how attention is computed, says so once, and refuses what can't work."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch

from retrieval.backbone import attention_choice
from retrieval.backbone.attention_choice import AttentionName, attention_for, resolve
from retrieval.backbone.packing import pack
from retrieval.errors import ConfigError, MissingExtraError

FLOAT, HALF = torch.float32, torch.bfloat16


def flash_2(
    q: Any,
    k: Any,
    v: Any,
    cu_seqlens_q: Any,
    cu_seqlens_k: Any,
    max_seqlen_q: Any,
    max_seqlen_k: Any,
    dropout_p: float = 0.0,
    softmax_scale: float | None = None,
    causal: bool = False,
    window_size: tuple[int, int] = (-1, -1),
) -> None:
    """The head of flash-attn 2's signature."""


def flash_3(
    q: Any,
    k: Any,
    v: Any,
    cu_seqlens_q: Any,
    cu_seqlens_k: Any,
    max_seqlen_q: Any,
    max_seqlen_k: Any,
    seqused_q: Any = None,
    seqused_k: Any = None,
    softmax_scale: float | None = None,
    causal: bool = False,
    window_size: tuple[int, int] = (-1, -1),
) -> None:
    """The head of flash-attn 3's signature, which has no dropout."""


@pytest.fixture(autouse=True)
def forgetful() -> Iterator[None]:
    resolve.cache_clear()
    yield
    resolve.cache_clear()


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Pretend that this machine has a GPU with these kernels."""

    def pretend(*, varlen: bool, flash: Any, capability: tuple[int, int] = (9, 0)) -> None:
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: capability)
        monkeypatch.setattr(attention_choice, "_varlen_attn", lambda: print if varlen else None)
        monkeypatch.setattr(attention_choice, "_flash_attn", lambda: flash)

    return pretend


@pytest.mark.parametrize(
    ("varlen", "flash", "dtype", "has_dropout", "expected"),
    [
        (True, flash_2, HALF, False, "varlen"),
        (True, flash_2, torch.float16, False, "varlen"),
        (True, None, HALF, False, "varlen"),
        (False, flash_3, HALF, False, "flash"),
        (False, None, HALF, False, "sdpa"),
        (True, flash_2, FLOAT, False, "sdpa"),
        (True, flash_2, HALF, True, "flash"),
        (True, flash_3, HALF, True, "sdpa"),
        (True, None, HALF, True, "sdpa"),
    ],
)
def test_auto_takes_the_best_that_a_gpu_has(
    gpu: Callable[..., None],
    varlen: bool,
    flash: Any,
    dtype: torch.dtype,
    has_dropout: bool,
    expected: str,
) -> None:
    gpu(varlen=varlen, flash=flash)
    assert resolve("auto", "cuda", dtype, has_dropout) == expected


def test_auto_takes_sdpa_on_a_gpu_before_ampere(gpu: Callable[..., None]) -> None:
    gpu(varlen=True, flash=flash_2, capability=(7, 5))
    assert resolve("auto", "cuda", torch.float16, False) == "sdpa"


@pytest.mark.parametrize("dtype", [FLOAT, HALF])
@pytest.mark.parametrize("has_dropout", [False, True])
def test_auto_is_cpu_on_a_processor_and_sdpa_on_other_devices(
    dtype: torch.dtype, has_dropout: bool
) -> None:
    assert resolve("auto", "cpu", dtype, has_dropout) == "cpu"
    assert resolve("auto", "mps", dtype, has_dropout) == "sdpa"


@pytest.mark.parametrize(
    ("name", "device", "dtype", "has_dropout", "reason"),
    [
        ("cpu", "cuda", HALF, False, "runs on a processor, not on cuda"),
        ("varlen", "cpu", HALF, False, "runs on a CUDA device, not on cpu"),
        ("flash", "cpu", HALF, False, "runs on a CUDA device, not on cpu"),
        ("varlen", "cuda", FLOAT, False, "takes float16 or bfloat16, not torch.float32"),
        ("flash", "cuda", FLOAT, False, "takes float16 or bfloat16, not torch.float32"),
        ("varlen", "cuda", HALF, True, "has no dropout"),
        ("flash", "cuda", HALF, True, "has no dropout"),
    ],
)
def test_a_named_choice_that_does_not_run_here_is_refused_with_the_reason(
    gpu: Callable[..., None],
    name: AttentionName,
    device: str,
    dtype: torch.dtype,
    has_dropout: bool,
    reason: str,
) -> None:
    gpu(varlen=True, flash=flash_3)
    with pytest.raises(ConfigError, match=f"attention='{name}' {reason}.*take 'auto' or 'sdpa'"):
        resolve(name, device, dtype, has_dropout)


def test_a_torch_without_windows_and_an_old_gpu_are_refused(gpu: Callable[..., None]) -> None:
    gpu(varlen=False, flash=None)
    with pytest.raises(ConfigError, match=rf"2\.12 has\), not {torch.__version__[:3]}"):
        resolve("varlen", "cuda", HALF, False)
    gpu(varlen=True, flash=None, capability=(7, 5))
    with pytest.raises(ConfigError, match=r"capability 8\.0"):
        resolve("varlen", "cuda", HALF, False)


def test_a_missing_flash_attn_names_the_install_command(gpu: Callable[..., None]) -> None:
    gpu(varlen=True, flash=None)
    with pytest.raises(MissingExtraError, match=r'"modernbert-retrieval\[flash\]"'):
        resolve("flash", "cuda", HALF, False)


def test_an_unknown_name_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ConfigError, match=r"'eager', expected one of .*'varlen'"):
        resolve("eager", "cpu", FLOAT, False)


def test_sdpa_runs_anywhere() -> None:
    for device in ("cpu", "cuda", "mps"):
        assert resolve("sdpa", device, FLOAT, True) == "sdpa"


def test_the_choice_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="retrieval.backbone.attention_choice"):
        for _ in range(3):
            attention_for("auto", pack([[1, 2]]), FLOAT)
    assert [each.getMessage() for each in caplog.records] == [
        "attention on cpu in torch.float32: cpu"
    ]


@pytest.mark.parametrize("window", [None, 64])
def test_the_calls_fit_the_kernels_signatures(
    monkeypatch: pytest.MonkeyPatch, window: int | None
) -> None:
    varlen = pytest.importorskip("torch.nn.attention.varlen").varlen_attn
    assert attention_choice._varlen_attn() is varlen
    bound: list[dict[str, Any]] = []

    def binding(function: Any) -> Any:
        def bind(*arguments: Any, **options: Any) -> Any:
            signature = inspect.signature(function)
            bound.append(dict(signature.bind(*arguments, **options).arguments))
            return arguments[0]

        return bind

    batch = pack([[1] * 100, [1] * 30])
    q, k, v = torch.randn(3, 130, 2, 8)
    for name, kernel in (("varlen", varlen), ("flash", flash_2), ("flash", flash_3)):
        monkeypatch.setattr(attention_choice, "_reason_against", lambda *_: None)
        monkeypatch.setattr(attention_choice, f"_{name}_attn", lambda: binding(kernel))  # noqa: B023
        resolve.cache_clear()
        attention_for(name, batch, HALF)(q, k, v, window=window)  # type: ignore[arg-type]
    torch_call, *flash_calls = bound
    expected = {"max_q": 100, "max_k": 100}
    assert {key: torch_call[key] for key in expected} == expected
    assert torch_call["cu_seq_q"].tolist() == torch_call["cu_seq_k"].tolist() == [0, 100, 130]
    assert torch_call["cu_seq_q"].dtype == torch.int32
    for call in flash_calls:
        assert call["cu_seqlens_k"].tolist() == [0, 100, 130]
        assert (call["max_seqlen_q"], call["max_seqlen_k"]) == (100, 100)
    sizes = [call.get("window_size", (-1, -1)) for call in bound]
    assert sizes == [(-1, -1) if window is None else (64, 64)] * 3


def test_dropout_reaches_flash_attn_2(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[dict[str, Any]] = []

    def kernel(q: Any, *arguments: Any, **options: Any) -> Any:
        seen.append(options)
        return q

    monkeypatch.setattr(attention_choice, "_reason_against", lambda *_: None)
    monkeypatch.setattr(attention_choice, "_flash_attn", lambda: kernel)
    q, k, v = torch.randn(3, 2, 2, 8)
    attention = attention_for("flash", pack([[1, 2]]), HALF, dropout=0.1)
    attention(q, k, v, window=None, dropout=0.1)
    attention(q, k, v, window=None, dropout=0.0)
    assert seen == [{"dropout_p": 0.1}, {}]
