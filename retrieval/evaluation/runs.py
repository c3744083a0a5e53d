"""Runs, the answers of a retriever to many queries, in memory and as TREC files."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from retrieval.errors import DuplicateIdError, InputError
from retrieval.files import atomic_write, read_lines
from retrieval.qrels import Qrels
from retrieval.records import Hit

Run = dict[str, list[Hit]]
"""Hits by query id, best first."""


def write_run(path: str | Path, run: Mapping[str, Sequence[Hit]], tag: str) -> None:
    """Write `query Q0 document rank score tag` lines, atomically; an older file is replaced.

    Ranks start at 1. Scores read back to the same number. A query without hits leaves no line,
    as the format has none for it.

    Args:
        path: the file.
        run: hits by query id, best first.
        tag: the system's name, without whitespace.

    Raises:
        InputError: an id or the tag is empty or holds whitespace, which the format can't
            express, or a score is not a number.
    """
    _check_word("the tag", tag)
    with atomic_write(Path(path)) as stream:
        for query_id, hits in run.items():
            _check_word("the query id", query_id)
            for rank, hit in enumerate(hits, start=1):
                _check_word("the document id", hit.document_id)
                score = float(hit.score)
                if math.isnan(score):
                    raise InputError(f"query {query_id!r}: the score of {hit.document_id!r} is NaN")
                line = f"{query_id} Q0 {hit.document_id} {rank} {score!r} {tag}\n"
                stream.write(line.encode())


def check_run_ids(qrels: Qrels) -> None:
    """Refuse judged queries and documents that a run could not name, before hours of encoding.

    Raises:
        InputError: an id is empty or holds whitespace.
    """
    for query_id, judged in qrels.items():
        _check_word("the query id", query_id)
        for document_id in judged:
            _check_word("the document id", document_id)


def read_run(path: str | Path) -> Run:
    """Read a TREC run file, gunzipped if its name ends in .gz.

    Hits are put in the order of their scores, equal scores in the order of their lines; the
    rank column is not used, as in trec_eval.

    Raises:
        InputError: no such file, or a line is not six columns with a number as score.
        DuplicateIdError: a query has the same document twice.
    """
    scores: dict[str, dict[str, float]] = {}
    for number, line in read_lines(Path(path)):
        columns = line.split()
        if len(columns) != 6:
            raise InputError(
                f"{path}:{number}: expected 6 columns (query Q0 document rank score tag), "
                f"found {len(columns)}"
            )
        query_id, _, document_id, _, score, _ = columns
        found = scores.setdefault(query_id, {})
        if document_id in found:
            raise DuplicateIdError(
                f"{path}:{number}: query {query_id!r} has document {document_id!r} twice"
            )
        found[document_id] = _number(score, f"{path}:{number}")
    return {
        query_id: [Hit(*pair) for pair in sorted(found.items(), key=lambda pair: -pair[1])]
        for query_id, found in scores.items()
    }


def _number(text: str, where: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if math.isnan(value):
        raise InputError(f"{where}: expected a number as score, found {text!r}")
    return value


def _check_word(what: str, text: str) -> None:
    if text.split() != [text]:
        raise InputError(
            f"{what} {text!r} is empty or holds whitespace, which a TREC run can't express: "
            "rename it, or keep this run in memory"
        )
