from __future__ import annotations

import logging
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from math import log2
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import retrieval.evaluation
from retrieval.encoders.protocol import Encoder
from retrieval.errors import (
    ConfigError,
    InputError,
    MissingExtraError,
    ModelMismatchError,
)
from retrieval.evaluation import (
    EvaluationSettings,
    Result,
    evaluate,
    evaluate_run,
    read_collection,
    read_run,
    run_queries,
)
from retrieval.evaluation.collection import Collection
from retrieval.indexing.exact import ExactIndex
from retrieval.indexing.index import Batch
from retrieval.indexing.lexical import LexicalIndex
from retrieval.indexing.versions import index_bytes
from retrieval.records import ModelReference, Query

pytest.importorskip("pytrec_eval", reason="needs the extra [eval]")

WriteBeir = Callable[..., Path]


def build(folder: Path, collection: Collection, encoder: Encoder | None) -> Any:
    """An exact index of the collection, or a lexical one where there is no encoder."""
    documents = list(collection.documents())
    ids = [document.id for document in documents]
    texts = [document.contents for document in documents]
    if encoder is None:
        return LexicalIndex.build(folder, [Batch(ids, texts)])
    items: Any = list(encoder.encode_documents(texts))
    if not encoder.reference.is_multi_vector:
        items = np.stack(items)
    return ExactIndex.build(folder, [Batch(ids, items)], model=encoder.reference)


def test_a_dense_encoder_is_measured_over_its_index(
    write_beir: WriteBeir, tmp_path: Path, encoder: Encoder
) -> None:
    collection = read_collection(write_beir())
    index = build(tmp_path / "index", collection, encoder)
    result = evaluate(collection, index, encoder, EvaluationSettings(search_batch_size=2))
    # "quick brown": d1 and q1 share both words, and trec_eval ranks q1 before d1; the others'
    # only relevant documents share the most words with them.
    assert result.per_query["q1"]["MRR@10"] == 0.5
    assert result.per_query["q1"]["nDCG@10"] == pytest.approx(1 / log2(3), abs=1e-9)
    assert result.metrics["MRR@10"] == pytest.approx((0.5 + 1 + 1) / 3)
    assert result.metrics["recall@100"] == 1.0
    assert result.metrics["P@10"] == pytest.approx(0.1)
    assert (result.system, result.collection, result.split) == ("words exact", "tiny", "test")
    assert (result.index_kind, result.index_parameters) == (
        "exact",
        {"dtype": "float32", "scan": "none", "threads": "auto"},
    )
    assert result.model == encoder.reference
    assert result.index_bytes == index_bytes(tmp_path / "index")
    assert result.collection_fingerprint == collection.fingerprint
    assert (result.counts.documents, result.counts.queries, result.counts.judgements) == (4, 3, 4)
    assert (result.counts.missing_documents, result.counts.missing_queries) == (0, 0)
    assert result.timings.queries == 3
    assert result.timings.search_seconds > 0
    assert result.settings.search_batch_size == 2
    result.to_json(tmp_path / "result.json")
    assert Result.from_json(tmp_path / "result.json") == result


def test_a_multi_vector_encoder_is_measured_over_its_index(
    write_beir: WriteBeir, tmp_path: Path, multi_vector_encoder: Encoder
) -> None:
    collection = read_collection(write_beir())
    index = build(tmp_path / "index", collection, multi_vector_encoder)
    run, _ = run_queries(index, multi_vector_encoder, collection.queries, 2, batch_size=2)
    assert {query_id: hits[0].score for query_id, hits in run.items()} == {
        "q1": 2.0,
        "q2": 2.0,
        "q4": 3.0,
    }
    result = evaluate(collection, index, multi_vector_encoder)
    assert result.metrics["MRR@10"] == pytest.approx((0.5 + 1 + 1) / 3)
    assert result.model is not None
    assert result.model.is_multi_vector


def test_a_lexical_index_is_measured_without_an_encoder(
    write_beir: WriteBeir, tmp_path: Path
) -> None:
    collection = read_collection(write_beir())
    index = build(tmp_path / "index", collection, None)
    result = evaluate(collection, index, system="BM25")
    assert (result.system, result.index_kind, result.model) == ("BM25", "lexical", None)
    assert result.timings.encode_seconds == 0
    assert result.metrics["recall@100"] == 1.0
    assert result.per_query["q4"]["MRR@10"] == 1.0


