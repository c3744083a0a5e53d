"""Models that score texts for a query, to check what an index found."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from retrieval import scoring
from retrieval.encoders.protocol import Encoder
from retrieval.training.mining import Teacher


def encoder_teacher(encoder: Encoder) -> Teacher:
    """Score by a dense encoder's dot product, or by a multi-vector encoder's MaxSim."""

    def score(query: str, texts: Sequence[str]) -> list[float]:
        queries: Any = list(encoder.encode_queries([query]))
        documents: Any = list(encoder.encode_documents(texts))
        if encoder.reference.is_multi_vector:
            scores = scoring.maxsim(queries, documents)
        else:
            scores = scoring.dot(np.stack(queries), np.stack(documents))
        return [float(each) for each in scores[0]]

    return score


def cross_encoder_teacher(name: str, *, device: str | None = None) -> Teacher:
    """Score by a Sentence Transformers cross-encoder, from a folder or the hub."""
    from sentence_transformers import CrossEncoder

    model = CrossEncoder(name, device=device)

    def score(query: str, texts: Sequence[str]) -> list[float]:
        return [float(each) for each in model.predict([(query, text) for text in texts])]

    return score
