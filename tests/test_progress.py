from __future__ import annotations

import os
import pty
import sys
import threading
import time
from collections.abc import Iterator

import pytest

from retrieval.progress import Meter, Stages, track


def slow_numbers(count: int, seconds: float) -> Iterator[int]:
    for number in range(count):
        time.sleep(seconds)
        yield number


def shown_on_a_terminal(
    monkeypatch: pytest.MonkeyPatch, items: Iterator[int], total: int | None
) -> str:
    """What `track` writes to stderr where that is a terminal."""
    reader, writer = pty.openpty()
    seen: list[bytes] = []

    def collect() -> None:
        try:
            while part := os.read(reader, 4096):
                seen.append(part)
        except OSError:  # a terminal without a writer ends with an input/output error
            return

    thread = threading.Thread(target=collect)
    thread.start()
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "100")
    with os.fdopen(writer, "w") as stream:
        monkeypatch.setattr(sys, "stderr", stream)
        assert list(track(items, "searching [fast]", total)) == list(range(total or 2))
        monkeypatch.undo()
    thread.join(10)
    os.close(reader)
    return b"".join(seen).decode()


def test_items_pass_unchanged_and_one_line_closes_where_stderr_is_no_terminal(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert list(track(range(3), "counting [b]")) == [0, 1, 2]
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("counting [b]: 3 in 0.")
    assert captured.err.count("\n") == 1


def test_nothing_is_shown_when_disabled(capsys: pytest.CaptureFixture[str]) -> None:
    assert list(track(iter("ab"), "counting", enabled=False)) == ["a", "b"]
    assert capsys.readouterr().err == ""


def test_a_terminal_shows_count_and_description(monkeypatch: pytest.MonkeyPatch) -> None:
    shown = shown_on_a_terminal(monkeypatch, slow_numbers(4, 0.2), 4)
    assert "searching [fast]" in shown
    assert "4/4" in shown
    assert "/s" in shown


def test_an_unknown_total_is_filled_in_at_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    shown = shown_on_a_terminal(monkeypatch, slow_numbers(2, 0.35), None)
    assert "2/2" in shown


def test_a_short_job_shows_no_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "searching" not in shown_on_a_terminal(monkeypatch, slow_numbers(2, 0.0), 2)


def test_an_error_of_the_items_comes_through() -> None:
    def failing() -> Iterator[int]:
        yield 1
        raise ValueError("the third line")

    with pytest.raises(ValueError, match="the third line"):
        list(track(failing(), "reading"))


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Seconds that `Meter` believes in; change the only one."""
    now = [100.0]
    monkeypatch.setattr("retrieval.progress.time.perf_counter", lambda: now[0])
    return now


def test_what_was_done_before_counts_in_no_rate(clock: list[float]) -> None:
    with Meter("encoding", 100, part="tokens") as meter:
        clock[0] += 7  # a long look at what is there
        meter.skip(40)
        clock[0] += 10
        meter.advance(20, 3_000)
        assert meter.completed == 60
        assert meter.rates() == "2.00/s, tokens 300/s"
        assert meter.seconds_left == pytest.approx(20)
        meter.skip(10)
        assert meter.seconds_left == pytest.approx(15)


def test_without_a_total_or_any_work_no_time_left_is_told(clock: list[float]) -> None:
    meter = Meter("encoding", None)
    meter.advance(3)
    assert meter.seconds_left is None
    meter = Meter("encoding", 10)
    meter.skip(5)
    assert meter.seconds_left is None


def test_one_line_closes_with_parts_skipped_items_and_a_remark(
    clock: list[float], capsys: pytest.CaptureFixture[str]
) -> None:
    with Meter("encoding", part="tokens") as meter:
        meter.skip(2_048)
        clock[0] += 4
        meter.advance(1_000, 155_000)
        meter.remark = "3 texts were cut"
    assert capsys.readouterr().err == (
        "encoding: 1,000 with 155,000 tokens in 4.0 s (250/s, tokens 38,750/s); "
        "2,048 were there already; 3 texts were cut\n"
    )


def test_stages_are_numbered_and_timed(capsys: pytest.CaptureFixture[str]) -> None:
    stage = Stages(total=2)
    stage("first")
    stage("second [not markup]")
    stage.finish()
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "[1/2] first"
    assert lines[2] == "[2/2] second [not markup]"
    assert lines[1].strip() == lines[3].strip() == "0.0 s"
    assert lines[4] == "done in 0 s"
