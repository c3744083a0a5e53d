"""Load whatever retriever a folder or hub name holds."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from retrieval.backbone.attention_choice import AttentionName
from retrieval.encoders.checkpoints import checkpoint_kind
from retrieval.encoders.dense import DenseEncoder, Dtype
from retrieval.encoders.multi_vector import MultiVectorEncoder
from retrieval.encoders.quantization import Quantization
from retrieval.encoders.starters import checkpoint_folder
from retrieval.errors import ConfigError


def load_encoder(
    name: str | Path,
    *,
    device: str | None = None,
    dtype: Dtype = "float32",
    revision: str | None = None,
    batch_size: int = 32,
    attention: AttentionName = "auto",
    max_tokens: int | None = None,
    width: int | None = None,
    query_length: int | None = None,
    document_length: int | None = None,
    query_prompt: str | None = None,
    document_prompt: str | None = None,
    normalize: bool | None = None,
    quantization: Quantization | Mapping[str, Any] | None = None,
    pool_factor: float | None = None,
    protected_tokens: int | None = None,
) -> DenseEncoder | MultiVectorEncoder:
    """Load a dense or multi-vector checkpoint, whichever it is.

    Args:
        name: a folder, a name on the hub, or a starter: starter-dense, starter-colbert.
        device: "cpu", "cuda", ...; None takes a GPU where there is one.
        dtype: of the weights; the embeddings are float32 always.
        revision: a branch, tag or commit on the hub.
        batch_size: texts in a forward pass, for models that only their own library can run.
        attention: of a ModernBERT; "auto" takes the fastest that the device has.
        max_tokens: of a batch; None takes what suits the device.
        width: leading components that are kept (Matryoshka).
        query_length: tokens of a query, instead of the checkpoint's limit.
        document_length: the same for documents.
        query_prompt: put before every query, instead of the checkpoint's prompt; a ColBERT's
            marker token stays in front of it.
        document_prompt: the same for documents.
        normalize: as in `DenseEncoder.load`, for dense models only.
        quantization: the same.
        pool_factor: as in `MultiVectorEncoder.load`, for multi-vector models only.
        protected_tokens: the same.

    Raises:
        CheckpointError: nothing is there, or a backbone that was never made a retriever.
        ConfigError: an option that this kind of model does not have, or a value out of range.
    """
    dense_only = {"normalize": normalize, "quantization": quantization}
    multi_only = {"pool_factor": pool_factor, "protected_tokens": protected_tokens}
    where = checkpoint_folder(str(name))
    is_multi_vector = checkpoint_kind(where, revision=revision) == "multi_vector"
    foreign, own = (dense_only, multi_only) if is_multi_vector else (multi_only, dense_only)
    for option, value in foreign.items():
        if value is not None:
            found, other = (
                ("multi-vector", "dense") if is_multi_vector else ("dense", "multi-vector")
            )
            raise ConfigError(f"{name} is a {found} model: {option} is for {other} ones")
    options: dict[str, Any] = {key: value for key, value in own.items() if value is not None}
    encoder = MultiVectorEncoder if is_multi_vector else DenseEncoder
    return encoder.load(
        name,
        device=device,
        dtype=dtype,
        revision=revision,
        batch_size=batch_size,
        attention=attention,
        max_tokens=max_tokens,
        width=width,
        query_length=query_length,
        document_length=document_length,
        query_prompt=query_prompt,
        document_prompt=document_prompt,
        **options,
    )
