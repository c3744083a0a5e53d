"""The manifest of a result: what was asked for, what was found there, and what it took."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from retrieval.evaluation.collection import TitleHandling
from retrieval.evaluation.data_checksums import DataChecksums
from retrieval.evaluation.hardware import Hardware
from retrieval.evaluation.models import ModelFacts
from retrieval.evaluation.settings import EvaluationSettings
from retrieval.evaluation.stages import StageCost
from retrieval.evaluation.systems import System, published


@dataclass(frozen=True, kw_only=True)
class DataChoice:
    """The collection that was asked for.

    Attributes:
        name: of the data set, in tables and folders.
        folder: the BEIR folder, relative to the working folder or to the folder of data; only its
            name where it is in neither.
        suite: the suite's name, where it came from one.
        source: where the suite says that the data are from.
        revision: of the source, as the suite has it.
        split: of the judgements.
        title: "join" puts a document's title and a space before its text, "drop" leaves it out.
    """

    name: str
    folder: str
    suite: str | None = None
    source: str | None = None
    revision: str | None = None
    split: str
    title: TitleHandling = "join"


@dataclass(frozen=True, kw_only=True)
class Plan:
    """One system on one collection: everything that somebody chose, enough to do it again."""

    data: DataChoice
    system: System
    settings: EvaluationSettings

    def published(self) -> Plan:
        """The plan with names of models that others may read."""
        return replace(self, system=published(self.system))


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """What made a result; with `Result.versions` and `Result.python` enough to judge another one.

    Attributes:
        plan: what was asked for.
        checksums: of the data that were found.
        models: that were found, in the order of `model_settings(plan.system)`.
        index_parameters: every setting of each index, by system; among them the seeds.
        saved_indexes: of indexes that were there already, by system, the SHA-256 of what they say
            of themselves, which covers every byte of their files.
        vector_dtype: how vectors of documents are kept between encoding and index.
        hardware: of the last stage; see the costs for those that were done before.
        stages: what each took.
    """

    plan: Plan
    checksums: DataChecksums
    models: tuple[ModelFacts, ...]
    index_parameters: dict[str, dict[str, Any]]
    vector_dtype: str
    hardware: Hardware
    stages: tuple[StageCost, ...]
    saved_indexes: dict[str, str] = field(default_factory=dict)

    @property
    def seeds(self) -> dict[str, int]:
        """The seed of each index that has one, by system."""
        found = {name: each.get("seed") for name, each in self.index_parameters.items()}
        return {name: seed for name, seed in found.items() if seed is not None}

    def difference(
        self,
        checksums: DataChecksums,
        models: Sequence[ModelFacts],
        saved_indexes: Mapping[str, str],
    ) -> str | None:
        """What differs between the sources of the result and those that are there now.

        Args:
            checksums: of the data that are there now.
            models: likewise, in the same order.
            saved_indexes: likewise, by system.

        Returns:
            One line with the value then and now, of the first difference; None where there is none.
        """
        for name in ("corpus", "queries", "judgements"):
            then, now = getattr(self.checksums, name), getattr(checksums, name)
            if then != now:
                return f"the SHA-256 of the {name} was {then}, and is {now} now"
        for before, found in zip(self.models, models, strict=True):
            for name in ("fingerprint", "weights"):
                then, now = getattr(before, name), getattr(found, name)
                if then != now:
                    return f"the {name} of the model {found.name} was {then}, and is {now} now"
        for name, then in self.saved_indexes.items():
            if saved_indexes[name] != then:
                return (
                    f"the SHA-256 of the index {name} was {then}, and is {saved_indexes[name]} now"
                )
        return None
