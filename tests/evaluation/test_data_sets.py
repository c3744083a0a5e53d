from __future__ import annotations

import hashlib
import importlib.metadata
import json
import threading
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from retrieval.errors import DownloadError, InputError
from retrieval.evaluation import read_collection
from retrieval.evaluation.data_folders import exclusive, read_record, whole_folder
from retrieval.evaluation.data_sets import locate, prepare
from retrieval.evaluation.suites import DataSet
from tests.evaluation.file_server import FileServer, serve

WriteBeir = Callable[..., Path]


def test_any_beir_folder_is_found_by_its_path(write_beir: WriteBeir, tmp_path: Path) -> None:
    folder = write_beir(name="tiny")
    by_name = DataSet(name="a", source="folder:tiny")
    by_path = DataSet(name="a", source=f"folder:{folder}")
    assert locate(by_name, tmp_path) == folder
    assert locate(by_path, tmp_path / "elsewhere") == folder


def test_what_beir_unpacked_itself_is_found(write_beir: WriteBeir, tmp_path: Path) -> None:
    folder = write_beir(name="cqadupstack/tex")
    assert locate(DataSet(name="cqa-tex", source="beir:cqadupstack/tex"), tmp_path) == folder


@pytest.mark.parametrize(
    ("source", "others", "advice"),
    [
        ("beir:scifact", {}, r"scifact\.zip"),
        ("folder:scifact", {}, "put a BEIR folder there"),
        ("folder:scifact", {"obtain": "ask NIST"}, "ask NIST; put it there as a BEIR folder"),
    ],
)
def test_missing_data_say_how_to_get_them(
    tmp_path: Path, source: str, others: dict[str, str], advice: str
) -> None:
    data_set = DataSet(name="s", source=source, **others)  # type: ignore[arg-type]
    with pytest.raises(InputError, match=advice) as caught:
        locate(data_set, tmp_path)
    assert f"{tmp_path / 'scifact'} has no corpus.jsonl, queries.jsonl" in str(caught.value)


def test_a_missing_split_is_named(write_beir: WriteBeir, tmp_path: Path) -> None:
    write_beir(name="tiny", dev="q1\td1\t1\n")
    with pytest.raises(InputError, match=r"has no qrels/test\.tsv"):
        locate(DataSet(name="a", source="folder:tiny"), tmp_path)


def zipped(folder: Path, path: Path, top: str) -> bytes:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for each in sorted(folder.rglob("*")):
            archive.write(each, f"{top}/{each.relative_to(folder)}")
    return path.read_bytes()


