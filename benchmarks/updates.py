"""What a change of a large PLAID index costs: a document added, replaced, deleted, and committed.

    python benchmarks/updates.py                       # 1,000,000 documents of 8 tokens
    python benchmarks/updates.py --quick               # 100,000
    python benchmarks/updates.py --index FOLDER        # a copy of an index is changed

Each change is an atomic version on disk before its time is taken. After each, a reader opens the
index and searches: what was added is found, and what was deleted no longer is. The copy of an index
is of hard links: files are never changed in place.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from numpy.typing import NDArray
from provenance import commit

from retrieval.evaluation.result import library_versions
from retrieval.indexing import Batch, PlaidIndex, PlaidSettings
from retrieval.parallel import cpu_count

SEED = 0
WIDTH = 128
TOKENS = (4, 12)
TOPICS = 4_096
BATCH = 10_000


def main() -> None:
    """Build or copy an index, change it, print the medians."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--documents", type=int, help="default 1,000,000")
    parser.add_argument("--index", type=Path, metavar="FOLDER", help="a PLAID index to copy")
    parser.add_argument("--repeats", type=int, default=20, help="of each change of one document")
    parser.add_argument("--quick", action="store_true", help="100,000 documents")
    parser.add_argument("--folder", type=Path, help="of the copy; on the index's own disk")
    parser.add_argument("--json", type=Path, metavar="FILE")
    given = parser.parse_args()
    documents = given.documents or (100_000 if given.quick else 1_000_000)
    beside = given.folder or (given.index.parent if given.index else None)
    with tempfile.TemporaryDirectory(dir=beside) as temporary:
        folder = Path(temporary) / "index"
        if given.index:
            shutil.copytree(given.index, folder, copy_function=os.link)
        else:
            build(folder, documents)
        measured = measure(folder, given.repeats)
    if given.json:
        facts = {
            "benchmark": "updates",
            "commit": commit(),
            "seed": SEED,
            "repeats": given.repeats,
            "cores": cpu_count(),
            "versions": library_versions(),
            **measured,
        }
        given.json.write_text(json.dumps(facts, indent=2) + "\n")
    for name in ("open_ms", "add_ms", "upsert_ms", "delete_ms", "delete_thousand_ms"):
        print(f"RESULT {name} {measured[name]:.4g}")


def build(folder: Path, documents: int) -> None:
    """An index of documents whose tokens lie around some thousand directions."""
    topics = np.random.default_rng(SEED).standard_normal((TOPICS, WIDTH)).astype(np.float32)

    class Batches:
        def __iter__(self) -> Iterator[Batch[Any]]:
            for first in range(0, documents, BATCH):
                count = min(BATCH, documents - first)
                yield Batch(
                    [f"document-{first + at}" for at in range(count)],
                    make_documents(topics, count, first + 1),
                )

    started = time.perf_counter()
    with PlaidIndex.build(folder, Batches(), settings=PlaidSettings(seed=SEED)) as index:
        print(f"{len(index):,} documents built in {time.perf_counter() - started:.0f} s")


def make_documents(topics: NDArray[np.float32], count: int, seed: int) -> list[NDArray[np.float32]]:
    """Documents of 4 to 12 tokens of unit length."""
    generator = np.random.default_rng([SEED, seed])
    lengths = generator.integers(*TOKENS, count, endpoint=True)
    chosen = generator.integers(0, len(topics), lengths.sum())
    noise = generator.standard_normal((len(chosen), WIDTH), np.float32)
    tokens = topics[chosen] + np.float32(0.5) * noise
    tokens /= np.linalg.norm(tokens, axis=1, keepdims=True)
    return np.split(tokens, np.cumsum(lengths)[:-1])


def measure(folder: Path, repeats: int) -> dict[str, Any]:
    """Change an index in every way, each time from one commit to the next."""
    measured: dict[str, Any] = {"documents": len(PlaidIndex.open(folder))}
    measured["open_ms"] = opening(folder, repeats)
    topics = np.random.default_rng([SEED, 0]).standard_normal((64, WIDTH)).astype(np.float32)
    fresh = make_documents(topics, 2 * repeats, 0)
    names = [f"new-{number}" for number in range(repeats)]
    with PlaidIndex.open(folder, writable=True) as index:
        # The best of one query, best first: each is found until it is deleted.
        victims = [hit.document_id for hit in index.search([topics], repeats + 1_000)[0]]
        for kind, ids, queries in (
            ("add", names, fresh[:repeats]),
            ("upsert", names, fresh[repeats:]),
            ("delete", victims[:repeats], [topics] * repeats),
        ):
            seconds = []
            for identifier, query in zip(ids, queries):
                started = time.perf_counter()
                if kind == "delete":
                    index.delete([identifier])
                else:
                    getattr(index, kind)([identifier], [query])
                index.save()
                seconds.append(time.perf_counter() - started)
                (hits,) = PlaidIndex.open(folder).search([query], 10)
                is_found = identifier in [hit.document_id for hit in hits]
                assert is_found == (kind != "delete"), f"a reader after {kind}: {is_found}"
            measured[f"{kind}_ms"] = 1000 * median(seconds)
            measured[f"{kind}_ms_most"] = 1000 * max(seconds)
            print(
                f"{kind:7} of one document: {measured[f'{kind}_ms']:.1f} ms, at most "
                f"{measured[f'{kind}_ms_most']:.1f}",
                flush=True,
            )
        started = time.perf_counter()
        index.delete(victims[repeats:])
        index.save()
        measured["delete_thousand_ms"] = 1000 * (time.perf_counter() - started)
        expected = measured["documents"] - 1_000
        assert len(PlaidIndex.open(folder)) == len(index) == expected, "of adds and deletes"
    return measured


def opening(folder: Path, repeats: int) -> float:
    """Median milliseconds of opening an index whose files are in the page cache."""
    seconds = []
    for _ in range(repeats):
        started = time.perf_counter()
        PlaidIndex.open(folder)
        seconds.append(time.perf_counter() - started)
    return 1000 * median(seconds)


if __name__ == "__main__":
    main()
