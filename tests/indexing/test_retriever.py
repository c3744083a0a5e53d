"""From a corpus to passages: built, opened, asked, interrupted and taken up again."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from retrieval import native
from retrieval.encoders.dense import DenseEncoder
from retrieval.encoders.embedding_store import StoreSettings, write_embeddings
from retrieval.encoders.quantization import Quantization
from retrieval.errors import ConfigError, IndexFilesError, InputError, ModelMismatchError
from retrieval.indexing import Passage, PlaidSettings, Retriever, build_index, retriever
from retrieval.records import Document, ModelReference

WORDS = ["alpha", "beta", "gamma", "delta", "epsilon"]
DOCUMENTS = [Document(f"d{at}", f"about {word}", word) for at, word in enumerate(WORDS)]


class WordEncoder:
    """Puts 1 where a word occurs: as one vector, or as one vector a known word."""

    def __init__(self, *, is_multi_vector: bool, name: str = "words") -> None:
        self.reference = ModelReference(name, f"of {name}", is_multi_vector, len(WORDS))
        self.calls = 0

    def encode_queries(self, texts: Iterable[str]) -> Iterator[NDArray[np.float32]]:
        return self.encode_documents(texts)

    def encode_documents(self, texts: Iterable[str]) -> Iterator[NDArray[np.float32]]:
        for text in texts:
            self.calls += 1
            found = np.array([word in text for word in WORDS], np.float32)
            rows = np.eye(len(WORDS), dtype=np.float32)[found > 0]
            yield rows if self.reference.is_multi_vector else found


@pytest.mark.parametrize(
    ("kind", "is_multi_vector"),
    [("exact", False), ("exact", True), ("faiss", False), ("plaid", True), ("lexical", None)],
)
def test_a_question_finds_its_document(
    tmp_path: Path, kind: str, is_multi_vector: bool | None
) -> None:
    encoder = None if is_multi_vector is None else WordEncoder(is_multi_vector=is_multi_vector)
    build_index(tmp_path / "index", DOCUMENTS, kind=kind, encoder=encoder)
    retriever = Retriever.open(tmp_path / "index", encoder=encoder)
    answers = retriever.search(["what of gamma", "delta"], k=1)
    assert [passages[0].id for passages in answers] == ["d2", "d3"]
    assert answers[0][0] == Passage("d2", answers[0][0].score, "about gamma", "gamma")
    only = retriever.search(["gamma delta"], k=5, allowed=["d3"])[0]
    assert [passage.id for passage in only] == ["d3"]
    assert not (tmp_path / "index" / "embeddings").exists()


def test_a_build_that_was_stopped_goes_on_where_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder = WordEncoder(is_multi_vector=False)
    store = StoreSettings(shard_documents=2)

    def stopped() -> Iterator[Document]:
        yield from DOCUMENTS[:4]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build_index(tmp_path, stopped(), kind="exact", encoder=encoder, store=store)
    assert encoder.calls == 4
    built = build_index(tmp_path, DOCUMENTS, kind="exact", encoder=encoder, store=store)
    assert encoder.calls == 5
    assert len(built) == 5


def test_embeddings_are_indexed_without_an_encoder(tmp_path: Path) -> None:
    encoder = WordEncoder(is_multi_vector=True)
    store = write_embeddings(tmp_path / "embeddings", DOCUMENTS, encoder)
    built = build_index(tmp_path / "index", store, kind="plaid")
    assert built.model == encoder.reference
    assert (tmp_path / "embeddings").is_dir()


@pytest.mark.parametrize(
    ("is_multi_vector", "most", "compiled", "kind"),
    [
        (True, 25, True, "exact"),
        (True, 24, True, "plaid"),
        (True, 25, False, "plaid"),
        (False, 24, True, "faiss"),
    ],
    ids=["few", "many", "no kernels", "single vectors"],
)
def test_the_kind_suits_the_vectors_and_their_number(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    is_multi_vector: bool,
    most: int,
    compiled: bool,
    kind: str,
) -> None:
    monkeypatch.setattr(retriever, "EXACT_COMPONENTS", most)
    monkeypatch.setattr(native, "instruction_set", lambda: "avx2" if compiled else None)
    encoder = WordEncoder(is_multi_vector=is_multi_vector)
    # Five documents with a known word each, as a vector of five components; in several shards.
    store = write_embeddings(
        tmp_path / "embeddings", DOCUMENTS, encoder, StoreSettings(shard_documents=2)
    )
    assert store.components == 25
    assert retriever.suitable_kind(store) == kind
    if compiled:
        assert build_index(tmp_path / "index", store).kind == kind


@pytest.mark.parametrize("options", [{"kind": "hnsw"}, {"settings": PlaidSettings()}])
def test_what_can_be_no_index_is_told_before_anything_is_encoded(
    tmp_path: Path, options: dict[str, Any]
) -> None:
    encoder = WordEncoder(is_multi_vector=True)
    with pytest.raises(ConfigError):
        build_index(tmp_path / "index", DOCUMENTS, encoder=encoder, **options)
    assert encoder.calls == 0


def test_an_index_opens_its_model_with_the_options_that_filled_it(
    tmp_path: Path, tiny_backbone: Path
) -> None:
    DenseEncoder.from_backbone(tiny_backbone).save(tmp_path / "model")
    encoder = DenseEncoder.load(tmp_path / "model", device="cpu", width=8, normalize=True)
    build_index(tmp_path / "index", DOCUMENTS, kind="exact", encoder=encoder)
    retriever = Retriever.open(tmp_path / "index")
    assert retriever.encoder is not None
    assert retriever.encoder.reference == encoder.reference
    assert retriever.search([DOCUMENTS[2].contents], k=1)[0][0].id == "d2"


def test_quantized_embeddings_are_no_vectors_of_an_index(
    tmp_path: Path, tiny_backbone: Path
) -> None:
    bits = Quantization(precision="binary")
    encoder = DenseEncoder.from_backbone(tiny_backbone).quantized(bits)
    with pytest.raises(InputError, match="takes float vectors"):
        build_index(tmp_path / "a", DOCUMENTS, kind="exact", encoder=encoder)
    settings = StoreSettings(dtype="quantized")
    store = write_embeddings(tmp_path / "embeddings", DOCUMENTS, encoder, settings)
    with pytest.raises(InputError, match="takes float vectors"):
        build_index(tmp_path / "b", store, kind="faiss")


def test_misuse_is_named(tmp_path: Path) -> None:
    encoder: Any = WordEncoder(is_multi_vector=False)
    with pytest.raises(InputError, match="needs an encoder"):
        build_index(tmp_path / "a", DOCUMENTS, kind="faiss")
    with pytest.raises(InputError, match="no documents"):
        build_index(tmp_path / "b", [], kind="exact", encoder=encoder)
    build_index(tmp_path / "c", DOCUMENTS, kind="exact", encoder=encoder)
    with pytest.raises(IndexFilesError, match="--overwrite"):
        build_index(tmp_path / "c", DOCUMENTS, kind="exact", encoder=encoder)
    with pytest.raises(ModelMismatchError, match=r"words.*others"):
        Retriever.open(tmp_path / "c", encoder=WordEncoder(is_multi_vector=False, name="others"))
