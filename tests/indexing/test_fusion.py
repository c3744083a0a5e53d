from __future__ import annotations

import math
from fractions import Fraction
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from retrieval.errors import ConfigError, DuplicateIdError, InputError
from retrieval.indexing.fusion import (
    FusionSettings,
    Method,
    fuse,
    reciprocal_rank_fusion,
    score_fusion,
)
from retrieval.records import Hit

METHODS: list[Method] = ["rrf", "min-max", "z-score"]

DENSE = [Hit("a", 0.9), Hit("b", 0.8), Hit("c", 0.4)]
LEXICAL = [Hit("c", 20.0), Hit("b", 12.0), Hit("d", 4.0)]


@st.composite
def rankings(draw: st.DrawFn) -> list[list[Hit]]:
    """Up to four rankings over ten ids, with ties among the scores."""
    made = []
    for _ in range(draw(st.integers(1, 4))):
        ids = draw(st.lists(st.sampled_from("abcdefghij"), unique=True, max_size=8))
        scores = draw(st.lists(st.integers(-8, 8), min_size=len(ids), max_size=len(ids)))
        made.append([Hit(each, score / 4) for each, score in zip(ids, sorted(scores)[::-1])])
    return made


def scores_of(hits: list[Hit]) -> dict[str, float]:
    return {hit.document_id: hit.score for hit in hits}


def test_ranks_are_fused_by_the_formula_of_the_paper() -> None:
    fused = reciprocal_rank_fusion([DENSE, LEXICAL])
    assert scores_of(fused) == pytest.approx(
        {"c": 1 / 63 + 1 / 61, "b": 1 / 62 + 1 / 62, "a": 1 / 61, "d": 1 / 63}
    )
    assert [hit.document_id for hit in fused] == ["c", "b", "a", "d"]


def test_a_small_constant_lets_the_first_rank_win() -> None:
    fused = reciprocal_rank_fusion([[Hit("a", 1.0), Hit("b", 0.5)], [Hit("b", 1.0)]], constant=0.1)
    assert scores_of(fused) == pytest.approx({"b": 1 / 1.1 + 1 / 2.1, "a": 1 / 1.1})


@given(rankings())
def test_ranks_are_fused_as_by_exact_fractions(given_rankings: list[list[Hit]]) -> None:
    exact: dict[str, Fraction] = {}
    for ranking in given_rankings:
        for rank, hit in enumerate(ranking, start=1):
            exact[hit.document_id] = exact.get(hit.document_id, Fraction(0)) + Fraction(
                1, 60 + rank
            )
    fused = reciprocal_rank_fusion(given_rankings)
    assert scores_of(fused) == pytest.approx({each: float(value) for each, value in exact.items()})
    values = [exact[hit.document_id] for hit in fused]
    assert all(float(first) >= float(second) - 1e-15 for first, second in pairwise(values))


def test_min_max_puts_every_ranking_between_0_and_1() -> None:
    fused = score_fusion([DENSE, LEXICAL])
    assert scores_of(fused) == pytest.approx({"a": 1.0, "b": 0.8 + 0.5, "c": 0 + 1.0, "d": 0.0})
    assert [hit.document_id for hit in fused] == ["b", "a", "c", "d"]


def test_weights_multiply_what_a_ranking_gives() -> None:
    assert scores_of(score_fusion([DENSE, LEXICAL], weights=[0.25, 0.75])) == pytest.approx(
        {"a": 0.25, "b": 0.2 + 0.375, "c": 0.75, "d": 0.0}
    )
    assert scores_of(reciprocal_rank_fusion([DENSE, LEXICAL], weights=[2, 1])) == pytest.approx(
        {"a": 2 / 61, "b": 3 / 62, "c": 2 / 63 + 1 / 61, "d": 1 / 63}
    )


def test_z_scores_have_mean_0_and_deviation_1_and_a_missing_document_the_lowest() -> None:
    fused = score_fusion([LEXICAL, [Hit("b", 1.0), Hit("a", -1.0)]], normalization="z-score")
    step = math.sqrt(1.5)
    assert scores_of(fused) == pytest.approx(
        {"c": step - 1, "b": 1.0, "d": -step - 1, "a": -step - 1}
    )


def test_a_missing_document_is_never_ahead_of_one_that_was_found() -> None:
    # With a z-score of 0 for what is missing, "out" would pass "in".
    first = [Hit("top", 9.0), Hit("in", 1.0), Hit("last", 0.9)]
    second = [Hit("in", 1.0), Hit("out", 1.0)]
    fused = scores_of(score_fusion([first, second], normalization="z-score"))
    assert fused["in"] > fused["out"]


