from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from retrieval.encoders.protocol import Encoder
from retrieval.errors import ConfigError, InputError
from retrieval.evaluation import EvaluationSettings, Result, evaluate, read_collection, read_run
from retrieval.evaluation.manifest import DataChoice, Plan
from retrieval.evaluation.models import Models, ModelSettings
from retrieval.evaluation.planned import Evaluations, PlannedEvaluation
from retrieval.evaluation.stages import StageCache
from retrieval.evaluation.systems import (
    FusionSystem,
    LexicalSystem,
    RerankSystem,
    System,
    VectorSystem,
)
from retrieval.indexing.fusion import fuse
from retrieval.indexing.retriever import build_index
from retrieval.records import ModelReference

pytest.importorskip("pytrec_eval", reason="needs the extra [eval]")

WriteBeir = Callable[..., Path]

WORDS = ModelSettings(name="words")
TOKENS = ModelSettings(name="tokens")
BM25 = LexicalSystem()
DENSE = VectorSystem(kind="dense", name="dense", model=WORDS)
LATE = VectorSystem(kind="multi-vector", name="late", model=TOKENS)
FUSED = FusionSystem(name="fused", of=(BM25, DENSE))
RERANKED = RerankSystem(name="reranked", first=BM25, model=TOKENS, depth=3)


class CountingEncoder:
    """Counts the texts that go to an encoder."""

    def __init__(self, encoder: Encoder) -> None:
        self.reference: ModelReference = encoder.reference
        self.documents = 0
        self.queries = 0
        self._encoder = encoder

    def encode_queries(self, texts: Iterable[str]) -> Iterator[NDArray[np.float32]]:
        for text in texts:
            self.queries += 1
            yield from self._encoder.encode_queries([text])

    def encode_documents(self, texts: Iterable[str]) -> Iterator[NDArray[np.float32]]:
        for text in texts:
            self.documents += 1
            yield from self._encoder.encode_documents([text])


@pytest.fixture
def words(encoder: Encoder) -> CountingEncoder:
    return CountingEncoder(encoder)


@pytest.fixture
def tokens(multi_vector_encoder: Encoder) -> CountingEncoder:
    return CountingEncoder(multi_vector_encoder)


@pytest.fixture
def evaluations(
    tmp_path: Path, words: CountingEncoder, tokens: CountingEncoder
) -> Callable[..., Evaluations]:
    """Makes evaluations, as a new process would, on one cache unless another is named."""

    def make(cache: str = "cache", **options: Any) -> Evaluations:
        models = Models(loaded={WORDS: words, TOKENS: tokens})
        return Evaluations(StageCache(tmp_path / cache), models, **options)

    return make


@pytest.fixture
def planned(tmp_path: Path, write_beir: WriteBeir) -> Callable[..., PlannedEvaluation]:
    """A system on the tiny collection."""
    data = write_beir()

    def plan(system: System, output: str = "kept", **settings: Any) -> PlannedEvaluation:
        return PlannedEvaluation(
            plan=Plan(
                data=DataChoice(name="tiny", folder="tiny", split="test"),
                system=system,
                settings=EvaluationSettings(split="test", **settings),
            ),
            data=data,
            output=tmp_path / output / system.name,
        )

    return plan


Planned = Callable[..., PlannedEvaluation]
Make = Callable[..., Evaluations]


@pytest.mark.parametrize("system", [BM25, DENSE, LATE])
def test_the_result_is_that_of_an_index_built_and_evaluated_at_once(
    system: Any, planned: Planned, evaluations: Make, words: Any, tokens: Any, tmp_path: Path
) -> None:
    result = evaluations().result(planned(system))
    encoder = {"BM25": None, "dense": words, "late": tokens}[system.name]
    collection = read_collection(planned(system).data)
    index = build_index(
        tmp_path / "index", collection.documents(), kind=system.index, encoder=encoder
    )
    expected = evaluate(
        collection, index, encoder, system=system.name, run_path=tmp_path / "run.trec"
    )
    assert result.metrics == expected.metrics
    assert result.per_query == expected.per_query
    assert result.counts == expected.counts
    assert result.index_parameters == expected.index_parameters
    assert result.collection_fingerprint == expected.collection_fingerprint
    kept = planned(system).output / "run.trec"
    assert kept.read_bytes() == (tmp_path / "run.trec").read_bytes()
    assert Result.from_json(planned(system).output / "result.json") == result


