"""The README.md of a trained model: what it was made of, what it scores, how to make it again."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from retrieval.files import atomic_write
from retrieval.training.watching import Scores

_CARD = """\
---
library_name: sentence-transformers
tags:
- modernbert-retrieval
- {tag}
---
# {name}

A {kind} retriever, trained by modernbert-retrieval {version} from `{backbone}`.

```python
from retrieval import load_encoder

encoder = load_encoder("{name}")
queries = list(encoder.encode_queries(["..."]))
documents = list(encoder.encode_documents(["..."]))
```

## Scores
{scores}

## Data
{data}

SHA-256 of the {examples:,} training examples: `{fingerprint}`

## Repeat it
`recipe.json` beside this folder, or the recipe below saved as `recipe.json`, with the same data and
{processes}:

    {command}

{steps:,} steps, seed {seed}, {seconds:.0f} s, {memory} of memory at most. The weights repeat to
the last digit on the same kind of machine with the same versions: {versions}.

```json
{recipe}
```
"""


class Cost(NamedTuple):
    """What a run took."""

    steps: int
    seconds: float
    """Over all its resumptions."""
    peak_bytes: int
    """Of the first process, on the GPU where there is one."""


def write_model_card(
    model: Path,
    start: Mapping[str, Any],
    *,
    is_multi_vector: bool,
    examples: int,
    scores: Scores | None,
    cost: Cost,
) -> None:
    """Replace the card that Sentence Transformers wrote.

    Args:
        model: the model's folder.
        start: what `run.json` holds.
        is_multi_vector: which program trains it.
        examples: how many the model learnt from.
        scores: on the dev set, where there was one.
        cost: of the run.
    """
    recipe = start["recipe"]
    versions = start["versions"]
    card = _CARD.format(
        tag="multi-vector" if is_multi_vector else "sentence-similarity",
        name=model.resolve().parent.name,
        kind="multi-vector (ColBERT)" if is_multi_vector else "single-vector",
        version=versions.get("modernbert-retrieval", "(not installed)"),
        backbone=recipe["model"]["backbone"],
        scores=_scores(scores, recipe),
        data="\n".join(map(_file, recipe["data"].get("train", ()))),
        examples=examples,
        fingerprint=start["data"],
        processes="one process" if start["processes"] == 1 else f"{start['processes']} processes",
        command=_command(is_multi_vector, start["processes"]),
        steps=cost.steps,
        seed=recipe["optimizer"]["seed"],
        seconds=cost.seconds,
        memory=f"{cost.peak_bytes / 2**20:,.0f} MiB",
        versions=", ".join(f"{name} {number}" for name, number in versions.items()),
        recipe=json.dumps(recipe, indent=2, ensure_ascii=False),
    )
    with atomic_write(model / "README.md") as stream:
        stream.write(card.encode())


def _command(is_multi_vector: bool, processes: int) -> str:
    program = "train/colbert.py" if is_multi_vector else "train/dense.py"
    launcher = "python" if processes == 1 else f"torchrun --nproc-per-node {processes}"
    return f"{launcher} {program} recipe.json --output DIR"


def _scores(scores: Scores | None, recipe: Mapping[str, Any]) -> str:
    if scores is None:
        return "Not measured: the recipe has no dev set."
    watch = recipe["watch"]
    where = watch["dev"] or f"{watch['held_out']} held-out training examples"
    return (
        f"nDCG@10 by exact search on {where}\n\n"
        "| | nDCG@10 |\n|---|---|\n"
        f"| before training | {scores.start:.4f} |\n"
        f"| this model (step {scores.step}) | {scores.end:.4f} |\n"
        f"| BM25 | {scores.bm25:.4f} |"
    )


def _file(name: str) -> str:
    path = Path(name)
    size = f"{path.stat().st_size:,} bytes" if path.is_file() else "size unknown"
    return f"- `{name}`, {size}"


def command_line() -> str:
    """How this program was started, for the summary."""
    return shlex.join(sys.argv)
