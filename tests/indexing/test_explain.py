"""A score taken apart: the matches are the best ones, and they sum to it."""

from __future__ import annotations

import numpy as np
import pytest

from retrieval.encoders.multi_vector import MultiVectorEncoder
from retrieval.encoders.token_texts import token_texts
from retrieval.errors import InputError, ShapeError
from retrieval.indexing.explain import explain, explain_texts
from retrieval.scoring import maxsim
from tests.indexing.worlds import multi_vectors


def test_the_matches_sum_to_the_oracles_score() -> None:
    world = multi_vectors()
    for query, row in ((0, 1), (3, 50), (7, 399)):
        found = explain(world.queries[query], world.items[row])
        assert found.score == pytest.approx(world.scores[query, row], abs=1e-5)
        assert sum(match.similarity for match in found.matches) == pytest.approx(found.score)
        for number, match in enumerate(found.matches):
            similarities = world.items[row] @ world.queries[query][number]
            assert match.query_token == number
            assert match.document_token == similarities.argmax()
            assert match.similarity == pytest.approx(similarities.max(), abs=1e-6)


def test_negative_matches_stay_negative() -> None:
    found = explain(np.array([[1.0, 0.0]]), np.array([[-0.5, 0.0], [-1.0, 0.0]]))
    assert (found.score, found.matches[0].document_token) == (-0.5, 0)


def test_the_text_is_a_table_that_ends_with_the_score() -> None:
    query = np.eye(2, dtype=np.float32)
    document = np.array([[0.0, 0.5], [1.0, 0.0]], np.float32)
    found = explain(query, document, query_texts=["big", "cat"], document_texts=["lion", "huge"])
    assert str(found).splitlines() == [
        "big     huge    1.000",
        "cat     lion    0.500",
        "MaxSim          1.500",
    ]
    assert str(explain(query, document)).splitlines()[0] == "token 0  token 1    1.000"


def test_a_query_without_tokens_is_an_empty_sum() -> None:
    found = explain(np.empty((0, 2)), np.ones((1, 2)))
    assert (found.score, found.matches) == (0.0, ())


def test_an_encoders_tokens_are_named(tiny_backbone: object) -> None:
    encoder = MultiVectorEncoder.from_backbone(
        str(tiny_backbone), width=16, query_length=12, device="cpu"
    )
    question, document = "read a file", "the path of a file (or a folder)"
    found = explain_texts(encoder, question, document)
    (query,), (vectors,) = (
        list(encoder.encode_queries([question])),
        list(encoder.encode_documents([document])),
    )
    assert found.score == pytest.approx(maxsim([query], [vectors])[0, 0], abs=1e-5)
    shown = [match.query_text for match in found.matches]
    assert len(shown) == 12
    assert shown[1] == "[Q]"
    assert shown[-1] == "[MASK]"
    assert "file" in shown
    named = token_texts(encoder, document, "document")
    assert named is not None
    assert [match.document_text for match in found.matches] == [
        named[match.document_token] for match in found.matches
    ]


def test_misuse_is_named() -> None:
    one = np.ones((2, 3))
    with pytest.raises(InputError, match="no token vectors"):
        explain(one, np.empty((0, 3)))
    with pytest.raises(InputError, match="1 texts for the 2 tokens of the query"):
        explain(one, one, query_texts=["a"])
    with pytest.raises(ShapeError, match="query 0"):
        explain(np.ones((2, 4)), one)
