"""`retrieval search`: a question to an index, ranked passages back."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from retrieval.cli.options import AsJson, Model, ModelOptions, load_model, takes_model_options
from retrieval.cli.output import print_passages


@takes_model_options
def search(
    index: Annotated[Path, typer.Argument(help="A folder that `retrieval index` wrote.")],
    question: Annotated[list[str], typer.Argument(help="One or more questions, each in quotes.")],
    k: Annotated[int, typer.Option("-k", min=1, help="Passages a question.")] = 10,
    model: Model = None,
    as_json: AsJson = False,
    *,
    options: ModelOptions,
) -> None:
    """Print the best passages for a question; the model is the one that the index names."""
    from retrieval.indexing import open_index
    from retrieval.indexing.retriever import Retriever

    opened = open_index(index)
    name = model or (opened.model.name if opened.model else None)
    remembered = opened.model.options if opened.model else None
    encoder = load_model(name, options, remembered=remembered) if name else None
    rankings = Retriever.open(index, encoder=encoder).search(question, k)
    if as_json:
        answers = [
            {"question": asked, "passages": [passage._asdict() for passage in passages]}
            for asked, passages in zip(question, rankings)
        ]
        print(json.dumps(answers, indent=2, ensure_ascii=False))
        return
    console = Console()
    for asked, passages in zip(question, rankings):
        print_passages(console, asked, passages)
