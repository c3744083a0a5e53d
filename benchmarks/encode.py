"""Encode text with a ModernBERT: this package beside Sentence Transformers, from text to vectors.

    python benchmarks/encode.py --quick
    python benchmarks/encode.py --workload 17m/passages --workload base/fixed512 --json encode.json
    python benchmarks/encode.py --device cuda --workload base/fixed512 --workload base/variable512 \
        --workload base/fixed8192 --workload base/variable8192 --texts 8192
    python benchmarks/encode.py --workload base/passages --pooling cls
    python benchmarks/encode.py --sweep
    ONEDNN_MAX_CPU_ISA=AVX2 ATEN_CPU_CAPABILITY=avx2 \
        python benchmarks/encode.py --instruction-set avx2 --skip bfloat16 --skip int8

All systems run in this process, one after the other in every round. Sentence Transformers gets the
batch size that is best for it, found first. A ratio is printed only where the vectors agree. The
rate of matrix products is measured in the same rounds with the products of the model's own layers,
in bfloat16, or in float32 with --skip bfloat16. int8 is ours alone; it is compared with the peer's
fastest format.
Without options: the six headline figures, some 20 minutes on two processor cores.
"""

from __future__ import annotations

import argparse
import gc
import json
import logging
import platform
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any, get_args

import numpy as np
import torch
from measures import PeakMemory, padding, product_rate
from numpy.typing import NDArray
from provenance import commit
from sentence_transformers import SentenceTransformer
from transformers.utils import logging as transformers_logging
from workloads import (
    SHAPES,
    ShapeName,
    WorkloadName,
    draw_lengths,
    make_texts,
    save_model,
)

from retrieval import DenseEncoder, native
from retrieval.backbone.attention_choice import resolve
from retrieval.backbone.int8 import has_fast_int8

HEADLINES = ("17m/passages", "17m/long", "base/passages", "base/long", "base/fixed512")
# Texts of one timed run, so that it takes some seconds on two cores.
COUNTS = {
    "17m/passages": 800,
    "17m/fixed512": 300,
    "17m/variable512": 600,
    "17m/long": 24,
    "17m/queries": 4000,
    "base/passages": 48,
    "base/fixed512": 8,
    "base/long": 4,
    "large/passages": 32,
}
BATCH_SIZES = (1, 4, 16, 64)
MIN_COSINE = {"float32": 0.9999, "bfloat16": 0.999, "int8": 0.99}

Vectors = NDArray[np.float32]


@dataclass
class System:
    """Something that makes vectors of texts."""

    name: str
    dtype: str
    encode: Callable[[list[str]], Vectors]
    batch_size: int | None = None
    seconds: list[float] = field(default_factory=list)
    memory_mb: list[float] = field(default_factory=list)


def main() -> None:
    """Run the workloads, print a table each and the headline figures."""
    arguments = _arguments()
    torch.set_num_threads(arguments.threads)
    if arguments.instruction_set:
        native.choose_instruction_set(arguments.instruction_set)
    transformers_logging.disable_progress_bar()
    logging.getLogger("sentence_transformers").setLevel(logging.ERROR)
    results = []
    for name in arguments.workload:
        results.append(_compare(name, arguments))
        _print(results[-1])
        gc.collect()
    report = {
        "benchmark": "encode",
        "commit": commit(),
        "hardware": _hardware(arguments.device),
        "versions": {
            each: version(each) for each in ("torch", "transformers", "sentence-transformers")
        },
        "seed": arguments.seed,
        "threads": arguments.threads,
        "results": results,
    }
    if arguments.sweep:
        report["sweep"] = _sweep(arguments)
    if arguments.json:
        arguments.json.write_text(json.dumps(report, indent=2) + "\n")
    _print_headlines(results)


