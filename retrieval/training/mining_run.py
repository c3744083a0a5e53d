"""A mining run on disk: shards that are whole or absent, then one file that recipes read.

OUTPUT/run.json            what the run was started with; another run may not go on with it
OUTPUT/shard-00000.json    lines and counts of 1,024 questions, while the run lasts
OUTPUT/negatives.jsonl     the result
OUTPUT/manifest.json       what made it, and the counts; written last
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import Any, Literal

from retrieval.errors import ConfigError
from retrieval.files import atomic_write, read_json, sha256, write_json
from retrieval.training.mining import MiningSettings, Scored, Searcher, Teacher, mine
from retrieval.training.mining_pairs import PairTable, Question

Form = Literal["triplets", "tuples", "distillation"]
SHARD_QUESTIONS = 1_024
_BATCH_QUESTIONS = 64


def mine_to(
    output: Path,
    pairs: PairTable,
    open_searcher: Callable[[], Searcher],
    settings: MiningSettings,
    *,
    form: Form = "tuples",
    made_with: Mapping[str, Any],
    teacher: Teacher | None = None,
) -> dict[str, Any]:
    """Mine for all pairs; a run that was killed goes on after its last shard.

    Args:
        output: folder for `negatives.jsonl` and `manifest.json`.
        pairs: the questions and their positives.
        open_searcher: builds or opens an index of `pairs.documents(...)`; called once it is clear
            that `output` belongs to this run, so that the index may lie in it.
        settings: which documents are taken.
        form: "triplets" (a line for each negative), "tuples" (a line for each positive, with
            `negative_1` ...), both for `read_contrastive`, or "distillation" (a line for each
            positive, with `documents` and `scores`), for `read_distillation`.
        made_with: models, index and corpus, for the manifest; a run only goes on with the same.
        teacher: a second model that scores the candidates; name it in `made_with`.

    Returns:
        The manifest. Its `counts` add up: rows = pairs + repeated + unusable; pairs = mined_pairs +
        too_few_pairs + unscored_pairs (left out of distillation, where the index has no score for
        the positive); candidates = the sum of `candidate_reasons`.

    Raises:
        ConfigError: `output` holds a result, or shards of another run.
    """
    asked = {
        "format_version": 1,
        "form": form,
        "settings": asdict(settings),
        "pairs": pairs.digest,
        "made_with": dict(made_with),
    }
    _claim(output, asked)
    searcher = open_searcher()
    shards = 0
    for number, questions in enumerate(_runs(pairs.questions(), SHARD_QUESTIONS)):
        shards = number + 1
        path = _shard(output, number)
        if not path.is_file():
            write_json(path, _mined_shard(questions, searcher, settings, form, teacher))
    counts: Counter[str] = Counter(pairs.counts)
    reasons: Counter[str] = Counter()
    result = output / "negatives.jsonl"
    with atomic_write(result) as stream:
        for number in range(shards):
            shard = read_json(_shard(output, number))
            counts.update(shard["counts"])
            counts["lines"] += len(shard["lines"])
            reasons.update(shard["reasons"])
            for line in shard["lines"]:
                stream.write(line.encode() + b"\n")
    counts["candidates"] = reasons.pop("candidates", 0)
    manifest = {
        **asked,
        "sha256": sha256(result),
        "counts": dict(counts),
        "candidate_reasons": dict(sorted(reasons.items())),
    }
    write_json(output / "manifest.json", manifest)
    for number in range(shards):
        _shard(output, number).unlink()
    return manifest


def _mined_shard(
    questions: list[Question],
    searcher: Searcher,
    settings: MiningSettings,
    form: Form,
    teacher: Teacher | None,
) -> dict[str, Any]:
    lines: list[str] = []
    counts: Counter[str] = Counter()
    reasons: Counter[str] = Counter()
    needed = 1 if form == "triplets" else settings.negatives
    for batch in _runs(iter(questions), _BATCH_QUESTIONS):
        results, of_batch = mine(batch, searcher, settings, teacher=teacher, min_negatives=needed)
        reasons.update(of_batch)
        for mined in results:
            counts["questions"] += 1
            for positive in mined.positives:
                if not mined.negatives:
                    counts["too_few_pairs"] += 1
                elif form == "distillation" and math.isnan(positive.score):
                    counts["unscored_pairs"] += 1
                else:
                    counts["mined_pairs"] += 1
                    records = _records(mined.question.query, positive, mined.negatives, form)
                    lines += [json.dumps(each, ensure_ascii=False) for each in records]
    return {"lines": lines, "counts": dict(counts), "reasons": dict(reasons)}


def _records(
    query: str, positive: Scored, negatives: list[Scored], form: Form
) -> Iterator[dict[str, Any]]:
    scores = [_number(each.score) for each in (positive, *negatives)]
    if form == "triplets":
        for negative, score in zip(negatives, scores[1:]):
            row = {"query": query, "positive": positive.text, "negative": negative.text}
            yield {**row, "scores": [scores[0], score]}
    elif form == "tuples":
        numbered = {f"negative_{at}": each.text for at, each in enumerate(negatives, start=1)}
        yield {"query": query, "positive": positive.text, **numbered, "scores": scores}
    else:
        documents = [positive.text, *(each.text for each in negatives)]
        yield {"query": query, "documents": documents, "scores": scores}


def _number(score: float) -> float | None:
    """A score with seven digits, as float32 has them; JSON has no NaN."""
    return None if math.isnan(score) else float(f"{score:.7g}")


def _claim(output: Path, asked: dict[str, Any]) -> None:
    if (output / "manifest.json").is_file():
        raise ConfigError(f"{output}: holds mined negatives already: name another folder")
    begun = output / "run.json"
    if not begun.is_file():
        write_json(begun, asked)
        return
    found = read_json(begun)
    differing = [key for key in asked if found.get(key) != json.loads(json.dumps(asked[key]))]
    if differing:
        raise ConfigError(
            f"{output}: begun with other {', '.join(differing)}: repeat the command that began "
            "it, or name another folder"
        )


def _shard(output: Path, number: int) -> Path:
    return output / f"shard-{number:05d}.json"


def _runs(questions: Iterable[Question], count: int) -> Iterator[list[Question]]:
    iterator = iter(questions)
    while run := list(islice(iterator, count)):
        yield run
