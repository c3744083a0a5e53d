"""The residual codec: rounding to the nearest value, packing without loss, lengths kept."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from retrieval import native
from retrieval.indexing.plaid.codec import LONGEST, SHORTEST, ResidualCodec
from retrieval.indexing.plaid.codec_file import read_codec, save_codec
from retrieval.indexing.plaid.kmeans import CentroidSearch, fit_centroids
from retrieval.indexing.plaid.native_build import encode
from retrieval.indexing.plaid.values import Floats, fit_values
from tests.indexing.plaid.plaid_worlds import Rounding, make_world, unequal_directions

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


def uneven_tokens(width: int, count: int, seed: int) -> NDArray[np.float32]:
    """Around 60 centres, most of them along few directions."""
    generator = np.random.default_rng(seed)
    directions = unequal_directions(width, np.random.default_rng(width))
    centres = np.random.default_rng(1).standard_normal((60, width))
    noise = generator.standard_normal((count, width)) @ directions
    tokens = centres[generator.integers(0, 60, count)] + 0.5 * noise
    units: NDArray[np.float64] = tokens / np.linalg.norm(tokens, axis=1, keepdims=True)
    return units.astype(np.float32)


@pytest.mark.parametrize(("bits", "less"), [(1, 0.75), (2, 0.6)])
def test_principal_directions_lose_less_of_scores(bits: int, less: float) -> None:
    tokens, others = uneven_tokens(64, 6000, 0), uneven_tokens(64, 2000, 1)
    centroids = fit_centroids(tokens, 64, iterations=3, seed=0)
    search = CentroidSearch(centroids)
    codes = search.nearest(tokens)
    codec = ResidualCodec.fit(centroids, tokens, codes, bits)
    assert codec.principal is not None
    assert codec.residual_bytes == 64 * bits // 8
    residuals = tokens - codec.centroids[codes]
    plain = replace(codec, values=fit_values(residuals, bits), principal=None)
    errors = []
    for each in (codec, plain):
        encoded = each.encode(others, search.nearest(others))
        assert encoded.residuals.shape == (2000, each.residual_bytes)
        lost = (each.decode(encoded) - others) @ tokens[:500].T
        errors.append(float(np.mean(np.square(lost))))
    assert errors[0] < less * errors[1]


def test_equal_directions_and_more_bits_have_components_of_their_own(clustered: Tokens) -> None:
    assert fitted(clustered, 2).principal is None  # 13 components fill no bytes
    flat = np.random.default_rng(0).standard_normal((6000, 64)).astype(np.float32)
    flat /= np.linalg.norm(flat, axis=1, keepdims=True)
    uneven = uneven_tokens(64, 6000, 0)
    few = uneven[:500]  # which say little of 64 directions
    for tokens, bits in ((flat, 2), (uneven, 4), (uneven, 8), (few, 2)):
        centroids = fit_centroids(tokens, 32, iterations=2, seed=0)
        codes = CentroidSearch(centroids).nearest(tokens)
        codec = ResidualCodec.fit(centroids, tokens, codes, bits)
        assert codec.principal is None


@pytest.mark.parametrize("bits", [1, 2])
def test_products_of_residuals_are_those_of_unpacked_ones(bits: int) -> None:
    for rounding in (Rounding(bits), Rounding(bits, True)):
        world = make_world(64, rounding, [100] * 3)
        (segment,), query = world.segments, world.query(9, 0)
        unpacked = world.codec.residuals(segment.residuals)
        products = world.codec.residual_products(segment.residuals, query)
        assert products == pytest.approx(unpacked @ query.T, abs=1e-5)


@pytest.mark.parametrize("compiled", [False, True])
def test_scales_are_finite_for_any_token(compiled: bool) -> None:
    """Where what the codes stand for is next to nothing, too."""
    codec = make_world(64, Rounding(2, True), [100] * 10).codec
    assert codec.principal is not None
    # Centroids that codes can take away, and tokens in which nothing else is along directions.
    drawn = np.random.default_rng(0).standard_normal((8, 64)).astype(np.float32)
    along = drawn @ codec.principal.to_components @ codec.principal.directions
    units: Floats = along / np.linalg.norm(along, axis=1, keepdims=True)
    no_centroids = replace(codec, centroids=np.zeros((8, 64), np.float32))
    centroids = no_centroids.residuals(no_centroids.encode(units, np.arange(8)).residuals)
    _, _, rows = np.linalg.svd(codec.principal.directions)
    codec = replace(codec, centroids=centroids.astype(np.float16).astype(np.float32))
    tokens: Floats = (rows[-8:] * (LONGEST - 1)).astype(np.float32)
    if compiled and native.library() is None:
        pytest.skip("no compiled library")
    run = encode if compiled else ResidualCodec.encode
    encoded = run(codec, tokens, np.arange(8))
    assert encoded.scales == pytest.approx(np.full(8, (LONGEST - 1) / SHORTEST), rel=1e-3)
    assert (np.linalg.norm(codec.decode(encoded), axis=1) < LONGEST).all()


@pytest.mark.parametrize("rounding", [Rounding(1, True), Rounding(2, True), Rounding(2)])
def test_a_saved_codec_is_the_same(tmp_path: Path, rounding: Rounding) -> None:
    codec = make_world(48 if rounding.bits == 1 else 40, rounding, [100] * 9).codec
    save_codec(tmp_path / "codec.safetensors", codec, 0.5)
    read, energy = read_codec(tmp_path / "codec.safetensors")
    assert energy == 0.5
    assert read.bits == codec.bits == rounding.bits
    assert np.array_equal(read.values, codec.values)
    assert (read.principal is None) == (codec.principal is None)
    if read.principal is not None and codec.principal is not None:
        assert np.array_equal(read.principal.directions, codec.principal.directions)
        assert np.array_equal(read.principal.first_values, codec.principal.first_values)
