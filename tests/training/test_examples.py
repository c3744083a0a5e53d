"""Training examples from every source: columns, mixes, limits, errors with file and line."""

from __future__ import annotations

import builtins
import gzip
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from retrieval.errors import ConfigError, InputError, LeakError, MissingExtraError
from retrieval.training.example_store import fingerprint
from retrieval.training.examples import (
    DataSettings,
    MixedSource,
    read_contrastive,
    read_distillation,
    read_examples,
)


def write(path: Path, records: Sequence[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(record) + "\n" for record in records), "utf-8")
    return path


def test_pairs_and_triplets_keep_their_columns_and_drop_the_rest(tmp_path: Path) -> None:
    pairs = write(tmp_path / "a.jsonl", [{"anchor": "q", "positive": "p", "source": "x"}])
    assert read_contrastive([pairs]).to_list() == [{"query": "q", "positive": "p"}]
    record = {"negative_2": "n2", "query": "q", "positive": "p", "negative_1": "n1"}
    triplets = write(tmp_path / "b.jsonl", [record])
    assert read_contrastive([triplets]).column_names == [
        "query",
        "positive",
        "negative_1",
        "negative_2",
    ]


def test_several_files_follow_each_other_up_to_the_limit(tmp_path: Path) -> None:
    paths = [
        write(tmp_path / f"{at}.jsonl", [{"query": f"q{at}{n}", "positive": "p"} for n in (0, 1)])
        for at in (0, 1)
    ]
    assert read_contrastive(paths, limit=3)["query"][:] == ["q00", "q01", "q10"]


def test_scored_documents_become_columns_and_a_label(tmp_path: Path) -> None:
    record = {"query": "q", "documents": ["a", "b"], "scores": [2, 1.5]}
    path = write(tmp_path / "a.jsonl", [record])
    assert read_distillation([path]).to_list() == [
        {"query": "q", "document_1": "a", "document_2": "b", "label": [2.0, 1.5]}
    ]


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ({"query": "", "positive": "p"}, "expected text under 'query'"),
        ({"query": "q"}, "expected text under 'positive'"),
        ({"query": "q", "positive": "p", "negative": " "}, "expected text under 'negative'"),
        ({"query": "q", "positive": "p", "negative": "n"}, "the lines before"),
    ],
)
def test_a_line_that_does_not_fit_is_named(
    tmp_path: Path, record: dict[str, Any], message: str
) -> None:
    path = write(tmp_path / "a.jsonl", [{"query": "q", "positive": "p"}, record])
    with pytest.raises(InputError, match=rf"a\.jsonl:2: .*{message}"):
        read_contrastive([path])


@pytest.mark.parametrize(
    "record",
    [
        {"query": "q", "documents": ["a"], "scores": [1]},
        {"query": "q", "documents": ["a", "b", "c"], "scores": [1, 2]},
        {"query": "q", "documents": ["a", "b", "c"], "scores": [1, 2, 3]},
        {"query": "q", "documents": "a", "scores": [1, 2]},
    ],
)
def test_scores_that_do_not_fit_their_documents_are_named(
    tmp_path: Path, record: dict[str, Any]
) -> None:
    good = {"query": "q", "documents": ["a", "b"], "scores": [2, 1]}
    path = write(tmp_path / "a.jsonl", [good, record])
    with pytest.raises(InputError, match=r"a\.jsonl:2: "):
        read_distillation([path])


def test_no_files_and_empty_files_are_errors(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="names no files"):
        read_contrastive([])
    with pytest.raises(InputError, match="no examples"):
        read_contrastive([write(tmp_path / "a.jsonl", [])])


def test_a_missing_extra_names_the_install_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = builtins.__import__

    def without_datasets(name: str, *arguments: Any, **keywords: Any) -> Any:
        if name == "datasets":
            raise ImportError(name)
        return original(name, *arguments, **keywords)

    monkeypatch.setattr(builtins, "__import__", without_datasets)
    path = write(tmp_path / "a.jsonl", [{"query": "q", "positive": "p"}])
    with pytest.raises(MissingExtraError, match=r'pip install "modernbert-retrieval\[train\]"'):
        read_contrastive([path])


