"""What index settings cost and lose on a BEIR folder: recall, latency, size, build time, memory.

    python indexes/compare.py ../shared/data/scifact --model starter-colbert
    python indexes/compare.py ../shared/data/scifact --model starter-dense --threads 1 2
    python indexes/compare.py ../shared/data/scifact --model starter-dense --quick

Hardware: any; SciFact with starter-colbert takes some ten minutes on one core, most of them for
encoding and for exact search. Indexes come from sweeps/multi-vector.toml or single-vector.toml, as
the model is, or from --sweep. Each is built from the same stored embeddings and asked in a process
of its own. Writes results/COLLECTION-MODEL.json and .png, which `retrieval report` reads as well,
and prints the table. Expected: PLAID with kept tokens finds what exact search finds, several times
sooner; FAISS Flat is exact search. The machinery is in retrieval/evaluation/index_quality.py.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from retrieval.config import from_mapping, read_recipe
from retrieval.encoders.embedding_store import StoreSettings, write_embeddings
from retrieval.evaluation import Collection, read_collection
from retrieval.evaluation.index_quality import SweepRecipe, SweepSettings, sweep_indexes
from retrieval.evaluation.index_sweep import IndexSweep, sweep_table
from retrieval.evaluation.report_tables import table_markdown
from retrieval.evaluation.result import library_versions, python_version
from retrieval.parallel import cpu_count
from retrieval.records import Document, Query

HERE = Path(__file__).parent
QUICK_DOCUMENTS, QUICK_QUERIES = 1_000, 50


def main() -> None:
    """Encode, sweep, write and print."""
    # Every index is measured in a process that imports this file anew, and needs none of these.
    from retrieval import load_encoder
    from retrieval.evaluation.charts import pareto_chart

    given = _arguments()
    encoder = load_encoder(given.model, dtype=given.dtype)
    model = encoder.reference._replace(name=Path(given.model).name)
    sort = "multi-vector" if model.is_multi_vector else "single-vector"
    recipe_path = given.sweep or HERE / "sweeps" / f"{sort}.toml"
    recipe = from_mapping(SweepRecipe, read_recipe(recipe_path), source=str(recipe_path))
    collection = read_collection(given.collection, given.split)
    queries = list(collection.queries)[: QUICK_QUERIES if given.quick else None]
    settings = SweepSettings(
        threads=tuple(given.threads),
        build_threads=given.build_threads,
        seconds=2 if given.quick else 10,
    )
    with tempfile.TemporaryDirectory() as temporary:
        work = given.work or Path(temporary)
        count = given.documents or (QUICK_DOCUMENTS if given.quick else None)
        documents = _few(collection, queries, count) if count else collection.documents()
        # Small shards: a stopped run with --work loses little.
        shards = StoreSettings(shard_documents=64)
        embeddings = write_embeddings(
            work / "embeddings", documents, encoder, shards, progress=True
        )
        vectors = encoder.encode_queries([each.text for each in queries])
        swept = sweep_indexes(
            embeddings,
            dict(zip((each.id for each in queries), vectors)),
            {each.id: collection.qrels[each.id] for each in queries},
            recipe.index,
            work / "indexes",
            settings,
        )
        sweep = IndexSweep(
            collection=collection.name,
            split=collection.split,
            documents=len(embeddings),
            queries=len(queries),
            vectors=sum(len(shard["vectors"]) for shard in embeddings.shard_arrays()),
            model=model,
            k=max(settings.cutoffs),
            build_threads=settings.build_threads,
            created=datetime.now(UTC).isoformat(timespec="seconds"),
            python=python_version(),
            cpu_count=cpu_count(),
            versions=library_versions(),
            about=given.about or recipe.about,
            indexes=swept,
        )
    name = f"{collection.name}-{model.name}{'-quick' if given.quick else ''}"
    path = given.json or HERE / "results" / f"{name}.json"
    sweep.to_json(path)
    pareto_chart(sweep).write_png(path.with_suffix(".png"))
    print(table_markdown(sweep_table(sweep)), end="")
    for each in sweep.indexes:
        label = f"{each.name.replace(',', '').replace(' ', '_')}"
        print(f"RESULT {name}_{label}_p50_ms {each.p50_ms:.3f}")
        print(f"RESULT {name}_{label}_recall_at_10 {each.recall['10']:.4f}")


def _few(collection: Collection, queries: Sequence[Query], count: int) -> list[Document]:
    """The queries' judged documents, and the first others up to `count` documents in all."""
    judged = {document_id for query in queries for document_id in collection.qrels[query.id]}
    documents = sorted(collection.documents(), key=lambda each: each.id not in judged)
    return documents[: max(count, len(judged))]


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("collection", type=Path, help="a BEIR folder")
    parser.add_argument("--model", required=True, help="a folder, or a starter's name")
    parser.add_argument("--dtype", choices=["float32", "bfloat16", "int8", "auto"], default="auto")
    parser.add_argument("--split", help="by default test, or the only one")
    parser.add_argument("--sweep", type=Path, help="a TOML file of indexes")
    parser.add_argument("--documents", type=int, help="measure on so many, judged ones first")
    parser.add_argument(
        "--threads", type=int, nargs="+", default=SweepSettings.threads,
        help="numbers of threads to count queries per second with",
    )  # fmt: skip
    parser.add_argument("--build-threads", type=int, default=1)
    parser.add_argument("--work", type=Path, help="keeps embeddings here for the next sweep")
    parser.add_argument("--json", type=Path, help="where to write, with a PNG beside it")
    parser.add_argument("--about", help="what a reader should know, over the recipe's line")
    parser.add_argument("--quick", action="store_true", help="1,000 documents and 50 queries")
    return parser.parse_args()


if __name__ == "__main__":
    from retrieval.training.script import report_errors

    report_errors(main)()
