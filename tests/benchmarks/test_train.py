"""The training benchmark: what it trains on, what it judges by, and a small run of it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from retrieval import DenseEncoder, MultiVectorEncoder

ROOT = Path(__file__).resolve().parents[2]
BENCHMARKS = ROOT / "benchmarks"

ImportProgram = Callable[[str], Any]


def run(*options: str, program: str = "train.py") -> subprocess.CompletedProcess[str]:
    """A benchmark, with the package of this checkout in it and in its workers."""
    return subprocess.run(
        [sys.executable, str(BENCHMARKS / program), *options],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture
def data_module(import_program: ImportProgram) -> Any:
    return import_program("train_data")


@pytest.fixture
def quality_module(import_program: ImportProgram) -> Any:
    return import_program("train_quality")


@pytest.fixture
def ratio_module(import_program: ImportProgram) -> Any:
    return import_program("train_ratio")


def test_unpadded_steps_lose_what_padded_ones_lose(tmp_path: Path) -> None:
    report_path = tmp_path / "train.json"
    options = ["--peer", "st", "--shape", "tiny", "--pairs", "4", "--dtype", "float32"]
    ran = run(*options, "--json", str(report_path))
    assert ran.returncode == 0, ran.stderr
    printed = dict(
        line.split()[1:] for line in ran.stdout.splitlines() if line.startswith("RESULT")
    )
    assert set(printed) == {
        "dense_step_vs_st_same_dtype",
        "colbert_step_vs_st_same_dtype",
        "loss_difference_20_steps",
    }
    # float32 sums in another order.
    assert float(printed["loss_difference_20_steps"]) < 1e-4
    results = json.loads(report_path.read_text())["results"]
    assert [(each["kind"], each["dtype"]) for each in results] == [
        ("dense", "float32"),
        ("colbert", "float32"),
    ]
    for result in results:
        ours, theirs = result["rows"]
        assert (ours["system"], theirs["system"]) == ("ours", "st")
        assert len(ours["losses"]) == 20
        assert len(set(ours["losses"])) == 20  # another batch, another loss
        np.testing.assert_allclose(ours["losses"], theirs["losses"], rtol=1e-4)
        seconds = np.median(theirs["step_seconds"]) / np.median(ours["step_seconds"])
        name = f"{result['kind']}_step_vs_st_same_dtype"
        assert float(printed[name]) == pytest.approx(seconds, abs=1e-3)


def test_bfloat16_is_held_against_float32(tmp_path: Path) -> None:
    report_path = tmp_path / "train.json"
    options = ["--kind", "colbert", "--peer", "st", "--shape", "tiny", "--pairs", "2"]
    ran = run(*options, "--dtype", "bfloat16", "--json", str(report_path))
    assert ran.returncode == 0, ran.stderr
    [result] = json.loads(report_path.read_text())["results"]
    exact = np.array(result["float32_losses"])
    for row in result["rows"]:
        # In the mean of the steps: a loss near 0 is rounded to another one.
        difference = np.abs(np.array(row["losses"]) - exact).mean() / exact.mean()
        assert 1e-5 < difference < 0.1  # rounded, and from the same pairs and weights


@pytest.mark.parametrize(
    ("program", "options", "headlines"),
    [
        (
            "train_attention.py",
            ("--kernels", "portable"),
            {
                f"attention_{dtype}_{layer}_vs_torch"
                for dtype in ("float32", "bfloat16")
                for layer in ("local", "global")
            },
        ),
        ("train_maxsim.py", ("--queries", "4"), {"maxsim_4_queries_vs_st"}),
    ],
)
def test_parts_of_a_step_are_timed_where_they_agree(
    program: str, options: tuple[str, ...], headlines: set[str], tmp_path: Path
) -> None:
    report_path = tmp_path / "report.json"
    ran = run("--quick", *options, "--json", str(report_path), program=program)
    assert ran.returncode == 0, ran.stderr
    lines = [line.split() for line in ran.stdout.splitlines() if line.startswith("RESULT")]
    report = json.loads(report_path.read_text())
    assert report["benchmark"] == program.removesuffix(".py")
    assert {name for _, name, _ in lines} == headlines
    for (_, _, ratio), result in zip(lines, report["results"], strict=True):
        ours, theirs = (np.median(each) for each in result["seconds"].values())
        assert float(ratio) == pytest.approx(theirs / ours, abs=1e-3)


def compared(*, dtype: str, ours: list[float], exact: list[float] | None) -> dict[str, Any]:
    """A peer of 3 s a step beside ours of 2 s; the peer loses 1.0 at every step but the last."""
    peer = [1.0, 1.0, 1.12]
    rows = [
        {"system": "ours", "step_seconds": [2.0, 4.0], "losses": ours},
        {"system": "st", "step_seconds": [3.0, 8.0], "losses": peer},
    ]
    return {"dtype": dtype, "rows": rows, **({"float32_losses": exact} if exact else {})}


@pytest.mark.parametrize(
    ("dtype", "ours", "exact", "is_compared"),
    [
        ("float32", [1.0, 1.000009, 1.121], None, True),
        ("float32", [1.0, 1.00002, 1.12], None, False),  # from the same weights
        ("float32", [1.0, 1.0, 1.1213], None, False),
        # The peer is 0.35 % off in the mean of three steps.
        ("bfloat16", [1.0, 1.0, 0.989], [1.0, 1.0, 1.1085], False),
        ("bfloat16", [1.0, 1.0, 1.098], [1.0, 1.0, 1.1085], True),
        ("bfloat16", [1.0, 1.011, 1.1085], [1.0, 1.0, 1.1085], True),
        ("bfloat16", [1.0, 1.013, 1.1085], [1.0, 1.0, 1.1085], False),
        ("bfloat16", [1.0, 1.0, 1.12], [1.0, 1.0, 1.1], False),  # as far as the peer, and too far
        ("bfloat16", [1.0, 1.0, 1.123], None, True),  # 3e-3, which bfloat16 can't tell apart
        ("bfloat16", [1.0, 1.0, 1.125], None, False),
    ],
)
def test_a_ratio_is_for_equal_losses(
    ratio_module: Any, dtype: str, ours: list[float], exact: list[float] | None, is_compared: bool
) -> None:
    result = compared(dtype=dtype, ours=ours, exact=exact)
    expected = (5.5 / 3.0, [1.5, 2.0]) if is_compared else None
    assert ratio_module.rate_over(result, "st") == expected


@pytest.mark.parametrize(
    ("start", "ours", "is_compared"),
    [
        ("starters", [1.0005, 1.0, 1.125], True),
        ("starters", [1.002, 1.0, 1.12], False),
        ("starters", [1.0, 1.0, 1.135], False),
        ("17m", [1.0005, 1.0, 1.12], False),  # random weights have no negative matches
    ],
)
def test_pylate_may_lose_more_where_weights_are_trained(
    ratio_module: Any, start: str, ours: list[float], is_compared: bool
) -> None:
    result = compared(dtype="float32", ours=ours, exact=None) | {"start": start}
    assert ratio_module.rate_over(result, "st") is None
    result["rows"][1]["system"] = "pylate"
    assert (ratio_module.rate_over(result, "pylate") is not None) == is_compared


def test_a_peer_that_is_not_installed_is_refused_with_the_command(tmp_path: Path) -> None:
    ran = run("--peer", "pylate", "--environments", str(tmp_path))
    assert ran.returncode == 2
    assert "search_peers/install.py pylate" in ran.stderr


def test_rounds_that_do_not_fill_the_compared_steps_are_refused() -> None:
    ran = run("--steps", "4")
    assert ran.returncode == 2
    assert "expected a divisor of 18" in ran.stderr


def test_trained_starts_are_the_package_s_own(data_module: Any, tmp_path: Path) -> None:
    starts = data_module.make_starts(tmp_path, data_module.STARTERS, 0)
    texts = ["how a file is read", "def read(path): return open(path).read()"]
    for start, own in ((starts.dense, "starter-dense"), (starts.colbert, "starter-colbert")):
        encoder_class = DenseEncoder if own == "starter-dense" else MultiVectorEncoder
        found, expected = (
            encoder_class.load(each, device="cpu").encode_documents(texts) for each in (start, own)
        )
        for one, other in zip(found, expected, strict=True):
            np.testing.assert_allclose(one, other, atol=1e-6)
    assert (starts.pylate / "1_Dense").is_dir()


def test_no_held_out_text_is_trained_on(data_module: Any, shared_data: Path) -> None:
    train, held_out = data_module.split_pairs(20, 200, seed=1)
    assert (len(held_out.queries), len(held_out.documents)) == (20, 200)
    assert not {pair["positive"] for pair in train} & set(held_out.documents)
    assert not {pair["query"] for pair in train} & set(held_out.queries)
    answers = dict(zip(held_out.queries, held_out.documents))
    again = data_module.split_pairs(20, 200, seed=1)[1]
    assert dict(zip(again.queries, again.documents)) == answers
    assert data_module.split_pairs(20, 200, seed=2)[1].queries != held_out.queries


def test_mixed_pairs_have_no_short_positive_and_no_blanks(
    data_module: Any, shared_data: Path
) -> None:
    pairs = data_module.mixed_pairs(200, 3, 150)
    assert len(pairs) == 200
    assert min(len(pair["positive"]) for pair in pairs) >= 150
    assert all(text == text.strip() for pair in pairs for text in pair.values())


def test_gain_falls_with_the_rank_and_ends_after_ten(quality_module: Any) -> None:
    scores = np.zeros((3, 20))
    scores[0, 0] = 1  # first
    scores[1, 1], scores[1, 5] = 1, 2  # second
    scores[2] = np.arange(20, 0, -1)
    scores[2, 2] = 5.5  # fifteenth
    assert quality_module.mean_gain(scores) == pytest.approx((1 + 1 / np.log2(3) + 0) / 3)


def test_a_tie_counts_against(quality_module: Any) -> None:
    assert quality_module.mean_gain(np.ones((1, 5))) == pytest.approx(1 / np.log2(6))


def test_interval_of_a_difference_is_students(quality_module: Any) -> None:
    # Two differences: the mean is half their distance over the root of 2 away, times 12.706.
    assert quality_module.half_interval([0.01, 0.03]) == pytest.approx(12.706 * 0.01, rel=1e-4)
    assert quality_module.half_interval([0.02, 0.02, 0.02]) == 0
