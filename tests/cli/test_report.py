from __future__ import annotations

from pathlib import Path

import pytest

from retrieval.evaluation import Result
from tests.cli.running import Run

STARTERS = Path(__file__).parents[2] / "eval" / "results" / "starters"


@pytest.fixture
def scifact() -> Path:
    """Results of several systems on one collection."""
    return STARTERS / "scifact"


def test_tables_go_to_stdout_without_an_output(run: Run, scifact: Path) -> None:
    done = run("report", scifact, "--no-intervals", "--metric", "nDCG@10")
    assert done.code == 0, done.err
    expected = {
        path.parent.name: Result.from_json(path).metrics["nDCG@10"]
        for path in scifact.glob("*/result.json")
    }
    best = max(expected, key=lambda system: expected[system])
    heading, _, header, _, *rows = done.out.split("\n\n## Size")[0].splitlines()
    assert (heading, header) == ("## nDCG@10", "| system | scifact |")
    assert rows == [
        f"| {system} | {f'**{value:.3f}**' if system == best else f'{value:.3f}'} |"
        for system, value in sorted(expected.items())
    ]


def test_the_name_of_the_output_decides_its_format(run: Run, scifact: Path, tmp_path: Path) -> None:
    for name, beginning in (("a.md", "## nDCG@10\n"), ("a.tex", "\\begin{table}\n")):
        assert run("report", scifact, "-o", tmp_path / name).code == 0
        assert (tmp_path / name).read_text("utf-8").startswith(beginning)
    done = run("report", scifact, "-o", tmp_path / "a.docx")
    assert done.code == 2
    assert "end it in" in done.err


def test_nothing_is_overwritten_unless_asked(run: Run, scifact: Path, tmp_path: Path) -> None:
    output = tmp_path / "a.md"
    output.write_text("mine")
    done = run("report", scifact, "-o", output)
    assert (done.code, output.read_text()) == (2, "mine")
    assert "--overwrite" in done.err
    assert run("report", scifact, "-o", output, "--overwrite").code == 0
    assert output.read_text("utf-8").startswith("## ")


def test_errors_take_one_line(run: Run, tmp_path: Path, scifact: Path) -> None:
    done = run("report", tmp_path)
    assert (done.code, done.err.count("\n")) == (1, 1)
    assert "nothing to report" in done.err
    assert "no result has measured P@7" in run("report", scifact, "--metric", "P@7").err
    (tmp_path / "log.jsonl").write_text('{"step": 1, "loss": 1.0}\n')
    assert "there are none" in run("report", tmp_path, "--metric", "P@7").err


def test_a_training_run_has_a_row(run: Run, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    lines = ['{"step": 10, "loss": 2.5, "dev_ndcg@10": 0.5}', '{"step": 20, "loss": 1.25}']
    (tmp_path / "mine" / "log.jsonl").write_text("\n".join(lines) + "\n")
    assert run("report", tmp_path).out.splitlines()[-1] == "| mine | 20 | 1.2500 | 0.500 | 0.500 |"


def test_a_page_and_pictures_are_written(run: Run, scifact: Path, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    page = tmp_path / "report.html"
    done = run("report", scifact, "-o", page, "--metric", "nDCG@10", "--metric", "MRR@10")
    assert (done.code, done.out) == (0, f"{page}\n"), done.err
    text = page.read_text("utf-8")
    assert text.startswith("<!DOCTYPE html>")
    assert "starter-colbert on scifact" in text
    assert "recall@100</h2>" not in text
    folder = tmp_path / "pictures"
    done = run("report", scifact, "-o", folder, "--format", "png")
    assert done.out == f"{folder / 'nDCG-10-scifact.png'}\n", done.err
    assert (folder / "nDCG-10-scifact.png").read_bytes().startswith(b"\x89PNG")


def test_what_has_no_scores_is_said_in_the_page(run: Run, scifact: Path, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    page = tmp_path / "report.html"
    assert run("report", scifact, "-o", page, "--data", tmp_path).code == 0
    assert "Not shown: BM25 on scifact: no run.trec beside the result." in page.read_text("utf-8")
    done = run("report", scifact, "-o", page, "--overwrite", "--data", tmp_path / "nowhere")
    assert (done.code, "nowhere: no such folder" in done.err) == (1, True)


def test_pages_and_pictures_need_an_output_and_something_to_draw(run: Run, tmp_path: Path) -> None:
    (tmp_path / "log.jsonl").write_text('{"step": 1, "learning_rate": 1.0}\n')
    for name in ("html", "png"):
        done = run("report", tmp_path, "--format", name)
        assert (done.code, done.err) == (2, f"error: --format {name} needs --output\n")
    done = run("report", tmp_path, "--format", "png", "-o", tmp_path / "pictures")
    assert "nothing to draw" in done.err
