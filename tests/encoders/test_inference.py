"""Batches by a token budget: memory that runs out halves it, and no vector changes."""

from __future__ import annotations

import logging
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from retrieval import DenseEncoder, MultiVectorEncoder
from retrieval.backbone.modernbert import PackedModernBert
from retrieval.backbone.packing import PackedBatch, pack
from retrieval.encoders import inference

TOLERANCE = 1e-5
WORDS = ["read", "a file", "the path", "def f(x):", "return x", "folder"]

Encoder = DenseEncoder | MultiVectorEncoder


@pytest.fixture
def texts() -> list[str]:
    generator = np.random.default_rng(0)
    return [" ".join(generator.choice(WORDS, int(n))) for n in generator.integers(0, 30, 60)]


@pytest.fixture(params=["dense", "multi_vector"])
def encoder(request: pytest.FixtureRequest, tiny_backbone: Path) -> Encoder:
    if request.param == "dense":
        return DenseEncoder.from_backbone(tiny_backbone)
    return MultiVectorEncoder.from_backbone(tiny_backbone, width=16)


class SmallDevice:
    """A pretended accelerator that holds so many tokens, and the batches that it was given."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, memory_tokens: int) -> None:
        self.memory_tokens = memory_tokens
        self.done: list[int] = []
        self.refused: list[int] = []
        original = PackedModernBert.__call__

        def run(packed: PackedModernBert, batch: PackedBatch, *wanted: Any) -> Tensor:
            tokens = len(batch.ids)
            if tokens > self.memory_tokens:
                self.refused.append(tokens)
                raise torch.OutOfMemoryError("pretended")
            self.done.append(tokens)
            return original(packed, batch, *wanted)

        def pack_here(ids: Any, key_lengths: Any = None, *, device: Any) -> PackedBatch:
            assert device.type == "pretended"
            return pack(ids, key_lengths)

        monkeypatch.setattr(PackedModernBert, "__call__", run)
        monkeypatch.setattr(inference, "pack", pack_here)

    def put(self, encoder: Encoder, monkeypatch: pytest.MonkeyPatch) -> None:
        device = property(lambda _: SimpleNamespace(type="pretended"))
        monkeypatch.setattr(type(encoder.model), "device", device)


def assert_same(found: list[NDArray[np.float32]], expected: list[NDArray[np.float32]]) -> None:
    assert len(found) == len(expected)
    for ours, theirs in zip(found, expected, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize("role", ["query", "document"])
def test_out_of_memory_halves_the_budget_and_changes_no_vector(
    encoder: Encoder,
    texts: list[str],
    role: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def encode() -> list[NDArray[np.float32]]:
        return list(
            encoder.encode_queries(texts) if role == "query" else encoder.encode_documents(texts)
        )

    expected = encode()
    real_tokens = encoder.inference.encoded_tokens
    device = SmallDevice(monkeypatch, 200)
    device.put(encoder, monkeypatch)
    monkeypatch.setattr(inference, "ACCELERATOR_TOKENS", 1_000)
    encoder.inference = inference.BatchedInference(encoder.model)
    with caplog.at_level(logging.WARNING, logger="retrieval.encoders.inference"):
        found = encode()
    assert_same(found, expected)
    # 1,000 tokens, 500 and 250 are too many, 125 are not.
    assert len(device.refused) == 3
    told = [each.getMessage() for each in caplog.records if each.name == inference.__name__]
    assert told == [f"out of memory: batches of {tokens} tokens now" for tokens in (500, 250, 125)]
    assert sum(device.done) == real_tokens == encoder.inference.encoded_tokens
    # What was learnt is kept: the next window begins with the smaller budget.
    assert_same(encode(), expected)
    assert len(device.refused) == 3


def test_memory_for_less_than_the_longest_text_ends_with_the_devices_own_error(
    tiny_backbone: Path, texts: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder = DenseEncoder.from_backbone(tiny_backbone)
    device = SmallDevice(monkeypatch, 20)
    device.put(encoder, monkeypatch)
    with pytest.raises(torch.OutOfMemoryError, match="pretended"):
        list(encoder.encode_documents(texts))


def test_memory_that_runs_out_late_repeats_no_text(
    tiny_backbone: Path, texts: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder = DenseEncoder.from_backbone(tiny_backbone, query_prefix="")
    expected = list(encoder.encode_documents(texts))
    device = SmallDevice(monkeypatch, 1_000_000)
    device.put(encoder, monkeypatch)
    encoder.inference = inference.BatchedInference(encoder.model, max_tokens=150)
    run = PackedModernBert.__call__

    def shrink(packed: PackedModernBert, batch: PackedBatch, *wanted: Any) -> Tensor:
        if len(device.done) == 3:
            device.memory_tokens = 100
        return run(packed, batch, *wanted)

    monkeypatch.setattr(PackedModernBert, "__call__", shrink)
    assert_same(list(encoder.encode_documents(texts)), expected)
    assert len(device.refused) == 1
    assert sum(device.done) == encoder.inference.encoded_tokens


def test_a_named_attention_reaches_the_backbone(tiny_backbone: Path) -> None:
    from retrieval.errors import ConfigError

    encoder = DenseEncoder.from_backbone(tiny_backbone)
    encoder.inference = inference.BatchedInference(encoder.model, attention="flash")
    with pytest.raises(ConfigError, match="attention='flash' runs on a CUDA device, not on cpu"):
        list(encoder.encode_documents(["a"]))


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_the_number_of_threads_changes_no_vector_and_is_left_as_it_was(
    encoder: Encoder, texts: list[str], threads: int
) -> None:
    expected = list(encoder.encode_documents(texts))
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        assert_same(list(encoder.encode_documents(texts * 5)), expected * 5)
        assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)


def test_another_architecture_runs_on_batches_of_nearly_one_length(
    minilm_path: Path, texts: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder = DenseEncoder.load(minilm_path, device="cpu", max_tokens=400)
    mixed = [*texts * 2, "", "word " * 300]
    expected = encoder.model.encode_document(mixed, batch_size=7)
    shapes: list[tuple[int, int]] = []
    original = type(encoder.model[0]).forward

    def watch(transformer: Any, features: dict[str, Any], **options: Any) -> Any:
        ids = features["input_ids"]
        shapes.append((ids.numel(), int(features["attention_mask"].sum())))
        return original(transformer, features, **options)

    monkeypatch.setattr(type(encoder.model[0]), "forward", watch)
    assert_same(list(encoder.encode_documents(mixed)), list(expected))
    padded, real = (sum(each) for each in zip(*shapes))
    assert real == encoder.inference.encoded_tokens
    assert padded < 1.3 * real
    assert encoder.inference.truncated_texts == 1