@pytest.mark.parametrize("batch_size", [1, 2, 3, 100])
def test_the_batch_size_changes_nothing(
    write_beir: WriteBeir, tmp_path: Path, encoder: Encoder, batch_size: int
) -> None:
    collection = read_collection(write_beir())
    index = build(tmp_path / "index", collection, encoder)
    run, _ = run_queries(index, encoder, collection.queries, 3, batch_size=batch_size)
    alone = {
        query.id: run_queries(index, encoder, [query], 3)[0][query.id]
        for query in collection.queries
    }
    assert run == alone
    assert list(run) == ["q1", "q2", "q4"]
    assert all(len(hits) == 3 for hits in run.values())


def test_no_queries_give_no_hits(write_beir: WriteBeir, tmp_path: Path, encoder: Encoder) -> None:
    index = build(tmp_path / "index", read_collection(write_beir()), encoder)
    assert run_queries(index, encoder, [], 3)[0] == {}


def test_a_query_never_finds_itself_where_that_is_asked_for(
    write_beir: WriteBeir, tmp_path: Path, encoder: Encoder
) -> None:
    collection = read_collection(write_beir())
    index = build(tmp_path / "index", collection, encoder)
    query = collection.queries[:1]
    found = run_queries(index, encoder, query, 2)[0]["q1"]
    assert {hit.document_id for hit in found} == {"d1", "q1"}
    without = run_queries(index, encoder, query, 2, ignore_identical_ids=True)[0]["q1"]
    assert [hit.document_id for hit in without] == ["d1", "d3"]
    settings = EvaluationSettings(ignore_identical_ids=True)
    assert evaluate(collection, index, encoder, settings).metrics["MRR@10"] == 1.0


def test_the_run_file_gives_the_same_metrics(
    write_beir: WriteBeir, tmp_path: Path, encoder: Encoder
) -> None:
    collection = read_collection(write_beir())
    index = build(tmp_path / "index", collection, encoder)
    path = tmp_path / "runs" / "words.run"
    result = evaluate(collection, index, encoder, system="my words", run_path=path)
    assert path.read_text().splitlines()[0].split()[-1] == "my-words"
    scores = evaluate_run(collection.qrels, read_run(path), result.settings.metrics)
    assert scores.mean == result.metrics
    assert scores.per_query == result.per_query


def test_missing_queries_and_documents_lower_the_scores_and_are_counted(
    write_beir: WriteBeir, tmp_path: Path, encoder: Encoder, caplog: pytest.LogCaptureFixture
) -> None:
    content = "q2\td2\t1\nq2\tgone\t1\nnobody\td1\t1\n"
    folder = write_beir(test=content)
    collection = read_collection(folder)
    index = build(tmp_path / "index", collection, encoder)
    with caplog.at_level(logging.WARNING):
        result = evaluate(collection, index, encoder)
    said = "1 judged documents are not in the corpus or index: 'gone'"
    assert caplog.text.count(said) == 1
    assert (result.counts.missing_documents, result.counts.missing_queries) == (1, 1)
    assert result.metrics["recall@100"] == 0.25  # half of q2's documents, none of nobody's
    (folder / "qrels" / "dev.tsv").write_text("q2\td2\t1\nq2\tgone\t1\n")
    with pytest.raises(InputError, match="1 judged documents are not in"):
        evaluate(read_collection(folder, "dev", strict=True), index, encoder)


def test_an_index_without_its_encoder_is_an_error_that_names_the_model(
    write_beir: WriteBeir, tmp_path: Path, encoder: Encoder
) -> None:
    collection = read_collection(write_beir())
    index = build(tmp_path / "index", collection, encoder)
    with pytest.raises(InputError, match=r"exact index, which folder/words filled, needs an enc"):
        run_queries(index, None, collection.queries, 3)


def test_an_encoder_for_a_lexical_index_is_an_error(
    write_beir: WriteBeir, tmp_path: Path, encoder: Encoder
) -> None:
    collection = read_collection(write_beir())
    index = build(tmp_path / "index", collection, None)
    with pytest.raises(InputError, match="searches texts: leave the encoder out"):
        run_queries(index, encoder, collection.queries, 3)


def test_another_model_is_an_error_that_names_both(
    write_beir: WriteBeir, tmp_path: Path, encoder: Encoder, multi_vector_encoder: Encoder
) -> None:
    collection = read_collection(write_beir())
    index = build(tmp_path / "index", collection, encoder)
    with pytest.raises(ModelMismatchError, match=r"folder/words .*folder/words-multi"):
        evaluate(collection, index, multi_vector_encoder)


