"""Late-interaction search in batches on a GPU, beside the compiled engine on the processor.

    python benchmarks/search_gpu.py --quick
    python benchmarks/search_gpu.py --json search-gpu.json
    python benchmarks/search_gpu.py --documents 1000000 --queries 1000

Both build an index of 4 bits with kept tokens; then each searches the one of the processor, in
rounds that alternate, the GPU in batches of several sizes. Before any ratio the GPU's hits are
held against those of NumPy, and its exact MaxSim against the truth. Without a GPU everything runs
through torch on the processor, which is slow and says nothing of a GPU.

The data are those of search_data.py, which makes them in 15 to 20 minutes at 20,000 documents; the
rest takes some minutes. Not run on a GPU yet.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from provenance import commit
from search_data import DEFAULT_FOLDER, DEFAULT_TEXTS, QUERIES, SEED, SearchData, prepare
from search_encoding import DOCUMENTS
from search_truth import recall

from retrieval import native
from retrieval.indexing.index import Batch
from retrieval.indexing.on_gpu import ExactMaxSim, TorchPlaidIndex
from retrieval.indexing.plaid import PlaidIndex, PlaidSettings
from retrieval.records import Hit

SETTINGS = PlaidSettings(bits=4, keep_tokens=True)
BATCHES = (1, 16, 256)
DEPTH = 100
_BUILT_AT_ONCE = 1_000
_COMPARED = 20
_SCORE_TOLERANCE = 2e-3
"""Of a score up to 32: float32 in another order, and float16 queries in two halves."""

Queries = NDArray[np.float32]


def main() -> None:
    """Build, compare, measure, print."""
    arguments = _arguments()
    data = prepare(arguments.data, arguments.documents, arguments.queries, texts=arguments.texts)
    queries = np.load(data.paths.queries)[: arguments.queries].astype(np.float32)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    print(f"{len(data.lengths):,} documents, {data.lengths.sum():,} tokens, on {_name(device)}")
    with tempfile.TemporaryDirectory() as folder:
        result = _indexes(Path(folder), data, queries, arguments.rounds)
    result["exact"] = _exact(data, queries, arguments.rounds)
    report = {
        "benchmark": "search_gpu",
        "commit": commit(),
        "hardware": _hardware(device),
        "seed": SEED,
        "rounds": arguments.rounds,
        "documents": len(data.lengths),
        "tokens": int(data.lengths.sum()),
        "queries": len(queries),
        "is_real": data.is_real,
        **result,
    }
    if arguments.json:
        arguments.json.write_text(json.dumps(report, indent=2) + "\n")
    _print_headlines(result)


def _indexes(folder: Path, data: SearchData, queries: Queries, rounds: int) -> dict[str, Any]:
    seconds = {}
    for name, cls in (("cpu", PlaidIndex), ("device", TorchPlaidIndex)):
        started = time.perf_counter()
        cls.build(folder / name, _Batches(data), settings=SETTINGS).close()
        seconds[name] = time.perf_counter() - started
    on_cpu, built_there = (PlaidIndex.open(folder / name) for name in seconds)
    on_device = TorchPlaidIndex.open(folder / "cpu")
    compared = _compare(on_device, PlaidIndex.open(folder / "cpu"), queries[:_COMPARED])
    searches: dict[str, Callable[[], list[list[Hit]]]] = {
        "cpu": lambda: on_cpu.search(queries, DEPTH)
    }
    for size in BATCHES:
        searches[f"batch {size}"] = _in_batches(on_device, queries, size)
    answers, rates = _measure(searches, len(queries), rounds)
    answers["built there"] = built_there.search(queries, DEPTH)
    recalls = {
        name: {f"recall_at_{k}": recall(_positions(found), data.truth.ids, k) for k in (10, DEPTH)}
        for name, found in answers.items()
    }
    for name, rate in rates.items():
        best = recalls[name]["recall_at_10"]
        print(f"{name:12} {rate['median']:10.1f} queries/s  recall@10 {best:.4f}")
    return {"compared": compared, "build_seconds": seconds, "rates": rates, "recalls": recalls}


def _compare(
    on_device: TorchPlaidIndex, in_numpy: PlaidIndex, queries: Queries
) -> dict[str, float]:
    """Refuse to go on where the hits are others than NumPy's."""
    in_numpy.settings = replace(in_numpy.settings, engine="numpy")
    shared, differences = [], [0.0]
    for one, other in zip(on_device.search(queries, DEPTH), in_numpy.search(queries, DEPTH)):
        found, expected = dict(one), dict(other)
        both = found.keys() & expected.keys()
        shared.append(len(both) / max(1, len(expected)))
        differences += [abs(found[each] - expected[each]) for each in both]
    # At a stage's edge rounding decides among documents that are equal.
    if np.mean(shared) < 0.99 or max(differences) > _SCORE_TOLERANCE:
        sys.exit(
            f"the device and NumPy differ: {np.mean(shared):.4f} of the hits are shared, scores "
            f"are up to {max(differences):.2g} apart"
        )
    return {"shared": float(np.mean(shared)), "score_difference": max(differences)}


