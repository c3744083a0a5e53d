"""MaxSim of a training batch, forward and backward: ours beside Sentence Transformers' own.

    python benchmarks/train_maxsim.py --quick
    python benchmarks/train_maxsim.py --autocast --json maxsim.json

Random unit vectors: queries of 32 tokens, one document of 90 to 180 tokens for each, padded and
masked as the losses get them. In turns, on one thread, in seconds of the processor (and so hardly
disturbed by its other work), and the memory that one step adds at its peak. Scores and gradients
are compared first; under --autocast ours stay float32, and the peer's are rounded. Under a minute.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import torch
from measures import PeakMemory, in_turns, print_seconds, write_report
from sentence_transformers.multi_vector_encoder.scoring import colbert_scores
from torch import Tensor
from torch.nn.functional import normalize

from retrieval.training.batch_maxsim import maxsim_of_all

QUERY_TOKENS = 32
DOCUMENT_TOKENS = (90, 180)
WIDTH = 128
SEED = 5

Scores = Callable[..., Tensor]
SYSTEMS: dict[str, Scores] = {"ours": maxsim_of_all, "st": colbert_scores}


class Batch:
    """Queries with a document each."""

    def __init__(self, count: int) -> None:
        generator = torch.Generator().manual_seed(SEED)
        shortest, longest = DOCUMENT_TOKENS
        lengths = torch.randint(shortest, longest + 1, (count, 1, 1), generator=generator)
        lengths[0] = longest
        queries = torch.randn(count, QUERY_TOKENS, WIDTH, generator=generator)
        documents = torch.randn(count, 1, longest, WIDTH, generator=generator)
        self.vectors = [normalize(each, dim=-1).requires_grad_() for each in (queries, documents)]
        self.masks = {
            "queries_mask": torch.ones(count, QUERY_TOKENS, dtype=torch.bool),
            "documents_mask": torch.arange(longest) < lengths,
        }

    def step(self, scores: Scores, *, autocast: bool) -> tuple[list[Tensor], float]:
        """Scores and gradients, and the seconds that they took."""
        started = time.process_time()
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            found = scores(*self.vectors, **self.masks)
        loss = torch.nn.functional.cross_entropy(found, torch.arange(len(found)))
        gradients = torch.autograd.grad(loss, self.vectors)
        return [found.detach(), *gradients], time.process_time() - started


def compare(count: int, *, repeats: int, autocast: bool) -> dict[str, Any]:
    """Time both on one batch, after their answers were held against each other."""
    batch = Batch(count)
    answers, peaks = {}, {}
    for name, each in SYSTEMS.items():
        with PeakMemory() as memory:
            answers[name], _ = batch.step(each, autocast=autocast)
        peaks[name] = memory.peak_mb
    # bfloat16 rounds a similarity by up to 1/512, and of near ones another is the best match.
    tolerance = 0.1 if autocast else 1e-5
    for own, other in zip(answers["ours"], answers["st"]):
        torch.testing.assert_close(own, other, rtol=tolerance, atol=tolerance)
    seconds = in_turns(
        lambda name: batch.step(SYSTEMS[name], autocast=autocast)[1], SYSTEMS, repeats
    )
    return {"queries": count, "seconds": seconds, "peak_mb": peaks}


def main() -> None:
    """Compare small and large batches, print a table and the headline figures."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="fewer repeats")
    parser.add_argument("--queries", type=int, action="append", help="default 16, 64, 128")
    parser.add_argument("--autocast", action="store_true", help="under bfloat16 autocast")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every figure there")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    repeats = 3 if arguments.quick else 11
    results = []
    for count in arguments.queries or (16, 64, 128):
        result = compare(count, repeats=repeats, autocast=arguments.autocast)
        results.append(result)
        print_seconds(f"{count} queries", result["seconds"])
        peaks = (f"{name} {peak:.0f} MB" for name, peak in result["peak_mb"].items())
        print(f"{'':24} added at the peak: {', '.join(peaks)}", flush=True)
    write_report(
        arguments.json, "train_maxsim", autocast=arguments.autocast, seed=SEED, results=results
    )
    for result in results:
        ratio = median(result["seconds"]["st"]) / median(result["seconds"]["ours"])
        print(f"RESULT maxsim_{result['queries']}_queries_vs_st {ratio:.3f}")


if __name__ == "__main__":
    main()