def test_many_systems_share_what_they_have_in_common(
    planned: Planned, evaluations: Make, words: CountingEncoder, tokens: CountingEncoder
) -> None:
    faiss = replace(DENSE, name="faiss", index="faiss")
    plaid = replace(LATE, name="plaid", index="plaid", settings={"centroids": 2})
    for system in (BM25, DENSE, faiss, LATE, plaid, FUSED, RERANKED):
        evaluations().result(planned(system))
    assert (words.documents, words.queries) == (4, 3)
    assert (tokens.documents, tokens.queries) == (4, 3)


def test_a_finished_result_opens_neither_data_nor_model(
    planned: Planned, evaluations: Make, tmp_path: Path
) -> None:
    first = evaluations().result(planned(DENSE))
    shutil.rmtree(planned(DENSE).data)
    shutil.rmtree(tmp_path / "cache")
    without_models = Evaluations(StageCache(tmp_path / "cache"), Models(loaded={}))
    assert without_models.result(planned(DENSE)) == first


def test_ids_that_no_run_can_name_are_told_before_anything_is_encoded(
    planned: Planned, evaluations: Make, words: CountingEncoder
) -> None:
    judgements = planned(DENSE).data / "qrels" / "test.tsv"
    judgements.write_text(judgements.read_text().replace("\td1\t", "\ta file.md\t"))
    with pytest.raises(InputError, match=r"document id 'a file\.md' is empty or holds whitespace"):
        evaluations().result(planned(DENSE))
    assert words.documents == words.queries == 0


def test_touched_sources_are_compared_by_checksum(
    planned: Planned, evaluations: Make, words: CountingEncoder, tmp_path: Path
) -> None:
    first = evaluations().result(planned(DENSE))
    corpus = planned(DENSE).data / "corpus.jsonl"
    os.utime(corpus, ns=(1, 1))
    shutil.rmtree(tmp_path / "cache")
    assert evaluations().result(planned(DENSE)) == first
    assert words.documents == 4
    corpus.write_text(corpus.read_text().replace("honey", "sugar"))
    with pytest.raises(ConfigError, match=r"SHA-256 of the corpus was \w{64}, and is \w{64} now"):
        evaluations().result(planned(DENSE))
    changed = evaluations(overwrite=True).result(planned(DENSE))
    assert changed.manifest is not None
    assert first.manifest is not None
    assert changed.manifest.checksums.corpus != first.manifest.checksums.corpus
    assert changed.created >= first.created
    assert words.documents == 8


def test_another_model_under_the_same_name_is_not_taken_for_the_first(
    planned: Planned, evaluations: Make, words: CountingEncoder, tmp_path: Path
) -> None:
    evaluations().result(planned(DENSE))
    words.reference = words.reference._replace(fingerprint="trained anew")
    (planned(DENSE).output / "sources.json").unlink()
    with pytest.raises(ConfigError, match=r"of the model words was .*, and is trained anew now"):
        evaluations().result(planned(DENSE))
    evaluations(overwrite=True).result(planned(DENSE))
    assert words.documents == 8


def test_the_result_of_another_plan_is_not_replaced_unless_asked(
    planned: Planned, evaluations: Make
) -> None:
    evaluations().result(planned(BM25))
    deeper = planned(BM25, k=200)
    with pytest.raises(ConfigError, match=r"another evaluation already \(--overwrite"):
        evaluations().result(deeper)
    result = evaluations(overwrite=True).result(deeper)
    assert result.settings.k == 200
    assert Result.from_json(deeper.output / "result.json").settings.k == 200


