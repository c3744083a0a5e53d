"""Searches segments with wrong numbers in them until its processor time is up, or one does harm.

    python -m tests.indexing.plaid.fuzz --minutes 10

In the folder that `make test-sanitized` leaves and with its settings, what is read or written out
of bounds ends the program. Ends with how often a search came to an end and how often it said that
the files are damaged.
"""

from __future__ import annotations

import argparse
import time
from collections import Counter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from retrieval import native
from retrieval.errors import IndexFilesError
from retrieval.indexing.plaid.native_search import NativeSearcher
from retrieval.indexing.plaid.numpy_search import Effort
from retrieval.indexing.plaid.segment import Segment
from tests.indexing.plaid.plaid_worlds import ROUNDINGS, PlaidWorld, make_world

_SEARCHES = 24
"""Of each world by each instruction set."""


def damaged(segment: Segment, generator: np.random.Generator) -> Segment:
    """A copy with wrong numbers; each array lies on its own, so that nothing is behind it."""
    arrays = {name: np.array(array) for name, array in segment.arrays().items()}
    names = [name for name, array in arrays.items() if array.size]
    for name in generator.permutation(names)[: generator.integers(0, 3)]:
        _harm(arrays[name], generator)
    return Segment.from_arrays(arrays)


def _harm(array: NDArray[Any], generator: np.random.Generator) -> None:
    """Flip a bit, write a number at the edge, or fill a part with anything."""
    flat = array.reshape(-1)
    at = int(generator.integers(len(flat)))
    choice = generator.integers(3)
    if choice == 0:
        flat[at : at + 1].view(np.uint8)[generator.integers(array.itemsize)] ^= 1 << int(
            generator.integers(8)
        )
    elif choice == 1 and array.dtype.kind in "iu":
        limits = np.iinfo(array.dtype)
        near = [int(flat[at]) + 1, int(flat.max()) + 1, len(flat), limits.max, limits.min]
        flat[at] = min(int(generator.choice(near)), limits.max)
    else:
        part = flat[at : at + int(generator.integers(1, 9))]
        part.view(np.uint8)[:] = generator.integers(0, 256, part.nbytes)


def random_world(seed: int) -> PlaidWorld:
    """Few or many documents, short ones and long ones, some of them empty."""
    generator = np.random.default_rng(seed)
    width = int(generator.choice([8, 48, 64, 128]))
    roundings = [each for each in ROUNDINGS if each.takes(width)]
    rounding = roundings[generator.integers(len(roundings))]
    lengths = generator.integers(0, 40, generator.integers(1, 60)).tolist()
    lengths[0] = int(generator.choice([1, 100, 9000])) if width < 64 else 30
    cuts = np.sort(generator.integers(0, len(lengths) + 1, generator.integers(0, 4))).tolist()
    return make_world(width, rounding, lengths, cuts, centroids=int(generator.integers(1, 300)))


def search_damaged(world: PlaidWorld, seed: int) -> str:
    """Search a damaged copy once.

    Returns:
        "found" or "damaged".

    Raises:
        AssertionError: hits that no search may give.
    """
    generator = np.random.default_rng(seed)
    segments = [damaged(segment, generator) for segment in world.segments]
    documents = sum(segment.documents for segment in segments)
    query = world.query(int(generator.choice([1, 15, 16, 33, 70])), seed)
    effort = Effort(
        int(generator.integers(1, len(world.codec.centroids) + 1)),
        int(generator.integers(1, 60)),
        int(generator.integers(1, 40)),
        int(generator.choice([0, 5, 60])),
        float(generator.choice([0.05, 1.0, np.inf])),
        int(generator.integers(1, 40)),
        float(generator.choice([0.5, 3.0, np.inf])),
    )
    mask = generator.random(documents) < 0.7 if generator.integers(2) else None
    try:
        searcher = NativeSearcher(world.codec, segments)
        if generator.integers(3):
            positions, scores = searcher.search(query, effort, mask)
        else:
            mask = np.diff(world.offsets) > 0
            positions, scores = searcher.rank(query, np.flatnonzero(mask), effort)
    except IndexFilesError:
        return "damaged"
    assert len(set(positions.tolist())) == len(positions) == len(scores)
    assert ((positions >= 0) & (positions < documents)).all()
    assert mask is None or mask[positions].all()
    assert not np.isnan(scores).any()
    return "found"


def main() -> None:
    """Search until the time is up."""
    parser = argparse.ArgumentParser(description="search damaged segments")
    parser.add_argument("--minutes", type=float, default=1.0)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    counts: Counter[str] = Counter()
    seed = given.seed
    while time.process_time() < 60 * given.minutes:
        world = random_world(seed)
        for name in native.instruction_sets():
            native.choose_instruction_set(name)
            for _ in range(_SEARCHES):
                seed += 1
                try:
                    counts[f"{name} {search_damaged(world, seed)}"] += 1
                except BaseException:
                    print(f"seed {seed} of {name}")
                    raise
    for name, count in sorted(counts.items()):
        print(f"{name}: {count}")


if __name__ == "__main__":
    main()
