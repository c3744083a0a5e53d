"""Which tables and columns of a data set of the Hugging Face hub hold documents and judgements."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, kw_only=True)
class HubTable:
    """Where a table is.

    Attributes:
        subset: the configuration that holds it; None where the data set has only one.
        split: its split; None takes the data set's own split where the subset has one of that
            name, else the only one.
        file: a JSONL or Parquet file of the repository, instead of a subset and its split.
        where: values that rows must have, by column; all others are left out.
    """

    subset: str | None = None
    split: str | None = None
    file: str | None = None
    where: dict[str, str | int] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class HubTexts(HubTable):
    """A table of documents or queries.

    Attributes:
        id: the column of ids; by default `_id`, else `id`.
        text: the column of texts; a list of tokens is joined by spaces.
        title: the column of titles; a table without it has none.
    """

    id: str | None = None
    text: str = "text"
    title: str = "title"


@dataclass(frozen=True, kw_only=True)
class HubJudgements(HubTable):
    """A table of judgements.

    Attributes:
        query: the column of query ids.
        document: the column of document ids.
        relevance: the column of whole numbers; a table without it says 1 of every row.
    """

    query: str = "query-id"
    document: str = "corpus-id"
    relevance: str = "score"


@dataclass(frozen=True, kw_only=True)
class HubPairs(HubTable):
    """One table instead of three: each row is a query and the one document that answers it.

    Attributes:
        query: the column of queries; a list of tokens is joined by spaces.
        document: the column of documents, likewise.
        id: the column of ids; None counts the rows from 0. A query's id has "q:" before it.
    """

    query: str
    document: str
    id: str | None = None


@dataclass(frozen=True, kw_only=True)
class HubLayout:
    """What is where in a data set of the hub; the defaults are those of MTEB's copies of BEIR."""

    corpus: HubTexts = HubTexts(subset="corpus")
    queries: HubTexts = HubTexts(subset="queries")
    judgements: HubJudgements = HubJudgements(subset="default")
    pairs: HubPairs | None = None
    """Replaces the three tables."""
