"""Peak memory of encoding a corpus must not depend on how long the corpus is.

    python benchmarks/encode_memory.py                 # 10,000 and 1,000,000 lines
    python benchmarks/encode_memory.py --quick         # 10,000 and 100,000 lines, under 3 minutes

Text is generated, the model is a tiny random ModernBERT; each corpus is encoded by the library that
`retrieval encode` calls, in a process of its own, whose peak resident memory the kernel counts.
One thread by default: the figure is memory, and threads only add noise to it.
"""

from __future__ import annotations

import argparse
import json
import platform
import random
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from provenance import commit

SEED = 0
WORDS = 12  # of a line, on average


def write_corpus(path: Path, lines: int) -> None:
    """Short random lines; the first ones are the same whatever the number of lines."""
    source = random.Random(SEED)
    words = ["".join(source.choices("abcdefghij", k=source.randint(1, 8))) for _ in range(2_000)]
    with path.open("w") as stream:
        for number in range(lines):
            text = " ".join(source.choices(words, k=source.randint(4, 2 * WORDS - 4)))
            # ids in no order, as hashes are
            identifier = f"{number * 2654435761 % 2**32:08x}-{number}"
            stream.write(json.dumps({"_id": identifier, "text": text}) + "\n")


def make_model(folder: Path, kind: str) -> None:
    """A ModernBERT of two layers with random weights, as a dense or a multi-vector model."""
    from retrieval import DenseEncoder, MultiVectorEncoder
    from retrieval.backbone.scratch import BackboneSettings, create_backbone

    settings = BackboneSettings(
        vocabulary_size=300, hidden_size=32, intermediate_size=32, layers=2, heads=2
    )
    create_backbone(folder / "backbone", ["abc def ghij", "aa bb cc dd"] * 50, settings)
    encoder: Any = DenseEncoder if kind == "dense" else MultiVectorEncoder
    encoder.from_backbone(folder / "backbone").save(folder / "model")


def encode(model: str, corpus: str, output: str, threads: int) -> None:
    """What the measured process does: print its peak in bytes, seconds and counts as JSON."""
    import torch

    from retrieval import load_encoder, read_corpus, write_embeddings

    torch.set_num_threads(threads)
    encoder = load_encoder(model, device="cpu")
    started = time.perf_counter()
    store = write_embeddings(output, read_corpus(corpus), encoder, progress=True)
    facts = {
        "documents": len(store),
        "tokens": encoder.inference.encoded_tokens,
        "seconds": time.perf_counter() - started,
        "peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
    }
    print(json.dumps(facts))


def measure(folder: Path, lines: int, threads: int) -> dict[str, Any]:
    """Encode `lines` lines in a new process."""
    corpus, output = folder / f"{lines}.jsonl", folder / f"embeddings-{lines}"
    write_corpus(corpus, lines)
    paths = map(str, (folder / "model", corpus, output))
    command = [sys.executable, __file__, "--worker", *paths, str(threads)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    facts: dict[str, Any] = json.loads(done.stdout)
    assert facts["documents"] == lines, "every line has to be there, or the figure means nothing"
    print(
        f"{lines:>9,} lines: peak {facts['peak_bytes'] / 2**20:,.0f} MiB, "
        f"{facts['seconds']:,.0f} s, {facts['tokens'] / facts['seconds']:,.0f} tokens/s",
        file=sys.stderr,
    )
    return facts


def main() -> None:
    """Parse, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="100,000 lines at the most")
    parser.add_argument("--kind", choices=["dense", "multi_vector"], default="dense")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every figure there")
    given = parser.parse_args()
    short, long = 10_000, 100_000 if given.quick else 1_000_000
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        make_model(folder, given.kind)
        measure(folder, 100, given.threads)  # whatever is cached at a first start
        runs = {lines: measure(folder, lines, given.threads) for lines in (short, long)}
    ratio = runs[long]["peak_bytes"] / runs[short]["peak_bytes"]
    if given.json:
        given.json.write_text(json.dumps(_facts(given, runs, ratio), indent=2) + "\n")
    name = "memory_ratio_100k_vs_10k" if given.quick else "memory_ratio_1m_vs_10k"
    print(f"RESULT {name} {ratio:.3f}")


def _facts(given: argparse.Namespace, runs: dict[int, Any], ratio: float) -> dict[str, Any]:
    from retrieval.evaluation.result import library_versions
    from retrieval.parallel import cpu_count

    return {
        "commit": commit(),
        "kind": given.kind,
        "threads": given.threads,
        "seed": SEED,
        "repeats": 1,
        "hardware": {"machine": platform.machine(), "cores": cpu_count()},
        "versions": library_versions(),
        "runs": {str(lines): facts for lines, facts in runs.items()},
        "memory_ratio": ratio,
    }


if __name__ == "__main__":
    if sys.argv[1:2] == ["--worker"]:
        encode(sys.argv[2], sys.argv[3], sys.argv[4], int(sys.argv[5]))
    else:
        main()
