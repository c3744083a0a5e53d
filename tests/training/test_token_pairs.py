"""Token pairs: what is drawn, how often, never twice in a batch, and the same for a seed."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import BertConfig, BertModel

from retrieval.errors import InputError
from retrieval.training.token_pairs import PairSource, pair_batches, teacher_of, text_batches


def tokenize(texts: list[str], limit: int) -> list[list[int]]:
    """One id a word: its number."""
    return [[int(word) for word in text.split()][:limit] for text in texts]


@pytest.fixture
def source(tmp_path: Path) -> Callable[..., PairSource]:
    def make(name: str, count: int, first: int, words: int = 5) -> PairSource:
        lines = [
            {"anchor": f"{first + n}", "positive": " ".join([str(first + n)] * words)}
            for n in range(count)
        ]
        path = tmp_path / f"{name}.jsonl"
        path.write_text("".join(json.dumps(line) + "\n" for line in lines), "utf-8")
        return PairSource(path, tokenize, query_tokens=4, document_tokens=7)

    return make


def test_pairs_stay_pairs_and_are_cut_to_their_limits(source: Callable[..., PairSource]) -> None:
    found = source("a", 50, first=100, words=9)
    assert len(found) == 50
    assert [found.queries[7].tolist(), found.documents[7].tolist()] == [[107], [107] * 7]


def test_batches_hold_nothing_twice_and_sources_by_weight(
    source: Callable[..., PairSource],
) -> None:
    sources = {"a": source("a", 20, first=100), "b": source("b", 400, first=1000)}
    weights = {"a": 3.0, "b": 1.0}
    batches = list(
        islice(pair_batches(sources, weights, pairs=12, one_source_share=0.5, seed=5), 300)
    )
    drawn: Counter[str] = Counter()
    mixed = 0
    for queries, documents in batches:
        words = [int(each[0]) for each in queries]
        assert len(set(words)) == len(words) <= 12
        assert words == [int(each[0]) for each in documents]
        names = Counter("a" if word < 1000 else "b" for word in words)
        drawn += names
        mixed += len(names) == 2
    # Half of the batches are mixed, but for the few with twelve of one kind by chance.
    assert 120 < mixed < 180
    # Doubles are dropped from the small source, so that its share stays below three quarters.
    assert 0.6 < drawn["a"] / drawn.total() < 0.75
    again = islice(pair_batches(sources, weights, pairs=12, one_source_share=0.5, seed=5), 300)
    for one, other in zip(batches, again):
        assert [each.tolist() for each in one.queries] == [each.tolist() for each in other.queries]


def test_single_texts_come_by_length_within_the_budget(source: Callable[..., PairSource]) -> None:
    sources = [source("a", 100, first=100), source("b", 100, first=1000, words=2)]
    options = {"tokens": 40, "query_share": 0.3, "max_tokens": 4, "seed": 1}
    seen: Counter[int] = Counter()
    for queries, documents in islice(text_batches(sources, **options), 200):  # type: ignore[arg-type]
        lengths = [len(each) for each in documents]
        assert queries == []
        assert lengths == sorted(lengths)
        assert sum(lengths) <= 40
        seen.update(lengths)
    assert set(seen) == {1, 2, 4}
    assert 0.25 < seen[1] / seen.total() < 0.35


def test_a_line_without_both_texts_is_named(tmp_path: Path) -> None:
    path = tmp_path / "pairs.jsonl"
    path.write_text('{"anchor": "1", "positive": "1"}\n{"anchor": "2"}\n', "utf-8")
    with pytest.raises(InputError, match=r"pairs.jsonl:2: expected texts"):
        PairSource(path, tokenize, query_tokens=4, document_tokens=4)


def test_the_teacher_gives_each_text_its_own_states() -> None:
    torch.manual_seed(0)
    bert: Any = BertModel(
        BertConfig(
            vocab_size=50,
            hidden_size=16,
            num_hidden_layers=2,
            num_attention_heads=2,
            intermediate_size=32,
        )
    )
    bert.eval()
    texts = [np.array(each, np.uint16) for each in ([5, 6, 7], [8], [9, 10, 11, 12, 13], [5])]
    found = teacher_of(bert, pad_id=0, batch_size=2)(texts)
    with torch.no_grad():
        expected = torch.cat(
            [bert(torch.tensor([each.tolist()])).last_hidden_state[0] for each in texts]
        )
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)
