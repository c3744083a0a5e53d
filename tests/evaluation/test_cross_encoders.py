from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from retrieval.errors import CheckpointError, ConfigError, InputError
from retrieval.evaluation import read_collection
from retrieval.evaluation.cross_encoders import CrossEncoder
from retrieval.evaluation.models import ModelSettings
from retrieval.evaluation.reranked_runs import rerank_by_cross_encoder
from retrieval.records import Hit
from tests.checkpoints import save_cross_encoder

WriteBeir = Callable[..., Path]


@pytest.fixture
def checkpoint(tmp_path: Path, tiny_backbone: Path) -> Path:
    return save_cross_encoder(tmp_path / "cross", tiny_backbone)


def test_it_scores_as_sentence_transformers_does(checkpoint: Path) -> None:
    from sentence_transformers import CrossEncoder as Peer

    documents = ["def f(x):", "read a file", "the path of a file (or a folder)"]
    found = CrossEncoder(ModelSettings(name=str(checkpoint)), "cpu").score("a file", documents)
    expected = Peer(str(checkpoint), device="cpu").predict([("a file", each) for each in documents])
    np.testing.assert_array_equal(found, expected)
    assert len(set(found.tolist())) == 3
    assert CrossEncoder(ModelSettings(name=str(checkpoint)), "cpu").score("x", []).shape == (0,)


def test_its_facts_name_it_and_know_its_weights(
    checkpoint: Path, tmp_path: Path, tiny_backbone: Path
) -> None:
    facts = CrossEncoder(ModelSettings(name=str(checkpoint)), "cpu").facts
    other = save_cross_encoder(tmp_path / "other", tiny_backbone, seed=1)
    assert (facts.weights, facts.device, facts.is_multi_vector) == ("float32", "cpu", None)
    assert CrossEncoder(ModelSettings(name=str(other)), "cpu").facts.fingerprint != (
        facts.fingerprint
    )


def test_what_is_no_ranking_cross_encoder_is_refused(
    tmp_path: Path, tiny_backbone: Path, checkpoint: Path
) -> None:
    classifier = save_cross_encoder(tmp_path / "classes", tiny_backbone, labels=3)
    with pytest.raises(CheckpointError, match="expected one"):
        CrossEncoder(ModelSettings(name=str(classifier)), "cpu").score("query", ["document"])
    with pytest.raises(CheckpointError, match="no cross-encoder to be had there"):
        CrossEncoder(ModelSettings(name=str(tmp_path / "nothing")), "cpu")
    with pytest.raises(ConfigError, match="a cross-encoder has no query_length"):
        CrossEncoder(ModelSettings(name=str(checkpoint), query_length=8), "cpu")


class LengthModel:
    """Prefers short documents, and counts what it is asked; fails from a number of queries on."""

    def __init__(self, patience: int = 100) -> None:
        self.asked: list[str] = []
        self._patience = patience

    def score(self, query: str, documents: Sequence[str]) -> Any:
        if len(self.asked) == self._patience:
            raise KeyboardInterrupt
        self.asked.append(query)
        return np.array([-len(each) for each in documents], np.float32)


CANDIDATES = {
    "q1": [Hit("d1", 3.0), Hit("q1", 2.0), Hit("d3", 1.0)],
    "q2": [Hit("d2", 1.0)],
    "q4": [],
}


def test_candidates_are_ranked_by_the_scores_of_title_and_text(
    write_beir: WriteBeir, tmp_path: Path
) -> None:
    collection = read_collection(write_beir())
    model: Any = LengthModel()
    run = rerank_by_cross_encoder(tmp_path, CANDIDATES, collection, model, 2)
    assert run == {
        "q1": [Hit("q1", -11.0), Hit("d1", -23.0)],
        "q2": [Hit("d2", -23.0)],
        "q4": [],
    }


def test_a_killed_run_goes_on_behind_the_last_query_that_is_whole(
    write_beir: WriteBeir, tmp_path: Path
) -> None:
    collection = read_collection(write_beir())
    killed: Any = LengthModel(patience=2)
    with pytest.raises(KeyboardInterrupt):
        rerank_by_cross_encoder(tmp_path, CANDIDATES, collection, killed, 2)
    scores = tmp_path / "scores.jsonl"
    first, second = scores.read_text().splitlines()
    scores.write_text(f"{first}\n{second[:8]}")
    model: Any = LengthModel()
    run = rerank_by_cross_encoder(tmp_path, CANDIDATES, collection, model, 2)
    assert model.asked == ["lazy dogs", "brown honey bears"]
    assert [json.loads(line)[0] for line in scores.read_text().splitlines()] == ["q1", "q2", "q4"]
    fresh: Any = LengthModel()
    (tmp_path / "fresh").mkdir()
    assert run == rerank_by_cross_encoder(tmp_path / "fresh", CANDIDATES, collection, fresh, 2)


def test_a_candidate_that_the_corpus_lacks_is_named(write_beir: WriteBeir, tmp_path: Path) -> None:
    collection = read_collection(write_beir())
    model: Any = LengthModel()
    with pytest.raises(InputError, match="candidates are not in the corpus: 'gone'"):
        rerank_by_cross_encoder(tmp_path, {"q1": [Hit("gone", 1.0)]}, collection, model, 2)
