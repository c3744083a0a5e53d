"""Embeddings on disk: whole shards, no document encoded twice, every misuse named."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from retrieval.encoders.embedding_store import EmbeddingStore, StoreSettings, write_embeddings
from retrieval.errors import EmbeddingError, IndexFilesError, InputError, ModelMismatchError
from retrieval.records import Document, ModelReference

DOCUMENTS = [Document(f"d{number}", "x" * (number + 1), "t") for number in range(10)]
SETTINGS = StoreSettings(dtype="float32", shard_documents=4)


class CountingEncoder:
    """Gives lengths as vectors, and remembers what it was asked."""

    def __init__(
        self, *, is_multi_vector: bool = False, name: str = "counting", stop_after: int = 100
    ) -> None:
        self.reference = ModelReference(name, f"fingerprint of {name}", is_multi_vector, 2)
        self.encoded: list[str] = []
        self.stop_after = stop_after

    def encode_queries(self, texts: Iterable[str]) -> Iterator[NDArray[np.float32]]:
        return self.encode_documents(texts)

    def encode_documents(self, texts: Iterable[str]) -> Iterator[NDArray[np.float32]]:
        for text in texts:
            if len(self.encoded) >= self.stop_after:
                raise KeyboardInterrupt
            self.encoded.append(text)
            rows = np.full((len(text) % 3, 2), len(text), np.float32)
            yield rows if self.reference.is_multi_vector else np.array([len(text), 1], np.float32)


@pytest.mark.parametrize("is_multi_vector", [False, True])
def test_what_is_written_is_read_back_in_order(tmp_path: Path, is_multi_vector: bool) -> None:
    encoder = CountingEncoder(is_multi_vector=is_multi_vector)
    write_embeddings(tmp_path, iter(DOCUMENTS), encoder, SETTINGS)
    store = EmbeddingStore(tmp_path)
    assert len(store) == 10
    assert store.model == encoder.reference
    shards = list(store)
    assert [len(shard.documents) for shard in shards] == [4, 4, 2]
    assert [each for shard in shards for each in shard.documents] == DOCUMENTS
    expected = list(encoder.encode_documents(each.contents for each in DOCUMENTS))
    found = [row for shard in shards for row in shard.embeddings]
    for row, other in zip(found, expected, strict=True):
        np.testing.assert_array_equal(row, other)


def test_an_interrupted_run_goes_on_and_encodes_no_whole_shard_twice(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        write_embeddings(tmp_path, DOCUMENTS, CountingEncoder(stop_after=6), SETTINGS)
    with pytest.raises(IndexFilesError, match="run the same encoding again"):
        EmbeddingStore(tmp_path)
    second = CountingEncoder()
    write_embeddings(tmp_path, DOCUMENTS, second, SETTINGS)
    assert second.encoded == [each.contents for each in DOCUMENTS[4:]]
    third = CountingEncoder()
    write_embeddings(tmp_path, DOCUMENTS, third, SETTINGS)
    assert third.encoded == []


def test_a_shorter_corpus_leaves_no_stale_shards(tmp_path: Path) -> None:
    write_embeddings(tmp_path, DOCUMENTS, CountingEncoder(), SETTINGS)
    store = write_embeddings(tmp_path, DOCUMENTS[:4], CountingEncoder(), SETTINGS)
    assert [each for shard in store for each in shard.documents] == DOCUMENTS[:4]
    assert len(list(tmp_path.glob("shard-*"))) == 1


def test_another_model_is_refused_and_both_are_named(tmp_path: Path) -> None:
    write_embeddings(tmp_path, DOCUMENTS, CountingEncoder(), SETTINGS)
    with pytest.raises(ModelMismatchError, match=r"counting.*other"):
        write_embeddings(tmp_path, DOCUMENTS, CountingEncoder(name="other"), SETTINGS)


def test_another_corpus_is_refused(tmp_path: Path) -> None:
    write_embeddings(tmp_path, DOCUMENTS, CountingEncoder(), SETTINGS)
    changed = [DOCUMENTS[0]._replace(text="new"), *DOCUMENTS[1:]]
    with pytest.raises(InputError, match=r"shard-00000.*other documents"):
        write_embeddings(tmp_path, changed, CountingEncoder(), SETTINGS)


def test_other_settings_are_refused(tmp_path: Path) -> None:
    write_embeddings(tmp_path, DOCUMENTS, CountingEncoder(), SETTINGS)
    with pytest.raises(InputError, match="dtype float32, asked for float16"):
        write_embeddings(tmp_path, DOCUMENTS, CountingEncoder(), StoreSettings(shard_documents=4))


def test_a_vector_that_is_no_number_names_its_document(tmp_path: Path) -> None:
    class Broken(CountingEncoder):
        def encode_documents(self, texts: Iterable[str]) -> Iterator[NDArray[np.float32]]:
            for row in super().encode_documents(texts):
                yield row / (row[0] != 6)

    with pytest.raises(EmbeddingError, match="'d3'"), np.errstate(divide="ignore"):
        write_embeddings(tmp_path, DOCUMENTS, Broken(), SETTINGS)
