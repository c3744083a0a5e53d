from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from retrieval.errors import ConfigError, InputError
from retrieval.evaluation import (
    Comparison,
    EvaluationSettings,
    MeasuredSystem,
    SignificanceSettings,
    compare,
)
from retrieval.evaluation.data_checksums import DataChecksums
from retrieval.evaluation.hardware import this_hardware
from retrieval.evaluation.manifest import DataChoice, Manifest, Plan
from retrieval.evaluation.models import ModelFacts
from retrieval.evaluation.result_files import DataSet, read_measured_systems
from retrieval.evaluation.significance import bootstrap, effect_size, randomisation_test
from retrieval.evaluation.systems import LexicalSystem
from retrieval.records import ModelReference
from tests.evaluation.measured import METRICS, write_collection, write_result

pytest.importorskip("pytrec_eval", reason="needs the extra [eval]")

SETTINGS = SignificanceSettings(trials=500, seed=3)
BASELINE = [1, 2, 4, 1, 5, 2, 1, 10, 2, 1, 1, 3]
BETTER = [1, 1, 2, 1, 2, 1, 1, 2, 2, 1, 2, 1]  # better 6 times, worse once, equal 5 times
SMALL = [2, 1, 2]


@pytest.fixture
def systems(tmp_path: Path) -> list[MeasuredSystem]:
    """A baseline and two systems on a data set of 12 queries and one of 3."""
    large = write_collection(tmp_path / "large")
    small = write_collection(tmp_path / "small", queries=3)
    for name, ranks, small_ranks in (
        ("baseline", BASELINE, SMALL),
        ("better", BETTER, [1, 1, 1]),
        ("same", BASELINE, SMALL),
    ):
        write_result(tmp_path / name / "large", large, ranks, name)
        write_result(tmp_path / name / "small", small, small_ranks, name)
    return read_measured_systems([tmp_path / name for name in ("baseline", "better", "same")])


def mrr(ranks: Sequence[int]) -> NDArray[np.float64]:
    # In the order of the queries' ids as strings, which is that of the comparison.
    order = sorted(range(len(ranks)), key=lambda each: f"q{each}")
    return np.array([1 / ranks[each] for each in order])


def test_a_contrast_holds_what_the_tests_say_of_the_differences(
    systems: list[MeasuredSystem],
) -> None:
    comparison = compare(systems[:2], settings=SETTINGS)
    assert (comparison.baseline, comparison.systems) == ("baseline", ("better",))
    assert comparison.metrics == ("MRR@10",)
    large = comparison.contrasts[0]
    differences = [mrr(BETTER) - mrr(BASELINE)]
    assert large.data_set == DataSet("large", "test")
    assert large.baseline_value == pytest.approx(mrr(BASELINE).mean())
    assert large.value == pytest.approx(mrr(BETTER).mean())
    assert large.difference == pytest.approx(differences[0].mean())
    resampled = bootstrap(differences, SETTINGS)
    assert (large.low, large.high) == pytest.approx(resampled[:2])
    assert large.bootstrap.raw == pytest.approx(resampled.p)
    assert large.randomisation.raw == randomisation_test(differences, SETTINGS)
    assert large.effect == pytest.approx(effect_size(differences))
    assert (large.queries, large.wins, large.ties, large.losses) == (12, 6, 5, 1)


def test_the_mean_gives_each_data_set_the_same_weight(systems: list[MeasuredSystem]) -> None:
    contrasts = compare(systems[:2], settings=SETTINGS).contrasts
    assert [str(each.data_set) for each in contrasts] == ["large", "small", "None"]
    large, small, mean = contrasts
    assert mean.baseline_value == pytest.approx((large.baseline_value + small.baseline_value) / 2)
    assert mean.difference == pytest.approx((large.difference + small.difference) / 2)
    differences = [mrr(BETTER) - mrr(BASELINE), mrr([1, 1, 1]) - mrr(SMALL)]
    assert mean.randomisation.raw == randomisation_test(differences, SETTINGS)
    assert (mean.low, mean.high) == pytest.approx(bootstrap(differences, SETTINGS)[:2])
    assert (mean.queries, mean.wins, mean.ties, mean.losses) == (15, 8, 6, 1)


