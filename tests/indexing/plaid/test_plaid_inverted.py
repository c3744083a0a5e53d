"""Inverted lists against a listing one token at a time."""

from __future__ import annotations

import numpy as np

from retrieval.indexing.plaid.inverted import invert


def test_lists_equal_a_listing_by_hand() -> None:
    generator = np.random.default_rng(0)
    lengths = generator.integers(0, 9, 200)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    codes = generator.integers(0, 50, offsets[-1]).astype(np.uint16)
    codes[codes == 17] = 18
    lists = invert(codes, offsets, 50)
    expected: list[set[int]] = [set() for _ in range(50)]
    for document in range(200):
        for code in codes[offsets[document] : offsets[document + 1]]:
            expected[code].add(document)
    assert expected[17] == set()
    for centroid in range(50):
        documents = lists.documents[lists.starts[centroid] : lists.starts[centroid + 1]]
        assert documents.tolist() == sorted(expected[centroid])


def test_no_tokens_give_empty_lists() -> None:
    lists = invert(np.empty(0, np.uint16), np.zeros(4, np.int64), 3)
    assert lists.starts.tolist() == [0, 0, 0, 0]
    assert lists.documents.tolist() == []
