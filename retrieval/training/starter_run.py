"""The run that makes the starters: a backbone from a teacher, two heads, two checkpoints.

It goes in stretches: following the teacher, then pairs, as often as the recipe says. Each draws its
batches from a seed of its own and leaves its weights behind, so that a run that was stopped goes on
after its last whole stretch, with the same result.
"""

from __future__ import annotations

import copy
import logging
import string
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer
from transformers import AutoTokenizer, BertConfig, BertModel

from retrieval.backbone.precision import uses_bfloat16
from retrieval.config import to_mapping
from retrieval.encoders.dense import DenseEncoder
from retrieval.encoders.multi_vector import MultiVectorEncoder
from retrieval.encoders.starters import about_starters, starter_folder
from retrieval.errors import ConfigError
from retrieval.files import map_arrays, read_json, sha256, write_json
from retrieval.training.inheritance import InheritanceSettings, empty_model, inherit
from retrieval.training.shared_backbone import (
    SharedBackbone,
    SharedSettings,
    Teacher,
    TokenPairs,
    principal_projection,
)
from retrieval.training.token_pairs import PairSource, pair_batches, teacher_of, text_batches

logger = logging.getLogger(__name__)

Report = Callable[[dict[str, float]], None]


@dataclass(frozen=True, kw_only=True)
class PairStretch(SharedSettings):
    """A stretch of training on pairs, and the batches that it draws."""

    batch_pairs: int = 48
    document_tokens: int = 180
    """Documents are cut to so many tokens."""
    seed: int = 0
    """Of the order of the pairs."""
    weights: dict[str, float] = field(default_factory=dict)
    """Instead of the recipe's, file by file; files that the recipe does not name come in here."""


@dataclass(frozen=True, kw_only=True)
class StarterRecipe:
    """What the run needs to know."""

    weights: dict[str, float]
    """How often a batch is drawn from each file, whatever its size."""
    following: SharedSettings
    """Following the teacher on single texts."""
    pairs: tuple[PairStretch, ...]
    """One stretch after the other."""
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
    query_share: float = 0.3
    """Of the texts that the teacher is followed on."""
    batch_tokens: int = 4096
    """Of a batch of texts that the teacher is followed on."""
    one_source_share: float = 0.6
    """Of the batches of pairs, that come from one file: their negatives are harder."""
    about: str = ""

    def names(self) -> list[str]:
        """Of all files that are drawn from."""
        return list(
            dict.fromkeys([*self.weights, *(n for each in self.pairs for n in each.weights)])
        )

    def shortened(self) -> StarterRecipe:
        """The same with two steps of everything and few texts, to see that it fits together."""
        return replace(
            self,
            following=replace(self.following, steps=2),
            pairs=tuple(replace(each, steps=2, batch_pairs=4) for each in self.pairs),
            shape=replace(self.shape, texts=20),
            batch_tokens=256,
        )


def find_files(folder: Path, names: Iterable[str]) -> dict[str, Path]:
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
    recipe: StarterRecipe,
    teacher: Path,
    files: Mapping[str, Path],
    report: Report,
    stretches: Path | None = None,
) -> SharedBackbone:
    """Make the backbone and train both heads.

    Args:
        recipe: everything that can be set.
        teacher: folder of a BERT with its `tokenizer.json`.
        files: a JSONL file of pairs for each of the recipe's names.
        report: gets the figures of a stretch now and then.
        stretches: folder that keeps the weights after each stretch. Where it holds some of the
            same recipe, the run goes on after them.

    Raises:
        ConfigError: `stretches` holds weights that another recipe or other files made.
    """
    torch.manual_seed(recipe.seed)
    tokenizer: Any = Tokenizer.from_file(str(teacher / "tokenizer.json"))
    longest = max(each.document_tokens for each in recipe.pairs)
    lengths = {
        "query_tokens": recipe.query_tokens,
        "document_tokens": max(recipe.following_tokens, longest),
    }
    sources = {
        name: PairSource(path, _tokenize(tokenizer), **lengths) for name, path in files.items()
    }
    report({name: len(source) for name, source in sources.items()})
    bert: Any = BertModel.from_pretrained(teacher, add_pooling_layer=False)
    bert.eval()
    is_bf16 = uses_bfloat16(recipe.following.precision, "cpu")
    states = teacher_of(_in_bfloat16(bert) if is_bf16 else bert, pad_id=0)
    shared = _empty(recipe, bert.config, tokenizer)
    kept = _Stretches(stretches, recipe, files)
    done = kept.restore(shared)
    if done == 0:
        first = {name: sources[name] for name in recipe.weights}
        shared.backbone.load_state_dict(_inherited(recipe, bert, first).state_dict())
        _follow(shared, recipe, first, states, report)
        kept.keep(shared, 1)
    for number, stretch in enumerate(recipe.pairs, start=2):
        if number > done:
            batches = _pair_batches(recipe, stretch, sources)
            shared.fit(batches, states, stretch, report=report)
            kept.keep(shared, number)
    return shared


