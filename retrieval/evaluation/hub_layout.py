"""Which tables and columns of a data set of the Hugging Face hub hold documents and judgements."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, kw_only=True)
class HubTexts:
    """A table of documents or queries in a data set of the Hugging Face hub.

    Attributes:
        subset: the configuration that holds the table.
        split: its split; None takes the data set's own split where there is one of that name,
            else the only one.
        id: the column of ids; by default `_id`, else `id`.
        text: the column of texts; a list of tokens is joined by spaces.
        title: the column of titles; a table without it has none.
        where: values that rows must have, by column; all others are left out.
    """

    subset: str | None
    split: str | None = None
    id: str | None = None
    text: str = "text"
    title: str = "title"
    where: dict[str, str | int] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class HubJudgements:
    """A table of judgements; see `HubTexts` for what they share.

    Attributes:
        query: the column of query ids.
        document: the column of document ids.
        relevance: the column of whole numbers; None takes every row as relevant, with 1.
    """

    subset: str | None
    split: str | None = None
    query: str = "query-id"
    document: str = "corpus-id"
    relevance: str | None = "score"
    where: dict[str, str | int] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class HubPairs:
    """One table instead of three: each row is a query and the one document that answers it.

    Attributes:
        subset: the configuration that holds the table.
        query: the column of queries; a list of tokens is joined by spaces.
        document: the column of documents, likewise.
        id: the column of ids, for the document and its query; None counts the rows from 0.
    """

    subset: str | None = None
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
