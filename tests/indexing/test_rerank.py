"""Exact MaxSim over given candidates: held against the oracle, from every source of vectors."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from retrieval.encoders.embedding_store import EmbeddingStore, StoreSettings, write_embeddings
from retrieval.encoders.stored_vectors import StoredDtype
from retrieval.errors import (
    ConfigError,
    DuplicateIdError,
    EmbeddingError,
    InputError,
    ModelMismatchError,
    ShapeError,
)
from retrieval.indexing import Retriever, build_index, token_scores
from retrieval.indexing.exact import ExactIndex
from retrieval.indexing.index import Batch
from retrieval.indexing.rerank import RerankingRetriever, rerank
from retrieval.indexing.token_scores import maxsim_scores
from retrieval.indexing.token_vectors import EncodedTokenVectors, StoredTokenVectors
from retrieval.records import Document, Hit, ModelReference
from retrieval.scoring import maxsim
from tests.indexing.worlds import multi_vectors

WIDTH = 24
WORDS = [f"word{number}" for number in range(60)]


class HashEncoder:
    """A vector a word, the same for the same word."""

    def __init__(self, *, is_multi_vector: bool = True, name: str = "hash") -> None:
        self.reference = ModelReference(name, f"of {name}", is_multi_vector, WIDTH)
        self.calls = 0
        rows = np.random.default_rng(0).standard_normal((len(WORDS), WIDTH))
        self._rows = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)

    def encode_queries(self, texts: Iterable[str]) -> Iterator[NDArray[np.float32]]:
        return self.encode_documents(texts)

    def encode_documents(self, texts: Iterable[str]) -> Iterator[NDArray[np.float32]]:
        for text in texts:
            self.calls += 1
            rows = self._rows[[WORDS.index(word) for word in text.split() if word in WORDS]]
            yield rows if self.reference.is_multi_vector else rows.sum(axis=0)


def documents(count: int = 40) -> list[Document]:
    generator = np.random.default_rng(1)
    return [
        Document(f"d{at}", " ".join(generator.choice(WORDS, int(generator.integers(1, 12)))))
        for at in range(count)
    ]


@given(st.data())
def test_scores_are_those_of_the_oracle(data: st.DataObject) -> None:
    lengths = data.draw(st.lists(st.sampled_from([0, 1, 2, 7, 33, 300]), max_size=12))
    query_length = data.draw(st.sampled_from([0, 1, 31, 32, 33]))
    generator = np.random.default_rng(data.draw(st.integers(0, 99)))
    dtype = data.draw(st.sampled_from([np.float32, np.float16]))
    query = generator.standard_normal((query_length, 8)).astype(np.float32)
    items = [generator.standard_normal((length, 8)).astype(dtype) for length in lengths]
    expected = maxsim([query], items)[0]
    np.testing.assert_allclose(maxsim_scores(query, items), expected, rtol=1e-5, atol=1e-4)


def test_blocks_of_any_size_give_the_same_scores(monkeypatch: pytest.MonkeyPatch) -> None:
    world = multi_vectors()
    whole = maxsim_scores(world.queries[0], world.items)
    np.testing.assert_allclose(whole, world.scores[0], atol=1e-4)
    for tokens in (1, 50, 10_000_000):
        monkeypatch.setattr(token_scores, "_BLOCK_TOKENS", tokens)
        np.testing.assert_allclose(maxsim_scores(world.queries[0], world.items), whole, atol=1e-5)


def test_negative_matches_are_not_lost_to_padding() -> None:
    query = np.array([[1.0, 0.0]], np.float32)
    items = [np.array([[-0.5, 0.0]], np.float32), np.full((9, 2), -1, np.float32)]
    assert maxsim_scores(query, items).tolist() == [-0.5, -1.0]


def test_candidates_are_ranked_as_brute_force_ranks_them() -> None:
    world = multi_vectors()
    candidates = [world.ids[at::3] for at in range(len(world.queries))]
    vectors = dict(zip(world.ids, world.items))
    ranked = rerank(world.queries, candidates, vectors, 10)
    for at, hits in enumerate(ranked):
        best = world.best(at, 10, range(len(world.ids))[at::3])
        assert [hit.document_id for hit in hits] == [hit.document_id for hit in best]
        assert [hit.score for hit in hits] == pytest.approx([hit.score for hit in best], abs=1e-4)


def test_hits_serve_as_candidates_and_equal_scores_keep_their_order() -> None:
    same = np.ones((1, 2), np.float32)
    vectors = {"x": same, "y": same, "z": 2 * same}
    hits = [Hit("y", 9.0), Hit("x", 8.0), Hit("z", 7.0)]
    assert rerank([same], [hits], vectors) == [[Hit("z", 4.0), Hit("y", 2.0), Hit("x", 2.0)]]
    assert rerank([same], [hits[:2]], vectors, 1) == [[Hit("y", 2.0)]]


def test_what_has_no_tokens_is_no_hit() -> None:
    none, some = np.empty((0, 2), np.float32), np.ones((1, 2), np.float32)
    vectors = {"none": none, "some": some}
    assert rerank([some, none, some], [["none", "some"], ["some"], []], vectors) == [
        [Hit("some", 2.0)],
        [],
        [],
    ]


@pytest.mark.parametrize(
    ("dtype", "tolerance"),
    # bfloat16 rounds to 8 bits, int8 to steps of 1/127 of the largest component
    [("float32", 1e-5), ("float16", 5e-3), ("bfloat16", 5e-2), ("int8", 5e-2)],
)
def test_a_store_gives_every_document_its_vectors(
    tmp_path: Path, dtype: StoredDtype, tolerance: float
) -> None:
    encoder, corpus = HashEncoder(), documents()
    settings = StoreSettings(dtype=dtype, shard_documents=7)
    write_embeddings(tmp_path / "store", corpus, encoder, settings)
    source = StoredTokenVectors(EmbeddingStore(tmp_path / "store"))
    wanted = ["d39", "d0", "d7", "d6", "d20"]
    by_id = {each.id: each.contents for each in corpus}
    expected = list(encoder.encode_documents(by_id[each] for each in wanted))
    for found, true in zip(source(wanted), expected, strict=True):
        assert found.shape == true.shape
        np.testing.assert_allclose(found, true, atol=tolerance)
    with pytest.raises(InputError, match="lacks 'd40'"):
        source(["d1", "d40"])


@pytest.mark.parametrize("first", ["lexical", "exact"])
@pytest.mark.parametrize("stored", [True, False])
def test_a_first_stage_is_reranked_as_brute_force_ranks_its_candidates(
    tmp_path: Path, first: str, stored: bool
) -> None:
    corpus, encoder = documents(), HashEncoder()
    dense = HashEncoder(is_multi_vector=False) if first == "exact" else None
    stage = Retriever(build_index(tmp_path / "first", corpus, kind=first, encoder=dense), dense)
    vectors = None
    if stored:
        store = write_embeddings(
            tmp_path / "store", corpus, encoder, StoreSettings(dtype="float32", shard_documents=9)
        )
        vectors = StoredTokenVectors(store)
    questions = ["word3 word14 word15", "word9 word26", "word5"]
    found = RerankingRetriever(stage, encoder, vectors, depth=12).search(questions, 5)
    for question, passages in zip(questions, found, strict=True):
        candidates = [hit.document_id for hit in stage.find([question], 12)[0]]
        texts = {each.id: each.text for each in corpus if each.id in candidates}
        query, *items = encoder.encode_documents([question, *texts.values()])
        scores = dict(zip(texts, maxsim([query], items)[0]))
        expected = sorted(candidates, key=lambda each: (-scores[each], candidates.index(each)))[:5]
        assert [passage.score for passage in passages] == pytest.approx(
            [scores[each] for each in expected], abs=1e-5
        )
        assert {passage.id: passage.text for passage in passages} == {
            each.id: texts[each.id] for each in passages
        }


def test_a_document_that_several_queries_share_is_encoded_once(tmp_path: Path) -> None:
    corpus, encoder = documents(5), HashEncoder()
    by_id = {each.id: each for each in corpus}
    source = EncodedTokenVectors(encoder, by_id.get)
    queries = list(encoder.encode_queries(["word1", "word2", "word3"]))
    encoder.calls = 0
    rerank(queries, [list(by_id)] * 3, source)
    assert encoder.calls == 5


def test_reranking_everything_is_the_exact_index(tmp_path: Path) -> None:
    world = multi_vectors()
    exact = ExactIndex.build(tmp_path / "exact", [Batch(world.ids, world.items)])
    everything = [world.ids] * len(world.queries)
    ranked = rerank(world.queries, everything, dict(zip(world.ids, world.items)), 10)
    for hits, true in zip(ranked, exact.search(world.queries, 10), strict=True):
        assert [hit.document_id for hit in hits] == [hit.document_id for hit in true]


def test_misuse_is_named(tmp_path: Path) -> None:
    one, wrong = np.ones((2, 3), np.float32), np.ones((2, 4), np.float32)
    with pytest.raises(InputError, match="1 queries for 2 lists"):
        rerank([one], [["a"], ["b"]], {})
    with pytest.raises(InputError, match="no vectors for 'b'"):
        rerank([one], [["a", "b"]], {"a": one})
    with pytest.raises(DuplicateIdError, match="'a' comes twice"):
        rerank([one], [["a", "a"]], {"a": one})
    with pytest.raises(InputError, match="k is 0"):
        rerank([one], [["a"]], {"a": one}, 0)
    with pytest.raises(ShapeError, match="query 0"):
        rerank([wrong], [["a"]], {"a": one})
    with pytest.raises(ShapeError, match="'b'"):
        rerank([one], [["a", "b"]], {"a": one, "b": wrong})
    with pytest.raises(EmbeddingError, match="'a'"):
        rerank([one], [["a"]], {"a": one * np.nan})
    none: Any = lambda ids: []  # noqa: E731
    with pytest.raises(InputError, match="vectors of 0 documents for 1 ids"):
        rerank([one], [["a"]], none)


def test_parts_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    corpus, encoder = documents(3), HashEncoder()
    dense = HashEncoder(is_multi_vector=False)
    stage = Retriever(build_index(tmp_path / "first", corpus, kind="lexical"))
    with pytest.raises(ConfigError, match="one vector a text"):
        RerankingRetriever(stage, dense)
    with pytest.raises(ConfigError, match="depth is 0"):
        RerankingRetriever(stage, encoder, depth=0)
    store = write_embeddings(tmp_path / "store", corpus, HashEncoder(name="other"))
    with pytest.raises(ModelMismatchError, match=r"other.*hash"):
        RerankingRetriever(stage, encoder, StoredTokenVectors(store))
    single = write_embeddings(tmp_path / "single", corpus, dense)
    with pytest.raises(InputError, match="token vectors"):
        StoredTokenVectors(single)
    vectors = np.stack(list(dense.encode_documents(each.text for each in corpus)))
    bare = ExactIndex.build(tmp_path / "bare", [Batch([each.id for each in corpus], vectors)])
    with pytest.raises(InputError, match="no text is kept of 'd"):
        RerankingRetriever(Retriever(bare, dense), encoder).find(["word1"])
