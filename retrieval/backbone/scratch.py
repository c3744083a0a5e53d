"""A small ModernBERT from nothing: a tokenizer trained on the user's texts, random weights."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from retrieval.errors import ConfigError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

SPECIAL_TOKENS = ("[UNK]", "[CLS]", "[SEP]", "[PAD]", "[MASK]")


@dataclass(frozen=True, kw_only=True)
class BackboneSettings:
    """Shape of a ModernBERT; the defaults train on a laptop in minutes."""

    vocabulary_size: int = 6_144
    hidden_size: int = 192
    intermediate_size: int = 288
    layers: int = 4
    heads: int = 3
    max_length: int = 1_024
    """Tokens of the longest text, special tokens included."""
    local_attention: int = 128
    """Tokens of a local layer's window, both sides together."""
    global_every: int = 3
    """Every how many layers attention is global, starting with the first."""

    def __post_init__(self) -> None:
        if self.hidden_size % (2 * self.heads):
            raise ConfigError(
                f"hidden_size {self.hidden_size} is no multiple of twice the {self.heads} heads, "
                "which rotary positions need"
            )


def create_backbone(
    folder: Path, texts: Iterable[str], settings: BackboneSettings, *, seed: int = 0
) -> None:
    """Train a tokenizer, make a ModernBERT with random weights, and save both into `folder`.

    Args:
        folder: becomes a transformers checkpoint that `from_backbone` takes.
        texts: what the byte-level BPE tokenizer learns from.
        settings: shape of the model.
        seed: of the weights.

    Source: the shape's parts are those of Warner et al. 2024, arXiv:2412.13663.
    """
    import torch
    from transformers import ModernBertConfig, ModernBertModel

    tokenizer = train_tokenizer(texts, settings.vocabulary_size, settings.max_length)
    vocabulary = tokenizer.get_vocab()
    ids = {token: vocabulary[token] for token in SPECIAL_TOKENS}
    config = ModernBertConfig(
        vocab_size=len(tokenizer),
        hidden_size=settings.hidden_size,
        intermediate_size=settings.intermediate_size,
        num_hidden_layers=settings.layers,
        num_attention_heads=settings.heads,
        max_position_embeddings=settings.max_length,
        local_attention=settings.local_attention,
        layer_types=[
            "sliding_attention" if layer % settings.global_every else "full_attention"
            for layer in range(settings.layers)
        ],
        pad_token_id=ids["[PAD]"],
        bos_token_id=ids["[CLS]"],
        eos_token_id=ids["[SEP]"],
        cls_token_id=ids["[CLS]"],
        sep_token_id=ids["[SEP]"],
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = ModernBertModel(config)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def train_tokenizer(
    texts: Iterable[str], vocabulary_size: int, max_length: int
) -> PreTrainedTokenizerFast:
    """Train a byte-level BPE tokenizer with ModernBERT's special tokens and template.

    Args:
        texts: what it learns merges from; equal texts give an equal tokenizer.
        vocabulary_size: at least 261: 256 bytes and the special tokens.
        max_length: tokens of the longest text.

    Returns:
        A transformers fast tokenizer.
    """
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
    from tokenizers.trainers import BpeTrainer
    from transformers import PreTrainedTokenizerFast

    fast_tokenizer: Any = PreTrainedTokenizerFast
    tokenizer = Tokenizer(models.BPE(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = BpeTrainer(
        vocab_size=vocabulary_size,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    marks = [(token, tokenizer.token_to_id(token)) for token in ("[CLS]", "[SEP]")]
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B [SEP]", special_tokens=marks
    )
    wrapped: PreTrainedTokenizerFast = fast_tokenizer(
        tokenizer_object=tokenizer,
        model_max_length=max_length,
        model_input_names=["input_ids", "attention_mask"],
        **{f"{token.strip('[]').lower()}_token": token for token in SPECIAL_TOKENS},
    )
    return wrapped
