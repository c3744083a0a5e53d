"""MTEB gives our models the scores that our own evaluation gives them on the same data."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from sentence_transformers.base.modules import Dense

from retrieval import DenseEncoder, MultiVectorEncoder, build_index
from retrieval.encoders.embedding_store import StoreSettings
from retrieval.encoders.live_models import as_encoder
from retrieval.errors import ConfigError
from retrieval.evaluation import EvaluationSettings, evaluate, read_collection
from retrieval.evaluation.mteb_models import mteb_encoder
from retrieval.evaluation.mteb_pipeline import MtebPipeline
from retrieval.indexing import ExactIndex, ExactSettings, LexicalSettings
from tests.evaluation import mteb_tasks
from tests.evaluation.mteb_tasks import Animals, OtherAnimals, RankedAnimals, scores

ROUNDING = 6e-6  # MTEB's figures have five digits
NAMES = {
    "nDCG@10": "ndcg_at_10",
    "nDCG@3": "ndcg_at_3",
    "MAP@100": "map_at_100",
    "recall@5": "recall_at_5",
    "MRR@10": "mrr_at_10",
    "P@5": "precision_at_5",
}


@pytest.fixture
def own_scores(write_beir: Callable[..., Path], tmp_path: Path) -> Callable[..., dict[str, float]]:
    """What `evaluate` finds, under MTEB's names."""

    def measure(
        encoder: Any, kind: str, store: StoreSettings | None = None, **settings: Any
    ) -> dict[str, float]:
        folder = write_beir(mteb_tasks.DOCUMENTS, mteb_tasks.QUERIES, test=mteb_tasks.qrels_lines())
        collection = read_collection(folder, strict=True)
        index = build_index(
            tmp_path / "own", collection.documents(), kind=kind, encoder=encoder, store=store
        )
        chosen = EvaluationSettings(k=1000, metrics=tuple(NAMES), **settings)
        result = evaluate(collection, index, encoder, chosen)
        return {NAMES[name]: value for name, value in result.metrics.items()}

    return measure


CASES = [
    ("dense", "exact"),
    ("dense", "faiss"),
    ("colbert", "exact"),
    ("colbert", "plaid"),
    (None, "lexical"),
]


@pytest.mark.parametrize(("encoder", "kind"), CASES)
def test_a_pipeline_has_the_scores_of_our_own_evaluation(
    encoder: str | None, kind: str, request: pytest.FixtureRequest, own_scores: Any
) -> None:
    model = request.getfixturevalue(encoder) if encoder else None
    expected = own_scores(model, kind)
    found = scores(MtebPipeline(model, kind=kind), Animals())
    assert {name: found[name] for name in expected} == pytest.approx(expected, abs=ROUNDING)
    assert 0 < found["ndcg_at_10"] < 1  # a task that can tell systems apart


def test_a_model_that_leaves_its_length_to_cosine_has_them(
    dense: DenseEncoder, own_scores: Any
) -> None:
    raw: Any = copy.deepcopy(dense.model)
    del raw[-1]  # Normalize
    vectors = raw.encode([each["text"] for each in mteb_tasks.DOCUMENTS])
    centred = Dense(384, 384, activation_function=torch.nn.Identity())  # lengths that differ more
    centred.linear.weight.data = torch.eye(384)
    centred.linear.bias.data = -torch.from_numpy(vectors.mean(axis=0))
    raw.append(centred)
    expected = own_scores(as_encoder(raw), "exact", StoreSettings(dtype="float32"))
    found = scores(raw, Animals())  # Sentence Transformers' own model, by MTEB's own wrapper
    assert {name: found[name] for name in expected} == pytest.approx(expected, abs=ROUNDING)


@pytest.mark.parametrize("encoder", ["dense", "colbert"])
def test_an_encoder_in_mtebs_own_search_has_them_too(
    encoder: str, request: pytest.FixtureRequest, own_scores: Any
) -> None:
    model = request.getfixturevalue(encoder)
    expected = own_scores(model, "exact", StoreSettings(dtype="float32"))
    found = scores(mteb_encoder(model), Animals())
    assert {name: found[name] for name in expected} == pytest.approx(expected, abs=ROUNDING)


def test_a_query_never_finds_itself_where_the_task_says_so(
    colbert: MultiVectorEncoder, own_scores: Any
) -> None:
    expected = own_scores(colbert, "exact", ignore_identical_ids=True)
    found = scores(MtebPipeline(colbert, kind="exact"), OtherAnimals())
    assert {name: found[name] for name in expected} == pytest.approx(expected, abs=ROUNDING)
    with_itself = scores(MtebPipeline(colbert, kind="exact"), Animals())
    assert found["ndcg_at_10"] > with_itself["ndcg_at_10"]


