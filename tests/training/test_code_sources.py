"""Code of installed packages, found without an import, and the files made of it."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from retrieval.errors import InputError
from retrieval.evaluation import read_collection
from retrieval.training.code_sources import extract_sources, find_code
from retrieval.training.examples import read_contrastive
from tests.programs import run_program

FUNCTION = '''
def {name}(x):
    """Compute the {name} of a number."""
    y = x + {number}
    return y
'''


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """An installed distribution `some-code`, with a package and a module that fail if imported."""
    site = tmp_path / "site"
    (site / "some_code/tests").mkdir(parents=True)
    for at in range(40):
        text = FUNCTION.format(name=f"value{at}", number=at)
        (site / f"some_code/part{at}.py").write_text(text, "utf-8")
    (site / "some_code/__init__.py").write_text("raise SystemExit('imported')\n", "utf-8")
    single = "raise SystemExit('imported')\n" + FUNCTION.format(name="single", number=99)
    # The same function as in the package: it is left out.
    (site / "some_single.py").write_text(single + FUNCTION.format(name="value3", number=3), "utf-8")
    metadata = site / "some_code-1.2.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: some-code\nVersion: 1.2\nLicense: The whole text\n"
        "Classifier: License :: OSI Approved :: MIT License\n",
        "utf-8",
    )
    (metadata / "top_level.txt").write_text("some_code\nsome_single\n", "utf-8")
    monkeypatch.syspath_prepend(site)
    return str(site)


@pytest.mark.parametrize("target", ["some-code", "Some_Code"])
def test_a_package_is_found_with_its_licence_and_not_imported(package: str, target: str) -> None:
    sources = find_code(target)
    assert [(each.name, each.package, each.licence) for each in sources] == [
        ("some_code", "some-code 1.2", "MIT License"),
        ("some_single", "some-code 1.2", "MIT License"),
    ]
    functions = list(extract_sources(sources))
    assert len(functions) == 41
    assert functions[0].id == "some_code/part0.py:value0:2"
    assert functions[-1].module == "some_single/some_single.py"
    assert functions[-1].query == "Compute the single of a number."
    assert "some_code" not in sys.modules


def test_the_name_that_is_imported_and_other_places_are_found(tmp_path: Path) -> None:
    (yaml,) = find_code("yaml")
    assert yaml.package is not None
    assert yaml.package.startswith("PyYAML ")
    assert yaml.licence == "MIT License"
    assert find_code("stdlib")[0].licence == "PSF-2.0"
    assert find_code(str(tmp_path))[0].licence is None
    with pytest.raises(InputError, match="no-such-package: no folder, and no package"):
        find_code("no-such-package")


def test_the_program_writes_pairs_and_a_collection_of_other_modules(
    tmp_path: Path, package: str
) -> None:
    command = ["train/code_pairs.py", f"{package}/some_code", "--output", "out"]
    command += ["--held-out", "0.25"]
    done = run_program(*command, folder=tmp_path)
    assert done.returncode == 0, done.stderr
    pairs = read_contrastive([tmp_path / "out/train.jsonl"])
    collection = read_collection(tmp_path / "out/held-out")
    documents = {each.id: each.text for each in collection.documents()}
    assert len(pairs) + len(documents) == 40
    assert 3 <= len(documents) <= 20
    assert not set(pairs["positive"]) & set(documents.values())
    assert collection.qrels == {f"q:{each}": {each: 1} for each in documents}
    (source,) = json.loads((tmp_path / "out/sources.json").read_text())
    assert source == {"name": "some_code", "root": "some_code", "package": None, "licence": None}
    again = run_program(*command, folder=tmp_path)
    assert again.returncode == 2
    assert "not empty" in again.stderr