def test_every_kind_of_source_gives_the_same_examples(tmp_path: Path) -> None:
    from datasets import Dataset

    records = [{"anchor": f"q{at}", "positive": f"p{at}", "negative": "n"} for at in range(3)]
    expected = [
        {"query": each["anchor"], "positive": each["positive"], "negative": "n"} for each in records
    ]
    plain = write(tmp_path / "a.jsonl", records)
    with gzip.open(tmp_path / "a.jsonl.gz", "wb") as stream:
        stream.write(plain.read_bytes())
    Dataset.from_list(records).to_parquet(str(tmp_path / "a.parquet"))
    Dataset.from_list(records).save_to_disk(str(tmp_path / "saved"))
    hub = tmp_path / "hub"
    hub.mkdir()
    write(hub / "train.jsonl", records)
    sources = ["a.jsonl", "a.jsonl.gz", "a.parquet", "saved"]
    named = [str(tmp_path / each) for each in sources]
    for source in [*named, f"hf:{hub}", f"hf:{hub}:default:train"]:
        examples = read_contrastive([source])
        assert examples.to_list() == expected
        assert fingerprint(examples) == fingerprint(read_contrastive([plain]))


@pytest.mark.parametrize("suffix", [".jsonl", ".parquet"])
def test_ids_are_joined_with_the_texts_beside_them(tmp_path: Path, suffix: str) -> None:
    from datasets import Dataset

    tables: dict[str, list[dict[str, Any]]] = {
        "train": [{"query_id": 7, "document_ids": "[1, 2]", "scores": "[0.5, 0.25]"}],
        "queries": [{"query_id": "7", "text": "q"}, {"query_id": "8", "text": "unused"}],
        "documents": [{"document_id": "1", "text": "a"}, {"document_id": "2", "text": "b"}],
    }
    for name, records in tables.items():
        if suffix == ".jsonl":
            write(tmp_path / f"{name}.jsonl", records)
        else:
            Dataset.from_list(records).to_parquet(str(tmp_path / f"{name}.parquet"))
    train = tmp_path / f"train{suffix}"
    assert read_distillation([train]).to_list() == [
        {"query": "q", "document_1": "a", "document_2": "b", "label": [0.5, 0.25]}
    ]
    missing = [{"query_id": 7, "document_ids": [1, 3], "scores": [1.0, 2.0]}]
    write(tmp_path / "missing.jsonl", missing)
    with pytest.raises(InputError, match=r"missing\.jsonl:1: no document has the id 3"):
        read_distillation([tmp_path / "missing.jsonl"])


