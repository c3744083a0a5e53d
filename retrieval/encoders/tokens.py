"""Texts to token ids without padding, as a Sentence Transformers model would tokenise them."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerFast

logger = logging.getLogger(__name__)

Role = Literal["query", "document"]

# What has to come out equal before our own tokenisation is trusted with a model.
_PROBE = (
    "",
    "a",
    " outer blanks \n",
    "Naïve café, 東京!",
    "def f(x):\n\treturn x  # [MASK]",
)

NO_LIMIT = 1_000_000
"""From here on a tokenizer's limit is transformers' mark for "no limit known"."""


_CHARACTERS_A_TOKEN = 32
"""More than any usual text has: only longer ones are looked at twice."""


class Tokens(NamedTuple):
    """Token ids of some texts.

    Attributes:
        ids: of each text, special tokens and query expansion included.
        real: how many of them are the text's own; the rest is query expansion.
        is_attended: whether the text's own tokens see the expansion.
        truncated: texts that were longer than the limit.
    """

    ids: list[list[int]]
    real: NDArray[np.int32]
    is_attended: bool
    truncated: int

    @property
    def lengths(self) -> NDArray[np.int32]:
        """Tokens of each text, expansion included."""
        return np.fromiter(map(len, self.ids), np.int32, len(self.ids))


class UnpaddedTokenizer:
    """Tokenises for the `Transformer` module of Sentence Transformers 6.

    It works on a copy of the model's Rust tokenizer: after one call by Sentence Transformers the
    shared one keeps padding switched on.
    """

    def __init__(self, transformer: Any) -> None:
        self.transformer = transformer
        self._source: Any = None
        self._size = 0
        self._copies: dict[int | None, Tokenizer] = {}
        self._trusted: dict[tuple[Any, ...], bool] = {}

    def can_do(self, prompt: str, role: Role) -> bool:
        """Whether a probe of odd texts gives the ids that the model's own tokenisation gives."""
        transformer = self.transformer
        tokenizer = transformer.tokenizer
        if not isinstance(tokenizer, PreTrainedTokenizerFast) or tokenizer.padding_side != "right":
            return False
        settings = (transformer.query_expansion, transformer.processing_kwargs)
        key = (prompt, role, self.limit(role), str(settings), self._refreshed())
        if key not in self._trusted:
            self._trusted[key] = self._agrees(prompt, role)
        return self._trusted[key]

    def __call__(self, texts: Sequence[str], *, prompt: str, role: Role) -> Tokens:
        """Tokenise.

        Args:
            texts: any texts.
            prompt: put before each of them.
            role: decides the limit, and whether query expansion applies.
        """
        self._refreshed()
        limit = self.limit(role)
        prompted = [self._beginning(prompt + text, limit) for text in texts]
        encodings = self._tokenizer(limit).encode_batch_fast(prompted)
        ids = [encoding.ids for encoding in encodings]
        real = np.fromiter(map(len, ids), np.int32, len(ids))
        truncated = sum(
            bool(encodings[number].overflowing) for number in np.flatnonzero(real == limit)
        )
        expansion = self.transformer.query_expansion if role == "query" else None
        if expansion is None:
            return Tokens(ids, real, True, truncated)
        token = self.expansion_id(expansion)
        ids = [each + [token] * (expansion["length"] - len(each)) for each in ids]
        return Tokens(ids, real, bool(expansion["attend"]), truncated)

    def limit(self, role: Role) -> int | None:
        """Tokens of the longest text, special tokens included; None where there is no limit."""
        transformer = self.transformer
        limit = transformer.query_length if role == "query" else transformer.document_length
        expansion = transformer.query_expansion if role == "query" else None
        if expansion is not None and expansion["strategy"] == "fixed":
            limit = expansion["length"]
        elif expansion is not None and limit is not None:
            limit = max(limit, expansion["length"])
        limit = limit or transformer.tokenizer.model_max_length
        return limit if limit is not None and limit < NO_LIMIT else None

    def expansion_id(self, expansion: Any) -> int:
        """The token that queries are filled up with."""
        tokenizer = self.transformer.tokenizer
        if expansion["token"] is not None:
            return int(tokenizer.convert_tokens_to_ids(expansion["token"]))
        mask = tokenizer.mask_token_id
        return int(tokenizer.eos_token_id if mask is None else mask)

    def _beginning(self, text: str, limit: int | None) -> str:
        """As much of a very long text as its tokens up to the limit come from.

        A tokenizer takes a hundred times the memory of what it is given, also for what it cuts
        off. It treats words apart: what stands behind the next two can't change a token.
        """
        if limit is None or self.transformer.tokenizer.truncation_side != "right":
            return text
        size = limit * _CHARACTERS_A_TOKEN
        while size < len(text):
            beginning = text[:size]
            offsets = self._tokenizer(limit).encode(beginning).offsets
            end = max((end for _, end in offsets), default=0)
            rest = beginning[end:]
            # Half of it, where there are no blanks between words.
            if len(rest.split(maxsplit=3)) > 3 or len(rest) > size // 2:
                return beginning
            size *= 2
        return text

    def _refreshed(self) -> int:
        """Forget the copies where the model's tokenizer was replaced or has more tokens."""
        tokenizer = self.transformer.tokenizer
        backend = tokenizer.backend_tokenizer
        if backend is not self._source or len(tokenizer) != self._size:
            self._source, self._size = backend, len(tokenizer)
            self._copies.clear()
            self._trusted.clear()
        return self._size

    def _tokenizer(self, limit: int | None) -> Tokenizer:
        """A copy that truncates: the limit is a tokenizer's state, so each limit has its own."""
        if limit not in self._copies:
            copy = Tokenizer.from_str(self._source.to_str())
            copy.no_padding()
            copy.no_truncation()
            if limit is not None:
                side = self.transformer.tokenizer.truncation_side
                copy.enable_truncation(limit, direction=side)
            self._copies[limit] = copy
        return self._copies[limit]

    def _agrees(self, prompt: str, role: Role) -> bool:
        # The last one shows whether the limit that we found is the one that counts.
        probe = [*_PROBE, "word " * (self.limit(role) or 600)]
        features = self.transformer.preprocess(probe, prompt=prompt or None, task=role)
        if "input_ids" not in features or "attention_mask" not in features:
            return False
        ids, mask = features["input_ids"], features["attention_mask"].bool()
        if "query_expansion_positions" in features:
            mask = mask | features["query_expansion_positions"]
        expected = [row[keep].tolist() for row, keep in zip(ids, mask, strict=True)]
        agrees = self(probe, prompt=prompt, role=role).ids == expected
        if not agrees:
            logger.warning(
                "the model tokenises %s texts in a way of its own: encoding goes through "
                "Sentence Transformers, with padding",
                role,
            )
        return agrees
