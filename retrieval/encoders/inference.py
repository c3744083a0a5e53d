"""Encode windows of texts: tokenised without padding, sorted, cut by a token budget.

A ModernBERT runs packed; any other backbone runs as Sentence Transformers runs it, on batches of
nearly one length. What comes after the backbone (pooling, projections, masks, normalisation) is
always the model's own modules.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from retrieval.backbone.attention_choice import AttentionName
from retrieval.backbone.modernbert import PackedModernBert, is_modernbert
from retrieval.backbone.packing import PackedBatch, pack, to_device, token_batches, unpack
from retrieval.encoders.tokens import Role, Tokens, UnpaddedTokenizer
from retrieval.encoders.workers import Workers
from retrieval.errors import ConfigError

logger = logging.getLogger(__name__)

# Tokens of a batch on one processor core: as much as its share of the cache holds, and enough
# that a layer's products take far longer than the calls to them.
CPU_TOKENS = 1_024

# And on a GPU at the most; fewer where its free memory asks for it.
ACCELERATOR_TOKENS = 65_536

_NO_TOKENS = np.empty((0, 0), np.float32)


class Batch(NamedTuple):
    """A model's output for some texts, on the processor.

    Attributes:
        numbers: of the texts in their window.
        features: what the model's last module gave; rows are texts, or one row holds all tokens.
        lengths: tokens of each text.
    """

    numbers: NDArray[np.int64]
    features: dict[str, Any]
    lengths: NDArray[np.int32]


class BatchedInference:
    """Runs a Sentence Transformers 6 model over texts.

    Attributes:
        attention: of a ModernBERT; "auto" takes the fastest that the device has.
        max_tokens: of a batch; None takes what suits the device.
        is_int8: whether a ModernBERT's linear layers are computed in 8 bits.
        encoded_tokens: tokens sent through the model so far.
        truncated_texts: texts that were longer than their limit, so far.
    """

    def __init__(
        self,
        model: Any,
        *,
        attention: AttentionName = "auto",
        max_tokens: int | None = None,
        is_int8: bool = False,
    ) -> None:
        self.attention: AttentionName = attention
        self.is_int8 = is_int8
        self.max_tokens = max_tokens
        self.encoded_tokens = 0
        self.truncated_texts = 0
        self._model = model
        self._accelerator_tokens = max_tokens
        self._workers = Workers()
        self._tokenizer: UnpaddedTokenizer | None = None
        self._packed: PackedModernBert | None = None

    def of(self, model: Any) -> BatchedInference:
        """The same for another model of the same modules; workers and packed weights are shared."""
        other = copy.copy(self)
        other._model = model
        other.encoded_tokens = other.truncated_texts = 0
        return other

    def can_do(self, prompt: str, role: Role) -> bool:
        """Whether this model is one that we can feed: a text Transformer, tokenised as expected.

        Raises:
            ConfigError: int8 was asked for, and this is no ModernBERT that we can feed.
        """
        transformer = self._model[0]
        can_do = is_text_transformer(transformer)
        if can_do:
            if self._tokenizer is None or self._tokenizer.transformer is not transformer:
                self._tokenizer = UnpaddedTokenizer(transformer)
            can_do = self._tokenizer.can_do(prompt, role)
        if self.is_int8 and not (can_do and is_modernbert(transformer.auto_model)):
            raise ConfigError(
                "int8 is for a ModernBERT under Sentence Transformers 6: take bfloat16 or float32"
            )
        return can_do

    def begin(
        self, texts: Sequence[str], *, prompt: str, role: Role
    ) -> Callable[[], Iterator[Batch]]:
        """Start to encode a window of texts in the background.

        Args:
            texts: that are sorted by length together.
            prompt: put before each of them.
            role: decides limits, query expansion and what the modules make of it.

        Returns:
            Gives the batches, longest texts first, when they are asked for.
        """
        assert self._tokenizer is not None, "can_do() was not asked"
        self._model.eval()
        device = self._model.device
        tokens = self._tokenise(texts, prompt, role)
        self.encoded_tokens += int(tokens.lengths.sum())
        self._count_truncated(tokens, role)
        prompt_length = self._prompt_length(prompt)

        def run(numbers: NDArray[np.int64]) -> Batch:
            return self._run(numbers, tokens, role, prompt_length)

        self._wrap_backbone()
        if device.type != "cpu":
            return self._on_accelerator(tokens, run)
        parts = self._workers.count
        batches = token_batches(tokens.lengths, self.max_tokens or CPU_TOKENS, parts=parts)
        if len(batches) == 1:  # nothing to share: all torch threads work on the one
            return lambda: iter([run(batches[0])])
        futures = [self._workers.submit(run, numbers) for numbers in batches]
        return lambda: _results(futures)

    def _tokenise(self, texts: Sequence[str], prompt: str, role: Role) -> Tokens:
        """In the workers, who take a share of the texts each."""
        assert self._tokenizer is not None, "can_do() was not asked"
        shares = min(self._workers.count, max(1, len(texts) // 64))
        if shares == 1:
            return self._tokenizer(texts, prompt=prompt, role=role)
        cuts = np.linspace(0, len(texts), shares + 1).astype(int)
        futures = [
            self._workers.submit(self._tokenizer, texts[start:end], prompt=prompt, role=role)
            for start, end in pairwise(cuts)
        ]
        parts = [future.result() for future in futures]
        return Tokens(
            [ids for part in parts for ids in part.ids],
            np.concatenate([part.real for part in parts]),
            parts[0].is_attended,
            sum(part.truncated for part in parts),
        )

    def _count_truncated(self, tokens: Tokens, role: Role) -> None:
        if tokens.truncated and not self.truncated_texts:
            logger.info("some %s texts are longer than the model's limit and are cut", role)
        self.truncated_texts += tokens.truncated

    def _prompt_length(self, prompt: str) -> int | None:
        """Tokens of the prompt, where pooling leaves them out."""
        pooling = self._model[1] if len(self._model) > 1 else None
        if not prompt or getattr(pooling, "include_prompt", True):
            return None
        features = self._model[0].preprocess(["a"], prompt=prompt)
        length: int | None = features.get("prompt_length")
        return length

    def _wrap_backbone(self) -> None:
        """Make the packed forward of a ModernBERT, and anew where the model was given another."""
        backbone = self._model[0].auto_model
        if not is_modernbert(backbone):
            return
        if self._packed is None or self._packed.model is not backbone:
            self._packed = PackedModernBert(backbone, is_int8=self.is_int8)
        self._packed.attention = self.attention

    def _on_accelerator(
        self, tokens: Tokens, run: Callable[[NDArray[np.int64]], Batch]
    ) -> Callable[[], Iterator[Batch]]:
        """Queue one batch after the other; one that runs out of memory halves the budget."""
        device = self._model.device
        if self._accelerator_tokens is None:
            self._accelerator_tokens = _tokens_that_fit(self._model[0].auto_model, device)
        done: list[Batch] = []
        waiting = token_batches(tokens.lengths, self._accelerator_tokens)
        while waiting:
            numbers = waiting.pop(0)
            try:
                done.append(run(numbers))
                continue
            except torch.OutOfMemoryError:
                if len(numbers) == 1:
                    raise
            # Only here, where no exception holds the tensors of the failed run any more.
            longest = int(tokens.lengths[numbers].max())
            self._accelerator_tokens = max(longest, self._accelerator_tokens // 2)
            logger.warning("out of memory: batches of %d tokens now", self._accelerator_tokens)
            if device.type == "cuda":
                torch.cuda.empty_cache()
            left = np.concatenate([numbers, *waiting])
            again = token_batches(tokens.lengths[left], self._accelerator_tokens)
            waiting = [left[each] for each in again]

        # Only this window is waited for: the next one is queued behind it by then.
        event: Any = torch.Event(device) if device.type == "cuda" else None
        if event is not None:
            event.record()

        def finished() -> Iterator[Batch]:
            if event is not None:
                event.synchronize()
            return iter(done)

        return finished

    def _run(
        self, numbers: NDArray[np.int64], tokens: Tokens, role: Role, prompt_length: int | None
    ) -> Batch:
        with torch.inference_mode():
            batch = _packed(numbers, tokens, self._model.device)
            if self._packed is None or not is_modernbert(self._model[0].auto_model):
                features = self._model[0](self._padded(batch, tokens.real[numbers]))
            else:
                pooled = None if prompt_length is not None else self._pooled_tokens(batch)
                states = self._packed(batch, pooled)
                seen = batch if pooled is None else batch.only(pooled)
                features = self._features(states, seen, tokens.real[numbers])
            if prompt_length is not None:
                features["prompt_length"] = prompt_length
            features = _after_backbone(self._model, features, role)
            kept = {
                name: value.to("cpu", non_blocking=value.is_cuda)
                for name, value in features.items()
                if name in ("sentence_embedding", "token_embeddings", "attention_mask")
                and isinstance(value, Tensor)
            }
            if "sentence_embedding" in kept:
                kept = {"sentence_embedding": kept["sentence_embedding"]}
        return Batch(numbers, kept, batch.lengths)

    def _pooled_tokens(self, batch: PackedBatch) -> Tensor | None:
        """(N,) the token of each text that pooling takes; None where it takes more of them."""
        from sentence_transformers.sentence_transformer.modules import Pooling

        pooling: Any = self._model[1] if len(self._model) > 1 else None
        if type(pooling) is not Pooling or batch.key_lengths is not None:
            return None
        mode = pooling.pooling_mode
        if mode not in ("cls", "lasttoken"):
            return None
        offsets = batch.offsets.astype(np.int64)
        return to_device(offsets[:-1] if mode == "cls" else offsets[1:] - 1, batch.ids.device)

    def _features(
        self, states: Tensor, batch: PackedBatch, real: NDArray[np.int32]
    ) -> dict[str, Any]:
        """Token states as the next module takes them, without padding where it can."""
        from sentence_transformers.sentence_transformer.modules import Pooling

        following = [type(module) for module in self._model][1:]
        if following and following[0] is Pooling and batch.key_lengths is None:
            # Sentence Transformers' own form for flash attention.
            return {
                "modality": "text",
                "input_ids": batch.ids[None],
                "token_embeddings": states[None],
                "cu_seq_lens_q": batch.offsets_on_device,
                "seq_idx": batch.sequence_of[None],
            }
        if all(each in _token_modules() for each in following):
            # They look at one token at a time, so all tokens may be one row.
            ones = torch.ones_like(batch.ids)
            return {
                "modality": "text",
                "input_ids": batch.ids[None],
                "token_embeddings": states[None],
                "attention_mask": ones[None],
            }
        padded = self._padded(batch, real)
        return {**padded, "token_embeddings": unpack(states, batch.lengths)}

    def _padded(self, batch: PackedBatch, real: NDArray[np.int32]) -> dict[str, Any]:
        """What Sentence Transformers' own preprocessing would give."""
        ids = unpack(batch.ids[:, None], batch.lengths)[:, :, 0]
        positions = torch.arange(ids.shape[1], device=ids.device)
        lengths = to_device(batch.lengths, ids.device)
        is_token = positions < lengths[:, None]
        # Some models tell positions by what is not padding.
        pad_id = self._model[0].tokenizer.pad_token_id
        features = {"modality": "text", "input_ids": ids.masked_fill(~is_token, pad_id or 0)}
        if int((batch.lengths - real).max()) > 0:
            is_text = positions < to_device(real, ids.device)[:, None]
            features["query_expansion_positions"] = is_token & ~is_text
            if batch.key_lengths is not None:
                is_token = is_text
        features["attention_mask"] = is_token.long()
        return features