def _exact(data: SearchData, queries: Queries, rounds: int) -> dict[str, Any]:
    tokens = np.load(data.paths.tokens, mmap_mode="r")
    engine = ExactMaxSim(tokens, np.concatenate([[0], np.cumsum(data.lengths)]))
    depth = data.truth.ids.shape[1]

    def search() -> list[NDArray[np.int64]]:
        return list(engine.search(list(queries), depth)[0])

    answers, rates = _measure({"exact": search}, len(queries), rounds)
    found = recall(answers["exact"], data.truth.ids, depth)
    if found < 0.999:
        sys.exit(f"exact MaxSim on the device finds {found:.4f} of the truth, expected 0.999")
    return {"recall_at_100": found, **rates["exact"]}


def _measure(
    searches: dict[str, Callable[[], Any]], queries: int, rounds: int
) -> tuple[dict[str, Any], dict[str, dict[str, float]]]:
    """Answers of a first, untimed round, and queries a second of the others.

    Every search ends with its hits on the host, so that the device is waited for.
    """
    answers = {name: search() for name, search in searches.items()}
    seconds: dict[str, list[float]] = {name: [] for name in searches}
    for number in range(rounds):
        turns = list(searches.items())
        for name, search in turns if number % 2 else reversed(turns):
            started = time.perf_counter()
            search()
            seconds[name].append(time.perf_counter() - started)
    rates = {}
    for name, taken in seconds.items():
        each = sorted(queries / one for one in taken)
        rates[name] = {"median": median(each), "least": each[0], "most": each[-1]}
    return answers, rates


def _in_batches(
    index: TorchPlaidIndex, queries: Queries, size: int
) -> Callable[[], list[list[Hit]]]:
    def search() -> list[list[Hit]]:
        found = []
        for at in range(0, len(queries), size):
            found += index.search(queries[at : at + size], DEPTH)
        return found

    return search


class _Batches:
    """The documents in batches, as often as they are asked for: a build goes through them twice."""

    def __init__(self, data: SearchData) -> None:
        self._tokens = np.load(data.paths.tokens, mmap_mode="r")
        self._offsets = np.concatenate([[0], np.cumsum(data.lengths)])

    def __iter__(self) -> Iterator[Batch[Sequence[NDArray[np.floating]]]]:
        for at in range(0, len(self._offsets) - 1, _BUILT_AT_ONCE):
            bounds = self._offsets[at : at + _BUILT_AT_ONCE + 1]
            part = np.asarray(self._tokens[bounds[0] : bounds[-1]], np.float32)
            items = np.split(part, bounds[1:-1] - bounds[0])
            yield Batch([str(number) for number in range(at, at + len(items))], items)


def _positions(answers: list[list[Hit]]) -> list[NDArray[np.int64]]:
    return [np.array([int(hit.document_id) for hit in hits], np.int64) for hits in answers]


def _print_headlines(result: dict[str, Any]) -> None:
    best = f"batch {max(BATCHES)}"
    rate, on_cpu = result["rates"][best]["median"], result["rates"]["cpu"]["median"]
    built = result["build_seconds"]
    figures = {
        "gpu_queries_per_second": f"{rate:.1f}",
        "gpu_recall_at_10": f"{result['recalls'][best]['recall_at_10']:.4f}",
        "gpu_vs_cpu": f"{rate / on_cpu:.2f}",
        "gpu_exact_queries_per_second": f"{result['exact']['median']:.1f}",
        "gpu_build_seconds": f"{built['device']:.1f}",
        "gpu_build_vs_cpu": f"{built['cpu'] / built['device']:.2f}",
    }
    for name, value in figures.items():
        print(f"RESULT {name} {value}")


def _name(device: str) -> str:
    return torch.cuda.get_device_name() if device == "cuda" else "the processor, through torch"


def _hardware(device: str) -> dict[str, Any]:
    return {
        "device": _name(device),
        "torch": torch.__version__,
        "triton": find_spec("triton") is not None,
        "processor": platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "kernels": native.instruction_set(),
    }


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--documents", type=int, help=f"default {DOCUMENTS:,}")
    parser.add_argument("--queries", type=int, help=f"default {QUERIES:,}, the most there are")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--data", type=Path, default=DEFAULT_FOLDER, metavar="FOLDER")
    parser.add_argument("--texts", type=Path, default=DEFAULT_TEXTS, metavar="FOLDER")
    parser.add_argument("--quick", action="store_true", help="2,000 documents, under 3 minutes")
    parser.add_argument("--json", type=Path, metavar="FILE")
    arguments = parser.parse_args()
    arguments.documents = arguments.documents or (2_000 if arguments.quick else DOCUMENTS)
    arguments.queries = arguments.queries or (64 if arguments.quick else QUERIES)
    return arguments


if __name__ == "__main__":
    main()
