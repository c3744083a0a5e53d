"""What a run is looked at by: its dev set, its log, its curves, its verdict and its card."""

from __future__ import annotations

import builtins
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from retrieval import DenseEncoder, load_encoder
from retrieval.errors import ConfigError
from retrieval.evaluation.dev_set import MeasuredSet
from retrieval.training.curves import plot_curves
from retrieval.training.examples import read_contrastive, read_distillation
from retrieval.training.run_log import RunLog
from retrieval.training.watching import Pair, Scores, WatchSettings, hold_out
from tests.training.conftest import Kind, SmallRuns, curve
from tests.training.test_resume import crash_at


class Prepared:
    """Measures 0.1, 0.2, 0.5, 0.3, 0.4 in turn, whatever the encoder; BM25 has 0.45."""

    def __init__(self) -> None:
        self.asked = 0

    def from_folder(self, folder: Path, split: str | None) -> Prepared:
        return self

    def from_pairs(self, pairs: Any) -> Prepared:
        return self

    def measure(self, encoder: Any) -> float:
        self.asked += 1
        encoder.encode_queries(["read f1"])
        return (0.1, 0.2, 0.5, 0.3, 0.4)[self.asked - 1]

    def measure_bm25(self) -> float:
        return 0.45


@pytest.mark.parametrize("kind", ["dense", "colbert"])
def test_a_run_is_measured_before_during_and_after_by_exact_search(
    small_runs: SmallRuns, kind: Kind, tmp_path: Path
) -> None:
    recipe = replace(small_runs.recipe(kind), watch=WatchSettings(held_out=6, every=4))
    encoder = small_runs.train(recipe, tmp_path / "run", dev_sets=MeasuredSet)
    measured = curve(tmp_path / "run", "dev_ndcg@10")
    assert list(measured) == [0, 4, 8, 12]
    examples = read_contrastive(recipe.data.train)
    rest, pairs = hold_out(examples, 6)
    assert measured[12] == MeasuredSet.from_pairs(pairs).measure(encoder)
    summary = json.loads((tmp_path / "run/summary.json").read_text("utf-8"))["dev_ndcg@10"]
    assert (summary["start"], summary["end"]) == (measured[0], measured[12])
    assert summary["bm25"] == MeasuredSet.from_pairs(pairs).measure_bm25()
    assert not set(rest["query"]) & {pair.query for pair in pairs}


def test_measuring_changes_no_weight_and_no_loss(small_runs: SmallRuns, tmp_path: Path) -> None:
    recipe = small_runs.recipe("dense")
    small_runs.train(recipe, tmp_path / "plain")
    folder = small_runs.pairs.parent / "beir"
    watched = replace(recipe, watch=WatchSettings(dev=str(folder), every=1))
    write_collection(folder)
    small_runs.train(watched, tmp_path / "watched", dev_sets=MeasuredSet)
    assert curve(tmp_path / "watched") == curve(tmp_path / "plain")
    assert len(curve(tmp_path / "watched", "dev_ndcg@10")) == 13


def write_collection(folder: Path) -> None:
    (folder / "qrels").mkdir(parents=True)
    documents = [{"_id": str(n), "title": "", "text": f"def f{n}(x)"} for n in range(12)]
    queries = [{"_id": f"q{n}", "text": f"read f{n}"} for n in range(4)]
    for name, records in (("corpus", documents), ("queries", queries)):
        lines = "".join(json.dumps(record) + "\n" for record in records)
        (folder / f"{name}.jsonl").write_text(lines, "utf-8")
    rows = "".join(f"q{n}\t{n}\t1\n" for n in range(4))
    (folder / "qrels/dev.tsv").write_text("query-id\tcorpus-id\tscore\n" + rows, "utf-8")