def token_vectors(batches: Iterator[Batch], count: int) -> list[NDArray[np.float32]]:
    """The scored tokens' vectors of `count` texts, in their order, from a multi-vector model."""
    embeddings: list[NDArray[np.float32]] = [_NO_TOKENS] * count
    for numbers, features, lengths in batches:
        vectors = features["token_embeddings"].float()
        is_scored = features["attention_mask"].bool()
        if len(is_scored) == 1:  # one row of all tokens
            counts = np.add.reduceat(is_scored[0].numpy(), _starts(lengths), dtype=np.int64)
        else:
            counts = is_scored.sum(1).numpy()
        flat = vectors[is_scored].numpy()
        for number, each in zip(numbers, np.split(flat, np.cumsum(counts)[:-1]), strict=True):
            embeddings[number] = each.copy()  # not a view that keeps the whole batch alive
    return embeddings


def _starts(lengths: NDArray[np.int32]) -> NDArray[np.int64]:
    starts: NDArray[np.int64] = np.cumsum(lengths, dtype=np.int64) - lengths
    return starts


def _results(futures: Sequence[Future[Batch]]) -> Iterator[Batch]:
    try:
        for future in futures:
            yield future.result()
    finally:  # whoever stops listening stops the work
        for future in futures:
            future.cancel()


