"""Attention of a training batch, forward and backward: compiled kernels beside torch's own.

    python benchmarks/train_attention.py --quick
    python benchmarks/train_attention.py --kernels avx2 --json attention.json

Random queries, keys and values of 64 texts of 20 to 180 tokens, 4 heads of 64, in both number
formats: local layers (a window of 64) and global ones, rotation included. torch attends without
padding as well, by groups of one length and by blocks (retrieval/backbone/attention.py): what
training did before its kernels were compiled, and does with dropout. (Sentence Transformers pads;
train.py has whole steps beside it.) Gradients are compared first. In turns, on one thread, in
seconds of the processor; a minute.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from measures import in_turns, print_seconds, write_report
from torch import Tensor

from retrieval import native
from retrieval.backbone.attention import GroupedAttention
from retrieval.backbone.cpu_training import KernelAttention
from retrieval.backbone.packing import pack
from retrieval.backbone.rotary import rotate

TEXTS, SHORTEST, LONGEST = 64, 20, 180
HEADS, WIDTH = 4, 64
WINDOW = 64
SEED = 5
# Of the largest gradient: sums in another order, and what bfloat16 rounds on the way.
TOLERANCES = {torch.float32: 1e-5, torch.bfloat16: 3e-2}


class Batch:
    """Queries, keys and values, and the gradient of what is attended."""

    def __init__(self, dtype: torch.dtype, window: int | None) -> None:
        generator = np.random.default_rng(SEED)
        drawn = generator.lognormal(np.log(120), 0.5, TEXTS)
        lengths = np.sort(np.clip(drawn, SHORTEST, LONGEST).astype(int))
        self.batch = pack([[1] * length for length in lengths.tolist()])
        torch.manual_seed(SEED)
        self.tokens = int(lengths.sum())
        self.qkv = torch.randn(self.tokens, 3 * HEADS * WIDTH).to(dtype).requires_grad_()
        self.of_output = torch.randn(self.tokens, HEADS * WIDTH).to(dtype)
        self.window = window
        steps = torch.arange(0, WIDTH, 2) / WIDTH
        angles = torch.arange(LONGEST)[:, None] / 10_000.0**steps
        self.tables = angles.cos(), angles.sin()

    def ours(self) -> Tensor:
        """By the compiled kernels."""
        return KernelAttention(self.batch, HEADS, self._rotary)(self.qkv, "any", self.window)

    def _rotary(self, *_: object) -> tuple[Tensor, Tensor]:
        return self.tables

    def torch(self) -> Tensor:
        """By groups of one length, and by blocks within a window."""
        table = [each[self.batch.positions][:, None] for each in self.tables]
        parts = self.qkv.view(self.tokens, 3 * HEADS, WIDTH)
        to_rotate, v = torch.split(parts, [2 * HEADS, HEADS], dim=1)
        q, k = torch.split(rotate(to_rotate, *table), HEADS, dim=1)
        attention = GroupedAttention(self.batch, max_padding=0.0)
        return attention(q, k, v, window=self.window).flatten(1)

    def step(self, name: str) -> tuple[Tensor, float]:
        """The gradient, and the seconds that it took with all before it."""
        started = time.process_time()
        (gradient,) = torch.autograd.grad(getattr(self, name)(), self.qkv, self.of_output)
        return gradient, time.process_time() - started


def compare(dtype: torch.dtype, window: int | None, repeats: int) -> dict[str, Any]:
    """Time both on one batch, after their gradients were held against each other."""
    batch = Batch(dtype, window)
    own, other = (batch.step(name)[0].float() for name in ("ours", "torch"))
    worst = float((own - other).abs().max() / other.abs().max())
    assert worst < TOLERANCES[dtype], f"gradients differ by {worst:.1e}"
    seconds = in_turns(lambda name: batch.step(name)[1], ("ours", "torch"), repeats)
    name = f"{str(dtype).removeprefix('torch.')}, {'local' if window else 'global'}"
    return {"layer": name, "tokens": batch.tokens, "difference": worst, "seconds": seconds}


def main() -> None:
    """Compare both formats and kinds of layers, print a table and the headline figures."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="fewer repeats")
    parser.add_argument("--kernels", metavar="NAME", help="instruction set of ours")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every figure there")
    arguments = parser.parse_args()
    if arguments.kernels:
        native.choose_instruction_set(arguments.kernels)
    torch.set_num_threads(1)
    results = []
    for dtype in TOLERANCES:
        for window in (None, WINDOW):
            results.append(compare(dtype, window, 3 if arguments.quick else 15))
            print_seconds(results[-1]["layer"], results[-1]["seconds"])
    kernels = native.instruction_set()
    write_report(arguments.json, "train_attention", kernels=kernels, seed=SEED, results=results)
    for result in results:
        ratio = median(result["seconds"]["torch"]) / median(result["seconds"]["ours"])
        name = result["layer"].replace(", ", "_")
        print(f"RESULT attention_{name}_vs_torch {ratio:.3f}")


if __name__ == "__main__":
    main()
