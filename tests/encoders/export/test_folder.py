"""A new folder is whole or absent, and replaces nothing unless asked."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from retrieval.encoders.export.folder import new_folder
from retrieval.errors import ConfigError


def write(output: Path, text: Any, *, overwrite: bool = False) -> None:
    with new_folder(output, overwrite=overwrite) as folder:
        (folder / "config.json").write_text(text)


def test_the_folder_has_its_name_only_when_it_is_complete(tmp_path: Path) -> None:
    output = tmp_path / "deep" / "export"
    with new_folder(output, overwrite=False) as folder:
        (folder / "config.json").write_text("{}")
        assert not output.exists()
    assert [each.name for each in output.parent.iterdir()] == ["export"]
    assert (output / "config.json").read_text() == "{}"


def test_a_failure_leaves_nothing_behind_and_what_was_there_as_it_was(tmp_path: Path) -> None:
    write(tmp_path / "export", "before")
    with pytest.raises(TypeError):
        write(tmp_path / "export", None, overwrite=True)
    assert [each.name for each in tmp_path.iterdir()] == ["export"]
    assert (tmp_path / "export" / "config.json").read_text() == "before"


def test_an_export_is_replaced_only_if_asked(tmp_path: Path) -> None:
    write(tmp_path / "export", "before")
    (tmp_path / "export" / "left over").write_text("")
    with pytest.raises(ConfigError, match="--overwrite replaces it"):
        write(tmp_path / "export", "after")
    write(tmp_path / "export", "after", overwrite=True)
    assert [each.name for each in (tmp_path / "export").iterdir()] == ["config.json"]
    assert (tmp_path / "export" / "config.json").read_text() == "after"


def test_a_folder_of_other_things_is_never_replaced(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(ConfigError, match="something else than a model"):
        write(tmp_path, "{}", overwrite=True)
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_an_empty_folder_is_filled(tmp_path: Path) -> None:
    (tmp_path / "export").mkdir()
    write(tmp_path / "export", "{}")
    assert (tmp_path / "export" / "config.json").exists()