@pytest.fixture
def online(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.setenv("no_proxy", "*")


@pytest.mark.usefixtures("online")
def test_a_beir_zip_is_fetched_unpacked_and_found_again(
    write_beir: WriteBeir, tmp_path: Path
) -> None:
    folder = write_beir(name="made")
    content = zipped(folder, tmp_path / "made.zip", "tiny")
    checksum = f"md5:{hashlib.md5(content).hexdigest()}"
    with serve(FileServer(content)) as server:
        data_set = DataSet(
            name="small", source="beir:tiny", url=server.url, archive_checksum=checksum
        )
        path = prepare(data_set, tmp_path / "data")
        assert prepare(data_set, tmp_path / "data") == path == tmp_path / "data" / "tiny"
    assert len(server.requests) == 1
    assert read_collection(path).fingerprint == read_collection(folder).fingerprint
    assert (path / "corpus.jsonl").read_bytes() == (folder / "corpus.jsonl").read_bytes()
    assert not list((tmp_path / "data" / ".archives").iterdir()), "the zip is not kept"
    assert json.loads((path / "source.json").read_text()) == {
        "source": "beir:tiny",
        "url": server.url,
        "archive_checksum": checksum,
    }
    other = replace(data_set, archive_checksum=f"md5:{'0' * 32}")
    with pytest.raises(DownloadError, match=f"made with archive_checksum '{checksum}'"):
        prepare(other, tmp_path / "data")


@pytest.mark.usefixtures("online")
def test_the_parts_of_one_zip_are_fetched_together(write_beir: WriteBeir, tmp_path: Path) -> None:
    for name in ("all/tex", "all/unix"):
        write_beir(name=name)
    content = zipped(tmp_path / "all", tmp_path / "all.zip", "cqa")
    with serve(FileServer(content)) as server:
        parts = [
            DataSet(name=f"cqa-{name}", source=f"beir:cqa/{name}", url=server.url)
            for name in ("tex", "unix")
        ]
        found = [prepare(each, tmp_path / "data") for each in parts]
    assert len(server.requests) == 1
    assert found == [tmp_path / "data" / "cqa" / name for name in ("tex", "unix")]
    sha256 = f"sha256:{hashlib.sha256(content).hexdigest()}"
    assert [read_record(each) for each in found] == [
        {"source": f"beir:cqa/{name}", "url": server.url, "archive_checksum": sha256}
        for name in ("tex", "unix")
    ]


@pytest.mark.usefixtures("online")
def test_a_zip_put_there_by_hand_needs_no_network(
    write_beir: WriteBeir, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = zipped(write_beir(name="made"), tmp_path / "made.zip", "tiny")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    data_set = DataSet(name="tiny", source="beir:tiny")
    data = tmp_path / "data"
    with pytest.raises(DownloadError, match=r"put the zip at .*/data/\.archives/tiny\.zip"):
        prepare(data_set, data)
    (data / ".archives").mkdir(parents=True)
    (data / ".archives" / "tiny.zip").write_bytes(content)
    assert read_collection(prepare(data_set, data)).split == "test"


def test_a_killed_unpacking_leaves_nothing_that_counts(
    write_beir: WriteBeir, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = zipped(write_beir(name="made"), tmp_path / "made.zip", "tiny")
    data = tmp_path / "data"
    left = data / ".tiny.unfinished"
    left.mkdir(parents=True)
    (left / "corpus.jsonl").write_text("half a l")
    (data / ".archives").mkdir()
    (data / ".archives" / "tiny.zip").write_bytes(content)
    data_set = DataSet(name="tiny", source="beir:tiny")
    with pytest.raises(InputError, match="has no"):
        locate(data_set, data)
    assert len(list(read_collection(prepare(data_set, data)).documents())) == 4
    assert not left.exists()


def test_two_processes_make_a_folder_once(tmp_path: Path) -> None:
    target = tmp_path / "x"
    made = []

    def make() -> None:
        with exclusive(target):
            if not target.exists():
                with whole_folder(target) as unfinished:
                    (unfinished / "file").write_text("x")
                made.append(target)

    threads = [threading.Thread(target=make) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert made == [target]


def test_the_functions_of_installed_packages_are_a_data_set(tmp_path: Path) -> None:
    data_set = DataSet(name="code", source="packages:iniconfig,pluggy")
    path = prepare(data_set, tmp_path)
    collection = read_collection(path)
    ids = {each.id for each in collection.documents()}
    assert len(ids) > 20
    assert {each.partition("/")[0] for each in ids} == {"iniconfig", "pluggy"}
    assert all(set(judged) == {query[2:]} for query, judged in collection.qrels.items())
    packages = [f"{name} {importlib.metadata.version(name)}" for name in ("iniconfig", "pluggy")]
    assert read_record(path) == {"source": data_set.source, "packages": packages}
    with pytest.raises(InputError, match="no package of this name is installed"):
        prepare(DataSet(name="none", source="packages:no-such-package"), tmp_path)
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize("name", ["scifact", "nfcorpus-lc", "cranfield"])
def test_development_collections_are_found_by_path(shared_data: Path, name: str) -> None:
    by_name = DataSet(name=name, source=f"folder:{name}")
    assert locate(by_name, shared_data) == shared_data / name
