"""The ColBERT-style encoder: one vector a token, from Sentence Transformers 6 or from PyLate."""

from __future__ import annotations

import string
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import sentence_transformers
import torch
from numpy.typing import NDArray

from retrieval.backbone.attention_choice import AttentionName
from retrieval.encoders.checkpoints import checkpoint_kind, remembered_name
from retrieval.encoders.dense import Dtype, torch_dtype
from retrieval.encoders.fingerprint import fingerprint
from retrieval.encoders.inference import Batch, BatchedInference, token_vectors
from retrieval.encoders.multi_vector_models import (
    HAS_NATIVE,
    add_prefix_tokens,
    encode_by_library,
    is_pylate,
    model_class,
    save_prefixes,
)
from retrieval.encoders.multi_vector_settings import native_settings, pylate_settings
from retrieval.encoders.prompts import copy_with_prompts, markers_of, set_prompts
from retrieval.encoders.starters import checkpoint_folder
from retrieval.encoders.streaming import Report, in_windows, silent
from retrieval.encoders.token_limits import check_token_limit, document_limit, set_token_limits
from retrieval.encoders.token_reduction import TokenReduction
from retrieval.encoders.tokens import Role
from retrieval.errors import CheckpointError, ConfigError, MissingNativeError
from retrieval.records import ModelReference

if TYPE_CHECKING:
    from sentence_transformers import MultiVectorEncoder as NativeModel