@pytest.mark.parametrize("kind", ["exact", "plaid"])
def test_a_reranking_task_ranks_its_candidates_alone(
    colbert: MultiVectorEncoder, kind: str
) -> None:
    pipeline = MtebPipeline(colbert, kind=kind)
    task = RankedAnimals()
    task.load_data()
    data: Any = task.dataset["default"]["test"]
    options: dict[str, Any] = {
        "task_metadata": task.metadata,
        "hf_split": "test",
        "hf_subset": "default",
    }
    pipeline.index(data["corpus"], **options)
    found = pipeline.search(data["queries"], top_k=9, top_ranked=data["top_ranked"], **options)
    assert {query: set(hits) for query, hits in found.items()} == {
        query: set(candidates) for query, candidates in data["top_ranked"].items()
    }
    if kind == "exact":
        expected = scores(mteb_encoder(colbert), task)
        assert scores(pipeline, task)["ndcg_at_10"] == expected["ndcg_at_10"]


def test_a_kept_index_is_opened_again_and_nothing_is_encoded_twice(
    colbert: MultiVectorEncoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = scores(MtebPipeline(colbert, kind="plaid", folder=tmp_path), Animals())
    (folder,) = tmp_path.iterdir()
    assert folder.name.startswith("Animals-default-test-plaid-")
    assert not (folder / "embeddings").exists()

    def refuse(*_: Any) -> Any:
        raise AssertionError("a document was encoded again")

    monkeypatch.setattr(MultiVectorEncoder, "begin_documents", refuse)
    assert scores(MtebPipeline(colbert, kind="plaid", folder=tmp_path), Animals()) == first
    assert list(tmp_path.iterdir()) == [folder]


def test_another_corpus_model_or_setting_has_an_index_of_its_own(
    dense: DenseEncoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(encoder: DenseEncoder, **options: Any) -> int:
        scores(MtebPipeline(encoder, kind="exact", folder=tmp_path, **options), Animals())
        return len(list(tmp_path.iterdir()))

    assert run(dense) == 1
    assert run(dense) == 1
    assert run(dense, settings=ExactSettings(dtype="float16")) == 2
    assert run(dense.with_prompts(document="text: ")) == 3
    assert run(dense, prompts={"Animals-document": "text: "}) == 3
    monkeypatch.setitem(mteb_tasks.DOCUMENTS[0], "text", "another text")
    assert run(dense) == 4


def test_a_killed_encoding_goes_on_where_it_was(
    dense: DenseEncoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def kill(*_: Any, **__: Any) -> Any:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(ExactIndex, "build", kill)
        with pytest.raises(KeyboardInterrupt):
            scores(MtebPipeline(dense, kind="exact", folder=tmp_path), Animals())
    before = dense.inference.encoded_tokens
    found = scores(MtebPipeline(dense, kind="exact", folder=tmp_path), Animals())
    queries = dense.inference.encoded_tokens - before
    assert found == scores(MtebPipeline(dense, kind="exact"), Animals())
    assert dense.inference.encoded_tokens - before > 2 * queries  # that one encoded documents


def test_settings_and_prompts_are_part_of_what_mteb_files_results_under(
    dense: DenseEncoder,
) -> None:
    meta = MtebPipeline(dense, kind="exact").mteb_model_meta
    assert meta.experiment_kwargs == {"index": "exact"}
    assert meta.revision == dense.reference.fingerprint[:40]
    settings = LexicalSettings(k1=0.9)
    bm25 = MtebPipeline(kind="lexical", settings=settings).mteb_model_meta
    assert (bm25.name, bm25.model_type) == ("modernbert-retrieval/BM25", ["sparse"])
    assert bm25.experiment_kwargs == {"index": "lexical", "k1": 0.9}
    prompted = MtebPipeline(dense, kind="exact", prompts={"query": "q: "}).mteb_model_meta
    assert prompted.experiment_name != meta.experiment_name


def test_parts_that_do_not_fit_are_refused(dense: DenseEncoder) -> None:
    with pytest.raises(ConfigError, match="no encoder for an index of kind 'plaid'"):
        MtebPipeline(kind="plaid")
    with pytest.raises(ConfigError, match="an encoder for an index of kind 'lexical'"):
        MtebPipeline(dense, kind="lexical")
    with pytest.raises(ConfigError, match="unknown kind of index 'bm26'"):
        MtebPipeline(dense, kind="bm26")
    task = Animals()
    task.load_data()
    with pytest.raises(ConfigError, match="no corpus was indexed"):
        MtebPipeline(dense, kind="exact").search(
            task.dataset["default"]["test"]["queries"],
            task_metadata=task.metadata,
            hf_split="test",
            hf_subset="default",
            top_k=3,
        )
