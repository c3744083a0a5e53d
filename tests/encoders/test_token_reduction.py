"""Cut and pooled token vectors, and limits of tokens, as Sentence Transformers has them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sentence_transformers
import torch
from numpy.typing import NDArray
from sentence_transformers.multi_vector_encoder.modules import HierarchicalTokenPooling

from retrieval import MultiVectorEncoder, load_encoder
from retrieval.encoders.token_reduction import TokenReduction
from retrieval.errors import ConfigError

# Nothing comes twice: where distances are equal but for rounding, clusters may be any.
LONG = "def read(path): return the file of a folder (or what x is) with f, not as texts do it here"
TEXTS = ["read a file", "", "def f(x):\n    return x", LONG, "path"]
TOLERANCE = 1e-5  # float32, unit length; padding moves them by some 1e-7

Vectors = list[NDArray[np.float32]]


@pytest.fixture(scope="module")
def checkpoint(tiny_backbone: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "colbert"
    encoder = MultiVectorEncoder.from_backbone(
        tiny_backbone, width=16, query_length=12, document_length=30
    )
    encoder.save(folder)
    return folder


@pytest.fixture
def reference(checkpoint: Path) -> Any:
    return sentence_transformers.MultiVectorEncoder(str(checkpoint), device="cpu")


def load(checkpoint: Path, **options: Any) -> MultiVectorEncoder:
    return MultiVectorEncoder.load(checkpoint, device="cpu", **options)


def assert_same(actual: Any, expected: Any) -> None:
    for ours, theirs in zip(actual, expected, strict=True):
        assert ours.shape == theirs.shape
        np.testing.assert_allclose(ours, theirs, atol=TOLERANCE)


@pytest.mark.parametrize(("factor", "protected"), [(2, 1), (3, 0), (1.5, 4)])
def test_pooled_documents_are_those_of_sentence_transformers(
    checkpoint: Path, reference: Any, factor: float, protected: int
) -> None:
    encoder = load(checkpoint, pool_factor=factor, protected_tokens=protected)
    pooling = HierarchicalTokenPooling(factor, num_protected_tokens=protected)
    expected = reference.encode_document(TEXTS, token_pooling=pooling, convert_to_numpy=True)
    assert_same(encoder.encode_documents(TEXTS), expected)
    whole = list(load(checkpoint).encode_documents(TEXTS))
    assert len(expected[3]) == protected + (len(whole[3]) - protected) // factor
    assert_same([each[:protected] for each in expected], [each[:protected] for each in whole])


def test_queries_are_never_pooled(checkpoint: Path) -> None:
    pooled, plain = load(checkpoint, pool_factor=4), load(checkpoint)
    assert_same(pooled.encode_queries(TEXTS), plain.encode_queries(TEXTS))


def test_pooling_within_the_checkpoint_is_done_and_known_to_the_fingerprint(
    checkpoint: Path, reference: Any, tmp_path: Path
) -> None:
    reference.append(HierarchicalTokenPooling(2))
    reference.save_pretrained(str(tmp_path / "pooled"))
    encoder = load(tmp_path / "pooled")
    assert_same(
        encoder.encode_documents(TEXTS), reference.encode_document(TEXTS, convert_to_numpy=True)
    )
    assert_same(encoder.encode_documents(TEXTS[3:4]), list(encoder.encode_documents(TEXTS))[3:4])
    assert encoder.reference.fingerprint != load(checkpoint).reference.fingerprint


def test_cut_token_vectors_have_unit_length_and_the_old_direction(checkpoint: Path) -> None:
    whole, cut = load(checkpoint), load(checkpoint, width=6)
    for encode in ("encode_queries", "encode_documents"):
        for full, short in zip(getattr(whole, encode)(TEXTS), getattr(cut, encode)(TEXTS)):
            expected = torch.nn.functional.normalize(torch.from_numpy(full[:, :6]), dim=1)
            np.testing.assert_allclose(short, expected.numpy(), atol=TOLERANCE)
    assert cut.reference.width == 6


def test_vectors_are_cut_before_they_are_pooled() -> None:
    vectors = np.random.default_rng(0).normal(size=(9, 8)).astype(np.float32)
    both = TokenReduction(width=4, pool_factor=2)([vectors], "document")
    cut = TokenReduction(width=4)([vectors], "document")
    assert_same(both, TokenReduction(pool_factor=2)(cut, "document"))


@pytest.mark.parametrize("length", [8, 20])
def test_limits_given_at_load_are_those_of_sentence_transformers(
    checkpoint: Path, reference: Any, length: int
) -> None:
    encoder = load(checkpoint, query_length=length, document_length=length)
    reference[0].document_length = length
    reference[0].query_length = length
    reference[0].query_expansion = {**reference[0].query_expansion, "length": length}
    queries = list(encoder.encode_queries(TEXTS))
    assert_same(queries, reference.encode_query(TEXTS, convert_to_numpy=True))
    assert [len(each) for each in queries] == [length] * len(TEXTS)
    assert_same(
        encoder.encode_documents(TEXTS), reference.encode_document(TEXTS, convert_to_numpy=True)
    )


def test_documents_may_have_limits_of_their_own(checkpoint: Path) -> None:
    encoder = load(checkpoint)
    before = encoder.model[0].document_length
    limits = [30, 8, 8, 50, 4]
    vectors = list(encoder.encode_documents(TEXTS, limits=limits))
    for text, limit, each in zip(TEXTS, limits, vectors, strict=True):
        assert_same([each], load(checkpoint, document_length=limit).encode_documents([text]))
    assert len(vectors[3]) > 30, "more than the model's own limit"
    assert encoder.model[0].document_length == before


def test_limits_of_documents_hold_where_only_the_library_can_run_the_model(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder = load(checkpoint)
    limits = [30, 8, 8, 50, 4]
    expected = list(encoder.encode_documents(TEXTS, limits=limits))
    monkeypatch.setattr(encoder.inference, "can_do", lambda prompt, role: False)
    assert_same(encoder.encode_documents(TEXTS, limits=limits), expected)


def test_texts_that_are_cut_are_counted(checkpoint: Path) -> None:
    encoder = load(checkpoint, document_length=8)
    list(encoder.encode_documents(TEXTS))
    tokens = [len(encoder.model.tokenizer("[D] " + text)["input_ids"]) for text in TEXTS]
    assert encoder.inference.truncated_texts == sum(each > 8 for each in tokens) > 0


def test_limits_and_factors_out_of_range_are_refused(checkpoint: Path) -> None:
    encoder = load(checkpoint)
    with pytest.raises(ConfigError, match="document_length is 2, expected 3 to"):
        list(encoder.encode_documents(["a"], limits=[2]))
    with pytest.raises(ConfigError, match=r"pool_factor is 0\.5"):
        load(checkpoint, pool_factor=0.5)
    with pytest.raises(ConfigError, match="width is 17, expected 1 to 16"):
        load(checkpoint, width=17)
    with pytest.raises(ConfigError, match="is a multi-vector model: normalize is for dense"):
        load_encoder(checkpoint, normalize=True)


def test_the_reference_is_enough_to_load_the_same_encoder(checkpoint: Path) -> None:
    encoder = load(checkpoint, width=8, pool_factor=2, document_length=20, query_length=7)
    again = load_encoder(encoder.reference.name, device="cpu", **encoder.reference.options)
    assert again.reference == encoder.reference
    assert_same(again.encode_documents(TEXTS), encoder.encode_documents(TEXTS))
    fingerprints = {
        load(checkpoint, **options).reference.fingerprint
        for options in ({}, {"width": 8}, {"pool_factor": 2}, {"query_length": 7}, {"width": 16})
    }
    assert len(fingerprints) == 4, "the full width changes nothing"