@pytest.mark.parametrize(("normalization", "lead"), [("min-max", 1.0), ("z-score", 1.0)])
def test_a_ranking_of_equal_scores_still_counts(normalization: Any, lead: float) -> None:
    others = [Hit("x", 2.0), Hit("y", 1.0)]
    fused = scores_of(score_fusion([others, [Hit("y", 7.0)]], normalization=normalization))
    alone = scores_of(score_fusion([others], normalization=normalization))
    assert (fused["y"] - fused["x"]) - (alone["y"] - alone["x"]) == pytest.approx(lead)


@pytest.mark.parametrize("method", METHODS)
def test_ties_go_by_the_best_rank_and_then_by_id(method: Method) -> None:
    fused = fuse(
        [[Hit("z", 1.0), Hit("b", 0.0)], [Hit("a", 1.0), Hit("b", 0.0)]],
        FusionSettings(method=method),
    )
    ids = [hit.document_id for hit in fused]
    assert ids.index("a") < ids.index("z")


@pytest.mark.parametrize("method", METHODS)
@given(st.data())
def test_the_order_of_the_rankings_changes_nothing(method: Method, data: st.DataObject) -> None:
    given_rankings = data.draw(rankings())
    order = data.draw(st.permutations(range(len(given_rankings))))
    weights = data.draw(
        st.lists(st.sampled_from([0.3, 1.0, 2.5]), min_size=len(order), max_size=len(order))
    )
    one = fuse(given_rankings, FusionSettings(method=method, weights=tuple(weights)))
    settings = FusionSettings(method=method, weights=tuple(weights[at] for at in order))
    assert fuse([given_rankings[at] for at in order], settings) == one


@pytest.mark.parametrize("method", METHODS)
@given(rankings())
def test_one_ranking_keeps_its_order_whatever_its_scores(
    method: Method, given_rankings: list[list[Hit]]
) -> None:
    ranking = given_rankings[0]
    fused = fuse([ranking], FusionSettings(method=method))
    assert [hit.document_id for hit in fused] == [hit.document_id for hit in ranking]
    assert fuse([ranking, [], []], FusionSettings(method=method)) == fused


@pytest.mark.parametrize("method", METHODS)
@given(rankings(), st.sampled_from([0.25, 2.0, 1024.0]))
def test_scaling_all_weights_scales_the_scores(
    method: Method, given_rankings: list[list[Hit]], factor: float
) -> None:
    plain = fuse(given_rankings, FusionSettings(method=method))
    weights = (factor,) * len(given_rankings)
    scaled = fuse(given_rankings, FusionSettings(method=method, weights=weights))
    assert scaled == [Hit(each, score * factor) for each, score in plain]


@pytest.mark.parametrize("method", METHODS[1:])
@given(rankings(), st.sampled_from([0.5, 4.0]), st.integers(-4, 4))
def test_the_scale_of_a_system_does_not_matter_to_normalised_scores(
    method: Method, given_rankings: list[list[Hit]], factor: float, shift: int
) -> None:
    moved = [[Hit(each, score * factor + shift) for each, score in row] for row in given_rankings]
    before = scores_of(fuse(given_rankings, FusionSettings(method=method)))
    after = scores_of(fuse(moved, FusionSettings(method=method)))
    assert after == pytest.approx(before, abs=1e-9)


@pytest.mark.parametrize("method", METHODS)
def test_a_ranking_of_weight_0_is_as_if_it_was_not_there(method: Method) -> None:
    settings = FusionSettings(method=method, weights=(1, 0))
    assert fuse([DENSE, LEXICAL], settings) == fuse([DENSE], FusionSettings(method=method))


def test_nothing_fused_is_nothing() -> None:
    for method in METHODS:
        assert fuse([], FusionSettings(method=method)) == []
        assert fuse([[], []], FusionSettings(method=method)) == []


def test_misuse_is_named() -> None:
    with pytest.raises(ConfigError, match="2 weights for 1 rankings"):
        reciprocal_rank_fusion([DENSE], weights=[1, 2])
    for weights in ([-1.0, 1.0], [0.0, 0.0], [math.nan, 1.0], [math.inf, 1.0]):
        with pytest.raises(ConfigError, match="weights are"):
            score_fusion([DENSE, LEXICAL], weights=weights)
    with pytest.raises(ConfigError, match="constant is 0"):
        reciprocal_rank_fusion([DENSE], constant=0)
    with pytest.raises(DuplicateIdError, match="'a' twice"):
        reciprocal_rank_fusion([[Hit("a", 2.0), Hit("a", 1.0)]])
    with pytest.raises(InputError, match="'a' is nan"):
        score_fusion([[Hit("a", math.nan)]])
    wrong: Any = "median"
    with pytest.raises(ConfigError, match="'median'"):
        FusionSettings(method=wrong)
    with pytest.raises(ConfigError, match="'median'"):
        score_fusion([DENSE], normalization=wrong)