def test_another_split_than_the_collections_is_an_error(
    write_beir: WriteBeir, tmp_path: Path, encoder: Encoder
) -> None:
    collection = read_collection(write_beir())
    index = build(tmp_path / "index", collection, encoder)
    with pytest.raises(ConfigError, match="split 'dev', the collection is 'test'"):
        evaluate(collection, index, encoder, EvaluationSettings(split="dev"))
    settings = EvaluationSettings(split="test")
    assert evaluate(collection, index, encoder, settings).split == "test"


def test_ids_with_blanks_can_be_measured_but_not_written(
    write_beir: WriteBeir, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    documents = [{"_id": "a file.md", "text": "honey"}, {"_id": "b", "text": "bees"}]
    queries = [{"_id": "q", "text": "honey"}]
    judged = "query-id\tcorpus-id\tscore\nq\ta file.md\t1\n"
    collection = read_collection(write_beir(documents, queries, test=judged))
    index = build(tmp_path / "index", collection, None)
    assert evaluate(collection, index).metrics["nDCG@10"] == 1
    monkeypatch.setattr(LexicalIndex, "search", None)  # it is told before the first search
    with pytest.raises(InputError, match=r"the document id 'a file\.md'"):
        evaluate(collection, index, run_path=tmp_path / "a.run")


class SlowEncoder:
    """Takes 20 ms for every query."""

    reference = ModelReference("slow", "slow", False, 4)

    def __init__(self) -> None:
        self.encoded = 0

    def encode_queries(self, texts: Iterable[str]) -> Iterator[NDArray[np.float32]]:
        for _ in texts:
            time.sleep(0.02)
            self.encoded += 1
            yield np.ones(4, np.float32)

    encode_documents = encode_queries


def test_encoding_and_search_are_timed_apart_after_one_query_for_warming_up(
    tmp_path: Path,
) -> None:
    encoder = SlowEncoder()
    vectors = np.ones((3, 4), np.float32)
    index = ExactIndex.build(tmp_path / "index", [Batch(["a", "b", "c"], vectors)])
    queries = [Query(f"q{number}", "text") for number in range(5)]
    _, timings = run_queries(index, encoder, queries, 2)
    assert encoder.encoded == 6
    assert timings.queries == 5
    assert 0.1 <= timings.encode_seconds < 1
    assert 0 < timings.search_seconds < 0.1
    assert timings.queries_per_second < 50 < timings.search_queries_per_second


def test_progress_is_shown_on_stderr_only_where_it_is_asked_for(
    write_beir: WriteBeir, tmp_path: Path, encoder: Encoder, capsys: pytest.CaptureFixture[str]
) -> None:
    collection = read_collection(write_beir())
    index = build(tmp_path / "index", collection, encoder)
    capsys.readouterr()
    evaluate(collection, index, encoder)
    assert capsys.readouterr() == ("", "")
    evaluate(collection, index, encoder, progress=True)
    captured = capsys.readouterr()
    assert captured.out == ""
    lines = captured.err.splitlines()
    assert [line.partition(" in ")[0] for line in lines] == ["encoding queries: 3", "searching: 3"]


def test_missing_packages_are_found_before_the_first_search(
    write_beir: WriteBeir, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    collection = read_collection(write_beir())
    encoder = SlowEncoder()
    index = ExactIndex.build(tmp_path / "index", [Batch(["d1"], np.ones((1, 4), np.float32))])
    monkeypatch.setitem(sys.modules, "pytrec_eval", None)
    with pytest.raises(MissingExtraError, match=r"modernbert-retrieval\[eval\]"):
        evaluate(collection, index, encoder)
    assert encoder.encoded == 0


def test_every_exported_name_is_there_and_others_are_not() -> None:
    for name in retrieval.evaluation.__all__:
        assert getattr(retrieval.evaluation, name) is not None
    assert dir(retrieval.evaluation) == sorted(retrieval.evaluation.__all__)
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        _ = retrieval.evaluation.nothing


def test_importing_it_loads_no_optional_or_heavy_package() -> None:
    program = (
        "import sys, retrieval.evaluation as e; e.evaluate, e.results_table, e.read_collection; "
        "print({'torch', 'matplotlib', 'pytrec_eval', 'transformers'} & set(sys.modules))"
    )
    shown = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert shown.stdout == "set()\n", shown.stderr
