"""The run that makes the starters: a backbone from a teacher, two heads, two checkpoints."""

from __future__ import annotations

import string
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer
from transformers import AutoTokenizer, BertModel

from retrieval.encoders.dense import DenseEncoder
from retrieval.encoders.multi_vector import MultiVectorEncoder
from retrieval.errors import ConfigError
from retrieval.training.inheritance import InheritanceSettings, inherit
from retrieval.training.shared_backbone import (
    SharedBackbone,
    SharedSettings,
    principal_projection,
)
from retrieval.training.token_pairs import PairSource, pair_batches, teacher_of, text_batches

Report = Callable[[dict[str, float]], None]


@dataclass(frozen=True, kw_only=True)
class StarterRecipe:
    """What the run needs to know."""

    weights: dict[str, float]
    """How often a batch is drawn from each file, whatever its size."""
    following: SharedSettings
    """Following the teacher on single texts."""
    pairs: tuple[SharedSettings, ...]
    """Stretches of training on pairs, one after the other."""
    shape: InheritanceSettings = field(default_factory=InheritanceSettings)
    seed: int = 0
    width: int = 128
    """Of a ColBERT vector."""
    query_tokens: int = 64
    """The longest query, in training and after."""
    document_tokens: int = 512
    """The longest document after training."""
    following_tokens: int = 200
    """Texts are cut to so many tokens while the teacher is followed."""
    pair_tokens: int = 180
    """The same for documents while pairs are trained on."""
    query_share: float = 0.3
    """Of the texts that the teacher is followed on."""
    batch_tokens: int = 4096
    batch_pairs: int = 48
    one_source_share: float = 0.6
    """Of the batches of pairs, that come from one file: their negatives are harder."""
    about: str = ""

    def shortened(self) -> StarterRecipe:
        """The same with two steps of everything and few texts, to see that it fits together."""
        return replace(
            self,
            following=replace(self.following, steps=2),
            pairs=tuple(replace(each, steps=2) for each in self.pairs),
            shape=replace(self.shape, texts=20),
            batch_tokens=256,
            batch_pairs=4,
        )


def find_files(folder: Path, names: Mapping[str, float]) -> dict[str, Path]:
    """NAME.jsonl or NAME.jsonl.gz in `folder`, for each name.

    Raises:
        ConfigError: one of them is not there.
    """
    found = {}
    for name in names:
        paths = [folder / f"{name}.jsonl", folder / f"{name}.jsonl.gz"]
        path = next((each for each in paths if each.is_file()), None)
        if path is None:
            raise ConfigError(f"{folder}: expected {name}.jsonl or {name}.jsonl.gz there")
        found[name] = path
    return found


def train_starter(
    recipe: StarterRecipe, teacher: Path, files: Mapping[str, Path], report: Report
) -> SharedBackbone:
    """Make the backbone and train both heads.

    Args:
        recipe: everything that can be set.
        teacher: folder of a BERT with its `tokenizer.json`.
        files: for each name in the recipe's weights, a JSONL file of pairs.
        report: gets the figures of a stretch now and then.
    """
    torch.manual_seed(recipe.seed)
    tokenizer: Any = Tokenizer.from_file(str(teacher / "tokenizer.json"))
    lengths = {
        "query_tokens": recipe.query_tokens,
        "document_tokens": max(recipe.following_tokens, recipe.pair_tokens),
    }
    sources = {
        name: PairSource(path, _tokenize(tokenizer), **lengths) for name, path in files.items()
    }
    report({name: len(source) for name, source in sources.items()})
    texts = list(sources.values())
    bert: Any = BertModel.from_pretrained(teacher, add_pooling_layer=False)
    bert.eval()
    cut = recipe.shape.max_tokens
    sample = text_batches(texts, tokens=1, query_share=0.0, max_tokens=cut, seed=recipe.seed)
    drawn = [pairs.documents[0].tolist() for _, pairs in zip(range(recipe.shape.texts), sample)]
    backbone = inherit(bert, drawn, recipe.shape)
    states = teacher_of(bert.to(torch.bfloat16), pad_id=0)
    marks = [tokenizer.token_to_id(mark) for mark in string.punctuation]
    shared = SharedBackbone(
        backbone,
        torch.zeros(recipe.width, backbone.config.hidden_size),
        skiplist=[each for each in marks if each is not None],
    )
    batches = text_batches(
        texts,
        tokens=recipe.batch_tokens,
        query_share=recipe.query_share,
        max_tokens=recipe.following_tokens,
        seed=recipe.seed,
    )
    shared.fit(batches, states, recipe.following, report=report)
    with torch.no_grad():
        found = torch.cat([shared.states(next(batches).documents) for _ in range(4)])
    shared.projection.data = principal_projection(found, recipe.width)
    pairs = pair_batches(
        sources,
        recipe.weights,
        pairs=recipe.batch_pairs,
        one_source_share=recipe.one_source_share,
        seed=recipe.seed,
    )
    short = (
        each._replace(documents=[text[: recipe.pair_tokens] for text in each.documents])
        for each in pairs
    )
    for stretch in recipe.pairs:
        shared.fit(short, states, stretch, report=report)
    return shared


def save_starter(
    shared: SharedBackbone, teacher: Path, recipe: StarterRecipe, output: Path
) -> dict[str, Path]:
    """Write the backbone, and a checkpoint of each starter; returns these by their names."""
    backbone = output / "backbone"
    shared.backbone.save_pretrained(backbone)
    AutoTokenizer.from_pretrained(teacher).save_pretrained(backbone)
    options: dict[str, Any] = {
        "query_length": recipe.query_tokens,
        "document_length": recipe.document_tokens,
        "query_prefix": "",
        "document_prefix": "",
    }
    colbert = MultiVectorEncoder.from_backbone(
        backbone, width=recipe.width, query_expansion=False, **options
    )
    model: Any = colbert.model
    model[1].linear.weight.data.copy_(shared.projection.detach())
    folders = {"starter-dense": output / "dense", "starter-colbert": output / "colbert"}
    DenseEncoder.from_backbone(backbone, **options).save(folders["starter-dense"])
    colbert.save(folders["starter-colbert"])
    return folders


def _tokenize(tokenizer: Any) -> Callable[[list[str], int], list[list[int]]]:
    def tokenize(texts: list[str], limit: int) -> list[list[int]]:
        tokenizer.no_padding()
        tokenizer.enable_truncation(limit)
        return [each.ids for each in tokenizer.encode_batch(texts)]

    return tokenize
