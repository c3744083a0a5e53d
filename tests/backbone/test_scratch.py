"""A backbone from nothing is a ModernBERT that transformers loads, the same for the same seed."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import AutoModel, AutoTokenizer

from retrieval.backbone.scratch import BackboneSettings, create_backbone, train_tokenizer
from retrieval.errors import ConfigError

TEXTS = ["def read(path):\n    return open(path).read()", "Return the text of a file."] * 20
SETTINGS = BackboneSettings(
    vocabulary_size=300, hidden_size=32, intermediate_size=48, layers=4, heads=2, global_every=3
)


def test_equal_seeds_give_equal_weights_and_other_seeds_others(tmp_path: Path) -> None:
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        create_backbone(tmp_path / name, TEXTS, SETTINGS, seed=seed)
    first, second, third = (
        torch.cat([each.flatten() for each in AutoModel.from_pretrained(tmp_path / n).parameters()])
        for n in "abc"
    )
    assert torch.equal(first, second)
    assert not torch.equal(first, third)


def test_every_third_layer_is_global(tmp_path: Path) -> None:
    create_backbone(tmp_path, TEXTS, SETTINGS)
    config = AutoModel.from_pretrained(tmp_path).config
    assert config.model_type == "modernbert"
    assert config.layer_types == [
        "full_attention",
        "sliding_attention",
        "sliding_attention",
        "full_attention",
    ]


def test_the_tokenizer_wraps_texts_in_cls_and_sep_and_loses_nothing(tmp_path: Path) -> None:
    create_backbone(tmp_path, TEXTS, SETTINGS)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    text = "naïve 東京\n\tdef f(x): return x"
    ids = tokenizer(text)["input_ids"]
    assert [ids[0], ids[-1]] == [tokenizer.cls_token_id, tokenizer.sep_token_id]
    assert tokenizer.decode(ids[1:-1]) == text
    assert tokenizer.mask_token_id is not None
    assert tokenizer.model_max_length == SETTINGS.max_length


def test_the_vocabulary_is_as_large_as_asked() -> None:
    assert len(train_tokenizer(TEXTS, 290, 512)) == 290


def test_heads_that_do_not_divide_the_width_are_refused() -> None:
    with pytest.raises(ConfigError, match="hidden_size 100"):
        BackboneSettings(hidden_size=100, heads=3)
