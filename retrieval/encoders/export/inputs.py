"""From texts to the inputs of an exported graph, by nothing but the files beside it.

`retrieval_export.json` says all that a program in another language needs: per role the tokens of
the longest text, the prompt, and what queries are filled up with.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from retrieval.encoders.dense import DenseEncoder
from retrieval.encoders.multi_vector import MultiVectorEncoder
from retrieval.encoders.tokens import Role, UnpaddedTokenizer
from retrieval.files import read_json

SETTINGS = "retrieval_export.json"
TOKENIZER = "tokenizer.json"


class GraphInputs(NamedTuple):
    """A padded batch.

    Attributes:
        arrays: (B, T) int64 by the name of the graph's input; `attention_mask` is 0 for padding,
            and for expansion tokens where the text does not attend to them.
        is_token: (B, T), True for a text's own tokens and for its expansion.
    """

    arrays: dict[str, NDArray[np.int64]]
    is_token: NDArray[np.bool_]


def save_tokenizer(encoder: DenseEncoder | MultiVectorEncoder, folder: Path) -> None:
    """Write `tokenizer.json` without padding or truncation, which each role sets for itself."""
    backend = encoder.model.tokenizer.backend_tokenizer
    copy = Tokenizer.from_str(backend.to_str())
    copy.no_padding()
    copy.no_truncation()
    copy.save(str(folder / TOKENIZER))


def input_settings(encoder: DenseEncoder | MultiVectorEncoder) -> dict[str, Any]:
    """What `graph_inputs` reads: the padding token, and by role the lengths and what is added.

    Each role has `max_length` (None: no limit), `prefix`, `prompt`, `cuts_blanks` and `expansion`.
    What is tokenised is the prefix, then prompt and text; where `cuts_blanks`, without the blanks
    around prompt and text. `expansion` is None or says how long a query becomes at least
    (`length`), of which token (`token_id`), and whether the text `attends` to it.
    """
    tokenizer = UnpaddedTokenizer(encoder.model[0])
    return {
        "padding_id": encoder.model.tokenizer.pad_token_id or 0,
        "query": _role_settings(encoder, tokenizer, "query"),
        "document": _role_settings(encoder, tokenizer, "document"),
    }


def graph_inputs(folder: Path, texts: Sequence[str], role: Role) -> GraphInputs:
    """Tokenise texts for the graph in `folder`, into one batch."""
    settings = read_json(folder / SETTINGS)
    of_role = settings[role]
    tokenizer = Tokenizer.from_file(str(folder / TOKENIZER))
    if of_role["max_length"] is not None:
        tokenizer.enable_truncation(of_role["max_length"])
    prompted = [of_role["prompt"] + text for text in texts]
    if of_role["cuts_blanks"]:
        prompted = [each.strip() for each in prompted]
    rows = [each.ids for each in tokenizer.encode_batch([of_role["prefix"] + t for t in prompted])]
    real = np.array([len(ids) for ids in rows])
    expansion = of_role["expansion"]
    if expansion is not None:
        filled = [expansion["length"] - len(ids) for ids in rows]
        rows = [ids + [expansion["token_id"]] * count for ids, count in zip(rows, filled)]
    lengths = np.array([len(ids) for ids in rows])
    input_ids = np.full((len(rows), lengths.max()), settings["padding_id"], np.int64)
    for row, ids in zip(input_ids, rows):
        row[: len(ids)] = ids
    positions = np.arange(input_ids.shape[1])
    is_token = positions < lengths[:, None]
    is_attended = is_token
    if expansion is not None and not expansion["attends"]:
        is_attended = positions < real[:, None]
    arrays = {"input_ids": input_ids, "attention_mask": is_attended.astype(np.int64)}
    return GraphInputs(arrays, is_token)


def _role_settings(
    encoder: DenseEncoder | MultiVectorEncoder, tokenizer: UnpaddedTokenizer, role: Role
) -> dict[str, Any]:
    prefixes: dict[str, str] = {}
    if isinstance(encoder, DenseEncoder):
        prompt = encoder._prompt(role)
    else:
        prompt = encoder.model.prompts.get(role) or ""
        prefixes = encoder._inserted_prefixes
    prefix = prefixes.get(role, "")
    expansion = tokenizer.transformer.query_expansion if role == "query" else None
    return {
        "max_length": tokenizer.limit(role),
        "prefix": prefix,
        "prompt": prompt.removeprefix(prefix),
        "cuts_blanks": bool(prefixes),
        "expansion": expansion
        and {
            "length": expansion["length"],
            "token_id": tokenizer.expansion_id(expansion),
            "attends": bool(expansion["attend"]),
        },
    }
