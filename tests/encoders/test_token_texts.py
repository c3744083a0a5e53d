from __future__ import annotations

from pathlib import Path

import pytest

from retrieval.encoders.multi_vector import MultiVectorEncoder
from retrieval.encoders.token_texts import token_texts

TEXTS = ["read a file", "", " the path (of) a folder!\n", "word " * 300]


@pytest.mark.parametrize("expansion", [True, False])
@pytest.mark.parametrize("role", ["query", "document"])
def test_there_are_as_many_texts_as_vectors(
    tiny_backbone: Path, expansion: bool, role: str
) -> None:
    encoder = MultiVectorEncoder.from_backbone(
        tiny_backbone, width=16, query_expansion=expansion, device="cpu"
    )
    encode = encoder.encode_queries if role == "query" else encoder.encode_documents
    for text, vectors in zip(TEXTS, encode(TEXTS), strict=True):
        named = token_texts(encoder, text, role)  # type: ignore[arg-type]
        assert named is not None
        assert len(named) == len(vectors)


def test_the_texts_are_the_words_without_what_is_skipped(tiny_backbone: Path) -> None:
    encoder = MultiVectorEncoder.from_backbone(
        tiny_backbone, width=16, query_expansion=False, device="cpu"
    )
    # ")" is on the skiplist; "(" with its blank is another token.
    assert token_texts(encoder, "a file (or a folder)", "document") == [
        "[CLS]", "[D]", "a", "file", "(", "or", "a", "folder", "[SEP]",
    ]  # fmt: skip


def test_pooled_tokens_have_no_text_of_their_own(tiny_backbone: Path, tmp_path: Path) -> None:
    MultiVectorEncoder.from_backbone(tiny_backbone, width=16).save(tmp_path / "model")
    encoder = MultiVectorEncoder.load(tmp_path / "model", device="cpu", pool_factor=2)
    assert token_texts(encoder, "read a file", "document") is None
    assert token_texts(encoder, "read a file", "query") is not None
