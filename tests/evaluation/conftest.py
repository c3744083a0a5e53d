"""A tiny collection, a tiny result and tiny encoders."""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from retrieval.encoders.dense import DenseEncoder
from retrieval.encoders.multi_vector import MultiVectorEncoder
from retrieval.encoders.protocol import Encoder
from retrieval.evaluation import EvaluationSettings, Result, Timings
from retrieval.evaluation.index_sweep import IndexSweep, SweptIndex
from retrieval.evaluation.result import Counts
from retrieval.records import ModelReference

WIDTH = 1024

DOCUMENTS = [
    {"_id": "d1", "title": "Fox", "text": "the quick brown fox"},
    {"_id": "d2", "title": "", "text": "lazy dogs sleep all day"},
    {"_id": "d3", "title": "Bears", "text": "brown bears eat honey"},
    {"_id": "q1", "title": "", "text": "quick brown"},
]
QUERIES = [
    {"_id": "q1", "text": "quick brown"},
    {"_id": "q2", "text": "lazy dogs"},
    {"_id": "q3", "text": "not judged"},
    {"_id": "q4", "text": "brown honey bears"},
]
QRELS = "query-id\tcorpus-id\tscore\nq1\td1\t2\nq1\td3\t0\nq4\td3\t1\nq2\td2\t1\n"


# Trained models: the scores of random ones are so close that rounding would rank them.
@pytest.fixture(scope="module")
def dense() -> DenseEncoder:
    return DenseEncoder.load("starter-dense", device="cpu")


@pytest.fixture(scope="module")
def colbert() -> MultiVectorEncoder:
    return MultiVectorEncoder.load("starter-colbert", device="cpu")


class WordEncoder:
    """Embeds a text as its words: each word has one of 1,024 directions, given by its CRC-32."""

    def __init__(self, is_multi_vector: bool) -> None:
        name = "folder/words-multi" if is_multi_vector else "folder/words"
        self.reference = ModelReference(name, f"{name}-fingerprint", is_multi_vector, WIDTH)

    def encode_queries(self, texts: Iterable[str]) -> Iterator[NDArray[np.float32]]:
        for text in texts:
            rows = np.zeros((len(text.split()), WIDTH), np.float32)
            for row, word in zip(rows, text.lower().split()):
                row[zlib.crc32(word.encode()) % WIDTH] = 1
            yield rows if self.reference.is_multi_vector else rows.sum(axis=0)

    encode_documents = encode_queries


@pytest.fixture
def encoder() -> Encoder:
    return WordEncoder(is_multi_vector=False)


@pytest.fixture
def multi_vector_encoder() -> Encoder:
    return WordEncoder(is_multi_vector=True)


@pytest.fixture
def write_beir(tmp_path: Path) -> Callable[..., Path]:
    """Writes a BEIR folder; `splits` are the contents of the files in qrels/."""

    def write(
        documents: list[dict[str, Any]] = DOCUMENTS,
        queries: list[dict[str, Any]] = QUERIES,
        name: str = "tiny",
        **splits: str,
    ) -> Path:
        folder = tmp_path / name
        (folder / "qrels").mkdir(parents=True)
        for stem, records in (("corpus", documents), ("queries", queries)):
            lines = "".join(json.dumps(each) + "\n" for each in records)
            (folder / f"{stem}.jsonl").write_text(lines, "utf-8")
        for split, content in (splits or {"test": QRELS}).items():
            (folder / "qrels" / f"{split}.tsv").write_text(content, "utf-8")
        return folder

    return write


@pytest.fixture
def make_result() -> Callable[..., Result]:
    """Makes a result of a given system, collection and metrics."""

    def make(
        system: str = "BM25",
        collection: str = "tiny",
        split: str = "test",
        metrics: dict[str, float] | None = None,
        index_bytes: int | None = 1_234_567,
        seconds: float = 2.0,
    ) -> Result:
        metrics = metrics or {"nDCG@10": 0.5, "recall@100": 0.75, "MRR@10": 0.25}
        return Result(
            system=system,
            collection=collection,
            split=split,
            collection_fingerprint="f" * 64,
            metrics=metrics,
            counts=Counts(
                documents=4, queries=2, judgements=3, missing_documents=1, missing_queries=0
            ),
            timings=Timings(queries=300, encode_seconds=seconds / 2, search_seconds=seconds / 2),
            settings=EvaluationSettings(metrics=("nDCG@10",), split="test"),
            index_kind="exact",
            index_parameters={"dtype": "float32"},
            index_bytes=index_bytes,
            model=ModelReference("folder/words", "abc", False, WIDTH),
            created="2026-11-23T12:00:00+00:00",
            python="CPython 3.12.3",
            cpu_count=2,
            versions={"numpy": "2.4.6"},
            per_query={"q1": metrics, "q2": metrics},
        )

    return make


@pytest.fixture
def make_sweep() -> Callable[[], IndexSweep]:
    """Makes a sweep over three indexes, the last of which no one needs."""

    def index(name: str, p50_ms: float, recall: float, resident_mb: float | None) -> SweptIndex:
        return SweptIndex(
            name=name,
            kind=name if name == "exact" else "plaid",
            build={"bits": 4},
            search={"quality": "best"},
            recall={"10": recall, "100": recall if recall == 1 else 0.9},
            metrics={"nDCG@10": 0.7 if recall == 1 else 0.69},
            p50_ms=p50_ms,
            p95_ms=2 * p50_ms,
            p99_ms=3 * p50_ms,
            queries_per_second={"1": 1000 / p50_ms, "2": 2000 / p50_ms},
            bytes_per_document=990.0,
            build_seconds=2.0,
            resident_mb=resident_mb,
        )

    def make() -> IndexSweep:
        return IndexSweep(
            collection="tiny",
            split="test",
            documents=4,
            queries=2,
            vectors=16,
            model=ModelReference("folder/words", "abc", True, WIDTH),
            k=100,
            build_threads=1,
            created="2026-11-23T12:00:00+00:00",
            python="CPython 3.12.3",
            cpu_count=2,
            versions={"numpy": "2.4.6"},
            about="made up",
            indexes=[
                index("exact", 120.0, 1.0, 12.0),
                index("PLAID", 5.0, 0.95, 12.0),
                index("slow", 6.0, 0.95, None),
            ],
        )

    return make
