"""Ways to harm an index's files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from retrieval.files import sha256
from retrieval.indexing.versions import current_version, manifest_checksum


def change_manifest(index: Path, **changes: Any) -> None:
    """Write other values into the manifest, and the checksum that goes with them."""
    path = current_version(index) / "manifest.json"
    fields = json.loads(path.read_text()) | changes
    del fields["sha256"]
    path.write_text(json.dumps(fields | {"sha256": manifest_checksum(fields)}))


def sign(index: Path) -> None:
    """Give the manifest the sizes and checksums that the files have now."""
    version = current_version(index)
    names = json.loads((version / "manifest.json").read_text())["files"]
    files = {
        name: {"bytes": (version / name).stat().st_size, "sha256": sha256(version / name)}
        for name in names
    }
    change_manifest(index, files=files)
