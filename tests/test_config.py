"""Settings: recipes, overrides, unknown keys, and the way to plain values and back."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from retrieval.config import from_mapping, read_recipe, to_mapping, with_overrides
from retrieval.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class Optimizer:
    lr: float = 1e-3
    name: Literal["adamw", "sgd"] = "adamw"

    def __post_init__(self) -> None:
        if self.lr <= 0:
            raise ConfigError(f"lr is {self.lr}, expected more than 0")


@dataclass(frozen=True, kw_only=True)
class Recipe:
    model: str
    epochs: int = 1
    output: Path = Path("models/new")
    layers: tuple[int, ...] = ()
    optimizer: Optimizer = field(default_factory=Optimizer)
    second: Optimizer | None = None


def recipe(settings: dict[str, Any]) -> Recipe:
    return from_mapping(Recipe, settings, source="recipe.toml")


def test_missing_keys_keep_their_defaults_and_nested_tables_become_dataclasses() -> None:
    made = recipe({"model": "m", "optimizer": {"lr": 0.5}, "layers": [1, 2], "output": "here"})
    expected = Recipe(
        model="m", optimizer=Optimizer(lr=0.5), layers=(1, 2), output=Path("here"), second=None
    )
    assert made == expected
    assert type(made.optimizer) is Optimizer
    assert recipe({"model": "m", "second": {"name": "sgd"}}).second == Optimizer(name="sgd")


def test_settings_are_frozen_at_every_level() -> None:
    made: Any = recipe({"model": "m"})
    with pytest.raises(dataclasses.FrozenInstanceError):
        made.epochs = 2
    with pytest.raises(dataclasses.FrozenInstanceError):
        made.optimizer.lr = 2


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"model": "m", "epoch": 2}, "unknown key 'epoch'; the nearest known one is 'epochs'"),
        (
            {"model": "m", "optimizer": {"lrr": 1}},
            "unknown key 'optimizer.lrr'; the nearest known one is 'optimizer.lr'",
        ),
        (
            {"model": "m", "second": {"nam": "sgd"}},
            "unknown key 'second.nam'; the nearest known one is 'second.name'",
        ),
        ({"epochs": 2}, "model: .*required"),
        ({"model": "m", "epochs": "many"}, "epochs: .*integer"),
        ({"model": "m", "epochs": 1.5}, "epochs: .*integer"),
        ({"model": "m", "optimizer": {"name": "lion"}}, "optimizer.name: .*'adamw' or 'sgd'"),
        ({"model": "m", "optimizer": 5}, "optimizer: "),
    ],
)
def test_a_setting_that_is_wrong_is_named_with_its_source(
    settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=rf"^recipe\.toml: {message}"):
        recipe(settings)


def test_a_value_out_of_range_is_refused_by_the_dataclass() -> None:
    with pytest.raises(ConfigError, match=r"lr is -1\.0, expected more than 0"):
        recipe({"model": "m", "optimizer": {"lr": -1}})


def test_plain_values_go_through_json_and_back() -> None:
    made = recipe({"model": "m", "layers": [3], "second": {"lr": 2}, "output": "a/b"})
    plain = json.loads(json.dumps(to_mapping(made)))
    assert plain["output"] == "a/b"
    assert plain["second"] == {"lr": 2.0, "name": "adamw"}
    assert recipe(plain) == made


def test_only_an_instance_of_a_dataclass_has_a_mapping() -> None:
    for given_value in (Recipe, {"model": "m"}):
        with pytest.raises(ConfigError, match="expected a dataclass instance"):
            to_mapping(given_value)


def test_overrides_win_over_the_recipe_and_the_last_one_wins(tmp_path: Path) -> None:
    path = tmp_path / "recipe.toml"
    path.write_text('model = "m"\nepochs = 3\n[optimizer]\nlr = 0.1\n', "utf-8")
    overrides = ["epochs=5", "optimizer.lr=8e-5", "second.name=sgd", "epochs=6"]
    assert recipe(read_recipe(path, overrides)) == Recipe(
        model="m", epochs=6, optimizer=Optimizer(lr=8e-5), second=Optimizer(name="sgd")
    )
    assert recipe(read_recipe(path)).epochs == 3


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("8e-5", 8e-5),
        ("1_000", 1000),
        ("true", True),
        ('["a", "b"]', ["a", "b"]),
        ("{ lr = 1 }", {"lr": 1}),
        ('"5"', "5"),
        ("answerdotai/ModernBERT-base", "answerdotai/ModernBERT-base"),
        ("a=b", "a=b"),
        ("", ""),
    ],
)
def test_an_override_is_read_as_toml_and_else_as_a_string(text: str, value: object) -> None:
    found = with_overrides({}, [f"key={text}"])["key"]
    assert found == value
    assert type(found) is type(value)


@given(st.integers() | st.booleans() | st.floats(allow_nan=False, allow_infinity=False))
@settings(max_examples=50, deadline=None)
def test_numbers_survive_as_overrides(value: float) -> None:
    text = str(value).lower()
    assert with_overrides({}, [f"a.b={text}"]) == {"a": {"b": value}}


def test_an_override_that_is_none_is_refused() -> None:
    for wrong in ("epochs", "=5", " =5"):
        with pytest.raises(ConfigError, match=r"expected key=value or table\.key=value"):
            with_overrides({}, [wrong])
    with pytest.raises(ConfigError, match="'epochs' is a value, not a table"):
        with_overrides({"epochs": 3}, ["epochs.first=1"])


def test_json_recipes_are_read_too(tmp_path: Path) -> None:
    path = tmp_path / "recipe.json"
    path.write_text('{"model": "m", "optimizer": {"lr": 0.5}}', "utf-8")
    assert recipe(read_recipe(path)) == Recipe(model="m", optimizer=Optimizer(lr=0.5))


@pytest.mark.parametrize(
    ("name", "contents"),
    [
        ("recipe.toml", b"model = "),
        ("recipe.json", b"{"),
        ("recipe.json", b"[]"),
        ("recipe.toml", b'model = "\xff"'),
    ],
)
def test_a_damaged_or_missing_recipe_is_named(tmp_path: Path, name: str, contents: bytes) -> None:
    with pytest.raises(ConfigError, match=f"{name}: no such recipe"):
        read_recipe(tmp_path / name)
    (tmp_path / name).write_bytes(contents)
    with pytest.raises(ConfigError, match=name):
        read_recipe(tmp_path / name)


def test_a_folder_is_no_recipe_and_a_mark_before_the_text_is_dropped(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="expected a text file"):
        read_recipe(tmp_path)
    (tmp_path / "recipe.toml").write_bytes(b"\xef\xbb\xbfepochs = 2\n")
    assert read_recipe(tmp_path / "recipe.toml") == {"epochs": 2}


def test_an_unknown_key_in_a_list_of_tables_is_named() -> None:
    @dataclass(frozen=True, kw_only=True)
    class Several:
        each: tuple[Optimizer, ...] = ()

    assert from_mapping(Several, {"each": [{"lr": 0.5}]}, source="s").each == (Optimizer(lr=0.5),)
    with pytest.raises(ConfigError, match=r"unknown key 'each\.lrr'; the nearest known one is"):
        from_mapping(Several, {"each": [{"lr": 0.5}, {"lrr": 1}]}, source="s")
