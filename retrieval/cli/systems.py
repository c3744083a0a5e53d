"""Systems under test from the command line: models times kinds of index, saved ones, or a file."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast, get_args

from retrieval.cli.options import IndexKind, ModelOptions, choose_kind, default_model
from retrieval.config import with_overrides
from retrieval.errors import ConfigError
from retrieval.records import ModelReference

if TYPE_CHECKING:
    from retrieval.evaluation.models import ModelSettings
    from retrieval.evaluation.systems import System, VectorSystem


def choose_systems(
    models: Sequence[str],
    kinds: Sequence[str],
    settings: Sequence[str],
    options: ModelOptions,
    file: Path | None,
) -> list[System]:
    """The systems that a command line names.

    Args:
        models: each in every index of `kinds` that it fits; a starter where there are none.
        kinds: of index; what suits the model where there are none. "bm25" stands for itself, and
            the folder of an index for that one, with the model that it names.
        settings: `key=value` of the index, of which there must be one kind then; of a saved one
            those of the search alone.
        options: of all models.
        file: of tables [[system]], instead of all others.

    Raises:
        ConfigError: options that contradict each other, an index that does not fit a model, or two
            systems of the same name.
        IndexFilesError: a damaged index.
    """
    from retrieval.evaluation.saved_indexes import saved_facts, with_own_models
    from retrieval.evaluation.staged import index_settings
    from retrieval.evaluation.systems import SavedSystem, leaves, read_systems

    if file is not None:
        if models or kinds or settings:
            raise ConfigError("--systems says all of --model, --index and --set: leave them out")
        systems = read_systems(file)
    elif any(_is_index(each) for each in kinds):
        systems = _saved(models, kinds, settings, options)
    else:
        systems = _products(models, [_kind(each) for each in kinds], settings, options)
    systems = [with_own_models(each, partial(_remembered, options=options)) for each in systems]
    for each in systems:
        for leaf in leaves(each):  # a wrong setting is told before hours of encoding
            if isinstance(leaf, SavedSystem):
                saved_facts(leaf)
            else:
                index_settings(leaf)
    names = [each.name for each in systems]
    twice = [name for name in names if names.count(name) > 1]
    if twice:
        raise ConfigError(
            f"two systems are called {twice[0]!r}: give them names in a file, with --systems"
        )
    return systems


def _kind(name: str) -> IndexKind:
    for known in get_args(IndexKind):
        if name == known:
            return cast(IndexKind, known)
    raise ConfigError(
        f"--index is {name!r}, expected one of {', '.join(get_args(IndexKind))}, or the folder of "
        "an index"
    )


def _is_index(name: str) -> bool:
    return name not in get_args(IndexKind) and (Path(name) / "CURRENT").is_file()


def _saved(
    models: Sequence[str], folders: Sequence[str], settings: Sequence[str], options: ModelOptions
) -> list[System]:
    from retrieval.evaluation.systems import SavedSystem
    from retrieval.indexing.versions import read_manifest

    given = with_overrides({}, settings)
    kinds = [each for each in folders if not _is_index(each)]
    if kinds:
        raise ConfigError(f"--index {kinds[0]} beside the folder of an index: take --systems FILE")
    if len(models) > 1:
        raise ConfigError("an index takes one model: leave --model out, and it is its own")
    systems: list[System] = []
    for each in folders:
        own = read_manifest(Path(each)).model or ModelReference("", "", False, 0)
        model = _remembered(own._replace(name=models[0]), options) if models else None
        systems.append(
            SavedSystem(name=Path(each).resolve().name, folder=each, model=model, settings=given)
        )
    return systems


def _remembered(reference: ModelReference, options: ModelOptions) -> ModelSettings:
    """How an index remembers its model, where the command line says nothing."""
    return _settings(reference.name, options).with_defaults(**reference.options)


def _products(
    models: Sequence[str],
    kinds: Sequence[IndexKind],
    settings: Sequence[str],
    options: ModelOptions,
) -> list[System]:
    from retrieval.evaluation.systems import LexicalSystem

    if settings and len(set(kinds)) > 1:
        raise ConfigError("--set is for one kind of index: name one, or take --systems FILE")
    given = with_overrides({}, settings)
    of_vectors = [each for each in kinds if each != "bm25"]
    systems: list[System] = []
    if "bm25" in kinds:
        if models and not of_vectors:
            raise ConfigError("a bm25 index takes no model: leave --model out, or add an --index")
        systems.append(LexicalSystem(settings=given))
    if of_vectors or not kinds:
        chosen = list(models) or [default_model(None, of_vectors[0] if of_vectors else None) or ""]
        for model in chosen:
            systems += _of_model(_settings(model, options), of_vectors, given)
    return systems


def _of_model(
    model: ModelSettings, kinds: Sequence[IndexKind], settings: dict[str, Any]
) -> list[VectorSystem]:
    from retrieval.encoders.checkpoints import checkpoint_kind
    from retrieval.encoders.starters import checkpoint_folder
    from retrieval.evaluation.systems import VectorSystem

    is_multi_vector = (
        checkpoint_kind(checkpoint_folder(model.name), revision=model.revision) == "multi_vector"
    )
    reference = ModelReference(model.name, "", is_multi_vector, 0)
    foreign = "faiss" if is_multi_vector else "plaid"
    # Of several kinds each model takes those that it can; a single one has to fit.
    fitting = [each for each in kinds if each != foreign] if len(kinds) > 1 else kinds
    wanted: Sequence[IndexKind | None] = fitting or [None]
    systems = []
    for kind in wanted:
        index: Any = choose_kind(kind, reference)
        systems.append(
            VectorSystem(
                kind="multi-vector" if is_multi_vector else "dense",
                name=f"{Path(model.name).name} {index}",
                model=model,
                index=index,
                settings=settings,
            )
        )
    return systems


def _settings(name: str, options: ModelOptions) -> ModelSettings:
    from retrieval.evaluation.models import ModelSettings

    return ModelSettings(
        name=name,
        dtype=options.model_dtype,
        attention=options.attention,
        batch_size=options.batch_size,
        max_tokens=options.max_tokens,
        width=options.width,
        normalize=options.normalize,
        pool_factor=options.pool_factor,
        query_length=options.query_length,
        document_length=options.document_length,
        query_prompt=options.query_prompt,
        document_prompt=options.document_prompt,
    )
