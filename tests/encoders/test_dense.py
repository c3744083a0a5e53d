"""The dense encoder gives Sentence Transformers' vectors, as a stream, whatever the batches."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count, islice
from pathlib import Path

import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer
from transformers import AutoModel, AutoTokenizer

from retrieval import DenseEncoder
from retrieval.errors import CheckpointError, ConfigError

TEXTS = ["read a file", "", "def f(x):\n    return x", "the path " * 40, "東京"]
TOLERANCE = 1e-5  # float32, unit length; padding moves them by some 1e-7


@pytest.fixture(scope="module")
def encoder(tiny_backbone: Path) -> DenseEncoder:
    return DenseEncoder.from_backbone(
        tiny_backbone, width=16, query_prefix="query: ", query_length=12, document_length=20
    )


def test_vectors_are_those_of_sentence_transformers(encoder: DenseEncoder) -> None:
    vectors = np.stack(list(encoder.encode_documents(TEXTS)))
    expected = encoder.model.encode_document(TEXTS)
    assert vectors.dtype == np.float32
    np.testing.assert_allclose(vectors, expected, atol=TOLERANCE)


@pytest.mark.parametrize("pooling", ["mean", "cls"])
def test_pooling_is_what_transformers_computes_by_hand(tiny_backbone: Path, pooling: str) -> None:
    encoder = DenseEncoder.from_backbone(tiny_backbone, pooling=pooling)  # type: ignore[arg-type]
    tokenizer = AutoTokenizer.from_pretrained(tiny_backbone)
    backbone = AutoModel.from_pretrained(tiny_backbone).eval()
    with torch.no_grad():
        states = backbone(**tokenizer(TEXTS[2], return_tensors="pt")).last_hidden_state[0]
    pooled = states.mean(0) if pooling == "mean" else states[0]
    expected = (pooled / pooled.norm()).numpy()
    np.testing.assert_allclose(next(encoder.encode_documents([TEXTS[2]])), expected, atol=1e-5)


def test_the_query_prefix_counts_for_queries_only(encoder: DenseEncoder) -> None:
    query = next(encoder.encode_queries(["read"]))
    document = next(encoder.encode_documents(["query: read"]))
    np.testing.assert_allclose(query, document, atol=TOLERANCE)
    assert np.abs(query - next(encoder.encode_documents(["read"]))).max() > 1e-3


def test_batch_size_and_order_change_no_vector(encoder: DenseEncoder) -> None:
    expected = np.stack(list(encoder.encode_documents(TEXTS)))
    single = DenseEncoder(encoder.model, batch_size=1)
    np.testing.assert_allclose(
        np.stack(list(single.encode_documents(TEXTS[::-1])))[::-1], expected, atol=TOLERANCE
    )


def test_an_endless_stream_is_read_window_by_window(encoder: DenseEncoder) -> None:
    def texts() -> Iterator[str]:
        for number in count():
            assert number < 5_000, "read far ahead of what was asked for"
            yield "read"

    assert len(list(islice(encoder.encode_documents(texts()), 10))) == 10


def test_a_longer_text_is_cut_at_its_limit(encoder: DenseEncoder) -> None:
    long, longer = "path " * 30, "path " * 300
    for encode in (encoder.encode_queries, encoder.encode_documents):
        first, second = encode([long, longer])
        np.testing.assert_allclose(first, second, atol=TOLERANCE)


def test_saved_and_loaded_gives_the_same_vectors_and_fingerprint(
    encoder: DenseEncoder, tmp_path: Path
) -> None:
    expected = next(encoder.encode_queries(TEXTS))
    encoder.save(tmp_path / "model")
    loaded = DenseEncoder.load(tmp_path / "model")
    np.testing.assert_array_equal(next(loaded.encode_queries(TEXTS)), expected)
    assert loaded.reference.fingerprint == encoder.reference.fingerprint
    assert loaded.reference.width == 16
    assert isinstance(SentenceTransformer(str(tmp_path / "model")), SentenceTransformer)


def test_saving_renews_what_the_encoder_says_of_itself(tiny_backbone: Path, tmp_path: Path) -> None:
    encoder = DenseEncoder.from_backbone(tiny_backbone)
    before = encoder.reference
    with torch.no_grad():
        next(encoder.model.parameters()).add_(0.1)
    encoder.save(tmp_path / "model")
    assert encoder.reference.name == str(tmp_path / "model")
    assert encoder.reference == DenseEncoder.load(tmp_path / "model").reference
    assert encoder.reference.fingerprint != before.fingerprint


def test_a_local_model_is_remembered_by_its_absolute_path(
    tiny_backbone: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    DenseEncoder.from_backbone(tiny_backbone).save(tmp_path / "model")
    monkeypatch.chdir(tmp_path)
    assert DenseEncoder.load("model").reference.name == str(tmp_path / "model")


def test_the_fingerprint_knows_weights_and_settings_but_not_the_number_format(
    tiny_backbone: Path, minilm_path: Path
) -> None:
    def fingerprint(**options: str) -> str:
        encoder = DenseEncoder.from_backbone(tiny_backbone, **options)  # type: ignore[arg-type]
        return encoder.reference.fingerprint

    plain = fingerprint()
    assert plain == fingerprint()
    assert plain != fingerprint(pooling="cls")
    assert plain != fingerprint(query_prefix="q: ")
    changed = DenseEncoder.from_backbone(tiny_backbone)
    with torch.no_grad():
        next(changed.model.parameters())[0, 0] += 1
    assert plain != changed.reference.fingerprint
    halves = DenseEncoder.load(minilm_path, dtype="bfloat16").reference.fingerprint
    assert halves == DenseEncoder.load(minilm_path).reference.fingerprint


def test_a_plain_backbone_is_refused_with_the_way_out(tiny_backbone: Path) -> None:
    with pytest.raises(CheckpointError, match=r"DenseEncoder\.from_backbone"):
        DenseEncoder.load(tiny_backbone)


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no-such-model"):
        DenseEncoder.load(tmp_path / "no-such-model")


def test_unknown_pooling_is_refused(tiny_backbone: Path) -> None:
    with pytest.raises(ConfigError, match="'max'"):
        DenseEncoder.from_backbone(tiny_backbone, pooling="max")  # type: ignore[arg-type]
