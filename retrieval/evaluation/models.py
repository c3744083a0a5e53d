"""The models that systems name: their settings, and each loaded once, when it is first needed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from retrieval.config import to_mapping
from retrieval.encoders.protocol import Encoder

if TYPE_CHECKING:
    from retrieval.encoders.dense import DenseEncoder
    from retrieval.encoders.multi_vector import MultiVectorEncoder
    from retrieval.evaluation.cross_encoders import CrossEncoder


@dataclass(frozen=True, kw_only=True)
class ModelSettings:
    """How a model is loaded, as far as it can change a vector, be it in the last digit.

    The defaults are those of `load_encoder`, which says what each setting does.

    Attributes:
        name: a folder, a hub name or a starter.
    """

    name: str
    dtype: Literal["float32", "bfloat16", "float16", "int8", "auto"] = "float32"
    revision: str | None = None
    attention: Literal["auto", "cpu", "varlen", "flash", "sdpa"] = "auto"
    batch_size: int = 32
    max_tokens: int | None = None
    width: int | None = None
    normalize: bool | None = None
    pool_factor: float | None = None
    protected_tokens: int | None = None
    query_length: int | None = None
    document_length: int | None = None
    query_prompt: str | None = None
    document_prompt: str | None = None

    def with_defaults(self, **defaults: Any) -> ModelSettings:
        """These settings with those of a data set where they say nothing themselves."""
        unsaid = {key: value for key, value in defaults.items() if getattr(self, key) is None}
        return replace(self, **unsaid)

    def published(self) -> ModelSettings:
        """These settings with the model's name as others may read it; see `published_name`."""
        return replace(self, name=published_name(self.name))


@dataclass(frozen=True, kw_only=True)
class ModelFacts:
    """A model as it was found.

    Attributes:
        name: as it was given.
        fingerprint: equal for models that give the same vectors.
        weights: the number format that it computed in; "int8" has 8-bit linear layers.
        device: "cpu" or "cuda".
        is_multi_vector: one vector a token; None for a cross-encoder.
        width: of a vector; None for a cross-encoder.
        query_length: tokens of a query; None where the model has no such limit.
        document_length: the same for documents.
        prompts: the model's own, by name.
        options: what it was loaded with that changes its vectors.
    """

    name: str
    fingerprint: str
    weights: str
    device: str
    is_multi_vector: bool | None
    width: int | None
    query_length: int | None = None
    document_length: int | None = None
    prompts: dict[str, str] = field(default_factory=dict)
    options: dict[str, Any] = field(default_factory=dict)


def published_name(name: str) -> str:
    """A model's or an index's name for a result: a folder below the working folder relative to it.

    Every other name stays as it was given.
    """
    path = Path(name)
    if path.is_absolute() and path.is_relative_to(Path.cwd()):
        return str(path.relative_to(Path.cwd()))
    return name


class Models:
    """Encoders and cross-encoders by their settings.

    Attributes:
        device: of all of them; None takes a GPU where there is one.
    """

    def __init__(
        self, device: str | None = None, loaded: Mapping[ModelSettings, Encoder] | None = None
    ) -> None:
        """Begin with encoders that are loaded already, if there are any."""
        self.device = device
        self._encoders: dict[ModelSettings, Encoder] = dict(loaded or {})
        self._cross_encoders: dict[ModelSettings, CrossEncoder] = {}

    def __getitem__(self, settings: ModelSettings) -> Encoder:
        """The encoder, loaded where it has not been.

        Raises:
            As in `load_encoder`.
        """
        if settings not in self._encoders:
            self._encoders[settings] = load_model(settings, self.device)
        return self._encoders[settings]

    def cross_encoder(self, settings: ModelSettings) -> CrossEncoder:
        """The cross-encoder, loaded where it has not been.

        Raises:
            As in `CrossEncoder`.
        """
        from retrieval.evaluation.cross_encoders import CrossEncoder

        if settings not in self._cross_encoders:
            self._cross_encoders[settings] = CrossEncoder(settings, self.device)
        return self._cross_encoders[settings]

    def facts(self, settings: ModelSettings) -> ModelFacts:
        """What a manifest says of an encoder; it is loaded for it."""
        return model_facts(settings, self[settings])


def load_model(
    settings: ModelSettings, device: str | None = None
) -> DenseEncoder | MultiVectorEncoder:
    """Load the encoder that the settings describe.

    Raises:
        As in `load_encoder`.
    """
    from retrieval.encoders.loading import load_encoder

    return load_encoder(device=device, **asdict(settings))


def model_facts(settings: ModelSettings, encoder: Encoder) -> ModelFacts:
    """What a manifest says of a model."""
    model: Any = getattr(encoder, "model", None)
    reference = encoder.reference
    weights, device = _computes_in(model)
    prompts = getattr(model, "prompts", None) or {}
    return ModelFacts(
        name=published_name(settings.name),
        fingerprint=reference.fingerprint,
        weights="int8" if settings.dtype == "int8" else weights,
        device=device,
        is_multi_vector=reference.is_multi_vector,
        width=reference.width,
        query_length=_token_limit(model, "query_length"),
        document_length=_token_limit(model, "document_length"),
        prompts={key: text for key, text in prompts.items() if text},
        options=dict(reference.options),
    )


def model_inputs(settings: ModelSettings, facts: ModelFacts) -> dict[str, Any]:
    """What decides a model's figures to the last digit, for the key of a stage.

    Neither what its folder is called nor where it came from.
    """
    computation = replace(settings, name="", revision=None, dtype="auto")
    return {
        "fingerprint": facts.fingerprint,
        "weights": facts.weights,
        "device": facts.device,
        **to_mapping(computation),
    }


def short_name(model: ModelSettings) -> str:
    """A model's name without the folders or the owner before it."""
    return Path(model.name).name


def _computes_in(model: Any) -> tuple[str, str]:
    """Number format and kind of device of a torch module's weights."""
    weight = next(iter(model.parameters()), None) if model is not None else None
    if weight is None:
        return "float32", "cpu"
    return str(weight.dtype).removeprefix("torch."), str(weight.device.type)


def _token_limit(model: Any, name: str) -> int | None:
    if model is None:
        return None
    owners = (model, next(iter(model.children()), None))
    known = (getattr(each, name, None) for each in owners)
    limit = next((each for each in known if each is not None), None)
    if limit is None:
        limit = getattr(model, "max_seq_length", None)
    return limit if isinstance(limit, int) else None  # a static model's is infinite
