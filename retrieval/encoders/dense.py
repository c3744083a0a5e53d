"""The single-vector encoder: a SentenceTransformer with streams and a fingerprint."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
import torch
from numpy.typing import NDArray
from sentence_transformers import SentenceTransformer

from retrieval.backbone.attention_choice import AttentionName
from retrieval.encoders.checkpoints import checkpoint_kind, remembered_name
from retrieval.encoders.fingerprint import fingerprint
from retrieval.encoders.inference import BatchedInference
from retrieval.encoders.streaming import in_windows
from retrieval.encoders.tokens import Role
from retrieval.errors import CheckpointError, ConfigError, MissingNativeError
from retrieval.records import ModelReference

Dtype = Literal["float32", "bfloat16", "float16"]


class DenseEncoder:
    """Encodes a text as one vector.

    A ModernBERT runs without padding; the vectors are those of `SentenceTransformer.encode_query`
    and `encode_document`.

    Attributes:
        model: the SentenceTransformer that does the work.
        batch_size: texts in a forward pass, for models that only their own library can run.
        inference: how the others are run, and how many tokens they were given.
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
    ) -> None:
        self.model = model
        self.inference = BatchedInference(model, attention=attention, max_tokens=max_tokens)
        self.batch_size = batch_size
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
    ) -> Self:
        """Load a Sentence Transformers checkpoint.

        Args:
            name: a folder, or a name on the hub.
            device: "cpu", "cuda", ...; None takes a GPU where there is one.
            dtype: of the weights; the embeddings are float32 always.
            revision: a branch, tag or commit on the hub.
            batch_size: texts in a forward pass, for models that only their own library can run.
            attention: of a ModernBERT; "auto" takes the fastest that the device has.
            max_tokens: of a batch; None takes what suits the device.

        Raises:
            CheckpointError: nothing is there, or it is a plain backbone or a multi-vector model.
        """
        name = remembered_name(name)
        kind = checkpoint_kind(name, revision=revision)
        if kind == "multi_vector":
            raise CheckpointError(f"{name}: a multi-vector model: load it with MultiVectorEncoder")
        if kind == "backbone":
            raise CheckpointError(
                f"{name}: a plain backbone, not a trained retriever: start one from it with "
                "DenseEncoder.from_backbone"
            )
        model = SentenceTransformer(
            name,
            device=device,
            revision=revision,
            model_kwargs={"dtype": getattr(torch, dtype)},
        )
        return cls(
            model, name=name, batch_size=batch_size, attention=attention, max_tokens=max_tokens
        )

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
        """The number of components of an embedding."""
        model: Any = self.model
        getter = getattr(model, "get_embedding_dimension", None)
        return int(getter() if getter else model.get_sentence_embedding_dimension())

    @cached_property
    def reference(self) -> ModelReference:
        """Name, fingerprint, kind and width; computed once, and again after `save`."""
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
        }
        return ModelReference(
            name=self._name,
            fingerprint=fingerprint(model.state_dict(), model.tokenizer, settings),
            is_multi_vector=False,
            width=self.width,
        )

    def encode_queries(self, texts: Iterable[str]) -> Iterator[NDArray[np.float32]]:
        """Stream (D,) float32 embeddings of queries, in order."""
        return in_windows(texts, lambda window: self._begin(window, "query"))

    def encode_documents(self, texts: Iterable[str]) -> Iterator[NDArray[np.float32]]:
        """Stream (D,) float32 embeddings of documents, in order."""
        return in_windows(texts, lambda window: self._begin(window, "document"))

    def save(self, folder: str | Path) -> None:
        """Write a Sentence Transformers checkpoint."""
        self.model.save_pretrained(str(folder))
        self._name = remembered_name(folder)
        # Asked again, the reference names this folder and knows what training changed.
        self.__dict__.pop("reference", None)

    def _begin(self, texts: list[str], role: Role) -> Callable[[], NDArray[np.float32]]:
        prompt = self._prompt(role)
        if not self.inference.can_do(prompt, role):
            return lambda: self._by_sentence_transformers(texts, role)
        batches = self.inference.begin(texts, prompt=prompt, role=role)

        def finish() -> NDArray[np.float32]:
            embeddings = np.empty((len(texts), self.width), np.float32)
            for numbers, features, _ in batches():
                embeddings[numbers] = features["sentence_embedding"][:, : self.width].float()
            return embeddings

        return finish

    def _prompt(self, role: Role) -> str:
        """The prompt that `encode_query` or `encode_document` would choose."""
        model: Any = self.model
        names = ("query",) if role == "query" else ("document", "passage", "corpus")
        name = next((each for each in names if each in model.prompts), model.default_prompt_name)
        return model.prompts.get(name) or "" if name else ""

    def _by_sentence_transformers(self, texts: list[str], role: Role) -> NDArray[np.float32]:
        model: Any = self.model
        encode = model.encode_query if role == "query" else model.encode_document
        embeddings = encode(
            texts, batch_size=self.batch_size, show_progress_bar=False, convert_to_numpy=True
        )
        return np.asarray(embeddings, dtype=np.float32)
