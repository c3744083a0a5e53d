"""PyLate and Stanford ColBERT checkpoints give the vectors that PyLate computed for them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import sentence_transformers
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

from retrieval.encoders.checkpoints import checkpoint_kind
from retrieval.encoders.dense import DenseEncoder
from retrieval.encoders.loading import load_encoder
from retrieval.encoders.multi_vector import MultiVectorEncoder
from retrieval.errors import CheckpointError

VARIANTS = [
    "pylate-default",
    "pylate-attending",
    "pylate-unexpanded",
    "pylate-prompted",
    "pylate-bert",
    "stanford-bert",
]
# float32 vectors of unit length; another processor or batch shape moves them by some 1e-7
TOLERANCE = 1e-5

Vectors = NDArray[np.float32]


class Reference(NamedTuple):
    """A checkpoint that PyLate wrote, and what PyLate computed with it."""

    checkpoint: Path
    fingerprint: str
    queries: list[str]
    documents: list[str]
    query_vectors: list[Vectors]
    document_vectors: list[Vectors]


def read_reference(folder: Path) -> Reference:
    facts = json.loads((folder / "reference.json").read_text("utf-8"))
    arrays = load_file(folder / "embeddings.safetensors")

    def vectors(role: str) -> list[Vectors]:
        return np.split(arrays[f"{role}_embeddings"], arrays[f"{role}_offsets"][1:-1])

    return Reference(
        checkpoint=folder / "checkpoint",
        fingerprint=facts["fingerprint"],
        queries=facts["queries"],
        documents=facts["documents"],
        query_vectors=vectors("query"),
        document_vectors=vectors("document"),
    )


@pytest.fixture(scope="module")
def committed() -> Path:
    return Path(__file__).parents[1] / "fixtures"


@pytest.fixture(scope="module")
def references(request: pytest.FixtureRequest, committed: Path) -> Path:
    """The folder of references: the committed one, or the one given by --pylate-reference."""
    return Path(request.config.getoption("--pylate-reference") or committed)


@pytest.fixture(scope="module", params=VARIANTS)
def reference(request: pytest.FixtureRequest, references: Path) -> Reference:
    return read_reference(references / request.param)


@pytest.fixture(scope="module")
def encoder(reference: Reference) -> MultiVectorEncoder:
    return MultiVectorEncoder.load(reference.checkpoint, device="cpu", batch_size=5)


def assert_same(actual: list[Vectors], expected: list[Vectors], texts: list[str]) -> None:
    assert len(actual) == len(expected) == len(texts)
    for ours, theirs, text in zip(actual, expected, texts):
        assert ours.shape == theirs.shape, text
        assert np.abs(ours - theirs).max() <= TOLERANCE, text


def test_queries_get_pylates_vectors(reference: Reference, encoder: MultiVectorEncoder) -> None:
    vectors = list(encoder.encode_queries(reference.queries))
    assert_same(vectors, reference.query_vectors, reference.queries)


def test_documents_get_pylates_vectors(reference: Reference, encoder: MultiVectorEncoder) -> None:
    vectors = list(encoder.encode_documents(reference.documents))
    assert_same(vectors, reference.document_vectors, reference.documents)


def test_pylate_and_sentence_transformers_share_a_fingerprint(
    reference: Reference, encoder: MultiVectorEncoder
) -> None:
    """What was indexed through a live PyLate model opens without PyLate.

    A change of the fingerprint's recipe makes every stored index refuse its model: if that is
    meant, make the references anew (tests/with_pylate/make_reference.py).
    """
    assert encoder.reference.fingerprint == reference.fingerprint


def test_saved_again_it_still_gives_pylates_vectors(
    reference: Reference, encoder: MultiVectorEncoder, tmp_path: Path
) -> None:
    MultiVectorEncoder(encoder.model).save(tmp_path / "once")
    MultiVectorEncoder.load(tmp_path / "once", device="cpu").save(tmp_path / "twice")
    reloaded = MultiVectorEncoder.load(tmp_path / "twice", device="cpu")
    queries = list(reloaded.encode_queries(reference.queries))
    documents = list(reloaded.encode_documents(reference.documents))
    assert_same(queries, reference.query_vectors, reference.queries)
    assert_same(documents, reference.document_vectors, reference.documents)
    assert reloaded.reference.fingerprint == reference.fingerprint


def test_fingerprints_of_different_checkpoints_differ(references: Path) -> None:
    fingerprints = {read_reference(references / name).fingerprint for name in VARIANTS}
    assert len(fingerprints) == len(VARIANTS)


def test_reference_tells_attended_expansion_from_unattended(references: Path) -> None:
    """The tiny backbones have weights that are large enough for the comparison to mean something.

    Both variants have the same backbone and projection: only the attention to the mask tokens
    differs, and it moves the query's own tokens.
    """
    default, attending = (
        read_reference(references / name).query_vectors[1]
        for name in ("pylate-default", "pylate-attending")
    )
    own_tokens = slice(0, 3)
    assert np.abs(default[own_tokens] - attending[own_tokens]).max() > 0.1


def test_empty_texts_keep_their_special_tokens(reference: Reference) -> None:
    at = reference.documents.index("")
    assert len(reference.document_vectors[at]) >= 2
    assert np.allclose(np.linalg.norm(reference.document_vectors[at], axis=1), 1, atol=1e-5)


@pytest.mark.skipif(
    not hasattr(sentence_transformers, "MultiVectorEncoder"),
    reason="needs sentence-transformers 6",
)
def test_sentence_transformers_alone_keeps_outer_blanks(references: Path) -> None:
    """Why our encoder strips the texts of these checkpoints: PyLate does, its loader does not."""
    reference = read_reference(references / "pylate-default")
    model = sentence_transformers.MultiVectorEncoder(str(reference.checkpoint), device="cpu")
    vectors = model.encode_document(reference.documents, convert_to_numpy=True)
    differing = [
        text
        for text, ours, theirs in zip(reference.documents, vectors, reference.document_vectors)
        if ours.shape != theirs.shape or np.abs(ours - theirs).max() > TOLERANCE
    ]
    assert differing == [text for text in reference.documents if text != text.strip()]
    assert differing


OldCopy = Callable[[str, list[str]], Reference]


@pytest.fixture
def without_settings(references: Path, tmp_path: Path) -> OldCopy:
    """A function: copy a PyLate checkpoint and drop settings, as older releases wrote them."""

    def copy(name: str, dropped: list[str]) -> Reference:
        reference = read_reference(references / name)
        checkpoint = tmp_path / "checkpoint"
        shutil.copytree(reference.checkpoint, checkpoint)
        path = checkpoint / "config_sentence_transformers.json"
        settings = json.loads(path.read_text("utf-8"))
        for key in dropped:
            del settings[key]
        path.write_text(json.dumps(settings), "utf-8")
        return reference._replace(checkpoint=checkpoint)

    return copy


@pytest.mark.parametrize(
    ("name", "dropped"),
    [
        ("pylate-default", ["model_type", "do_query_expansion"]),
        ("pylate-default", ["query_length", "document_length", "skiplist_words"]),
        ("pylate-prompted", ["model_type"]),
    ],
)
def test_settings_that_a_checkpoint_leaves_out_are_pylates(
    without_settings: OldCopy, name: str, dropped: list[str]
) -> None:
    reference = without_settings(name, dropped)
    encoder = MultiVectorEncoder.load(reference.checkpoint, device="cpu")
    queries = list(encoder.encode_queries(reference.queries))
    documents = list(encoder.encode_documents(reference.documents))
    assert_same(queries, reference.query_vectors, reference.queries)
    assert_same(documents, reference.document_vectors, reference.documents)
    assert encoder.reference.fingerprint == reference.fingerprint


def test_stanford_checkpoint_without_metadata_has_pylates_lengths(
    references: Path, tmp_path: Path
) -> None:
    """The reference's own metadata says 28 and 90; PyLate's defaults are 32 and 180."""
    reference = read_reference(references / "stanford-bert")
    shutil.copytree(reference.checkpoint, tmp_path / "checkpoint")
    (tmp_path / "checkpoint" / "artifact.metadata").unlink()
    encoder = MultiVectorEncoder.load(tmp_path / "checkpoint", device="cpu")
    (query,) = encoder.encode_queries(["lighthouse"])
    (document,) = encoder.encode_documents(["tide " * 300])
    at = reference.queries.index("lighthouse")
    assert len(query) == 32
    assert np.abs(query[:28] - reference.query_vectors[at]).max() <= TOLERANCE
    assert len(document) == 180


def test_missing_pooler_changes_no_fingerprint(references: Path, tmp_path: Path) -> None:
    """Transformers fills in a random one, which would make each load another model."""
    reference = read_reference(references / "stanford-bert")
    shutil.copytree(reference.checkpoint, tmp_path / "checkpoint")
    path = tmp_path / "checkpoint" / "model.safetensors"
    weights = {name: each for name, each in load_file(path).items() if ".pooler." not in name}
    save_file(weights, path, metadata={"format": "pt"})
    encoder = MultiVectorEncoder.load(tmp_path / "checkpoint", device="cpu")
    assert encoder.reference.fingerprint == reference.fingerprint


def test_multi_vector_checkpoints_are_told_from_dense_ones(
    reference: Reference, minilm_path: Path
) -> None:
    assert checkpoint_kind(str(reference.checkpoint)) == "multi_vector"
    assert isinstance(load_encoder(reference.checkpoint, device="cpu"), MultiVectorEncoder)
    assert checkpoint_kind(str(minilm_path)) == "dense"
    with pytest.raises(CheckpointError, match="load it with MultiVectorEncoder"):
        DenseEncoder.load(reference.checkpoint)


def test_plain_backbone_is_no_retriever(references: Path, tmp_path: Path) -> None:
    checkpoint = read_reference(references / "pylate-default").checkpoint
    for name in ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"):
        shutil.copy(checkpoint / name, tmp_path / name)
    assert checkpoint_kind(str(tmp_path)) == "backbone"
    with pytest.raises(CheckpointError, match="from_backbone"):
        MultiVectorEncoder.load(tmp_path)


def test_folder_without_a_model_is_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"neither modules\.json nor config\.json") as raised:
        load_encoder(tmp_path)
    assert str(tmp_path) in str(raised.value)


def test_other_kinds_of_model_are_refused(tmp_path: Path) -> None:
    settings = json.dumps({"model_type": "SparseEncoder"})
    (tmp_path / "config_sentence_transformers.json").write_text(settings, "utf-8")
    with pytest.raises(CheckpointError, match="holds a SparseEncoder, expected a retriever"):
        checkpoint_kind(str(tmp_path))


def test_committed_references_are_what_pylate_makes_now(
    request: pytest.FixtureRequest, reference: Reference, committed: Path
) -> None:
    if not request.config.getoption("--pylate-reference"):
        pytest.skip("needs a fresh reference: make test-pylate")
    before = read_reference(committed / reference.checkpoint.parent.name)
    assert_same(reference.query_vectors, before.query_vectors, before.queries)
    assert_same(reference.document_vectors, before.document_vectors, before.documents)
    assert reference.fingerprint == before.fingerprint
