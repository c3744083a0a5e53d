"""Training side by side: this package, Sentence Transformers alone, and PyLate.

    python benchmarks/train.py --quick
    python benchmarks/search_peers/install.py pylate --environments FOLDER
    python benchmarks/train.py --environments FOLDER --json train.json
    python benchmarks/train.py --kind dense --dtype bfloat16 --threads 2 --peer st
    python benchmarks/train.py --quality --environments FOLDER

Every library trains in a process of its own, from the same weights on the same pairs in the same
order, with its own loop, collator, loss and optimiser; start-up is left out. In every round each
takes the same few steps, one library after the other. 64 unsorted pairs of mixed lengths a step,
in float32 and under bfloat16 autocast; dense texts are cut at 64 and 512 tokens, ColBERT's at 32
and 180, PyLate's defaults. --shape starters goes on from the package's retrievers, with pairs of
any length, in place of random weights. Some 12 minutes on one core; --quick takes 10 pairs a step,
in bfloat16 alone where the processor has it.

A ratio is printed only where the losses of 20 steps agree (train_ratio.py): in float32 within 1e-5
from the same weights and 1e-3 after that, PyLate's from the starters within 1e-3 and 1e-2, as its
MaxSim is another one for negative matches. In bfloat16 every library rounds at other places: ours
and the peer's are to be within 1/256, bfloat16's resolution, of float32's, in the mean of the
steps. Where float32 is not asked for, our trainer runs it untimed.

--quality instead trains small models for some hundred steps from some seeds and compares nDCG@10
on held-out pairs, all models judged by the same search.

--clock processor counts the seconds that a trainer had a processor, for a machine with other work.

With glibc's defaults large tensors come from fresh pages at every step, which costs the padded
side more; this leaves the page faults out:

    MALLOC_MMAP_THRESHOLD_=8589934592 MALLOC_TRIM_THRESHOLD_=17179869184 python benchmarks/...
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from statistics import median
from typing import Any

import torch
from provenance import commit
from search_peers.install import DEFAULT_FOLDER as DEFAULT_ENVIRONMENTS
from search_peers.install import python_command
from train_data import STARTERS, TRAINED_SHAPES, Starts, make_starts, mixed_pairs, write_pairs
from train_quality import SETTINGS as QUALITY_SETTINGS
from train_quality import compare_quality, print_quality
from train_ratio import loss_difference, rate_over
from train_workers import Round, Trainer
from workloads import make_tokenizer

from retrieval import native
from retrieval.backbone.precision import has_fast_bfloat16

SYSTEMS = {"dense": ("ours", "st"), "colbert": ("ours", "st", "pylate")}
# Least characters of a positive. PyLate's MaxSim gives 0 where all tokens of a padded document have
# negative similarities: with untrained weights that happens to documents of a few tokens, and the
# losses differ.
SHORTEST = {"dense": 1, "colbert": 150}
COMPARED_STEPS = 20
WARMUP_STEPS = 2
LR = 8e-5


def main() -> None:
    """Time or judge the libraries, print tables and the headline figures."""
    arguments = _arguments()
    report: dict[str, Any] = {
        "benchmark": "train",
        "commit": commit(),
        "hardware": _hardware(arguments.device),
        "environment": {
            key: value for key, value in os.environ.items() if key.startswith(("MALLOC_", "OMP_"))
        },
        "settings": {key: str(value) for key, value in vars(arguments).items() if key != "json"},
    }
    with tempfile.TemporaryDirectory() as folder:
        if arguments.quality:
            report["quality"] = QUALITY_SETTINGS | {"rows": []}
            for row in compare_quality(arguments, Path(folder)):
                report["quality"]["rows"].append(row)
                _write(report, arguments.json)
        else:
            report["results"] = []
            for result in _compare_all(arguments, Path(folder)):
                report["results"].append(result)
                _print(result)
                _write(report, arguments.json)  # what was measured stays if the rest is cut off
    _write(report, arguments.json)
    if arguments.quality:
        print_quality(report["quality"])
    else:
        _print_headlines(report["results"])


def _write(report: dict[str, Any], path: Path | None) -> None:
    if path:
        path.write_text(json.dumps(report, indent=2) + "\n")


def _compare_all(arguments: argparse.Namespace, folder: Path) -> Iterator[dict[str, Any]]:
    starts = make_starts(folder, arguments.shape, arguments.seed)
    for kind in arguments.kind:
        # A batch more than is trained on, as the last one is left out where it is not full.
        shortest = 1 if arguments.shape == STARTERS else SHORTEST[kind]
        pairs = mixed_pairs((COMPARED_STEPS + 2) * arguments.pairs, arguments.seed, shortest)
        write_pairs(folder / f"{kind}.jsonl", pairs)
        exact: list[float] | None = None
        for dtype in sorted(arguments.dtype, reverse=True):  # float32, then what is held against it
            result = _compare(kind, dtype, starts, folder, arguments)
            if dtype == "float32":
                exact = list(result["rows"][0]["losses"])
            else:
                exact = exact or _float32_losses(kind, starts, folder, arguments)
                result["float32_losses"] = exact
            yield result | {"start": arguments.shape, "mean_tokens": _lengths(pairs)}


def _float32_losses(
    kind: str, starts: Starts, folder: Path, arguments: argparse.Namespace
) -> list[float]:
    """What the same steps lose without bfloat16's rounding."""
    with _trainer("ours", kind, "float32", starts, folder, arguments) as trainer:
        return trainer.steps(COMPARED_STEPS).losses


