"""Kills a writer at each of its steps in turn, and says what is left; run as a program.

python interrupted.py KIND CHANGE FOLDER prints one JSON line for each step: its name, whether the
writer got through, whether the index is whole, and whether it answers as before or as after.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from retrieval.errors import RetrievalError
from retrieval.indexing import index_class, open_index
from retrieval.indexing.index import Batch, Index
from retrieval.indexing.verify import verify_index
from retrieval.indexing.versions import current_version

STEPS = {"open", "os.mkdir", "os.link", "os.rename", "os.remove", "os.rmdir"}
IDS = [f"d{number}" for number in range(30)]


def items(kind: str, ids: list[str]) -> Any:
    numbers = [int(each[1:]) for each in ids]
    if kind == "lexical":
        return [f"word{number} word{number % 7} common" for number in numbers]
    rows = [np.random.default_rng(number).standard_normal((3, 8)) for number in numbers]
    if kind in ("plaid", "exact"):
        return [each.astype(np.float32) for each in rows]
    return np.stack([each[0] for each in rows]).astype(np.float32)


def batches(kind: str, ids: list[str]) -> list[Batch[Any]]:
    return [Batch(ids[at : at + 4], items(kind, ids[at : at + 4])) for at in range(0, len(ids), 4)]


def answers(index: Index[Any]) -> list[list[str]]:
    hits = index.search(items(index.kind, ["d1", "d5", "d25"]), 40)
    return [sorted(hit.document_id for hit in each) for each in hits]


def build(kind: str, folder: Path) -> None:
    index_class(kind).build(folder, batches(kind, IDS), overwrite=True)


def delete(kind: str, folder: Path) -> None:
    with open_index(folder, writable=True) as index:
        index.delete(["d1"])
        index.save()


def change(name: str) -> Callable[[str, Path], None]:
    def run(kind: str, folder: Path) -> None:
        index = open_index(folder, writable=True)
        if name == "add":
            index.add(["d25"], items(kind, ["d25"]))
        elif name == "upsert":
            index.upsert(["d5", "d25"], items(kind, ["d5", "d25"]))
        else:
            index.delete(["d5"])
        index.compact() if name == "compact" else index.save()

    return run


def step_name(event: str, arguments: tuple[Any, ...], folder: Path) -> str | None:
    """The step in words, such as "open .CURRENT.tmp"; None for what does not touch the index."""
    two_paths = event in ("os.link", "os.rename")
    path = str(arguments[two_paths]) if len(arguments) > 1 else ""
    is_read = event == "open" and arguments[1] == "r"
    if event not in STEPS or is_read or not path.startswith(str(folder)):
        return None
    return f"{event} {Path(path).name}"


def die_at(number: int, folder: Path, channel: int) -> None:
    """Kill this process at a step that touches the folder, or when it syncs a file."""
    seen = 0

    def reach(name: str) -> None:
        nonlocal seen
        seen += 1
        if seen == number:
            os.write(channel, json.dumps({"step": name}).encode() + b"\n")
            os.kill(os.getpid(), signal.SIGKILL)

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        name = step_name(event, arguments, folder)
        if name is not None:
            reach(name)

    sync = os.fsync

    def synced(descriptor: int) -> None:
        reach(f"sync {Path(os.readlink(f'/proc/self/fd/{descriptor}')).name}")
        sync(descriptor)

    setattr(os, "fsync", synced)  # noqa: B010  mypy takes no assignment
    sys.addaudithook(hook)


def killed_at(number: int, run: Callable[[], None], folder: Path) -> dict[str, Any]:
    receiver, sender = os.pipe()
    child = os.fork()
    if not child:
        os.close(receiver)
        die_at(number, folder, sender)
        run()
        os.write(sender, json.dumps({"step": None}).encode() + b"\n")
        os._exit(0)
    os.close(sender)
    os.waitpid(child, 0)
    with os.fdopen(receiver) as stream:
        said: dict[str, Any] = json.loads(stream.readline())
    return said


def main(kind: str, name: str, folder: Path) -> None:
    if kind == "plaid":
        from retrieval.indexing.plaid import plaid_index

        # A build of 90 tokens that goes to disk several times.
        plaid_index._ENCODED_AT_ONCE, plaid_index._FLUSHED_TOKENS = 12, 24
    run = build if name == "build" else change(name)
    start = folder / "start"
    with index_class(kind).build(start, batches(kind, IDS[:20])) as index:
        if name == "compact":
            index.delete(["d3", "d7"])
            index.save()
            index.add(["d20"], items(kind, ["d20"]))
            index.save()
    after = folder / "after"
    shutil.copytree(start, after)
    run(kind, after)
    expected = {"before": answers(open_index(start)), "after": answers(open_index(after))}
    number = 0
    while True:
        number += 1
        copy = folder / f"at {number}"
        shutil.copytree(start, copy)
        said = killed_at(number, lambda copy=copy: run(kind, copy), copy)  # type: ignore[misc]
        try:
            verify_index(copy)
            found = answers(open_index(copy))
            said["answers"] = [each for each, wanted in expected.items() if wanted == found]
            said["moved"] = current_version(copy).name != current_version(start).name
            # The next writer gets through, and leaves nothing of the killed one.
            (build if name == "build" else delete)(kind, copy)
            verify_index(copy)
            again = answers(open_index(copy))
            said["next"] = again == expected["after"] if name == "build" else "d1" not in again[0]
        except RetrievalError as error:
            said["error"] = str(error)
        said["left"] = sorted(each.name for each in (*copy.iterdir(), *copy.glob("versions/*")))
        print(json.dumps(said), flush=True)
        shutil.rmtree(copy)
        if said["step"] is None:
            return


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], Path(sys.argv[3]))
