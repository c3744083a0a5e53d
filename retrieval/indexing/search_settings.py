"""Settings that concern searching alone: an index takes other ones without being built anew."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from retrieval.config import from_mapping
from retrieval.errors import ConfigError
from retrieval.indexing import index_class

_SEARCH_SETTINGS = {
    "faiss": ("nprobe", "ef_search", "rescored"),
    "plaid": (
        "quality", "probes", "candidates", "scored", "rescored", "margin", "patience",
    ),
}  # fmt: skip


def check_search_settings(kind: str, names: Iterable[str]) -> None:
    """Refuse settings that an index of this kind was built with, and those that it lacks.

    Raises:
        ConfigError: the message names the first such setting, and those that the search has.
    """
    known = _SEARCH_SETTINGS.get(kind, ())
    for name in names:
        if name not in known:
            expected = ", ".join(known) or "none"
            raise ConfigError(
                f"{name!r} is no setting of the search of a {kind} index, which has {expected}"
            )


def with_search_settings(
    kind: str, settings: Mapping[str, Any], changes: Mapping[str, Any], *, source: str
) -> Any:
    """The settings of an index with other ones for the search.

    Args:
        kind: of the index.
        settings: that it was built with.
        changes: over them.
        source: what a message starts with.

    Returns:
        The settings dataclass of that kind.

    Raises:
        ConfigError: as in `check_search_settings`, or a value out of range.
    """
    try:
        check_search_settings(kind, changes)
    except ConfigError as error:
        raise ConfigError(f"{source}: {error}") from error
    mapping = {**settings, **changes}
    return from_mapping(index_class(kind).settings_type, mapping, source=source)
