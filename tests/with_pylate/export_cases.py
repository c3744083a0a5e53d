"""Multi-vector models of every origin that are exported for PyLate, made from tiny backbones."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from transformers import AutoModel

from retrieval.encoders.multi_vector import MultiVectorEncoder
from tests.with_pylate.backbones import make_bert, make_modernbert
from tests.with_pylate.texts import DOCUMENTS, QUERIES

FIXTURES = Path(__file__).parents[1] / "fixtures"
ORIGINS = sorted(folder.name for folder in FIXTURES.iterdir() if folder.is_dir())
SEED = 20260218


class Case(NamedTuple):
    """A model, and texts that PyLate reads as the model does.

    PyLate cuts the blanks around a text. A model that it did not make keeps them, so such models
    are compared on texts without.
    """

    encoder: MultiVectorEncoder
    queries: list[str]
    documents: list[str]


def started(bert: bool = False, **options: Any) -> Callable[[Path], Case]:
    """By our own `from_backbone`."""

    def make(folder: Path) -> Case:
        return without_blanks(start(folder, bert, **options))

    return make


def start(folder: Path, bert: bool = False, **options: Any) -> MultiVectorEncoder:
    torch.manual_seed(SEED)
    (make_bert if bert else make_modernbert)(folder)
    settings = {"width": 16, "device": "cpu", **options}
    return MultiVectorEncoder.from_backbone(folder, **settings)


def without_blanks(encoder: MultiVectorEncoder) -> Case:
    queries, documents = ([text.strip() for text in each] for each in (QUERIES, DOCUMENTS))
    return Case(encoder, queries, documents)


def saved_by_sentence_transformers(folder: Path) -> Case:
    encoder = start(folder, query_length=20, skiplist=["."])
    encoder.model.save_pretrained(str(folder / "saved"))
    return without_blanks(MultiVectorEncoder.load(folder / "saved", device="cpu"))


def with_prompts_of_several_tokens(folder: Path) -> Case:
    """One prompt that is nothing but text, and one of an added token and text."""
    encoder = start(folder)
    encoder.model.prompts = {"query": "search_query: ", "document": "[D] search_document: "}
    case = without_blanks(encoder)
    # PyLate cuts the blank of a prompt that nothing follows, too.
    return case._replace(
        queries=[text for text in case.queries if text],
        documents=[text for text in case.documents if text],
    )


def with_two_projections(folder: Path) -> Case:
    from sentence_transformers.base.modules import Dense

    encoder = start(folder)
    options: dict[str, Any] = {"module_input_name": "token_embeddings", "use_residual": True}
    wide = Dense(32, 24, activation_function=torch.nn.Tanh(), **options)
    square = Dense(24, 32, bias=False, activation_function=torch.nn.Identity(), **options)
    encoder.model.insert(1, wide)
    encoder.model.insert(2, square)
    return without_blanks(encoder)


def with_spare_embeddings(folder: Path) -> Case:
    """As ModernBERT itself: more rows in the table than the tokenizer has tokens."""
    torch.manual_seed(SEED)
    make_modernbert(folder)
    backbone = AutoModel.from_pretrained(folder)
    backbone.resize_token_embeddings(448, mean_resizing=False)
    backbone.save_pretrained(folder)
    return without_blanks(MultiVectorEncoder.from_backbone(folder, width=16, device="cpu"))


def without_lengths(folder: Path) -> Case:
    """As a MultiVectorEncoder of Sentence Transformers is by default; the tokenizer's 512 hold."""
    encoder = start(folder, query_expansion=False)
    encoder.model[0].query_length = encoder.model[0].document_length = None
    return without_blanks(encoder)


def loaded(name: str) -> Callable[[Path], Case]:
    """From a checkpoint of PyLate's or Stanford's."""

    def make(_: Path) -> Case:
        encoder = MultiVectorEncoder.load(FIXTURES / name / "checkpoint", device="cpu")
        return Case(encoder, QUERIES, DOCUMENTS)

    return make


CASES: dict[str, Callable[[Path], Case]] = {
    "defaults": started(),
    "attending": started(attend_to_expansion=True),
    "unexpanded": started(query_expansion=False),
    "lengths": started(query_length=48, document_length=30),
    "short-unexpanded": started(query_expansion=False, query_length=9, document_length=12),
    "no-skiplist": started(skiplist=()),
    "own-skiplist": started(skiplist=["Ġthe", ",", "Ġof"], attend_to_expansion=True),
    "no-prefixes": started(query_prefix="", document_prefix=""),
    "own-prefixes": started(query_prefix="find: ", document_prefix="", query_expansion=False),
    "bert": started(bert=True),
    "bert-unknown-skipped-word": started(bert=True, skiplist=[".", "no-such-token"]),
    "saved": saved_by_sentence_transformers,
    "prompts": with_prompts_of_several_tokens,
    "two-projections": with_two_projections,
    "spare-embeddings": with_spare_embeddings,
    "without-lengths": without_lengths,
    **{name: loaded(name) for name in ORIGINS},
}

# Settings that PyLate can't be given as they are; the vectors are the same all the same.
OTHER_FINGERPRINT = ("bert-unknown-skipped-word", "without-lengths")
