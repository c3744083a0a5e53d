"""Pairs as token ids, by source, and the batches of a run: weighted, seeded, without duplicates."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from retrieval.errors import InputError
from retrieval.files import BadLines, read_jsonl
from retrieval.training.shared_backbone import TokenIds, TokenPairs

Tokenize = Callable[[list[str], int], list[list[int]]]
"""Takes texts and a limit in tokens; gives token ids, special ones included."""

_BLOCK = 20_000


class Texts:
    """Texts of many lengths as one array of token ids: two bytes a token."""

    def __init__(self, texts: Sequence[str], tokenize: Tokenize, max_tokens: int) -> None:
        """Tokenise all texts, cut to `max_tokens`."""
        parts: list[NDArray[np.uint16]] = []
        lengths: list[int] = []
        for start in range(0, len(texts), _BLOCK):
            found = tokenize(list(texts[start : start + _BLOCK]), max_tokens)
            lengths += map(len, found)
            parts.append(np.concatenate([np.array(each, np.uint16) for each in found]))
        self._ids = np.concatenate(parts)
        self._offsets = np.concatenate([[0], np.cumsum(lengths)])

    def __len__(self) -> int:
        return len(self._offsets) - 1

    def __getitem__(self, number: int) -> TokenIds:
        return self._ids[self._offsets[number] : self._offsets[number + 1]]


class PairSource:
    """The pairs of one file."""

    def __init__(
        self, path: Path, tokenize: Tokenize, *, query_tokens: int, document_tokens: int
    ) -> None:
        """Read and tokenise a JSONL file with `anchor` (or `query`) and `positive`.

        Raises:
            InputError: no such file, or a line without both texts.
        """
        queries: list[str] = []
        documents: list[str] = []
        for number, record in read_jsonl(path, BadLines()):
            query, document = record.get("anchor", record.get("query")), record.get("positive")
            if not isinstance(query, str) or not isinstance(document, str):
                raise InputError(f"{path}:{number}: expected texts as 'anchor' and 'positive'")
            queries.append(query)
            documents.append(document)
        if not queries:
            raise InputError(f"{path}: holds no pairs")
        self.queries = Texts(queries, tokenize, query_tokens)
        self.documents = Texts(documents, tokenize, document_tokens)

    def __len__(self) -> int:
        return len(self.queries)


def text_batches(
    sources: Sequence[PairSource],
    *,
    tokens: int,
    query_share: float,
    max_tokens: int,
    seed: int,
    block: int = 1024,
) -> Iterator[TokenPairs]:
    """Endless batches of single texts of like length, to follow a teacher on.

    Args:
        sources: queries and documents of all pairs are drawn alike.
        tokens: of a batch, at most (one text may have more).
        query_share: of the texts, that are queries.
        max_tokens: longer texts are cut.
        seed: of the order.
        block: texts that are drawn and sorted together.
    """
    rng = np.random.default_rng(seed)
    ends = np.cumsum([len(each) for each in sources])
    while True:
        drawn: list[TokenIds] = []
        for number in rng.choice(ends[-1], block):
            at = int(np.searchsorted(ends, number, side="right"))
            source, row = sources[at], int(number - (ends[at] - len(sources[at])))
            texts = source.queries if rng.random() < query_share else source.documents
            drawn.append(texts[row][:max_tokens])
        drawn.sort(key=len)
        groups: list[list[TokenIds]] = [[]]
        for text in drawn:
            if groups[-1] and sum(map(len, groups[-1])) + len(text) > tokens:
                groups.append([])
            groups[-1].append(text)
        for group in rng.permutation(len(groups)):
            yield TokenPairs([], groups[group])


def pair_batches(
    sources: Mapping[str, PairSource],
    weights: Mapping[str, float],
    *,
    pairs: int,
    one_source_share: float,
    seed: int,
) -> Iterator[TokenPairs]:
    """Endless batches of pairs.

    Args:
        sources: by name.
        weights: how often each is drawn, whatever its size.
        pairs: of a batch; fewer where a query or a document came twice.
        one_source_share: of the batches, that come from one source: their negatives are harder.
        seed: of the order.
    """
    rng = np.random.default_rng(seed)
    names = list(weights)
    shares = np.array([weights[name] for name in names])
    shares = shares / shares.sum()
    while True:
        if rng.random() < one_source_share:
            chosen = [str(rng.choice(names, p=shares))] * pairs
        else:
            chosen = [str(name) for name in rng.choice(names, pairs, p=shares)]
        seen: set[bytes] = set()
        batch = TokenPairs([], [])
        for name in chosen:
            source = sources[name]
            row = int(rng.integers(len(source)))
            query, document = source.queries[row], source.documents[row]
            keys = {b"query" + query.tobytes(), b"document" + document.tobytes()}
            if keys & seen:
                continue
            seen |= keys
            batch.queries.append(query)
            batch.documents.append(document)
        yield batch


def teacher_of(bert: Any, pad_id: int, batch_size: int = 16) -> Callable[..., Any]:
    """The token states of a `transformers.BertModel`, computed in batches of like length."""
    import torch

    def states(texts: Sequence[TokenIds]) -> torch.Tensor:
        found: list[torch.Tensor | None] = [None] * len(texts)
        order = np.argsort([len(each) for each in texts], kind="stable")
        for start in range(0, len(order), batch_size):
            numbers = order[start : start + batch_size]
            longest = max(len(texts[number]) for number in numbers)
            ids = torch.full((len(numbers), longest), pad_id)
            mask = torch.zeros(len(numbers), longest, dtype=torch.long)
            for row, number in enumerate(numbers):
                text = torch.from_numpy(texts[number].astype(np.int64))
                ids[row, : len(text)] = text
                mask[row, : len(text)] = 1
            with torch.no_grad():
                out = bert(ids, attention_mask=mask).last_hidden_state.float()
            for row, number in enumerate(numbers):
                found[number] = out[row, : len(texts[number])]
        return torch.cat([each for each in found if each is not None])

    return states
