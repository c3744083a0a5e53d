"""Compare the vectors of an export with those of the encoder that it was made from."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from retrieval.encoders.protocol import Encoder
from retrieval.encoders.tokens import Role
from retrieval.errors import ExportError

_SENTENCE = "The keeper wrote down the wind, the tide and the weather of every hour."

# Lengths from one token to beyond most limits; whatever normalisers and skiplists treat specially.
PROBES = (
    "a",
    "Naïve café, 東京 🌊 decomposed: ü",
    "def f(x):\n\treturn x ** 2  # [MASK], don't",
    "?! ... (;) -- [D] [Q]",
    "REPEATED repeated Repeated",
    *(" ".join([_SENTENCE] * count) for count in (1, 3, 8, 30)),
)

Encode = Callable[[Sequence[str], Role], list[NDArray[np.float32]]]


def largest_difference(
    encoder: Encoder, encode: Encode, *, tolerance: float, texts: Sequence[str] = PROBES
) -> float:
    """The largest absolute difference between the components of two encoders' vectors.

    Args:
        encoder: the one that is right.
        encode: gives the vectors of texts of a role, as the export does.
        tolerance: the largest difference that is accepted.
        texts: compared as queries and as documents, alone and all together.

    Raises:
        ExportError: it is larger, or a text has another number of vectors.
    """
    differences = [0.0]
    roles: tuple[Role, Role] = ("query", "document")
    for role in roles:
        both = encoder.encode_queries if role == "query" else encoder.encode_documents
        expected = list(both(texts))
        alone = [vectors for text in texts for vectors in encode([text], role)]
        together = encode(texts, role)
        for ours, theirs, text in zip(
            [*expected, *expected], [*alone, *together], [*texts, *texts]
        ):
            if ours.shape != theirs.shape:
                raise ExportError(
                    f"the export gives {theirs.shape} vectors for the {role} {text[:40]!r}, the "
                    f"model {ours.shape}: nothing was written"
                )
            if ours.size:
                differences.append(float(np.abs(ours - theirs).max()))
    largest = float(np.max(differences))  # NaN where any is
    if not largest <= tolerance:
        raise ExportError(
            f"the export's vectors differ from the model's by up to {largest:.1e}, more than "
            f"{tolerance:.0e}: nothing was written"
        )
    return largest