def _tokens_that_fit(backbone: Any, device: torch.device) -> int:
    """A budget whose activations take half of a GPU's free memory, within reason."""
    if device.type != "cuda":
        return ACCELERATOR_TOKENS
    free, _ = torch.cuda.mem_get_info(device)
    config = backbone.config
    intermediate = getattr(config, "intermediate_size", None) or 4 * config.hidden_size
    # Bytes of a token in the widest moment of a layer: states, queries, keys and values in two
    # formats, both halves of the gated activation.
    token_bytes = 64 * config.hidden_size + 16 * intermediate
    return int(min(ACCELERATOR_TOKENS, max(CPU_TOKENS, free // 2 // token_bytes)))


def is_text_transformer(module: Any) -> bool:
    """Whether this is Sentence Transformers 6's Transformer over plain texts."""
    try:
        from sentence_transformers.base.modules import Transformer
    except ImportError:
        return False
    if type(module) is not Transformer or set(module.modality_config) != {"text"}:
        return False
    text = module.modality_config["text"]
    return text["method"] == "forward" and text["method_output_name"] in (
        "last_hidden_state",
        ("last_hidden_state",),
    )


def _packed(numbers: NDArray[np.int64], tokens: Tokens, device: torch.device) -> PackedBatch:
    ids = [tokens.ids[number] for number in numbers]
    key_lengths = None
    if not tokens.is_attended:
        key_lengths = tokens.real[numbers].tolist()
    return pack(ids, key_lengths, device=device)


def _token_modules() -> tuple[type, ...]:
    from sentence_transformers.base.modules import Dense, Normalize
    from sentence_transformers.multi_vector_encoder.modules import MultiVectorMask

    return Dense, Normalize, MultiVectorMask


def _after_backbone(model: Any, features: dict[str, Any], role: Role) -> dict[str, Any]:
    """Every module but the first, as `BaseModel.forward` of Sentence Transformers calls them."""
    from sentence_transformers.base.modules import Normalize

    for name, module in list(model.named_children())[1:]:
        if isinstance(module, Normalize) and module.module_input_name in features:
            # In bfloat16 a vector would come out up to 0.5 % too long or too short.
            features[module.module_input_name] = features[module.module_input_name].float()
        wanted = {
            *(model.module_kwargs or {}).get(name, ()),
            *getattr(module, "forward_kwargs", ()),
        }
        features = module(features, **({"task": role} if "task" in wanted else {}))
    return features
