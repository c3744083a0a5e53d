"""The ColBERT encoder: prefixes, expansion, skiplist and projection, as transformers has them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sentence_transformers
import torch
from transformers import AutoModel, AutoTokenizer

from retrieval import MultiVectorEncoder, load_encoder
from retrieval.encoders import multi_vector
from retrieval.errors import CheckpointError, MissingNativeError

TEXTS = ["read a file", "", "def f(x):\n    return x", "the path " * 40]
TOLERANCE = 1e-5  # float32, unit length; padding moves them by some 1e-7


def start(backbone: Path, **options: Any) -> MultiVectorEncoder:
    return MultiVectorEncoder.from_backbone(
        backbone, **{"width": 16, "query_length": 12, "document_length": 20, **options}
    )


def test_vectors_are_the_projected_states_of_transformers(tiny_backbone: Path) -> None:
    encoder = start(tiny_backbone, query_prefix="", document_prefix="", skiplist=())
    tokenizer = AutoTokenizer.from_pretrained(tiny_backbone)
    backbone = AutoModel.from_pretrained(tiny_backbone).eval()
    with torch.no_grad():
        states = backbone(**tokenizer(TEXTS[0], return_tensors="pt")).last_hidden_state[0]
        projected = encoder.model[1].linear(states)
    expected = torch.nn.functional.normalize(projected, dim=-1).numpy()
    np.testing.assert_allclose(next(encoder.encode_documents(TEXTS)), expected, atol=TOLERANCE)


def test_expanded_queries_all_have_the_query_length(tiny_backbone: Path) -> None:
    queries = list(start(tiny_backbone).encode_queries(TEXTS))
    assert [len(query) for query in queries] == [12] * len(TEXTS)


def test_unexpanded_queries_have_their_tokens_and_no_more(tiny_backbone: Path) -> None:
    encoder = start(tiny_backbone, query_expansion=False)
    tokens = [len(encoder.model.tokenizer("[Q] " + text)["input_ids"]) for text in TEXTS]
    lengths = [len(query) for query in encoder.encode_queries(TEXTS)]
    assert lengths == [min(each, 12) for each in tokens]


def test_expansion_that_does_not_attend_leaves_the_query_tokens_alone(tiny_backbone: Path) -> None:
    plain = next(start(tiny_backbone, query_expansion=False).encode_queries(TEXTS))
    expanded = next(start(tiny_backbone).encode_queries(TEXTS))
    attending = next(start(tiny_backbone, attend_to_expansion=True).encode_queries(TEXTS))
    np.testing.assert_allclose(expanded[: len(plain)], plain, atol=TOLERANCE)
    assert np.abs(attending[: len(plain)] - plain).max() > 1e-4
    assert np.linalg.norm(expanded[len(plain) :], axis=1) == pytest.approx(1, abs=1e-5)


def test_prefixes_are_one_token_each(tiny_backbone: Path) -> None:
    tokenizer = start(tiny_backbone).model.tokenizer
    assert tokenizer.tokenize("[Q] read")[0] == "[Q] "
    assert tokenizer.tokenize("[D] read")[0] == "[D] "


def test_skipped_tokens_are_left_out_of_documents_but_not_of_queries(tiny_backbone: Path) -> None:
    every = start(tiny_backbone, skiplist=(), query_expansion=False)
    fewer = start(tiny_backbone, skiplist=["("], query_expansion=False)
    text = "f((x"
    parentheses = every.model.tokenizer.tokenize(text).count("(")
    assert parentheses > 0
    document, shorter = (next(each.encode_documents([text])) for each in (every, fewer))
    assert len(document) - len(shorter) == parentheses
    assert len(next(every.encode_queries([text]))) == len(next(fewer.encode_queries([text])))


def test_batch_size_changes_no_vector(tiny_backbone: Path) -> None:
    encoder = start(tiny_backbone)
    single = MultiVectorEncoder(encoder.model, batch_size=1)
    for one, many in zip(single.encode_documents(TEXTS), encoder.encode_documents(TEXTS)):
        np.testing.assert_allclose(one, many, atol=TOLERANCE)


def test_saved_and_loaded_gives_the_same_vectors_and_fingerprint(
    tiny_backbone: Path, tmp_path: Path
) -> None:
    encoder = start(tiny_backbone, query_prefix="find: ", skiplist=["."])
    expected = list(encoder.encode_queries(TEXTS))
    encoder.save(tmp_path / "model")
    loaded = load_encoder(tmp_path / "model")
    assert isinstance(loaded, MultiVectorEncoder)
    for each, other in zip(loaded.encode_queries(TEXTS), expected, strict=True):
        np.testing.assert_array_equal(each, other)
    assert loaded.reference.fingerprint == encoder.reference.fingerprint
    assert loaded.reference.is_multi_vector
    assert isinstance(loaded.model, sentence_transformers.MultiVectorEncoder)


@pytest.mark.parametrize(
    "change", [{"document_length": 21}, {"query_expansion": False}, {"skiplist": ["+"]}]
)
def test_the_fingerprint_knows_the_settings(tiny_backbone: Path, change: dict[str, Any]) -> None:
    plain = start(tiny_backbone).reference.fingerprint
    assert start(tiny_backbone, **change).reference.fingerprint != plain


def test_a_dense_model_is_refused(minilm_path: Path) -> None:
    with pytest.raises(CheckpointError, match="a dense model"):
        MultiVectorEncoder.load(minilm_path)


def test_old_sentence_transformers_are_told_what_is_missing(
    tiny_backbone: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(multi_vector, "HAS_NATIVE", False)
    with pytest.raises(MissingNativeError, match=r"needs sentence-transformers >= 6\.0"):
        MultiVectorEncoder.from_backbone(tiny_backbone)