class MultiVectorEncoder:
    """Encodes a text as one unit-length vector a token; texts are compared by MaxSim.

    Attributes:
        model: the `sentence_transformers.MultiVectorEncoder` or `pylate.models.ColBERT` that does
            the work.
        batch_size: texts in a forward pass, for models that only their own library can run.
        inference: how the others are run, and how many tokens they were given.
        reduction: what is cut off or pooled of the vectors that the model gives.
    """

    is_multi_vector = True

    def __init__(
        self,
        model: Any,
        *,
        name: str | None = None,
        batch_size: int = 32,
        attention: AttentionName = "auto",
        max_tokens: int | None = None,
        reduction: TokenReduction | None = None,
        is_int8: bool = False,
    ) -> None:
        self.model = model
        self.inference = BatchedInference(
            model, attention=attention, max_tokens=max_tokens, is_int8=is_int8
        )
        self.batch_size = batch_size
        self.reduction = reduction or TokenReduction()
        self._loaded: dict[str, Any] = {}
        self._options: dict[str, Any] = {}
        self._is_pylate = is_pylate(model)
        # Set by Sentence Transformers for PyLate and Stanford checkpoints only.
        legacy = getattr(model, "_legacy", None)
        self._inserted_prefixes: dict[str, str] = legacy.prefixes if legacy is not None else {}
        self._name = name or model.model_card_data.base_model or type(model).__name__
        cut, width = self.reduction.width, self._full_width()
        if cut is not None and not 1 <= cut <= width:
            raise ConfigError(f"width is {cut}, expected 1 to {width} for {self._name}")

    @classmethod
    def load(
        cls,
        name: str | Path,
        *,
        device: str | None = None,
        dtype: Dtype = "float32",
        revision: str | None = None,
        batch_size: int = 32,
        attention: AttentionName = "auto",
        max_tokens: int | None = None,
        width: int | None = None,
        pool_factor: float = 1.0,
        protected_tokens: int = 1,
        query_length: int | None = None,
        document_length: int | None = None,
        query_prompt: str | None = None,
        document_prompt: str | None = None,
    ) -> Self:
        """Load a Sentence Transformers, PyLate or Stanford ColBERT checkpoint.

        Args:
            name: a folder, a name on the hub, or a starter (`encoders.starters`).
            device: "cpu", "cuda", ...; None takes a GPU where there is one.
            dtype: of the weights; the embeddings are float32 always.
            revision: a branch, tag or commit on the hub.
            batch_size: texts in a forward pass, for models that only their own library can run.
            attention: of a ModernBERT; "auto" takes the fastest that the device has.
            max_tokens: of a batch; None takes what suits the device.
            width: leading components of every token's vector that are kept (Matryoshka), at unit
                length again.
            pool_factor: documents keep about one of so many vectors, as `TokenReduction` pools.
            protected_tokens: leading tokens of a document that are not pooled.
            query_length: tokens of a query, instead of the checkpoint's limit; expanded queries
                get so many.
            document_length: the same for documents.
            query_prompt: as in `with_prompts`.
            document_prompt: the same.

        Raises:
            CheckpointError: nothing is there, or it is a plain backbone or a dense model.
            ConfigError: a width, factor, limit or prompt that the model can't have.
            MissingExtraError: Sentence Transformers is older than 6 and PyLate is not installed.
        """
        name = remembered_name(name)
        where = checkpoint_folder(name)
        kind = checkpoint_kind(where, revision=revision)
        if kind != "multi_vector":
            found = "a dense model" if kind == "dense" else "a plain backbone"
            raise CheckpointError(
                f"{name}: {found}, not a multi-vector model: load it with DenseEncoder, or start "
                "a multi-vector one from it with MultiVectorEncoder.from_backbone"
            )
        model = model_class()(
            where,
            device=device,
            revision=revision,
            model_kwargs={"dtype": torch_dtype(dtype, device)},
        )
        reduction = TokenReduction(
            width=width, pool_factor=pool_factor, protected_tokens=protected_tokens
        )
        encoder = cls(
            model,
            name=name,
            batch_size=batch_size,
            attention=attention,
            max_tokens=max_tokens,
            reduction=reduction,
            is_int8=dtype == "int8",
        )
        if encoder._inserted_prefixes and model[0].document_length is None:
            model[0].document_length = 180  # PyLate's default, where the checkpoint names none
        set_token_limits(model, query_length, document_length)
        set_prompts(model, query_prompt, document_prompt, markers=encoder._markers())
        encoder._options = {
            "query_length": query_length,
            "document_length": document_length,
            "query_prompt": query_prompt,
            "document_prompt": document_prompt,
        }
        encoder._loaded = {
            "name": name,
            "dtype": dtype,
            "revision": revision,
            "batch_size": batch_size,
            "attention": attention,
            "max_tokens": max_tokens,
        }
        return encoder

    @classmethod
    def from_backbone(
        cls,
        name: str | Path,
        *,
        width: int = 128,
        query_length: int = 32,
        document_length: int = 180,
        query_prefix: str = "[Q] ",
        document_prefix: str = "[D] ",
        query_expansion: bool = True,
        attend_to_expansion: bool = False,
        skiplist: Sequence[str] = tuple(string.punctuation),
        device: str | None = None,
        seed: int = 0,
    ) -> Self:
        """Start an untrained ColBERT from a plain backbone; the defaults are PyLate's.

        Args:
            name: a folder or hub name of a transformers model with its tokenizer.
            width: of a token's vector.
            query_length: tokens of a query, prefix and special tokens included.
            document_length: the same for documents.
            query_prefix: marks queries; becomes one new token.
            document_prefix: marks documents; becomes one new token.
            query_expansion: fill queries up to `query_length` with mask tokens that are scored.
            attend_to_expansion: whether the query's own tokens see the mask tokens.
            skiplist: document tokens that are not scored; punctuation by default.
            device: as in `load`.
            seed: of the projection's weights and the new tokens' embeddings.

        Raises:
            MissingNativeError: Sentence Transformers is older than 6.

        Source: Khattab and Zaharia 2020, arXiv:2004.12832.
        """
        if not HAS_NATIVE:
            raise MissingNativeError(
                "MultiVectorEncoder.from_backbone needs sentence-transformers >= 6.0, found "
                f"{sentence_transformers.__version__}: make the model with pylate.models.ColBERT "
                "and wrap it, or upgrade"
            )
        from sentence_transformers.base.modules import Dense, Normalize, Transformer
        from sentence_transformers.multi_vector_encoder.modules import MultiVectorMask

        expansion: Any = {
            "strategy": "fixed",
            "attend": attend_to_expansion,
            "length": query_length,
        }
        transformer = Transformer(
            str(name),
            query_length=query_length,
            document_length=document_length,
            query_expansion=expansion if query_expansion else None,
        )
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            add_prefix_tokens(transformer, [query_prefix, document_prefix])
            projection = Dense(
                transformer.get_embedding_dimension(),
                width,
                bias=False,
                activation_function=torch.nn.Identity(),
                module_input_name="token_embeddings",
            )
        model: NativeModel = sentence_transformers.MultiVectorEncoder(
            modules=[
                transformer,
                projection,
                MultiVectorMask(skiplist_words=list(skiplist)),
                Normalize(module_input_name="token_embeddings"),
            ],
            device=device,
            prompts={"query": query_prefix, "document": document_prefix},
        )
        return cls(model, name=str(name))

    @property
    def width(self) -> int:
        """The number of components of a token's vector."""
        return self.reduction.width or self._full_width()

    @cached_property
    def reference(self) -> ModelReference:
        """Name, fingerprint, kind, width and options; computed once, and again after `save`."""
        read_settings = pylate_settings if self._is_pylate else native_settings
        settings = read_settings(self.model) | self.reduction.settings(self._full_width())
        return ModelReference(
            name=self._name,
            fingerprint=fingerprint(self.model.state_dict(), self.model.tokenizer, settings),
            is_multi_vector=True,
            width=self.width,
            options=self._given_options(),
        )

    @property
    def reload(self) -> Callable[..., Self] | None:
        """Loads the same encoder on the device given as `device`; None unless `load` made it."""
        if not self._loaded:
            return None
        return partial(type(self).load, **self._loaded, **self._given_options())

    def with_prompts(self, *, query: str | None = None, document: str | None = None) -> Self:
        """The same encoder with other prompts, and so with another fingerprint.

        A token that marks queries or documents ("[Q] ", "[D] ") stays, and the prompt follows it.
        The weights are shared.

        Args:
            query: put before every query; "" for nothing, None for what is put there now.
            document: the same for documents.

        Raises:
            ConfigError: a prompt that leaves no room for a text.
        """
        return copy_with_prompts(self, query, document, markers=self._markers())

    def encode_queries(self, texts: Iterable[str]) -> Iterator[NDArray[np.float32]]:
        """Stream (tokens, D) float32 embeddings of queries, in order."""
        return in_windows(texts, lambda window: self._begin(window, "query"), len)

    def encode_documents(
        self, texts: Iterable[str], *, limits: Iterable[int] | None = None
    ) -> Iterator[NDArray[np.float32]]:
        """Stream (tokens, D) float32 embeddings of documents, in order; skipped tokens are out.

        Args:
            texts: any number of texts.
            limits: tokens that are read of each text, as `document_length` would have it; the
                model's own limit where None. Few different ones keep batches full.

        Raises:
            ConfigError: a limit that the model can't have.
        """
        if limits is None:
            return in_windows(texts, self.begin_documents, len)
        return in_windows(zip(texts, limits, strict=True), self._begin_limited, _text_length)

    def begin_documents(
        self, texts: list[str], report: Report = silent
    ) -> Callable[[], list[NDArray[np.float32]]]:
        """Start to encode documents in the background; what is returned gives their vectors."""
        return self._begin(texts, "document", report)

    def prompted(self, texts: list[str], role: Role) -> tuple[list[str], str]:
        """The texts, and the prompt before each of them, as the model is given them."""
        prompt = "" if self._is_pylate else self.model.prompts.get(role) or ""
        if self._inserted_prefixes:
            # PyLate cuts the blanks around prompt and text before it inserts the prefix token;
            # Sentence Transformers 6 keeps them, and they would be tokens.
            prefix = self._inserted_prefixes.get(role, "")
            texts = [(prompt.removeprefix(prefix) + text).strip() for text in texts]
            prompt = prefix
        return texts, prompt

    def save(self, folder: str | Path) -> None:
        """Write a checkpoint in the format of the wrapped model's library."""
        self.model.save_pretrained(str(folder))
        if self._inserted_prefixes:
            save_prefixes(Path(folder), self.model, self._inserted_prefixes)
        self._name = remembered_name(folder)
        # Asked again, the reference names this folder and knows what training changed.
        self.__dict__.pop("reference", None)

    def _begin(
        self, texts: list[str], role: Role, report: Report = silent
    ) -> Callable[[], list[NDArray[np.float32]]]:
        texts, prompt = self.prompted(texts, role)
        if self._is_pylate or not self.inference.can_do(prompt, role):

            def finish() -> list[NDArray[np.float32]]:
                vectors = encode_by_library(self.model, texts, prompt, role, self.batch_size)
                report(len(texts), 0)
                return self.reduction(vectors, role)

            return finish
        batches = self.inference.begin(texts, prompt=prompt, role=role)
        return lambda: self.reduction(token_vectors(_reported(batches(), report), len(texts)), role)

    def _begin_limited(
        self, window: list[tuple[str, int]]
    ) -> Callable[[], list[NDArray[np.float32]]]:
        """Start to encode documents that have limits of their own; equal limits go together."""
        groups: dict[int, list[int]] = {}
        for number, (_, limit) in enumerate(window):
            groups.setdefault(limit, []).append(number)
        begun = {}
        for limit, numbers in groups.items():
            check_token_limit(self.model, "document_length", limit)
            with document_limit(self.model, limit):
                begun[limit] = self.begin_documents([window[number][0] for number in numbers])

        def finish() -> list[NDArray[np.float32]]:
            vectors: dict[int, NDArray[np.float32]] = {}
            for limit, numbers in groups.items():
                with document_limit(self.model, limit):
                    vectors.update(zip(numbers, begun[limit](), strict=True))
            return [vectors[number] for number in range(len(window))]

        return finish

    def _markers(self) -> dict[str, str]:
        """What stays in front of a prompt; PyLate itself puts it there."""
        return {} if self._is_pylate else {**markers_of(self.model), **self._inserted_prefixes}

    def _full_width(self) -> int:
        if self._is_pylate:
            return int(self.model[-1].out_features)
        return int(self.model.get_embedding_dimension())

    def _given_options(self) -> dict[str, Any]:
        options = {**self.reduction.options(), **self._options}
        return {key: value for key, value in options.items() if value is not None}


def _reported(batches: Iterator[Batch], report: Report) -> Iterator[Batch]:
    for batch in batches:
        yield batch
        report(len(batch.numbers), int(batch.lengths.sum()))


def _text_length(item: tuple[str, int]) -> int:
    return len(item[0])
