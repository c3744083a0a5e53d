"""Static models (model2vec): one vector a token, averaged; loaded by name like any other."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from retrieval import DenseEncoder, load_encoder
from retrieval.errors import ConfigError

WORDS = ["[PAD]", "[UNK]", "paris", "capital", "of", "france", "bread", "flour", "salt"]
TEXTS = ["paris capital", "bread of flour", "", "unknown words"]


def save_static(folder: Path, seed: int = 0, max_length: int = 512) -> Path:
    """A model2vec model with random vectors of nine words."""
    model2vec = pytest.importorskip("model2vec", reason="needs the extra [static]")
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import Whitespace

    vocabulary = {word: number for number, word in enumerate(WORDS)}
    tokenizer = Tokenizer(WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = Whitespace()
    vectors = np.random.default_rng(seed).normal(size=(len(WORDS), 8)).astype(np.float32)
    model = model2vec.StaticModel(vectors, tokenizer, normalize=True, max_length=max_length)
    model.save_pretrained(folder)
    return folder


@pytest.fixture
def static(tmp_path: Path) -> Path:
    return save_static(tmp_path / "static")


def test_a_static_model_loads_by_name_and_gives_model2vecs_vectors(static: Path) -> None:
    from model2vec import StaticModel

    encoder = load_encoder(static, device="cpu")
    assert isinstance(encoder, DenseEncoder)
    assert (encoder.width, encoder.reference.is_multi_vector) == (8, False)
    known = TEXTS[:2]
    expected = StaticModel.from_pretrained(static).encode(known)
    for found in (encoder.encode_documents(known), encoder.encode_queries(known)):
        np.testing.assert_allclose(np.stack(list(found)), expected, atol=1e-6)
    assert np.isfinite(np.stack(list(encoder.encode_documents(TEXTS)))).all()


def test_its_fingerprint_knows_its_vectors_and_its_limit_and_not_its_folder(
    static: Path, tmp_path: Path
) -> None:
    moved = shutil.copytree(static, tmp_path / "moved")
    folders = [
        static,
        moved,
        save_static(tmp_path / "other", seed=1),
        save_static(tmp_path / "short", max_length=16),
    ]
    first, *others = (load_encoder(each).reference.fingerprint for each in folders)
    assert others[0] == first
    assert len({first, *others}) == 3


def test_a_limit_that_it_can_not_have_is_refused(static: Path) -> None:
    with pytest.raises(ConfigError, match="no limit document_length"):
        load_encoder(static, document_length=10)
