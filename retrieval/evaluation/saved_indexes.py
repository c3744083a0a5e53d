"""Indexes that are there already: what they are, and that they are still the same."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from retrieval.config import from_mapping, to_mapping
from retrieval.errors import ConfigError, InputError
from retrieval.evaluation.models import ModelSettings
from retrieval.evaluation.systems import SavedSystem, System, leaves, map_systems
from retrieval.indexing import open_index
from retrieval.indexing.index import Index
from retrieval.indexing.search_settings import with_search_settings
from retrieval.indexing.versions import (
    check_bytes,
    current_version,
    index_bytes,
    read_manifest,
    version_checksum,
)
from retrieval.records import ModelReference


@dataclass(frozen=True, kw_only=True)
class SavedFacts:
    """What an index was found to be.

    Attributes:
        kind: of index.
        model: that filled it; None for a lexical one, or where nobody said.
        parameters: that it is searched with.
        checksum: of its current version.
        bytes: on disk.
    """

    kind: str
    model: ModelReference | None
    parameters: dict[str, Any]
    checksum: str
    bytes: int


def saved_facts(system: SavedSystem) -> SavedFacts:
    """Look at an index; its manifest alone is read.

    Raises:
        IndexFilesError: no index there, or a damaged one.
        ConfigError: a setting that is not one of the search; a lexical index and a model, or an
            index of vectors and none.
    """
    folder = Path(system.folder)
    version = current_version(folder)
    manifest = read_manifest(folder, version)
    if (manifest.kind == "lexical") != (system.model is None):
        wrong = "takes no model" if system.model else "does not name its model: say which it is"
        raise ConfigError(f"{system.name}: {folder}, a {manifest.kind} index, {wrong}")
    settings = with_search_settings(
        manifest.kind, manifest.parameters, system.settings, source=system.name
    )
    return SavedFacts(
        kind=manifest.kind,
        model=manifest.model,
        parameters=to_mapping(settings),
        checksum=version_checksum(version),
        bytes=index_bytes(folder),
    )


def saved_checksums(system: System) -> dict[str, str]:
    """The checksum of each saved index that a system asks, by the name of that part."""
    saved = [each for each in leaves(system) if isinstance(each, SavedSystem)]
    return {each.name: saved_facts(each).checksum for each in saved}


def open_saved(system: SavedSystem, checksum: str, *, verify: bool = True) -> Index[Any]:
    """Open an index that has not changed; close it.

    Args:
        system: says where it is, and how it is searched.
        checksum: as `saved_facts` gave it before.
        verify: read every byte first, to see that it is what was written.

    Raises:
        IndexFilesError: damaged files.
        InputError: somebody has changed it since the checksum was taken.
    """
    folder = Path(system.folder)
    facts = saved_facts(system)
    if verify:
        check_bytes(current_version(folder))
    index = open_index(folder)
    if {facts.checksum, version_checksum(current_version(folder))} != {checksum}:
        index.close()
        raise InputError(f"{folder}: was changed while it was measured: do it again")
    index.settings = from_mapping(index.settings_type, facts.parameters, source=system.name)
    return index


def with_own_models(system: System, settings: Callable[[ModelReference], ModelSettings]) -> System:
    """The same system, each saved index that names no model with the one that filled it.

    Args:
        system: any.
        settings: how to load a model that an index remembers.

    Raises:
        IndexFilesError: no index there, or a damaged one.
    """

    def changed(each: System) -> System:
        if not isinstance(each, SavedSystem) or each.model is not None:
            return each
        reference = read_manifest(Path(each.folder)).model
        return replace(each, model=settings(reference) if reference else None)

    return map_systems(system, changed)
