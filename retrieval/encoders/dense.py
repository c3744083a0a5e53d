"""The single-vector encoder: a SentenceTransformer with streams and a fingerprint."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
import torch
from numpy.typing import NDArray
from sentence_transformers import SentenceTransformer
from sentence_transformers.util import get_device_name

from retrieval.backbone.attention_choice import AttentionName
from retrieval.backbone.precision import has_fast_bfloat16
from retrieval.encoders.checkpoints import checkpoint_kind, remembered_name
from retrieval.encoders.fingerprint import fingerprint
from retrieval.encoders.inference import BatchedInference
from retrieval.encoders.prompts import copy_with_prompts, set_prompts
from retrieval.encoders.quantization import Quantization
from retrieval.encoders.starters import checkpoint_folder
from retrieval.encoders.streaming import Report, in_windows, silent
from retrieval.encoders.token_limits import set_token_limits
from retrieval.encoders.tokens import Role
from retrieval.errors import CheckpointError, ConfigError, MissingNativeError
from retrieval.records import ModelReference

Dtype = Literal["float32", "bfloat16", "float16", "auto", "int8"]
"""Of a model's weights; "auto" is bfloat16 where the device computes it in hardware. "int8" is the
same with the linear layers of a ModernBERT rounded to 8 bits, on a processor."""


class DenseEncoder:
    """Encodes a text as one vector.

    A ModernBERT runs without padding; the vectors are those of `SentenceTransformer.encode_query`
    and `encode_document`.

    Attributes:
        model: the SentenceTransformer that does the work; its `truncate_dim` cuts the embeddings.
        batch_size: texts in a forward pass, for models that only their own library can run.
        inference: how the others are run, and how many tokens they were given.
        normalize: whether embeddings are brought to unit length after they were cut.
        quantization: what makes codes or bits of them; None leaves them float32.
    """

    is_multi_vector = False

    def __init__(
        self,
        model: SentenceTransformer,
        *,
        name: str | None = None,
        batch_size: int = 32,
        attention: AttentionName = "auto",
        max_tokens: int | None = None,
        normalize: bool | None = None,
        quantization: Quantization | None = None,
        is_int8: bool = False,
    ) -> None:
        self.model = model
        self.inference = BatchedInference(
            model, attention=attention, max_tokens=max_tokens, is_int8=is_int8
        )
        self.batch_size = batch_size
        self.normalize = self._needs_unit_length() if normalize is None else normalize
        self.quantization = quantization
        self._loaded: dict[str, Any] = {}
        self._options: dict[str, Any] = {}
        self._name = name or model.model_card_data.base_model or "SentenceTransformer"

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
        normalize: bool | None = None,
        query_length: int | None = None,
        document_length: int | None = None,
        query_prompt: str | None = None,
        document_prompt: str | None = None,
        quantization: Quantization | Mapping[str, Any] | None = None,
    ) -> Self:
        """Load a Sentence Transformers checkpoint.

        Args:
            name: a folder, a name on the hub, or a starter (`encoders.starters`).
            device: "cpu", "cuda", ...; None takes a GPU where there is one.
            dtype: of the weights; the embeddings are float32 always.
            revision: a branch, tag or commit on the hub.
            batch_size: texts in a forward pass, for models that only their own library can run.
            attention: of a ModernBERT; "auto" takes the fastest that the device has.
            max_tokens: of a batch; None takes what suits the device.
            width: leading components that are kept (Matryoshka), as Sentence Transformers'
                `truncate_dim`. None keeps what the checkpoint says.
            normalize: bring embeddings to unit length, after the cut, as Sentence Transformers'
                `normalize_embeddings`. None does so where the model compares by cosine: what
                Sentence Transformers leaves to `similarity`, an index by dot products needs.
            query_length: tokens of a query, instead of the checkpoint's limit.
            document_length: the same for documents.
            query_prompt: put before every query, instead of the checkpoint's prompt.
            document_prompt: the same for documents.
            quantization: makes codes or bits of the embeddings, or its mapping.

        Raises:
            CheckpointError: nothing is there, or it is a plain backbone or a multi-vector model.
            ConfigError: a width or a limit that the model does not have, or a prompt that leaves
                no room for a text.
        """
        name = remembered_name(name)
        where = checkpoint_folder(name)
        kind = checkpoint_kind(where, revision=revision)
        if kind == "multi_vector":
            raise CheckpointError(f"{name}: a multi-vector model: load it with MultiVectorEncoder")
        if kind == "backbone":
            raise CheckpointError(
                f"{name}: a plain backbone, not a trained retriever: start one from it with "
                "DenseEncoder.from_backbone"
            )
        model = SentenceTransformer(
            where,
            device=device,
            revision=revision,
            truncate_dim=width,
            model_kwargs={"dtype": torch_dtype(dtype, device)},
        )
        set_token_limits(model, query_length, document_length)
        set_prompts(model, query_prompt, document_prompt)
        if isinstance(quantization, Mapping):
            quantization = Quantization.from_mapping(quantization)
        encoder = cls(
            model,
            name=name,
            batch_size=batch_size,
            attention=attention,
            max_tokens=max_tokens,
            normalize=normalize,
            quantization=quantization,
            is_int8=dtype == "int8",
        )
        if width is not None and not 1 <= width <= encoder._full_width():
            raise ConfigError(f"width is {width}, expected 1 to {encoder._full_width()} for {name}")
        encoder._options = {
            "width": width,
            "normalize": normalize,
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
        pooling: Literal["mean", "cls"] = "mean",
        width: int | None = None,
        query_length: int | None = None,
        document_length: int | None = None,
        query_prefix: str = "",
        document_prefix: str = "",
        device: str | None = None,
        seed: int = 0,
    ) -> Self:
        """Start an untrained retriever from a plain backbone, such as a ModernBERT.

        Args:
            name: a folder or hub name of a transformers model with its tokenizer.
            pooling: how token states become one vector, "mean" or "cls".
            width: of a linear projection after pooling; None keeps the backbone's width.
            query_length: tokens of a query, prefix and special tokens included; None takes the
                backbone's limit.
            document_length: the same for documents.
            query_prefix: text put before every query.
            document_prefix: text put before every document.
            device: as in `load`.
            seed: of the projection's weights.

        Raises:
            ConfigError: an unknown pooling.
            MissingNativeError: Sentence Transformers is older than 6.
        """
        try:
            from sentence_transformers.base.modules import Dense, Normalize, Transformer
            from sentence_transformers.sentence_transformer.modules import Pooling
        except ImportError as error:
            raise MissingNativeError(
                "DenseEncoder.from_backbone needs sentence-transformers >= 6.0: upgrade it"
            ) from error
        if pooling not in ("mean", "cls"):
            raise ConfigError(f"pooling is {pooling!r}, expected 'mean' or 'cls'")
        transformer = Transformer(
            str(name), query_length=query_length, document_length=document_length
        )
        backbone_width = transformer.get_embedding_dimension()
        modules: list[torch.nn.Module] = [transformer, Pooling(backbone_width, pooling)]
        if width is not None:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(seed)
                projection = Dense(
                    backbone_width, width, bias=False, activation_function=torch.nn.Identity()
                )
            modules.append(projection)
        modules.append(Normalize())
        model = SentenceTransformer(
            modules=modules,
            device=device,
            prompts={"query": query_prefix, "document": document_prefix},
        )
        return cls(model, name=str(name))

    @property
    def width(self) -> int:
        """The number of components of an embedding, before it is quantized."""
        model: Any = self.model
        getter = getattr(model, "get_embedding_dimension", None)
        return int(getter() if getter else model.get_sentence_embedding_dimension())

    @cached_property
    def reference(self) -> ModelReference:
        """Name, fingerprint, kind, width and options; computed once, and again after `save`."""
        model: Any = self.model
        settings = {
            "kind": "dense",
            "prompts": {key: value for key, value in sorted(model.prompts.items()) if value},
            "default_prompt": model.default_prompt_name,
            "lengths": [
                model.max_seq_length,
                getattr(model[0], "query_length", None),
                getattr(model[0], "document_length", None),
            ],
            "modules": [
                [type(module).__name__, getattr(module, "pooling_mode", None)] for module in model
            ],
            **self._output_settings(),
        }
        width = self.quantization.width(self.width) if self.quantization else self.width
        return ModelReference(
            name=self._name,
            fingerprint=fingerprint(model.state_dict(), model.tokenizer, settings),
            is_multi_vector=False,
            width=width,
            options=self._given_options(),
        )

    @property
    def reload(self) -> Callable[..., Self] | None:
        """Loads the same encoder on the device given as `device`; None unless `load` made it."""
        if not self._loaded:
            return None
        return partial(type(self).load, **self._loaded, **self._given_options())

    def quantized(self, quantization: Quantization | None) -> Self:
        """The same encoder with another form of its embeddings; the model is shared."""
        other = copy.copy(self)
        other.__dict__.pop("reference", None)
        other.quantization = quantization
        return other

    def with_prompts(self, *, query: str | None = None, document: str | None = None) -> Self:
        """The same encoder with other prompts, and so with another fingerprint.

        The weights are shared.

        Args:
            query: put before every query; "" for nothing, None for what is put there now.
            document: the same for documents.

        Raises:
            ConfigError: a prompt that leaves no room for a text.
        """
        return copy_with_prompts(self, query, document)

    def encode_queries(self, texts: Iterable[str]) -> Iterator[NDArray[Any]]:
        """Stream (D,) float32 embeddings of queries, or codes where quantized, in order."""
        return in_windows(texts, lambda window: self._begin(window, "query"), len)

    def encode_documents(self, texts: Iterable[str]) -> Iterator[NDArray[Any]]:
        """Stream (D,) float32 embeddings of documents, or codes where quantized, in order."""
        return in_windows(texts, self.begin_documents, len)

    def begin_documents(
        self, texts: list[str], report: Report = silent
    ) -> Callable[[], NDArray[Any]]:
        """Start to encode documents in the background; what is returned gives their (N, D)."""
        return self._begin(texts, "document", report)

    def save(self, folder: str | Path) -> None:
        """Write a Sentence Transformers checkpoint."""
        self.model.save_pretrained(str(folder))
        self._name = remembered_name(folder)
        # Asked again, the reference names this folder and knows what training changed.
        self.__dict__.pop("reference", None)

    def _begin(
        self, texts: list[str], role: Role, report: Report = silent
    ) -> Callable[[], NDArray[Any]]:
        prompt = self._prompt(role)
        if not self.inference.can_do(prompt, role):
            return lambda: self._by_sentence_transformers(texts, role, report)
        batches = self.inference.begin(texts, prompt=prompt, role=role)

        def finish() -> NDArray[Any]:
            embeddings = np.empty((len(texts), self.width), np.float32)
            for numbers, features, lengths in batches():
                embedded = features["sentence_embedding"][:, : self.width].float()
                if self.normalize:
                    embedded = torch.nn.functional.normalize(embedded, p=2, dim=1)
                embeddings[numbers] = embedded
                report(len(numbers), int(lengths.sum()))
            return self.quantization(embeddings) if self.quantization else embeddings

        return finish

    def _prompt(self, role: Role) -> str:
        """The prompt that `encode_query` or `encode_document` would choose."""
        model: Any = self.model
        names = ("query",) if role == "query" else ("document", "passage", "corpus")
        name = next((each for each in names if each in model.prompts), model.default_prompt_name)
        return model.prompts.get(name) or "" if name else ""

    def _by_sentence_transformers(
        self, texts: list[str], role: Role, report: Report
    ) -> NDArray[Any]:
        model: Any = self.model
        encode = model.encode_query if role == "query" else model.encode_document
        embeddings = encode(
            texts,
            batch_size=self.batch_size,
            show_progress_bar=False,
            convert_to_numpy=True,
            normalize_embeddings=self.normalize,
        )
        report(len(texts), 0)
        embeddings = np.asarray(embeddings, dtype=np.float32)
        return self.quantization(embeddings) if self.quantization else embeddings

    def _full_width(self) -> int:
        model: Any = self.model
        cut, model.truncate_dim = model.truncate_dim, None
        try:
            return self.width
        finally:
            model.truncate_dim = cut

    def _needs_unit_length(self) -> bool:
        """Whether the model compares by cosine what it does not bring to unit length itself."""
        model: Any = self.model
        is_unit = type(model[-1]).__name__ == "Normalize" and self.width == self._full_width()
        return model.similarity_fn_name == "cosine" and not is_unit

    def _given_options(self) -> dict[str, Any]:
        options = {key: value for key, value in self._options.items() if value is not None}
        if self.quantization is not None:
            options["quantization"] = self.quantization.to_mapping()
        return options

    def _output_settings(self) -> dict[str, Any]:
        """What the fingerprint has to know of the form of the embeddings; nothing by default."""
        model: Any = self.model
        settings: dict[str, Any] = {}
        is_cut = self.width < self._full_width()
        if is_cut:
            settings["width"] = self.width
        if self.normalize and (is_cut or type(model[-1]).__name__ != "Normalize"):
            settings["normalize"] = True
        if self.quantization is not None:
            settings["quantization"] = self.quantization.to_mapping()
        return settings


def torch_dtype(dtype: Dtype, device: str | None) -> torch.dtype:
    """The number format of the weights; "auto" asks the device that None stands for."""
    if dtype in ("auto", "int8"):
        device = device or get_device_name()
        return torch.bfloat16 if has_fast_bfloat16(device) else torch.float32
    chosen: torch.dtype = getattr(torch, dtype)
    return chosen