def test_all_contrasts_are_one_family(systems: list[MeasuredSystem]) -> None:
    def corrected(correction: str) -> Comparison:
        settings = SignificanceSettings(trials=500, correction=correction)  # type: ignore[arg-type]
        return compare(systems, ["MRR@10", "recall@5"], settings)

    found = corrected("bonferroni").contrasts
    assert len(found) == 12  # two systems, two metrics, two data sets and their mean
    for each in found:
        for p in (each.randomisation, each.bootstrap):
            assert p.corrected == min(1.0, 12 * p.raw)
    smallest = min(corrected("holm").contrasts, key=lambda each: each.randomisation.raw)
    assert smallest.randomisation.corrected == pytest.approx(12 * smallest.randomisation.raw)
    assert all(
        each.randomisation.corrected == each.randomisation.raw
        for each in corrected("none").contrasts
    )


def test_another_system_changes_no_p_value_before_correction(
    systems: list[MeasuredSystem],
) -> None:
    alone = compare(systems[:2], settings=SETTINGS).contrasts
    beside = [
        each for each in compare(systems, settings=SETTINGS).contrasts if each.system == "better"
    ]
    assert [each.randomisation.raw for each in alone] == [each.randomisation.raw for each in beside]
    assert [each.low for each in alone] == [each.low for each in beside]


def test_a_system_with_the_same_run_does_not_differ(systems: list[MeasuredSystem]) -> None:
    for each in compare([systems[0], systems[2]], settings=SETTINGS).contrasts:
        assert (each.difference, each.low, each.high) == (0.0, 0.0, 0.0)
        assert each.randomisation.corrected == each.bootstrap.corrected == 1.0
        assert (each.wins, each.ties, each.losses) == (0, each.queries, 0)
        assert each.effect is None


def test_a_comparison_is_repeated_to_the_bit(systems: list[MeasuredSystem]) -> None:
    assert compare(systems, settings=SETTINGS) == compare(systems, settings=SETTINGS)


def test_data_sets_that_a_system_lacks_are_left_out_and_named(
    systems: list[MeasuredSystem], caplog: pytest.LogCaptureFixture
) -> None:
    del systems[1].results[DataSet("small", "test")]
    with caplog.at_level(logging.WARNING):
        comparison = compare(systems, settings=SETTINGS)
    assert comparison.data_sets == (DataSet("large", "test"),)
    assert all(each.data_set for each in comparison.contrasts)  # no mean of one
    assert comparison.warnings == ("small is left out: no result of better",)
    assert "small is left out: no result of better" in caplog.text


def test_systems_without_a_common_data_set_are_an_error(systems: list[MeasuredSystem]) -> None:
    del systems[0].results[DataSet("large", "test")]
    del systems[1].results[DataSet("small", "test")]
    with pytest.raises(InputError, match="common: baseline on small; better on large"):
        compare(systems[:2])


def test_other_judgements_are_an_error_that_names_both_fingerprints(tmp_path: Path) -> None:
    collection = write_collection(tmp_path / "one")
    write_result(tmp_path / "a", collection, BASELINE, "a")
    changed = "f" * 64
    write_result(tmp_path / "b", collection, BETTER, "b", collection_fingerprint=changed)
    with pytest.raises(InputError) as caught:
        compare(read_measured_systems([tmp_path / "a", tmp_path / "b"]))
    message = str(caught.value)
    assert "one: the queries or judgements differ" in message
    assert f"a was measured on {collection.fingerprint[:12]}, b on ffffffffffff" in message
    assert "evaluate both on the same files" in message


def test_values_for_other_queries_are_an_error(tmp_path: Path) -> None:
    collection = write_collection(tmp_path / "one")
    whole = write_result(tmp_path / "a", collection, BASELINE, "a")
    part = {each: whole.per_query[each] for each in ("q0", "q1")}
    write_result(tmp_path / "b", collection, BETTER, "b", per_query=part)
    with pytest.raises(InputError, match="a has values for 12 queries, b for 2, and they are not"):
        compare(read_measured_systems([tmp_path / "a", tmp_path / "b"]))


