"""What no index takes: bad ids, bad embeddings, other models, damaged files, lost changes."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from retrieval.errors import (
    ConfigError,
    DuplicateIdError,
    EmbeddingError,
    IndexFilesError,
    InputError,
    ModelMismatchError,
    ReadOnlyError,
    ShapeError,
)
from retrieval.indexing import index_class, open_index
from retrieval.indexing.index import Batch
from retrieval.records import ModelReference
from tests.indexing.cases import CASES, VECTOR_CASES, Case, K, check, each_of
from tests.indexing.damage import change_manifest
from tests.indexing.worlds import WIDTH, multi_vectors, single_vectors

TINY_MODEL = ModelReference("models/tiny", "a" * 64, False, WIDTH)
OTHER_MODEL = ModelReference("models/other", "b" * 64, False, WIDTH)


@each_of(CASES)
def test_k_below_one_is_refused(case: Case, tmp_path: Path) -> None:
    index = case.build(tmp_path / "index")
    with pytest.raises(InputError, match="k is 0"):
        index.search(case.world().queries, 0)


@each_of(CASES)
def test_a_duplicate_id_is_named(case: Case, tmp_path: Path) -> None:
    world = case.world()
    twice = [Batch(["d1", "d1"], world.take([1, 2]))]
    with pytest.raises(DuplicateIdError, match="'d1'"):
        index_class(case.kind).build(tmp_path / "twice", twice)
    assert not (tmp_path / "twice" / "CURRENT").exists()
    index = case.build(tmp_path / "index")
    with pytest.raises(DuplicateIdError, match="'d5'"):
        index.add(["new", "d5"], world.take([1, 2]))
    assert "new" not in index
    check(case, index.search(world.queries, K))


@each_of(CASES)
def test_ids_are_several_strings_as_many_as_items(case: Case, tmp_path: Path) -> None:
    index = case.build(tmp_path / "index")
    items = case.world().take([1])
    with pytest.raises(InputError, match="2 ids for 1 items"):
        index.add(["x", "y"], items)
    wrong: Any = [7]
    with pytest.raises(InputError, match="the id 7 is a int"):
        index.add(wrong, items)
    for change in (index.delete, lambda ids: index.add(ids, items)):
        with pytest.raises(InputError, match="one string 'd'"):
            change("d")
    with pytest.raises(InputError, match="one string 'd1'"):
        index.search(case.world().queries, K, allowed="d1")


@each_of(VECTOR_CASES)
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_an_embedding_that_is_not_finite_is_named(case: Case, value: float, tmp_path: Path) -> None:
    bad = [row.copy() for row in case.world().take([1, 2])]
    bad[1].reshape(-1)[3] = value
    items = np.stack(bad) if isinstance(case.world().items, np.ndarray) else bad
    index = case.build(tmp_path / "index")
    with pytest.raises(EmbeddingError, match="'second'"):
        index.add(["first", "second"], items)
    assert len(index) == len(case.world().ids)
    with pytest.raises(EmbeddingError, match="'second'"):
        index_class(case.kind).build(tmp_path / "other", [Batch(["first", "second"], items)])
    with pytest.raises(EmbeddingError, match="query 1"):
        index.search(items, K)


@each_of(VECTOR_CASES)
def test_another_width_is_refused(case: Case, tmp_path: Path) -> None:
    index = case.build(tmp_path / "index")
    narrow = [each[..., :-1] for each in case.world().take([1, 2])]
    items = np.stack(narrow) if isinstance(case.world().items, np.ndarray) else narrow
    with pytest.raises(ShapeError, match="32"):
        index.add(["x", "y"], items)
    with pytest.raises(ShapeError, match="32"):
        index.search(items, K)


@each_of(VECTOR_CASES)
def test_queries_of_the_other_sort_are_refused(case: Case, tmp_path: Path) -> None:
    index = case.build(tmp_path / "index")
    is_single = isinstance(case.world().items, np.ndarray)
    other = multi_vectors() if is_single else single_vectors()
    with pytest.raises(ShapeError, match="query 0"):
        index.search(other.queries, K)


@each_of(CASES)
def test_an_opened_index_is_read_only_unless_asked(case: Case, tmp_path: Path) -> None:
    case.build(tmp_path / "index")
    index = open_index(tmp_path / "index")
    with pytest.raises(ReadOnlyError, match="writable=True"):
        index.add(["x"], case.world().take([1]))
    with pytest.raises(ReadOnlyError, match="writable=True"):
        index.delete(["d1"])
    with pytest.raises(ReadOnlyError, match="writable=True"):
        index.save()


@each_of(CASES)
def test_another_model_is_refused_and_both_are_named(case: Case, tmp_path: Path) -> None:
    case.build(tmp_path / "index", model=TINY_MODEL)
    assert open_index(tmp_path / "index", model=TINY_MODEL).model == TINY_MODEL
    renamed = TINY_MODEL._replace(name="elsewhere")
    assert open_index(tmp_path / "index", model=renamed).model == TINY_MODEL
    with pytest.raises(ModelMismatchError) as caught:
        open_index(tmp_path / "index", model=OTHER_MODEL)
    assert "models/tiny" in str(caught.value)
    assert "models/other" in str(caught.value)


@each_of(CASES)
def test_a_truncated_or_missing_file_is_noticed(case: Case, tmp_path: Path) -> None:
    case.build(tmp_path / "index")
    version = next((tmp_path / "index" / "versions").iterdir())
    for path in sorted(version.iterdir()):
        whole = path.read_bytes()
        path.write_bytes(whole[: len(whole) // 2])
        with pytest.raises(IndexFilesError, match=re.escape(path.name)):
            open_index(tmp_path / "index")
        path.unlink()
        with pytest.raises(IndexFilesError, match=re.escape(path.name)):
            open_index(tmp_path / "index")
        path.write_bytes(whole)
    assert len(open_index(tmp_path / "index")) == len(case.world().ids)


@each_of(CASES)
def test_an_index_is_overwritten_only_when_asked(case: Case, tmp_path: Path) -> None:
    case.build(tmp_path / "index")
    with pytest.raises(IndexFilesError, match="overwrite"):
        case.build(tmp_path / "index")
    case.build(tmp_path / "index", range(300), overwrite=True)
    assert len(open_index(tmp_path / "index")) == 300
    assert len(list((tmp_path / "index" / "versions").iterdir())) == 1


@each_of(CASES)
def test_a_second_writer_is_refused_until_the_first_has_closed(case: Case, tmp_path: Path) -> None:
    built = case.build(tmp_path / "index")
    with pytest.raises(IndexFilesError, match=rf"this process \({os.getpid()}\) is writing"):
        open_index(tmp_path / "index", writable=True)
    with pytest.raises(IndexFilesError, match="is writing"):
        case.build(tmp_path / "index", overwrite=True)
    built.delete(["d1"])
    built.save()
    assert "d1" not in open_index(tmp_path / "index")
    built.close()
    with pytest.raises(ReadOnlyError, match="closed"):
        built.delete(["d2"])
    with open_index(tmp_path / "index", writable=True) as second:
        second.delete(["d3"])
        second.save()
    third = open_index(tmp_path / "index", writable=True)
    assert [each for each in ("d1", "d2", "d3") if each in third] == ["d2"]
    del third
    open_index(tmp_path / "index", writable=True).close()


def test_an_unknown_kind_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"'annoy'.*exact, faiss, lexical, plaid"):
        index_class("annoy")
    CASES[0].build(tmp_path / "index")
    change_manifest(tmp_path / "index", kind="annoy")
    with pytest.raises(IndexFilesError, match="'annoy'"):
        open_index(tmp_path / "index")


def test_an_index_of_another_kind_is_refused(tmp_path: Path) -> None:
    CASES[0].build(tmp_path / "index")
    with pytest.raises(IndexFilesError, match="holds a exact index, not faiss"):
        index_class("faiss").open(tmp_path / "index")
