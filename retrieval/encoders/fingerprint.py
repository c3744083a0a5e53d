"""One short name for everything that decides which vectors a model gives."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

# Spaces, cases, accents, symbols and code: whatever a normaliser or pre-tokenizer treats specially.
_PROBE = "Ünïcode  and\tTABS: def f(x_1):\n    return x**2  # 3.14, don't [MASK] 東京 [Q] ok?"


def fingerprint(weights: Mapping[str, Tensor], tokenizer: Any, settings: Mapping[str, Any]) -> str:
    """Hash weights, tokenizer and settings into 64 hexadecimal digits.

    Weights count in bfloat16 and without their names, so that a checkpoint has one fingerprint
    however it is loaded: in float32 or bfloat16, by Sentence Transformers or by PyLate.

    Args:
        weights: a state dict.
        tokenizer: of transformers, or of tokenizers, as static models have it; its vocabulary
            counts, and its ids for a probe text.
        settings: JSON values: lengths, prefixes, pooling and the like.
    """
    digest = hashlib.sha256()
    # A BERT saved without a pooler gets a random one at each load; no encoder here uses it.
    used = [tensor for name, tensor in weights.items() if ".pooler." not in name]
    tensors = [_tensor_digest(tensor) for tensor in used]
    for each in sorted(tensors):
        digest.update(each)
    vocabulary = sorted(tokenizer.get_vocab().items())
    probe = _probe(tokenizer)
    digest.update(json.dumps([vocabulary, probe, settings], sort_keys=True).encode())
    return digest.hexdigest()


def _probe(tokenizer: Any) -> Any:
    if callable(tokenizer):
        return tokenizer(_PROBE, truncation=False, padding=False, verbose=False)["input_ids"]
    # A static model's limit is the tokenizer's own, not one of the model's settings.
    return [tokenizer.encode(_PROBE, add_special_tokens=False).ids, tokenizer.truncation]


def _tensor_digest(tensor: Tensor) -> bytes:
    if tensor.is_floating_point():
        tensor = tensor.detach().to("cpu", torch.bfloat16).contiguous().view(torch.uint16)
    data = tensor.cpu().contiguous().numpy()
    return hashlib.sha256(repr(tuple(tensor.shape)).encode() + data.tobytes()).digest()
