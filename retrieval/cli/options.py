"""What several subcommands take: the model, the kind of index, settings by name."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from retrieval.config import from_mapping, with_overrides
from retrieval.errors import ConfigError
from retrieval.indexing import index_class
from retrieval.records import ModelReference

if TYPE_CHECKING:
    from retrieval.encoders.dense import DenseEncoder
    from retrieval.encoders.multi_vector import MultiVectorEncoder

IndexKind = Literal["plaid", "faiss", "exact", "bm25"]

Model = Annotated[
    str | None,
    typer.Option("--model", "-m", help="Folder or hub name of a dense or multi-vector model."),
]
Device = Annotated[
    str | None, typer.Option(help="cpu, cuda, ...; by default a GPU where there is one.")
]
BatchSize = Annotated[int, typer.Option(min=1, help="Texts in a forward pass.")]
SkipBad = Annotated[
    bool, typer.Option("--skip-bad", help="Skip and count lines that can't be used.")
]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace what is there.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")]
Settings = Annotated[
    list[str] | None,
    typer.Option("--set", help="A setting of the index, key=value; may come several times."),
]


def load_model(name: str, device: str | None, batch_size: int) -> DenseEncoder | MultiVectorEncoder:
    """Load an encoder without the bars and remarks of the libraries below it."""
    from transformers.utils import logging as transformers_logging

    from retrieval.encoders.loading import load_encoder

    quiet: Any = transformers_logging
    quiet.disable_progress_bar()
    quiet.set_verbosity_error()
    return load_encoder(name, device=device, batch_size=batch_size)


def choose_kind(kind: IndexKind | None, model: ModelReference | None) -> str:
    """Resolve the kind of index: plaid for multi-vector models, faiss for dense, else lexical.

    Raises:
        ConfigError: the kind does not take what the model makes.
    """
    if model is None:
        if kind not in (None, "bm25"):
            raise ConfigError(f"an index of kind {kind} needs a model: name one with --model")
        return "lexical"
    own, other = ("plaid", "faiss") if model.is_multi_vector else ("faiss", "plaid")
    if kind == "bm25":
        raise ConfigError("a bm25 index takes no model: leave --model out")
    if kind == other:
        vectors = "one vector a token" if model.is_multi_vector else "one vector a text"
        raise ConfigError(f"{model.name} makes {vectors}: take {own} or exact, not {other}")
    return kind or own


def index_settings(kind: str, overrides: Sequence[str] | None) -> Any:
    """The settings dataclass of a kind of index, with `key=value` overrides.

    Raises:
        ConfigError: an unknown key or a value out of range.
    """
    settings = with_overrides({}, overrides or ())
    return from_mapping(index_class(kind).settings_type, settings, source="--set")
