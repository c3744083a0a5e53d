"""`mteb run` for an encoder with an index, for an encoder alone, or for BM25.

    python eval/mteb_run.py --model starter-colbert --index plaid --folder kept -- --tasks NFCorpus
    python eval/mteb_run.py --model my/dense -- --benchmarks "MTEB(eng, v2)"    # MTEB's own search
    python eval/mteb_run.py --index bm25 -- --tasks SciFact --output-folder results

What follows `--` goes to `mteb run` (see `mteb run --help`), whose cache gets the results: filed
under the model's name and fingerprint and the index's settings. MTEB downloads its data sets.
Hardware and time are those of encoding the corpora; an index in --folder is opened again where
corpus, model and settings are the same.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from retrieval import load_encoder
from retrieval.cli.options import index_settings
from retrieval.errors import ConfigError
from retrieval.evaluation.mteb_models import import_mteb, mteb_encoder
from retrieval.evaluation.mteb_pipeline import MtebPipeline
from retrieval.training.script import report_errors

KINDS = {"exact": "exact", "faiss": "faiss", "plaid": "plaid", "bm25": "lexical"}


@report_errors
def main() -> None:
    """Make the model known to MTEB and run its command."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", help="a folder, a name on the hub, a starter; none for bm25")
    parser.add_argument("--index", choices=KINDS, help="none: MTEB scores every document itself")
    parser.add_argument("--folder", type=Path, help="keeps the indexes; none: a temporary one")
    parser.add_argument("--set", action="append", default=[], help="an index setting, key=value")
    parser.add_argument("--prompt", action="append", default=[], help='"NFCorpus-query=find: "')
    parser.add_argument("--device", help="cpu, cuda, ...")
    parser.add_argument("--dtype", choices=["float32", "bfloat16", "auto"], default="float32")
    parser.add_argument("--dry-run", action="store_true", help="only print what is filed")
    parser.add_argument("arguments", nargs=argparse.REMAINDER, help="-- what `mteb run` takes")
    given = parser.parse_args()
    import_mteb()
    model = _model(given)
    meta = model.mteb_model_meta
    if given.dry_run:
        print(f"{meta.name} {meta.revision} {meta.experiment_name or ''}".rstrip())
        return
    _run(model, meta, [each for each in given.arguments if each != "--"])


def _model(given: argparse.Namespace) -> Any:
    prompts = dict(_pair(each) for each in given.prompt)
    encoder = None
    if given.model:
        encoder = load_encoder(given.model, device=given.device, dtype=given.dtype)
    if given.index:
        kind = KINDS[given.index]
        settings = index_settings(kind, given.set)
        return MtebPipeline(
            encoder, kind=kind, settings=settings, folder=given.folder, prompts=prompts
        )
    if encoder is None:
        raise ConfigError("nothing to run: name a --model, an --index, or both")
    if given.folder or given.set:
        raise ConfigError("--folder and --set are about an index: name one with --index")
    return mteb_encoder(encoder, prompts)


def _pair(option: str) -> tuple[str, str]:
    key, equals, prompt = option.partition("=")
    if not equals:
        raise ConfigError(f"--prompt {option!r}: expected KEY=TEXT, such as Retrieval-query=find: ")
    return key, prompt


def _run(model: Any, meta: Any, arguments: list[str]) -> None:
    from mteb.cli.build_cli import build_cli
    from mteb.models.model_implementations import MODEL_REGISTRY

    # The command loads a model by its name; this is the one that it gets.
    loaded = {"loader": lambda *_, **__: model}
    MODEL_REGISTRY[meta.name] = meta.model_copy(update=loaded)
    parsed = build_cli().parse_args(["run", "--model", meta.name, *arguments])
    parsed.func(parsed)


if __name__ == "__main__":
    main()
