"""What the training benchmark trains on and from: pairs, a held-out set, starting checkpoints."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from workloads import SHAPES, SHARED, Shape, draw_lengths, make_texts, make_tokenizer, save_model

from retrieval import DenseEncoder, MultiVectorEncoder
from retrieval.encoders.export import export_model

TRAINED_SHAPES: dict[str, Shape] = {
    "17m": SHAPES["17m"],
    "base": SHAPES["base"],
    "4x128": Shape(layers=4, hidden=128, intermediate=192, heads=2),
    "tiny": Shape(layers=3, hidden=32, intermediate=48, heads=2),
}
STARTERS = "starters"
"""In place of a shape: the trained retrievers that come with the package."""
# Questions, package descriptions, documentation and code: positives of 3 to 500 tokens.
_SPEED_FILES = ("boolq", "debian-desc", "medquad", "msdocs", "pydocstr", "so-codenn", "tldr")
_QUALITY_FILE = "debian-desc"

Pair = dict[str, str]


class Starts(NamedTuple):
    """Folders of one model of each kind, and of the ColBERT as PyLate reads it."""

    dense: Path
    colbert: Path
    pylate: Path


class HeldOut(NamedTuple):
    """Query i asks for document i; further documents follow."""

    queries: list[str]
    documents: list[str]


def make_starts(folder: Path, shape: str, seed: int) -> Starts:
    """Write checkpoints to train on from.

    Args:
        folder: where.
        shape: one of `TRAINED_SHAPES`, for random weights, or `STARTERS`.
        seed: of the random weights.
    """
    starts = Starts(folder / "dense", folder / "colbert", folder / "pylate")
    if shape == STARTERS:
        dense = DenseEncoder.load("starter-dense", device="cpu")
        colbert = MultiVectorEncoder.load(
            "starter-colbert", device="cpu", query_length=32, document_length=180
        )
    else:
        backbone = folder / "backbone"
        save_model(backbone, TRAINED_SHAPES[shape], seed=seed)
        dense = DenseEncoder.from_backbone(
            backbone, query_length=64, document_length=512, device="cpu", seed=seed
        )
        colbert = MultiVectorEncoder.from_backbone(backbone, device="cpu", seed=seed)
    dense.save(starts.dense)
    colbert.save(starts.colbert)
    export_model(colbert, starts.pylate, to="pylate")
    return starts


def mixed_pairs(count: int, seed: int, shortest: int) -> list[Pair]:
    """Pairs of several kinds of text in random order, or generated ones without ../shared.

    Args:
        count: pairs.
        seed: of what is drawn.
        shortest: least characters of a positive.
    """
    paths = [SHARED / "pairs" / f"{name}.jsonl.gz" for name in _SPEED_FILES]
    if not all(path.is_file() for path in paths):
        return _generated(2 * count, seed, shortest)[:count]
    generator = np.random.default_rng(seed)
    drawn: list[Pair] = []
    for path in paths:
        pairs = [pair for pair in _read(path) if len(pair["positive"]) >= shortest]
        chosen = generator.permutation(len(pairs))[: -(-count // len(paths))]
        drawn += [pairs[at] for at in chosen.tolist()]
    return [drawn[at] for at in generator.permutation(len(drawn))[:count].tolist()]


def split_pairs(queries: int, documents: int, seed: int) -> tuple[list[Pair], HeldOut]:
    """One kind of pairs to train on, and others, whose texts are none of those, to test with."""
    path = SHARED / "pairs" / f"{_QUALITY_FILE}.jsonl.gz"
    pairs = list(_read(path)) if path.is_file() else _generated(2 * documents, seed, 1)
    by_document = {pair["positive"]: pair for pair in pairs}
    order = np.random.default_rng(seed).permutation(len(by_document)).tolist()
    distinct = list(by_document.values())
    held_out = [distinct[at] for at in order[:documents]]
    asked = {pair["query"] for pair in held_out}
    kept = {pair["positive"] for pair in held_out}
    train = [pair for pair in pairs if pair["positive"] not in kept and pair["query"] not in asked]
    return train, HeldOut(
        [pair["query"] for pair in held_out[:queries]], [pair["positive"] for pair in held_out]
    )


def write_pairs(path: Path, pairs: list[Pair]) -> None:
    """As JSON lines."""
    path.write_text("".join(json.dumps(pair) + "\n" for pair in pairs), "utf-8")


def _read(path: Path) -> Iterator[Pair]:
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        for line in lines:
            record = json.loads(line)
            # PyLate cuts the blanks around a text, Sentence Transformers 6 does not.
            pair = {"query": record["anchor"].strip(), "positive": record["positive"].strip()}
            if all(pair.values()):
                yield pair


def _generated(count: int, seed: int, shortest: int) -> list[Pair]:
    tokenizer = make_tokenizer()
    generator = np.random.default_rng(seed)
    short = np.clip(generator.lognormal(np.log(14), 0.4, count), 4, 64).astype(np.int64)
    queries = make_texts(tokenizer, short, seed)
    passages = make_texts(tokenizer, draw_lengths("passages", count, seed), seed + 1)
    pairs = [(query.strip(), passage.strip()) for query, passage in zip(queries, passages)]
    return [
        {"query": query, "positive": passage}
        for query, passage in pairs
        if query and len(passage) >= shortest
    ]
