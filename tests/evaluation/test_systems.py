from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from retrieval.config import from_mapping, to_mapping
from retrieval.errors import ConfigError
from retrieval.evaluation.models import ModelSettings
from retrieval.evaluation.systems import (
    FusionSystem,
    LexicalSystem,
    RerankSystem,
    SavedSystem,
    VectorSystem,
    leaves,
    map_models,
    nodes,
    published,
    read_systems,
    with_model_defaults,
)

SYSTEMS = """
[[system]]
name = "BM25"
kind = "bm25"
settings = { k1 = 0.9 }

[[system]]
name = "dense"
kind = "dense"
model = "starter-dense"
index = "faiss"

[[system]]
name = "colbert"
kind = "multi-vector"
model = { name = "starter-colbert", query_length = 48 }

[[system]]
name = "fused"
kind = "fusion"
of = ["BM25", "dense"]
method = "min-max"
weights = [0.3, 0.7]

[[system]]
name = "reranked"
kind = "rerank"
first = "fused"
model = "starter-colbert"
depth = 50
"""

DENSE = VectorSystem(
    kind="dense", name="dense", model=ModelSettings(name="starter-dense"), index="faiss"
)
BM25 = LexicalSystem(settings={"k1": 0.9})
FUSED = FusionSystem(name="fused", of=(BM25, DENSE), method="min-max", weights=(0.3, 0.7))
COLBERT = ModelSettings(name="starter-colbert")
RERANKED = RerankSystem(name="reranked", first=FUSED, model=COLBERT, depth=50)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "systems.toml"


def test_a_file_of_systems_is_read_with_names_resolved(path: Path) -> None:
    path.write_text(SYSTEMS)
    bm25, dense, colbert, fused, reranked = read_systems(path)
    assert (bm25, dense, fused, reranked) == (BM25, DENSE, FUSED, RERANKED)
    assert isinstance(colbert, VectorSystem)
    assert colbert.model == ModelSettings(name="starter-colbert", query_length=48)
    assert colbert.index == "exact"


@pytest.mark.parametrize("system", [BM25, DENSE, FUSED, RERANKED])
def test_a_system_reads_back_equal_from_its_mapping(system: object) -> None:
    assert from_mapping(type(system), to_mapping(system), source="test") == system


@pytest.mark.parametrize(
    ("table", "problem"),
    [
        ('name = "x"', "system x: kind is None, expected one of bm25, dense, multi-vector, "),
        ('kind = "bm25"\nk1 = 1', "system 1: unknown key 'k1'; the nearest known one is 'kind'"),
        ('name = "x"\nkind = "dense"', "system x: model: Field required"),
        (
            'name = "x"\nkind = "dense"\nmodel = { name = "y", lenght = 3 }',
            "system x: unknown key 'model.lenght'",
        ),
        (
            'name = "x"\nkind = "dense"\nmodel = "y"\nindex = "plaid"',
            "a dense model has no plaid index",
        ),
        ('name = "x"\nkind = "fusion"\nof = ["y"]', "no system 'y' before it in the file"),
        ('name = "x"\nkind = "fusion"\nof = []', "fusion needs two systems or more"),
        ('name = "x"\nkind = "rerank"\nfirst = "x"\nmodel = "m"', "no system 'x' before it"),
        ('name = "a/b"\nkind = "bm25"', "expected a name that a folder can have"),
    ],
)
def test_a_mistake_is_named_with_file_and_system(path: Path, table: str, problem: str) -> None:
    path.write_text(f"[[system]]\n{table}\n")
    with pytest.raises(ConfigError) as caught:
        read_systems(path)
    assert str(caught.value).startswith(f"{path}: system ")
    assert problem in str(caught.value)


def test_two_systems_of_one_name_and_other_tables_are_refused(path: Path) -> None:
    path.write_text('[[system]]\nkind = "bm25"\n[[system]]\nkind = "bm25"\n')
    with pytest.raises(ConfigError, match="two systems are called 'BM25'"):
        read_systems(path)
    path.write_text('about = "mine"\n[[system]]\nkind = "bm25"\n')
    with pytest.raises(ConfigError, match="unknown key 'about'"):
        read_systems(path)
    path.write_text("")
    with pytest.raises(ConfigError, match=r"expected systems as tables \[\[system\]\]"):
        read_systems(path)


def test_weights_are_as_many_as_systems() -> None:
    with pytest.raises(ConfigError, match="3 weights for 2 systems"):
        FusionSystem(name="x", of=(BM25, DENSE), weights=(1, 1, 1))


def test_nodes_are_all_systems_and_leaves_those_with_an_index_once() -> None:
    twice = FusionSystem(name="twice", of=(RERANKED, BM25))
    assert [each.name for each in nodes(twice)] == [
        "twice", "reranked", "fused", "BM25", "dense", "BM25",
    ]  # fmt: skip
    assert leaves(twice) == [BM25, DENSE]


def test_a_data_sets_lengths_go_to_encoders_that_say_nothing_and_not_to_cross_encoders() -> None:
    own = VectorSystem(kind="dense", name="own", model=ModelSettings(name="m", document_length=100))
    crossed = RerankSystem(
        name="crossed", first=own, by="cross-encoder", model=ModelSettings(name="c")
    )
    changed = with_model_defaults(crossed, query_length=64, document_length=512)
    assert isinstance(changed, RerankSystem)
    assert isinstance(changed.first, VectorSystem)
    assert changed.model == ModelSettings(name="c")
    assert changed.first.model == ModelSettings(name="m", query_length=64, document_length=100)
    saved = SavedSystem(name="saved", folder="indexes/mine", model=ModelSettings(name="m"))
    assert with_model_defaults(saved, query_length=64) == saved, "its documents are encoded"
    late = with_model_defaults(RERANKED, query_length=64)
    assert isinstance(late, RerankSystem)
    assert late.model.query_length == 64


def test_a_published_system_names_folders_below_the_working_folder_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    absolute = str(tmp_path / "models" / "mine")
    system = published(map_models(DENSE, lambda model: ModelSettings(name=absolute)))
    assert isinstance(system, VectorSystem)
    assert system.model.name == "models/mine"
    saved = SavedSystem(name="saved", folder=str(tmp_path / "indexes" / "mine"))
    fused = published(FusionSystem(name="fused", of=(DENSE, saved)))
    assert isinstance(fused, FusionSystem)
    assert fused.of == (DENSE, replace(saved, folder="indexes/mine"))
    assert published(RERANKED) == RERANKED


@pytest.mark.parametrize("name", ["starters", "baselines"])
def test_the_shipped_files_can_be_read(name: str) -> None:
    path = Path(__file__).parents[2] / "eval" / "systems" / f"{name}.toml"
    systems = read_systems(path)
    assert systems[0] == LexicalSystem()
    assert any(isinstance(each, RerankSystem) for each in systems)
