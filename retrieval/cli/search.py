"""`retrieval search`: a question to one index or several, ranked passages back."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple

import typer
from rich.console import Console

from retrieval.cli.options import AsJson, Model, ModelOptions, load_model, takes_model_options
from retrieval.cli.output import print_passages
from retrieval.errors import ConfigError, InputError

if TYPE_CHECKING:
    from retrieval.indexing.explain import Explanation
    from retrieval.indexing.retriever import Passage, Retriever, Searcher


class _Answer(NamedTuple):
    question: str
    passages: Sequence[Passage]
    explanations: Sequence[Explanation] | None


@takes_model_options
def search(
    index: Annotated[Path, typer.Argument(help="A folder that `retrieval index` wrote.")],
    question: Annotated[
        list[str] | None,
        typer.Argument(
            help="One or more questions, each in quotes. Without one, each line of standard input "
            "is asked in turn, with the model loaded once."
        ),
    ] = None,
    k: Annotated[int, typer.Option("-k", min=1, help="Passages a question.")] = 10,
    model: Model = None,
    fuse: Annotated[
        list[Path] | None,
        typer.Option(help="Another index to ask and to fuse with; may come several times."),
    ] = None,
    fusion: Annotated[
        Literal["rrf", "min-max", "z-score"],
        typer.Option(help="By reciprocal ranks, or by normalised scores."),
    ] = "rrf",
    weight: Annotated[
        list[float] | None,
        typer.Option(help="Of each index in turn; as many as there are indexes, or none."),
    ] = None,
    rerank: Annotated[
        str | None,
        typer.Option(help="A multi-vector model that ranks the first --depth by exact MaxSim."),
    ] = None,
    depth: Annotated[
        int, typer.Option(min=1, help="Hits that are fused or reranked, for each index.")
    ] = 100,
    explain: Annotated[
        bool, typer.Option("--explain", help="Show which tokens matched: multi-vector models.")
    ] = False,
    as_json: AsJson = False,
    *,
    options: ModelOptions,
) -> None:
    """Print the best passages for a question; the model is the one that the index names.

    What changes a model's vectors (--model, --width, ...) is for the first index; the others load
    theirs as they remember it.
    """
    from retrieval.indexing.fusion import FusionSettings
    from retrieval.indexing.hybrid import HybridRetriever
    from retrieval.indexing.rerank import RerankingRetriever

    if not fuse and (weight or fusion != "rrf"):
        raise ConfigError("--fusion and --weight are for several indexes: name them with --fuse")
    others = _without_reduction(options)
    retrievers = [_open(index, model, options)]
    retrievers += [_open(each, None, others) for each in fuse or ()]
    searcher: Searcher = retrievers[0]
    if fuse:
        weights = tuple(weight) if weight else None
        settings = FusionSettings(method=fusion, weights=weights)
        searcher = HybridRetriever(retrievers, settings, depth=depth)
    encoders = [each.encoder for each in retrievers]
    if rerank:
        encoder = load_model(rerank, others)
        encoders.insert(0, encoder)
        searcher = RerankingRetriever(searcher, encoder, depth=depth)

    def answers(questions: list[str]) -> list[_Answer]:
        rankings = searcher.search(questions, k)
        reasons = [
            _explanations(encoders, *pair) if explain else None for pair in zip(questions, rankings)
        ]
        return [_Answer(*each) for each in zip(questions, rankings, reasons)]

    found: Iterable[_Answer] = (answers([asked])[0] for asked in _lines_of_input())
    if question:
        found = answers(question)
        if as_json:
            print(json.dumps([_as_object(each) for each in found], indent=2, ensure_ascii=False))
            return
    console = Console()
    for each in found:
        if as_json:
            print(json.dumps(_as_object(each), ensure_ascii=False))
        else:
            print_passages(console, *each)


def _lines_of_input() -> Iterator[str]:
    """Lines that are not blank, as they come; on a terminal with a prompt.

    Raises:
        InputError: there is none.
    """
    prompt, count = "", 0
    if sys.stdin.isatty():
        prompt = "? "
        with suppress(ImportError):
            import readline  # noqa: F401  # makes lines editable
    while True:
        try:
            line = input(prompt).strip()
        except EOFError:
            break
        if line:
            count += 1
            yield line
    if not count:
        raise InputError("no question: give one in quotes, or lines of them as standard input")


def _open(folder: Path, model: str | None, options: ModelOptions) -> Retriever:
    """An index with the model that it names, or with another name of it."""
    from retrieval.indexing import open_index
    from retrieval.indexing.retriever import Retriever

    reference = open_index(folder).model
    name = model or (reference.name if reference else None)
    remembered = reference.options if reference else None
    encoder = load_model(name, options, remembered=remembered) if name else None
    return Retriever.open(folder, encoder=encoder)


def _without_reduction(options: ModelOptions) -> ModelOptions:
    """The options that say how a model runs, without those that change its vectors."""
    return replace(
        options,
        width=None,
        normalize=None,
        pool_factor=None,
        query_length=None,
        document_length=None,
    )


def _explanations(
    encoders: Sequence[Any], question: str, passages: Sequence[Passage]
) -> list[Explanation]:
    """For each passage, by the first encoder that gives one vector a token."""
    from retrieval.indexing.explain import explain_texts
    from retrieval.records import Document

    encoder = next((each for each in encoders if each and each.reference.is_multi_vector), None)
    if encoder is None:
        raise ConfigError("--explain needs a multi-vector model: an index of one, or --rerank")
    if not all(passage.text or passage.title for passage in passages):
        raise InputError("--explain needs the texts: build the index with its documents")
    return [
        explain_texts(encoder, question, Document(each.id, each.text, each.title).contents)
        for each in passages
    ]


def _as_object(answer: _Answer) -> dict[str, Any]:
    found = [passage._asdict() for passage in answer.passages]
    for passage, reason in zip(found, answer.explanations or ()):
        passage["explanation"] = asdict(reason)
    return {"question": answer.question, "passages": found}
