"""MTEB tasks over a small corpus in memory, and the same data as a BEIR folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

mteb = pytest.importorskip("mteb", reason="needs the extra [mteb]")

from datasets import Dataset  # noqa: E402  (comes with mteb)
from mteb.abstasks.retrieval import AbsTaskRetrieval  # noqa: E402
from mteb.abstasks.task_metadata import TaskMetadata  # noqa: E402

SUBJECTS = ("fox", "bear", "dog", "wolf", "owl")
PLACES = ("forest", "river", "barn", "hill")

DOCUMENTS: list[dict[str, Any]] = [
    {
        "_id": f"d{number:02}",
        # Every third has no title; outer blanks are what a corpus has.
        "title": "" if number % 3 == 0 else f"The {subject}",
        "text": f"  a brown {subject} of the {place} reads file {number} and sleeps ",
    }
    for number, (subject, place) in enumerate(
        (subject, place) for subject in SUBJECTS for place in PLACES
    )
] + [{"_id": "q0", "title": "", "text": "fox forest"}]
"""The last one has a query's id and text, as in ArguAna and Quora."""

QUERIES: list[dict[str, Any]] = [
    {"_id": f"q{number}", "text": f"{subject} {place}"}
    for number, (subject, place) in enumerate(
        (subject, place) for subject in SUBJECTS for place in PLACES[:2]
    )
]


def qrels() -> dict[str, dict[str, int]]:
    """The document of subject and place is worth 2, the others of the subject 1, one 0."""
    judged = {}
    for number, query in enumerate(QUERIES):
        subject, place = divmod(number, 2)
        documents = {f"d{subject * len(PLACES) + each:02}": 1 for each in range(len(PLACES))}
        documents[f"d{subject * len(PLACES) + place:02}"] = 2
        documents[f"d{(subject * len(PLACES) + 9) % 20:02}"] = 0
        judged[query["_id"]] = documents
    return judged


def qrels_lines() -> str:
    lines = (
        f"{query}\t{document}\t{relevance}\n"
        for query, documents in qrels().items()
        for document, relevance in documents.items()
    )
    return "query-id\tcorpus-id\tscore\n" + "".join(lines)


def metadata(name: str, task_type: Any = "Retrieval") -> TaskMetadata:
    return TaskMetadata(
        name=name,
        description="Animals in places",
        reference=None,
        dataset={"path": "none", "revision": "none"},
        type=task_type,
        category="t2t",
        modalities=["text"],
        eval_splits=["test"],
        eval_langs=["eng-Latn"],
        main_score="ndcg_at_10",
        date=None,
        domains=None,
        task_subtypes=None,
        license=None,
        annotations_creators=None,
        dialect=None,
        sample_creation=None,
        bibtex_citation=None,
    )


class Animals(AbsTaskRetrieval):
    """The whole corpus is searched."""

    metadata = metadata("Animals")
    top_ranked: Any = None

    def load_data(self, num_proc: int | None = None, **_: Any) -> None:
        """Nothing is downloaded."""
        corpus = [{"id": each["_id"], **_without_id(each)} for each in DOCUMENTS]
        queries = [{"id": each["_id"], **_without_id(each)} for each in QUERIES]
        self.dataset = {
            "default": {
                "test": {
                    "corpus": Dataset.from_list(corpus),
                    "queries": Dataset.from_list(queries),
                    "relevant_docs": qrels(),
                    "top_ranked": self.candidates(),
                }
            }
        }
        self.data_loaded = True

    def candidates(self) -> dict[str, list[str]] | None:
        """Only these documents may be found."""
        return None


class OtherAnimals(Animals):
    """A query never finds the document of its own id."""

    metadata = metadata("OtherAnimals")
    ignore_identical_ids = True


class RankedAnimals(Animals):
    """Some documents of each query are ranked, not the corpus."""

    metadata = metadata("RankedAnimals", "Reranking")

    def candidates(self) -> dict[str, list[str]] | None:
        return {query: [*documents, "d19"] for query, documents in qrels().items()}


def scores(model: Any, task: Any, prediction_folder: Path | None = None) -> dict[str, Any]:
    """MTEB's figures, without its cache."""
    result = mteb.evaluate(
        model, task, cache=None, show_progress_bar=False, prediction_folder=prediction_folder
    )
    found: dict[str, Any] = result.task_results[0].scores["test"][0]
    return found


def _without_id(record: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in record.items() if key != "_id"}