def test_bad_rows_are_skipped_and_counted_where_asked(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "a.jsonl"
    lines = [
        "",
        '{"query": "q", "positive": "p"}',
        "{",
        '{"query": " ", "positive": "p"}',
        '{"positive": "p"}',
        '{"query": "q", "anchor": "a", "positive": "p"}',
    ]
    path.write_text("\n".join(lines), "utf-8")
    with pytest.raises(InputError, match=r"a\.jsonl:3: not JSON .*data\.skip_bad = true"):
        read_contrastive([path])
    assert len(read_contrastive([path], skip_bad=True)) == 1
    assert "4 rows that can't be used were skipped" in caplog.text
    path.write_text("{\n", "utf-8")
    with pytest.raises(InputError, match="no examples"):
        read_contrastive([path], skip_bad=True)


@pytest.mark.parametrize(
    "scores", ["[NaN, 1]", "[1, Infinity]", '["1", 2]', "[true, 2]", "[null, 2]"]
)
def test_scores_that_are_no_numbers_are_named(tmp_path: Path, scores: str) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(f'{{"query": "q", "documents": ["a", "b"], "scores": {scores}}}\n', "utf-8")
    with pytest.raises(InputError, match=r"a\.jsonl:1: expected finite numbers"):
        read_distillation([path])


def mixed(tmp_path: Path, *weights: float) -> DataSettings:
    mix = []
    for at, weight in enumerate(weights):
        records = [{"query": f"{at} {n}", "positive": f"p {at} {n}"} for n in range(2_000)]
        path = write(tmp_path / f"{at}.jsonl", records)
        mix.append(MixedSource(path=str(path), weight=weight))
    return DataSettings(mix=tuple(mix))


def test_a_mix_has_its_shares_and_one_order_a_seed(tmp_path: Path) -> None:
    data = mixed(tmp_path, 3, 1)
    examples = read_examples(data, scored=False, seed=5)
    first = [query.startswith("0") for query in examples["query"]]
    # 3 of 4, within 4 standard deviations of as many draws.
    assert sum(first) / len(first) == pytest.approx(0.75, abs=4 * (0.1875 / len(first)) ** 0.5)
    assert len(first) > 2_500
    again = read_examples(data, scored=False, seed=5)
    assert again["query"][:] == examples["query"][:]
    assert fingerprint(again) == fingerprint(examples)
    other = read_examples(data, scored=False, seed=6)
    assert fingerprint(other) != fingerprint(examples)
    assert len(read_examples(data, scored=False, limit=10)) <= 20


def test_a_mix_of_different_columns_or_weights_is_refused(tmp_path: Path) -> None:
    pairs = write(tmp_path / "a.jsonl", [{"query": "q", "positive": "p"}])
    triplets = write(tmp_path / "b.jsonl", [{"query": "q", "positive": "p", "negative": "n"}])
    mix = tuple(MixedSource(path=str(each), weight=1) for each in (pairs, triplets))
    with pytest.raises(
        ConfigError, match=r"b\.jsonl has the columns .*'negative'.* needs the same"
    ):
        read_examples(DataSettings(mix=mix), scored=False)
    with pytest.raises(ConfigError, match="weight is 0"):
        MixedSource(path="a", weight=0)
    with pytest.raises(ConfigError, match="exclude each other"):
        DataSettings(train=("a",), mix=mix)


def test_no_text_comes_twice_in_a_batch_of_the_trainer_s_sampler(tmp_path: Path) -> None:
    from sentence_transformers.base.sampler import NoDuplicatesBatchSampler

    # Queries, positives and negatives out of 60 texts: most pairs of rows share one.
    records = [
        {
            "query": f"t{at % 60}",
            "positive": f"t{(at * 7 + 1) % 60}",
            "negative": f"t{(at * 11 + 2) % 60}",
        }
        for at in range(300)
    ]
    records = [each for each in records if len(set(each.values())) == 3]
    data = read_contrastive([write(tmp_path / "a.jsonl", records)])
    batches = list(NoDuplicatesBatchSampler(data, batch_size=8, drop_last=True, seed=1))
    assert len(batches) >= 20
    for batch in batches:
        texts = [text for at in batch for text in data[at].values()]
        assert len(texts) == len(set(texts)) == 24


def test_the_fingerprint_is_of_the_rows_in_their_order(tmp_path: Path) -> None:
    rows = [{"query": f"é{at}", "documents": ["a", "b"], "scores": [at, 0]} for at in range(5)]
    data = read_distillation([write(tmp_path / "a.jsonl", rows)])
    assert fingerprint(data) == fingerprint(data.select(range(5)))
    assert fingerprint(data.select([1, 2])) == fingerprint(
        read_distillation([write(tmp_path / "b.jsonl", rows[1:3])])
    )
    changed = [
        fingerprint(data),
        fingerprint(data.select([1, 0, 2, 3, 4])),
        fingerprint(data.select([0])),
    ]
    rows[4]["scores"] = [4.5, 0]
    changed.append(fingerprint(read_distillation([write(tmp_path / "c.jsonl", rows)])))
    # The same text, cut elsewhere.
    for cut in (["ab", "c"], ["a", "bc"]):
        row = {"query": "q", "documents": cut, "scores": [1, 2]}
        changed.append(fingerprint(read_distillation([write(tmp_path / "d.jsonl", [row])])))
    assert len(set(changed)) == len(changed)


def test_examples_are_mapped_not_loaded(tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    cache.mkdir()
    records = [{"query": f"q{at}", "positive": "p" * 1000} for at in range(2_500)]
    data = read_contrastive([write(tmp_path / "a.jsonl", records)], cache=cache)
    (file,) = data.cache_files
    assert Path(file["filename"]).is_relative_to(cache)
    assert data[2_499]["query"] == "q2499"
    assert data.data.nbytes > 2_500_000


def test_leaks_stop_the_reading_unless_allowed(tmp_path: Path) -> None:
    folder = tmp_path / "beir"
    (folder / "qrels").mkdir(parents=True)
    write(folder / "queries.jsonl", [{"_id": "q1", "text": "The asked question"}])
    write(folder / "corpus.jsonl", [{"_id": "d1", "text": "An answer"}])
    (folder / "qrels/test.tsv").write_text("q\td\ts\nq1\td1\t1\n", "utf-8")
    path = write(tmp_path / "a.jsonl", [{"query": "the asked question", "positive": "p"}])
    data = DataSettings(train=(str(path),), leak_check=(str(folder),))
    with pytest.raises(LeakError, match=r"a\.jsonl:1"):
        read_examples(data, scored=False)
    assert len(read_examples(replace(data, allow_leaks=True), scored=False)) == 1
