"""eval/tables.py: the READMEs' tables are those of the results."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from retrieval.evaluation import Result
from tests.programs import run_program

ROOT = Path(__file__).parents[2]


def test_the_tables_of_the_readmes_are_those_of_the_results() -> None:
    done = run_program("eval/tables.py", "--check")
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_stale_table_is_named_and_written_anew(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "eval" / "results" / "starters" / "scifact", tmp_path / "results")
    document = tmp_path / "README.md"
    lines = ["before", "<!-- table: results results nDCG@10 -->", "old", "<!-- end of table -->"]
    document.write_text("\n".join([*lines, "after", ""]))
    checked = run_program("eval/tables.py", "--check", document)
    assert checked.returncode == 1
    assert "README.md: stale" in checked.stdout
    assert "old" in document.read_text()
    assert run_program("eval/tables.py", document).returncode == 0
    written = document.read_text().splitlines()
    assert (written[0], written[-1]) == ("before", "after")
    result = Result.from_json(tmp_path / "results" / "starter-colbert" / "result.json")
    assert f"| starter-colbert | **{result.metrics['nDCG@10']:.3f}** |" in written
    assert "old" not in written
    assert run_program("eval/tables.py", "--check", document).returncode == 0


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("<!-- table: sweep x -->\n", "has no end"),
        ("<!-- table: sweep x -->\n<!-- table: sweep x -->\n<!-- end of table -->", "has no end"),
        ("<!-- table: heroes -->\n<!-- end of table -->", "no table 'heroes'"),
        ("<!-- table: sweep -->\n<!-- end of table -->", "no table 'sweep'"),
        ("<!-- table: sweep x.json -->\n<!-- end of table -->", "x.json: no such file"),
    ],
)
def test_a_marker_that_cannot_be_followed_is_an_error(
    tmp_path: Path, text: str, message: str
) -> None:
    document = tmp_path / "README.md"
    document.write_text(text)
    done = run_program("eval/tables.py", document)
    assert done.returncode != 0
    assert message in done.stderr
    assert document.read_text() == text
