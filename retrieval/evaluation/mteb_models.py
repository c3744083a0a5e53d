"""Our encoders as MTEB 2 takes them: `mteb.evaluate(MtebDenseEncoder("my/model"), tasks)`."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from retrieval.encoders.dense import DenseEncoder
from retrieval.encoders.multi_vector import MultiVectorEncoder
from retrieval.encoders.starters import STARTERS
from retrieval.encoders.token_limits import token_limit
from retrieval.errors import ConfigError, MissingExtraError
from retrieval.indexing.token_scores import maxsim_scores
from retrieval.progress import track

logger = logging.getLogger(__name__)

_OWN = "modernbert-retrieval"
_REVISION_DIGITS = 40
"""Of a fingerprint: as many as a commit on the hub has."""


class _MtebEncoder:
    """What both kinds of encoder have in common."""

    encoder_type: ClassVar[type[Any]]

    def __init__(
        self,
        model_name: str | Path | DenseEncoder | MultiVectorEncoder,
        revision: str | None = None,
        *,
        device: str | None = None,
        prompts: Mapping[str, str] | None = None,
    ) -> None:
        """Wrap an encoder, or load one by name (a folder, a name on the hub, a starter).

        Raises:
            MissingExtraError: mteb is not installed.
            CheckpointError: as in `load` of the encoder.
            ConfigError: the encoder's embeddings are quantized.
        """
        import_mteb()
        encoder: Any = model_name
        if isinstance(model_name, str | Path):
            encoder = self.encoder_type.load(model_name, revision=revision, device=device)
        if getattr(encoder, "quantization", None) is not None:
            raise ConfigError("MTEB compares float vectors: take the encoder without quantization")
        self.encoder = encoder
        self.prompts = dict(prompts or {})
        self.mteb_model_meta = model_meta(encoder, prompts=self.prompts)

    def _encode(
        self, inputs: Iterable[Mapping[str, Any]], task: Any, prompt_type: Any, progress: bool
    ) -> list[NDArray[np.float32]]:
        encoder = with_task_prompts(self.encoder, self.prompts, task, prompt_type)
        texts = [text for batch in inputs for text in batch["text"]]
        encode = encoder.encode_queries if _is_query(prompt_type) else encoder.encode_documents
        return list(track(encode(texts), "encoding", len(texts), progress))


class MtebDenseEncoder(_MtebEncoder):
    """A `DenseEncoder` under MTEB's `EncoderProtocol`: for all of its tasks on texts.

    Attributes:
        encoder: does the work; batches are of its own size, whatever MTEB's `batch_size`.
        prompts: by MTEB's keys, in its order of precedence: "NFCorpus-query", "NFCorpus",
            "Retrieval-query", "Retrieval", "query". What no key is for has the encoder's own
            prompts.
        mteb_model_meta: name, fingerprint and size, under which MTEB keeps the results.
    """

    encoder_type = DenseEncoder

    def encode(
        self,
        inputs: Iterable[Mapping[str, Any]],
        *,
        task_metadata: Any,
        hf_split: str,
        hf_subset: str,
        prompt_type: Any = None,
        show_progress_bar: bool = True,
        **_: Any,
    ) -> NDArray[np.float32]:
        """Encode batches of texts.

        Texts that are neither queries nor documents (of a classification, say) are encoded as
        documents, with the prompt that `prompts` has for the task, or none.

        Args:
            inputs: batches with a list of strings under "text".
            task_metadata: of the MTEB task; decides the prompt.
            hf_split: not looked at.
            hf_subset: not looked at.
            prompt_type: MTEB's `PromptType`: query, document or None.
            show_progress_bar: on stderr.

        Returns:
            (N, D) float32.
        """
        vectors = self._encode(inputs, task_metadata, prompt_type, show_progress_bar)
        return np.stack(vectors) if vectors else np.empty((0, self.encoder.width), np.float32)

    def similarity(self, embeddings1: Any, embeddings2: Any) -> Any:
        """Every first vector with every second, by the checkpoint's similarity; a torch tensor."""
        return self.encoder.model.similarity(embeddings1, embeddings2)

    def similarity_pairwise(self, embeddings1: Any, embeddings2: Any) -> Any:
        """The first vector with the first, the second with the second, ...; a torch tensor."""
        return self.encoder.model.similarity_pairwise(embeddings1, embeddings2)


