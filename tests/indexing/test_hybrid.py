"""Several indexes asked at once: what they find together, with which scores and texts."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from retrieval.errors import ConfigError, InputError
from retrieval.indexing import HybridRetriever, Retriever, build_index
from retrieval.indexing.exact import ExactIndex
from retrieval.indexing.fusion import FusionSettings, fuse
from retrieval.indexing.index import Batch
from retrieval.records import Document, ModelReference

WORDS = ["alpha", "beta", "gamma", "delta", "epsilon"]
DOCUMENTS = [Document(f"d{at}", f"about {word}", word) for at, word in enumerate(WORDS)]


class LetterEncoder:
    """Counts letters: as one vector, or as one vector a word."""

    def __init__(self, *, is_multi_vector: bool) -> None:
        self.reference = ModelReference("letters", str(is_multi_vector), is_multi_vector, 26)

    def encode_queries(self, texts: Iterable[str]) -> Iterator[NDArray[np.float32]]:
        return self.encode_documents(texts)

    def encode_documents(self, texts: Iterable[str]) -> Iterator[NDArray[np.float32]]:
        for text in texts:
            words = np.array(
                [[word.count(chr(97 + at)) for at in range(26)] for word in text.split()]
            )
            rows = words / np.linalg.norm(words, axis=1, keepdims=True)
            yield (rows if self.reference.is_multi_vector else rows.mean(axis=0)).astype(np.float32)


@pytest.fixture
def retrievers(tmp_path: Path) -> list[Retriever]:
    """Dense, PLAID and BM25 over the same documents."""
    dense, multi = LetterEncoder(is_multi_vector=False), LetterEncoder(is_multi_vector=True)
    return [
        Retriever(build_index(tmp_path / "dense", DOCUMENTS, kind="faiss", encoder=dense), dense),
        Retriever(build_index(tmp_path / "plaid", DOCUMENTS, kind="plaid", encoder=multi), multi),
        Retriever(build_index(tmp_path / "bm25", DOCUMENTS, kind="lexical")),
    ]


@pytest.mark.parametrize("method", ["rrf", "min-max", "z-score"])
def test_the_fused_ranking_is_that_of_the_separate_ones(
    retrievers: list[Retriever], method: str
) -> None:
    settings = FusionSettings(method=method, weights=(1, 2, 0.5))  # type: ignore[arg-type]
    questions = ["gamma or delta", "about beta"]
    found = HybridRetriever(retrievers, settings).find(questions, 4)
    for at, question in enumerate(questions):
        separate = [each.find([question], 100)[0] for each in retrievers]
        assert found[at] == fuse(separate, settings)[:4]
    assert found[1][0].document_id == "d1"


def test_passages_have_the_texts_and_a_filter_holds_for_all(retrievers: list[Retriever]) -> None:
    hybrid = HybridRetriever(retrievers)
    passages = hybrid.search(["gamma"], k=2)[0]
    assert (passages[0].id, passages[0].text, passages[0].title) == ("d2", "about gamma", "gamma")
    only = hybrid.search(["gamma"], k=5, allowed=["d3", "d4"])[0]
    assert {passage.id for passage in only} == {"d3", "d4"}


def test_an_index_without_texts_takes_them_from_another(
    retrievers: list[Retriever], tmp_path: Path
) -> None:
    encoder = LetterEncoder(is_multi_vector=False)
    vectors = np.stack(list(encoder.encode_documents(["gamma", "new"])))
    bare = ExactIndex.build(tmp_path / "bare", [Batch(["d2", "new"], vectors)])
    hybrid = HybridRetriever([Retriever(bare, encoder), retrievers[2]])
    texts = {passage.id: passage.text for passage in hybrid.search(["gamma"], k=9)[0]}
    assert texts == {"d2": "about gamma", "new": ""}
    with pytest.raises(InputError, match="'elsewhere'"):
        hybrid.document("elsewhere")


def test_a_small_depth_fuses_fewer_hits(retrievers: list[Retriever]) -> None:
    shallow = HybridRetriever(retrievers[:2], depth=1).find(["gamma"], 1)[0]
    assert [hit.score for hit in shallow] == [pytest.approx(2 / 61)]
    assert HybridRetriever(retrievers).find([], 3) == []


def test_misuse_is_named(retrievers: list[Retriever]) -> None:
    with pytest.raises(ConfigError, match="no retriever"):
        HybridRetriever([])
    with pytest.raises(ConfigError, match="1 weights for 3 retrievers"):
        HybridRetriever(retrievers, FusionSettings(weights=(1,)))
    with pytest.raises(ConfigError, match="depth is 0"):
        HybridRetriever(retrievers, depth=0)
