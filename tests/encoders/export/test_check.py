"""The comparison that decides whether an export is kept."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import pytest
from numpy.typing import NDArray

from retrieval.encoders.export.check import largest_difference
from retrieval.encoders.tokens import Role
from retrieval.errors import ExportError
from retrieval.records import ModelReference

Vectors = list[NDArray[np.float32]]


class Counting:
    """One vector of ones a letter."""

    reference = ModelReference("counting", "0", True, 2)

    def encode_queries(self, texts: Iterable[str]) -> Iterator[NDArray[np.float32]]:
        return (np.ones((len(text), 2), np.float32) for text in texts)

    encode_documents = encode_queries


def difference(moved: dict[tuple[str, Role, int], float], extra: int = 0) -> float:
    """Compare with a copy that is moved for some (text, role, batch size)."""

    def encode(texts: Sequence[str], role: Role) -> Vectors:
        vectors = Counting().encode_queries([text + "x" * extra for text in texts])
        return [each + moved.get((text, role, len(texts)), 0) for each, text in zip(vectors, texts)]

    return largest_difference(Counting(), encode, tolerance=1e-3, texts=["a", "bb"])


@pytest.mark.parametrize("role", ["query", "document"])
@pytest.mark.parametrize("batch_size", [1, 2])
def test_every_text_counts_in_each_role_and_batch(role: Role, batch_size: int) -> None:
    assert difference({("bb", role, batch_size): -0.0005}) == pytest.approx(0.0005, rel=1e-3)
    with pytest.raises(ExportError, match=r"differ from the model's by up to 2\.0e-03"):
        difference({("bb", role, batch_size): 0.002})


def test_another_number_of_vectors_is_refused() -> None:
    with pytest.raises(ExportError, match=r"gives \(2, 2\) vectors for the query 'a'"):
        difference({}, extra=1)


def test_nan_is_refused() -> None:
    with pytest.raises(ExportError, match="by up to nan"):
        difference({("a", "query", 1): float("nan")})
