"""Prompts given to a loaded model: vectors as the text in front would give, and a new name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from retrieval import DenseEncoder, Document, MultiVectorEncoder, Retriever, build_index
from retrieval.encoders.loading import load_encoder
from retrieval.errors import ConfigError, ModelMismatchError

FIXTURES = Path(__file__).parents[1] / "fixtures"
TOLERANCE = 1e-5  # float32, unit length


@pytest.fixture(scope="module")
def dense(tiny_backbone: Path, tmp_path_factory: pytest.TempPathFactory) -> DenseEncoder:
    folder = tmp_path_factory.mktemp("dense")
    DenseEncoder.from_backbone(tiny_backbone, query_prefix="find: ", query_length=16).save(folder)
    return DenseEncoder.load(folder)


@pytest.fixture(scope="module")
def colbert(tiny_backbone: Path, tmp_path_factory: pytest.TempPathFactory) -> MultiVectorEncoder:
    folder = tmp_path_factory.mktemp("colbert")
    MultiVectorEncoder.from_backbone(tiny_backbone, width=8, query_length=16).save(folder)
    return MultiVectorEncoder.load(folder)


def query_of(encoder: Any, text: str) -> Any:
    return next(encoder.encode_queries([text]))


def document_of(encoder: Any, text: str) -> Any:
    return next(encoder.encode_documents([text]))


def test_a_dense_prompt_is_text_before_the_text(dense: DenseEncoder) -> None:
    bare = dense.with_prompts(query="", document="")
    prompted = dense.with_prompts(query="the path: ", document="read: ")
    for encode in (query_of, document_of):
        prompt = "the path: " if encode is query_of else "read: "
        expected = encode(bare, prompt + "a file")
        np.testing.assert_allclose(encode(prompted, "a file"), expected, atol=TOLERANCE)
        assert np.abs(encode(prompted, "a file") - encode(bare, "a file")).max() > 1e-3


def test_a_prompt_that_is_not_given_stays(dense: DenseEncoder) -> None:
    prompted = dense.with_prompts(document="read: ")
    np.testing.assert_array_equal(query_of(prompted, "a file"), query_of(dense, "a file"))
    assert prompted.model.prompts == {"query": "find: ", "document": "read: "}


def test_the_prompt_of_documents_replaces_one_with_another_name(dense: DenseEncoder) -> None:
    other = dense.with_prompts()
    other.model.prompts = {"query": "", "passage": "old: "}
    new = other.with_prompts(document="new: ")
    expected = document_of(dense.with_prompts(document=""), "new: a file")
    np.testing.assert_allclose(document_of(new, "a file"), expected, atol=TOLERANCE)


def test_a_colberts_marker_stays_in_front_of_its_prompt(colbert: MultiVectorEncoder) -> None:
    prompted = colbert.with_prompts(query="the path: ", document="read: ")
    assert prompted.model.prompts == {"query": "[Q] the path: ", "document": "[D] read: "}
    for encode, prompt in ((query_of, "the path: "), (document_of, "read: ")):
        expected = encode(colbert, prompt + "a file")
        np.testing.assert_allclose(encode(prompted, "a file"), expected, atol=TOLERANCE)
    spelled_out = colbert.with_prompts(query="[Q] the path: ", document="[D] read: ")
    assert spelled_out.model.prompts == prompted.model.prompts
    back = prompted.with_prompts(query="", document="")
    assert back.reference.fingerprint == colbert.reference.fingerprint


def test_a_pylate_checkpoint_keeps_the_token_that_it_inserts() -> None:
    encoder = MultiVectorEncoder.load(FIXTURES / "pylate-default" / "checkpoint")
    prompted = encoder.with_prompts(query="find:", document="read:")
    np.testing.assert_allclose(
        query_of(prompted, " a file"), query_of(encoder, "find: a file"), atol=TOLERANCE
    )
    np.testing.assert_allclose(
        document_of(prompted, " a file"), document_of(encoder, "read: a file"), atol=TOLERANCE
    )
    assert prompted.reference.fingerprint != encoder.reference.fingerprint


@pytest.mark.parametrize("kind", ["dense", "colbert"])
def test_the_copy_has_another_fingerprint_and_the_original_its_own(
    kind: str, request: pytest.FixtureRequest
) -> None:
    encoder = request.getfixturevalue(kind)
    before, prompts = encoder.reference, dict(encoder.model.prompts)
    vector = query_of(encoder, "a file")
    other = encoder.with_prompts(query="the path: ")
    assert other.reference.fingerprint != before.fingerprint
    assert other.reference.name == before.name
    assert (encoder.reference, encoder.model.prompts) == (before, prompts)
    np.testing.assert_array_equal(query_of(encoder, "a file"), vector)
    assert other.model[0] is encoder.model[0]  # one set of weights
    same = encoder.with_prompts(query=prompts["query"])
    assert same.reference.fingerprint == before.fingerprint


@pytest.mark.parametrize("kind", ["dense", "colbert"])
def test_an_index_loads_its_model_with_the_prompts_that_it_was_filled_with(
    kind: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    encoder = request.getfixturevalue(kind)
    prompted = encoder.with_prompts(query="the path: ", document="read: ")
    documents = [Document("a", "a file"), Document("b", "return x")]
    build_index(tmp_path / "index", documents, kind="exact", encoder=prompted)
    opened = Retriever.open(tmp_path / "index")
    assert opened.encoder is not None
    assert opened.encoder.reference == prompted.reference
    np.testing.assert_array_equal(query_of(opened.encoder, "f(x)"), query_of(prompted, "f(x)"))
    with pytest.raises(ModelMismatchError):
        Retriever.open(tmp_path / "index", encoder=encoder)


@pytest.mark.parametrize("kind", ["dense", "colbert"])
def test_prompts_given_at_load_are_those_given_later(
    kind: str, request: pytest.FixtureRequest
) -> None:
    encoder = request.getfixturevalue(kind)
    prompted = encoder.with_prompts(query="the path: ")
    loaded = load_encoder(encoder.reference.name, query_prompt="the path: ")
    assert loaded.reference == prompted.reference
    assert prompted.reload is not None
    assert prompted.reload(device="cpu").reference == prompted.reference


@pytest.mark.parametrize("kind", ["dense", "colbert"])
def test_a_saved_copy_keeps_its_prompts(
    kind: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    prompted = request.getfixturevalue(kind).with_prompts(query="the path: ")
    fingerprint = prompted.reference.fingerprint
    prompted.save(tmp_path / "model")
    assert load_encoder(tmp_path / "model").reference.fingerprint == fingerprint


@pytest.mark.parametrize("kind", ["dense", "colbert"])
def test_a_prompt_that_leaves_no_room_for_the_text_is_refused(
    kind: str, request: pytest.FixtureRequest
) -> None:
    encoder = request.getfixturevalue(kind)
    with pytest.raises(ConfigError, match=r"query prompt .* takes \d+ of the 16 tokens"):
        encoder.with_prompts(query="the path of a file " * 10)
    with pytest.raises(ConfigError, match="shorten it, or raise the limit"):
        load_encoder(encoder.reference.name, query_prompt="the path of a file " * 10)
