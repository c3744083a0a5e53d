"""The second half of the training benchmark: what the models are worth that each library trains."""

from __future__ import annotations

import argparse
import math
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import numpy as np
from search_peers.install import python_command
from train_data import HeldOut, make_starts, split_pairs, write_pairs
from train_workers import Trainer

from retrieval import DenseEncoder, MultiVectorEncoder
from retrieval.scoring import maxsim

SEEDS = (0, 1, 2)
QUERIES, DOCUMENTS = 200, 2_000
LR = 1e-3
SYSTEMS = {"dense": ("ours", "st"), "colbert": ("ours", "st", "pylate")}


def compare_quality(arguments: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Train every kind by every library from three seeds.

    Returns:
        settings, and a row for each model that was trained.
    """
    rows = []
    for seed in SEEDS:
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
                rows.append(row)
                print(
                    f"{kind} {system}, seed {seed}: loss {row['final_loss']:.4f}, nDCG@10 "
                    f"{row['ndcg_at_10']:.4f}, {row['seconds']:.0f} s",
                    flush=True,
                )
    return {"queries": QUERIES, "documents": DOCUMENTS, "lr": LR, "rows": rows}


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
    """Means and spreads over the seeds, and how far our mean is from each peer's."""
    print()
    ndcg: dict[str, float] = {}
    for kind in SYSTEMS:
        for system in SYSTEMS[kind]:
            rows = [
                row for row in quality["rows"] if (row["kind"], row["system"]) == (kind, system)
            ]
            if not rows:
                continue
            values = [row["ndcg_at_10"] for row in rows]
            losses = [row["final_loss"] for row in rows]
            ndcg[f"{kind}_{system}"] = mean(values)
            print(
                f"{kind:8} {system:7} loss {mean(losses):.4f} +- {stdev(losses):.4f}   nDCG@10 "
                f"{mean(values):.4f} +- {stdev(values):.4f}"
            )
            if system != "ours":
                difference = ndcg[f"{kind}_ours"] - mean(values)
                print(f"RESULT {kind}_ndcg_minus_{system} {difference:+.4f}")
                print(f"RESULT {kind}_ndcg_spread_{system} {stdev(values):.4f}")