@pytest.mark.parametrize(
    "system",
    [
        BM25,
        DENSE,
        LATE,
        FUSED,
        RERANKED,
        replace(DENSE, name="hnsw", index="faiss", settings={"factory": "HNSW8", "seed": 3}),
        replace(LATE, name="plaid", index="plaid", settings={"centroids": 2}),
    ],
    ids=lambda system: system.name,
)
def test_the_same_manifest_gives_the_same_run_file(
    system: Any, planned: Planned, evaluations: Make
) -> None:
    first = evaluations("one").result(planned(system))
    assert first.manifest is not None
    again = replace(planned(system, "other"), repeats=first.manifest)
    second = evaluations("two").result(again)
    runs = [each.output / "run.trec" for each in (planned(system), again)]
    assert runs[0].read_bytes() == runs[1].read_bytes()
    assert second.manifest is not None
    assert second.manifest.plan == first.manifest.plan
    assert second.manifest.models == first.manifest.models


def test_what_is_repeated_has_the_same_data_and_model_or_none(
    planned: Planned, evaluations: Make, words: CountingEncoder
) -> None:
    first = evaluations("one").result(planned(DENSE))
    again = replace(planned(DENSE, "other"), repeats=first.manifest)
    fingerprint = words.reference.fingerprint
    words.reference = words.reference._replace(fingerprint="another")
    with pytest.raises(InputError, match=f"was {fingerprint}, and is another now"):
        evaluations("two").result(again)
    words.reference = words.reference._replace(fingerprint=fingerprint)
    queries = again.data / "queries.jsonl"
    queries.write_text(queries.read_text() + "\n")
    with pytest.raises(InputError, match="the SHA-256 of the queries was"):
        evaluations("two").result(again)
    assert words.documents == 4
    assert not again.output.exists()


def test_the_manifest_says_what_made_the_result(planned: Planned, evaluations: Make) -> None:
    evaluations().result(planned(LATE))
    result = evaluations().result(planned(RERANKED))
    manifest = result.manifest
    assert manifest is not None
    assert manifest.plan == planned(RERANKED).plan
    assert len(manifest.checksums.corpus) == 64
    (model,) = manifest.models
    assert (model.name, model.fingerprint) == ("tokens", "folder/words-multi-fingerprint")
    assert manifest.vector_dtype == "float16"
    assert manifest.index_parameters["BM25"]["k1"] == 1.2
    assert manifest.hardware.cores >= 1
    assert [(each.name, each.of, each.is_reused) for each in manifest.stages] == [
        ("rerank with tokens", "reranked", False),
        ("search", "BM25", False),
        ("build index", "BM25", False),
        ("encode corpus", "tokens", True),
        ("encode queries", "tokens", True),
        ("metrics", "reranked", False),
    ]
    assert all(each.peak_memory_bytes > 1_000_000 for each in manifest.stages)
    assert result.timings.encode_seconds == manifest.stages[4].seconds
    assert 0 < result.timings.search_seconds < 60


def test_fusion_fuses_the_runs_of_its_parts(planned: Planned, evaluations: Make) -> None:
    for system in (BM25, DENSE, FUSED):
        evaluations().result(planned(system))
    bm25, dense, fused = (
        read_run(planned(each).output / "run.trec") for each in (BM25, DENSE, FUSED)
    )
    assert set(fused) == {"q1", "q2", "q4"}
    for query_id, hits in fused.items():
        assert hits == fuse([bm25.get(query_id, []), dense[query_id]])


