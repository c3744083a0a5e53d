"""Small trained retrievers rank SciFact alike in float32 and in bfloat16."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from retrieval import load_encoder
from retrieval.backbone.scratch import BackboneSettings, create_backbone
from retrieval.corpus import read_corpus
from retrieval.scoring import maxsim
from retrieval.training.examples import DataSettings
from retrieval.training.fitting import OptimizerSettings
from retrieval.training.loss_settings import MultiVectorLossSettings
from retrieval.training.recipes import DenseRecipe, MultiVectorRecipe
from retrieval.training.runs import train_dense, train_multi_vector
from retrieval.training.starting_models import DenseModelSettings, MultiVectorModelSettings


@pytest.fixture(scope="module")
def scifact(shared_data: Path) -> tuple[list[str], list[str]]:
    """200 queries, and 600 documents with the judged ones among them."""
    folder = shared_data / "scifact"
    judged = {
        line.split("\t")[1]
        for path in (folder / "qrels").glob("*.tsv")
        for line in path.read_text("utf-8").splitlines()
    }
    documents = [document for _, document in zip(range(3_000), read_corpus(folder))]
    documents.sort(key=lambda document: document.id not in judged)  # stable: judged ones first
    half = min(300, sum(document.id in judged for document in documents))
    chosen = documents[:half] + documents[-(600 - half) :]
    lines = (folder / "queries.jsonl").read_text("utf-8").splitlines()[:200]
    return [json.loads(line)["text"] for line in lines], [each.contents for each in chosen]


@pytest.fixture(scope="module")
def trained(
    shared_data: Path,
    scifact: tuple[list[str], list[str]],
    tmp_path_factory: pytest.TempPathFactory,
) -> dict[str, Path]:
    """Two small retrievers that learnt from SciFact's training pairs for a moment."""
    folder = tmp_path_factory.mktemp("trained")
    settings = BackboneSettings(
        vocabulary_size=2_000, hidden_size=128, intermediate_size=192, layers=3, heads=2
    )
    create_backbone(folder / "backbone", scifact[1], settings)
    data = DataSettings(train=(str(shared_data / "pairs" / "scifact.jsonl.gz"),))
    optimizer = OptimizerSettings(
        max_steps=40, batch_size=16, mini_batch_size=None, lr=2e-3, precision="float32"
    )
    shape: dict[str, Any] = {
        "backbone": str(folder / "backbone"),
        "query_length": 48,
        "document_length": 128,
    }
    train_dense(
        DenseRecipe(model=DenseModelSettings(**shape), data=data, optimizer=optimizer),
        folder / "dense",
    )
    train_multi_vector(
        MultiVectorRecipe(
            model=MultiVectorModelSettings(**shape, width=32),
            data=data,
            optimizer=optimizer,
            loss=MultiVectorLossSettings(scale=8.0),
        ),
        folder / "multi_vector",
    )
    return {kind: folder / kind / "model" for kind in ("dense", "multi_vector")}


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["dense", "multi_vector"])
def test_bfloat16_finds_the_same_top_ten_on_scifact(
    trained: dict[str, Path], scifact: tuple[list[str], list[str]], kind: str
) -> None:
    queries, documents = scifact
    scores = {}
    for dtype in ("float32", "bfloat16"):
        encoder = load_encoder(trained[kind], device="cpu", dtype=dtype)
        scores[f"ours {dtype}"] = all_scores(
            list(encoder.encode_queries(queries)), list(encoder.encode_documents(documents))
        )
        model = encoder.model
        scores[f"theirs {dtype}"] = all_scores(
            [np.asarray(each) for each in model.encode_query(queries, convert_to_numpy=True)],
            [np.asarray(each) for each in model.encode_document(documents, convert_to_numpy=True)],
        )
    exact = scores["ours float32"]
    tops = {name: np.argsort(-each, axis=1, kind="stable")[:, :10] for name, each in scores.items()}
    assert (tops["theirs float32"] == tops["ours float32"]).mean() >= 0.999
    # A document in another's place counts as the same where float32 tells them apart by less than
    # one rounding to bfloat16's 8 bits: such a pair has no order in that format.
    here, there = (
        np.take_along_axis(exact, tops[f"ours {each}"], 1) for each in ("float32", "bfloat16")
    )
    is_same = np.abs(here - there) <= np.abs(here) / 256
    assert is_same.mean() >= 0.99
    # And to the document: these models' neighbours lie close together, so a few at rank 10 change.
    assert overlap(tops["ours bfloat16"], tops["ours float32"]) >= 0.98
    # Sentence Transformers in bfloat16 changes at least as many.
    ours, theirs = (
        (tops[f"{name} bfloat16"] == tops[f"{name} float32"]).mean() for name in ("ours", "theirs")
    )
    assert ours >= theirs - 0.01


def all_scores(queries: Any, documents: Any) -> NDArray[np.float32]:
    if queries[0].ndim == 2:
        return maxsim(queries, documents)
    return np.asarray(np.stack(queries) @ np.stack(documents).T)


def overlap(first: NDArray[np.int64], second: NDArray[np.int64]) -> float:
    return float(np.mean([len(set(a) & set(b)) / len(a) for a, b in zip(first, second)]))
