"""Load whatever retriever a folder or hub name holds."""

from __future__ import annotations

from pathlib import Path

from retrieval.backbone.attention_choice import AttentionName
from retrieval.encoders.checkpoints import checkpoint_kind
from retrieval.encoders.dense import DenseEncoder, Dtype
from retrieval.encoders.multi_vector import MultiVectorEncoder


def load_encoder(
    name: str | Path,
    *,
    device: str | None = None,
    dtype: Dtype = "float32",
    revision: str | None = None,
    batch_size: int = 32,
    attention: AttentionName = "auto",
    max_tokens: int | None = None,
) -> DenseEncoder | MultiVectorEncoder:
    """Load a dense or multi-vector checkpoint, whichever it is.

    Args:
        name: a folder, or a name on the hub.
        device: "cpu", "cuda", ...; None takes a GPU where there is one.
        dtype: of the weights; the embeddings are float32 always.
        revision: a branch, tag or commit on the hub.
        batch_size: texts in a forward pass, for models that only their own library can run.
        attention: of a ModernBERT; "auto" takes the fastest that the device has.
        max_tokens: of a batch; None takes what suits the device.

    Raises:
        CheckpointError: nothing is there, or a backbone that was never made a retriever.
    """
    kind = checkpoint_kind(str(name), revision=revision)
    encoder = MultiVectorEncoder if kind == "multi_vector" else DenseEncoder
    return encoder.load(
        name,
        device=device,
        dtype=dtype,
        revision=revision,
        batch_size=batch_size,
        attention=attention,
        max_tokens=max_tokens,
    )