def test_reranking_orders_the_candidates_of_the_first_system_by_maxsim(
    planned: Planned, evaluations: Make
) -> None:
    for system in (BM25, LATE, RERANKED):
        evaluations().result(planned(system))
    bm25, late, reranked = (
        read_run(planned(each).output / "run.trec") for each in (BM25, LATE, RERANKED)
    )
    for query_id, hits in bm25.items():
        scores = {hit.document_id: hit.score for hit in late[query_id]}
        found = {hit.document_id: hit.score for hit in reranked[query_id]}
        assert found == {hit.document_id: scores[hit.document_id] for hit in hits}


def test_reranking_encodes_its_candidates_alone_where_they_are_few(
    tmp_path: Path, planned: Planned, evaluations: Make, tokens: CountingEncoder
) -> None:
    chosen: dict[str, Any] = {"k": 1, "metrics": ("P@1",)}
    reranked = replace(RERANKED, depth=1)
    corpus = planned(reranked).data / "corpus.jsonl"
    before = len(corpus.read_text("utf-8").splitlines())
    with corpus.open("a", encoding="utf-8") as stream:
        for number in range(before, 20):
            stream.write(json.dumps({"_id": f"x{number}", "text": f"brown words {number}"}) + "\n")
    result = evaluations().result(planned(reranked, **chosen))
    candidates = {
        hit.document_id
        for hits in read_run(planned(reranked).output / "run.trec").values()
        for hit in hits
    }
    assert tokens.documents == len(candidates) < before
    assert result.manifest is not None
    assert "encode candidates" in {each.name for each in result.manifest.stages}
    tokens.documents = 0
    evaluations().result(planned(LATE, **chosen))  # the whole corpus, for what needs it
    assert tokens.documents == 20
    again = evaluations("fresh")
    again.result(planned(LATE, "other", **chosen))
    again.result(planned(reranked, "other", **chosen))
    runs = [tmp_path / each / "reranked" / "run.trec" for each in ("kept", "other")]
    assert runs[0].read_bytes() == runs[1].read_bytes()  # whatever the cache held


def test_titles_can_be_dropped(planned: Planned, evaluations: Make) -> None:
    joined = planned(DENSE)
    plan = replace(joined.plan, data=replace(joined.plan.data, title="drop"))
    dropped = replace(joined, plan=plan, output=joined.output.with_name("dropped"))
    for each in (joined, dropped):
        evaluations().result(each)
    with_titles, without = (read_run(each.output / "run.trec") for each in (joined, dropped))
    # q4 asks for "bears", the title of d3 and a word of its text.
    assert {hit.document_id: hit.score for hit in with_titles["q4"]}["d3"] == 4
    assert {hit.document_id: hit.score for hit in without["q4"]}["d3"] == 3


def test_a_query_never_finds_itself_where_that_is_asked_for(
    planned: Planned, evaluations: Make
) -> None:
    evaluations().result(planned(DENSE, ignore_identical_ids=True))
    run = read_run(planned(DENSE).output / "run.trec")
    assert [hit.document_id for hit in run["q1"]][:2] == ["d1", "d3"]


def test_a_model_of_another_kind_than_its_system_is_refused(
    planned: Planned, evaluations: Make, tokens: CountingEncoder
) -> None:
    wrong = replace(DENSE, model=TOKENS)
    with pytest.raises(ConfigError, match="dense: the system is of the kind dense, and tokens is"):
        evaluations().result(planned(wrong))
    assert tokens.documents == 0


def test_a_strict_evaluation_fails_for_missing_ids_finished_or_not(
    planned: Planned, evaluations: Make
) -> None:
    with (planned(BM25).data / "qrels" / "test.tsv").open("a") as stream:
        stream.write("q1\tgone\t1\n")
    with pytest.raises(InputError, match="gone"):
        evaluations(strict=True).result(planned(BM25))
    assert evaluations().result(planned(BM25)).counts.missing_documents == 1
    with pytest.raises(InputError, match="1 judged ids were missing"):
        evaluations(strict=True).result(planned(BM25))
