"""One contrastive training step, without padding and as Sentence Transformers pads it.

    python benchmarks/train_step.py --quick
    python benchmarks/train_step.py --pairs 64 --threads 1 --json train_step.json

64 unsorted pairs, queries of some 15 tokens and passages of some 155, through
MultipleNegativesRankingLoss of the same model: forward and backward, with `unpadded(model)` and
without, one after the other in every round, in float32 and under bfloat16 autocast. A ratio is
printed only where both losses agree. Two to four minutes on one processor core.

With glibc's defaults large tensors come from fresh pages at every step, which costs the padded side
more: on a virtual machine 7.0x in float32 was 4.7x without the page faults, which these leave out:

    MALLOC_MMAP_THRESHOLD_=8589934592 MALLOC_TRIM_THRESHOLD_=17179869184 python benchmarks/...
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import platform
import tempfile
import time
from contextlib import nullcontext
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any, get_args

import numpy as np
import torch
from provenance import commit
from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss
from workloads import SHAPES, ShapeName, draw_lengths, save_model

from retrieval import DenseEncoder
from retrieval.backbone.precision import has_fast_bfloat16
from retrieval.encoders.unpadded import unpadded

# How far two losses of some 4 may be apart.
TOLERANCES = {"float32": 1e-4, "bfloat16": 2e-2}


def main() -> None:
    """Time the steps, print the table and the headline figures."""
    arguments = _arguments()
    torch.set_num_threads(arguments.threads)
    logging.getLogger("sentence_transformers").setLevel(logging.ERROR)
    with tempfile.TemporaryDirectory() as folder:
        save_model(Path(folder), SHAPES[arguments.shape], seed=arguments.seed)
        model = DenseEncoder.from_backbone(folder, device=arguments.device).model
    columns = _columns(model, arguments)
    real = sum(int(each["attention_mask"].sum()) for each in columns)
    padded = sum(each["input_ids"].numel() for each in columns)
    print(
        f"{arguments.shape}: {arguments.pairs} pairs, {real:,} tokens, padding {padded / real:.2f}"
    )
    results = {}
    for dtype in ("float32", "bfloat16"):
        if dtype == "bfloat16" and not has_fast_bfloat16(arguments.device):
            print("bfloat16: not in this hardware")
            continue
        results[dtype] = _compare(model, columns, dtype, arguments)
        _print(dtype, results[dtype])
    if arguments.json:
        report = {
            "benchmark": "train_step",
            "commit": commit(),
            "hardware": {
                "device": arguments.device,
                "processor": platform.processor(),
                "capabilities": dict(torch.cpu.get_capabilities()),
            },
            "versions": {name: version(name) for name in ("torch", "sentence-transformers")},
            "environment": {
                key: value
                for key, value in os.environ.items()
                if key.startswith(("MALLOC_", "OMP_"))
            },
            "settings": {key: str(value) for key, value in vars(arguments).items()},
            "padding": padded / real,
            "results": results,
        }
        arguments.json.write_text(json.dumps(report, indent=2) + "\n")
    for dtype, short in (("float32", "fp32"), ("bfloat16", "bf16")):
        if dtype in results and results[dtype]["equal"]:
            ratio = results[dtype]["ratio"]
            print(f"RESULT train_step_{arguments.shape}_vs_st_{short} {ratio:.3f}")


def _compare(
    model: Any, columns: list[dict[str, Any]], dtype: str, arguments: argparse.Namespace
) -> dict[str, Any]:
    losses = {is_packed: _step(model, columns, dtype, is_packed)[1] for is_packed in (False, True)}
    seconds: dict[bool, list[float]] = {False: [], True: []}
    for _ in range(2 if arguments.quick else arguments.repeats):
        for is_packed, times in seconds.items():
            times.append(_step(model, columns, dtype, is_packed)[0])
    ratios = [theirs / ours for theirs, ours in zip(seconds[False], seconds[True])]
    return {
        "padded_loss": losses[False],
        "packed_loss": losses[True],
        "equal": abs(losses[True] - losses[False]) <= TOLERANCES[dtype],
        "padded_seconds": seconds[False],
        "packed_seconds": seconds[True],
        "ratio": median(seconds[False]) / median(seconds[True]),
        "ratios": ratios,
    }


def _step(
    model: Any, columns: list[dict[str, Any]], dtype: str, is_packed: bool
) -> tuple[float, float]:
    """Seconds and loss of one forward and backward pass."""
    model.train()
    model.zero_grad()
    loss_of = MultipleNegativesRankingLoss(model)
    device = model.device.type
    autocast = torch.autocast(device, torch.bfloat16, enabled=dtype == "bfloat16")
    with unpadded(model) if is_packed else nullcontext():
        started = time.perf_counter()
        with autocast:
            loss = loss_of([dict(each) for each in columns], None)
        loss.backward()
        value = loss.item()  # waits for a GPU
        return time.perf_counter() - started, value


def _columns(model: Any, arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """Queries and passages of drawn lengths, padded to the longest as a data collator does."""
    generator = np.random.default_rng(arguments.seed)
    drawn = generator.lognormal(np.log(14), 0.4, arguments.pairs)
    queries = np.clip(drawn, 4, 64).astype(int)
    passages = draw_lengths("passages", arguments.pairs, arguments.seed)
    tokenizer = model.tokenizer
    columns = []
    for lengths in (queries, passages):
        ids = [generator.integers(1_000, 50_000, length).tolist() for length in lengths]
        features = dict(tokenizer.pad({"input_ids": ids}, return_tensors="pt"))
        columns.append({key: value.to(arguments.device) for key, value in features.items()})
    return columns


def _print(dtype: str, result: dict[str, Any]) -> None:
    padded, packed = (median(result[f"{name}_seconds"]) for name in ("padded", "packed"))
    compared = "losses differ"
    if result["equal"]:
        low, high = min(result["ratios"]), max(result["ratios"])
        compared = f"{result['ratio']:.2f}x ({low:.2f}-{high:.2f})"
    print(
        f"{dtype:9} padded {padded:6.3f} s (loss {result['padded_loss']:.5f})   "
        f"packed {packed:6.3f} s (loss {result['packed_loss']:.5f})   {compared}",
        flush=True,
    )


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--shape", choices=get_args(ShapeName), default="17m")
    parser.add_argument("--pairs", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="two rounds")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--seed", type=int, default=5)
    parser.add_argument("--json", type=Path, help="write every figure to this file")
    return parser.parse_args()


if __name__ == "__main__":
    main()
