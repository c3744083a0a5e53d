"""`retrieval export --to pylate`, loaded by PyLate itself: the vectors of the exported model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from safetensors.numpy import load_file

from retrieval.encoders.export import export_model
from retrieval.encoders.multi_vector import MultiVectorEncoder
from tests.with_pylate.export_cases import CASES, FIXTURES, OTHER_FINGERPRINT

pylate: Any = pytest.importorskip("pylate.models", reason="needs PyLate: make test-pylate")

EXPORTS = Path(__file__).parents[2] / "build" / "pylate-exports"
TOLERANCE = 1e-5

# PyLate drops the rows of the table that no token has.
OTHER_IN_PYLATE = (*OTHER_FINGERPRINT, "spare-embeddings")


@pytest.fixture(scope="module", params=CASES)
def export(request: pytest.FixtureRequest) -> Path:
    if not EXPORTS.is_dir():
        pytest.skip("needs exports of the other environment: make test-pylate")
    return EXPORTS / str(request.param)


@pytest.mark.parametrize("batch_size", [1, 5])
@pytest.mark.parametrize("role", ["query", "document"])
def test_pylate_gives_the_vectors_of_the_exported_model(
    export: Path, role: str, batch_size: int
) -> None:
    facts = json.loads((export / "reference.json").read_text("utf-8"))
    arrays = load_file(export / "embeddings.safetensors")
    expected = np.split(arrays[f"{role}_embeddings"], arrays[f"{role}_offsets"][1:-1])
    model = pylate.ColBERT(str(export / "checkpoint"), device="cpu")
    texts = facts["queries" if role == "query" else "documents"]
    vectors: list[NDArray[np.float32]] = model.encode(
        texts,
        is_query=role == "query",
        prompt_name=role if model.prompts.get(role) else None,
        batch_size=batch_size,
        show_progress_bar=False,
    )
    assert [len(each) for each in vectors] == [len(each) for each in expected]
    for ours, theirs, text in zip(expected, vectors, texts, strict=True):
        assert np.abs(ours - theirs).max(initial=0) <= TOLERANCE, text


def test_an_index_opens_with_the_export_in_pylate(export: Path) -> None:
    fingerprint = json.loads((export / "reference.json").read_text("utf-8"))["fingerprint"]
    model = pylate.ColBERT(str(export / "checkpoint"), device="cpu")
    same = MultiVectorEncoder(model).reference.fingerprint == fingerprint
    assert same == (export.name not in OTHER_IN_PYLATE)


def test_a_live_pylate_model_is_exported_by_pylate(tmp_path: Path) -> None:
    encoder = MultiVectorEncoder.load(FIXTURES / "pylate-default" / "checkpoint", device="cpu")
    assert isinstance(encoder.model, pylate.ColBERT)
    done = export_model(encoder, tmp_path / "export", to="pylate")
    assert done.max_difference <= TOLERANCE
    copy = MultiVectorEncoder.load(tmp_path / "export", device="cpu")
    assert copy.reference.fingerprint == encoder.reference.fingerprint