def _compare(name: str, arguments: argparse.Namespace) -> dict[str, Any]:
    shape_name, workload = _split(name)
    shape = SHAPES[shape_name]
    count = arguments.texts or COUNTS.get(name, 32)
    if arguments.quick:
        count = max(4, count // 4)
    lengths = draw_lengths(workload, count, arguments.seed)
    with tempfile.TemporaryDirectory() as folder:
        save_model(Path(folder), shape, seed=arguments.seed)
        encoder = DenseEncoder.from_backbone(folder, device="cpu", pooling=arguments.pooling)
        encoder.save(folder + "/dense")
        systems = _systems(folder + "/dense", arguments)
    texts = make_texts(systems[0].tokenizer, lengths, arguments.seed)  # type: ignore[attr-defined]
    for system in systems:
        if system.batch_size is not None:
            system.batch_size = _best_batch_size(system, texts)
        system.encode(texts[:4])
    operations = float(
        2 * shape.linear_weights * lengths.sum() + shape.attention_operations(lengths)
    )
    rates, vectors = [], {}
    products = torch.float32 if "bfloat16" in arguments.skip else torch.bfloat16
    options = {"threads": arguments.threads, "device": arguments.device, "dtype": products}
    for _ in range(arguments.repeats):
        rates.append(product_rate(shape, **options))
        for system in systems:
            vectors[system.name] = _timed(system, texts)
    reference = vectors[systems[0].name]
    rows = []
    for system in systems:
        seconds = median(system.seconds)
        cosines = _cosines(vectors[system.name], reference)
        rows.append(
            {
                "system": system.name,
                "dtype": system.dtype,
                "batch_size": system.batch_size,
                "seconds": system.seconds,
                "tokens_per_second": float(lengths.sum() / seconds),
                "matrix_fraction": operations / seconds / median(rates),
                "memory_mb": median(system.memory_mb),
                "min_cosine": float(cosines.min()),
                "equal": bool(cosines.min() >= MIN_COSINE[system.dtype]),
            }
        )
    peers = [each for each in systems if each.name.startswith("ST")]
    return {
        "workload": name if arguments.pooling == "mean" else f"{name}, {arguments.pooling}",
        "texts": count,
        "tokens": int(lengths.sum()),
        "longest": int(lengths.max()),
        "mean": float(lengths.mean()),
        "st_padding": padding(texts, lengths, peers[-1].batch_size or 1),
        "products": str(products).removeprefix("torch."),
        "product_gflops": median(rates) / 1e9,
        "rows": rows,
    }


def _systems(folder: str, arguments: argparse.Namespace) -> list[Any]:
    systems = []
    device = arguments.device
    for dtype in ("float32", "bfloat16"):
        if dtype in arguments.skip:
            continue
        options: dict[str, Any] = {"dtype": getattr(torch, dtype)}
        if device == "cuda" and dtype == "bfloat16" and arguments.st_attention:
            options["attn_implementation"] = arguments.st_attention
        model = SentenceTransformer(folder, device=device, model_kwargs=options)
        system = System(f"ST {dtype}", dtype, lambda _: np.empty(0, np.float32), 32)
        system.encode = _by_sentence_transformers(model, system)
        system.tokenizer = model.tokenizer  # type: ignore[attr-defined]
        encoder = DenseEncoder.load(folder, device=device, dtype=dtype)  # type: ignore[arg-type]
        systems += [system, System(f"ours {dtype}", dtype, _by_ours(encoder))]
    if "int8" not in arguments.skip and device == "cpu" and has_fast_int8():
        encoder = DenseEncoder.load(folder, device=device, dtype="int8")
        systems.append(System("ours int8", "int8", _by_ours(encoder)))
    return systems


def _by_sentence_transformers(
    model: SentenceTransformer, system: System
) -> Callable[[list[str]], Vectors]:
    def encode(texts: list[str]) -> Vectors:
        assert system.batch_size is not None, "it is searched for"
        found: Vectors = model.encode_document(
            texts, batch_size=system.batch_size, show_progress_bar=False
        )
        return np.asarray(found, np.float32)

    return encode


def _by_ours(encoder: DenseEncoder) -> Callable[[list[str]], Vectors]:
    return lambda texts: np.stack(list(encoder.encode_documents(texts)))


def _best_batch_size(system: System, texts: list[str]) -> int:
    sample = texts[:: max(1, min(3, len(texts) // 8))]
    times: dict[int, float] = {}
    system.encode(sample[:2])
    for size in BATCH_SIZES:
        system.batch_size = size
        started = time.perf_counter()
        system.encode(sample)
        times[size] = time.perf_counter() - started
        if size >= len(sample) or times[size] > 1.3 * min(times.values()):
            break
    return min(times, key=lambda size: times[size])


def _timed(system: System, texts: list[str]) -> Vectors:
    gc.collect()
    with PeakMemory() as memory:
        started = time.perf_counter()
        vectors = system.encode(texts)
        system.seconds.append(time.perf_counter() - started)
    system.memory_mb.append(memory.peak_mb)
    return vectors


def _sweep(arguments: argparse.Namespace) -> dict[str, Any]:
    """Cost of a token against the texts' length and against the number of texts, 17m."""
    by_length, by_count = {}, {}
    with tempfile.TemporaryDirectory() as folder:
        save_model(Path(folder), SHAPES["17m"], seed=arguments.seed)
        encoder = DenseEncoder.from_backbone(folder, device=arguments.device)
        dtype = torch.float32 if "bfloat16" in arguments.skip else torch.bfloat16
        encoder.model.to(dtype)
        tokenizer: Any = encoder.model.tokenizer
        for length in (8, 32, 128, 512, 2048, 8192):
            texts = make_texts(tokenizer, np.full(65_536 // length, length), arguments.seed)
            by_length[length] = _microseconds_per_token(encoder, texts, 65_536)
        for count in (100, 1_000, 10_000):
            lengths = draw_lengths("passages", count, arguments.seed)
            texts = make_texts(tokenizer, lengths, arguments.seed)
            by_count[count] = _microseconds_per_token(encoder, texts, int(lengths.sum()))
    print("length   us/token   |   texts   us/token")
    for (length, cost), (count, other) in zip(list(by_length.items())[:3], by_count.items()):
        print(f"{length:6} {cost:10.1f}   | {count:7} {other:10.1f}")
    for length, cost in list(by_length.items())[3:]:
        print(f"{length:6} {cost:10.1f}")
    return {"us_per_token_by_length": by_length, "us_per_token_by_texts": by_count}


def _microseconds_per_token(encoder: DenseEncoder, texts: list[str], tokens: int) -> float:
    list(encoder.encode_documents(texts[:50]))
    started = time.perf_counter()
    for _ in encoder.encode_documents(texts):
        pass
    return (time.perf_counter() - started) / tokens * 1e6


def _print(result: dict[str, Any]) -> None:
    print(
        f"\n{result['workload']}: {result['texts']} texts, {result['tokens']:,} tokens (mean "
        f"{result['mean']:.0f}, longest {result['longest']}); Sentence Transformers pads by "
        f"{result['st_padding']:.2f}; {result['products']} products "
        f"{result['product_gflops']:,.0f} GFLOP/s"
    )
    peer = _peer(result)
    print(
        f"system          batch   tokens/s   x {peer['system']} (min-max)   of the rate     MB   "
        "min cosine"
    )
    for row in result["rows"]:
        ratios = [theirs / ours for theirs, ours in zip(peer["seconds"], row["seconds"])]
        compared = "outputs differ"
        if row["equal"]:
            compared = f"{_ratio(peer, row):5.2f} ({min(ratios):.2f}-{max(ratios):.2f})"
        print(
            f"{row['system']:15} {row['batch_size'] or '':>5} {row['tokens_per_second']:10,.0f}   "
            f"{compared:>19}   {row['matrix_fraction']:10.0%} {row['memory_mb']:6.0f} "
            f"{row['min_cosine']:10.5f}",
            flush=True,
        )


def _print_headlines(results: list[dict[str, Any]]) -> None:
    cosines: dict[str, float] = {}
    for result in results:
        name = result["workload"].replace("/", "_").replace(", ", "_")
        peer = _peer(result)
        for row in result["rows"]:
            if row["system"].startswith("ST"):
                continue
            suffix = "" if row["dtype"] == "bfloat16" else f"_{row['dtype']}"
            cosines[suffix] = min(cosines.get(suffix, 1.0), row["min_cosine"])
            if not row["equal"]:
                continue
            short = peer["dtype"].replace("bfloat", "bf").replace("float", "fp")
            print(f"RESULT {name}{suffix}_vs_st_{short} {_ratio(peer, row):.3f}")
            print(f"RESULT {name}{suffix}_matrix_fraction {row['matrix_fraction']:.3f}")
            default = result["rows"][0]
            if default is not peer:
                print(f"RESULT {name}{suffix}_vs_st_default {_ratio(default, row):.3f}")
    for suffix, cosine in cosines.items():
        print(f"RESULT min_cosine{suffix} {cosine:.6f}")


def _peer(result: dict[str, Any]) -> dict[str, Any]:
    """Sentence Transformers in the fastest number format that it was run in."""
    rows = [row for row in result["rows"] if row["system"].startswith("ST")]
    peer: dict[str, Any] = rows[-1]
    return peer


def _cosines(first: Vectors, second: Vectors) -> NDArray[np.float64]:
    a, b = first.astype(np.float64), second.astype(np.float64)
    return (a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)


def _ratio(peer: dict[str, Any], ours: dict[str, Any]) -> float:
    return float(median(peer["seconds"]) / median(ours["seconds"]))


def _split(name: str) -> tuple[ShapeName, WorkloadName]:
    shape, _, workload = name.partition("/")
    if shape not in SHAPES or workload not in get_args(WorkloadName):
        raise SystemExit(
            f"{name!r}: expected SHAPE/WORKLOAD of {list(SHAPES)} and {get_args(WorkloadName)}"
        )
    return shape, workload  # type: ignore[return-value]


def _hardware(device: str) -> dict[str, Any]:
    return {
        "device": torch.cuda.get_device_name() if device == "cuda" else platform.processor(),
        "capabilities": {
            key: value for key, value in torch.cpu.get_capabilities().items() if value
        },
        "kernels": native.instruction_set(),
        "attention": resolve("auto", device, torch.bfloat16, False),
    }


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--workload", action="append", metavar="SHAPE/WORKLOAD")
    parser.add_argument("--texts", type=int, help="texts of a run")
    parser.add_argument("--threads", type=int, default=1, help="of a processor")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--pooling", default="mean", choices=("mean", "cls"))
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--st-attention", help="the peer's, such as flash_attention_2")
    parser.add_argument(
        "--skip", action="append", default=[], choices=("float32", "bfloat16", "int8")
    )
    parser.add_argument("--instruction-set", help="of our kernels, such as avx2")
    parser.add_argument("--sweep", action="store_true", help="cost against length and corpus size")
    parser.add_argument("--quick", action="store_true", help="a quarter of the texts")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    arguments.workload = arguments.workload or list(HEADLINES)
    return arguments


if __name__ == "__main__":
    main()
