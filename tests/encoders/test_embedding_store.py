"""Embeddings on disk: whole shards, no document encoded twice, every misuse named."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from retrieval import DenseEncoder, MultiVectorEncoder
from retrieval.encoders.embedding_store import EmbeddingStore, StoreSettings, write_embeddings
from retrieval.encoders.quantization import Quantization
from retrieval.encoders.stored_vectors import StoredDtype
from retrieval.errors import (
    ConfigError,
    EmbeddingError,
    IndexFilesError,
    InputError,
    ModelMismatchError,
)
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


@pytest.mark.parametrize("is_multi_vector", [False, True])
@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "int8"])
def test_every_dtype_is_read_back_as_floats(
    tmp_path: Path, dtype: StoredDtype, is_multi_vector: bool
) -> None:
    encoder = CountingEncoder(is_multi_vector=is_multi_vector)
    settings = StoreSettings(dtype=dtype, shard_documents=4)
    store = write_embeddings(tmp_path, DOCUMENTS, encoder, settings)
    rows = [np.asarray(row) for shard in store for row in shard.embeddings]
    expected = list(encoder.encode_documents(each.contents for each in DOCUMENTS))
    for row, other in zip(rows, expected, strict=True):
        assert row.dtype == (np.float16 if dtype == "float16" else np.float32)
        assert row.shape == other.shape
        np.testing.assert_allclose(row, other, rtol=0, atol=12 / 127 / 2 * 1.01)


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_floats_of_numpy_are_mapped_and_not_read(tmp_path: Path, dtype: StoredDtype) -> None:
    settings = StoreSettings(dtype=dtype)
    (shard,) = write_embeddings(tmp_path, DOCUMENTS, CountingEncoder(), settings)
    assert isinstance(shard.embeddings, np.memmap)


def test_quantized_embeddings_are_stored_as_they_are(tmp_path: Path) -> None:
    class Coding(CountingEncoder):
        quantization = Quantization(precision="ubinary")

        def encode_documents(self, texts: Iterable[str]) -> Iterator[NDArray[np.float32]]:
            for row in super().encode_documents(texts):
                yield row.astype(np.uint8)

    with pytest.raises(ConfigError, match="are quantized: store them with the dtype quantized"):
        write_embeddings(tmp_path, DOCUMENTS, Coding(), SETTINGS)
    with pytest.raises(ConfigError, match="are not quantized"):
        write_embeddings(tmp_path, DOCUMENTS, CountingEncoder(), StoreSettings(dtype="quantized"))
    (shard,) = write_embeddings(tmp_path, DOCUMENTS, Coding(), StoreSettings(dtype="quantized"))
    assert shard.embeddings.dtype == np.uint8
    assert shard.embeddings[:, 0].tolist() == [len(each.contents) for each in DOCUMENTS]


def test_long_documents_make_short_shards(tmp_path: Path) -> None:
    settings = StoreSettings(dtype="float32", shard_documents=4, shard_characters=20)
    documents = [*DOCUMENTS, Document("long", "y" * 50), Document("last", "z")]
    store = write_embeddings(tmp_path, iter(documents), CountingEncoder(), settings)
    shards = [list(shard.documents) for shard in store]
    assert [each for shard in shards for each in shard] == documents
    assert [len(shard) for shard in shards] == [4, 2, 2, 1, 1, 1, 1]
    again = CountingEncoder()
    write_embeddings(tmp_path, iter(documents), again, settings)
    assert again.encoded == []


def as_format_1(folder: Path, *, complete: bool) -> None:
    """Make a store what the first release wrote: no bound of characters, and no options."""
    settings = json.loads((folder / "embeddings.json").read_text())
    del settings["shard_characters"], settings["model"]["options"]
    settings |= {"format_version": 1, "complete": complete}
    (folder / "embeddings.json").write_text(json.dumps(settings))


def test_stores_of_the_first_format_open_and_are_gone_on_with(tmp_path: Path) -> None:
    write_embeddings(tmp_path, DOCUMENTS, CountingEncoder(), SETTINGS)
    as_format_1(tmp_path, complete=True)
    store = EmbeddingStore(tmp_path)
    assert [each for shard in store for each in shard.documents] == DOCUMENTS
    assert store.model == CountingEncoder().reference
    (tmp_path / "shard-00001.safetensors").unlink()
    as_format_1_again = json.loads((tmp_path / "embeddings.json").read_text())
    (tmp_path / "embeddings.json").write_text(json.dumps({**as_format_1_again, "complete": False}))
    encoder = CountingEncoder()
    write_embeddings(tmp_path, DOCUMENTS, encoder, SETTINGS)
    assert encoder.encoded == [each.contents for each in DOCUMENTS[4:8]]


def test_a_newer_format_is_refused(tmp_path: Path) -> None:
    write_embeddings(tmp_path, DOCUMENTS, CountingEncoder(), SETTINGS)
    settings = json.loads((tmp_path / "embeddings.json").read_text())
    (tmp_path / "embeddings.json").write_text(json.dumps({**settings, "format_version": 3}))
    with pytest.raises(IndexFilesError, match=r"newer release \(format 3.*up to 2"):
        EmbeddingStore(tmp_path)


def test_stale_shards_are_told_by_number_not_by_name(tmp_path: Path) -> None:
    """A hundred thousandth shard sorts before the second one."""
    write_embeddings(tmp_path, DOCUMENTS, CountingEncoder(), SETTINGS)
    (tmp_path / "shard-100000.safetensors").write_bytes(b"")
    store = write_embeddings(tmp_path, DOCUMENTS, CountingEncoder(), SETTINGS)
    assert len(store) == len([each for shard in store for each in shard.documents]) == 10
    assert len(list(tmp_path.glob("shard-*"))) == 3


def test_an_encoder_that_was_not_loaded_can_not_be_shared_out(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="counting was not loaded: save it and load it"):
        write_embeddings(tmp_path, DOCUMENTS, CountingEncoder(), SETTINGS, devices=["cpu"] * 2)


def test_the_closing_line_counts_what_this_run_did(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(KeyboardInterrupt):
        write_embeddings(
            tmp_path, DOCUMENTS, CountingEncoder(stop_after=6), SETTINGS, progress=True
        )
    assert capsys.readouterr().err == ""
    write_embeddings(tmp_path, DOCUMENTS, CountingEncoder(), SETTINGS, progress=True)
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("encoding documents: 6 in ")
    assert line.endswith("; 4 were there already")


@pytest.mark.parametrize("kind", [DenseEncoder, MultiVectorEncoder])
def test_shards_that_are_begun_ahead_hold_what_was_encoded_and_are_restored_to_the_bit(
    tmp_path: Path, tiny_backbone: Path, kind: type[DenseEncoder | MultiVectorEncoder]
) -> None:
    encoder = kind.from_backbone(tiny_backbone, width=16, device="cpu")
    documents = [Document(f"d{each}", "read a file " * (each % 4)) for each in range(9)]
    store = write_embeddings(tmp_path, iter(documents), encoder, SETTINGS)
    assert [each for shard in store for each in shard.documents] == documents
    expected = encoder.encode_documents(each.contents for each in documents)
    for shard in store:
        for row, other in zip(shard.embeddings, expected):
            np.testing.assert_allclose(row, other, atol=1e-5)
    path = tmp_path / "shard-00001.safetensors"
    before, tokens = path.read_bytes(), encoder.inference.encoded_tokens
    path.unlink()
    write_embeddings(tmp_path, iter(documents), encoder, SETTINGS)
    assert path.read_bytes() == before
    model: Any = encoder.model
    prompt = model.prompts.get("document")
    lengths = [
        model[0].preprocess([each.contents], task="document", prompt=prompt)["input_ids"].shape[1]
        for each in documents[4:8]
    ]
    assert encoder.inference.encoded_tokens - tokens == sum(lengths)
