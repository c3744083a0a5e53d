from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from retrieval.errors import InputError
from retrieval.evaluation.data_sets import locate
from retrieval.evaluation.suites import DataSet

WriteBeir = Callable[..., Path]


def test_any_beir_folder_is_found_by_its_path(write_beir: WriteBeir, tmp_path: Path) -> None:
    folder = write_beir(name="tiny")
    by_name = DataSet(name="a", source="folder:tiny")
    by_path = DataSet(name="a", source=f"folder:{folder}")
    assert locate(by_name, tmp_path) == folder
    assert locate(by_path, tmp_path / "elsewhere") == folder


def test_what_beir_unpacked_itself_is_found(write_beir: WriteBeir, tmp_path: Path) -> None:
    folder = write_beir(name="cqadupstack/tex")
    assert locate(DataSet(name="cqa-tex", source="beir:cqadupstack/tex"), tmp_path) == folder


@pytest.mark.parametrize(
    ("source", "others", "advice"),
    [
        ("beir:scifact", {}, r"scifact\.zip"),
        ("folder:scifact", {}, "put a BEIR folder there"),
        ("folder:scifact", {"obtain": "ask NIST"}, "ask NIST; put it there as a BEIR folder"),
    ],
)
def test_missing_data_say_how_to_get_them(
    tmp_path: Path, source: str, others: dict[str, str], advice: str
) -> None:
    data_set = DataSet(name="s", source=source, **others)  # type: ignore[arg-type]
    with pytest.raises(InputError, match=advice) as caught:
        locate(data_set, tmp_path)
    assert f"{tmp_path / 'scifact'} has no corpus.jsonl, queries.jsonl" in str(caught.value)


def test_a_missing_split_is_named(write_beir: WriteBeir, tmp_path: Path) -> None:
    write_beir(name="tiny", dev="q1\td1\t1\n")
    with pytest.raises(InputError, match=r"has no qrels/test\.tsv"):
        locate(DataSet(name="a", source="folder:tiny"), tmp_path)
