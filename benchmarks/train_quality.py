"""The second half of the training benchmark: what the models are worth that each library trains."""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterator
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import numpy as np
from scipy.stats import t as student_t
from search_peers.install import python_command
from train_data import HeldOut, make_starts, split_pairs, write_pairs
from train_workers import Trainer

from retrieval import DenseEncoder, MultiVectorEncoder
from retrieval.scoring import maxsim

QUERIES, DOCUMENTS = 200, 2_000
LR = 1e-3
SETTINGS: dict[str, Any] = {"queries": QUERIES, "documents": DOCUMENTS, "lr": LR}
SYSTEMS = {"dense": ("ours", "st"), "colbert": ("ours", "st", "pylate")}


def compare_quality(arguments: argparse.Namespace, folder: Path) -> Iterator[dict[str, Any]]:
    """Train every kind by every library from each seed; a row for each model that was trained."""
    for seed in range(arguments.seed, arguments.seed + arguments.seeds):
        train, held_out = split_pairs(QUERIES, DOCUMENTS, seed)
        write_pairs(folder / f"pairs-{seed}.jsonl", train)
        starts = make_starts(folder / f"starts-{seed}", arguments.shape, seed)
        for kind in arguments.kind:
            for system in SYSTEMS[kind]:
                if system not in ("ours", *arguments.peer):
                    continue
                name = f"{kind}-{system}-{seed}"
                run = {
                    "kind": kind,
                    "model": str(starts.pylate if system == "pylate" else getattr(starts, kind)),
                    "pairs": str(folder / f"pairs-{seed}.jsonl"),
                    "output": str(folder / name),
                    "steps": arguments.quality_steps,
                    "batch_size": arguments.pairs,
                    "lr": LR,
                    "dtype": arguments.dtype[0],
                    "seed": seed,
                    "threads": arguments.threads,
                }
                python = python_command(system, arguments.environments) or []
                log = folder / f"{name}.log"
                with Trainer(system, python, run, log, arguments.device) as trainer:
                    trained, model = trainer.finish()
                row = {
                    "kind": kind,
                    "system": system,
                    "seed": seed,
                    "final_loss": mean(trained.losses[-20:]),
                    "ndcg_at_10": ndcg_at_10(kind, model, held_out),
                    "seconds": trained.seconds,
                    "versions": trainer.versions,
                }
                print(
                    f"{kind} {system}, seed {seed}: loss {row['final_loss']:.4f}, nDCG@10 "
                    f"{row['ndcg_at_10']:.4f}, {row['seconds']:.0f} s",
                    flush=True,
                )
                yield row


def ndcg_at_10(kind: str, model: Path, held_out: HeldOut) -> float:
    """Mean over the queries, of which each has one relevant document."""
    encoder_class = DenseEncoder if kind == "dense" else MultiVectorEncoder
    encoder: Any = encoder_class.load(model, device="cpu")
    queries = list(encoder.encode_queries(held_out.queries))
    documents = list(encoder.encode_documents(held_out.documents))
    if kind == "dense":
        scores = np.stack(queries) @ np.stack(documents).T
    else:
        scores = maxsim(queries, documents)
    return mean_gain(scores)


def mean_gain(scores: Any) -> float:
    """nDCG@10 of (Q, B) scores where document i is the answer to query i; a tie counts against."""
    own = scores[np.arange(len(scores)), np.arange(len(scores))]
    ranks = (scores >= own[:, None]).sum(1)
    return mean(1 / math.log2(rank + 1) if rank <= 10 else 0.0 for rank in ranks.tolist())


def print_quality(quality: dict[str, Any]) -> None:
    """Means and spreads over the seeds, and how far ours is from each peer at the same seed."""
    print()
    ndcg: dict[tuple[str, str], dict[int, float]] = {}
    for kind in SYSTEMS:
        for system in SYSTEMS[kind]:
            rows = [
                row for row in quality["rows"] if (row["kind"], row["system"]) == (kind, system)
            ]
            if not rows:
                continue
            ndcg[kind, system] = {row["seed"]: row["ndcg_at_10"] for row in rows}
            print(
                f"{kind:8} {system:7} loss {_spread([row['final_loss'] for row in rows])}   "
                f"nDCG@10 {_spread(list(ndcg[kind, system].values()))}"
            )
            if system != "ours":
                ours = ndcg[kind, "ours"]
                differences = [ours[seed] - value for seed, value in ndcg[kind, system].items()]
                print(f"RESULT {kind}_ndcg_minus_{system} {mean(differences):+.4f}")
                half = half_interval(differences)
                print(f"RESULT {kind}_ndcg_minus_{system}_half_interval {half:.4f}")


def half_interval(differences: list[float]) -> float:
    """Half of the 95 % interval of the mean, by Student's t: what seeds alone explain."""
    count = len(differences)
    return float(student_t.ppf(0.975, count - 1)) * stdev(differences) / math.sqrt(count)


def _spread(values: list[float]) -> str:
    return f"{mean(values):.4f} +- {stdev(values):.4f}"
