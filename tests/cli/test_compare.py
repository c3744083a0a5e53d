"""`retrieval compare`: what it prints, and every way in which it refuses."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.cli.running import Run
from tests.evaluation.measured import write_collection, write_result

pytest.importorskip("pytrec_eval", reason="needs the extra [eval]")

BEFORE = [1, 2, 1, 10, 5, 4, 3, 3, 2, 1, 2, 2]
AFTER = [1, 1, 2, 1, 5, 5, 1, 1, 1, 1, 1, 1]
FEW = ["--trials", "500"]


@pytest.fixture
def systems(tmp_path: Path) -> list[Path]:
    """The folders of two systems on two data sets, whose BEIR folders are beside them."""
    for name in ("one", "two"):
        collection = write_collection(tmp_path / name, queries=12 if name == "one" else 6)
        for system, ranks in (("BM25", BEFORE), ("dense | exact", AFTER)):
            folder = tmp_path / system.split()[0] / name
            write_result(folder, collection, ranks[: len(collection.queries)], system)
    return [tmp_path / "BM25", tmp_path / "dense"]


def test_a_table_shows_data_sets_and_mean_and_the_queries_that_moved(
    run: Run, systems: list[Path]
) -> None:
    shown = run("compare", *systems, *FEW)
    assert shown.code == 0, shown.err
    lines = [" ".join(line.split()) for line in shown.out.splitlines()]
    header = next(line for line in lines if line.startswith("system"))
    assert header == "system MRR@10 difference 95% interval p rand. p boot. effect W/T/L"
    for name in ("one (12 queries)", "two (6 queries)", "mean of 2 sets (18 queries)"):
        assert name in lines
    before = sum(1 / each for each in BEFORE) / 12
    after = sum(1 / each for each in AFTER) / 12
    assert f"BM25 {before:.4f}" in lines
    assert any(
        line.startswith(f"dense | exact {after:.4f} {after - before:+.4f} ")
        and line.endswith(" 7/3/2")
        for line in lines
    )
    assert "corrected for 3 comparisons (Holm)" in shown.out
    assert "Queries that moved most from BM25 to dense | exact, by MRR@10" in shown.out
    assert "one q3: 0.100 -> 1.000 (+0.900)" in lines
    assert "1 d0 2 d3 10" in lines  # d0 is second with dense, d3 was tenth with BM25


def test_texts_and_judgements_are_shown_where_the_data_is_given(
    run: Run, systems: list[Path], tmp_path: Path
) -> None:
    shown = run("compare", *systems, *FEW, "--data", tmp_path / "one", "--moved", "1")
    assert shown.code == 0, shown.err
    lines = [" ".join(line.split()) for line in shown.out.splitlines()]
    assert "one q3: 0.100 -> 1.000 (+0.900) question 3" in lines
    assert "1 d0 Title 0 - 2 d3 Title 3 1 10" in lines
    assert sum("->" in line for line in lines) == 1


def test_markdown_escapes_names_and_marks_what_is_significant(run: Run, tmp_path: Path) -> None:
    collection = write_collection(tmp_path / "one", queries=30)
    write_result(tmp_path / "a", collection, [4] * 30, "a|b")
    write_result(tmp_path / "c", collection, [1] * 29 + [2], "c")
    shown = run(
        "compare", tmp_path / "a", tmp_path / "c", *FEW, "--markdown", "--moved", "1", "--data",
        tmp_path / "one", "--metric", "MRR@10", "--metric", "recall@5",
    )  # fmt: skip
    assert shown.code == 0, shown.err
    lines = shown.out.splitlines()
    assert lines[0].startswith("| data set | system | MRR@10 | difference | 95% interval |")
    assert lines[1] == "| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |"
    assert lines[2] == "| one (30 queries) | a\\|b | 0.2500 |  |  |  |  |  |  |"
    cells = lines[3].split(" | ")
    assert cells[:4] == ["| one (30 queries)", "c", "0.9833", "+0.7333"]
    assert cells[5:7] == ["**0.004**", "**0.004**"]  # twice the least of 500 trials, 1 / 501
    assert cells[8] == "30/0/0 |"
    assert lines[8].split(" | ")[1:4] == ["c", "1.0000", "+0.0000"]
    assert "**one q0: 0.250 -> 1.000 (+0.750)  question 0**" in lines
    assert "| rank | a\\|b | rel. | other | c | rel. | other |" in lines
    assert "| 4 | **d0  Title 0** | **1** | 1 | d3  Title 3 | - | 3 |" in lines


def test_json_holds_every_figure(run: Run, systems: list[Path], tmp_path: Path) -> None:
    arguments = ["compare", *systems, *FEW, "--json", "--data", tmp_path / "two", "--seed", "7"]
    shown = run(*arguments)
    found = json.loads(shown.out)
    assert found["baseline"] == "BM25"
    assert found["systems"] == ["dense | exact"]
    assert found["settings"] == {
        "trials": 500,
        "seed": 7,
        "confidence": 0.95,
        "correction": "holm",
    }
    assert found["data_sets"] == [["one", "test"], ["two", "test"]]
    one, two, mean = found["contrasts"]
    assert (one["data_set"], two["data_set"], mean["data_set"]) == (
        ["one", "test"],
        ["two", "test"],
        None,
    )
    assert one["low"] < one["difference"] < one["high"]
    assert mean["difference"] == pytest.approx((one["difference"] + two["difference"]) / 2)
    assert 0 < one["randomisation"]["raw"] <= one["randomisation"]["corrected"] <= 1
    moved = found["moved_queries"]["dense | exact"]
    assert [each["query_id"] for each in moved[:2]] == ["q3", "q3"]
    assert moved[1]["ranking"][0] == {
        "document_id": "d3",
        "other_rank": 6,
        "relevance": 1,
        "title": "Title 3",
        "text": "text | of 3",
    }
    assert run(*arguments).out == shown.out
    assert run(*arguments[:-1], "8").out != shown.out


def test_systems_of_one_folder_are_compared_with_the_baseline_that_is_named(
    run: Run, systems: list[Path], tmp_path: Path
) -> None:
    folder = tmp_path / "results"
    folder.mkdir()
    for system in systems:
        system.rename(folder / system.name)
    shown = json.loads(run("compare", folder, *FEW, "--json", "--baseline", "dense | exact").out)
    assert (shown["baseline"], shown["systems"]) == ("dense | exact", ["BM25"])
    assert all(each["difference"] < 0 for each in shown["contrasts"])


def test_the_correction_can_be_chosen(run: Run, systems: list[Path]) -> None:
    plain = run("compare", *systems, *FEW, "--correction", "none", "--moved", "0")
    assert "not corrected for the number of comparisons" in plain.out
    assert "->" not in plain.out
    bonferroni = run("compare", *systems, *FEW, "--correction", "bonferroni", "--json")
    for each in json.loads(bonferroni.out)["contrasts"]:
        assert each["bootstrap"]["corrected"] == min(1.0, 3 * each["bootstrap"]["raw"])


def test_warnings_go_to_stderr_and_into_the_notes(run: Run, systems: list[Path]) -> None:
    (systems[1] / "two" / "result.json").unlink()
    shown = run("compare", *systems, *FEW)
    assert shown.code == 0
    assert "two is left out: no result of dense | exact" in shown.err
    assert "Warning: two is left out: no result of dense | exact." in shown.out
    assert "mean of" not in shown.out


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["BM25"], 2, "a baseline and at least one other system"),
        (["BM25", "absent"], 1, "absent: no such file or folder"),
        (["BM25", "empty"], 1, "empty: nothing to report"),
        (["BM25", "BM25"], 2, "BM25: given twice"),
        (["BM25", "dense", "--metric", "nDCG@10"], 2, "nDCG@10; shared: MRR@10, recall@5"),
        (["BM25", "dense", "--metric", "F1@3"], 2, "unknown metrics: 'F1@3'"),
        (["BM25", "dense", "--trials", "5"], 2, "trials is 5, expected 100 or more"),
        (["BM25", "dense", "--seed", "-1"], 2, "seed is -1, expected 0 or more"),
        (["BM25", "dense", "--json", "--markdown"], 2, "--json and --markdown exclude each other"),
        (["BM25", "dense", "--data", "other"], 1, "other: none of the compared data sets"),
        (["BM25", "dense", "--baseline", "absent"], 2, "no system is called 'absent'"),
        (["BM25", "changed"], 1, "one: the queries or judgements differ"),
    ],
)
def test_what_cannot_be_compared_is_refused(
    run: Run,
    systems: list[Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    code: int,
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    other = write_collection(tmp_path / "other", queries=3)
    write_result(tmp_path / "changed", other, [1, 1, 1], "changed")
    result = tmp_path / "changed" / "result.json"
    result.write_text(result.read_text("utf-8").replace('"other"', '"one"'), "utf-8")
    failed = run("compare", *arguments)
    assert failed.code == code
    assert message in failed.err
    assert failed.out == ""


def test_an_unknown_correction_is_bad_usage(run: Run, systems: list[Path]) -> None:
    failed = run("compare", *systems, "--correction", "fdr")
    assert failed.code == 2
    assert "fdr" in failed.err


def test_systems_without_their_runs_are_compared_without_rankings(
    run: Run, systems: list[Path]
) -> None:
    for path in systems[0].rglob("run.trec"):
        path.unlink()
    shown = run("compare", *systems, *FEW)
    assert shown.code == 0
    assert "one: BM25 kept no run, so its rankings are not shown" in shown.err
    assert "one q3: 0.100 -> 1.000 (+0.900)" in shown.out
    assert "rank" in shown.out.split("one q3")[1]
    for path in systems[1].rglob("run.trec"):
        path.unlink()
    for format in ([], ["--markdown"]):
        shown = run("compare", *systems, *FEW, *format)
        assert "one q3: 0.100 -> 1.000 (+0.900)" in shown.out
        assert "rank" not in shown.out.split("one q3")[1]


def test_results_of_the_eval_command_are_compared(run: Run, tmp_path: Path) -> None:
    write_collection(tmp_path / "one")
    for name, setting in (("default", "k1=1.5"), ("flat", "k1=0.1")):
        made = run(
            "eval", tmp_path / "one", "--index", "bm25", "--set", setting, "-o", tmp_path / name
        )
        assert made.code == 0, made.err
    shown = run("compare", tmp_path / "default", tmp_path / "flat", *FEW, "--json")
    assert shown.code == 0, shown.err
    assert json.loads(shown.out)["metrics"] == ["nDCG@10"]
    assert [each["system"] for each in json.loads(shown.out)["contrasts"]] == [
        f"BM25 ({tmp_path / 'flat'})"
    ]
