"""The residual codec: rounding to the nearest value, packing without loss, lengths kept."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray

from retrieval import native
from retrieval.indexing.plaid.codec import ResidualCodec
from retrieval.indexing.plaid.kmeans import CentroidSearch, fit_centroids
from retrieval.indexing.plaid.native_build import encode

Tokens = Callable[[int, int], NDArray[np.float32]]


def fitted(clustered: Tokens, bits: int) -> ResidualCodec:
    tokens = clustered(4000, 0)
    centroids = fit_centroids(tokens, 64, iterations=3, seed=0)
    codes = CentroidSearch(centroids).nearest(tokens)
    return ResidualCodec.fit(centroids, tokens, codes, bits)


def test_the_error_falls_with_the_bits(clustered: Tokens) -> None:
    tokens = clustered(1000, 1)
    errors = []
    for bits in (1, 2, 4, 8):
        codec = fitted(clustered, bits)
        codes = CentroidSearch(codec.centroids).nearest(tokens)
        decoded = codec.decode(codec.encode(tokens, codes))
        errors.append(float(np.mean(np.sum((decoded - tokens) ** 2, axis=1))))
        alone = float(np.mean(np.sum((codec.centroids[codes] - tokens) ** 2, axis=1)))
        assert errors[-1] < alone
    # A bit more halves the steps, and leaves a quarter of the error where there are many.
    assert errors[1] < errors[0] / 2
    assert errors[2] < errors[1] / 6
    # At 8 bits they also reach far beyond the residuals that were seen.
    assert errors[3] < errors[2] / 8


@pytest.mark.parametrize("compiled", [False, True])
def test_8_bits_learned_from_next_to_nothing_serve_any_token(compiled: bool) -> None:
    generator = np.random.default_rng(0)
    tokens = generator.standard_normal((500, 128)).astype(np.float32)
    tokens /= np.linalg.norm(tokens, axis=1, keepdims=True)
    # Three tokens that are centroids themselves: no residual was seen at all.
    codec = ResidualCodec.fit(tokens[:3], tokens[:3], np.arange(3), 8)
    codes = CentroidSearch(codec.centroids).nearest(tokens)
    if compiled and native.library() is None:
        pytest.skip("no compiled library")
    encoded = encode(codec, tokens, codes) if compiled else codec.encode(tokens, codes)
    products = (codec.decode(encoded) * tokens).sum(axis=1)
    assert products == pytest.approx(np.ones(500), abs=2e-3)


@pytest.mark.parametrize(("bits", "size"), [(1, 2), (2, 4), (4, 7), (8, 13)])
def test_packed_residuals_are_the_nearest_values(clustered: Tokens, bits: int, size: int) -> None:
    codec = fitted(clustered, bits)
    tokens = clustered(500, 1)
    codes = CentroidSearch(codec.centroids).nearest(tokens)
    packed = codec.encode(tokens, codes).residuals
    assert codec.bits == bits
    assert packed.dtype == np.uint8
    assert packed.shape == (500, size)
    distances = np.abs((tokens - codec.centroids[codes])[:, :, None] - codec.values)
    unpacked = codec.residuals(packed)
    assert unpacked.shape == tokens.shape
    assert np.isin(unpacked, codec.values).all()
    error = np.abs(tokens - codec.centroids[codes] - unpacked)
    assert error == pytest.approx(distances.min(axis=2), abs=1e-6)


def test_decoded_tokens_keep_their_lengths(clustered: Tokens) -> None:
    codec = fitted(clustered, 2)
    lengths = np.linspace(0, 3, 100, dtype=np.float32)
    tokens = clustered(100, 1) * lengths[:, None]
    codes = CentroidSearch(codec.centroids).nearest(tokens)
    decoded = codec.decode(codec.encode(tokens, codes))
    assert np.linalg.norm(decoded, axis=1) == pytest.approx(lengths, abs=2e-3)  # float16
    assert np.array_equal(decoded[0], np.zeros(13))


def test_equal_residuals_can_be_learned_from(clustered: Tokens) -> None:
    centroids = clustered(20, 0).astype(np.float16).astype(np.float32)
    codes = np.arange(20)
    codec = ResidualCodec.fit(centroids, centroids, codes, 4)
    decoded = codec.decode(codec.encode(centroids, codes))
    # The only bin of the histogram that is filled is 1/4096 wide.
    assert decoded == pytest.approx(centroids, abs=1 / 4096)


def test_codes_above_65535_are_kept() -> None:
    angles = np.linspace(0, 6, 65_600, dtype=np.float32)
    centroids = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    codec = ResidualCodec.fit(centroids, centroids[:100], np.arange(100), 4)
    encoded = codec.encode(centroids[[3, 65_599]], np.array([3, 65_599]))
    assert encoded.codes.tolist() == [3, 65_599]


def test_centroids_survive_the_rounding_of_the_file(clustered: Tokens) -> None:
    codec = fitted(clustered, 4)
    assert np.array_equal(codec.centroids, codec.centroids.astype(np.float16).astype(np.float32))
