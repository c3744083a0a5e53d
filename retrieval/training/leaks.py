"""Whether training data holds what a model is measured on: same texts, and nearly the same.

What counts, for the judged queries of an evaluation folder and the documents that are relevant:

- a *query* leak: a text of the row is an evaluation query, or the row's query nearly is one;
- a *pair* leak: a text of the row is a relevant document, or nearly, and the row's query is like
  the evaluation query that it answers;
- a *document*: the same with a query of another kind. Retrieval collections share their documents
  between training and test queries, so it is counted and reported, and a leak only on request.

Documents that are relevant to no judged query are not looked at: a model may know a corpus.
"""

from __future__ import annotations

import logging
from collections import Counter, defaultdict
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from retrieval.errors import LeakError
from retrieval.files import BadLines, write_jsonl
from retrieval.training.joined_texts import read_joined_rows
from retrieval.training.leak_matching import (
    EvaluationTexts,
    Kind,
    LeakSettings,
    Match,
    RowTexts,
)
from retrieval.training.sources import read_rows

logger = logging.getLogger(__name__)

EXAMPLES = 5


@dataclass(kw_only=True)
class LeakReport:
    """What `find_leaks` found."""

    settings: LeakSettings
    rows: Counter[str] = field(default_factory=Counter)
    """Rows read of each training source."""
    counts: Counter[tuple[str, str, Kind, bool]] = field(default_factory=Counter)
    """Rows by training source, evaluation folder, kind and whether the texts are the same; a row
    counts once for each folder, under the first kind of query, pair, document."""
    examples: dict[tuple[str, str, Kind, bool], list[Match]] = field(
        default_factory=lambda: defaultdict(list)
    )
    """The first few of each."""
    leaking_rows: dict[str, set[int]] = field(default_factory=lambda: defaultdict(set))
    """Line or row numbers of each source that hold a leak."""

    @property
    def leaks(self) -> int:
        """Rows that hold a leak."""
        return sum(map(len, self.leaking_rows.values()))

    def add(self, match: Match) -> None:
        """Count a match."""
        key = (str(match.source), str(match.evaluation), match.kind, match.is_exact)
        self.counts[key] += 1
        if len(self.examples[key]) < EXAMPLES:
            self.examples[key].append(match)
        if match.kind != "document" or self.settings.documents_leak:
            self.leaking_rows[str(match.source)].add(match.number)

    def to_json(self) -> dict[str, object]:
        """The report as plain values."""
        return {
            "settings": asdict(self.settings),
            "rows": dict(self.rows),
            "leaking_rows": {source: len(rows) for source, rows in self.leaking_rows.items()},
            "matches": [
                {
                    "source": source,
                    "evaluation": evaluation,
                    "kind": kind,
                    "exact": is_exact,
                    "rows": count,
                    "examples": [
                        {"row": each.number, "id": each.id, "text": each.text}
                        for each in self.examples[source, evaluation, kind, is_exact]
                    ],
                }
                for (source, evaluation, kind, is_exact), count in sorted(self.counts.items())
            ],
        }


def find_leaks(
    training_files: Iterable[str | Path],
    evaluation_folders: Iterable[str | Path],
    settings: LeakSettings | None = None,
    *,
    bad_lines: BadLines | None = None,
) -> LeakReport:
    """Compare every training row with evaluation sets.

    Memory grows with the evaluation's queries and relevant documents, not with the training data.

    Args:
        training_files: sources as `read_rows` takes them: contrastive or distillation rows.
        evaluation_folders: BEIR folders; the judged queries of every split but "train" count.
        settings: from which likeness on texts are nearly the same.
        bad_lines: what to do with lines that can't be used; raises by default.

    Raises:
        InputError: a file or folder is missing, or a line can't be used.
    """
    report = LeakReport(settings=settings or LeakSettings())
    evaluations = [EvaluationTexts(Path(each), report.settings) for each in evaluation_folders]
    for source in training_files:
        for row in read_joined_rows(source, bad_lines or BadLines()):
            report.rows[str(row.source)] += 1
            texts = RowTexts.of(row)
            for evaluation in evaluations:
                match = evaluation.match(row, texts)
                if match is not None:
                    report.add(match)
    return report


def refuse_leaks(
    training_files: Iterable[str | Path], evaluation_folders: Sequence[str | Path], *, allow: bool
) -> LeakReport | None:
    """Stop before training on what a model will be measured on; None where nothing is to check.

    Raises:
        LeakError: rows leak and `allow` is False; the message names some.
    """
    if not evaluation_folders:
        return None
    report = find_leaks(training_files, evaluation_folders, bad_lines=BadLines(skip=True))
    documents = sum(count for key, count in report.counts.items() if key[2] == "document")
    logger.info(
        "leak check: %d of %d rows leak, %d more hold a relevant document",
        report.leaks,
        report.rows.total(),
        documents,
    )
    if report.leaks and not allow:
        named = [
            str(match)
            for key, matches in report.examples.items()
            if key[2] != "document" or report.settings.documents_leak
            for match in matches
        ]
        raise LeakError(
            f"{report.leaks} of {report.rows.total()} training rows are in the evaluation data, "
            f"such as {named[0]}: take them out (train/leaks.py --clean-to DIR writes the files "
            "without them), or set data.allow_leaks = true"
        )
    return report


def write_without(source: str | Path, numbers: Container[int], output: Path) -> tuple[int, int]:
    """Copy the rows of a source to JSONL (.gz too), but for those of some numbers.

    Lines that are no JSON objects are left out as well.

    Returns:
        How many rows were written, and how many left out.
    """
    left_out = 0

    def kept() -> Iterator[Mapping[str, Any]]:
        nonlocal left_out
        for row in read_rows(source, BadLines(skip=True)):
            if row.number in numbers:
                left_out += 1
            else:
                yield row.values

    return write_jsonl(output, kept()), left_out
