"""Widths, normalisation and quantized output of dense encoders are Sentence Transformers'."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sentence_transformers import SentenceTransformer, quantize_embeddings
from torch import Tensor

from retrieval import DenseEncoder, load_encoder
from retrieval.backbone.modernbert import PackedModernBert
from retrieval.encoders.live_models import as_encoder
from retrieval.encoders.quantization import Quantization
from retrieval.errors import ConfigError, ShapeError

TEXTS = ["read a file", "", "def f(x):\n    return x", "the path " * 40, "東京"]
TOLERANCE = 1e-5  # float32, unit length; padding moves them by some 1e-7


@pytest.fixture(scope="module")
def checkpoint(tiny_backbone: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dense model that ends in Normalize."""
    folder = tmp_path_factory.mktemp("models") / "dense"
    DenseEncoder.from_backbone(tiny_backbone, width=24).save(folder)
    return folder


@pytest.fixture(scope="module")
def reference(checkpoint: Path) -> SentenceTransformer:
    return SentenceTransformer(str(checkpoint), device="cpu")


def encoded(encoder: Any, texts: list[str] = TEXTS) -> Any:
    return np.stack(list(encoder.encode_documents(texts)))


@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize("width", [None, 8])
def test_cut_vectors_are_those_of_sentence_transformers(
    checkpoint: Path, reference: SentenceTransformer, width: int | None, normalize: bool
) -> None:
    encoder = DenseEncoder.load(checkpoint, device="cpu", width=width, normalize=normalize)
    expected = reference.encode_document(TEXTS, truncate_dim=width, normalize_embeddings=normalize)
    np.testing.assert_allclose(encoded(encoder), expected, atol=TOLERANCE)
    is_unit = np.allclose(np.linalg.norm(expected, axis=1), 1, atol=1e-4)
    assert is_unit == (width is None or normalize)  # the case without is one of its own
    assert encoder.reference.width == (width or 24)


