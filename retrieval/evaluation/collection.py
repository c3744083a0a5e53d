"""A test collection: a BEIR folder's corpus, and the queries and judgements of one split."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Container, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from retrieval.corpus import find_jsonl, read_corpus, read_queries
from retrieval.errors import InputError
from retrieval.files import BadLines
from retrieval.qrels import Qrels, read_qrels
from retrieval.records import Document, Query

logger = logging.getLogger(__name__)

TitleHandling = Literal["join", "drop"]

_LAYOUT = "expected corpus.jsonl[.gz], queries.jsonl[.gz] and qrels/SPLIT.tsv (BEIR's layout)"
_NAMED_IDS = 10


@dataclass(frozen=True, kw_only=True)
class Collection:
    """What a retriever is measured on; made by `read_collection`."""

    path: Path
    """The BEIR folder."""
    split: str
    queries: tuple[Query, ...]
    """The queries that have judgements in the split, in the order of queries.jsonl."""
    qrels: Qrels
    """All judgements of the split, those of missing queries and documents included."""
    strict: bool = False
    """A judged id that is missing is an error, not a warning."""
    title: TitleHandling = "join"
    """"join" puts a document's title and a space before its text, "drop" leaves it out."""
    bad_lines: BadLines = field(default_factory=BadLines, compare=False, repr=False)
    """What to do with bad lines of the corpus; counts them each time that it is streamed."""

    @property
    def name(self) -> str:
        """The folder's name."""
        return self.path.resolve().name

    @property
    def missing_queries(self) -> list[str]:
        """Ids of the queries that have judgements but no text; they score 0."""
        known = {query.id for query in self.queries}
        return [each for each in self.qrels if each not in known]

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the split's queries and judgements, whatever their order in the files."""
        content = [
            sorted(self.queries),
            sorted((q, sorted(j.items())) for q, j in self.qrels.items()),
        ]
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()

    def documents(self) -> Iterator[Document]:
        """Stream the corpus, without titles where they are dropped.

        Raises:
            InputError: there is no corpus file, or a line can't be used.
            DuplicateIdError: an id comes twice.
        """
        # Without this check `read_corpus` would take any folder for a folder of text files.
        corpus = find_jsonl(self.path, "corpus")
        if corpus is None:
            raise InputError(f"{self.path}: no corpus.jsonl or corpus.jsonl.gz; {_LAYOUT}")
        return read_corpus(corpus, self.bad_lines, titles=self.title == "join")

    def check_documents(self, known: Container[str]) -> list[str]:
        """Compare the judged documents with those that can be found.

        Args:
            known: the documents' ids. An index will do, so that the corpus need not be read
                for this.

        Returns:
            The judged ids that are missing, named in a warning. Their judgements stay: a
            relevant document that can't be found lowers the scores.

        Raises:
            InputError: some are missing, and the collection was read with `strict=True`.
        """
        judged = dict.fromkeys(each for documents in self.qrels.values() for each in documents)
        missing = [each for each in judged if each not in known]
        self._report(missing, "judged documents are not in the corpus or index")
        return missing

    def _check_queries(self) -> None:
        self._report(self.missing_queries, "judged queries have no text and score 0")

    def _report(self, missing: Sequence[str], problem: str) -> None:
        if not missing:
            return
        named = ", ".join(map(repr, missing[:_NAMED_IDS]))
        dots = ", ..." if len(missing) > _NAMED_IDS else ""
        message = f"{self.path} ({self.split}): {len(missing)} {problem}: {named}{dots}"
        if self.strict:
            raise InputError(f"{message} (--strict makes this an error)")
        logger.warning(message)


def read_collection(
    path: str | Path,
    split: str | None = None,
    *,
    bad_lines: BadLines | None = None,
    strict: bool = False,
    title: TitleHandling = "join",
) -> Collection:
    """Read the queries and judgements of one split; the corpus is streamed when it is asked for.

    Args:
        path: a BEIR folder.
        split: the name of a file in `qrels/`, without .tsv. By default "test", or the only
            split that there is.
        bad_lines: what to do with lines that can't be used; raises by default.
        strict: make judged ids that are missing an error. Queries are checked here, documents
            by `Collection.check_documents`.
        title: what becomes of the documents' titles, see `Collection`.

    Raises:
        InputError: the folder or a file is missing, no such split (the message lists those that
            there are), a line can't be used, no judged query has a text, or `strict` found
            something missing.
        DuplicateIdError: a query's id comes twice, or a document is judged twice, differently.
    """
    path, bad_lines = Path(path), bad_lines or BadLines()
    if not path.is_dir():
        raise InputError(f"{path}: no such folder; {_LAYOUT}")
    queries_path = find_jsonl(path, "queries")
    if queries_path is None:
        raise InputError(f"{path}: no queries.jsonl or queries.jsonl.gz; {_LAYOUT}")
    split = choose_split(path, split)
    qrels_path = path / "qrels" / f"{split}.tsv"
    qrels = read_qrels(qrels_path, bad_lines)
    collection = Collection(
        path=path,
        split=split,
        queries=tuple(each for each in read_queries(queries_path, bad_lines) if each.id in qrels),
        qrels=qrels,
        strict=strict,
        title=title,
        bad_lines=bad_lines,
    )
    if not collection.queries:
        raise InputError(f"{qrels_path}: judges no query of {queries_path}")
    collection._check_queries()
    return collection


def splits_of(path: Path) -> list[str]:
    """The names of a BEIR folder's splits, sorted; empty where there are none."""
    return sorted(each.stem for each in (path / "qrels").glob("*.tsv"))


def choose_split(path: Path, split: str | None) -> str:
    """The split that is meant: the one named, else "test", else the only one.

    Raises:
        InputError: there are no judgements, or none of that name; the message lists those there.
    """
    splits = splits_of(path)
    if not splits:
        raise InputError(f"{path}: no judgements in qrels/*.tsv; {_LAYOUT}")
    if split is None:
        split = "test" if "test" in splits or len(splits) > 1 else splits[0]
        if split != "test":
            logger.info("%s: evaluating on %r, the only split", path, split)
    if split not in splits:
        raise InputError(f"{path}: no split {split!r}; there are: {', '.join(splits)}")
    return split
