"""Cross-encoders, which read a query and a document together and give the pair a score."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from retrieval.errors import CheckpointError, ConfigError
from retrieval.evaluation.models import ModelFacts, ModelSettings, published_name

_NOT_FOR_PAIRS = (
    "max_tokens",
    "width",
    "normalize",
    "pool_factor",
    "query_length",
    "document_length",
    "query_prompt",
    "document_prompt",
)


class CrossEncoder:
    """A `sentence_transformers.CrossEncoder` with what a manifest says of it.

    Attributes:
        model: the one that does the work.
        facts: name, fingerprint, number format.
    """

    def __init__(self, settings: ModelSettings, device: str | None = None) -> None:
        """Load it.

        Raises:
            ConfigError: settings that only encoders have, or 8 bits.
            CheckpointError: nothing is there, or no cross-encoder.
        """
        _check(settings)
        from sentence_transformers import CrossEncoder as Model

        from retrieval.encoders.dense import torch_dtype

        try:
            self.model = Model(
                settings.name,
                device=device,
                revision=settings.revision,
                model_kwargs={"dtype": torch_dtype(settings.dtype, device)},
            )
        except (OSError, ValueError) as error:
            raise CheckpointError(
                f"{settings.name}: no cross-encoder to be had there ({error})"
            ) from error
        self._batch_size = settings.batch_size
        self.facts = _facts(self.model, settings)

    def score(self, query: str, documents: Sequence[str]) -> NDArray[np.float32]:
        """The scores (N,) of a query with each of N documents.

        Raises:
            CheckpointError: the model gives more than one figure a pair, a classifier.
        """
        if not documents:
            return np.empty(0, np.float32)
        scores = self.model.predict(
            [(query, document) for document in documents],
            batch_size=self._batch_size,
            show_progress_bar=False,
        )
        found = np.asarray(scores, np.float32)
        if found.shape != (len(documents),):
            raise CheckpointError(
                f"{self.facts.name}: gives {found.shape[1:]} figures a pair, expected one: take a "
                "cross-encoder that was trained to rank"
            )
        return found


def _check(settings: ModelSettings) -> None:
    given = [name for name in _NOT_FOR_PAIRS if getattr(settings, name) is not None]
    if given:
        raise ConfigError(f"{settings.name}: a cross-encoder has no {', '.join(given)}")
    if settings.dtype == "int8":
        raise ConfigError(f"{settings.name}: a cross-encoder runs in float32 or 16 bits, not int8")


def _facts(model: Any, settings: ModelSettings) -> ModelFacts:
    from retrieval.encoders.fingerprint import fingerprint

    # A fingerprint passes over poolers, which encoders do not use; a BERT that judges pairs does.
    weights = {name.replace(".pooler.", "."): each for name, each in model.state_dict().items()}
    activation = type(getattr(model, "activation_fn", None)).__name__
    length = getattr(model, "max_seq_length", None) or model.max_length  # its name before 6.0
    described = {"kind": "cross-encoder", "activation": activation, "length": length}
    weight = next(iter(model.parameters()))
    return ModelFacts(
        name=published_name(settings.name),
        fingerprint=fingerprint(weights, model.tokenizer, described),
        weights=str(weight.dtype).removeprefix("torch."),
        device=weight.device.type,
        is_multi_vector=None,
        width=None,
    )
