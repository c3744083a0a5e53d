"""Inverted lists against a listing one token at a time, and segments joined."""

from __future__ import annotations

import numpy as np

from retrieval.indexing.plaid.codec import EncodedTokens
from retrieval.indexing.plaid.segment import invert, make_segment, merged_lists


def test_lists_equal_a_listing_by_hand() -> None:
    generator = np.random.default_rng(0)
    lengths = generator.integers(0, 9, 200)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    codes = generator.integers(0, 50, offsets[-1]).astype(np.uint16)
    codes[codes == 17] = 18
    lists = invert(codes, offsets)
    expected: list[set[int]] = [set() for _ in range(50)]
    for document in range(200):
        for code in codes[offsets[document] : offsets[document + 1]]:
            expected[code].add(document)
    assert expected[17] == set()
    starts, ends = lists.places(np.arange(50))
    for centroid in range(50):
        documents = lists.documents[starts[centroid] : ends[centroid]]
        assert documents.tolist() == sorted(expected[centroid])
    assert lists.centroids.tolist() == [each for each in range(50) if expected[each]]


def test_no_tokens_give_empty_lists() -> None:
    lists = invert(np.empty(0, np.uint16), np.zeros(4, np.int64))
    assert lists.starts.tolist() == [0]
    assert lists.documents.tolist() == []
    assert [each.tolist() for each in lists.places(np.array([0, 7]))] == [[0, 0], [0, 0]]


def test_lists_of_segments_are_joined_in_order() -> None:
    generator = np.random.default_rng(1)
    lengths = generator.integers(0, 9, 90)
    codes = generator.integers(0, 300, lengths.sum()).astype(np.uint16)
    bounds = np.concatenate([[0], np.cumsum(lengths)])
    segments = []
    for first, last in ((0, 40), (40, 41), (41, 41), (41, 90)):
        part = codes[bounds[first] : bounds[last]]
        encoded = EncodedTokens(part, np.zeros((len(part), 4), np.uint8), np.ones(len(part), "f2"))
        segments.append(make_segment(lengths[first:last].tolist(), encoded))
    whole = invert(codes, bounds)
    for at_once in (7, 64, 1000):
        parts = list(merged_lists(segments, at_once))
        starts = [parts[0].starts[:1], *(part.starts[1:] for part in parts)]
        assert (
            np.concatenate([part.centroids for part in parts]).tolist() == whole.centroids.tolist()
        )
        assert np.concatenate(starts).tolist() == whole.starts.tolist()
        assert (
            np.concatenate([part.documents for part in parts]).tolist() == whole.documents.tolist()
        )
