"""Models and texts for the speed comparisons: real text cut to drawn lengths, random weights."""

from __future__ import annotations

import json
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer
from transformers import ModernBertConfig, ModernBertModel, PreTrainedTokenizerFast

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"

ShapeName = Literal["17m", "base", "large"]
WorkloadName = Literal[
    "fixed512", "variable512", "passages", "long", "fixed8192", "variable8192", "queries"
]


@dataclass(frozen=True)
class Shape:
    """Shape of a ModernBERT; windows, vocabulary and layer kinds are those of the paper's."""

    layers: int
    hidden: int
    intermediate: int
    heads: int

    @property
    def linear_weights(self) -> int:
        """Weights of all linear layers: two operations for each and a token."""
        return self.layers * self.hidden * (4 * self.hidden + 3 * self.intermediate)

    def attention_operations(self, lengths: NDArray[np.int64], window: int = 64) -> int:
        """Operations of queries x keys and weights x values for the pairs that may be seen."""
        pairs_all = int((lengths**2).sum())
        near = np.minimum(window, lengths - 1)
        pairs_near = int((lengths * (2 * near + 1) - near * (near + 1)).sum())
        global_layers = -(-self.layers // 3)
        local_layers = self.layers - global_layers
        return 4 * self.hidden * (global_layers * pairs_all + local_layers * pairs_near)


SHAPES: dict[ShapeName, Shape] = {
    "17m": Shape(layers=7, hidden=256, intermediate=384, heads=4),
    "base": Shape(layers=22, hidden=768, intermediate=1152, heads=12),
    "large": Shape(layers=28, hidden=1024, intermediate=2624, heads=16),
}


def draw_lengths(workload: WorkloadName, count: int, seed: int) -> NDArray[np.int64]:
    """Tokens of each text, special tokens included.

    The fixed and variable sets follow table 2 of Warner et al. 2024, arXiv:2412.13663 (variable:
    normal around half of the maximum); passages and long documents are log-normal, with means of
    some 155 and 2,300 tokens.
    """
    generator = np.random.default_rng(seed)
    if workload == "fixed512":
        return np.full(count, 512)
    if workload == "fixed8192":
        return np.full(count, 8192)
    if workload in ("variable512", "variable8192"):
        limit = 512 if workload == "variable512" else 8192
        drawn = generator.normal(limit / 2, limit / 8, count)
        return np.clip(drawn.round(), 8, limit).astype(np.int64)
    if workload == "queries":
        return generator.integers(6, 33, count)
    mean, spread, low, high = (
        (155, 0.6, 8, 512) if workload == "passages" else (2300, 0.8, 64, 8192)
    )
    drawn = generator.lognormal(np.log(mean) - spread**2 / 2, spread, count)
    return np.clip(drawn.round(), low, high).astype(np.int64)


def make_texts(tokenizer: Any, lengths: NDArray[np.int64], seed: int) -> list[str]:
    """Cut pieces of real text that have so many tokens, at a few exceptions one more or less."""
    rust = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
    rust.no_padding()
    rust.no_truncation()
    text = " ".join(_real_texts(20_000_000))
    generator = np.random.default_rng(seed)
    texts = []
    for length in lengths.tolist():
        start = int(generator.integers(0, len(text) - 12 * length - 100))
        piece = text[start : start + 12 * length + 100]
        ends = [end for _, end in rust.encode(piece, add_special_tokens=False).offsets]
        texts.append(piece[: ends[min(length - 2, len(ends)) - 1]])
    return texts


def _real_texts(characters: int) -> Iterator[str]:
    """Abstracts of the development collections, or else the standard library's source."""
    corpora = sorted(SHARED.glob("*/corpus.jsonl"))
    sources = corpora or sorted(Path(sysconfig.get_paths()["stdlib"]).glob("*.py"))
    total = 0
    for path in sources:
        content = path.read_text("utf-8", errors="ignore")
        records = (
            [json.loads(line)["text"] for line in content.splitlines()] if corpora else [content]
        )
        for record in records:
            yield record
            total += len(record)
            if total > characters:
                return


def make_tokenizer() -> Any:
    """ModernBERT's own tokenizer where it is at hand, else one trained on the texts."""
    found = SHARED / "tokenizer-modernbert" / "tokenizer.json"
    if found.is_file():
        wrapper: Any = PreTrainedTokenizerFast
        return wrapper(
            tokenizer_file=str(found),
            model_max_length=8192,
            model_input_names=["input_ids", "attention_mask"],
            **{
                f"{name.lower()}_token": f"[{name}]"
                for name in ("UNK", "CLS", "SEP", "PAD", "MASK")
            },
        )
    from retrieval.backbone.scratch import train_tokenizer

    return train_tokenizer(_real_texts(5_000_000), 50_000, 8192)


def save_model(folder: Path, shape: Shape, *, seed: int = 0) -> None:
    """Write a backbone with random weights and its tokenizer, as a transformers checkpoint."""
    import torch

    tokenizer = make_tokenizer()
    ids = {name: tokenizer.convert_tokens_to_ids(f"[{name.upper()}]") for name in ("cls", "sep")}
    config = ModernBertConfig(
        vocab_size=50_368,
        hidden_size=shape.hidden,
        intermediate_size=shape.intermediate,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        pad_token_id=tokenizer.pad_token_id,
        cls_token_id=ids["cls"],
        bos_token_id=ids["cls"],
        sep_token_id=ids["sep"],
        eos_token_id=ids["sep"],
        # Large enough that what a layer adds counts beside what it adds to, so that a wrong layer
        # shows in the vectors.
        initializer_range=1.5 * shape.hidden**-0.5,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = ModernBertModel(config)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
