"""Make the environment of a peer of the search or the training benchmark.

    python benchmarks/search_peers/install.py fast-plaid tachiom lancedb --environments FOLDER
    python benchmarks/search_peers/install.py pylate --environments FOLDER

fast-plaid and WARP are built for one release of torch, whose wheel brings CUDA: 7 GB of disk, one
environment for both. tachiom's wheel wants glibc 2.39: on an older Debian that of a newer release
is unpacked beside the environment, and the peer's Python is started through its loader. MUVERA and
brute force run in this program's own environment and need no installation. PyLate is installed
without fast-plaid, which training does not use and which would bring another torch.
"""

from __future__ import annotations

import argparse
import platform
import subprocess
import sys
import venv
from pathlib import Path
from typing import NamedTuple

DEFAULT_FOLDER = Path("build/search-environments")
_NEWER_DEBIAN = "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] "
_NEWER_DEBIAN += "http://deb.debian.org/debian trixie main\n"


class Environment(NamedTuple):
    """What a peer is installed from."""

    name: str
    requirements: tuple[str, ...]
    glibc: tuple[int, int] = (2, 28)
    without_dependencies: tuple[str, ...] = ()
    constraints: Path | None = None


_ROOT = Path(__file__).resolve().parents[2]
TORCH = ("torch==2.11.0", "fast-plaid==1.7.0.2110", "xtr-warp-rs==2.1.0.2110", "numpy")
ENVIRONMENTS = {
    "fast-plaid": Environment("torch-2.11", TORCH),
    "xtr-warp": Environment("torch-2.11", TORCH),
    "tachiom": Environment("tachiom", ("tachiom==0.4.0", "numpy"), glibc=(2, 39)),
    "lancedb": Environment("lancedb", ("lancedb==0.40.0", "numpy", "pyarrow")),
    "pylate": Environment(
        "pylate",
        (
            *("torch", "sentence-transformers", "transformers", "accelerate", "datasets"),
            *("fastkmeans", "ujson", "pandas", "faiss-cpu", "bm25s", "PyStemmer"),
        ),
        without_dependencies=("pylate",),
        constraints=_ROOT / "tests" / "with_pylate" / "constraints.txt",
    ),
}


def python_command(peer: str, folder: Path) -> list[str] | None:
    """The command that starts a peer's Python; None where it is not installed."""
    if peer not in ENVIRONMENTS:
        return [sys.executable]
    home = folder.resolve() / ENVIRONMENTS[peer].name
    if not (home / "installed").is_file():
        return None
    return _through_loader(home)


def main() -> None:
    """Install the peers that are asked for; complete environments are left as they are."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("peers", nargs="+", metavar="PEER", choices=list(ENVIRONMENTS))
    parser.add_argument("--environments", type=Path, default=DEFAULT_FOLDER)
    arguments = parser.parse_args()
    for peer in arguments.peers:
        _install(ENVIRONMENTS[peer], arguments.environments)
        print(f"{peer}: {' '.join(python_command(peer, arguments.environments) or [])}")


def _install(environment: Environment, folder: Path) -> None:
    home = folder.resolve() / environment.name
    if (home / "installed").is_file():
        return
    venv.create(home, with_pip=True, clear=True)
    pip = [str(home / "bin" / "python"), "-m", "pip", "install", "--quiet"]
    if environment.constraints:
        pip += ["--constraint", str(environment.constraints)]
    if _glibc() >= environment.glibc:
        subprocess.run([*pip, *environment.requirements], check=True)
    else:
        wheels = ["--only-binary", ":all:", "--target", str(_site_packages(home))]
        for minor in range(17, environment.glibc[1] + 1):
            wheels += ["--platform", f"manylinux_2_{minor}_x86_64"]
        subprocess.run([*pip, *wheels, *environment.requirements], check=True)
        _unpack_newer_glibc(home / "glibc")
    if environment.without_dependencies:
        subprocess.run([*pip, "--no-deps", *environment.without_dependencies], check=True)
    (home / "installed").write_text("\n".join(environment.requirements) + "\n")


def _unpack_newer_glibc(target: Path) -> None:
    """Fetch the C library of a newer Debian with apt, touching nothing of this system's."""
    for name in ("lists/partial", "archives/partial"):
        (target / name).mkdir(parents=True, exist_ok=True)
    (target / "sources.list").write_text(_NEWER_DEBIAN)
    apt = ["apt-get", "-qq"]
    for option in (
        f"Dir::Etc::sourcelist={target / 'sources.list'}",
        "Dir::Etc::sourceparts=-",
        f"Dir::State::lists={target / 'lists'}",
        f"Dir::Cache::archives={target / 'archives'}",
        f"Dir::Cache::pkgcache={target / 'packages.bin'}",
        f"Dir::Cache::srcpkgcache={target / 'sources.bin'}",
        "APT::Sandbox::User=root",
    ):
        apt += ["-o", option]
    subprocess.run([*apt, "update"], check=True)
    names = ["libc6", "libgcc-s1", "libstdc++6"]
    subprocess.run([*apt, "download", *names], check=True, cwd=target / "archives")
    for package in (target / "archives").glob("*.deb"):
        subprocess.run(["dpkg-deb", "-x", str(package), str(target / "root")], check=True)


def _through_loader(home: Path) -> list[str]:
    python = home / "bin" / "python"
    libraries = home / "glibc" / "root" / "usr" / "lib" / "x86_64-linux-gnu"
    if not libraries.is_dir():
        return [str(python)]
    # Then Python's own library, lest another release of it be found, and what it was linked with.
    settings = (home / "pyvenv.cfg").read_text().splitlines()
    own = next(line.partition("= ")[2] for line in settings if line.startswith("home"))
    path = f"{libraries}:{Path(own).parent / 'lib'}:/lib/x86_64-linux-gnu:/usr/lib/x86_64-linux-gnu"
    loader = str(libraries / "ld-linux-x86-64.so.2")
    return [loader, "--argv0", str(python), "--library-path", path, str(python)]


def _site_packages(home: Path) -> Path:
    return next(home.glob("lib/python*/site-packages"))


def _glibc() -> tuple[int, int]:
    major, minor = platform.libc_ver()[1].split(".")[:2]
    return int(major), int(minor)


if __name__ == "__main__":
    main()
