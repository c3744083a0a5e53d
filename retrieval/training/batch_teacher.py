"""Another encoder beside a loss: its vectors and scores for the batch that the loss was given."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import normalize

from retrieval.encoders.dense import DenseEncoder
from retrieval.encoders.loading import load_encoder
from retrieval.encoders.multi_vector import MultiVectorEncoder
from retrieval.errors import ConfigError
from retrieval.training.batch_maxsim import maxsim_of_all
from retrieval.training.processes import world_size

Features = dict[str, Any]


class BatchTeacher:
    """Encodes the texts of a batch, with its own tokenizer, prompts and lengths.

    It is no torch module: nothing of it is trained, moved, or saved with the loss.

    A loss is given token ids, so the texts are those that the student's tokenizer reads back from
    them: cut to the student's length, and without what that tokenizer drops, such as case.

    Attributes:
        encoder: a dense or a multi-vector one, whichever the student is.
    """

    def __init__(self, encoder: DenseEncoder | MultiVectorEncoder, student: Any) -> None:
        self.encoder = encoder
        self._tokenizer = student.tokenizer
        self._prompts = {role: student.prompts.get(role) or "" for role in ("query", "document")}

    def vectors(self, features: Features, *, is_query: bool) -> tuple[Tensor, Tensor]:
        """Unit vectors of one column, (B, T, D) float32, and which of them are real, (B, T).

        A dense teacher's have T = 1, so that their MaxSim is their cosine similarity.
        """
        texts = self._texts(features, "query" if is_query else "document")
        encode = self.encoder.encode_queries if is_query else self.encoder.encode_documents
        device = features["input_ids"].device
        # A batch of the student's runs under its autocast; the teacher has its own dtype.
        with torch.no_grad(), torch.autocast(device.type, enabled=False):
            encoded = [torch.as_tensor(each, dtype=torch.float32) for each in encode(texts)]
        rows = [each.reshape(-1, each.shape[-1]) for each in encoded]
        padded = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)
        lengths = torch.tensor([len(each) for each in rows])
        keep = torch.arange(padded.shape[1]) < lengths[:, None]
        return normalize(padded, dim=-1).to(device), keep.to(device)

    def scores(self, columns: Sequence[Features], *, gathers: bool) -> Tensor:
        """MaxSim or cosine of the batch's queries with its documents.

        Args:
            columns: the queries, and N columns of documents.
            gathers: take the documents of all processes, as Sentence Transformers' losses do.

        Returns:
            (Q, B, N): document n of the b-th query.
        """
        from sentence_transformers.util import all_gather_padded, stack_padded_token_embeddings

        queries, queries_keep = self.vectors(columns[0], is_query=True)
        pairs = [self.vectors(column, is_query=False) for column in columns[1:]]
        if gathers:
            pairs = [all_gather_padded(*pair) for pair in pairs]
        documents, keep = stack_padded_token_embeddings(
            [vectors for vectors, _ in pairs], [mask for _, mask in pairs]
        )
        scores = maxsim_of_all(queries, documents, queries_mask=queries_keep, documents_mask=keep)
        return scores.view(len(queries), -1, len(pairs))

    def _texts(self, features: Features, role: str) -> list[str]:
        texts: Iterable[str] = self._tokenizer.batch_decode(
            features["input_ids"], skip_special_tokens=True
        )
        prompt = self._prompts[role]
        return [text.removeprefix(prompt) for text in texts]


class Scaled:
    """A similarity function times a factor: distillation losses have no scale of their own."""

    def __init__(self, similarity: Callable[..., Tensor], scale: float) -> None:
        self._similarity = similarity
        self._scale = scale

    def __call__(self, queries: Tensor, documents: Tensor, **masks: Any) -> Tensor:
        """The scaled scores."""
        return self._similarity(queries, documents, **masks) * self._scale


def load_teacher(
    name: str, student: DenseEncoder | MultiVectorEncoder
) -> DenseEncoder | MultiVectorEncoder:
    """Load an encoder to learn from, in float32, on the student's device."""
    return load_encoder(name, device=str(student.model.device))


def projected_width(
    teacher: DenseEncoder | MultiVectorEncoder, student: DenseEncoder | MultiVectorEncoder
) -> int | None:
    """Width of a learnt projection from the student's vectors to the teacher's; None needs none.

    Raises:
        ConfigError: one is needed, and several processes train.
    """
    if teacher.width == student.width:
        return None
    if world_size() > 1:
        # Nothing averages the gradients of a loss's own parameters over processes.
        raise ConfigError(
            f"the teacher's vectors have {teacher.width} components, the model's {student.width}: "
            "the projection between them trains in one process only; start without a launcher, or "
            "give the model the teacher's width"
        )
    return teacher.width
