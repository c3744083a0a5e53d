"""Sentence Transformers' evaluators and our own find the same figures, with the same models."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.evaluation import (
    InformationRetrievalEvaluator,
    NanoBEIREvaluator,
)

from retrieval import DenseEncoder, MultiVectorEncoder, as_encoder, build_index
from retrieval.encoders.embedding_store import StoreSettings
from retrieval.encoders.quantization import Quantization
from retrieval.errors import ConfigError
from retrieval.evaluation import EvaluationSettings, evaluate, read_collection
from retrieval.evaluation.st_evaluators import EvaluatorModel

multi_vector_evaluation = pytest.importorskip(
    "sentence_transformers.multi_vector_encoder.evaluation",
    reason="needs sentence-transformers >= 6.0",
)

WORDS = ("fox", "bear", "owl", "river", "barn", "file", "path", "read", "folder", "brown")
DOCUMENTS = [
    {"_id": f"d{number}", "title": "", "text": f"the {one} and the {other} of file {number}"}
    for number, (one, other) in enumerate((one, other) for one in WORDS for other in WORDS[:4])
]
QUERIES = [{"_id": f"q{number}", "text": f"a {word} by the"} for number, word in enumerate(WORDS)]
RELEVANT = {
    query["_id"]: {f"d{4 * number + 1}", f"d{4 * number + 2}", f"d{(5 * number + 7) % 40}"}
    for number, query in enumerate(QUERIES)
}
NAMES = {
    "nDCG@10": "ndcg@10",
    "MAP@100": "map@100",
    "MRR@10": "mrr@10",
    "recall@5": "recall@5",
    "P@3": "precision@3",
}


@pytest.fixture
def own_metrics(write_beir: Callable[..., Path], tmp_path: Path) -> Callable[..., dict[str, float]]:
    """What `evaluate` finds for an encoder, with every vector as it is."""

    def measure(encoder: Any, without_relevant: int = 0) -> dict[str, float]:
        lines = [f"{query}\t{each}\t1" for query, found in RELEVANT.items() for each in found]
        lines += [f"extra{number}\td1\t0" for number in range(without_relevant)]
        extra = [{"_id": f"extra{number}", "text": "read"} for number in range(without_relevant)]
        qrels = "query-id\tcorpus-id\tscore\n" + "\n".join(lines) + "\n"
        collection = read_collection(write_beir(DOCUMENTS, [*QUERIES, *extra], test=qrels))
        index = build_index(
            tmp_path / "index",
            collection.documents(),
            kind="exact",
            encoder=encoder,
            store=StoreSettings(dtype="float32"),
        )
        settings = EvaluationSettings(metrics=tuple(NAMES))
        return evaluate(collection, index, encoder, settings).metrics

    return measure


def theirs(model: Any, similarity: str, evaluator: Any = InformationRetrievalEvaluator) -> Any:
    """Their figures, under our names."""
    measure = evaluator(
        queries={each["_id"]: each["text"] for each in QUERIES},
        corpus={each["_id"]: each["text"] for each in DOCUMENTS},
        relevant_docs=RELEVANT,
        write_csv=False,
    )
    found = measure(model)
    assert measure.primary_metric == f"{similarity}_ndcg@10"
    return {name: found[f"{similarity}_{their}"] for name, their in NAMES.items()}


def test_their_evaluator_measures_a_dense_encoder_as_we_do(
    dense: DenseEncoder, own_metrics: Any
) -> None:
    expected = own_metrics(dense)
    assert 0 < expected["nDCG@10"] < 1
    assert theirs(EvaluatorModel(dense), "cosine") == pytest.approx(expected, abs=1e-6)
    assert theirs(dense.model, "cosine") == pytest.approx(expected, abs=1e-6)


def test_their_evaluator_measures_a_multi_vector_encoder_as_we_do(
    colbert: MultiVectorEncoder, own_metrics: Any
) -> None:
    expected = own_metrics(colbert)
    assert 0 < expected["nDCG@10"] < 1
    evaluator = multi_vector_evaluation.MultiVectorInformationRetrievalEvaluator
    found = theirs(EvaluatorModel(colbert), "maxsim", evaluator)
    assert found == pytest.approx(expected, abs=1e-6)
    assert theirs(colbert.model, "maxsim", evaluator) == pytest.approx(expected, abs=1e-6)


def test_what_the_wrapped_model_does_not_know_is_measured(
    colbert: MultiVectorEncoder, own_metrics: Any
) -> None:
    from retrieval.encoders.token_reduction import TokenReduction

    pooled = MultiVectorEncoder(colbert.model, reduction=TokenReduction(width=32, pool_factor=2))
    evaluator = multi_vector_evaluation.MultiVectorInformationRetrievalEvaluator
    expected = own_metrics(pooled)
    found = theirs(EvaluatorModel(pooled), "maxsim", evaluator)
    assert found == pytest.approx(expected, abs=1e-6)
    assert found != pytest.approx(theirs(colbert.model, "maxsim", evaluator), abs=1e-6)


def test_a_query_without_relevant_documents_is_left_out_by_them_and_0_with_us(
    dense: DenseEncoder, own_metrics: Any
) -> None:
    count = len(QUERIES)
    expected = theirs(EvaluatorModel(dense), "cosine")
    found = own_metrics(dense, without_relevant=5)
    scaled = {name: value * (count + 5) / count for name, value in found.items()}
    assert scaled == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("kind", ["dense", "colbert"])
def test_our_evaluation_measures_a_live_model_of_theirs(
    kind: str, request: pytest.FixtureRequest, own_metrics: Any
) -> None:
    encoder = request.getfixturevalue(kind)
    live: Any = as_encoder(encoder.model)
    assert type(live) is type(encoder)
    assert live.reference.fingerprint == encoder.reference.fingerprint
    similarity = "cosine" if kind == "dense" else "maxsim"
    evaluator = InformationRetrievalEvaluator
    if kind == "colbert":
        evaluator = multi_vector_evaluation.MultiVectorInformationRetrievalEvaluator
    expected = theirs(encoder.model, similarity, evaluator)
    assert own_metrics(live) == pytest.approx(expected, abs=1e-6)


def test_an_encoder_is_taken_as_it_is_and_nothing_else_is_one(dense: DenseEncoder) -> None:
    assert as_encoder(dense) is dense
    with pytest.raises(ConfigError, match="a Linear is no encoder"):
        as_encoder(torch.nn.Linear(2, 2))


def test_nanobeir_takes_our_encoders(
    dense: DenseEncoder, tmp_path: Path, own_metrics: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two sets of NanoBEIR's form on disk, so that nothing is downloaded."""
    datasets = pytest.importorskip("datasets")
    # Its cache would take an earlier test's folder of the same name for this one.
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    records = {
        "corpus": [{"_id": each["_id"], "text": each["text"]} for each in DOCUMENTS],
        "queries": QUERIES,
        "qrels": [
            {"query-id": query, "corpus-id": each}
            for query, found in RELEVANT.items()
            for each in sorted(found)
        ],
    }
    for subset, lines in records.items():
        (tmp_path / subset).mkdir()
        for split in ("NanoMSMARCO", "NanoNQ"):
            text = "".join(json.dumps(line) + "\n" for line in lines)
            (tmp_path / subset / f"{split}.jsonl").write_text(text, "utf-8")
    configs = "".join(
        f"- config_name: {subset}\n  data_files:\n"
        + "".join(
            f"  - split: {split}\n    path: {subset}/{split}.jsonl\n"
            for split in ("NanoMSMARCO", "NanoNQ")
        )
        for subset in records
    )
    (tmp_path / "README.md").write_text(f"---\nconfigs:\n{configs}---\n", "utf-8")
    evaluator = NanoBEIREvaluator(["msmarco", "nq"], dataset_id=str(tmp_path), write_csv=False)
    model: Any = EvaluatorModel(dense)
    found = evaluator(model)
    assert found["NanoBEIR_mean_cosine_ndcg@10"] == pytest.approx(
        own_metrics(dense)["nDCG@10"], abs=1e-6
    )


