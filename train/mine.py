"""Mine hard negatives for pairs, with any encoder and any index.

    python train/mine.py pairs.jsonl --model models/colbert --output mined first=10 last=100
    python train/mine.py pairs.jsonl --model MODEL --kind exact --output mined relative_margin=0.05
    python train/mine.py pairs.jsonl --output mined                        # BM25, without a model
    python train/mine.py pairs.jsonl --model MODEL --corpus data/beir --form distillation \\
        --teacher TEACHER --output mined negatives=7

Writes OUTPUT/negatives.jsonl, which train/dense.py and train/colbert.py read, and
OUTPUT/manifest.json with counts that add up. A run that was killed goes on when it is repeated.
key=value are the settings of retrieval/training/mining.py. Hardware and time: encoding the corpus
takes nearly all of it. The machinery is in retrieval/training/mining*.py.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from retrieval.config import from_mapping, with_overrides
from retrieval.corpus import find_jsonl, read_corpus
from retrieval.encoders.loading import load_encoder
from retrieval.encoders.protocol import Encoder
from retrieval.errors import ConfigError
from retrieval.files import BadLines, sha256
from retrieval.indexing.retriever import Retriever, build_index
from retrieval.records import Document
from retrieval.training.mining import MiningSettings, Teacher
from retrieval.training.mining_pairs import PairTable
from retrieval.training.mining_run import mine_to
from retrieval.training.mining_teachers import cross_encoder_teacher, encoder_teacher
from retrieval.training.script import report_errors


@report_errors
def main() -> None:
    """Read the pairs, index what they and the corpus hold, mine, and print the counts."""
    arguments = parse()
    settings = from_mapping(
        MiningSettings, with_overrides({}, arguments.settings), source="the command line"
    )
    encoder = load(arguments.model, arguments) if arguments.model else None
    kind = index_kind(arguments.kind, encoder)
    teacher, teacher_name = load_teacher(arguments)
    index = arguments.output / "index"
    made_with = {
        "model": encoder.reference._asdict() if encoder else None,
        "index": kind,
        "corpus": corpus_digest(arguments.corpus) if arguments.corpus else None,
        "teacher": teacher_name,
    }
    with PairTable(arguments.pairs, BadLines(skip=arguments.skip_bad)) as pairs:

        def open_index() -> Retriever:
            if not (index / "CURRENT").exists():
                documents = pairs.documents(corpus(arguments))
                build_index(index, documents, kind=kind, encoder=encoder, progress=True).close()
            return Retriever.open(index, encoder=encoder)

        manifest = mine_to(
            arguments.output,
            pairs,
            open_index,
            settings,
            form=arguments.form,
            made_with=made_with,
            teacher=teacher,
        )
    for name in ("counts", "candidate_reasons"):
        print(f"{name}: {json.dumps(manifest[name])}")
    print(arguments.output / "negatives.jsonl")


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("pairs", help="JSONL, Parquet, a saved data set, or hf:NAME", nargs="+")
    parser.add_argument("--output", type=Path, required=True, help="folder for all that is made")
    parser.add_argument("--model", help="folder or hub name of any retriever; BM25 without one")
    parser.add_argument("--kind", choices=["exact", "faiss", "plaid", "bm25"], help="of the index")
    parser.add_argument("--corpus", type=Path, help="BEIR folder or JSONL, beside the positives")
    parser.add_argument("--form", choices=["triplets", "tuples", "distillation"], default="tuples")
    parser.add_argument("--teacher", help="a retriever whose scores are compared instead")
    parser.add_argument("--cross-encoder", help="the same, a cross-encoder")
    parser.add_argument("--device", help="cpu, cuda, ...; by default a GPU where there is one")
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16", "auto"])
    parser.add_argument("--skip-bad", action="store_true", help="skip and count unusable rows")
    arguments, settings = parser.parse_known_args()
    # key=value may come anywhere, as in the other programs.
    arguments.settings = [each for each in [*arguments.pairs, *settings] if "=" in each]
    arguments.pairs = [each for each in arguments.pairs if "=" not in each]
    if unknown := [each for each in settings if "=" not in each or each.startswith("-")]:
        parser.error(f"unknown: {' '.join(unknown)}")
    return arguments


def load(name: str, arguments: argparse.Namespace) -> Encoder:
    """Load a retriever on the device of the command line."""
    return load_encoder(name, device=arguments.device, dtype=arguments.dtype)


def load_teacher(arguments: argparse.Namespace) -> tuple[Teacher | None, Any]:
    """The second model, and how the manifest names it."""
    if arguments.teacher and arguments.cross_encoder:
        raise ConfigError("--teacher and --cross-encoder exclude each other")
    if arguments.cross_encoder:
        teacher = cross_encoder_teacher(arguments.cross_encoder, device=arguments.device)
        return teacher, arguments.cross_encoder
    if arguments.teacher:
        encoder = load(arguments.teacher, arguments)
        return encoder_teacher(encoder), encoder.reference._asdict()
    return None, None


def index_kind(kind: str | None, encoder: Encoder | None) -> str:
    """The kind of index: without a choice BM25, PLAID or FAISS, as the model has it."""
    if encoder is None or kind == "bm25":
        if encoder is not None or kind not in (None, "bm25"):
            raise ConfigError(f"--kind {kind}: bm25 takes no model, the others need one")
        return "lexical"
    return kind or ("plaid" if encoder.reference.is_multi_vector else "faiss")


def corpus(arguments: argparse.Namespace) -> Iterator[Document]:
    """The documents beside the positives."""
    if arguments.corpus:
        yield from read_corpus(arguments.corpus, BadLines(skip=arguments.skip_bad))


def corpus_digest(path: Path) -> str:
    """The checksum of a corpus file."""
    file = find_jsonl(path, "corpus") if path.is_dir() else path
    if file is None or not file.is_file():
        raise ConfigError(f"{path}: no corpus.jsonl[.gz] there, and no JSONL file")
    return sha256(file)


if __name__ == "__main__":
    main()