def test_settings_that_differ_are_warned_about(tmp_path: Path) -> None:
    collection = write_collection(tmp_path / "one")
    long = ModelReference("m", "f", False, 8, {"document_length": 512})
    short = ModelReference("n", "g", False, 8, {"document_length": 256, "width": 8})
    first = write_result(tmp_path / "a", collection, BASELINE, "a", model=long)
    counts = first.counts.__class__(
        documents=99, queries=12, judgements=24, missing_documents=0, missing_queries=0
    )
    settings = {"k": 50, "ignore_identical_ids": True, "search_batch_size": 7}
    write_result(
        tmp_path / "b", collection, BETTER, "b", settings=settings, model=short, counts=counts
    )
    assert compare(read_measured_systems([tmp_path / "a", tmp_path / "b"])).warnings == (
        "one: a and b differ in document_length (512 and 256)",
        "one: a and b differ in documents (12 and 99)",
        "one: a and b differ in ignore_identical_ids (False and True)",
        "one: a and b differ in k (100 and 50)",
    )


def test_what_differs_on_several_data_sets_is_said_once(tmp_path: Path) -> None:
    for name in ("one", "two"):
        collection = write_collection(tmp_path / name)
        write_result(tmp_path / "a" / name, collection, BASELINE, "a")
        write_result(tmp_path / "b" / name, collection, BETTER, "b", settings={"k": 50})
    warnings = compare(read_measured_systems([tmp_path / "a", tmp_path / "b"])).warnings
    assert warnings == ("one, two: a and b differ in k (100 and 50)",)


def test_titles_corpora_and_lengths_are_compared_where_manifests_tell_them(
    tmp_path: Path,
) -> None:
    collection = write_collection(tmp_path / "one")
    for name, title, corpus, lengths in (
        ("a", "join", "0" * 64, [(32, 512)]),
        ("b", "drop", "1" * 64, [(32, 256), (None, None)]),
    ):
        manifest = Manifest(
            plan=Plan(
                data=DataChoice(name="one", folder="one", split="test", title=title),  # type: ignore[arg-type]
                system=LexicalSystem(name=name),
                settings=EvaluationSettings(metrics=METRICS),
            ),
            checksums=DataChecksums(corpus=corpus, queries="2" * 64, judgements="3" * 64),
            models=tuple(
                ModelFacts(
                    name="m",
                    fingerprint="f",
                    weights="float32",
                    device="cpu",
                    is_multi_vector=None if query is None else False,
                    width=None if query is None else 8,
                    query_length=query,
                    document_length=document,
                )
                for query, document in lengths
            ),
            index_parameters={},
            vector_dtype="float32",
            hardware=this_hardware(),
            stages=(),
        )
        write_result(tmp_path / name, collection, BETTER, name, manifest=manifest)
    assert compare(read_measured_systems([tmp_path / "a", tmp_path / "b"])).warnings == (
        "one: a and b differ in corpus (SHA-256 000000000000 and SHA-256 111111111111)",
        "one: a and b differ in document_length (512 and 256)",
        "one: a and b differ in title (join and drop)",
    )


def test_equal_settings_are_not_warned_about(systems: list[MeasuredSystem]) -> None:
    assert compare(systems, settings=SETTINGS).warnings == ()


def test_metrics_that_are_not_measured_or_unknown_are_errors(
    systems: list[MeasuredSystem],
) -> None:
    with pytest.raises(ConfigError, match=r"nDCG@10; shared: MRR@10, recall@5"):
        compare(systems, ["mrr@10", "ndcg@10"])
    with pytest.raises(ConfigError, match="unknown metrics: 'F1@3'"):
        compare(systems, ["F1@3"])
    assert compare(systems, ["RECALL@5"], SETTINGS).metrics == ("recall@5",)


def test_results_without_a_common_metric_are_an_error(tmp_path: Path) -> None:
    collection = write_collection(tmp_path / "one")
    write_result(tmp_path / "a", collection, BASELINE, "a")
    write_result(tmp_path / "b", collection, BETTER, "b", metrics={"P@1": 0.5})
    with pytest.raises(ConfigError, match="no metric in common: evaluate again"):
        compare(read_measured_systems([tmp_path / "a", tmp_path / "b"]))


def test_a_baseline_alone_is_an_error(systems: list[MeasuredSystem]) -> None:
    with pytest.raises(ConfigError, match="a baseline and at least one other system"):
        compare(systems[:1])
