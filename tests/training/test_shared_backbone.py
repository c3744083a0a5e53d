"""A backbone with two heads: the oracle's scores, both heads learn, the teacher is followed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from transformers import AutoModel

from retrieval.errors import ConfigError, RetrievalError
from retrieval.scoring import maxsim
from retrieval.training.shared_backbone import (
    SharedBackbone,
    SharedSettings,
    TokenPairs,
    mean_states,
    packed_maxsim,
    principal_projection,
)

WORDS = np.arange(10, 26)


def pairs_of_words() -> Iterator[TokenPairs]:
    """Each query is a word; its document says it twice among others' noise."""
    rng = np.random.default_rng(0)
    while True:
        words = rng.permutation(WORDS)[:8]
        documents = [np.array([2, word, 40 + rng.integers(9), word, 3]) for word in words]
        yield TokenPairs([np.array([2, word, 3]) for word in words], documents)


@pytest.fixture
def backbone(tiny_backbone: Path) -> SharedBackbone:
    model = AutoModel.from_pretrained(tiny_backbone)
    torch.manual_seed(0)
    return SharedBackbone(model, torch.randn(16, model.config.hidden_size), skiplist=[3])


def test_packed_maxsim_is_the_oracle_and_skips_what_does_not_count() -> None:
    rng = np.random.default_rng(1)
    query_lengths, lengths = np.array([1, 7, 3]), np.array([4, 1, 9, 2])
    queries, documents = (
        F.normalize(torch.from_numpy(rng.normal(size=(n, 8)).astype(np.float32)), dim=-1)
        for n in (query_lengths.sum(), lengths.sum())
    )
    keep = torch.ones(len(documents), dtype=torch.bool)
    keep[[1, 6]] = False
    found = packed_maxsim(queries, query_lengths, documents, lengths, keep)
    ends = np.cumsum(lengths)[:-1]
    split = np.split(documents.numpy(), ends)
    kept = np.split(keep.numpy(), ends)
    expected = maxsim(
        np.split(queries.numpy(), np.cumsum(query_lengths)[:-1]),
        [vectors[flags] for vectors, flags in zip(split, kept)],
    )
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-5)


def test_both_heads_learn_their_pairs(backbone: SharedBackbone) -> None:
    settings = SharedSettings(
        steps=60, lr=3e-3, token_weight=0.0, pooled_weight=0.0, precision="float32", log_every=20
    )
    reports: list[dict[str, float]] = []
    width = backbone.backbone.config.hidden_size
    backbone.fit(
        pairs_of_words(),
        lambda texts: torch.ones(sum(map(len, texts)), width),
        settings,
        report=reports.append,
    )
    assert [each["step"] for each in reports] == [20, 40, 60]
    for head in ("dense", "colbert"):
        assert reports[-1][head] < 0.7 * reports[0][head]
    queries = [np.array([2, word, 3]) for word in WORDS]
    documents = [np.array([2, word, 41, word, 3]) for word in WORDS]
    with torch.no_grad():
        dense = [mean_states(backbone.states(each), np.array(list(map(len, each))))
                 for each in (queries, documents)]  # fmt: skip
    ranked = (dense[0] @ dense[1].T).argmax(dim=1)
    assert (ranked == torch.arange(len(WORDS))).float().mean() > 0.8


def test_without_pairs_only_the_teacher_is_followed(backbone: SharedBackbone) -> None:
    rng = np.random.default_rng(2)
    torch.manual_seed(3)
    target = torch.randn(60, backbone.backbone.config.hidden_size)
    texts = [rng.integers(4, 60, size=rng.integers(3, 9)) for _ in range(64)]

    def teacher(given: object) -> torch.Tensor:
        return target[torch.from_numpy(np.concatenate(given))]  # type: ignore[call-overload]

    def batches() -> Iterator[TokenPairs]:
        while True:
            yield TokenPairs([], [texts[number] for number in rng.integers(len(texts), size=8)])

    def similarity() -> float:
        with torch.no_grad():
            return float(F.cosine_similarity(backbone.states(texts), teacher(texts)).mean())

    before, projection = similarity(), backbone.projection.detach().clone()
    settings = SharedSettings(steps=80, lr=3e-3, embedding_lr_share=1.0, precision="float32")
    backbone.fit(batches(), teacher, settings)
    assert similarity() > before + 0.3
    assert torch.equal(backbone.projection, projection)


def test_a_loss_that_is_no_number_stops_at_its_step(backbone: SharedBackbone) -> None:
    width = backbone.backbone.config.hidden_size
    calls = []

    def teacher(texts: object) -> torch.Tensor:
        calls.append(texts)
        count = sum(map(len, texts))  # type: ignore[call-overload]
        return torch.full((count, width), float("nan") if len(calls) == 3 else 1.0)

    settings = SharedSettings(steps=5, lr=1e-3, precision="float32")
    with pytest.raises(RetrievalError, match="the loss is nan at step 3"):
        backbone.fit(pairs_of_words(), teacher, settings)
    with pytest.raises(ConfigError, match="expected more than 0"):
        SharedSettings(steps=0, lr=1e-3)


def test_the_projection_starts_with_the_strongest_directions() -> None:
    torch.manual_seed(4)
    basis = torch.linalg.qr(torch.randn(12, 12)).Q[:, :3]
    states = torch.randn(200, 3) @ basis.T + 1e-3 * torch.randn(200, 12)
    projection = principal_projection(states, 3)
    torch.testing.assert_close(projection @ projection.T, torch.eye(3), atol=1e-5, rtol=0)
    unit = F.normalize(states, dim=-1)
    assert float((unit @ projection.T).norm(dim=-1).min()) > 0.98