def test_the_best_weights_are_kept_if_asked_and_the_verdict_says_which(
    small_runs: SmallRuns, tmp_path: Path
) -> None:
    fixed = small_runs.recipe("dense", checkpoint_every=4)
    watch = WatchSettings(dev="anywhere", every=3, keep="best")
    small_runs.train(replace(fixed, watch=watch), tmp_path / "best", dev_sets=Prepared())
    plain = replace(fixed, watch=replace(watch, keep="last"))
    small_runs.train(plain, tmp_path / "last", dev_sets=Prepared())
    summary = json.loads((tmp_path / "best/summary.json").read_text("utf-8"))
    assert summary["dev_ndcg@10"]["verdict"] == (
        "dev nDCG@10 0.5000 (step 6): better than the start (0.1000), better than BM25 (0.4500)"
    )
    last = json.loads((tmp_path / "last/summary.json").read_text("utf-8"))
    assert (last["dev_ndcg@10"]["end"], last["dev_ndcg@10"]["step"]) == (0.4, 12)
    # A run that goes only as far as the best step, on the same schedule, has the same weights.
    with crash_at(7):
        small_runs.train(replace(plain, watch=watch), tmp_path / "cut", dev_sets=Prepared())
    stored = tmp_path / "cut/best/checkpoint-6/weights.safetensors"
    kept = tmp_path / "best/best/checkpoint-6/weights.safetensors"
    assert stored.read_bytes() == kept.read_bytes()
    assert summary["model"] != last["model"]
    assert DenseEncoder.load(tmp_path / "best/model").reference.fingerprint == summary["model"]


def test_a_resumed_run_goes_on_with_its_log_and_its_start(
    small_runs: SmallRuns, tmp_path: Path
) -> None:
    recipe = replace(small_runs.recipe("dense"), watch=WatchSettings(held_out=6, every=4))
    small_runs.train(recipe, tmp_path / "whole", dev_sets=MeasuredSet)
    with crash_at(10):
        small_runs.train(recipe, tmp_path / "cut", dev_sets=MeasuredSet)
    small_runs.train(recipe, tmp_path / "cut", dev_sets=MeasuredSet, resume=True)
    for key in ("loss", "dev_ndcg@10", "bm25_ndcg@10", "learning_rate"):
        assert curve(tmp_path / "cut", key) == curve(tmp_path / "whole", key)
    seconds = list(curve(tmp_path / "cut", "seconds").values())
    assert seconds == sorted(seconds)


def test_curves_become_a_picture_and_a_missing_package_one_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    records = [{"step": n, "loss": 1 / (n + 1), "learning_rate": 1e-4} for n in range(1, 40)]
    records += [{"step": 0, "dev_ndcg@10": 0.2, "bm25_ndcg@10": 0.4}]
    assert plot_curves(records, tmp_path / "curves.png")
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")
    original = builtins.__import__

    def without_matplotlib(name: str, *arguments: Any, **keywords: Any) -> Any:
        if name.startswith("matplotlib"):
            raise ImportError(name)
        return original(name, *arguments, **keywords)

    monkeypatch.setattr(builtins, "__import__", without_matplotlib)
    assert not plot_curves(records, tmp_path / "none.png")
    assert 'pip install "modernbert-retrieval[eval]"' in caplog.text


def test_a_line_that_a_crash_cut_is_passed_over_and_later_steps_are_dropped(tmp_path: Path) -> None:
    log = RunLog(tmp_path / "log.jsonl")
    for step in (1, 2, 3):
        log.append({"step": step, "loss": step / 10})
    with open(tmp_path / "log.jsonl", "ab") as stream:
        stream.write(b'{"step": 4, "lo')
    assert [record["step"] for record in log.records()] == [1, 2, 3]
    log.go_back_to(2)
    assert (tmp_path / "log.jsonl").read_text() == (
        '{"step": 1, "loss": 0.1}\n{"step": 2, "loss": 0.2}\n'
    )
    assert log.last("loss") == 0.2


