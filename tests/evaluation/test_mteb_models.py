"""Encoders under MTEB's EncoderProtocol: prompts by task, similarity, and what is filed."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from retrieval import DenseEncoder, MultiVectorEncoder
from retrieval.encoders.quantization import Quantization
from retrieval.errors import ConfigError, MissingExtraError
from retrieval.evaluation import mteb_models
from retrieval.evaluation.mteb_models import MtebDenseEncoder, MtebMultiVectorEncoder
from retrieval.evaluation.mteb_pipeline import MtebPipeline
from retrieval.scoring import maxsim
from tests.evaluation.mteb_tasks import Animals, metadata

TEXTS = ["a brown fox", "the file"]
TOLERANCE = 1e-5  # float32, unit length


@pytest.fixture(scope="module")
def dense(tiny_backbone: Path) -> DenseEncoder:
    return DenseEncoder.from_backbone(tiny_backbone, width=16, query_prefix="find: ")


@pytest.fixture(scope="module")
def colbert(tiny_backbone: Path) -> MultiVectorEncoder:
    return MultiVectorEncoder.from_backbone(tiny_backbone, width=16, query_expansion=False)


def encode(model: Any, prompt_type: str | None, task: Any = Animals.metadata) -> Any:
    from mteb.types import PromptType

    return model.encode(
        [{"text": TEXTS[:1]}, {"text": TEXTS[1:]}],
        task_metadata=task,
        hf_split="test",
        hf_subset="default",
        prompt_type=PromptType(prompt_type) if prompt_type else None,
        batch_size=7,
        show_progress_bar=False,
    )


def test_mteb_takes_them_for_what_they_are(
    dense: DenseEncoder, colbert: MultiVectorEncoder
) -> None:
    from mteb.models import EncoderProtocol, SearchProtocol

    for model in (MtebDenseEncoder(dense), MtebMultiVectorEncoder(colbert)):
        assert isinstance(model, EncoderProtocol)
        assert not isinstance(model, SearchProtocol)
    pipeline = MtebPipeline(colbert)
    assert isinstance(pipeline, SearchProtocol)
    assert not isinstance(pipeline, EncoderProtocol)


def test_queries_and_documents_have_the_encoders_vectors(dense: DenseEncoder) -> None:
    model = MtebDenseEncoder(dense)
    queries, documents = encode(model, "query"), encode(model, "document")
    np.testing.assert_allclose(queries, np.stack(list(dense.encode_queries(TEXTS))), atol=TOLERANCE)
    expected = np.stack(list(dense.encode_documents(TEXTS)))
    np.testing.assert_allclose(documents, expected, atol=TOLERANCE)
    assert np.abs(queries - documents).max() > 1e-3
    empty = model.encode([], task_metadata=Animals.metadata, hf_split="", hf_subset="")
    assert empty.shape == (0, 16)


def test_texts_that_are_neither_have_no_prompt_but_the_tasks_own(dense: DenseEncoder) -> None:
    sts = metadata("Animals", "STS")
    documents = np.stack(list(dense.encode_documents(TEXTS)))
    np.testing.assert_allclose(encode(MtebDenseEncoder(dense), None, sts), documents, atol=1e-5)
    prompted = MtebDenseEncoder(dense, prompts={"STS": "find: "})
    queries = np.stack(list(dense.encode_queries(TEXTS)))
    np.testing.assert_allclose(encode(prompted, None, sts), queries, atol=TOLERANCE)


@pytest.mark.parametrize(
    ("prompts", "expected"),
    [
        ({"Animals-query": "a: ", "Animals": "b: ", "Retrieval-query": "c: "}, "a: "),
        ({"Animals": "b: ", "Retrieval-query": "c: ", "query": "d: "}, "b: "),
        ({"Retrieval-query": "c: ", "Retrieval": "e: ", "query": "d: "}, "c: "),
        ({"query": "d: ", "document": "f: "}, "d: "),
        ({"document": "f: "}, "find: "),
    ],
)
def test_the_prompt_is_the_one_that_mtebs_order_of_precedence_names(
    dense: DenseEncoder, prompts: dict[str, str], expected: str
) -> None:
    bare = dense.with_prompts(query="")
    vectors = np.stack(list(bare.encode_queries([expected + text for text in TEXTS])))
    found = encode(MtebDenseEncoder(dense, prompts=prompts), "query")
    np.testing.assert_allclose(found, vectors, atol=TOLERANCE)


def test_a_colberts_prompt_follows_its_marker(colbert: MultiVectorEncoder) -> None:
    found = encode(MtebMultiVectorEncoder(colbert, prompts={"query": "file: "}), "query")
    for vectors, text in zip(found, TEXTS, strict=True):
        (expected,) = colbert.encode_queries([f"file: {text}"])
        np.testing.assert_allclose(vectors, expected, atol=TOLERANCE)


def test_a_multi_vector_model_is_told_which_texts_are_queries(colbert: MultiVectorEncoder) -> None:
    with pytest.raises(ConfigError, match="Animals has neither queries nor documents"):
        encode(MtebMultiVectorEncoder(colbert), None)


def test_similarity_is_that_of_the_model(dense: DenseEncoder, colbert: MultiVectorEncoder) -> None:
    model = MtebDenseEncoder(dense)
    queries, documents = encode(model, "query"), encode(model, "document")
    np.testing.assert_allclose(
        model.similarity(queries, documents), queries @ documents.T, atol=TOLERANCE
    )
    np.testing.assert_allclose(
        model.similarity_pairwise(queries, documents), (queries * documents).sum(1), atol=TOLERANCE
    )
    late = MtebMultiVectorEncoder(colbert)
    many, others = encode(late, "query"), encode(late, "document")
    expected = maxsim(many, others)
    np.testing.assert_allclose(late.similarity(many, others), expected, atol=1e-4)
    np.testing.assert_allclose(
        late.similarity_pairwise(many, others), expected.diagonal(), atol=1e-4
    )


def test_padding_that_mteb_would_add_never_beats_a_negative_match(
    colbert: MultiVectorEncoder,
) -> None:
    query = [np.array([[1.0, 0.0]], np.float32)]
    documents = [np.array([[-1.0, 0.0]], np.float32), np.array([[0.0, 1.0]] * 3, np.float32)]
    found = MtebMultiVectorEncoder(colbert).similarity(query, documents)
    np.testing.assert_allclose(found, [[-1.0, 0.0]])


def test_results_are_filed_under_name_and_fingerprint(dense: DenseEncoder, tmp_path: Path) -> None:
    dense.save(tmp_path / "my model")
    meta = MtebDenseEncoder(tmp_path / "my model").mteb_model_meta
    assert meta.name == "local/my model"
    assert meta.revision == dense.reference.fingerprint[:40]
    assert (meta.model_type, meta.embed_dim) == (["dense"], 16)
    assert meta.n_parameters == sum(each.numel() for each in dense.model.parameters())
    assert meta.similarity_fn_name.value == "cosine"
    prompted = MtebDenseEncoder(dense, prompts={"query": "q: "}).mteb_model_meta
    assert prompted.experiment_name


def test_a_starter_is_filed_under_our_name() -> None:
    meta = MtebMultiVectorEncoder("starter-colbert").mteb_model_meta
    assert meta.name == "modernbert-retrieval/starter-colbert"
    assert meta.model_type == ["late-interaction"]
    assert meta.similarity_fn_name.value == "MaxSim"


def test_codes_are_refused(dense: DenseEncoder) -> None:
    with pytest.raises(ConfigError, match="without quantization"):
        MtebDenseEncoder(dense.quantized(Quantization(precision="binary")))


def test_without_mteb_the_extra_is_named(
    dense: DenseEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    mteb_models.import_mteb.cache_clear()
    monkeypatch.setitem(sys.modules, "mteb", None)
    with pytest.raises(MissingExtraError, match=r"modernbert-retrieval\[mteb\]"):
        MtebDenseEncoder(dense)
    with pytest.raises(MissingExtraError, match=r"modernbert-retrieval\[mteb\]"):
        MtebPipeline(kind="lexical")
