"""A forked program is a process like any other."""

from __future__ import annotations

import signal
import subprocess
from pathlib import Path

import pytest

from tests.programs import run_program, start_program


def write(folder: Path, text: str) -> Path:
    path = folder / "program.py"
    path.write_text(text, "utf-8")
    return path


def test_it_has_its_own_arguments_folder_and_environment(tmp_path: Path) -> None:
    text = "import os, sys\nprint(os.getcwd(), os.environ['MINE'], *sys.argv[1:])\n"
    program = write(tmp_path, text + "print('both', file=sys.stderr)\nsys.exit(3)")
    done = run_program(program, "a", "b", folder=tmp_path, environment={"MINE": "yes"})
    assert (done.returncode, done.stdout, done.stderr) == (3, f"{tmp_path} yes a b\n", "both\n")


def test_sentence_transformers_is_loaded_and_torch_has_started_no_threads(tmp_path: Path) -> None:
    text = "import sys, threading, retrieval\n"
    text += "print('sentence_transformers' in sys.modules, threading.active_count())\n"
    text += "print(retrieval.__file__)"
    done = run_program(write(tmp_path, text))
    loaded, where = done.stdout.splitlines()
    assert loaded == "True 1"
    assert Path(where).parents[1] == Path(__file__).parents[1]


def test_failures_kills_and_stalls_are_seen(tmp_path: Path) -> None:
    failed = run_program(write(tmp_path, "1 / 0"))
    assert failed.returncode == 1
    assert failed.stderr.endswith("ZeroDivisionError: division by zero\n")
    said = run_program(write(tmp_path, "import sys\nsys.exit('error: none')"))
    assert (said.returncode, said.stderr.strip()) == (1, "error: none")
    killed = run_program(write(tmp_path, "import os\nos.kill(os.getpid(), 9)"))
    assert killed.returncode == -signal.SIGKILL
    stalled = start_program(write(tmp_path, "import time\ntime.sleep(600)"))
    with pytest.raises(subprocess.TimeoutExpired):
        stalled.wait(0.5)