def test_the_card_names_recipe_data_scores_versions_and_the_way_to_repeat_it(
    small_runs: SmallRuns, tmp_path: Path
) -> None:
    recipe = replace(small_runs.recipe("dense"), watch=WatchSettings(held_out=6))
    small_runs.train(recipe, tmp_path / "run", dev_sets=MeasuredSet)
    card = (tmp_path / "run/model/README.md").read_text("utf-8")
    run = json.loads((tmp_path / "run/run.json").read_text("utf-8"))
    scores = curve(tmp_path / "run", "dev_ndcg@10")
    for part in (
        f"`{run['data']}`",
        f"| before training | {scores[0]:.4f} |",
        f"| this model (step 12) | {scores[12]:.4f} |",
        "python train/dense.py recipe.json --output DIR",
        "12 steps, seed 0",
        f"torch {run['versions']['torch']}",
        f"{small_runs.pairs.stat().st_size:,} bytes",
    ):
        assert part in card, part
    assert json.loads(card.split("```json")[1].split("```")[0]) == run["recipe"]


def test_held_out_examples_leave_no_text_of_theirs_in_the_training_data(
    small_runs: SmallRuns,
) -> None:
    examples = read_contrastive([small_runs.pairs])
    rest, pairs = hold_out(examples, 10)
    assert len(pairs) == 10
    assert not {pair.positive for pair in pairs} & set(rest["positive"])
    rest, pairs = hold_out(read_distillation([small_runs.scores]), 5)
    assert (len(rest), len(pairs)) == (19, 5)
    assert all(pair.positive.startswith("def") and len(pair.others) == 2 for pair in pairs)


def test_a_dev_set_of_pairs_is_measured_by_what_their_queries_ask_for() -> None:
    pairs = [Pair("apple", "an apple tree", ("a stone",)), Pair("river", "the river bank", ())]
    assert MeasuredSet.from_pairs(pairs).measure_bm25() == 1.0
    swapped = [Pair("apple", "the river bank", ()), Pair("river", "an apple tree", ())]
    assert MeasuredSet.from_pairs(swapped).measure_bm25() < 1.0


def test_settings_of_a_watch_that_contradict_each_other_are_refused(
    small_runs: SmallRuns, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match="exclude each other"):
        WatchSettings(dev="a", held_out=5)
    with pytest.raises(ConfigError, match="need a dev set"):
        WatchSettings(every=5)
    recipe = small_runs.recipe("dense")
    unmeasured = replace(recipe, watch=WatchSettings(held_out=5))
    with pytest.raises(ConfigError, match=r"pass dev_sets=retrieval.evaluation"):
        small_runs.train(unmeasured, tmp_path / "run")
    reported = replace(recipe, watch=WatchSettings(report_to=("nowhere",)))
    with pytest.raises(ConfigError, match="report_to names nowhere"):
        small_runs.train(reported, tmp_path / "other")


def test_the_verdict_names_what_is_as_good() -> None:
    scores = Scores(start=0.5, end=0.5, step=3, bm25=0.75)
    assert scores.verdict() == (
        "dev nDCG@10 0.5000 (step 3): as good as the start (0.5000), worse than BM25 (0.7500)"
    )


@pytest.mark.parametrize("kind", ["dense", "colbert"])
def test_an_encoder_that_was_measured_in_training_gives_the_vectors_of_its_saved_model(
    small_runs: SmallRuns, kind: Kind, tmp_path: Path
) -> None:
    recipe = replace(small_runs.recipe(kind), watch=WatchSettings(held_out=6, every=4))
    encoder = small_runs.train(recipe, tmp_path / "run", dev_sets=MeasuredSet)
    loaded = load_encoder(tmp_path / "run/model")
    texts = ["def f3(x): return x", "read f1"]
    for ours, theirs in zip(encoder.encode_documents(texts), loaded.encode_documents(texts)):
        np.testing.assert_allclose(ours, theirs, atol=1e-5)
