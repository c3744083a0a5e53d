"""Settings from three places: a dataclass's defaults, a TOML recipe, command-line overrides."""

from __future__ import annotations

import dataclasses
import difflib
import functools
import json
import tomllib
import typing
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError

from retrieval.errors import ConfigError

T = TypeVar("T")


def read_recipe(path: str | Path, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """Read a TOML (or JSON) recipe and lay `key.subkey=value` overrides over it.

    Raises:
        ConfigError: no such file, bad TOML or JSON, or an override without `=`.
    """
    path = Path(path)
    try:
        text = path.read_text("utf-8-sig")
        recipe = json.loads(text) if path.suffix == ".json" else tomllib.loads(text)
    except FileNotFoundError as error:
        raise ConfigError(f"{path}: no such recipe") from error
    except (IsADirectoryError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: expected a text file ({error})") from error
    except (tomllib.TOMLDecodeError, json.JSONDecodeError) as error:
        raise ConfigError(f"{path}: {error}") from error
    if not isinstance(recipe, dict):
        raise ConfigError(f"{path}: expected a table of settings, got {type(recipe).__name__}")
    return with_overrides(recipe, overrides)


def with_overrides(settings: dict[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """Lay `key.subkey=value` overrides over settings, in place.

    A value is read as TOML (`8e-5`, `true`, `["a", "b"]`) and, where it is none, as a string.

    Raises:
        ConfigError: an override without `=`, or one that treats a value as a table.
    """
    for override in overrides:
        _apply(settings, override)
    return settings


def from_mapping(kind: type[T], settings: Mapping[str, Any], *, source: str) -> T:
    """Build a dataclass, nested ones included, from plain settings.

    Args:
        kind: a dataclass.
        settings: what the recipe says; missing keys keep their defaults.
        source: where the settings came from, for messages.

    Raises:
        ConfigError: an unknown key (the nearest known one is named), a missing key, a value of
            the wrong type, or one that `__post_init__` refuses.
    """
    _check_keys(kind, settings, source)
    try:
        read: T = _adapter(kind).validate_python(dict(settings))
    except ValidationError as error:
        problem = error.errors()[0]
        where = ".".join(str(part) for part in problem["loc"])
        raise ConfigError(f"{source}: {where + ': ' if where else ''}{problem['msg']}") from error
    return read


def to_mapping(settings: Any) -> dict[str, Any]:
    """The plain dictionary of a settings dataclass, with paths as strings, for JSON and TOML.

    Raises:
        ConfigError: `settings` is not a dataclass instance.
    """
    if not dataclasses.is_dataclass(settings) or isinstance(settings, type):
        raise ConfigError(f"expected a dataclass instance, got {settings!r}")
    mapping: dict[str, Any] = _adapter(type(settings)).dump_python(settings, mode="json")
    return mapping


# Both are made of a dataclass's annotations, which takes as long as opening a small index.
_adapter: Callable[[Any], TypeAdapter[Any]] = functools.cache(TypeAdapter)
_hints: Callable[[Any], dict[str, Any]] = functools.cache(typing.get_type_hints)


def _check_keys(kind: Any, settings: Mapping[str, Any], source: str, prefix: str = "") -> None:
    fields = {field.name: field for field in dataclasses.fields(kind)}
    for key, value in settings.items():
        if key not in fields:
            nearest = difflib.get_close_matches(key, fields, n=1, cutoff=0.0)
            hint = f"; the nearest known one is '{prefix}{nearest[0]}'" if nearest else ""
            raise ConfigError(f"{source}: unknown key '{prefix}{key}'{hint}")
        nested = _nested_dataclasses(_hints(kind)[key])
        for each in value if isinstance(value, (list, tuple)) else (value,):
            if nested and isinstance(each, Mapping):
                _check_keys(_tagged(nested, each), each, source, f"{prefix}{key}.")


def _nested_dataclasses(hint: Any) -> list[Any]:
    """The dataclasses that a type is made of: itself, those of an optional, a union or a tuple."""
    if dataclasses.is_dataclass(hint):
        return [hint]
    return [each for part in typing.get_args(hint) for each in _nested_dataclasses(part)]


def _tagged(candidates: Sequence[Any], value: Mapping[str, Any]) -> Any:
    """The dataclass that a table is meant for: of several, the one whose `kind` it names."""

    def is_named(candidate: Any) -> bool:
        return value.get("kind") in typing.get_args(_hints(candidate).get("kind"))

    return next(filter(is_named, candidates), candidates[0])


def _apply(recipe: dict[str, Any], override: str) -> None:
    path, separator, text = override.partition("=")
    if not separator or not path.strip():
        raise ConfigError(f"{override!r} is no override: expected key=value or table.key=value")
    *tables, key = path.strip().split(".")
    target = recipe
    for table in tables:
        inner = target.setdefault(table, {})
        if not isinstance(inner, dict):
            raise ConfigError(f"{override!r}: {table!r} is a value, not a table")
        target = inner
    try:
        target[key] = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        target[key] = text
