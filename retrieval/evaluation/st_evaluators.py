"""Our encoders in Sentence Transformers' evaluators: `evaluator(EvaluatorModel(encoder))`.

The other way round, `retrieval.as_encoder(model)` makes an encoder of a live model of theirs.

Their figures are ours, but for two rules of theirs: equal scores are ranked by ascending id, where
trec_eval has the descending one, and a query without a relevant document is left out of the mean,
where it is 0 in ours. Their judgements are not graded.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from retrieval.encoders.dense import DenseEncoder
from retrieval.encoders.multi_vector import MultiVectorEncoder
from retrieval.encoders.tokens import Role
from retrieval.errors import ConfigError
from retrieval.progress import track


class EvaluatorModel:
    """An encoder under the names that Sentence Transformers' evaluators call.

    It gives the encoder's own vectors: its prompts, width, normalisation and token pooling are
    measured, which the wrapped model knows nothing of. For `InformationRetrievalEvaluator`,
    `NanoBEIREvaluator` and their multi-vector forms.

    Attributes:
        encoder: dense or multi-vector, not quantized.
        similarity_fn_name: of the wrapped model, such as "cosine" or "maxsim".
        prompts: the same.
        model_card_data: the same; evaluators write their figures there.
    """

    def __init__(self, encoder: DenseEncoder | MultiVectorEncoder) -> None:
        if getattr(encoder, "quantization", None) is not None:
            raise ConfigError(
                "evaluators compare float vectors: take the encoder without quantization"
            )
        self.encoder = encoder
        self.similarity_fn_name = encoder.model.similarity_fn_name
        self.prompts = encoder.model.prompts
        self.model_card_data = encoder.model.model_card_data

    def encode_query(self, sentences: Sequence[str], **options: Any) -> Any:
        """Encode queries; see `encode_document`."""
        return self._encode(sentences, "query", **options)

    def encode_document(self, sentences: Sequence[str], **options: Any) -> Any:
        """Encode documents.

        Args:
            sentences: texts.
            options: of Sentence Transformers' `encode`: `prompt`, `prompt_name`,
                `convert_to_tensor` and `show_progress_bar` are looked at; batches are of the
                encoder's own size.

        Returns:
            (N, D) float32, a torch tensor or an array; from a multi-vector encoder N tensors
            (tokens, D).

        Raises:
            ConfigError: `truncate_dim`, which the encoder is loaded with, or an unknown prompt.
        """
        return self._encode(sentences, "document", **options)

    def similarity(self, embeddings1: Any, embeddings2: Any) -> Any:
        """Every first embedding with every second, by the wrapped model's similarity."""
        return self.encoder.model.similarity(embeddings1, embeddings2)

    def _encode(
        self,
        sentences: Sequence[str],
        role: Role,
        *,
        prompt: str | None = None,
        prompt_name: str | None = None,
        convert_to_tensor: bool = False,
        show_progress_bar: bool | None = None,
        truncate_dim: int | None = None,
        **_: Any,
    ) -> Any:
        if truncate_dim is not None:
            raise ConfigError(
                f"truncate_dim is {truncate_dim}: load the encoder with width={truncate_dim}"
            )
        encoder: Any = self.encoder
        if prompt is None and prompt_name is not None:
            if prompt_name not in self.prompts:
                known = ", ".join(map(repr, self.prompts))
                raise ConfigError(f"no prompt {prompt_name!r}: the model has {known or 'none'}")
            prompt = self.prompts[prompt_name]
        if prompt is not None:
            encoder = encoder.with_prompts(**{role: prompt})
        encode = encoder.encode_queries if role == "query" else encoder.encode_documents
        progress = bool(show_progress_bar)
        vectors = list(track(encode(sentences), f"encoding {role} texts", len(sentences), progress))
        if encoder.is_multi_vector:
            return [torch.from_numpy(each) for each in vectors]
        stacked = np.stack(vectors) if vectors else np.empty((0, encoder.width), np.float32)
        return torch.from_numpy(stacked) if convert_to_tensor else stacked