def _trainer(
    name: str,
    kind: str,
    dtype: str,
    starts: Starts,
    folder: Path,
    arguments: argparse.Namespace,
) -> Trainer:
    run = {
        "kind": kind,
        "model": str(starts.pylate if name == "pylate" else getattr(starts, kind)),
        "pairs": str(folder / f"{kind}.jsonl"),
        "output": str(folder / f"{kind}-{dtype}-{name}"),
        "steps": COMPARED_STEPS + 1,  # the last round ends where a further step begins
        "batch_size": arguments.pairs,
        "lr": LR,
        "dtype": dtype,
        "seed": arguments.seed,
        "threads": arguments.threads,
        "clock": arguments.clock,
    }
    python = python_command(name, arguments.environments) or []
    log = folder / f"{kind}-{dtype}-{name}.log"
    return Trainer(name, python, run, log, arguments.device)


def _compare(
    kind: str, dtype: str, starts: Starts, folder: Path, arguments: argparse.Namespace
) -> dict[str, Any]:
    systems = [name for name in SYSTEMS[kind] if name in ("ours", *arguments.peer)]
    rounds: dict[str, list[Round]] = {name: [] for name in systems}
    with ExitStack() as stack:
        trainers = [
            stack.enter_context(_trainer(name, kind, dtype, starts, folder, arguments))
            for name in systems
        ]
        warmups = {trainer.system: trainer.steps(WARMUP_STEPS) for trainer in trainers}
        for number in range((COMPARED_STEPS - WARMUP_STEPS) // arguments.steps):
            # Nobody is always the first, or always behind the same one.
            for trainer in trainers[number % len(trainers) :] + trainers[: number % len(trainers)]:
                rounds[trainer.system].append(trainer.steps(arguments.steps))
        versions = {trainer.system: trainer.versions for trainer in trainers}
    losses = {
        name: warmups[name].losses + [loss for each in rounds[name] for loss in each.losses]
        for name in systems
    }
    rows = []
    for name in systems:
        seconds = [each.seconds / arguments.steps for each in rounds[name]]
        rows.append(
            {
                "system": name,
                "step_seconds": seconds,
                "pairs_per_second": arguments.pairs / median(seconds),
                "losses": losses[name],
                "loss_difference": loss_difference(losses["ours"], losses[name]),
                "versions": versions[name],
            }
        )
    return {"kind": kind, "dtype": dtype, "threads": arguments.threads, "rows": rows}


def _print(result: dict[str, Any]) -> None:
    query, positive = result["mean_tokens"]
    print(
        f"\n{result['kind']} {result['dtype']}, {result['threads']} thread(s), texts of "
        f"{query:.0f} and {positive:.0f} tokens\n"
        "system   s/step   pairs/s   ours is faster     loss 1 -> 20   from ours   from float32"
    )
    exact = result.get("float32_losses", result["rows"][0]["losses"])
    for row in result["rows"]:
        ratio = rate_over(result, row["system"])
        compared = "losses differ"
        if row["system"] == "ours":
            compared = ""
        elif ratio:
            compared = f"{ratio[0]:.2f}x ({min(ratio[1]):.2f}-{max(ratio[1]):.2f})"
        print(
            f"{row['system']:7} {median(row['step_seconds']):7.3f} {row['pairs_per_second']:9.1f}"
            f"   {compared:17} {row['losses'][0]:6.3f} -> {row['losses'][-1]:6.3f}   "
            f"{row['loss_difference']:9.1e}   {loss_difference(row['losses'], exact):12.1e}",
            flush=True,
        )


def _print_headlines(results: list[dict[str, Any]]) -> None:
    print()
    # The number format that precision = "auto" takes here is the one without a suffix.
    dtypes = [each for each in ("bfloat16", "float32") if each in {r["dtype"] for r in results}]
    first = dtypes[0]
    for result in results:
        suffix = "" if result["dtype"] == first else f"_{result['dtype']}"
        for row in result["rows"][1:]:
            ratio = rate_over(result, row["system"])
            if ratio:
                name = f"{result['kind']}_step_vs_{row['system']}_same_dtype{suffix}"
                print(f"RESULT {name} {ratio[0]:.3f}")
    for dtype in dtypes:
        differences = [
            row["loss_difference"]
            for result in results
            if result["dtype"] == dtype
            for row in result["rows"]
        ]
        suffix = "" if dtype == first else f"_{dtype}"
        print(f"RESULT loss_difference_20_steps{suffix} {max(differences):.2e}")


def _lengths(pairs: list[dict[str, str]]) -> tuple[float, float]:
    tokenizer = make_tokenizer()
    query, positive = (
        sum(len(ids) for ids in tokenizer([pair[column] for pair in pairs])["input_ids"])
        for column in ("query", "positive")
    )
    return query / len(pairs), positive / len(pairs)


def _hardware(device: str) -> dict[str, Any]:
    names = [
        line.partition(":")[2].strip()
        for line in Path("/proc/cpuinfo").read_text().splitlines()
        if line.startswith("model name")
    ]
    return {
        "device": torch.cuda.get_device_name() if device == "cuda" else "cpu",
        "processor": names[0] if names else platform.processor(),
        "cores": os.cpu_count(),
        "capabilities": {key: on for key, on in torch.cpu.get_capabilities().items() if on},
        "kernels": native.instruction_set(),
    }


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kind", action="append", choices=list(SYSTEMS), help="default: both")
    parser.add_argument(
        "--dtype", action="append", choices=("float32", "bfloat16"), help="default: both"
    )
    parser.add_argument("--peer", action="append", choices=("st", "pylate"), help="may be repeated")
    parser.add_argument("--shape", choices=[*TRAINED_SHAPES, STARTERS])
    parser.add_argument("--pairs", type=int, help="of a step")
    parser.add_argument("--steps", type=int, default=3, help="of a round")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument(
        "--clock", choices=("wall", "processor"), default="wall", help="what a step's seconds are"
    )
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument(
        "--seed", type=int, help="default 5, with --quality 0, the first of --seeds"
    )
    parser.add_argument("--quality", action="store_true", help="nDCG@10 over some seeds")
    parser.add_argument("--quality-steps", type=int, help="of each model")
    parser.add_argument("--seeds", type=int, default=3, help="of --quality, at least 2")
    parser.add_argument("--environments", type=Path, default=DEFAULT_ENVIRONMENTS, metavar="FOLDER")
    parser.add_argument("--quick", action="store_true", help="under 3 minutes (--quality: 10)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every figure to this file")
    arguments = parser.parse_args()
    if arguments.clock == "processor" and (arguments.threads, arguments.device) != (1, "cpu"):
        parser.error("--clock processor counts the seconds of all threads: take --threads 1")
    if (COMPARED_STEPS - WARMUP_STEPS) % arguments.steps:
        parser.error(f"--steps {arguments.steps}: expected a divisor of 18")
    if arguments.seeds < 2:
        parser.error(f"--seeds {arguments.seeds}: a spread needs at least 2")
    if arguments.seed is None:
        arguments.seed = 0 if arguments.quality else 5
    arguments.kind = arguments.kind or list(SYSTEMS)
    if not arguments.dtype:
        fast = ["bfloat16"] if has_fast_bfloat16(arguments.device) else []
        arguments.dtype = [*fast, "float32"][: 1 if arguments.quick or arguments.quality else 2]
    arguments.shape = arguments.shape or ("4x128" if arguments.quality else "17m")
    arguments.pairs = arguments.pairs or (
        32 if arguments.quality else 10 if arguments.quick else 64
    )
    arguments.quality_steps = arguments.quality_steps or (100 if arguments.quick else 300)
    at_hand = [name for name in ("st", "pylate") if python_command(name, arguments.environments)]
    if arguments.peer is None:
        arguments.peer = at_hand
    missing = sorted(set(arguments.peer) - set(at_hand))
    if missing:
        parser.error(
            f"not installed in {arguments.environments}: {', '.join(missing)} (run "
            f"benchmarks/search_peers/install.py {' '.join(missing)} first)"
        )
    return arguments


if __name__ == "__main__":
    main()