@pytest.fixture(scope="module")
def raw_checkpoint(tiny_backbone: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What Sentence Transformers' trainer leaves: no Normalize, and cosine as the similarity."""
    from sentence_transformers.base.modules import Transformer
    from sentence_transformers.sentence_transformer.modules import Pooling

    transformer = Transformer(str(tiny_backbone))
    pooling = Pooling(transformer.get_embedding_dimension(), "mean")
    folder = tmp_path_factory.mktemp("models") / "raw"
    SentenceTransformer(modules=[transformer, pooling], device="cpu").save_pretrained(str(folder))
    return folder


@pytest.mark.parametrize("width", [None, 8])
def test_dot_products_of_a_cosine_model_are_its_similarities(
    raw_checkpoint: Path, width: int | None
) -> None:
    model = SentenceTransformer(str(raw_checkpoint), device="cpu", truncate_dim=width)
    raw = model.encode_document(TEXTS)
    assert np.ptp(np.linalg.norm(raw, axis=1)) > 0.01  # dot products of these are something else
    encoder = DenseEncoder.load(raw_checkpoint, device="cpu", width=width)
    found = encoded(encoder)
    np.testing.assert_allclose(found @ found.T, model.similarity(raw, raw), atol=TOLERANCE)
    as_they_are = DenseEncoder.load(raw_checkpoint, device="cpu", width=width, normalize=False)
    np.testing.assert_allclose(encoded(as_they_are), raw, atol=TOLERANCE * np.abs(raw).max())
    assert as_they_are.reference.fingerprint != encoder.reference.fingerprint
    again = load_encoder(raw_checkpoint, device="cpu", **as_they_are.reference.options)
    assert again.reference == as_they_are.reference
    np.testing.assert_array_equal(encoded(as_encoder(model)), found)  # a live one, too


def test_vectors_of_a_model_that_compares_by_dot_product_stay_as_they_are(
    raw_checkpoint: Path, tmp_path: Path
) -> None:
    model = SentenceTransformer(str(raw_checkpoint), device="cpu", similarity_fn_name="dot")
    model.save_pretrained(str(tmp_path / "dot"))
    encoder = DenseEncoder.load(tmp_path / "dot", device="cpu")
    assert not encoder.normalize
    raw = model.encode_document(TEXTS)
    np.testing.assert_allclose(encoded(encoder), raw, atol=TOLERANCE * np.abs(raw).max())


def test_models_that_only_their_library_can_run_are_cut_the_same_way(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder = DenseEncoder.load(checkpoint, device="cpu", width=8, normalize=True)
    expected = encoded(encoder)
    monkeypatch.setattr(encoder.inference, "can_do", lambda prompt, role: False)
    np.testing.assert_allclose(encoded(encoder), expected, atol=TOLERANCE)


def test_a_width_that_the_checkpoint_carries_is_kept(checkpoint: Path, tmp_path: Path) -> None:
    cut = DenseEncoder.load(checkpoint, device="cpu", width=8)
    expected = encoded(cut)
    cut.save(tmp_path / "cut")
    again = DenseEncoder.load(tmp_path / "cut", device="cpu")
    np.testing.assert_array_equal(encoded(again), expected)
    assert again.reference.fingerprint == cut.reference.fingerprint
    assert DenseEncoder.load(tmp_path / "cut", device="cpu", width=4).width == 4


@pytest.mark.parametrize("width", [0, 25])
def test_a_width_that_the_model_does_not_have_is_refused(checkpoint: Path, width: int) -> None:
    with pytest.raises(ConfigError, match=f"width is {width}, expected 1 to 24"):
        DenseEncoder.load(checkpoint, width=width)


def test_the_fingerprint_knows_what_changes_vectors_and_nothing_else(checkpoint: Path) -> None:
    def fingerprint(**options: Any) -> str:
        return load_encoder(checkpoint, device="cpu", **options).reference.fingerprint

    plain = fingerprint()
    bits = Quantization(precision="binary")
    same = [fingerprint(width=24), fingerprint(normalize=True)]  # it ends in Normalize
    assert same == [plain] * 2
    others = [
        fingerprint(width=8),
        fingerprint(width=8, normalize=False),
        fingerprint(quantization=bits),
        fingerprint(document_length=9),
        plain,
    ]
    assert len(set(others)) == len(others)


@pytest.mark.parametrize("precision", ["int8", "uint8", "binary", "ubinary"])
def test_quantized_vectors_are_those_of_sentence_transformers(
    checkpoint: Path, reference: SentenceTransformer, precision: Any
) -> None:
    plain = DenseEncoder.load(checkpoint, device="cpu")
    sample = encoded(plain, ["a", "path", "file " * 5])
    quantization = Quantization.calibrated(precision, sample)
    codes = encoded(plain.quantized(quantization))
    expected = quantize_embeddings(encoded(plain), precision, calibration_embeddings=sample)
    np.testing.assert_array_equal(codes, expected)
    assert codes.dtype == (np.int8 if precision in ("int8", "binary") else np.uint8)
    assert codes.shape == (5, 3 if quantization.is_binary else 24)
    assert plain.quantized(quantization).reference.width == codes.shape[1]
    assert encoded(plain).dtype == np.float32, "the encoder it came from is as it was"


def test_codes_do_not_depend_on_the_texts_beside_them(checkpoint: Path) -> None:
    plain = DenseEncoder.load(checkpoint, device="cpu")
    # Wider than the texts' own ranges, whose ends would stand on the edge between two codes.
    encoder = plain.quantized(Quantization.calibrated("int8", 1.7 * encoded(plain)))
    alone = np.stack([next(encoder.encode_documents([text])) for text in TEXTS])
    # a value at such an edge may fall to either side by the last bit of its sum
    assert np.abs(alone.astype(int) - encoded(encoder)).max() <= 1
    assert (alone == encoded(encoder)).mean() > 0.98


def test_the_reference_is_enough_to_load_the_same_encoder(checkpoint: Path) -> None:
    plain = DenseEncoder.load(
        checkpoint, device="cpu", width=8, normalize=True, query_length=6, document_length=9
    )
    encoder = plain.quantized(Quantization.calibrated("uint8", encoded(plain)))
    again = load_encoder(encoder.reference.name, device="cpu", **encoder.reference.options)
    assert again.reference == encoder.reference
    np.testing.assert_array_equal(encoded(again), encoded(encoder))


@pytest.mark.parametrize("role", ["query", "document"])
def test_limits_given_at_load_are_those_of_sentence_transformers(
    checkpoint: Path, role: str
) -> None:
    encoder = DenseEncoder.load(checkpoint, device="cpu", query_length=5, document_length=9)
    reference = SentenceTransformer(str(checkpoint), device="cpu")
    setattr(reference[0], f"{role}_length", 5 if role == "query" else 9)
    if role == "query":
        vectors, expected = encoder.encode_queries(TEXTS), reference.encode_query(TEXTS)
    else:
        vectors, expected = encoder.encode_documents(TEXTS), reference.encode_document(TEXTS)
    np.testing.assert_allclose(np.stack(list(vectors)), expected, atol=TOLERANCE)
    assert encoder.inference.truncated_texts == sum(
        len(encoder.model.tokenizer(text)["input_ids"]) > (5 if role == "query" else 9)
        for text in TEXTS
    )


def test_limits_that_a_model_can_not_have_are_refused(checkpoint: Path) -> None:
    with pytest.raises(ConfigError, match="query_length is 2, expected 3 to"):
        DenseEncoder.load(checkpoint, query_length=2)
    with pytest.raises(ConfigError, match="document_length is 999999, expected 3 to"):
        DenseEncoder.load(checkpoint, document_length=999_999)


def test_options_of_the_other_kind_are_refused(checkpoint: Path) -> None:
    with pytest.raises(ConfigError, match="is a dense model: pool_factor is for multi-vector"):
        load_encoder(checkpoint, pool_factor=2)


def test_automatic_weights_are_what_the_device_computes_in_hardware(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for has, name in ((True, "bfloat16"), (False, "float32")):
        monkeypatch.setattr(
            "retrieval.encoders.dense.has_fast_bfloat16", lambda device, has=has: has
        )
        encoder = DenseEncoder.load(checkpoint, device="cpu", dtype="auto")
        assert str(next(encoder.model.parameters()).dtype) == f"torch.{name}"


def test_quantizations_without_their_ranges_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"int8 takes the ranges.*calibrated"):
        Quantization(precision="int8")
    with pytest.raises(ConfigError, match="binary takes no ranges"):
        Quantization(precision="binary", ranges=np.zeros((2, 4), np.float32))
    with pytest.raises(ConfigError, match="needs texts"):
        Quantization.calibrated("uint8", [])
    with pytest.raises(ShapeError, match="ranges of width 4, embeddings of 6"):
        Quantization(precision="int8", ranges=np.ones((2, 4), np.float32))(np.ones((1, 6), "f"))


@pytest.mark.parametrize("include_prompt", [True, False])
@pytest.mark.parametrize("pooling", ["cls", "lasttoken", ("cls", "mean")], ids=str)
def test_pooling_of_one_token_is_that_of_sentence_transformers(
    tiny_backbone: Path, tmp_path: Path, pooling: Any, include_prompt: bool
) -> None:
    """Of whose last layer little but that token is computed."""
    from sentence_transformers.base.modules import Transformer
    from sentence_transformers.sentence_transformer.modules import Pooling

    transformer = Transformer(str(tiny_backbone))
    pooled = Pooling(transformer.get_embedding_dimension(), pooling, include_prompt=include_prompt)
    prompts = {"query": "ask: ", "document": "say: "}
    model = SentenceTransformer(modules=[transformer, pooled], device="cpu", prompts=prompts)
    model.save_pretrained(str(tmp_path / "model"))
    encoder = DenseEncoder.load(tmp_path / "model", device="cpu", normalize=False)
    wanted = []
    run = PackedModernBert.__call__

    def noted(self: PackedModernBert, batch: Any, tokens: Tensor | None = None) -> Tensor:
        wanted.append(tokens)
        return run(self, batch, tokens)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(PackedModernBert, "__call__", noted)
        found = encoded(encoder)
    expected = model.encode_document(TEXTS)
    np.testing.assert_allclose(found, expected, atol=TOLERANCE * np.abs(expected).max())
    is_one_token = isinstance(pooling, str) and include_prompt
    assert wanted
    assert all((each is not None) == is_one_token for each in wanted)
