"""A ModernBERT that inherits from a BERT gives nearly its states, before any training."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import AutoTokenizer, BertConfig, BertModel, GPT2Config, GPT2Model

from retrieval.errors import ConfigError
from retrieval.training.inheritance import InheritanceSettings, inherit


def texts(count: int, seed: int) -> list[list[int]]:
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(6, 30, (count,), generator=generator).tolist()
    return [[1, *torch.randint(3, 90, (n,), generator=generator).tolist(), 2] for n in lengths]


@torch.no_grad()
def states(model: Any, ids: list[list[int]]) -> Tensor:
    """(T, H) of each text by itself, one after the other."""
    return torch.cat([model(torch.tensor([each])).last_hidden_state[0] for each in ids])


def test_without_positions_the_states_are_those_of_the_bert() -> None:
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=100,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        initializer_range=0.3,
    )
    bert: Any = BertModel(config, add_pooling_layer=False)
    bert.eval()
    torch.nn.init.zeros_(bert.embeddings.position_embeddings.weight)
    settings = InheritanceSettings(
        intermediate_size=64, global_attention_every=1, rope_theta=1e30, texts=300
    )
    model = inherit(bert, texts(300, seed=1), settings)
    held_out = texts(40, seed=2)
    cosines = F.cosine_similarity(states(model, held_out), states(bert, held_out))
    # One rotating pair of components and the norms' different places remain.
    assert float(cosines.mean()) > 0.95
    assert model.config.hidden_size == 32
    assert model.config.num_hidden_layers == 2


@pytest.mark.slow
def test_a_pruned_model_keeps_most_of_minilm(minilm_path: Path) -> None:
    bert: Any = BertModel.from_pretrained(minilm_path, add_pooling_layer=False)
    bert.eval()
    tokenizer = AutoTokenizer.from_pretrained(minilm_path)
    lines = Path(torch.__file__).with_name("functional.py").read_text("utf-8").split("\n\n")
    ids = [each for each in tokenizer(lines)["input_ids"] if 8 <= len(each) <= 120]
    settings = InheritanceSettings(texts=120)
    model = inherit(bert, ids[: -len(ids) // 4], settings)
    held_out = ids[-len(ids) // 4 :][:40]
    torch.manual_seed(0)
    random = type(model)(model.config).eval()
    random.embeddings.load_state_dict(model.embeddings.state_dict())
    expected = states(bert, held_out)
    similarity = {
        name: float(F.cosine_similarity(states(each, held_out), expected).mean())
        for name, each in (("inherited", model), ("random", random))
    }
    assert similarity["inherited"] > 0.4
    assert similarity["inherited"] > similarity["random"] + 0.2
    assert model.config.intermediate_size == 1024


def test_only_a_bert_and_only_with_texts() -> None:
    gpt = GPT2Model(GPT2Config(n_layer=1, n_embd=8, n_head=1, vocab_size=10))
    with pytest.raises(ConfigError, match="expected a BERT with GELU"):
        inherit(gpt, [[1, 2]])
    config = BertConfig(hidden_size=8, num_hidden_layers=1, num_attention_heads=1, vocab_size=10)
    with pytest.raises(ConfigError, match="no texts"):
        inherit(BertModel(config), [])
