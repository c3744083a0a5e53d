"""Random sequences of changes against a dictionary of truth, with a reader that looks on."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from retrieval.indexing import index_class, open_index
from retrieval.indexing.exact import ExactSettings
from retrieval.indexing.index import Batch, Index
from retrieval.indexing.plaid import PlaidSettings
from retrieval.indexing.verify import verify_index
from retrieval.records import Document
from retrieval.scoring import maxsim

SEQUENCES = 1_000
"""Of PLAID's changes in the slow test; the others have fewer of the same."""
FEW_SEQUENCES = 100
WIDTH = 8
IDS = [f"d{number}" for number in range(12)]
SETTINGS: dict[str, Any] = {
    "exact": ExactSettings(),
    # Every document is scored, by tokens that are kept: PLAID has to find all of them.
    "plaid": PlaidSettings(scored=1_000, rescored=1_000, keep_tokens=True),
}
Steps = list[tuple[str, set[str]]]
Truth = dict[str, int]
"""For each id which of its contents it has: 0 when it was added first, 1 after that, ..."""

STEPS = st.lists(
    st.tuples(
        st.sampled_from(["add", "upsert", "delete", "search", "compact", "save", "reopen", "look"]),
        st.sets(st.sampled_from(IDS), min_size=1, max_size=5),
    ),
    max_size=14,
)
QUERY = np.eye(WIDTH, dtype=np.float32)[:3]


def tokens(identifier: str, edition: int) -> NDArray[np.float32]:
    """One to three tokens; some documents have none."""
    number = IDS.index(identifier)
    rows = np.random.default_rng([number, edition]).standard_normal((number % 4, WIDTH))
    units: NDArray[np.float64] = rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1)
    return units.astype(np.float32)


def document(identifier: str, edition: int) -> Document:
    return Document(identifier, f"edition {edition}", identifier)


def check_answers(index: Index[Any], truth: Truth) -> None:
    assert len(index) == len(truth)
    assert [each for each in IDS if each in index] == sorted(truth, key=IDS.index)
    for each, edition in truth.items():
        assert index.document(each) == document(each, edition)
    filled = [each for each in truth if len(tokens(each, truth[each]))]
    scores = [maxsim([QUERY], [tokens(each, truth[each])])[0, 0] for each in filled]
    expected = dict(zip(filled, scores))
    hits = index.search([QUERY], 50)[0]
    assert {hit.document_id for hit in hits} == set(expected)
    for hit in hits:
        assert hit.score == pytest.approx(float(expected[hit.document_id]), abs=0.005)
    half = filled[::2]
    assert {hit.document_id for hit in index.search([QUERY], 50, allowed=half)[0]} == set(half)


def follow(kind: str, steps: Steps, folder: Path) -> None:
    def rows(ids: Sequence[str], truth: Truth) -> dict[str, Any]:
        return {
            "items": [tokens(each, truth[each]) for each in ids],
            "documents": [document(each, truth[each]) for each in ids],
        }

    truth: Truth = {"d1": 0, "d2": 0, "d3": 0}
    editions = dict.fromkeys(IDS, 0)
    first = list(truth)
    index = index_class(kind).build(
        folder, [Batch(first, **rows(first, truth))], settings=SETTINGS[kind]
    )
    saved = dict(truth)
    readers = [(open_index(folder), dict(saved))]
    for step, chosen in steps:
        known, new = sorted(chosen & truth.keys()), sorted(chosen - truth.keys())
        if step in ("add", "upsert"):
            ids = sorted(chosen) if step == "upsert" else new
            for each in ids:
                editions[each] += 1
                truth[each] = editions[each]
            (index.add if step == "add" else index.upsert)(ids, **rows(ids, truth))
        elif step == "delete":
            index.delete(known)
            for each in known:
                del truth[each]
        elif step == "save":
            index.save()
            saved = dict(truth)
        elif step == "compact":
            index.compact()
            saved = dict(truth)
        elif step == "reopen":
            index.close()
            index, truth = open_index(folder, writable=True), dict(saved)
        elif step == "look":
            readers.append((open_index(folder), dict(saved)))
        if step in ("search", "compact", "reopen"):
            check_answers(index, truth)
    check_answers(index, truth)
    for reader, what_it_saw in readers:
        check_answers(reader, what_it_saw)
    assert verify_index(folder).documents == len(saved)


@pytest.mark.parametrize("kind", SETTINGS)
@given(steps=STEPS)
@settings(max_examples=FEW_SEQUENCES, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_any_sequence_of_changes_gives_what_a_dictionary_gives(
    kind: str, steps: Steps, memory_folder: Path
) -> None:
    follow(kind, steps, Path(tempfile.mkdtemp(dir=memory_folder)))


@pytest.mark.slow
@given(steps=STEPS)
@settings(max_examples=SEQUENCES, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_a_thousand_sequences_give_what_a_dictionary_gives(
    steps: Steps, memory_folder: Path
) -> None:
    follow("plaid", steps, Path(tempfile.mkdtemp(dir=memory_folder)))
