"""Shingles: the index against plain sets."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from retrieval.training.leak_matching import _rarest
from retrieval.training.text_matching import ShingleIndex, jaccard, shingles, text_key, words

small_texts = st.lists(st.sampled_from("abcdefgh"), max_size=8).map(" ".join)


@given(st.lists(small_texts, min_size=1, max_size=6), small_texts, st.integers(1, 3))
def test_overlaps_are_those_of_sets(texts: list[str], other: str, count: int) -> None:
    def runs(text: str) -> set[tuple[str, ...]]:
        split = text.split()
        return {tuple(split[at : at + count]) for at in range(len(split) - count + 1)}

    index = ShingleIndex([shingles(words(text), count) for text in texts])
    found, shared = index.overlaps(shingles(words(other), count))
    expected = {
        at: len(runs(text) & runs(other))
        for at, text in enumerate(texts)
        if runs(text) & runs(other)
    }
    assert dict(zip(found.tolist(), shared.tolist())) == expected
    assert index.sizes.tolist() == [len(runs(text)) for text in texts]


@given(st.lists(small_texts, min_size=1, max_size=6), small_texts, st.sampled_from([0.5, 0.8, 1]))
def test_the_rarest_shingles_find_every_text_that_is_like(
    texts: list[str], other: str, threshold: float
) -> None:
    sets = [shingles(words(text), 1) for text in texts]
    query = shingles(words(other), 1)
    found = set(ShingleIndex(_rarest(sets, threshold)).overlaps(query)[0].tolist())
    assert {at for at, each in enumerate(sets) if jaccard(each, query) >= threshold} <= found


def test_boilerplate_counts_on_neither_side() -> None:
    common, own = shingles(["licence"], 1), shingles(["licence", "own"], 1)
    index = ShingleIndex([common, common, own], max_texts=2)
    assert index.sizes.tolist() == [0, 0, 1]
    assert index.size(own) == 1
    assert [each.tolist() for each in index.overlaps(own)] == [[2], [1]]
    assert np.array_equal(index.overlaps(common)[0], [])


def test_keys_ignore_case_punctuation_and_unicode_forms_but_no_words() -> None:
    assert text_key("Caf\u00e9, now!") == text_key("cafe\u0301 NOW")
    assert text_key("a b") != text_key("b a")
    assert text_key("++  --") == text_key("++ --") != text_key("--")
    assert words("\u6771\u4eac tower") == ["\u6771", "\u4eac", "tower"]
