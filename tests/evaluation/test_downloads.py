from __future__ import annotations

import hashlib
import random
import signal
import subprocess
import sys
from collections import namedtuple
from pathlib import Path

import pytest

from retrieval.errors import DownloadError
from retrieval.evaluation import downloads
from retrieval.evaluation.downloads import download
from tests.evaluation.file_server import FileServer, serve

MEBIBYTE = 1 << 20
CONTENT = random.Random(0).randbytes(4 * MEBIBYTE + 12_345)
SHA256 = f"sha256:{hashlib.sha256(CONTENT).hexdigest()}"
MD5 = f"md5:{hashlib.md5(CONTENT).hexdigest()}"


@pytest.fixture(autouse=True)
def _online(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.setenv("no_proxy", "*")


@pytest.mark.parametrize(("given", "found"), [(None, SHA256), (SHA256, SHA256), (MD5, MD5)])
def test_a_file_arrives_whole_with_its_checksum(
    tmp_path: Path, given: str | None, found: str
) -> None:
    path = tmp_path / "deep" / "data.zip"
    with serve(FileServer(CONTENT)) as server:
        assert download(server.url, path, checksum=given) == found
        assert download(server.url, path, checksum=given) == found
    assert path.read_bytes() == CONTENT
    assert len(server.requests) == 1, "what is there is not fetched again"
    assert [each.name for each in path.parent.iterdir()] == ["data.zip"]


def test_a_server_that_states_no_length_is_read_to_the_end(tmp_path: Path) -> None:
    with serve(FileServer(CONTENT, states_length=False)) as server:
        assert download(server.url, tmp_path / "data.zip") == SHA256


def test_cut_connections_are_taken_up_where_they_ended(tmp_path: Path) -> None:
    cuts = [MEBIBYTE + 7, 500_001]
    with serve(FileServer(CONTENT, cuts=list(cuts))) as server:
        assert download(server.url, tmp_path / "data.zip") == SHA256
    asked = [each.get("Range") for each in server.requests]
    assert asked == [None, f"bytes={cuts[0]}-", f"bytes={sum(cuts)}-"]
    assert server.sent_bytes == len(CONTENT), "nothing is sent twice"


def test_a_truncated_download_is_an_error_with_both_sizes_and_goes_on_later(tmp_path: Path) -> None:
    path = tmp_path / "data.zip"
    with serve(FileServer(CONTENT, cuts=[MEBIBYTE, 0])) as server:
        with pytest.raises(DownloadError, match=r"after 1,048,576 of 4,206,649 bytes: run again"):
            download(server.url, path, checksum=SHA256)
        assert not path.exists()
        assert download(server.url, path, checksum=SHA256) == SHA256
    assert server.sent_bytes == len(CONTENT)


def test_a_killed_download_goes_on_where_it_was(tmp_path: Path) -> None:
    path = tmp_path / "data.zip"
    with serve(FileServer(CONTENT, stop_at=3 * MEBIBYTE)) as server:
        program = (
            "import sys; from pathlib import Path;"
            "from retrieval.evaluation.downloads import download;"
            "download(sys.argv[1], Path(sys.argv[2]))"
        )
        process = subprocess.Popen([sys.executable, "-c", program, server.url, str(path)])
        assert server.is_waiting.wait(60)
        part = path.with_name("data.zip.part")
        for _ in range(1000):
            if part.exists() and part.stat().st_size >= 2 * MEBIBYTE:
                break
            assert process.poll() is None
            signal.sigtimedwait([], 0.01)
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert not path.exists()
        kept = part.stat().st_size
        assert 2 * MEBIBYTE <= kept <= 3 * MEBIBYTE
        server.stop_at, server.sent_bytes = None, 0
        assert download(server.url, path, checksum=SHA256) == SHA256
    assert server.sent_bytes == len(CONTENT) - kept, "only what was missing is sent"
    assert path.read_bytes() == CONTENT


def test_a_part_of_another_file_is_not_continued(tmp_path: Path) -> None:
    path = tmp_path / "data.zip"
    with serve(FileServer(CONTENT, cuts=[MEBIBYTE, 0])) as server:
        with pytest.raises(DownloadError):
            download(server.url, path)
        server.content, server.tag = CONTENT[::-1], '"two"'
        download(server.url, path)
    assert path.read_bytes() == CONTENT[::-1]


@pytest.mark.parametrize(
    "server",
    [FileServer(CONTENT, takes_ranges=False), FileServer(CONTENT, tag=None)],
    ids=["no ranges", "no tag"],
)
def test_where_a_part_can_not_be_continued_for_sure_all_is_fetched_anew(
    tmp_path: Path, server: FileServer
) -> None:
    path = tmp_path / "data.zip"
    server.cuts[:] = [MEBIBYTE, 0]
    with serve(server):
        with pytest.raises(DownloadError, match="bytes: run again"):
            download(server.url, path)
        assert download(server.url, path) == SHA256
    assert path.read_bytes() == CONTENT


def interrupt(*_: object) -> str:
    raise KeyboardInterrupt


def test_a_kill_before_the_new_name_costs_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "data.zip"
    with serve(FileServer(CONTENT)) as server:
        with monkeypatch.context() as patched:
            patched.setattr(downloads, "file_checksum", interrupt)
            with pytest.raises(KeyboardInterrupt):
                download(server.url, path)
        assert not path.exists()
        assert download(server.url, path) == SHA256
    assert len(server.requests) == 1


@pytest.mark.parametrize("kind", ["md5", "sha256"])
def test_another_checksum_is_an_error_with_both_and_nothing_is_kept(
    tmp_path: Path, kind: str
) -> None:
    wrong = f"{kind}:{'0' * {'md5': 32, 'sha256': 64}[kind]}"
    right = MD5 if kind == "md5" else SHA256
    path = tmp_path / "data.zip"
    with serve(FileServer(CONTENT)) as server:
        with pytest.raises(DownloadError, match=f"checksum is {right}, expected {wrong}"):
            download(server.url, path, checksum=wrong)
        assert list(tmp_path.iterdir()) == []
        path.write_bytes(b"put there by hand")
        with pytest.raises(DownloadError, match=f"expected {wrong}"):
            download(server.url, path, checksum=wrong)


def test_without_a_network_the_message_says_what_to_do_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with serve(FileServer(CONTENT)) as server:
        pass
    refused = server.url  # nobody listens there any more
    with pytest.raises(DownloadError, match=r"can't be reached \(.*refused.*\): put it at X"):
        download(refused, tmp_path / "data.zip", advice="put it at X")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(DownloadError, match="HF_HUB_OFFLINE is set: put it at X"):
        download(refused, tmp_path / "data.zip", advice="put it at X")


def test_what_the_server_refuses_is_said(tmp_path: Path) -> None:
    with (
        serve(FileServer(CONTENT, status=404)) as server,
        pytest.raises(DownloadError, match=r"data\.zip: the server says 404 Not Found"),
    ):
        download(server.url, tmp_path / "data.zip")


def test_a_full_disk_is_told_before_it_is_full(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr("shutil.disk_usage", lambda _: usage(10, 9, 1_000_000))
    with (
        serve(FileServer(CONTENT)) as server,
        pytest.raises(DownloadError, match=r"takes 4,206,649 bytes, and .* has 1,000,000 free"),
    ):
        download(server.url, tmp_path / "data.zip")
