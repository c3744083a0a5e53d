"""Relevance judgements (qrels) read from a file of three columns (BEIR) or four (TREC)."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

from retrieval.errors import DuplicateIdError, InputError
from retrieval.files import BadLines, read_lines
from retrieval.records import Judgement

logger = logging.getLogger(__name__)

Qrels = dict[str, dict[str, int]]
"""Relevance by query id and document id; 0 or less is not relevant."""


def read_qrels(path: str | Path, bad_lines: BadLines | None = None) -> Qrels:
    """Read judgements: `query document relevance`, or `query iteration document relevance`.

    Columns are separated by tabs or, in a line without any, by spaces. The first line is a
    header where its last column has no digit. A judgement that comes again with the same
    relevance is dropped, and counted in a warning.

    Args:
        path: the file, gunzipped if its name ends in .gz.
        bad_lines: what to do with lines that can't be used; raises by default.

    Raises:
        InputError: a line can't be used, or there is no judgement at all.
        DuplicateIdError: a query and document are judged twice, and differently.
    """
    qrels: Qrels = {}
    count = 0
    for number, judgement in _judgements(Path(path), bad_lines or BadLines()):
        judged = qrels.setdefault(judgement.query_id, {})
        before = judged.setdefault(judgement.document_id, judgement.relevance)
        if before != judgement.relevance:
            raise DuplicateIdError(
                f"{path}:{number}: query {judgement.query_id!r} and document "
                f"{judgement.document_id!r} are judged twice: {before} and {judgement.relevance}"
            )
        count += 1
    repeated = count - sum(map(len, qrels.values()))
    if not qrels:
        raise InputError(f"{path}: no judgements in this file")
    if repeated:
        logger.warning("%s: %d judgements come more than once", path, repeated)
    return qrels


def _judgements(path: Path, bad_lines: BadLines) -> Iterator[tuple[int, Judgement]]:
    width: int | None = None
    for position, (number, line) in enumerate(read_lines(path, bad_lines)):
        columns = line.split("\t") if "\t" in line else line.split()
        if position == 0 and not any(map(str.isdigit, columns[-1])):
            continue
        problem = _problem(columns, width)
        if problem:
            bad_lines.report(path, number, problem)
            continue
        width = len(columns)
        yield number, Judgement(columns[0], columns[-2], int(float(columns[-1])))


def _problem(columns: list[str], width: int | None) -> str | None:
    if len(columns) not in (3, 4):
        return f"expected 3 columns (BEIR) or 4 (TREC), found {len(columns)}"
    if width not in (None, len(columns)):
        return f"expected {width} columns as in the lines before, found {len(columns)}"
    if not columns[0] or not columns[-2]:
        return "the id of the query or the document is empty"
    if not _is_whole(columns[-1]):
        return f"expected a whole number as relevance, found {columns[-1]!r}"
    return None


def _is_whole(text: str) -> bool:
    """Whether a text is a whole number, "1.0" too, which tables of numbers are written out as."""
    try:
        return float(text).is_integer()
    except ValueError:
        return False
