"""One contract for all indexes: each is held against brute force over the same documents."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from retrieval.errors import DuplicateIdError, InputError
from retrieval.indexing import index_class, open_index
from retrieval.indexing.index import Batch
from retrieval.indexing.verify import verify_index
from retrieval.indexing.versions import current_version, index_bytes
from retrieval.records import Document
from tests.indexing.cases import CASES, VECTOR_CASES, Case, K, check, each_of
from tests.indexing.worlds import single_vectors, texts


@each_of(CASES)
def test_the_best_documents_are_found(case: Case, tmp_path: Path) -> None:
    index = case.build(tmp_path / "index")
    assert len(index) == len(case.world().ids)
    check(case, index.search(case.world().queries, K))


@each_of(CASES)
def test_what_was_saved_gives_the_same_hits(case: Case, tmp_path: Path) -> None:
    built = case.build(tmp_path / "index").search(case.world().queries, K)
    index = open_index(tmp_path / "index")
    assert index.kind == case.kind
    assert index.search(case.world().queries, K) == built


@each_of(CASES)
def test_a_folder_may_be_named_by_a_string(case: Case, tmp_path: Path) -> None:
    folder = str(tmp_path / "index")
    case.build(folder).close()
    with open_index(folder, writable=True) as index:
        assert index.folder == index_class(case.kind).open(folder).folder == Path(folder)
        assert len(index) == verify_index(folder).documents


@each_of(CASES)
def test_one_query_gives_what_many_give(case: Case, tmp_path: Path) -> None:
    index = case.build(tmp_path / "index")
    queries = case.world().queries
    together = index.search(queries, K)
    for query in range(3):
        alone = index.search(queries[query : query + 1], K)[0]
        # Products of other shapes are rounded otherwise.
        np.testing.assert_allclose(
            [hit.score for hit in alone], [hit.score for hit in together[query]], atol=1e-4
        )


@each_of(CASES)
def test_documents_added_later_are_found(case: Case, tmp_path: Path) -> None:
    world = case.world()
    first = range(len(world.ids) * 3 // 4)
    later = range(len(first), len(world.ids))
    case.build(tmp_path / "index", first)
    index = open_index(tmp_path / "index", writable=True)
    index.add([world.ids[row] for row in later], world.take(later))
    check(case, index.search(world.queries, K))
    index.save()
    reopened = open_index(tmp_path / "index")
    assert len(reopened) == len(world.ids)
    check(case, reopened.search(world.queries, K))


@each_of(VECTOR_CASES)
def test_deleted_documents_are_never_found(case: Case, tmp_path: Path) -> None:
    world = case.world()
    best = {hit.document_id for query in range(10) for hit in world.best(query, 5)}
    left = [row for row, each in enumerate(world.ids) if each not in best]
    index = case.build(tmp_path / "index")
    index.delete(best)
    check(case, index.search(world.queries, K), left)
    index.save()
    index.close()
    reopened = open_index(tmp_path / "index", writable=True)
    assert len(reopened) == len(left)
    assert not any(each in reopened for each in best)
    check(case, reopened.search(world.queries, K), left)
    with pytest.raises(InputError, match="not in the index"):
        reopened.delete([next(iter(best))])


@each_of(CASES)
def test_a_deleted_id_can_be_added_again(case: Case, tmp_path: Path) -> None:
    world = case.world()
    index = case.build(tmp_path / "index")
    gone = [row for row in range(len(world.ids)) if row % 3 == 0]
    index.delete([world.ids[row] for row in gone])
    index.add([world.ids[row] for row in gone], world.take(gone))
    index.save()
    check(case, open_index(tmp_path / "index").search(world.queries, K))


@each_of(VECTOR_CASES)
@pytest.mark.parametrize("every", [2, 5, 40])
def test_a_filter_gives_the_best_of_the_allowed(case: Case, every: int, tmp_path: Path) -> None:
    world = case.world()
    rows = [row for row in range(len(world.ids)) if row % every == 1]
    allowed = [world.ids[row] for row in rows] + ["not in the index"]
    index = case.build(tmp_path / "index")
    check(case, index.search(world.queries, K, allowed=allowed), rows)


def test_a_lexical_filter_leaves_the_scores_alone(tmp_path: Path) -> None:
    case, world = CASES[-1], texts()
    rows = [row for row in range(len(world.ids)) if row % 5 == 1]
    index = case.build(tmp_path / "index")
    rankings = index.search(world.queries, K, allowed={world.ids[row] for row in rows})
    # Unlike a deletion, a filter keeps the statistics of all documents.
    check(case, rankings, rows)


@each_of(CASES)
def test_nothing_allowed_finds_nothing(case: Case, tmp_path: Path) -> None:
    index = case.build(tmp_path / "index")
    queries = case.world().queries
    assert index.search(queries, K, allowed=[]) == [[]] * len(queries)
    assert index.search(queries, K, allowed=["not in the index"]) == [[]] * len(queries)
    assert index.search(queries[:0], K) == []


@each_of(CASES)
def test_k_above_the_size_gives_every_match(case: Case, tmp_path: Path) -> None:
    world = case.world()
    index = case.build(tmp_path / "index")
    for query, ranking in enumerate(index.search(world.queries, len(world.ids) + 50)):
        matches = {hit.document_id for hit in world.best(query, len(world.ids))}
        assert {hit.document_id for hit in ranking} == matches


@each_of(CASES)
def test_float16_and_float64_embeddings_are_taken(case: Case, tmp_path: Path) -> None:
    world = case.world()
    if case.kind == "lexical":
        pytest.skip("texts have no dtype")
    for dtype in (np.float16, np.float64):
        index = case.build(tmp_path / np.dtype(dtype).name)
        extra = [each.astype(dtype) for each in world.take([3])]
        items = np.stack(extra) if isinstance(world.items, np.ndarray) else extra
        index.add(["copy"], items)
        query = world.take([3]).copy()
        scores = {hit.document_id: hit.score for hit in index.search(query, 50)[0]}
        assert scores["copy"] == pytest.approx(scores["d3"], abs=max(2e-2, case.tolerance))


@each_of(CASES)
def test_batches_may_come_from_a_generator(case: Case, tmp_path: Path) -> None:
    world = case.world()
    rows = range(len(world.ids))
    batches = (
        Batch([world.ids[row] for row in part], world.take(part))
        for part in (rows[:0], rows[:100], rows[100:])
    )
    index = index_class(case.kind).build(tmp_path / "index", batches, settings=case.settings)
    check(case, index.search(world.queries, K))


@each_of(CASES)
def test_an_empty_index_can_be_saved_and_filled(case: Case, tmp_path: Path) -> None:
    world = case.world()
    empty = index_class(case.kind).build(tmp_path / "index", [], settings=case.settings)
    assert empty.search(world.queries, K) == [[]] * len(world.queries)
    empty.close()
    index = open_index(tmp_path / "index", writable=True)
    assert len(index) == 0
    index.add(world.ids, world.items)
    index.save()
    check(case, open_index(tmp_path / "index").search(world.queries, K))


@each_of(CASES)
def test_stored_documents_stay_with_their_ids(case: Case, tmp_path: Path) -> None:
    world = case.world()

    def documents(rows: Sequence[int]) -> list[Document]:
        return [Document(world.ids[row], f"text {row} \n é", f"title {row}") for row in rows]

    first, later = range(300), range(300, min(350, len(world.ids)))
    batch = Batch([world.ids[row] for row in first], world.take(first), documents(first))
    index = index_class(case.kind).build(tmp_path / "index", [batch], settings=case.settings)
    index.delete(["d0", "d150"])
    if len(later):
        with pytest.raises(InputError, match="with their documents"):
            index.add([world.ids[row] for row in later], world.take(later))
        index.add([world.ids[row] for row in later], world.take(later), documents=documents(later))
    index.save()
    for each in (index, open_index(tmp_path / "index")):
        for row in (1, 149, 151, 299, *later[-1:]):
            assert each.document(f"d{row}") == documents([row])[0]
        with pytest.raises(InputError, match="'d150'"):
            each.document("d150")


@each_of(CASES)
def test_a_deletion_alone_writes_nothing_but_which_rows_are_deleted(
    case: Case, tmp_path: Path
) -> None:
    index = case.build(tmp_path / "index")
    before = inodes(tmp_path / "index")
    index.delete(["d3"])
    index.save()
    after = inodes(tmp_path / "index")
    # BM25's weights depend on all documents: they are computed again when they are needed.
    gone = {"weights.safetensors"} if case.kind == "lexical" else set()
    assert before.keys() - after.keys() == gone
    assert after.keys() - before.keys() == {"deleted.safetensors"}
    assert all(after[name] == before[name] for name in before.keys() & after.keys())


def inodes(folder: Path) -> dict[str, int]:
    version = current_version(folder)
    return {
        path.name: path.stat().st_ino for path in version.iterdir() if path.name != "manifest.json"
    }


@each_of(CASES)
def test_compaction_leaves_the_hits_alone_and_drops_the_deleted(case: Case, tmp_path: Path) -> None:
    world = case.world()
    index = case.build(tmp_path / "index")
    if case.kind == "plaid":  # deleted documents widen a filter's probes, which change the hits
        index.settings = replace(index.settings, probes=64)
    bytes_before = index_bytes(tmp_path / "index")
    gone = range(0, len(world.ids), 3)
    index.delete([world.ids[row] for row in gone])
    index.save()
    before = index.search(world.queries, K)
    index.compact()
    assert index_bytes(tmp_path / "index") < 0.9 * bytes_before
    for each in (index, open_index(tmp_path / "index")):
        for ours, theirs in zip(each.search(world.queries, K), before, strict=True):
            if case.name == "faiss-hnsw":  # its graph is another one
                continue
            assert [hit.document_id for hit in ours] == [hit.document_id for hit in theirs]
            np.testing.assert_allclose(
                [hit.score for hit in ours], [hit.score for hit in theirs], atol=1e-4
            )
    if case.kind != "lexical":
        left = [row for row in range(len(world.ids)) if row not in gone]
        check(case, index.search(world.queries, K), left)
    index.add([world.ids[row] for row in gone], world.take(gone))
    index.save()
    check(case, index.search(world.queries, K))


@each_of(CASES)
def test_compaction_of_nothing_left_makes_an_empty_index(case: Case, tmp_path: Path) -> None:
    world = case.world()
    index = case.build(tmp_path / "index", range(280))
    index.delete(world.ids[:280])
    index.compact()
    assert open_index(tmp_path / "index").search(world.queries, K) == [[]] * len(world.queries)
    index.add(world.ids, world.items)
    index.save()
    # FAISS keeps what it has learned from the first documents.
    if "pq" not in case.name and "sq8" not in case.name:
        check(case, open_index(tmp_path / "index").search(world.queries, K))


@each_of(CASES)
def test_upsert_replaces_what_is_there_and_adds_the_rest(case: Case, tmp_path: Path) -> None:
    world = case.world()
    rows = range(len(world.ids))
    index = case.build(tmp_path / "index", rows[: len(rows) // 2])
    # The wrong contents first, under ids that are there and ids that are not.
    wrong, ids = world.take(rows[:40]), [world.ids[row] for row in (*rows[20:40], *rows[-20:])]
    index.upsert(ids, wrong)
    index.save()
    assert len(index) == len(rows) // 2 + 20
    index.upsert(world.ids, world.items)
    index.save()
    assert len(index) == len(rows)
    # The range of 8 bits was learned from half of the documents: what lies outside is cut off.
    allowance = replace(case, tolerance=2 * case.tolerance) if "sq8" in case.name else case
    check(allowance, open_index(tmp_path / "index").search(world.queries, K))
    with pytest.raises(DuplicateIdError, match="'d1'"):
        index.upsert(["d1", "d1"], world.take([1, 2]))


@each_of(CASES)
def test_a_reader_keeps_what_it_opened(case: Case, tmp_path: Path) -> None:
    world = case.world()
    index = case.build(tmp_path / "index")
    reader = open_index(tmp_path / "index")
    before = reader.search(world.queries, K)
    index.delete(world.ids[:100])
    index.save()
    index.compact()
    index.upsert(world.ids[50:60], world.take(range(10)))
    index.save()
    assert reader.search(world.queries, K) == before
    assert len(reader) == len(world.ids)
    assert "d1" in reader


@given(
    st.lists(st.tuples(st.sampled_from(["add", "delete", "save"]), st.integers(0, 39)), max_size=25)
)
@settings(max_examples=15, deadline=None)
@pytest.mark.parametrize("kind", ["exact", "faiss", "lexical"])
def test_any_order_of_changes_gives_the_documents_that_are_left(
    kind: str, tmp_path_factory: pytest.TempPathFactory, changes: list[tuple[str, int]]
) -> None:
    """A fresh index of what is left answers as one that went through all the changes."""
    folder = tmp_path_factory.mktemp("changes")
    world = texts() if kind == "lexical" else single_vectors()
    index = index_class(kind).build(folder / "changed", [Batch(["d39"], world.take([39]))])
    left = {39}
    for change, row in changes:
        if change == "save":
            index.save()
            index.close()
            index = open_index(folder / "changed", writable=True)
        elif change == "add" and row not in left:
            index.add([f"d{row}"], world.take([row]))
            left.add(row)
        elif change == "delete" and row in left:
            index.delete([f"d{row}"])
            left.discard(row)
    rows = sorted(left)
    batch = Batch([f"d{row}" for row in rows], world.take(rows))
    fresh = index_class(kind).build(folder / "fresh", [batch] if rows else [])
    changed_hits = index.search(world.queries, 40)
    fresh_hits = fresh.search(world.queries, 40)
    for ours, theirs in zip(changed_hits, fresh_hits, strict=True):
        assert {hit.document_id for hit in ours} == {hit.document_id for hit in theirs}
        expected = {hit.document_id: hit.score for hit in theirs}
        for hit in ours:
            assert hit.score == pytest.approx(expected[hit.document_id], abs=1e-4)


@each_of(CASES)
def test_a_function_of_the_stored_document_says_what_may_be_found(
    case: Case, tmp_path: Path
) -> None:
    world = case.world()
    documents = [Document(each, f"text {at}") for at, each in enumerate(world.ids)]
    batch = Batch(world.ids, world.items, documents)
    index = index_class(case.kind).build(tmp_path / "index", [batch], settings=case.settings)
    index.delete(world.ids[1:2])
    by_function = index.search(
        world.queries, K, allowed=lambda document: int(document.text.split()[1]) % 5 == 1
    )
    assert by_function == index.search(world.queries, K, allowed=world.ids[1::5])
    assert index.search(world.queries, K, allowed=lambda document: False) == [[]] * len(by_function)


@each_of(CASES)
def test_a_function_needs_stored_documents(case: Case, tmp_path: Path) -> None:
    index = case.build(tmp_path / "index")
    with pytest.raises(InputError, match="keeps no documents"):
        index.search(case.world().queries, K, allowed=lambda document: True)


@each_of([case for case in VECTOR_CASES if case.name.startswith(("faiss-auto", "plaid", "exact"))])
def test_tensors_of_torch_are_taken(case: Case, tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    world = case.world()
    is_single = isinstance(world.items, np.ndarray)

    def tensors(items: Any) -> Any:
        return torch.tensor(items) if is_single else [torch.tensor(each) for each in items]

    batch = Batch(world.ids, tensors(world.items))
    index = index_class(case.kind).build(tmp_path / "index", [batch], settings=case.settings)
    expected = case.build(tmp_path / "arrays").search(world.queries, K)
    assert index.search(tensors(world.queries), K) == expected
    rounded = index.search([tensors(world.queries)[0].bfloat16()], K)[0]
    assert rounded[0].score == pytest.approx(expected[0][0].score, rel=0.02)
