from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from retrieval.config import from_mapping, read_recipe
from retrieval.encoders.embedding_store import write_embeddings
from retrieval.errors import ConfigError
from retrieval.evaluation.index_quality import (
    IndexVariant,
    SweepRecipe,
    SweepSettings,
    recall,
    sweep_indexes,
)
from retrieval.records import Document, Hit
from tests.evaluation.conftest import WordEncoder

SWEEPS = Path(__file__).parents[2] / "indexes" / "sweeps"


@pytest.mark.parametrize("is_multi_vector", [False, True], ids=["single", "multi"])
def test_a_sweep_measures_exact_search_and_every_combination(
    tmp_path: Path, is_multi_vector: bool
) -> None:
    pytest.importorskip("pytrec_eval")
    words = [f"word{n}" for n in range(50)]
    generator = np.random.default_rng(0)
    documents = [
        Document(f"d{n}", " ".join([words[n % 50], *generator.choice(words, 4)]))
        for n in range(200)
    ]
    encoder = WordEncoder(is_multi_vector)
    store = write_embeddings(tmp_path / "embeddings", documents, encoder)
    texts = [f"{words[n]} {words[n + 1]}" for n in range(0, 40, 2)]
    queries = dict(zip((f"q{n}" for n in range(20)), encoder.encode_queries(texts)))
    qrels = {f"q{n}": {f"d{2 * n}": 1} for n in range(20)}
    variant = (
        IndexVariant(name="coarse", kind="plaid", build={"bits": 1, "centroids": 8},
                     search={"quality": ["fast", "best"]})
        if is_multi_vector
        else IndexVariant(name="lists", kind="faiss", build={"factory": "IVF16,Flat"},
                          search={"nprobe": [1, 16]})
    )  # fmt: skip
    settings = SweepSettings(cutoffs=(5, 20), threads=(1, 2), seconds=1)
    exact, little, much = sweep_indexes(
        store, queries, qrels, [variant], tmp_path / "work", settings
    )
    assert [exact.name, exact.recall] == ["exact", {"5": 1.0, "20": 1.0}]
    key, values = next(iter(variant.search.items()))
    shown = (
        ["coarse, fast", "coarse, best"]
        if is_multi_vector
        else ["lists, nprobe 1", "lists, nprobe 16"]
    )
    assert [little.name, much.name] == shown
    assert [little.search, much.search] == [{key: value} for value in values]
    assert little.recall["20"] <= much.recall["20"] <= 1
    assert little.recall["20"] < 1
    assert 0 < much.metrics["nDCG@10"] <= 1
    assert little.build_seconds == much.build_seconds > 0
    assert much.bytes_per_document > 0
    assert list(tmp_path.joinpath("work").iterdir()) == [], "indexes that were left"


def test_recall_counts_the_best_of_exact_search() -> None:
    def hits(ids: str) -> list[Hit]:
        return [Hit(each, 1.0) for each in ids]

    truth = [hits("abcd"), hits("xy"), []]
    assert recall([hits("badz"), hits("xq"), hits("r")], truth, 2) == pytest.approx(
        (1 + 0.5 + 1) / 3
    )
    assert recall([hits("abzz"), hits("y"), []], truth, 4) == pytest.approx((0.5 + 0.5 + 1) / 3)


@pytest.mark.parametrize("path", sorted(SWEEPS.glob("*.toml")), ids=lambda path: path.stem)
def test_the_recipes_of_sweeps_can_be_read(path: Path) -> None:
    recipe = from_mapping(SweepRecipe, read_recipe(path), source=str(path))
    assert len(recipe.index) >= 5
    assert recipe.about


@pytest.mark.parametrize(
    ("mapping", "message"),
    [
        ({"kind": "faiss", "search": {"factory": ["Flat"]}}, "no setting of the search of a faiss"),
        ({"kind": "exact", "search": {"dtype": ["float16"]}}, "which has none"),
        ({"kind": "plaid", "search": {"probes": []}}, "probes has no values"),
        (
            {"kind": "plaid", "build": {"bit": 4}},
            "unknown key 'bit'; the nearest known one is 'bits'",
        ),
        ({"kind": "plaid", "build": {"bits": 3}}, "bits: Input should be 1, 2, 4 or 8"),
        ({"kind": "annoy"}, "kind"),
    ],
)
def test_an_index_that_cannot_be_swept_is_an_error(
    mapping: dict[str, object], message: str
) -> None:
    recipe = {"index": [{"name": "x", **mapping}]}
    with pytest.raises(ConfigError, match=message):
        from_mapping(SweepRecipe, recipe, source="sweep.toml")


def test_names_are_different_and_exact_is_taken() -> None:
    for names in (["a", "a"], ["exact"]):
        with pytest.raises(ConfigError, match="different names"):
            SweepRecipe(index=tuple(IndexVariant(name=name, kind="exact") for name in names))


def test_settings_of_a_sweep_are_checked() -> None:
    with pytest.raises(ConfigError, match="cutoffs"):
        SweepSettings(cutoffs=())
    with pytest.raises(ConfigError, match="threads"):
        SweepSettings(threads=(0,))
    with pytest.raises(ConfigError, match="build_threads"):
        SweepSettings(build_threads=0)