def test_their_prompts_count(dense: DenseEncoder) -> None:
    model = EvaluatorModel(dense)
    (expected,) = dense.with_prompts(query="the: ").encode_queries(["fox"])
    found = model.encode_query(["fox"], prompt="the: ", convert_to_tensor=True)
    assert isinstance(found, torch.Tensor)
    np.testing.assert_array_equal(found[0], expected)
    (query,) = dense.encode_queries(["fox"])
    np.testing.assert_array_equal(model.encode_document(["fox"], prompt_name="query")[0], query)
    with pytest.raises(ConfigError, match="no prompt 'passage': the model has 'query'"):
        model.encode_document(["fox"], prompt_name="passage")


def test_their_figures_go_into_the_models_card(dense: DenseEncoder) -> None:
    theirs(EvaluatorModel(dense), "cosine")
    assert isinstance(dense.model, SentenceTransformer)
    assert "cosine_ndcg@10" in str(dense.model.model_card_data.eval_results_dict)


def test_cuts_and_codes_are_refused_with_the_way_out(dense: DenseEncoder) -> None:
    with pytest.raises(ConfigError, match="load the encoder with width=32"):
        EvaluatorModel(dense).encode_query(["fox"], truncate_dim=32)
    with pytest.raises(ConfigError, match="without quantization"):
        EvaluatorModel(dense.quantized(Quantization(precision="binary")))
    assert EvaluatorModel(dense).encode_query([]).shape == (0, dense.width)
