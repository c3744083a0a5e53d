"""What several subcommands take: the model, the kind of index, settings by name."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_type_hints

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
    typer.Option(
        "--model", "-m", help="Folder or hub name of a dense or multi-vector model, or a starter."
    ),
]
Devices = Annotated[
    str | None,
    typer.Option(help="Encode in one process for each of these, such as cuda:0,cuda:1 or cpu,cpu."),
]
Processes = Annotated[
    int | None,
    typer.Option(min=1, help="Encode in so many processes, on --devices in turn, or on every GPU."),
]
SkipBad = Annotated[
    bool, typer.Option("--skip-bad", help="Skip and count lines that can't be used.")
]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace what is there.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")]
Settings = Annotated[
    list[str] | None,
    typer.Option("--set", help="A setting of the index, key=value; may come several times."),
]


@dataclass(frozen=True, kw_only=True)
class ModelOptions:
    """How a model is loaded: options that every command has which loads one."""

    device: Annotated[
        str | None, typer.Option(help="cpu, cuda, ...; by default a GPU where there is one.")
    ] = None
    model_dtype: Annotated[
        Literal["float32", "bfloat16", "int8", "auto"],
        typer.Option(help="Of the weights; auto is bfloat16 where the hardware computes it."),
    ] = "float32"
    attention: Annotated[
        Literal["auto", "cpu", "varlen", "flash", "sdpa"],
        typer.Option(help="Of a ModernBERT; auto takes the fastest that the device has."),
    ] = "auto"
    max_tokens: Annotated[
        int | None, typer.Option(min=1, help="Of a batch; by default what suits the device.")
    ] = None
    batch_size: Annotated[
        int, typer.Option(min=1, help="Texts of a batch, for models that can't run by tokens.")
    ] = 32
    width: Annotated[
        int | None, typer.Option(min=1, help="Keep so many components of a vector (Matryoshka).")
    ] = None
    normalize: Annotated[
        bool | None,
        typer.Option(
            "--normalize/--no-normalize",
            help="Bring dense vectors to unit length after the cut; by default as the model's "
            "similarity asks.",
        ),
    ] = None
    pool_factor: Annotated[
        float | None,
        typer.Option(min=1, help="Keep one of so many token vectors of a document, by clusters."),
    ] = None
    query_length: Annotated[
        int | None, typer.Option(min=1, help="Tokens of a query, instead of the model's limit.")
    ] = None
    document_length: Annotated[
        int | None, typer.Option(min=1, help="Tokens of a document, instead of the model's limit.")
    ] = None
    query_prompt: Annotated[
        str | None, typer.Option(help="Stands before every query, instead of the model's prompt.")
    ] = None
    document_prompt: Annotated[str | None, typer.Option(help="The same for documents.")] = None


def takes_model_options(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the options of `ModelOptions`; it gets them together, as `options`."""
    hints = get_type_hints(command, include_extras=True)
    model_hints = get_type_hints(ModelOptions, include_extras=True)
    parameters = []
    for parameter in inspect.signature(command).parameters.values():
        if parameter.name != "options":
            parameters.append(parameter.replace(annotation=hints[parameter.name]))
            continue
        for field in fields(ModelOptions):
            parameters.append(
                inspect.Parameter(
                    field.name,
                    inspect.Parameter.KEYWORD_ONLY,
                    default=field.default,
                    annotation=model_hints[field.name],
                )
            )
    parameters = [each.replace(kind=inspect.Parameter.KEYWORD_ONLY) for each in parameters]

    def run(**given: Any) -> None:
        options = ModelOptions(
            **{field.name: given.pop(field.name) for field in fields(ModelOptions)}
        )
        command(**given, options=options)

    # What Typer reads.
    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {each.name: each.annotation for each in parameters}
    run.__doc__ = command.__doc__
    run.__name__ = command.__name__
    return run


def load_model(
    name: str, options: ModelOptions, *, remembered: Mapping[str, Any] | None = None
) -> DenseEncoder | MultiVectorEncoder:
    """Load an encoder without the bars and remarks of the libraries below it.

    Args:
        name: a folder or hub name.
        options: of the command line.
        remembered: what an index or a store says of its model, where `options` says nothing.
    """
    from retrieval.encoders.loading import load_encoder

    quiet_libraries()
    given = {
        "width": options.width,
        "normalize": options.normalize,
        "pool_factor": options.pool_factor,
        "query_length": options.query_length,
        "document_length": options.document_length,
        "query_prompt": options.query_prompt,
        "document_prompt": options.document_prompt,
    }
    chosen = {key: value for key, value in given.items() if value is not None}
    return load_encoder(
        name,
        device=options.device,
        dtype=options.model_dtype,
        batch_size=options.batch_size,
        attention=options.attention,
        max_tokens=options.max_tokens,
        **{**(remembered or {}), **chosen},
    )


def quiet_libraries() -> None:
    """Keep the bars and remarks of transformers off the terminal."""
    from transformers.utils import logging as transformers_logging

    quiet: Any = transformers_logging
    quiet.disable_progress_bar()
    quiet.set_verbosity_error()


def default_model(model: str | None, kind: IndexKind | None) -> str | None:
    """The model that a command takes: the one named, else a starter, none for a bm25 index.

    A starter is announced in one line on stderr.
    """
    from retrieval.encoders.starters import DEFAULT_STARTER

    if model or kind == "bm25":
        return model
    starter = "starter-dense" if kind == "faiss" else DEFAULT_STARTER
    print(
        f"no model named: {starter} it is, which comes with the package (--model names another)",
        file=sys.stderr,
    )
    return starter


def process_devices(
    devices: str | None, processes: int | None, options: ModelOptions
) -> list[str] | None:
    """The device of every process that encodes; None where this one does it itself.

    Raises:
        ConfigError: both --device and --devices, or an empty name among the latter.
    """
    if devices is None and processes is None:
        return None
    if devices is not None and options.device is not None:
        raise ConfigError("--device and --devices exclude each other")
    named = [each.strip() for each in devices.split(",")] if devices else [options.device or ""]
    if devices is None and options.device is None:
        named = _every_device()
    if not all(named):
        raise ConfigError(f"--devices {devices!r}: expected names with commas between them")
    return [named[number % len(named)] for number in range(processes or len(named))]


def parent_options(options: ModelOptions, devices: Sequence[str] | None) -> ModelOptions:
    """What this process loads where others encode: the same, on the first of their devices."""
    return options if devices is None else replace(options, device=devices[0])


def _every_device() -> list[str]:
    import torch

    return [f"cuda:{number}" for number in range(torch.cuda.device_count())] or ["cpu"]


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
