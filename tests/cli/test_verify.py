"""`retrieval verify`: whole indexes and damaged ones."""

from __future__ import annotations

import json
from pathlib import Path

from tests.cli.running import Run


def test_verify_says_that_an_index_is_whole_and_which_file_is_not(
    run: Run, corpus: Path, tmp_path: Path
) -> None:
    assert run("index", corpus, "--kind", "bm25", "-o", tmp_path / "index").code == 0
    whole = run("verify", tmp_path / "index")
    assert whole.code == 0
    assert "whole; lexical index of " in whole.out
    found = json.loads(run("verify", tmp_path / "index", "--json").out)
    assert (found["kind"], found["version"]) == ("lexical", "000001")
    path = next((tmp_path / "index" / "versions").glob("*/weights.safetensors"))
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    failed = run("verify", tmp_path / "index")
    assert failed.code == 1
    assert "weights.safetensors: changed since it was written" in failed.err