class MtebMultiVectorEncoder(_MtebEncoder):
    """A `MultiVectorEncoder` under MTEB's `EncoderProtocol`: for retrieval and reranking.

    MTEB scores every document by exact MaxSim and holds all vectors in memory; `MtebPipeline`
    indexes them.

    Attributes:
        encoder, prompts, mteb_model_meta: as of `MtebDenseEncoder`. A marker token of the model
            stays in front of a prompt.
    """

    encoder_type = MultiVectorEncoder

    def encode(
        self,
        inputs: Iterable[Mapping[str, Any]],
        *,
        task_metadata: Any,
        hf_split: str,
        hf_subset: str,
        prompt_type: Any = None,
        show_progress_bar: bool = True,
        **_: Any,
    ) -> list[NDArray[np.float32]]:
        """Encode batches of queries or documents; arguments as of `MtebDenseEncoder.encode`.

        Returns:
            N arrays (tokens, D) float32.

        Raises:
            ConfigError: the task tells no queries from documents, which the model has to know.
        """
        if prompt_type is None:
            raise ConfigError(
                f"{task_metadata.name} has neither queries nor documents, and a multi-vector model "
                "encodes nothing else: leave the task out"
            )
        return self._encode(inputs, task_metadata, prompt_type, show_progress_bar)

    def similarity(self, embeddings1: Any, embeddings2: Any) -> NDArray[np.float32]:
        """The exact MaxSim of every query with every document, (Q, B) float32."""
        documents = _token_vectors(embeddings2)
        return np.stack([maxsim_scores(query, documents) for query in _token_vectors(embeddings1)])

    def similarity_pairwise(self, embeddings1: Any, embeddings2: Any) -> NDArray[np.float32]:
        """The exact MaxSim of the first query with the first document, ..., (Q,) float32."""
        pairs = zip(_token_vectors(embeddings1), _token_vectors(embeddings2), strict=True)
        return np.concatenate([maxsim_scores(query, [document]) for query, document in pairs])


def mteb_encoder(
    encoder: DenseEncoder | MultiVectorEncoder, prompts: Mapping[str, str] | None = None
) -> MtebDenseEncoder | MtebMultiVectorEncoder:
    """An encoder of either kind as MTEB takes it; see the classes."""
    if isinstance(encoder, MultiVectorEncoder):
        return MtebMultiVectorEncoder(encoder, prompts=prompts)
    return MtebDenseEncoder(encoder, prompts=prompts)


def model_meta(
    encoder: DenseEncoder | MultiVectorEncoder | None,
    *,
    prompts: Mapping[str, str] | None = None,
    pipeline: Mapping[str, Any] | None = None,
) -> Any:
    """What MTEB keeps of a model: results are filed under name, revision and experiment.

    The revision is the fingerprint, so that a model trained anew has results of its own.

    Args:
        encoder: None for BM25.
        prompts: by MTEB's keys; part of the experiment.
        pipeline: kind and settings of an index; the same.

    Returns:
        An `mteb.models.ModelMeta`.

    Raises:
        MissingExtraError: mteb is not installed.
    """
    import_mteb()
    from mteb.models import ModelMeta

    experiment = dict(pipeline or {})
    if prompts:
        experiment["prompts"] = dict(prompts)
    about: dict[str, Any] = {"name": f"{_OWN}/BM25", "model_type": ["sparse"]}
    if encoder is not None:
        about = _about_encoder(encoder)
    return ModelMeta.create_empty({**about, "experiment_kwargs": experiment or None})


def with_task_prompts(encoder: Any, prompts: Mapping[str, str], task: Any, prompt_type: Any) -> Any:
    """The encoder with the prompt that MTEB's rules of precedence choose from `prompts`.

    Args:
        encoder: dense or multi-vector.
        prompts: by MTEB's keys.
        task: the metadata of an MTEB task.
        prompt_type: query, document, or None for texts that are neither.
    """
    from mteb.models.abs_encoder import get_prompt_name

    name = get_prompt_name(dict(prompts), task, prompt_type)
    if name is None and prompt_type is not None:
        return encoder
    prompt = prompts[name] if name is not None else _default_prompt(encoder)
    logger.info("%s (%s): the prompt %r", task.name, prompt_type or "texts", prompt)
    return encoder.with_prompts(**{"query" if _is_query(prompt_type) else "document": prompt})


@lru_cache
def import_mteb() -> Any:
    """The module mteb.

    Raises:
        MissingExtraError: it is not installed.
    """
    try:
        import mteb
    except ImportError as error:
        raise MissingExtraError("evaluation by MTEB", "mteb") from error
    return mteb


def _about_encoder(encoder: DenseEncoder | MultiVectorEncoder) -> dict[str, Any]:
    from mteb.models.model_meta import ScoringFunction

    reference, model = encoder.reference, encoder.model
    similarity = ScoringFunction.MAX_SIM
    if not encoder.is_multi_vector:
        similarity = ScoringFunction.from_str(model.similarity_fn_name)
    return {
        "name": _name(reference.name),
        "revision": reference.fingerprint[:_REVISION_DIGITS],
        "model_type": ["late-interaction" if encoder.is_multi_vector else "dense"],
        "n_parameters": sum(each.numel() for each in model.parameters()),
        "max_tokens": token_limit(model, "document"),
        "embed_dim": reference.width,
        "similarity_fn_name": similarity,
        "framework": ["Sentence Transformers", "PyTorch"],
        "use_instructions": any(model.prompts.values()),
    }


def _name(name: str) -> str:
    """MTEB wants "organisation/model"; a folder's parents are nobody's business."""
    if name in STARTERS:
        return f"{_OWN}/{name}"
    return f"local/{Path(name).name}" if Path(name).is_absolute() or "/" not in name else name


def _default_prompt(encoder: Any) -> str:
    model = encoder.model
    return model.prompts.get(model.default_prompt_name) or ""


def _is_query(prompt_type: Any) -> bool:
    return prompt_type is not None and prompt_type.value == "query"


def _token_vectors(embeddings: Any) -> list[NDArray[np.float32]]:
    """A list of one (tokens, D) for each text, which MTEB gives as a list or as one tensor."""
    return [np.asarray(each, np.float32) for each in embeddings]
