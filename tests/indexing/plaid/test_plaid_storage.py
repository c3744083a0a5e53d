"""PLAID's files: segments that join, builds that go on, compaction that learns anew."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from retrieval.indexing.index import Batch
from retrieval.indexing.plaid import PlaidIndex, PlaidSettings, plaid_index
from retrieval.indexing.plaid.segment import Segment, invert, make_segment
from retrieval.indexing.plaid.segment_files import joined, map_segment, save_segments
from retrieval.indexing.vectors import Vectors
from retrieval.indexing.verify import verify_index
from retrieval.indexing.versions import current_version
from retrieval.records import Document

Tokens = Callable[[int, int], NDArray[np.float32]]
Documents = list[NDArray[np.float32]]

IDS = [f"d{at}" for at in range(400)]


@pytest.fixture(scope="module")
def documents(clustered: Tokens) -> Documents:
    """400 documents of 0 to 12 tokens."""
    lengths = np.random.default_rng(0).integers(0, 13, 400)
    return np.split(clustered(int(lengths.sum()), 1), np.cumsum(lengths)[:-1])


@pytest.fixture(scope="module")
def queries(clustered: Tokens) -> Documents:
    return np.split(clustered(100, 2), 20)


def batches(documents: Documents, size: int = 10) -> list[Batch[Sequence[Vectors]]]:
    ids = IDS[: len(documents)]
    return [
        Batch(
            ids[at : at + size],
            documents[at : at + size],
            [Document(each, f"text of {each}") for each in ids[at : at + size]],
        )
        for at in range(0, len(ids), size)
    ]


def arrays(folder: Path) -> dict[str, bytes]:
    return {
        path.name: path.read_bytes()
        for path in current_version(folder).iterdir()
        if path.name != "manifest.json"
    }


def assert_same(found: Segment, expected: Segment) -> None:
    ours, theirs = found.arrays(), expected.arrays()
    assert ours.keys() == theirs.keys()
    for name, array in theirs.items():
        assert ours[name].dtype == array.dtype, name
        assert np.array_equal(ours[name], array), name


def index_of(documents: Documents, keep_tokens: bool = True) -> PlaidIndex:
    index = PlaidIndex(PlaidSettings(keep_tokens=keep_tokens, bits=2))
    index.add(IDS[: len(documents)], documents)
    return index


@pytest.mark.parametrize("keep_tokens", [False, True])
def test_segments_that_join_are_as_one_that_was_made_at_once(
    documents: Documents, tmp_path: Path, keep_tokens: bool
) -> None:
    index = index_of(documents, keep_tokens)
    (whole,) = index._segments
    cuts = [0, 1, 7, 7, 100, 400]
    parts = [cut_out(whole, first, last) for first, last in pairwise(cuts)]
    assert_same(joined(parts), whole)
    save_segments(tmp_path / "segment.safetensors", parts)
    assert_same(map_segment(tmp_path / "segment.safetensors", index._codec), whole)


def test_a_segment_without_its_deleted_documents_is_one_that_never_had_them(
    documents: Documents, tmp_path: Path
) -> None:
    index = index_of(documents)
    (whole,) = index._segments
    live = np.random.default_rng(3).random(400) < 0.6
    parts = [cut_out(whole, 0, 150), cut_out(whole, 150, 400)]
    save_segments(tmp_path / "segment.safetensors", parts, [live[:150], live[150:]])
    singles = [cut_out(whole, at, at + 1) for at in np.flatnonzero(live).tolist()]
    expected = joined(singles)
    assert_same(map_segment(tmp_path / "segment.safetensors", index._codec), expected)


def cut_out(segment: Segment, first: int, last: int) -> Segment:
    rows = slice(segment.offsets[first], segment.offsets[last])
    offsets = segment.offsets[first : last + 1] - segment.offsets[first]
    return Segment(
        offsets,
        segment.codes[rows],
        segment.residuals[rows],
        segment.scales[rows],
        invert(segment.codes[rows], offsets),
        None if segment.tokens is None else segment.tokens[rows],
    )


def test_documents_added_one_by_one_make_few_segments_and_few_files(
    documents: Documents, queries: Documents, tmp_path: Path
) -> None:
    index = PlaidIndex.build(tmp_path / "index", batches(documents[:100]))
    for at in range(100, 160):
        text = Document(IDS[at], "text")
        index.add([IDS[at]], [documents[at]], documents=[text])
        if at % 2:
            index.save()
    assert len(index._segments) <= 8
    segments = [name for name in arrays(tmp_path / "index") if name.startswith("segment")]
    assert len(segments) == len(index._segments)
    at_once = PlaidIndex.open(tmp_path / "index")
    index.close()
    assert at_once.search(queries, 10) == index.search(queries, 10)
    assert verify_index(tmp_path / "index").documents == 160


class Killed(Exception):
    """Stands for the end of the process."""


class Dying:
    """Batches that kill the build in their second pass."""

    def __init__(self, batches: Sequence[Batch[Sequence[Vectors]]], number: int) -> None:
        self._batches, self._number, self._passes = batches, number, 0

    def __iter__(self) -> Iterator[Batch[Sequence[Vectors]]]:
        self._passes += 1
        yield from self._batches[: self._number] if self._passes == 2 else self._batches
        if self._passes == 2:
            raise Killed


@pytest.fixture
def small_lots(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plaid_index, "_ENCODED_AT_ONCE", 50)
    monkeypatch.setattr(plaid_index, "_FLUSHED_TOKENS", 200)


@pytest.mark.usefixtures("small_lots")
def test_a_build_in_lots_gives_the_same_files(
    documents: Documents, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    PlaidIndex.build(tmp_path / "lots", batches(documents)).close()
    PlaidIndex.build(tmp_path / "again", batches(documents, size=7)).close()
    monkeypatch.setattr(plaid_index, "_FLUSHED_TOKENS", 1 << 30)
    PlaidIndex.build(tmp_path / "whole", batches(documents)).close()
    assert arrays(tmp_path / "lots") == arrays(tmp_path / "again") == arrays(tmp_path / "whole")


@pytest.mark.usefixtures("small_lots")
@pytest.mark.parametrize("number", [0, 3, 25])
def test_a_killed_build_goes_on_from_its_last_segment(
    documents: Documents, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    folder = tmp_path / "index"
    with pytest.raises(Killed):
        PlaidIndex.build(folder, Dying(batches(documents), number))
    left = sorted(path.name for path in (folder / "versions" / ".build").glob("segment*"))
    assert len(left) == {0: 0, 3: 0, 25: 6}[number]
    encoded: list[int] = []
    encode = PlaidIndex._encode

    def counted(self: Any, codec: Any, nearest: Any, tokens: Any) -> Any:
        encoded.append(len(tokens))
        return encode(self, codec, nearest, tokens)

    with monkeypatch.context() as patch:
        patch.setattr(PlaidIndex, "_encode", counted)
        # The codec is there already: nothing is learned a second time.
        patch.setattr(PlaidIndex, "_train", None)
        PlaidIndex.build(folder, batches(documents)).close()
    total = sum(map(len, documents))
    assert sum(encoded) <= total - 200 * len(left)
    PlaidIndex.build(tmp_path / "fresh", batches(documents)).close()
    assert arrays(folder) == arrays(tmp_path / "fresh")
    assert [path.name for path in (folder / "versions").iterdir()] == ["000001"]


@pytest.mark.usefixtures("small_lots")
@pytest.mark.parametrize("other", ["settings", "ids", "vectors"])
def test_another_build_does_not_go_on_from_a_killed_one(
    documents: Documents, tmp_path: Path, other: str
) -> None:
    folder = tmp_path / "index"
    with pytest.raises(Killed):
        PlaidIndex.build(folder, Dying(batches(documents), 25))
    changed, settings = batches(documents), PlaidSettings()
    if other == "settings":
        settings = PlaidSettings(bits=2)
    elif other == "ids":
        changed[0].ids[0] = "another"  # type: ignore[index]
    else:
        changed[-1].items[-1][:] *= -1
    PlaidIndex.build(folder, changed, settings=settings).close()
    PlaidIndex.build(tmp_path / "fresh", changed, settings=settings).close()
    assert arrays(folder) == arrays(tmp_path / "fresh")


def test_compaction_learns_anew_only_where_documents_have_drifted(
    documents: Documents, queries: Documents, clustered: Tokens, tmp_path: Path
) -> None:
    index = PlaidIndex.build(tmp_path / "index", batches(documents[:200]))
    codec = arrays(tmp_path / "index")["codec.safetensors"]
    index.delete(IDS[:50])
    index.compact()
    assert arrays(tmp_path / "index")["codec.safetensors"] == codec
    # Tokens of another sort: all components in other places.
    strange = [np.roll(each, 5, axis=1) * -1 for each in documents[200:]]
    texts = [Document(each, "text") for each in IDS[200:]]
    index.add(IDS[200:], strange, documents=texts)
    index.compact()
    assert arrays(tmp_path / "index")["codec.safetensors"] != codec
    assert verify_index(tmp_path / "index").documents == 350
    found = index.search([strange[57]], 1)[0]
    assert found[0].document_id == "d257"
    again = PlaidIndex.open(tmp_path / "index")
    assert again.search(queries, 10) == index.search(queries, 10)
    left = sorted(path.name for path in (tmp_path / "index" / "versions").iterdir())
    assert left == [current_version(tmp_path / "index").name]


def test_kept_tokens_are_the_same_after_learning_anew(documents: Documents, tmp_path: Path) -> None:
    settings = PlaidSettings(keep_tokens=True)
    index = PlaidIndex.build(tmp_path / "index", batches(documents[:20]), settings=settings)
    texts = [Document(each, "text") for each in IDS[20:]]
    index.add(IDS[20:], documents[20:], documents=texts)
    index.compact()
    (segment,) = index._segments
    assert segment.tokens is not None
    expected = np.concatenate(documents).astype(np.float16)
    assert np.array_equal(segment.tokens, expected)


def test_a_segment_of_documents_without_tokens_joins_the_others(tmp_path: Path) -> None:
    empty = make_segment([0, 0], plaid_index._no_tokens())
    save_segments(tmp_path / "segment.safetensors", [empty, empty])
    found = map_segment(tmp_path / "segment.safetensors", None)
    assert found.offsets.tolist() == [0, 0, 0, 0, 0]
    assert found.documents == 4
