"""What comes in at the door of an index: batches of ids and items, and the model they are from."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence, Sized
from pathlib import Path
from typing import Generic, NamedTuple, TypeVar

from retrieval.errors import DuplicateIdError, InputError, ModelMismatchError
from retrieval.records import Document, ModelReference

Items = TypeVar("Items", bound=Sized)
"""What an index takes: (N, D) vectors, N arrays of (tokens, D), or N texts."""


class Batch(NamedTuple, Generic[Items]):
    """Rows to index: N ids, what to index them by, and optionally the documents to keep."""

    ids: Sequence[str]
    items: Items
    documents: Sequence[Document] | None = None


def even_batches(batches: Iterable[Batch[Items]]) -> Iterator[Batch[Items]]:
    """The batches, each with as many items as ids: those to learn from never pass by `add`."""
    for batch in batches:
        _check_number(batch.ids, batch.items)
        yield batch


def check_batch(ids: Sequence[str], items: Sized, documents: Sequence[Document] | None) -> None:
    """Refuse rows that do not fit together.

    Raises:
        InputError: `ids`, `items` and `documents` differ in number, or an id is no valid Unicode.
        DuplicateIdError: an id comes twice.
    """
    _check_number(ids, items)
    if documents is not None and len(documents) != len(ids):
        raise InputError(f"{len(ids)} ids for {len(documents)} documents")
    seen: set[str] = set()
    for each in ids:
        if each in seen:
            raise DuplicateIdError(f"the id {each!r} is given twice")
        seen.add(each)
        try:
            each.encode()
        except UnicodeEncodeError as error:
            raise InputError(f"the id {each!r} is no valid Unicode ({error.reason})") from error


def _check_number(ids: Sequence[str], items: Sized) -> None:
    if len(ids) != len(items):
        raise InputError(f"{len(ids)} ids for {len(items)} items")


def id_list(ids: Iterable[str]) -> list[str]:
    """The ids as a list; one string in place of a list would be read letter by letter."""
    if isinstance(ids, str):
        raise InputError(f"expected several ids, got one string {ids!r}: put it into a list")
    listed = list(ids)
    wrong = next((each for each in listed if not isinstance(each, str)), None)
    if wrong is not None:
        raise InputError(f"the id {wrong!r} is a {type(wrong).__name__}: ids are strings")
    return listed


def check_model(
    folder: Path, built_with: ModelReference | None, asked: ModelReference | None
) -> None:
    """Refuse to mix the vectors of two models.

    Raises:
        ModelMismatchError: both models are known and differ; the message names both.
    """
    if built_with is None or asked is None or built_with.fingerprint == asked.fingerprint:
        return
    raise ModelMismatchError(
        f"{folder}: built with {built_with.name} ({built_with.fingerprint[:12]}), opened with "
        f"{asked.name} ({asked.fingerprint[:12]}): use the first model or rebuild the index"
    )
