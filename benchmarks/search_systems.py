"""What the search benchmark runs: our builds and settings, the peers' builds and settings."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

Options = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Build:
    """An index that is made, and the engine that makes it."""

    name: str
    engine: str
    """`search_peers/ENGINE_engine.py`."""
    options: Options = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Setting:
    """Options of a search, and what they are called in tables."""

    name: str
    options: Options = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Peer:
    """A peer; the first of its settings is the one of its RESULT lines."""

    build: Build
    settings: tuple[Setting, ...]
    has_index: bool = True
    """False where there is nothing to build, so that build times can't be compared."""


OURS = (
    Build(name="4 bits", engine="plaid", options={"bits": 4}),
    Build(name="4 bits + tokens", engine="plaid", options={"bits": 4, "keep_tokens": True}),
    Build(name="2 bits", engine="plaid", options={"bits": 2}),
)
EXACT = Build(name="exact", engine="exact")

# probes, candidates, scored, rescored, margin, patience: from cheap to thorough. All but the last
# three were chosen together among some 3,500 efforts, so that for every recall of the ten and of
# the hundred best a setting takes little longer than the fastest effort that reaches both (20,000
# documents of starter-colbert, queries 400 to 680; the tables are of the first 300).
_LADDER = (
    (12, 750, 300, 100, 0.75, 1.0),
    (10, 1000, 300, 100, 1.25, 1.0),
    (10, 1000, 300, 100, 0.75, 1.5),
    (10, 1250, 625, 100, 0.75, 1.25),
    (14, 1000, 300, 100, 1.5, 1.0),
    (10, 1250, 375, 110, 1.0, 1.5),
    (14, 1000, 400, 100, 2.0, 1.0),
    (16, 1000, 300, 100, 1.5, 1.25),
    (10, 1250, 625, 110, 1.25, 1.5),
    (12, 1250, 500, 100, 3.0, 1.0),
    (10, 1500, 750, 110, 1.75, 1.5),
    (10, 1250, 375, 110, 2.5, 1.5),
    (16, 1250, 500, 120, 2.0, 1.5),
    (14, 1500, 600, 120, 1.5, 1.75),
    (14, 1500, 450, 110, 3.0, 1.25),
    (14, 2000, 800, 120, 1.25, 1.75),
    (10, 1500, 450, 120, 3.0, 1.75),
    (14, 2000, 1000, 120, 1.75, 1.75),
    (20, 1500, 450, 120, 2.5, 1.75),
    (14, 2500, 750, 130, 2.0, 1.75),
    (10, 3000, 1200, 130, 2.5, 1.75),
    (20, 2500, 1250, 130, 2.5, 1.75),
    (20, 2000, 1000, 150, 2.0, 2.0),
    (12, 3500, 1050, 150, 2.5, 2.0),
    (16, 2500, 1250, 150, 2.5, 2.5),
    (20, 3500, 1400, 150, 2.5, 2.5),
    (16, 4000, 2000, 200, 3.0, 2.5),
    (32, 6000, 3000, 200, 3.0, 3.0),
    (64, 8000, 4000, 300, 3.0, 4.0),
)


def our_settings(build: Build, kernels: str | None = None) -> list[Setting]:
    """The default, and others from cheap to thorough; the exact index has nothing to set.

    Args:
        build: whose settings.
        kernels: the instruction set that they run with; None for the processor's best.
    """
    settings = [Setting(name="default")]
    if build != EXACT:
        settings += _searches(build)
    if kernels is None:
        return settings
    return [replace(each, options={**each.options, "kernels": kernels}) for each in settings]


def _searches(build: Build) -> list[Setting]:
    settings = [Setting(name=each, options={"quality": each}) for each in ("fast", "best")]
    for probes, candidates, scored, rescored, margin, patience in _LADDER:
        options: Options = {
            "probes": probes,
            "candidates": candidates,
            "scored": scored,
            "margin": margin,
            "patience": patience,
        }
        name = f"probes {probes}, {candidates} / {scored}, margin {margin}, patience {patience}"
        if build.options.get("keep_tokens"):
            options["rescored"] = rescored
            name += f" / {rescored}"
        settings.append(Setting(name=name, options=options))
    return settings


NUMPY = Setting(name="default, NumPy", options={"engine": "numpy"})

PEERS = {
    "fast-plaid": Peer(
        build=Build(name="fast-plaid", engine="fast_plaid"),
        settings=(
            Setting(name="default"),
            Setting(name="n_full_scores 1024", options={"n_full_scores": 1024}),
        ),
    ),
    "tachiom": Peer(
        build=Build(name="tachiom", engine="tachiom"),
        settings=(
            Setting(name="default"),
            Setting(
                name="40 centroids, 1000 documents",
                options={"k_centroids": 40, "k_docs_to_score": 1000},
            ),
        ),
    ),
    "lancedb": Peer(
        build=Build(name="lancedb", engine="lancedb", options={"num_sub_vectors": 32}),
        settings=(
            Setting(
                name="IVF_PQ, nprobes 16, refine 5", options={"nprobes": 16, "refine_factor": 5}
            ),
        ),
    ),
    "muvera": Peer(
        build=Build(name="muvera", engine="muvera"),
        settings=(
            Setting(name="5120 components, exact 3000", options={"candidates": 3000}),
            Setting(name="5120 components, exact 1000", options={"candidates": 1000}),
        ),
    ),
    "xtr-warp": Peer(
        build=Build(name="xtr-warp", engine="xtr_warp"),
        settings=(
            Setting(name="default"),
            Setting(
                name="nprobe 64, 4096 candidates",
                options={
                    "nprobe": 64,
                    "bound": 2048,
                    "centroid_score_threshold": 0.0,
                    "max_candidates": 4096,
                },
            ),
        ),
    ),
    "brute-force": Peer(
        build=Build(name="brute-force", engine="brute_force"),
        settings=(Setting(name="torch bfloat16"),),
        has_index=False,
    ),
}
