"""Which piece of a text each token vector of a multi-vector encoder stands for."""

from __future__ import annotations

from typing import Any

from retrieval.encoders.inference import is_text_transformer
from retrieval.encoders.multi_vector import MultiVectorEncoder
from retrieval.encoders.tokens import Role


def token_texts(encoder: MultiVectorEncoder, text: str, role: Role) -> list[str] | None:
    """The text of every token that `encode_queries` or `encode_documents` gives a vector.

    Tokens are decoded one by one, without the blank before them; query expansion shows as the token
    that it is made of, such as "[MASK]", and tokens that the model passes over are left out.

    Returns:
        As many as vectors; None where they can't be told: after token pooling, where a vector
        stands for several tokens, and for a live PyLate model.
    """
    is_pooled = role == "document" and encoder.reduction.pool_factor > 1
    model = encoder.model
    if is_pooled or not is_text_transformer(model[0]):
        return None
    (prompted,), prompt = encoder.prompted([text], role)
    features = model[0].preprocess([prompted], prompt=prompt or None, task=role)
    for mask in _mask_modules(model):
        features = mask(features, task=role)
    keep = features["attention_mask"].bool()
    ids = features["input_ids"][keep].tolist()
    tokenizer = model.tokenizer
    return [_decoded(tokenizer, each) for each in ids]


def _mask_modules(model: Any) -> list[Any]:
    """The modules that choose the tokens that are scored."""
    from sentence_transformers.multi_vector_encoder.modules import MultiVectorMask

    return [module for module in model if isinstance(module, MultiVectorMask)]


def _decoded(tokenizer: Any, token: int) -> str:
    text: str = tokenizer.decode([token], clean_up_tokenization_spaces=False).strip()
    return text or str(tokenizer.convert_ids_to_tokens(token))
