"""The `[loss]` table of a recipe: what a retriever learns from, and how strictly."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from retrieval.errors import ConfigError, InputError

LossKind = Literal["contrastive", "margin_mse", "kl_distillation", "embedding_distillation"]


@dataclass(frozen=True, kw_only=True)
class LossSettings:
    """What dense and multi-vector losses have in common.

    contrastive: a query's positive against all other documents of the batch (van den Oord et al.
    2018, arXiv:1807.03748). margin_mse: the teacher's differences of scores (Hofstätter et al.
    2020, arXiv:2010.02666). kl_distillation: the teacher's distribution over a query's documents
    (Lin et al. 2020, arXiv:2010.11386). embedding_distillation: another model's vectors (Kim et al.
    2023, arXiv:2301.12005).
    """

    kind: LossKind = "contrastive"
    scale: float = 1.0
    """Multiplies the model's scores before the softmax, or before the teacher's are compared."""
    temperature: float = 1.0
    """kl_distillation: divides both the teacher's and the model's scores."""
    teacher_temperature: float | None = None
    """kl_distillation: divides the teacher's scores instead of `temperature`."""
    teacher: str = ""
    """embedding_distillation: folder or hub name of the encoder whose vectors are learnt."""
    matryoshka_widths: tuple[int, ...] = ()
    """Train so many leading components too, the full width among them (Kusupati et al. 2022,
    arXiv:2205.13147)."""
    matryoshka_weights: tuple[float, ...] = ()
    """Of the widths' losses; 1 each by default."""
    false_negative_margin: float | None = None
    """contrastive: leave out negatives that score above the positive's score minus so much, by the
    guide; None keeps all (Solatorio 2024, arXiv:2402.16829)."""
    false_negative_rule: Literal["absolute", "relative"] = "absolute"
    """Whether the margin is a difference of scores, or a share of the positive's score."""
    false_negative_guide: str = ""
    """Folder or hub name of the encoder that judges negatives; by default the model judges itself:
    give it a negative margin, or it never learns from a negative that beats the positive."""

    def __post_init__(self) -> None:
        for name in ("scale", "temperature", "teacher_temperature"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise ConfigError(f"loss.{name} is {value}, expected more than 0")
        self._check_kinds()
        self._check_widths()

    @property
    def reads_scores(self) -> bool:
        """Whether the examples are queries with scored documents, not pairs or triplets."""
        return self.kind in ("margin_mse", "kl_distillation")

    @property
    def temperatures(self) -> dict[str, Any]:
        """What divides the model's and the teacher's scores."""
        teacher = self.teacher_temperature or self.temperature
        return {"temperature": self.temperature, "teacher_temperature": teacher}

    @property
    def widths_and_weights(self) -> dict[str, Any]:
        """The Matryoshka widths, as Sentence Transformers' losses take them."""
        widths = list(self.matryoshka_widths)
        weights = list(self.matryoshka_weights) or [1.0] * len(widths)
        return {"matryoshka_dims": widths, "matryoshka_weights": weights}

    def check_columns(self, columns: Sequence[str]) -> None:
        """Make sure that a dataset has what the loss reads, before training begins.

        Raises:
            InputError: the column that is missing is named.
        """
        documents = [each for each in columns if each not in ("query", "label")]
        if self.reads_scores and "label" not in columns:
            raise InputError(
                f"loss.kind = {self.kind!r} learns from a teacher's scores: the training data "
                f"have no 'scores' beside {list(columns)}; score their documents, or take "
                "'contrastive'"
            )
        if self.reads_scores and len(documents) < 2:
            raise InputError(
                f"loss.kind = {self.kind!r} needs at least 2 documents for each query: the "
                f"training data have {documents}"
            )

    def _check_kinds(self) -> None:
        if (self.kind == "embedding_distillation") != bool(self.teacher):
            raise ConfigError(
                f"loss.kind is {self.kind!r} and loss.teacher {self.teacher!r}: "
                "'embedding_distillation' needs a teacher, and no other kind reads it"
            )
        if self.false_negative_margin is not None and self.kind != "contrastive":
            raise ConfigError(
                f"loss.false_negative_margin is for 'contrastive', not for {self.kind!r}"
            )
        if self.false_negative_guide and self.false_negative_margin is None:
            raise ConfigError("loss.false_negative_guide needs loss.false_negative_margin")

    def _check_widths(self) -> None:
        widths, weights = self.matryoshka_widths, self.matryoshka_weights
        if weights and len(weights) != len(widths):
            raise ConfigError(f"{len(weights)} loss.matryoshka_weights for {len(widths)} widths")
        if len(set(widths)) < len(widths) or any(width < 1 for width in widths):
            raise ConfigError(f"loss.matryoshka_widths are {list(widths)}: expected different ones")
        if widths and self.kind == "embedding_distillation":
            raise ConfigError(
                "loss.matryoshka_widths do not go with 'embedding_distillation': a teacher's "
                "vectors have one width"
            )


@dataclass(frozen=True, kw_only=True)
class DenseLossSettings(LossSettings):
    """What a single-vector encoder learns from."""

    scale: float = 20.0
    """Multiplies cosine similarities: one over the temperature."""
    is_symmetric: bool = False
    """contrastive: find the query of a document too (Günther et al. 2023, arXiv:2310.19923)."""
    hardness: float = 0.0
    """contrastive: weight of similar negatives in the softmax (Lan et al. 2025)."""
    hardness_of: Literal["in_batch_negatives", "hard_negatives", "all_negatives"] = "all_negatives"
    """Which negatives `hardness` is for."""
    distance: Literal["cosine", "mse", "l2"] = "cosine"
    """embedding_distillation: between the model's vector and the teacher's."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.hardness < 0:
            raise ConfigError(f"loss.hardness is {self.hardness}, expected at least 0")
        if self.kind != "contrastive" and (self.is_symmetric or self.hardness):
            raise ConfigError(
                f"loss.is_symmetric and loss.hardness are for 'contrastive', not for {self.kind!r}"
            )
        if self.is_symmetric and self.false_negative_margin is not None:
            raise ConfigError("loss.is_symmetric does not go with loss.false_negative_margin")

    def check_columns(self, columns: Sequence[str]) -> None:
        """As for every loss, and hard negatives where they are weighted."""
        super().check_columns(columns)
        if self.hardness and self.hardness_of == "hard_negatives" and len(columns) < 3:
            raise InputError(
                f"loss.hardness_of = 'hard_negatives' weights a 'negative' column: the training "
                f"data have {list(columns)}; mine negatives, or weight 'in_batch_negatives'"
            )


@dataclass(frozen=True, kw_only=True)
class MultiVectorLossSettings(LossSettings):
    """What a ColBERT or XTR learns from."""

    scoring: Literal["maxsim", "xtr"] = "maxsim"
    """"xtr" scores with the query tokens' best matches in the batch alone, as an index of tokens
    retrieves them (Lee et al. 2023, arXiv:2304.01982)."""
    xtr_top_k: int = 256
    """Tokens that a query token retrieves from the documents of a batch."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.xtr_top_k < 1:
            raise ConfigError(f"loss.xtr_top_k is {self.xtr_top_k}, expected at least 1")
        if self.scoring == "xtr" and self.kind not in ("contrastive", "kl_distillation"):
            raise ConfigError(
                "loss.scoring = 'xtr' is for 'contrastive' and 'kl_distillation', not for "
                f"{self.kind!r}"
            )
