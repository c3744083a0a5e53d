from __future__ import annotations

import gc
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from retrieval.errors import IndexFilesError
from retrieval.indexing.locking import WriterLock

HOLDER = """
import sys, time
from pathlib import Path
from retrieval.indexing.locking import WriterLock
lock = WriterLock(Path(sys.argv[1]))
print("held", flush=True)
time.sleep(60)
"""


def test_the_second_writer_is_told_which_process_is_the_first(tmp_path: Path) -> None:
    command = [sys.executable, "-c", HOLDER, str(tmp_path)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    with pytest.raises(IndexFilesError, match=f"process {process.pid} is writing"):
        WriterLock(tmp_path)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    # The lock of a killed process goes with it.
    WriterLock(tmp_path).release()


def test_a_lock_goes_when_it_is_released_or_collected(tmp_path: Path) -> None:
    lock = WriterLock(tmp_path)
    with pytest.raises(IndexFilesError, match=rf"this process \({os.getpid()}\)"):
        WriterLock(tmp_path)
    lock.release()
    lock.release()
    assert not lock.is_held
    second = WriterLock(tmp_path)
    del second
    gc.collect()
    with WriterLock(tmp_path) as third:
        assert third.is_held
    assert not third.is_held


def test_a_child_process_does_not_give_its_parents_lock_back(tmp_path: Path) -> None:
    lock = WriterLock(tmp_path)
    child = os.fork()
    if not child:
        lock.release()
        os._exit(0)
    os.waitpid(child, 0)
    with pytest.raises(IndexFilesError, match="this process"):
        WriterLock(tmp_path)
    lock.release()
    WriterLock(tmp_path).release()
