"""Systems under test: an index with its model, several fused, one reranked; and their files."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from retrieval.config import from_mapping, read_recipe
from retrieval.errors import ConfigError
from retrieval.evaluation.models import ModelSettings, published_name
from retrieval.indexing.fusion import FusionSettings, Method


@dataclass(frozen=True, kw_only=True)
class LexicalSystem:
    """BM25.

    Attributes:
        name: in tables, and of the folder of its results.
        settings: of `LexicalSettings`; what is left out has its default.
    """

    kind: Literal["bm25"] = "bm25"
    name: str = "BM25"
    settings: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_name(self.name)

    @property
    def index(self) -> str:
        """The kind of index."""
        return "lexical"


@dataclass(frozen=True, kw_only=True)
class VectorSystem:
    """A model and an index of its vectors.

    Attributes:
        name: in tables, and of the folder of its results.
        model: the encoder.
        index: "faiss" for dense models, "plaid" for multi-vector ones, "exact" for both.
        settings: of that index's settings class; what is left out has its default.
    """

    kind: Literal["dense", "multi-vector"]
    name: str
    model: ModelSettings
    index: Literal["exact", "faiss", "plaid"] = "exact"
    settings: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_name(self.name)
        other = "plaid" if self.kind == "dense" else "faiss"
        if self.index == other:
            raise ConfigError(f"{self.name}: a {self.kind} model has no {other} index")

    @property
    def is_multi_vector(self) -> bool:
        """Whether the model makes one vector a token."""
        return self.kind == "multi-vector"


@dataclass(frozen=True, kw_only=True)
class SavedSystem:
    """An index that is there already, as somebody filled and changed it.

    Attributes:
        name: in tables, and of the folder of its results.
        folder: of the index.
        model: encodes the queries. None is the one that the index names, which `with_own_models`
            puts here, and stays None for a lexical index, which takes texts.
        settings: of the search alone, such as `quality`, instead of those that the index has.
    """

    kind: Literal["saved"] = "saved"
    name: str
    folder: str
    model: ModelSettings | None = None
    settings: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_name(self.name)


@dataclass(frozen=True, kw_only=True)
class FusionSystem:
    """The rankings of other systems, fused.

    Attributes:
        name: in tables, and of the folder of its results.
        of: the other systems, two or more.
        method: how, as in `FusionSettings`.
        weights: of the systems in their order; None weighs all alike.
        constant: of "rrf".
        depth: hits of each system that are fused, at least.
    """

    kind: Literal["fusion"] = "fusion"
    name: str
    of: tuple[System, ...]
    method: Method = "rrf"
    weights: tuple[float, ...] | None = None
    constant: float = 60
    depth: int = 100

    def __post_init__(self) -> None:
        check_name(self.name)
        if len(self.of) < 2:
            raise ConfigError(f"{self.name}: fusion needs two systems or more, in `of`")
        if self.weights is not None and len(self.weights) != len(self.of):
            raise ConfigError(
                f"{self.name}: {len(self.weights)} weights for {len(self.of)} systems"
            )
        _check_depth(self.name, self.depth)
        _ = self.fusion

    @property
    def fusion(self) -> FusionSettings:
        """The settings that `fuse` takes."""
        return FusionSettings(method=self.method, weights=self.weights, constant=self.constant)


@dataclass(frozen=True, kw_only=True)
class RerankSystem:
    """The best hits of another system, ranked anew.

    Attributes:
        name: in tables, and of the folder of its results.
        first: the system that finds the candidates.
        by: "maxsim", exact MaxSim with a multi-vector model, or "cross-encoder", a
            `sentence_transformers.CrossEncoder`.
        model: the multi-vector model, or the cross-encoder.
        depth: candidates of a query, at least.
    """

    kind: Literal["rerank"] = "rerank"
    name: str
    first: System
    by: Literal["maxsim", "cross-encoder"] = "maxsim"
    model: ModelSettings
    depth: int = 100

    def __post_init__(self) -> None:
        check_name(self.name)
        _check_depth(self.name, self.depth)


IndexSystem = LexicalSystem | VectorSystem | SavedSystem
"""Those that ask an index."""
System = Annotated[IndexSystem | FusionSystem | RerankSystem, Field(discriminator="kind")]

_CLASSES: dict[str, type[Any]] = {
    "bm25": LexicalSystem,
    "dense": VectorSystem,
    "multi-vector": VectorSystem,
    "saved": SavedSystem,
    "fusion": FusionSystem,
    "rerank": RerankSystem,
}


def parts_of(system: System) -> tuple[System, ...]:
    """The systems that a system asks itself; none for one that asks an index."""
    if isinstance(system, FusionSystem):
        return system.of
    return (system.first,) if isinstance(system, RerankSystem) else ()


def nodes(system: System) -> Iterator[System]:
    """A system and all those below it."""
    yield system
    for each in parts_of(system):
        yield from nodes(each)


def leaves(system: System) -> list[IndexSystem]:
    """Those of `nodes` that ask an index, from left to right, each once."""
    found = [each for each in nodes(system) if isinstance(each, IndexSystem)]
    return [each for number, each in enumerate(found) if each not in found[:number]]


def map_systems(system: System, change: Callable[[System], System]) -> System:
    """The same system, each of `nodes` changed, those below first."""
    if isinstance(system, FusionSystem):
        system = replace(system, of=tuple(map_systems(each, change) for each in system.of))
    elif isinstance(system, RerankSystem):
        system = replace(system, first=map_systems(system.first, change))
    return change(system)


def map_models(system: System, change: Callable[[ModelSettings], ModelSettings]) -> System:
    """The same system with other settings of its models."""

    def changed(each: System) -> System:
        if isinstance(each, LexicalSystem | FusionSystem) or each.model is None:
            return each
        return replace(each, model=change(each.model))

    return map_systems(system, changed)


def with_model_defaults(system: System, **defaults: Any) -> System:
    """The same system, each encoder with a data set's settings where it says nothing itself.

    Neither a cross-encoder nor the encoder of a saved index, whose documents are encoded already.
    """

    def changed(each: System) -> System:
        if isinstance(each, VectorSystem) or (
            isinstance(each, RerankSystem) and each.by == "maxsim"
        ):
            return replace(each, model=each.model.with_defaults(**defaults))
        return each

    return map_systems(system, changed)


def published(system: System) -> System:
    """The same system with names that others may read, of models and indexes.

    See `published_name`.
    """

    def renamed(each: System) -> System:
        if isinstance(each, SavedSystem):
            return replace(each, folder=published_name(each.folder))
        return each

    return map_systems(map_models(system, ModelSettings.published), renamed)


def read_systems(path: str | Path) -> list[System]:
    """Read a TOML file of tables `[[system]]`.

    Each has a `name`, a `kind` and the settings of that kind's class. `of` and `first` name systems
    that come earlier in the file. `model` is a name, or a table of `ModelSettings`.

    Raises:
        ConfigError: no such file, bad TOML, an unknown key, kind or system, or a value that can't
            be used; the message starts with the file and the system.
    """
    recipe = read_recipe(path)
    tables = recipe.pop("system", None)
    if recipe:
        raise ConfigError(f"{path}: unknown key {next(iter(recipe))!r}; expected [[system]] alone")
    if not isinstance(tables, list) or not all(isinstance(each, dict) for each in tables):
        raise ConfigError(f"{path}: expected systems as tables [[system]]")
    known: dict[str, Any] = {}
    for number, table in enumerate(tables, start=1):
        source = f"{path}: system {table.get('name', number)}"
        system = _read_system(table, known, source)
        if system.name in known:
            raise ConfigError(f"{path}: two systems are called {system.name!r}")
        known[system.name] = system
    return list(known.values())


def _read_system(table: Mapping[str, Any], known: Mapping[str, Any], source: str) -> System:
    kind = table.get("kind")
    if kind not in _CLASSES:
        raise ConfigError(f"{source}: kind is {kind!r}, expected one of {', '.join(_CLASSES)}")
    given = dict(table)
    if isinstance(given.get("model"), str):
        given["model"] = {"name": given["model"]}
    if "of" in given and isinstance(given["of"], list):
        given["of"] = tuple(_named(each, known, source) for each in given["of"])
    if "first" in given:
        given["first"] = _named(given["first"], known, source)
    try:
        system: System = from_mapping(_CLASSES[kind], given, source=source)
    except ConfigError as error:
        message = str(error)
        named = message if message.startswith(source) else f"{source}: {message}"
        raise ConfigError(named) from error
    return system


def _named(name: Any, known: Mapping[str, Any], source: str) -> Any:
    if name in known:
        return known[name]
    nearest = difflib.get_close_matches(str(name), known, n=1, cutoff=0.0)
    hint = f"; the nearest one before it is {nearest[0]!r}" if nearest else ""
    raise ConfigError(f"{source}: no system {name!r} before it in the file{hint}")


def check_name(name: str) -> None:
    """Refuse a system's name that can't be a folder's.

    Raises:
        ConfigError: it is empty, or holds a slash or starts with a dot.
    """
    if not name.strip() or "/" in name or name.startswith("."):
        raise ConfigError(f"a system is called {name!r}, expected a name that a folder can have")


def _check_depth(name: str, depth: int) -> None:
    if depth < 1:
        raise ConfigError(f"{name}: depth is {depth}, expected at least 1")
