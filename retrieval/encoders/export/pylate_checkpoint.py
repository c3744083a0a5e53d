"""A multi-vector model as the checkpoint that `pylate.models.ColBERT` of PyLate 1.6 loads.

PyLate's settings are in `config_sentence_transformers.json`; it builds its own Transformer and
Dense from `modules.json`, puts the prefix behind a text's first token, and normalises every vector.
What Sentence Transformers 6 saves does not load there.

PyLate cuts the blanks around every text, and around prompt and text together. A model that was not
made by PyLate keeps them, so texts with outer blanks are the one case where vectors may differ.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from retrieval.encoders.export.check import largest_difference
from retrieval.encoders.multi_vector import MultiVectorEncoder
from retrieval.encoders.tokens import Role, UnpaddedTokenizer
from retrieval.errors import ExportError
from retrieval.files import write_json

logger = logging.getLogger(__name__)

# Of unit-length vectors; the weights and the token ids are the same.
_TOLERANCES = {torch.float32: 1e-5, torch.bfloat16: 5e-2, torch.float16: 5e-3}


def write_pylate(encoder: Any, folder: Path) -> float:
    """Write the checkpoint and load it again to compare.

    Args:
        encoder: a MultiVectorEncoder; one around a live PyLate model is saved by PyLate.
        folder: an empty one.

    Returns:
        The largest absolute difference between the components of the vectors.

    Raises:
        ExportError: PyLate has no place for something that the model does.
    """
    if not isinstance(encoder, MultiVectorEncoder):
        raise ExportError(
            "PyLate holds multi-vector models only, this one makes one vector a text: export it to "
            "onnx or openvino, or start a multi-vector model from it"
        )
    model = encoder.model
    if hasattr(model, "do_query_expansion"):
        model.save_pretrained(str(folder), create_model_card=False)
    else:
        _write(encoder, folder)
    dtype = next(model.parameters()).dtype
    copy = MultiVectorEncoder.load(
        folder,
        device=str(model.device),
        dtype=str(dtype).removeprefix("torch."),  # type: ignore[arg-type]
        batch_size=encoder.batch_size,
    )

    def encode(texts: Any, role: Role) -> list[Any]:
        return list(copy.encode_queries(texts) if role == "query" else copy.encode_documents(texts))

    return largest_difference(encoder, encode, tolerance=_TOLERANCES[dtype])


def _write(encoder: MultiVectorEncoder, folder: Path) -> None:
    model = encoder.model
    projections, skiplist = _read_modules(model)
    tokenizer = UnpaddedTokenizer(model[0])
    roles: tuple[Role, Role] = ("query", "document")
    prompts = {role: _prefix_and_prompt(encoder, role) for role in roles}
    lengths = {role: _length(tokenizer, role) for role in roles}
    settings = {
        "model_type": "ColBERT",
        "prompts": {role: prompt for role, (_, prompt) in prompts.items()},
        "default_prompt_name": None,
        "similarity_fn_name": "MaxSim",
        "query_prefix": prompts["query"][0],
        "document_prefix": prompts["document"][0],
        "query_length": lengths["query"],
        "document_length": lengths["document"],
        **_expansion(tokenizer),
        "skiplist_words": _known(skiplist, model.tokenizer),
    }
    model[0].auto_model.save_pretrained(folder)
    model.tokenizer.save_pretrained(folder)
    modules = [("", "sentence_transformers.models.Transformer")]
    for number, projection in enumerate(projections, start=1):
        modules.append((f"{number}_Dense", "pylate.models.Dense.Dense"))
        _write_projection(projection, folder / f"{number}_Dense")
    listed = [
        {"idx": index, "name": str(index), "path": path, "type": kind}
        for index, (path, kind) in enumerate(modules)
    ]
    write_json(folder / "modules.json", listed)
    write_json(folder / "config_sentence_transformers.json", settings)
    # What lowers the case is in the tokenizer by now.
    transformer = {"max_seq_length": max(lengths.values()), "do_lower_case": False}
    write_json(folder / "sentence_bert_config.json", transformer)


def _read_modules(model: Any) -> tuple[list[Any], list[str]]:
    """The projections and the skiplist of a model that has nothing else to it."""
    from sentence_transformers.base.modules import Dense, Normalize
    from sentence_transformers.multi_vector_encoder.modules import MultiVectorMask

    _check_backbone(model)
    projections: list[Any] = []
    masks: list[Any] = []
    is_normalized = False
    for module in list(model)[1:]:
        if type(module) is MultiVectorMask:
            masks.append(module)
        elif type(module) is Normalize and _is_of_tokens(module):
            is_normalized = True
        elif type(module) is Dense and _is_of_tokens(module) and not is_normalized:
            projections.append(module)
        else:
            raise ExportError(
                f"PyLate has a backbone, token projections and normalisation, in this order: no "
                f"place for {module}"
            )
    if not projections:
        raise ExportError("PyLate would add a random projection to a model without one")
    if not is_normalized:
        raise ExportError("PyLate normalises every vector, this model does not")
    if model[0].query_expansion is not None and not masks:
        raise ExportError("PyLate scores the expansion tokens, this model does not")
    for mask in masks:
        if mask.keep_only_token_ids or (
            mask.skiplist_words and mask.skiplist_tasks != ["document"]
        ):
            raise ExportError(
                "PyLate skips words of documents and nothing else: this model has skiplist_tasks "
                f"{mask.skiplist_tasks}, keep_only_token_ids {mask.keep_only_token_ids}"
            )
    return projections, [word for mask in masks for word in mask.skiplist_words]


def _check_backbone(model: Any) -> None:
    transformer = model[0]
    can_do = MultiVectorEncoder(model).inference.can_do
    if not (can_do(model.prompts.get("query") or "", "query") and can_do("", "document")):
        raise ExportError(
            f"PyLate takes texts through a Rust tokenizer that pads on the right: not this "
            f"{type(transformer).__name__} with {type(transformer.tokenizer).__name__}"
        )
    if getattr(transformer.auto_model, "_hf_peft_config_loaded", False):
        raise ExportError("the backbone has adapters: merge them into its weights first")


def _is_of_tokens(module: Any) -> bool:
    return bool(module.module_input_name == module.module_output_name == "token_embeddings")


def _length(tokenizer: UnpaddedTokenizer, role: Role) -> int:
    limit = tokenizer.limit(role)
    if limit is None:
        raise ExportError(
            f"PyLate cuts every text, this model has no {role}_length: set "
            f"model[0].{role}_length first"
        )
    return limit


def _expansion(tokenizer: UnpaddedTokenizer) -> dict[str, bool]:
    expansion = tokenizer.transformer.query_expansion
    if expansion is None:
        return {"do_query_expansion": False, "attend_to_expansion_tokens": False}
    if expansion["strategy"] != "fixed":
        raise ExportError(
            "PyLate fills queries up to a fixed length, this model has the expansion strategy "
            f"{expansion['strategy']!r}"
        )
    if tokenizer.expansion_id(expansion) != tokenizer.expansion_id({"token": None}):
        raise ExportError(
            f"PyLate fills queries with the mask token, this model with {expansion['token']!r}"
        )
    attends = bool(expansion["attend"])
    return {"do_query_expansion": True, "attend_to_expansion_tokens": attends}


def _prefix_and_prompt(encoder: MultiVectorEncoder, role: Role) -> tuple[str, str]:
    """Split a prompt into the token that PyLate inserts and the text that it puts before a text.

    Where insertion would give other ids, all of the prompt is text; PyLate adds it only when it is
    asked for the prompt by its name.
    """
    tokenizer = encoder.model.tokenizer
    prompt = encoder.model.prompts.get(role) or ""
    for prefix in (encoder._inserted_prefixes.get(role), *tokenizer.tokenize(prompt)[:1]):
        rest = prompt.removeprefix(prefix or "")
        if encoder._inserted_prefixes:
            rest = rest.lstrip()  # Stanford's marker and a blank; PyLate cuts it as we do
        if prefix in tokenizer.added_tokens_encoder and _can_be_inserted(
            tokenizer, prompt, prefix, rest
        ):
            return prefix, rest
    return "", prompt


def _can_be_inserted(tokenizer: Any, prompt: str, prefix: str, rest: str) -> bool:
    token = tokenizer.convert_tokens_to_ids(prefix)
    for text in ("a", "Word (x)", "東京"):
        ids = tokenizer(rest + text)["input_ids"]
        if tokenizer(prompt + text)["input_ids"] != [*ids[:1], token, *ids[1:]]:
            return False
    return True


def _known(skiplist: list[str], tokenizer: Any) -> list[str]:
    """The skiplist without the words that PyLate would take for [UNK], skipping all of those."""
    unknown = tokenizer.unk_token_id
    if tokenizer.unk_token not in tokenizer.tokenize("x" * 500 + " 𓀀"):
        return skiplist  # no text has that token
    ids = tokenizer.convert_tokens_to_ids(skiplist)
    known = [word for word, each in zip(skiplist, ids, strict=True) if each != unknown]
    if len(known) < len(skiplist):
        logger.warning("left out of the skiplist, being no tokens: %s", set(skiplist) - set(known))
    return known


def _write_projection(projection: Any, folder: Path) -> None:
    activation = type(projection.activation_function)
    name = f"{activation.__module__}.{activation.__qualname__}"
    if not (issubclass(activation, torch.nn.Module) and name.startswith("torch.")):
        raise ExportError(f"PyLate makes activations of torch.nn only: not {name}")
    config = {
        "in_features": projection.in_features,
        "out_features": projection.out_features,
        "bias": projection.bias,
        "activation_function": name,
        "use_residual": projection.use_residual,
    }
    folder.mkdir()
    write_json(folder / "config.json", config)
    save_file(
        {key: each.contiguous() for key, each in projection.state_dict().items()},
        str(folder / "model.safetensors"),
        metadata={"format": "pt"},
    )
