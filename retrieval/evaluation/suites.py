"""A suite, a TOML file that says of each data set where it comes from and how it is evaluated."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from statistics import fmean
from typing import Any, Literal, TypeVar, cast, get_args

from retrieval.config import from_mapping, read_recipe
from retrieval.errors import ConfigError
from retrieval.evaluation.collection import TitleHandling
from retrieval.evaluation.hub_layout import HubLayout
from retrieval.evaluation.metrics import parse_metrics

T = TypeVar("T")

SourceKind = Literal["beir", "hf", "folder", "packages"]

BEIR_URL = "https://public.ukp.informatik.tu-darmstadt.de/thakur/BEIR/datasets/{}.zip"

_SOURCE_FORMS = "beir:NAME, hf:REPOSITORY, folder:PATH or packages:NAME,NAME"
_CHECKSUM = re.compile(r"(md5:[0-9a-f]{32}|sha256:[0-9a-f]{64})")
_NAME = re.compile(r"[\w.+-]*\w[\w.+-]*")


@dataclass(frozen=True, kw_only=True)
class DataSet:
    """One data set of a suite, and how it is evaluated.

    Attributes:
        name: what it is called in results; also a folder's name.
        source: `beir:NAME[/PART]`, a zip of BEIR; `hf:REPOSITORY`, a data set of the Hugging
            Face hub; `folder:PATH`, a BEIR folder, a relative path below the folder of data; or
            `packages:NAME,NAME`, the functions of installed Python packages ("stdlib" is
            Python's own library).
        url: of the zip, where it is not BEIR's own address.
        obtain: how to get data that can't be downloaded; said where they are missing.
        revision: the commit on the hub; required there.
        archive_checksum: of the zip, "md5:..." or "sha256:...". None trusts the first download.
        checksum: of the data, "sha256:..." as `data_checksum` computes it. None trusts what was
            there first.
        split: the judgements' split.
        documents, queries, relevant: how many there are; None is not checked. Queries are those
            that are judged in the split, relevant its judgements of 1 or more.
        licence: as its source states it.
        title: "join" puts a document's title and a space before its text, "drop" leaves it out.
        metric: the main one, such as nDCG@10.
        ignore_identical_ids: see `EvaluationSettings`.
        query_prompt, document_prompt: what stands before every text; None is the model's own.
        query_length, document_length: tokens; None is the model's own limit.
        group: data sets of one group count as one in the suite's mean.
        reference: figures of the main metric that are known from elsewhere, by "SYSTEM, SOURCE".
        hub: where the tables of an hf source are.
    """

    name: str
    source: str
    url: str | None = None
    obtain: str | None = None
    revision: str | None = None
    archive_checksum: str | None = None
    checksum: str | None = None
    split: str = "test"
    documents: int | None = None
    queries: int | None = None
    relevant: int | None = None
    licence: str | None = None
    title: TitleHandling = "join"
    metric: str = "nDCG@10"
    ignore_identical_ids: bool = False
    query_prompt: str | None = None
    document_prompt: str | None = None
    query_length: int | None = None
    document_length: int | None = None
    group: str | None = None
    reference: dict[str, float] = field(default_factory=dict)
    hub: HubLayout = field(default_factory=HubLayout)

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise ConfigError(
                f"name is {self.name!r}, expected a folder's name: letters, digits, . _ + -"
            )
        self._check_source()
        parse_metrics([self.metric])
        for key in ("documents", "queries", "relevant", "query_length", "document_length"):
            count = getattr(self, key)
            if count is not None and count < 1:
                raise ConfigError(f"{key} is {count}, expected 1 or more")
        for key in ("archive_checksum", "checksum"):
            value = getattr(self, key)
            if value is not None and not _CHECKSUM.fullmatch(value):
                raise ConfigError(
                    f"{key} is {value!r}, expected md5: or sha256: and hexadecimal digits"
                )
        if self.checksum and not self.checksum.startswith("sha256:"):
            raise ConfigError(f"checksum is {self.checksum!r}, expected sha256:")

    @property
    def kind(self) -> SourceKind:
        """What comes before the colon of the source."""
        return cast(SourceKind, self.source.partition(":")[0])

    @property
    def place(self) -> str:
        """What comes after it: a name, a repository, a path, or names of packages."""
        return self.source.partition(":")[2]

    @property
    def archive_url(self) -> str | None:
        """Where the zip of a beir source is; None for the other sources."""
        if self.kind != "beir":
            return None
        return self.url or BEIR_URL.format(PurePosixPath(self.place).parts[0])

    def _check_source(self) -> None:
        kind, _, place = self.source.partition(":")
        if kind not in get_args(SourceKind) or not place:
            raise ConfigError(f"source is {self.source!r}, expected {_SOURCE_FORMS}")
        if kind == "beir" and not all(_NAME.fullmatch(part) for part in place.split("/")):
            raise ConfigError(f"source is {self.source!r}, expected beir:NAME or beir:NAME/PART")
        if kind == "hf" and not self.revision:
            raise ConfigError(
                f"{self.source} has no revision: give a commit, so that the data stay the same"
            )
        for key, owner in (("url", "beir"), ("archive_checksum", "beir"), ("revision", "hf")):
            if getattr(self, key) is not None and kind != owner:
                raise ConfigError(f"{key} is for sources of the kind {owner}:, not {self.source}")


@dataclass(frozen=True, kw_only=True)
class Suite:
    """Data sets that are evaluated together; made by `read_suite`."""

    name: str
    about: str = ""
    data: tuple[DataSet, ...]

    def __post_init__(self) -> None:
        if not self.data:
            raise ConfigError("no data sets: expected tables [[data]]")
        names = [each.name for each in self.data]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ConfigError(f"data sets of the same name: {', '.join(twice)}")
        both = sorted({each.group for each in self.data if each.group} & set(names))
        if both:
            raise ConfigError(f"names of a data set and of a group: {', '.join(both)}")

    def choose(self, names: Iterable[str]) -> Suite:
        """The suite with some of its data sets only, in its own order.

        Args:
            names: of data sets or groups; none at all means every one.

        Raises:
            ConfigError: a name that is unknown; the nearest known one is named.
        """
        wanted = set(names)
        known = {each.name for each in self.data} | {each.group for each in self.data if each.group}
        for name in sorted(wanted - known):
            nearest = difflib.get_close_matches(name, sorted(known), n=1, cutoff=0.0)[0]
            raise ConfigError(
                f"{self.name} has no data set {name!r}; the nearest known one is {nearest!r}"
            )
        if not wanted:
            return self
        return replace(self, data=tuple(each for each in self.data if wanted & _names_of(each)))

    def mean(self, figures: Mapping[str, float]) -> float:
        """The mean of one figure per data set, a group counting as one, by the group's mean.

        Args:
            figures: by data set's name; data sets without one are left out.

        Raises:
            ConfigError: a name that is not in the suite, or no figure at all.
        """
        self.choose(figures)
        groups: dict[str, list[float]] = {}
        for each in self.data:
            if each.name in figures:
                groups.setdefault(each.group or each.name, []).append(figures[each.name])
        if not groups:
            raise ConfigError(f"{self.name}: no figures to take the mean of")
        return fmean(map(fmean, groups.values()))


def read_suite(path: str | Path) -> Suite:
    """Read a suite.

    Beside `name`, `about` and the tables `[[data]]` it may have a table `[defaults]`, with what
    every data set has that doesn't say otherwise, and may take data sets from another suite:
    `base` is that one's file, beside this one, and `only` the names or groups to take.

    Raises:
        ConfigError: no such file, bad TOML, an unknown key (the nearest known one is named), or a
            value that can't be used. The message starts with the file and the data set.
    """
    path = Path(path)
    mapping = read_recipe(path)
    defaults, tables = mapping.pop("defaults", {}), mapping.pop("data", [])
    base, only = mapping.pop("base", None), mapping.pop("only", [])
    if not isinstance(defaults, dict):
        raise ConfigError(f"{path}: expected a table [defaults], got {type(defaults).__name__}")
    if not isinstance(tables, list) or not all(isinstance(each, dict) for each in tables):
        raise ConfigError(f"{path}: expected data sets as tables [[data]]")
    if not isinstance(base, str | None) or not isinstance(only, list) or (only and not base):
        raise ConfigError(f"{path}: expected a file as base, and names in it as only")
    taken = read_suite(path.parent / base).choose(only).data if base else ()
    data = tuple(
        _build(DataSet, {**defaults, **table}, f"{path}: data set {table.get('name', number)}")
        for number, table in enumerate(tables, start=1)
    )
    return _build(Suite, {**mapping, "data": (*taken, *data)}, str(path))


def _build(kind: type[T], mapping: Mapping[str, Any], source: str) -> T:
    try:
        return from_mapping(kind, mapping, source=source)
    except ConfigError as error:
        if str(error).startswith(source):
            raise
        raise ConfigError(f"{source}: {error}") from error  # one of `__post_init__`


def _names_of(data_set: DataSet) -> set[str]:
    return {data_set.name} | ({data_set.group} if data_set.group else set())
