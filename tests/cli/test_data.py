from __future__ import annotations

import json
from pathlib import Path

from tests.cli.running import LINES, Run

SUITE = """
name = "capitals"
[[data]]
name = "one"
source = "folder:one"
documents = 3
licence = "CC0"
[[data]]
name = "code"
source = "packages:iniconfig"
[[data]]
name = "secret"
source = "folder:secret"
obtain = "ask the ministry"
"""


def write(folder: Path) -> Path:
    one = folder / "data" / "one"
    (one / "qrels").mkdir(parents=True)
    (one / "corpus.jsonl").write_text("\n".join(LINES), "utf-8")
    (one / "queries.jsonl").write_text('{"_id": "q1", "text": "capital of France"}\n', "utf-8")
    (one / "qrels" / "test.tsv").write_text("q1\tparis\t1\n", "utf-8")
    (folder / "suite.toml").write_text(SUITE, "utf-8")
    return folder / "suite.toml"


def test_data_sets_are_prepared_checked_and_listed(run: Run, tmp_path: Path) -> None:
    suite, data = write(tmp_path), tmp_path / "data"
    done = run("data", suite, "--data", data, "--only", "one", "--only", "code")
    assert done.code == 0, done.err
    header, one, code = done.out.splitlines()
    assert header.split()[:3] == ["data", "set", "documents"]
    assert one.split()[:4] == ["one", "3", "1", "1"]
    assert "first seen" in one
    assert one.endswith("CC0")
    assert code.startswith("code ")
    again = run("data", suite, "--data", data, "--only", "one", "--only", "code", "--check")
    assert again.code == 0
    assert "first seen" not in again.out
    assert " ok  CC0" in again.out
    listed = json.loads(run("data", suite, "--data", data, "--only", "one", "--json").out)
    assert [(each["data set"], each["documents"], each["split"]) for each in listed] == [
        ("one", 3, "test")
    ]


def test_what_is_missing_is_said_and_the_others_are_prepared(run: Run, tmp_path: Path) -> None:
    done = run("data", write(tmp_path), "--data", tmp_path / "data")
    assert done.code == 1
    assert "secret (folder:secret)" in done.err
    assert "ask the ministry; put it there as a BEIR folder" in done.err
    assert done.err.endswith("error: 1 of 3 data sets are not ready: see above\n")
    assert [line.split()[0] for line in done.out.splitlines()[1:]] == ["one", "code"]


def test_check_fetches_nothing(run: Run, tmp_path: Path) -> None:
    done = run("data", write(tmp_path), "--data", tmp_path / "data", "--only", "code", "--check")
    assert done.code == 1
    assert "`retrieval data` fetches it from packages:iniconfig" in done.err
    assert not (tmp_path / "data" / "code").exists()


def test_an_unknown_name_is_bad_usage(run: Run, tmp_path: Path) -> None:
    done = run("data", write(tmp_path), "--only", "two")
    assert done.code == 2
    assert "no data set 'two'" in done.err
