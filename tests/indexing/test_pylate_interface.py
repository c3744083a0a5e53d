"""Programs written for PyLate's index, retriever and reranker, run on ours."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from retrieval.errors import ConfigError, DuplicateIdError, InputError, ShapeError
from retrieval.indexing import pylate_interface as indexes
from retrieval.indexing import pylate_interface as rank
from retrieval.indexing import pylate_interface as retrieve
from retrieval.indexing.exact import ExactIndex
from retrieval.indexing.index import Batch
from retrieval.indexing.plaid import PlaidIndex
from retrieval.scoring import maxsim
from tests.indexing.worlds import multi_vectors


def as_tensors(items: Any) -> Any:
    return [torch.from_numpy(each) for each in items]


def as_bfloat16(items: Any) -> Any:
    return [torch.from_numpy(each).bfloat16() for each in items]


@pytest.mark.parametrize("form", [list, as_tensors])
def test_a_program_for_pylate_finds_what_our_index_finds(
    tmp_path: Path, form: Callable[[Any], Any]
) -> None:
    world = multi_vectors()
    index = indexes.PLAID(index_folder=str(tmp_path), index_name="colbert", override=True)
    index = index.add_documents(documents_ids=world.ids, documents_embeddings=form(world.items))
    retriever = retrieve.ColBERT(index=index)
    found = retriever.retrieve(queries_embeddings=form(world.queries), k=5)
    true = PlaidIndex.open(tmp_path / "colbert").search(world.queries, 5)
    assert found == [[{"id": each, "score": score} for each, score in hits] for hits in true]
    assert index(form(world.queries), k=5) == found
    assert (
        retrieve.ColBERT(PlaidIndex.open(tmp_path / "colbert")).retrieve(world.queries, 5) == found
    )


def test_documents_are_added_updated_removed_and_still_there_when_opened_again(
    tmp_path: Path,
) -> None:
    world = multi_vectors()
    folder = {"index_folder": str(tmp_path), "index_name": "a"}
    index = indexes.PLAID(**folder)  # type: ignore[arg-type]
    index.add_documents(world.ids[:200], world.items[:200])
    index.add_documents(world.ids[200:300], world.items[200:300])
    index.remove_documents(["d5", "unknown"])
    index.update_documents(["d6", "new"], [world.items[300], world.items[301]])
    again = indexes.PLAID(**folder)  # type: ignore[arg-type]
    assert again.index is not None
    assert len(again.index) == 300
    # A document is its own best match.
    for name, row in (("d6", 300), ("new", 301), ("d250", 250)):
        best = again(world.items[row], k=1)[0][0]
        assert best["id"] == name
        assert best["score"] == pytest.approx(len(world.items[row]), abs=0.3)
    assert all(hit["id"] != "d5" for hit in again(world.items[5], k=300)[0])


def test_an_update_that_fails_leaves_the_old_documents(tmp_path: Path) -> None:
    world = multi_vectors()
    index = indexes.PLAID(str(tmp_path), "a").add_documents(world.ids[:50], world.items[:50])
    before = index(world.queries, k=50)
    with pytest.raises(ShapeError):
        index.update_documents(["d1", "d2"], [world.items[1][:, :-1]] * 2)
    index.remove_documents([])
    assert index(world.queries, k=50) == before
    assert len(PlaidIndex.open(tmp_path / "a")) == 50


def test_an_index_that_is_overridden_stays_until_documents_come(tmp_path: Path) -> None:
    world = multi_vectors()
    folder = str(tmp_path)
    indexes.PLAID(folder, "a").add_documents(world.ids[:50], world.items[:50])
    fresh = indexes.PLAID(folder, "a", override=True)
    with pytest.raises(InputError, match="call add_documents first"):
        fresh(world.queries[0])
    assert len(PlaidIndex.open(tmp_path / "a")) == 50
    fresh.add_documents(world.ids[50:80], world.items[50:80])
    assert len(PlaidIndex.open(tmp_path / "a")) == 30


def test_a_subset_is_for_all_queries_or_for_each(tmp_path: Path) -> None:
    world = multi_vectors()
    index = ExactIndex.build(tmp_path / "exact", [Batch(world.ids, world.items)])
    retriever = retrieve.ColBERT(index)
    queries = world.queries[:2]
    shared = retriever.retrieve(queries, k=9, subset=["d1", "d2"])
    assert [{hit["id"] for hit in hits} for hits in shared] == [{"d1", "d2"}] * 2
    each = retriever.retrieve(queries, k=9, subset=[["d1"], ["d3", "d4"]])
    assert [{hit["id"] for hit in hits} for hits in each] == [{"d1"}, {"d3", "d4"}]
    assert retriever.retrieve(queries, subset=[]) == [[], []]
    with pytest.raises(InputError, match="1 subsets for 2 queries"):
        retriever.retrieve(queries, subset=[["d1"]])


@pytest.mark.parametrize(
    ("form", "tolerance"),
    # bfloat16 keeps 8 bits of each factor of up to 20 products
    [(list, 1e-4), (as_tensors, 1e-4), (as_bfloat16, 0.05)],
)
def test_rerank_gives_the_scores_of_the_oracle(
    form: Callable[[Any], Any], tolerance: float
) -> None:
    world = multi_vectors()
    rows = [[1, 2, 3, 7], [10, 4]]
    ranked = rank.rerank(
        documents_ids=rows,
        queries_embeddings=form(world.queries[:2]),
        documents_embeddings=[form([world.items[row] for row in each]) for each in rows],
        device="cpu",
    )
    for query, each, results in zip(world.queries[:2], rows, ranked, strict=True):
        truth = dict(zip(each, maxsim([query], [world.items[row] for row in each])[0]))
        assert {result["id"] for result in results} == set(each)
        scores = [result["score"] for result in results]
        assert scores == sorted(scores, reverse=True)
        assert scores == pytest.approx([truth[int(r["id"])] for r in results], abs=tolerance)
    assert ranked[0][-1] == {"id": 7, "score": -np.inf}  # has no tokens


def test_one_array_of_three_axes_is_many_and_of_two_axes_is_one() -> None:
    generator = np.random.default_rng(0)
    queries, items = generator.standard_normal((2, 4, 8)), generator.standard_normal((2, 3, 5, 8))
    ids = [["a", "b", "c"]] * 2
    many = rank.rerank(ids, queries, items)  # type: ignore[arg-type]
    one = rank.rerank(ids[:1], torch.from_numpy(queries[0]), items[:1])  # type: ignore[arg-type]
    assert one == many[:1]


def test_what_pylate_takes_and_we_do_not_is_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(ConfigError, match="take PyLate itself"):
        indexes.PLAID(str(tmp_path), use_fast=False)
    index = indexes.PLAID(str(tmp_path), nbits=2, device="cpu", low_memory=True)
    assert "without effect on this PLAID index: device, low_memory" in caplog.text
    item = np.eye(4, dtype=np.float32)
    numbers: Any = [1]
    with pytest.raises(InputError, match="ids are strings"):
        index.add_documents(numbers, [item])
    index.add_documents("a", [item])
    assert index.index is not None
    assert index.index.settings.bits == 2
    with pytest.raises(DuplicateIdError, match="'a'"):
        index.add_documents("a", [item])
    with pytest.raises(InputError, match="2 lists of ids"):
        rank.rerank([["a"], ["b"]], [item], [[item]])
    with pytest.raises(InputError, match="2 ids for 1 documents"):
        rank.rerank([["a", "b"]], [item], [[item]])


def test_the_module_loads_no_torch() -> None:
    program = "import retrieval.indexing.pylate_interface, sys; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


def test_pylates_names_of_settings_are_ours(tmp_path: Path) -> None:
    world = multi_vectors()
    index = indexes.PLAID(str(tmp_path), "named", nbits=2, n_ivf_probe=7, n_full_scores=50)
    index.add_documents(world.ids[:100], world.items[:100])
    assert index.index is not None
    settings = index.index.settings
    assert (settings.bits, settings.probes, settings.scored) == (2, 7, 50)
