"""Late-interaction search on a CPU: this package's indexes beside their peers, judged by MaxSim.

    python benchmarks/search.py --quick
    python benchmarks/search_peers/install.py fast-plaid tachiom lancedb xtr-warp
    python benchmarks/search.py --json search.json
    python benchmarks/search.py --documents 20000 --documents 100000 --real --peer tachiom
    python benchmarks/search.py --k 10 --kernels avx2
    python benchmarks/search.py --documents 1000000 --queries 50 --no-peers --ours "4 bits"

Every engine runs in a process of its own and with its own environment. A query's latency is taken
there, on one thread, around the engine's call alone; the queries are the same for all. Each setting
of a peer is compared with our cheapest setting whose recall@10 and recall@100 are both at least as
high, in rounds: some queries here, the same queries there. The peers' builds are kept in the data
folder and used again; ours are made anew. Without --peer: all peers that are installed; without
--ours: all of our builds.

The first run makes the data in 15 to 20 minutes (search_data.py) and the peers' builds, most of an
hour at 20,000 documents on two cores; the rest takes 20 to 30 minutes.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import platform
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import search_tables
from provenance import commit
from search_data import DEFAULT_FOLDER, DEFAULT_TEXTS, QUERIES, SEED, SearchData, prepare
from search_encoding import DOCUMENTS
from search_measures import Row, cheapest, measure, side_by_side, throughput
from search_peers.install import DEFAULT_FOLDER as DEFAULT_ENVIRONMENTS
from search_peers.install import python_command
from search_systems import EXACT, NUMPY, OURS, PEERS, Build, Peer, Setting, our_settings
from search_truth import DEPTH
from search_workers import Worker, WorkerError, Workshop

from retrieval import native

OURSELVES = [sys.executable]


def main() -> None:
    """Run every size, print tables and the headline figures of the first."""
    arguments = _arguments()
    results = []
    for documents in arguments.documents:
        results.append(Comparison(documents, arguments).run())
    if len(results) > 1:
        search_tables.print_growth(results)
    if arguments.json:
        report = {
            "benchmark": "search",
            "commit": commit(),
            "hardware": _hardware(),
            "seed": SEED,
            "model": arguments.model,
            "k": arguments.k,
            "threads": arguments.threads,
            "build_threads": arguments.build_threads,
            "rounds": arguments.rounds,
            "seconds_per_setting": arguments.seconds,
            "results": results,
        }
        arguments.json.write_text(json.dumps(report, indent=2) + "\n")
    search_tables.print_headlines(results[0])


class Comparison:
    """All engines on one set of documents."""

    def __init__(self, documents: int, arguments: argparse.Namespace) -> None:
        self._arguments = arguments
        self._data: SearchData = prepare(
            arguments.data,
            documents,
            arguments.queries,
            texts=arguments.texts,
            model=arguments.model,
            processes=arguments.build_threads,
            real=arguments.real,
        )
        self._workshop = Workshop(self._data)
        self._rows: list[Row] = []
        self._workers: dict[str, Worker] = {}
        self._built: dict[str, dict[str, Any]] = {}

    def run(self) -> dict[str, Any]:
        """Measure ours, then each peer beside ours; returns all figures."""
        search_tables.print_data(self._data)
        with ExitStack() as opened:
            for build in self._arguments.ours:
                self._measure_ours(build, opened)
            ours = list(self._rows)
            if OURS[0] in self._arguments.ours:
                ours.append(self._measure_numpy())
            peers = [self._compare(name, PEERS[name]) for name in self._arguments.peer]
        return {
            "documents": len(self._data.lengths),
            "tokens": int(self._data.lengths.sum()),
            "queries": len(self._data.truth.ids),
            "is_real": self._data.is_real,
            "all_real": self._data.all_real,
            "builds": self._built,
            "ours": [row.record() for row in ours],
            "peers": peers,
        }

    def _measure_ours(self, build: Build, opened: ExitStack) -> None:
        threads, reuse = self._arguments.build_threads, self._arguments.reuse
        self._built[build.name] = self._workshop.build(
            build, OURSELVES, threads=threads, reuse=reuse
        )
        worker = opened.enter_context(self._workshop.open(build, OURSELVES, 1))
        self._workers[build.name] = worker
        rows = [
            self._measure(worker, setting)
            for setting in our_settings(build, self._arguments.kernels)
        ]
        self._add_throughput(rows[0], worker, OURSELVES)
        self._rows += rows

    def _measure_numpy(self) -> Row:
        with self._workshop.open(OURS[0], OURSELVES, 1) as worker:
            return self._measure(worker, NUMPY)

    def _compare(self, name: str, peer: Peer) -> dict[str, Any]:
        """A peer that fails is reported, and leaves the others their turn."""
        result: dict[str, Any] = {"peer": name, "settings": []}
        try:
            self._built[name] = self._workshop.build(
                peer.build, self._python(name), threads=self._arguments.build_threads, reuse=True
            )
            with self._workshop.open(peer.build, self._python(name), 1) as worker:
                for setting in peer.settings:
                    result["settings"].append(self._beside(name, peer, worker, setting))
        except WorkerError as error:
            result["error"] = str(error)
            print(f"{name} {error}", file=sys.stderr)
        return result

    def _beside(self, name: str, peer: Peer, worker: Worker, setting: Setting) -> dict[str, Any]:
        row = self._measure(worker, setting)
        self._add_throughput(row, worker, self._python(name))
        ours = cheapest(self._rows, row, self._data.truth)
        if ours is None:
            return row.record()
        beside = side_by_side(
            (self._workers[ours.build.name], ours),
            (worker, row),
            rounds=self._arguments.rounds,
            budget_seconds=self._arguments.seconds,
        )
        beside["ours"] = ours.record()
        if peer.has_index:
            seconds = self._built[name]["seconds"]
            beside["build_ratio"] = seconds / self._built[ours.build.name]["seconds"]
        search_tables.print_beside(name, beside)
        return {**row.record(), "beside": beside}

    def _measure(self, worker: Worker, setting: Setting) -> Row:
        built = self._built[worker.build.name]
        row = measure(
            worker,
            setting,
            self._data.truth,
            built,
            k=self._arguments.k,
            budget_seconds=self._arguments.seconds,
        )
        row.measured["bytes_per_token"] = built["bytes"] / int(self._data.lengths.sum())
        search_tables.print_row(row)
        return row

    def _add_throughput(self, row: Row, worker: Worker, python: list[str]) -> None:
        """Queries a second on several threads, of the first setting of a build."""
        threads, seconds = self._arguments.threads, self._arguments.seconds / 2
        if threads == 1:
            rate = throughput(worker, row, budget_seconds=seconds)
        else:
            with self._workshop.open(row.build, python, threads) as other:
                rate = throughput(other, row, budget_seconds=seconds)
        row.measured["queries_per_second_threads"] = rate
        search_tables.print_throughput(row, threads)

    def _python(self, peer: str) -> list[str]:
        return python_command(peer, self._arguments.environments) or []


def _hardware() -> dict[str, Any]:
    names = [
        line.partition(":")[2].strip()
        for line in Path("/proc/cpuinfo").read_text().splitlines()
        if line.startswith("model name")
    ]
    return {
        "processor": names[0] if names else platform.processor(),
        "cores": os.cpu_count(),
        "kernels": native.instruction_set(),
    }


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--documents", type=int, action="append", help=f"default {DOCUMENTS:,}")
    parser.add_argument("--queries", type=int, help=f"default {QUERIES:,}, the most there are")
    parser.add_argument("--k", type=int, default=DEPTH, help=f"hits of a query; default {DEPTH}")
    parser.add_argument("--kernels", metavar="NAME", help="instruction set of ours")
    parser.add_argument("--peer", action="append", choices=list(PEERS), help="may be repeated")
    parser.add_argument("--no-peers", action="store_true", help="ours alone")
    names = [build.name for build in (*OURS, EXACT)]
    parser.add_argument("--ours", action="append", choices=names, help="may be repeated")
    parser.add_argument("--reuse", action="store_true", help="do not build ours anew")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="of throughput")
    parser.add_argument("--build-threads", type=int, default=os.cpu_count())
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, help="for each setting; default 60")
    parser.add_argument("--data", type=Path, default=DEFAULT_FOLDER, metavar="FOLDER")
    parser.add_argument("--model", help="whose vectors; default MiniLM's token states")
    parser.add_argument("--texts", type=Path, default=DEFAULT_TEXTS, metavar="FOLDER")
    parser.add_argument(
        "--real", action="store_true", help="no generated documents, 154,000 at most"
    )
    parser.add_argument("--environments", type=Path, default=DEFAULT_ENVIRONMENTS, metavar="FOLDER")
    parser.add_argument("--quick", action="store_true", help="2,000 documents, under 3 minutes")
    parser.add_argument("--json", type=Path, metavar="FILE")
    arguments = parser.parse_args()
    if not 10 <= arguments.k <= DEPTH:
        parser.error(f"--k {arguments.k}: expected 10 to {DEPTH}")
    if arguments.kernels:
        native.choose_instruction_set(arguments.kernels)
    chosen = arguments.ours or names
    arguments.ours = [build for build in (*OURS, EXACT) if build.name in chosen]
    arguments.documents = arguments.documents or [2_000 if arguments.quick else DOCUMENTS]
    arguments.queries = arguments.queries or (200 if arguments.quick else QUERIES)
    arguments.seconds = arguments.seconds or (3.0 if arguments.quick else 60.0)
    if arguments.no_peers:
        arguments.peer = []
    elif not arguments.peer:
        # The quick run makes no build that takes minutes.
        at_hand = ["muvera", "brute-force"] if arguments.quick else list(PEERS)
        arguments.peer = [name for name in at_hand if python_command(name, arguments.environments)]
    missing = [
        name for name in arguments.peer if python_command(name, arguments.environments) is None
    ]
    if missing:
        parser.error(
            f"not installed in {arguments.environments}: {', '.join(missing)} (run "
            f"benchmarks/search_peers/install.py {' '.join(missing)} first)"
        )
    return arguments


if __name__ == "__main__":
    logging.basicConfig(level=logging.WARNING)
    main()
