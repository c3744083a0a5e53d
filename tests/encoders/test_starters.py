"""The starters: 8 bits in the package, a checkpoint where they are used, damage named."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from transformers import AutoModel

from retrieval import DenseEncoder, MultiVectorEncoder, load_encoder
from retrieval.encoders import starters
from retrieval.encoders.starters import (
    STARTERS,
    pack_weights,
    ship,
    starter_folder,
    unpack_weights,
)
from retrieval.errors import CheckpointError

TEXTS = ["read a file", "the path of a file (or a folder)"]


@pytest.fixture
def tiny_starters(
    tiny_backbone: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> dict[str, Path]:
    """Both starters of a tiny backbone, shipped and cached below `tmp_path`; their checkpoints."""
    monkeypatch.setattr(starters, "SHIPPED", tmp_path / "shipped")
    monkeypatch.setattr(starters, "_cache", lambda: tmp_path / "cache")
    folders = {"starter-dense": tmp_path / "dense", "starter-colbert": tmp_path / "colbert"}
    DenseEncoder.from_backbone(tiny_backbone).save(folders["starter-dense"])
    # Without prefixes the ColBERT adds no tokens: both stand on the same backbone.
    colbert = MultiVectorEncoder.from_backbone(
        tiny_backbone, width=16, query_prefix="", document_prefix="", query_expansion=False
    )
    colbert.save(folders["starter-colbert"])
    backbone = AutoModel.from_pretrained(tiny_backbone)
    ship({name: each.numpy() for name, each in backbone.state_dict().items()}, folders, "a test")
    return folders


def test_eight_bits_lose_at_most_half_a_step_of_their_row() -> None:
    rng = np.random.default_rng(0)
    matrix = rng.normal(size=(20, 30)).astype(np.float32) * rng.lognormal(size=(20, 1))
    matrix[3] = 0
    weights = {"matrix": matrix.astype(np.float32), "bias": rng.normal(size=7).astype(np.float32)}
    packed = pack_weights(weights)
    assert packed["matrix"].dtype == np.int8
    found = unpack_weights(packed)
    assert set(found) == set(weights)
    largest = np.abs(matrix).max(axis=1, keepdims=True)
    error = np.abs(found["matrix"].astype(np.float32) - matrix)
    assert (error <= largest * (0.5 / 127 + 2**-11)).all()
    np.testing.assert_allclose(found["bias"], weights["bias"], rtol=2**-11)


@pytest.mark.parametrize(("name", "is_multi_vector"), [(n, n != "starter-dense") for n in STARTERS])
def test_a_starter_gives_its_models_vectors_under_its_own_name(
    tiny_starters: dict[str, Path], name: str, is_multi_vector: bool
) -> None:
    encoder = load_encoder(name, device="cpu")
    assert encoder.is_multi_vector == is_multi_vector
    assert encoder.reference.name == name
    original = load_encoder(tiny_starters[name], device="cpu")
    for one, other in zip(encoder.encode_documents(TEXTS), original.encode_documents(TEXTS)):
        cosine = (one * other).sum(axis=-1)
        assert np.shape(one) == np.shape(other)
        assert float(np.min(cosine)) > 0.999
    again = load_encoder(name, device="cpu")
    assert again.reference.fingerprint == encoder.reference.fingerprint


def test_a_starter_is_written_out_once(tiny_starters: dict[str, Path], tmp_path: Path) -> None:
    folder = starter_folder("starter-dense")
    before = (folder / "model.safetensors").stat().st_mtime_ns
    assert starter_folder("starter-dense") == folder
    assert (folder / "model.safetensors").stat().st_mtime_ns == before
    assert [each.name for each in (tmp_path / "cache").iterdir()] == [folder.name]


def test_a_cache_that_cannot_be_written_is_replaced(
    tiny_starters: dict[str, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setattr(starters, "_cache", lambda: tmp_path / "file" / "below")
    monkeypatch.setattr("tempfile.gettempdir", lambda: str(tmp_path / "temporary"))
    folder = starter_folder("starter-dense")
    assert folder.is_relative_to(tmp_path / "temporary")
    assert "can't be written" in caplog.text


def test_damaged_and_missing_files_are_named(
    tiny_starters: dict[str, Path], tmp_path: Path
) -> None:
    packed = tmp_path / "shipped" / "backbone.safetensors"
    data = bytearray(packed.read_bytes())
    data[-100] ^= 1
    packed.write_bytes(data)
    with pytest.raises(CheckpointError, match=r"backbone.safetensors: damaged"):
        load_encoder("starter-colbert")
    packed.unlink()
    with pytest.raises(CheckpointError, match="install it again"):
        load_encoder("starter-colbert")


@pytest.mark.parametrize("name", STARTERS)
def test_the_shipped_starters_know_what_belongs_together(name: str) -> None:
    encoder = load_encoder(name, device="cpu")
    assert encoder.width == (128 if encoder.is_multi_vector else 384)
    queries = list(encoder.encode_queries(["how do I copy a file", "symptoms of influenza"]))
    documents = list(
        encoder.encode_documents(
            [
                "Influenza begins with fever, cough and muscle pain.",
                "shutil.copy2(source, target) duplicates a file with its metadata.",
                "The Danube flows into the Black Sea.",
            ]
        )
    )
    if encoder.is_multi_vector:
        scores = [[float((q @ d.T).max(axis=1).sum()) for d in documents] for q in queries]
    else:
        scores = [[float(q @ d) for d in documents] for q in queries]
    assert [int(np.argmax(row)) for row in scores] == [1, 0]


def test_a_shipped_starter_is_small() -> None:
    sizes = [each.stat().st_size for each in starters.SHIPPED.rglob("*") if each.is_file()]
    assert sum(sizes) < 25_000_000
    assert sum(sizes) > 1_000_000
