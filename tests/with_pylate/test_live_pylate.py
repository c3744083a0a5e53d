"""A live `pylate.models.ColBERT` under sentence-transformers 5.3: encoded, indexed and searched."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from numpy.typing import NDArray

from retrieval.encoders.loading import load_encoder
from retrieval.encoders.multi_vector import MultiVectorEncoder
from retrieval.errors import MissingNativeError, ModelMismatchError
from retrieval.indexing.exact import ExactIndex
from retrieval.indexing.index import Batch
from retrieval.indexing.plaid import PlaidIndex
from tests.with_pylate.texts import TRAINING_SENTENCES

pylate: Any = pytest.importorskip("pylate.models", reason="needs PyLate: make test-pylate")

FIXTURES = Path(__file__).parents[1] / "fixtures"
VARIANTS = sorted(folder.name for folder in FIXTURES.iterdir() if folder.is_dir())
TOLERANCE = 1e-5  # float32 vectors of unit length in batches of other shapes

Vectors = NDArray[np.float32]


class Live(NamedTuple):
    """A PyLate model, our encoder around it, and texts with PyLate's own vectors."""

    model: Any
    encoder: MultiVectorEncoder
    fingerprint: str
    queries: list[str]
    documents: list[str]
    query_vectors: list[Vectors]
    document_vectors: list[Vectors]


def encode_each(model: Any, texts: list[str], role: str) -> list[Vectors]:
    """Encode one text at a time, so that nothing is padded."""
    prompt_name = role if model.prompts.get(role) else None
    options = {"is_query": role == "query", "prompt_name": prompt_name, "show_progress_bar": False}
    return [model.encode(text, **options) for text in texts]


@pytest.fixture(scope="module", params=VARIANTS)
def live(request: pytest.FixtureRequest) -> Live:
    folder = FIXTURES / request.param
    facts = json.loads((folder / "reference.json").read_text("utf-8"))
    model = pylate.ColBERT(str(folder / "checkpoint"), device="cpu")
    return Live(
        model=model,
        encoder=MultiVectorEncoder(model, name=request.param, batch_size=5),
        fingerprint=facts["fingerprint"],
        queries=facts["queries"],
        documents=facts["documents"],
        query_vectors=encode_each(model, facts["queries"], "query"),
        document_vectors=encode_each(model, facts["documents"], "document"),
    )


def assert_same(actual: list[Vectors], expected: list[Vectors]) -> None:
    assert [each.shape for each in actual] == [each.shape for each in expected]
    assert max(np.abs(a - b).max() for a, b in zip(actual, expected)) <= TOLERANCE


def test_wrapped_model_gives_pylates_vectors(live: Live) -> None:
    assert_same(list(live.encoder.encode_queries(live.queries)), live.query_vectors)
    assert_same(list(live.encoder.encode_documents(live.documents)), live.document_vectors)


def test_wrapped_model_has_its_width_and_fingerprint(live: Live) -> None:
    assert live.encoder.width == 32
    assert live.encoder.reference.is_multi_vector
    assert live.encoder.reference.fingerprint == live.fingerprint


def test_loading_falls_back_on_pylate(live: Live) -> None:
    variant = live.encoder.reference.name
    loaded = load_encoder(FIXTURES / variant / "checkpoint", device="cpu")
    assert isinstance(loaded, MultiVectorEncoder)
    assert isinstance(loaded.model, pylate.ColBERT)
    assert loaded.reference.fingerprint == live.fingerprint


def test_saved_model_loads_in_pylate(live: Live, tmp_path: Path) -> None:
    MultiVectorEncoder(live.model).save(tmp_path)
    model = pylate.ColBERT(str(tmp_path), device="cpu")
    assert_same(encode_each(model, live.documents, "document"), live.document_vectors)


def test_exact_index_ranks_like_pylates_scores(live: Live, tmp_path: Path) -> None:
    from pylate.scores import colbert_scores

    ids = [f"d{at}" for at in range(len(live.documents))]
    vectors = list(live.encoder.encode_documents(live.documents))
    ExactIndex.build(tmp_path, [Batch(ids, vectors)], model=live.encoder.reference)
    index = ExactIndex.open(tmp_path, model=live.encoder.reference)
    rankings = index.search(list(live.encoder.encode_queries(live.queries)), k=len(ids))
    for query, hits in zip(live.query_vectors, rankings):
        # one pair at a time: padded batches are scored with 0 where a real match is negative
        scores = {
            each: float(colbert_scores(query[None], document[None]))
            for each, document in zip(ids, live.document_vectors)
        }
        assert len(hits) == len(ids)
        assert [hit.score for hit in hits] == sorted((hit.score for hit in hits), reverse=True)
        for hit in hits:
            assert hit.score == pytest.approx(scores[hit.document_id], abs=1e-3)


def test_plaid_index_finds_what_the_exact_one_finds(live: Live, tmp_path: Path) -> None:
    """The mean recall@10 is 0.96 and more in each variant."""
    draw = np.random.default_rng(0)
    words = " ".join(TRAINING_SENTENCES).split()
    texts = [" ".join(draw.choice(words, draw.integers(4, 30))) for _ in range(200)]
    ids = [f"d{at}" for at in range(len(texts))]
    encoder = MultiVectorEncoder(live.model)
    batches: list[Batch[Any]] = [Batch(ids, list(encoder.encode_documents(texts)))]
    queries = list(encoder.encode_queries(" ".join(text.split()[:5]) for text in texts[:20]))
    exact = ExactIndex.build(tmp_path / "exact", batches)
    PlaidIndex.build(tmp_path / "plaid", batches, model=encoder.reference)
    plaid = PlaidIndex.open(tmp_path / "plaid", model=encoder.reference)
    rankings = list(zip(exact.search(queries, 10), plaid.search(queries, 10)))
    found = [
        len({hit.document_id for hit in a} & {hit.document_id for hit in b}) for a, b in rankings
    ]
    assert np.mean(found) / 10 >= 0.9
    for expected, hits in rankings:
        scores = {hit.document_id: hit.score for hit in expected}
        for hit in hits:
            # 4-bit residuals move a score by some 0.5 %
            assert hit.score == pytest.approx(scores.get(hit.document_id, hit.score), rel=0.02)


def test_index_refuses_another_live_model(live: Live, tmp_path: Path) -> None:
    vectors = list(live.encoder.encode_documents(["one document"]))
    ExactIndex.build(tmp_path, [Batch(["d1"], vectors)], model=live.encoder.reference)
    other = pylate.ColBERT(
        str(FIXTURES / live.encoder.reference.name / "checkpoint"), query_length=19, device="cpu"
    )
    reference = MultiVectorEncoder(other, name="shorter queries").reference
    with pytest.raises(ModelMismatchError, match="shorter queries") as raised:
        ExactIndex.open(tmp_path, model=reference)
    assert live.encoder.reference.name in str(raised.value)


def test_new_models_are_left_to_pylate() -> None:
    with pytest.raises(MissingNativeError, match=r"sentence-transformers >= 6\.0, found 5\.3"):
        MultiVectorEncoder.from_backbone(FIXTURES / "pylate-default" / "checkpoint")
