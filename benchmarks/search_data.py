"""Make the data of the search benchmark: documents, queries and the exact truth.

    python benchmarks/search_data.py --documents 20000
    python benchmarks/search_data.py --documents 1000000 --queries 100 --data FOLDER
    python benchmarks/search_data.py --documents 150000 --real --data FOLDER

20,000 documents are real texts (../shared/data), encoded once in 6 minutes on two cores; more are
generated from those, or real too with --real (154,000 at the most), and all are generated where the
texts are absent. The exact truth takes 12 minutes of
one thread at 20,000 documents and 1,000 queries. A killed run goes on where it was. 1,000,000
documents take 32 GB of disk, and little memory beside the pages of the files.

FOLDER gets docs_N.npy (tokens, 128) float16, doclens_N.npy, tokids_N.npy (each token's number in
the vocabulary), queries.npy (1000, 32, 128) float16 and gt_N.npz (arrays gt and gs: the best 100 of
each query and their scores). A set's first documents are those of the smaller sets.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from search_encoding import (
    BLOCK,
    DOCUMENTS,
    QUERY_TOKENS,
    WIDTH,
    block_file,
    encode_blocks,
    read_documents,
    read_queries,
    token_encoder,
)
from search_generated import BLOCK as GENERATED_BLOCK
from search_generated import Block, invent, invent_queries, vary
from search_truth import DEPTH, Truth, exact_truth

from retrieval.encoders.starters import checkpoint_folder

DEFAULT_FOLDER = Path("build/search-data")
DEFAULT_TEXTS = Path(__file__).resolve().parents[2] / "shared" / "data"
QUERIES = 1_000
SEED = 0


class Paths(NamedTuple):
    """The files of a set of documents, and the queries."""

    tokens: Path
    """(T, D) float16, document after document, unit length."""
    token_ids: Path
    """(T,) int32."""
    lengths: Path
    """(documents,) int64."""
    queries: Path
    """(Q, M, D) float16, unit length."""


class SearchData(NamedTuple):
    """Documents, queries and the truth."""

    paths: Paths
    lengths: NDArray[np.int64]
    truth: Truth
    """Of the queries that were asked for."""
    is_real: bool
    """There are texts, which the documents are made of."""
    all_real: bool
    """None of the documents is generated."""


class _GrowingFile:
    """An .npy file that rows are appended to."""

    def __init__(self, path: Path, dtype: type, width: int | None = None) -> None:
        self._file = path.open("w+b")
        self._dtype = np.dtype(dtype)
        self._shape = () if width is None else (width,)
        self._rows = 0
        self._write_header()

    def append(self, rows: NDArray[Any]) -> None:
        self._file.write(np.ascontiguousarray(rows, self._dtype).data)
        self._rows += len(rows)

    def close(self) -> None:
        self._file.seek(0)
        self._write_header()
        self._file.close()

    def _write_header(self) -> None:
        # NumPy leaves room in the header for the first axis to grow.
        np.lib.format.write_array_header_1_0(
            self._file,
            {
                "descr": np.lib.format.dtype_to_descr(self._dtype),
                "fortran_order": False,
                "shape": (self._rows, *self._shape),
            },
        )


def prepare(
    folder: Path,
    documents: int,
    queries: int,
    *,
    texts: Path,
    model: str | None = None,
    processes: int = 2,
    real: bool = False,
) -> SearchData:
    """Make what is missing, and open it.

    Args:
        folder: of the files; its subfolder `invented` where there are no texts, and one of the
            model's name where a model is named, which needs texts. A starter's name holds a
            digest of its weights; what another model's folder holds is not looked at.
        documents: how many, those of 20,000 that are real first.
        queries: how many of 1,000.
        texts: the folder of the development collections.
        model: a multi-vector retriever whose vectors are taken, instead of MiniLM's states.
        processes: that encode, of one thread each.
        real: encode documents above 20,000 too, in the subfolder `real`, instead of generating
            them; needs texts.
    """
    is_real = texts.is_dir()
    if real and not is_real:
        sys.exit(f"{texts}: no texts there to be encoded")
    folder = folder if is_real else folder / "invented"
    if model is not None:
        if not is_real:
            sys.exit(f"{texts}: no texts there for {model} to encode")
        folder = folder / Path(checkpoint_folder(model)).name
    blocks = folder / "blocks"
    encoded = DOCUMENTS if is_real else 0
    if real and documents > DOCUMENTS:
        folder, encoded = folder / "real", documents
    paths = _paths(folder, documents)
    folder.mkdir(parents=True, exist_ok=True)
    for count in sorted({min(documents, encoded or DOCUMENTS), documents}):
        if all(path.exists() for path in _paths(folder, count)[:3]):
            continue
        if count <= encoded:
            _encode(blocks, count, texts, processes, model)
        _write_documents(folder, count, _blocks(folder, blocks, count, encoded))
    if not paths.queries.exists():
        _write_queries(paths.queries, texts if is_real else None, model)
    lengths = np.load(paths.lengths)
    truth = _truth(
        folder / f"gt_{documents}.npz",
        np.load(paths.queries)[:queries],
        np.load(paths.tokens, mmap_mode="r"),
        lengths,
    )
    return SearchData(paths, lengths, truth, is_real, documents <= encoded)


def _paths(folder: Path, documents: int) -> Paths:
    tokens, token_ids, lengths = (
        folder / f"{kind}_{documents}.npy" for kind in ("docs", "tokids", "doclens")
    )
    return Paths(tokens, token_ids, lengths, folder / "queries.npy")


def _encode(blocks: Path, documents: int, texts: Path, processes: int, model: str | None) -> None:
    chosen = read_documents(texts)
    if documents > len(chosen):
        sys.exit(f"{texts}: {len(chosen):,} texts, not {documents:,}")
    chosen = chosen[: -(-documents // BLOCK) * BLOCK]
    started = time.perf_counter()
    for done, number in enumerate(encode_blocks(chosen, blocks, processes, model), 1):
        seconds = (time.perf_counter() - started) / done
        _log(f"encoded block {number}, {seconds:.1f} s each of {BLOCK} documents")


def _write_documents(folder: Path, documents: int, blocks: Iterator[Block]) -> None:
    paths = _paths(folder, documents)[:3]
    drafts = [path.with_suffix(".draft") for path in paths]
    tokens = _GrowingFile(drafts[0], np.float16, WIDTH)
    ids = _GrowingFile(drafts[1], np.int32)
    lengths = _GrowingFile(drafts[2], np.int64)
    written = 0
    for block in blocks:
        kept = block.lengths[: documents - written]
        rows = int(kept.sum())
        tokens.append(block.tokens[:rows])
        ids.append(block.ids[:rows])
        lengths.append(kept)
        written += len(kept)
    for each in (tokens, ids, lengths):
        each.close()
    for draft, path in zip(drafts, paths):
        draft.rename(path)


def _blocks(folder: Path, blocks: Path, documents: int, encoded: int) -> Iterator[Block]:
    """As many documents as are wanted, in blocks, and perhaps some more.

    Args:
        folder: of the documents that others are generated from.
        blocks: of the encoded ones.
        documents: how many.
        encoded: so many may be real; 0 where there are no texts.
    """
    if documents <= encoded:
        for number in range(-(-documents // BLOCK)):
            with np.load(block_file(blocks, number)) as found:
                yield Block(found["tokens"], found["ids"], found["lengths"])
        return
    if documents <= DOCUMENTS:
        for number in range(-(-documents // GENERATED_BLOCK)):
            yield invent(number, WIDTH, SEED)
        return
    source = Block(*(np.load(path, mmap_mode="r") for path in _paths(folder, DOCUMENTS)[:3]))
    rows = np.concatenate([[0], np.cumsum(source.lengths)])
    for at in range(0, DOCUMENTS, BLOCK):
        part = slice(rows[at], rows[at + BLOCK])
        yield Block(source.tokens[part], source.ids[part], source.lengths[at : at + BLOCK])
    for number in range(-(-(documents - DOCUMENTS) // GENERATED_BLOCK)):
        yield vary(source, number, SEED)


def _write_queries(path: Path, texts: Path | None, model: str | None) -> None:
    if texts is None:
        queries = invent_queries(invent(0, WIDTH, SEED), QUERIES, QUERY_TOKENS, SEED)
    else:
        encoder = token_encoder(model, read_documents(texts)[:BLOCK])
        queries = np.stack(encoder.encode_queries(read_queries(texts), QUERIES))
    draft = path.with_suffix(".draft.npy")
    np.save(draft, queries)
    draft.rename(path)


def _truth(
    path: Path,
    queries: NDArray[np.float16],
    tokens: NDArray[np.float16],
    lengths: NDArray[np.int64],
) -> Truth:
    """The truth of the first queries; computed for those whose truth is not in the file."""
    depth = min(DEPTH, len(lengths))
    ids, scores = np.empty((0, depth), np.int64), np.empty((0, depth), np.float32)
    if path.exists():
        with np.load(path) as found:
            ids, scores = found["gt"], found["gs"]
    if len(ids) < len(queries):
        _log(f"computing the exact truth of {len(queries) - len(ids)} queries")
        more = exact_truth(queries[len(ids) :], tokens, lengths, depth)
        ids, scores = np.concatenate([ids, more.ids]), np.concatenate([scores, more.scores])
        draft = path.with_suffix(".draft.npz")
        np.savez(draft, gt=ids, gs=scores)
        draft.rename(path)
    return Truth(ids[: len(queries)], scores[: len(queries)])


def _log(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def main() -> None:
    """Make the files and say what is there."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--documents", type=int, default=DOCUMENTS)
    parser.add_argument("--queries", type=int, default=QUERIES, help="at most 1,000")
    parser.add_argument("--data", type=Path, default=DEFAULT_FOLDER, metavar="FOLDER")
    parser.add_argument("--texts", type=Path, default=DEFAULT_TEXTS, metavar="FOLDER")
    parser.add_argument("--model", help="a multi-vector retriever, such as starter-colbert")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--real", action="store_true", help="no generated documents")
    arguments = parser.parse_args()
    data = prepare(
        arguments.data,
        arguments.documents,
        arguments.queries,
        texts=arguments.texts,
        model=arguments.model,
        processes=arguments.processes,
        real=arguments.real,
    )
    print(
        f"{len(data.lengths):,} documents, {data.lengths.sum():,} tokens (mean "
        f"{data.lengths.mean():.1f}), the truth of {len(data.truth.ids):,} queries"
    )


if __name__ == "__main__":
    main()