def go_on_from_package(
    recipe: StarterRecipe, teacher: Path, files: Mapping[str, Path], stretches: Path
) -> None:
    """Keep the package's starters as what a recipe left before its last stretch.

    `train_starter` then has that one left. The package holds 8 bits of each weight, so the result
    is near that of the whole recipe, and not the same.

    Args:
        recipe: whose stretches before the last made the package's starters.
        teacher: as for `train_starter`.
        files: the same.
        stretches: a new folder.

    Raises:
        ConfigError: the recipe has no stretch of pairs.
    """
    if not recipe.pairs:
        raise ConfigError("the recipe has no [[pairs]] with which the starters could go on")
    folder = starter_folder("starter-colbert")
    backbone = map_arrays(folder / "model.safetensors")
    projection = map_arrays(folder / "1_Dense" / "model.safetensors")["linear.weight"]
    shared = SharedBackbone(
        empty_model(BertConfig.from_pretrained(teacher), recipe.shape),
        torch.from_numpy(np.array(projection, np.float32)),
        scale=about_starters()["scale"],
    )
    shared.backbone.load_state_dict(
        {name: torch.from_numpy(np.array(each, np.float32)) for name, each in backbone.items()}
    )
    _Stretches(stretches, recipe, files).keep(shared, len(recipe.pairs))


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


def _in_bfloat16(bert: Any) -> Any:
    return copy.deepcopy(bert).to(torch.bfloat16)


def _empty(recipe: StarterRecipe, config: Any, tokenizer: Any) -> SharedBackbone:
    marks = [tokenizer.token_to_id(mark) for mark in string.punctuation]
    return SharedBackbone(
        empty_model(config, recipe.shape),
        torch.zeros(recipe.width, config.hidden_size),
        skiplist=[each for each in marks if each is not None],
    )


class _Stretches:
    """The weights after each stretch, and what made them; nothing where there is no folder."""

    def __init__(self, folder: Path | None, recipe: StarterRecipe, files: Mapping[str, Path]):
        self._folder = folder
        self._recipe = recipe
        self._files = files

    def restore(self, shared: SharedBackbone) -> int:
        """Load what the last whole stretch left; returns how many are done."""
        for number in range(1 + len(self._recipe.pairs), 0, -1):
            if self._folder is None or not self._weights(number).is_file():
                continue
            if read_json(self._made_of(number)) != self._inputs(number):
                raise ConfigError(
                    f"{self._folder}: stretch {number} was made by another recipe or of other "
                    "pairs: use those, or start anew with --overwrite"
                )
            shared.load(self._weights(number))
            logger.info("going on after stretch %d of %d", number, 1 + len(self._recipe.pairs))
            return number
        return 0

    def keep(self, shared: SharedBackbone, number: int) -> None:
        if self._folder is None:
            return
        self._folder.mkdir(parents=True, exist_ok=True)
        # First what they are made of: weights that are there were made of it.
        write_json(self._made_of(number), self._inputs(number))
        shared.save(self._weights(number))

    def _inputs(self, number: int) -> dict[str, Any]:
        said = replace(self._recipe, about="", pairs=self._recipe.pairs[: number - 1])
        data = {name: sha256(path) for name, path in self._files.items()}
        return {"recipe": to_mapping(said), "data": data}

    def _weights(self, number: int) -> Path:
        assert self._folder is not None
        return self._folder / f"{number}.safetensors"

    def _made_of(self, number: int) -> Path:
        return self._weights(number).with_suffix(".json")


def _inherited(recipe: StarterRecipe, bert: Any, sources: Mapping[str, PairSource]) -> Any:
    cut = recipe.shape.max_tokens
    sample = text_batches(
        list(sources.values()), tokens=1, query_share=0.0, max_tokens=cut, seed=recipe.seed
    )
    drawn = [pairs.documents[0].tolist() for _, pairs in zip(range(recipe.shape.texts), sample)]
    return inherit(bert, drawn, recipe.shape)


def _follow(
    shared: SharedBackbone,
    recipe: StarterRecipe,
    sources: Mapping[str, PairSource],
    states: Teacher,
    report: Report,
) -> None:
    batches = text_batches(
        list(sources.values()),
        tokens=recipe.batch_tokens,
        query_share=recipe.query_share,
        max_tokens=recipe.following_tokens,
        seed=recipe.seed,
    )
    shared.fit(batches, states, recipe.following, report=report)
    with torch.no_grad():
        found = torch.cat([shared.states(next(batches).documents) for _ in range(4)])
    shared.projection.data = principal_projection(found, recipe.width)


def _pair_batches(
    recipe: StarterRecipe, stretch: PairStretch, sources: Mapping[str, PairSource]
) -> Iterator[TokenPairs]:
    batches = pair_batches(
        sources,
        {**recipe.weights, **stretch.weights},
        pairs=stretch.batch_pairs,
        one_source_share=recipe.one_source_share,
        seed=stretch.seed,
    )
    for each in batches:
        cut = [text[: stretch.document_tokens] for text in each.documents]
        yield each._replace(documents=cut)


def _tokenize(tokenizer: Any) -> Callable[[list[str], int], list[list[int]]]:
    def tokenize(texts: list[str], limit: int) -> list[list[int]]:
        tokenizer.no_padding()
        tokenizer.enable_truncation(limit)
        return [each.ids for each in tokenizer.encode_batch(texts)]

    return tokenize
