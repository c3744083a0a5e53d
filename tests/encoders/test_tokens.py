"""Tokenisation without padding gives the ids of Sentence Transformers, or leaves it to them."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from retrieval import DenseEncoder, MultiVectorEncoder
from retrieval.encoders.tokens import Role, UnpaddedTokenizer

TEXTS = [
    "read a file",
    "",
    " outer \n",
    "def f(x):\n    return x",
    "the path " * 40,
    "東京",
    "[MASK]",
]


def transformer_of(backbone: Path, **settings: Any) -> Any:
    transformer = MultiVectorEncoder.from_backbone(backbone, query_expansion=False).model[0]
    for name, value in settings.items():
        setattr(transformer, name, value)
    return transformer


def expansion(strategy: str, length: int, *, attend: bool = False) -> dict[str, Any]:
    return {"strategy": strategy, "length": length, "attend": attend}


@pytest.mark.parametrize("role", ["query", "document"])
@pytest.mark.parametrize("prompt", ["", "[Q] ", "find: "])
@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"query_length": None, "document_length": None},
        {"query_length": 5, "document_length": 7},
        {"query_expansion": expansion("fixed", 16)},
        {"query_expansion": expansion("fixed", 16, attend=True)},
        {"query_expansion": expansion("min", 16), "query_length": 30},
        {"query_expansion": expansion("min", 16), "query_length": 8},
        {"query_expansion": {**expansion("fixed", 16), "token": "[SEP]"}},
    ],
    ids=str,
)
def test_ids_and_lengths_are_those_of_sentence_transformers(
    tiny_backbone: Path, settings: dict[str, Any], prompt: str, role: Role
) -> None:
    transformer = transformer_of(tiny_backbone, **settings)
    tokenizer = UnpaddedTokenizer(transformer)
    assert tokenizer.can_do(prompt, role)
    found = tokenizer(TEXTS, prompt=prompt, role=role)
    features = transformer.preprocess(TEXTS, prompt=prompt or None, task=role)
    is_text = features["attention_mask"].bool()
    is_expansion = features.get("query_expansion_positions", is_text & ~is_text)
    is_token = is_text | is_expansion
    for ids, row, kept in zip(found.ids, features["input_ids"], is_token, strict=True):
        assert ids == row[kept].tolist()
    assert found.lengths.tolist() == is_token.sum(1).tolist()
    if role == "query" and settings.get("query_expansion"):
        assert found.is_attended == settings["query_expansion"]["attend"]
        assert found.real.tolist() == (is_token & ~is_expansion).sum(1).tolist()
    else:
        assert found.real.tolist() == found.lengths.tolist()


def test_padding_that_the_library_left_switched_on_does_not_leak(tiny_backbone: Path) -> None:
    transformer = transformer_of(tiny_backbone)
    tokenizer = UnpaddedTokenizer(transformer)
    before = tokenizer(TEXTS, prompt="", role="document").ids
    transformer.preprocess(TEXTS, task="document")
    assert tokenizer(TEXTS, prompt="", role="document").ids == before
    assert len(set(map(len, before))) > 3


def test_tokens_that_are_added_later_are_known(tiny_backbone: Path) -> None:
    transformer = transformer_of(tiny_backbone)
    tokenizer = UnpaddedTokenizer(transformer)
    before = tokenizer(["<new> file"], prompt="", role="document").ids[0]
    transformer.tokenizer.add_tokens(["<new>"])
    after = tokenizer(["<new> file"], prompt="", role="document").ids[0]
    assert after[1] == transformer.tokenizer.convert_tokens_to_ids("<new>")
    assert len(after) < len(before)
    assert tokenizer.can_do("", "document")


@pytest.mark.parametrize("length", [50, 700])
def test_a_limit_that_we_do_not_read_is_noticed_and_left_to_sentence_transformers(
    tiny_backbone: Path, caplog: pytest.LogCaptureFixture, length: int
) -> None:
    encoder = DenseEncoder.from_backbone(tiny_backbone)
    transformer: Any = encoder.model[0]
    texts = ["the path of a file " * 300, "read"]
    whole = list(encoder.encode_documents(texts))  # cut at the backbone's 1,024
    transformer.processing_kwargs = {"text": {"max_length": length}}
    with caplog.at_level(logging.WARNING, logger="retrieval.encoders.tokens"):
        found = list(encoder.encode_documents(texts))
    expected = encoder.model.encode_document(texts)
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert np.abs(found[0] - whole[0]).max() > 1e-4
    assert "tokenises document texts in a way of its own" in caplog.text


def test_left_padding_is_left_to_sentence_transformers(tiny_backbone: Path) -> None:
    transformer = transformer_of(tiny_backbone)
    transformer.tokenizer.padding_side = "left"
    assert not UnpaddedTokenizer(transformer).can_do("", "query")


@pytest.mark.parametrize(
    "text",
    [
        "the path of a file, " * 2_000,
        "the path\n" + " " * 5_000 + "of a file " * 1_000,
        "東京" * 5_000,
        "x" * 20_000,
        "a" + "\t" * 20_000,
        "short. " + "y" * 20_000 + " end of a file" * 100,
    ],
    ids=["words", "blanks", "no blanks", "one word", "only blanks", "a word in words"],
)
@pytest.mark.parametrize("limit", [5, 30])
def test_a_very_long_text_gives_the_tokens_of_its_whole(
    tiny_backbone: Path, text: str, limit: int
) -> None:
    tokenizer = UnpaddedTokenizer(transformer_of(tiny_backbone, document_length=limit))
    found = tokenizer([text], prompt="", role="document")
    whole = tokenizer._tokenizer(limit).encode(text)
    assert found.ids == [whole.ids]
    assert found.truncated == bool(whole.overflowing)


def test_of_a_very_long_text_only_the_beginning_is_tokenised(tiny_backbone: Path) -> None:
    tokenizer = UnpaddedTokenizer(transformer_of(tiny_backbone, document_length=30))
    text = "the path of a file, " * 100_000
    assert tokenizer([text], prompt="", role="document").lengths.tolist() == [30]
    assert len(tokenizer._beginning(text, 30)) == 30 * 32
    assert tokenizer._beginning(text[:900], 30) == text[:900]
    assert tokenizer._beginning(text, None) == text
