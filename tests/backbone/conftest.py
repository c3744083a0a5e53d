"""Tiny ModernBERTs with random weights, and their states as transformers computes them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import pytest
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

VOCABULARY = 300


class MakeModel(Protocol):
    """Makes a model in evaluation mode; the settings are ModernBertConfig's."""

    def __call__(self, *, attention: str = "eager", seed: int = 0, **settings: Any) -> Any: ...


@pytest.fixture(scope="session")
def make_model() -> MakeModel:
    from transformers import ModernBertConfig, ModernBertModel

    def make(*, attention: str = "eager", seed: int = 0, **settings: Any) -> Any:
        shape = {
            "vocab_size": VOCABULARY,
            "hidden_size": 32,
            "intermediate_size": 48,
            "num_hidden_layers": 4,  # the first and the last are global
            "num_attention_heads": 2,
            "pad_token_id": 0,
            **{f"{name}_token_id": 1 for name in ("bos", "cls", "eos", "sep")},
        }
        torch.manual_seed(seed)
        config = ModernBertConfig(**{**shape, **settings})
        model_class: Any = ModernBertModel
        model = model_class._from_config(config, attn_implementation=attention).eval()
        # Transformers starts with small weights, which would make all layers nearly the identity.
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.dim() > 1:
                    parameter.mul_(4)
        return model

    return make


@pytest.fixture(scope="session")
def token_ids() -> Any:
    """Random token ids of given lengths, as lists."""

    def make(lengths: Sequence[int], seed: int = 0) -> list[list[int]]:
        generator = torch.Generator().manual_seed(seed)
        return [
            torch.randint(5, VOCABULARY, (length,), generator=generator).tolist()
            for length in lengths
        ]

    return make


@pytest.fixture(scope="session")
def padded_states() -> Any:
    """(T, H) states of all tokens by the model's own forward over one padded batch."""

    def compute(
        model: Any, ids: Sequence[Sequence[int]], key_lengths: Sequence[int] | None = None
    ) -> Tensor:
        lengths = torch.tensor([len(each) for each in ids])
        padded = pad_sequence([torch.tensor(each) for each in ids], batch_first=True)
        positions = torch.arange(padded.shape[1])
        limits = lengths if key_lengths is None else torch.tensor(key_lengths)
        mask = (positions < limits[:, None]).long()
        states = model(input_ids=padded, attention_mask=mask).last_hidden_state
        flat: Tensor = states[positions < lengths[:, None]]
        return flat

    return compute
