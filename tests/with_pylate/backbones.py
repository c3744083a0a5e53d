"""Tiny untrained backbones with their tokenizers, whose weights are large enough to tell."""

from __future__ import annotations

import re
import string
from collections import Counter
from pathlib import Path

from tokenizers import (
    AddedToken,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)
from transformers import (
    BertConfig,
    BertModel,
    BertTokenizer,
    ModernBertConfig,
    ModernBertModel,
    PreTrainedTokenizerFast,
)

from tests.with_pylate.texts import TRAINING_SENTENCES

_HIDDEN = 32
# transformers' 0.02 is for widths near 1,000: here it would leave tokens that hardly look at others
_INITIALIZER_RANGE = 0.2


def make_modernbert(folder: Path) -> None:
    """A ModernBERT of 3 layers (one global, two local of 16 tokens) with ModernBERT's tokenizer."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    tokenizer.decoder = decoders.ByteLevel()
    special = [
        AddedToken("[UNK]", normalized=False, special=True),
        AddedToken("[CLS]", normalized=False, special=True),
        AddedToken("[SEP]", normalized=False, special=True),
        AddedToken("[PAD]", normalized=False, special=True),
        AddedToken("[MASK]", normalized=False, special=True, lstrip=True),
    ]
    trainer = trainers.BpeTrainer(
        vocab_size=384,
        special_tokens=special,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(TRAINING_SENTENCES, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B [SEP]",
        special_tokens=[(each, tokenizer.token_to_id(each)) for each in ("[CLS]", "[SEP]")],
    )
    wrapped = PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=tokenizer,
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        pad_token="[PAD]",
        mask_token="[MASK]",
        model_max_length=512,
        model_input_names=["input_ids", "attention_mask"],
    )
    wrapped.save_pretrained(folder)
    config = ModernBertConfig(
        vocab_size=len(wrapped),
        hidden_size=_HIDDEN,
        intermediate_size=32,
        num_hidden_layers=3,
        num_attention_heads=2,
        max_position_embeddings=512,
        local_attention=16,
        layer_types=["full_attention", "sliding_attention", "sliding_attention"],
        initializer_range=_INITIALIZER_RANGE,
        pad_token_id=wrapped.pad_token_id,
        cls_token_id=wrapped.cls_token_id,
        sep_token_id=wrapped.sep_token_id,
        bos_token_id=wrapped.cls_token_id,
        eos_token_id=wrapped.sep_token_id,
    )
    ModernBertModel(config).save_pretrained(folder)


def make_bert(folder: Path) -> None:
    """A lower-casing BERT of 2 layers whose vocabulary has the `[unused]` tokens."""
    # not tokenizers' WordPiece trainer, which gives other ids at every run
    characters = string.ascii_lowercase + string.digits
    words = Counter(re.findall("[a-z]{2,}", " ".join(TRAINING_SENTENCES).lower()))
    vocabulary = [
        *["[PAD]", "[unused0]", "[unused1]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"],
        *string.punctuation,
        *characters,
        *(f"##{each}" for each in characters),
        *(word for word, count in sorted(words.items()) if count > 1 or len(word) > 7),
    ]
    (folder / "vocab.txt").write_text("\n".join(vocabulary) + "\n", "utf-8")
    wrapped = BertTokenizer.from_pretrained(folder, do_lower_case=True, model_max_length=512)
    wrapped.save_pretrained(folder)
    config = BertConfig(
        vocab_size=len(vocabulary),
        hidden_size=_HIDDEN,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=192,
        initializer_range=_INITIALIZER_RANGE,
    )
    BertModel(config).save_pretrained(folder)
