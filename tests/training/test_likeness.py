"""How near one encoder's embeddings are to another's, by kind of text."""

from __future__ import annotations

import json
import runpy
import sys
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from retrieval.errors import ConfigError, InputError
from retrieval.records import ModelReference
from retrieval.training.likeness import likenesses

PROGRAM = Path(__file__).resolve().parents[2] / "train" / "likeness.py"


class WordEncoder:
    """The sum of a vector for each word; those of some words are turned, or those of queries."""

    def __init__(
        self,
        width: int = 64,
        turned: str = "",
        is_multi_vector: bool = False,
        turns_queries: bool = False,
    ) -> None:
        self.reference = ModelReference("words", turned, is_multi_vector, width)
        self.read: list[str] = []
        self._turned = set(turned.split())
        self._turns_queries = turns_queries

    def encode_queries(self, texts: Iterable[str]) -> Iterator[NDArray[np.float32]]:
        for vector in self.encode_documents(texts):
            yield -vector if self._turns_queries else vector

    def encode_documents(self, texts: Iterable[str]) -> Iterator[NDArray[np.float32]]:
        for text in texts:
            self.read.append(text)
            yield np.sum([self._vector(word) for word in text.split()], axis=0, dtype=np.float32)

    def _vector(self, word: str) -> NDArray[np.float32]:
        vector = np.random.default_rng(zlib.crc32(word.encode())).standard_normal(64, np.float32)
        vector = vector[: self.reference.width]
        return -vector if word in self._turned else vector


def write_lines(path: Path, rows: list[dict[str, str]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture
def beir(tmp_path: Path) -> Path:
    folder = tmp_path / "beir"
    folder.mkdir()
    queries = [{"_id": str(at), "text": f"question {at}"} for at in range(20)]
    corpus = [{"_id": str(at), "title": "A title", "text": f"text {at}"} for at in range(30)]
    write_lines(folder / "queries.jsonl", queries)
    write_lines(folder / "corpus.jsonl", corpus)
    return folder


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    rows = [{"anchor": f"asked {at}", "positive": f"said about it {at}"} for at in range(10)]
    return write_lines(tmp_path / "pairs.jsonl", rows)


def test_an_encoder_is_like_itself(beir: Path, pairs: Path) -> None:
    found = list(likenesses(WordEncoder(), WordEncoder(), [beir, pairs]))
    assert [(each.source, each.kind, each.texts) for each in found] == [
        (str(beir), "queries", 20),
        (str(beir), "documents", 30),
        (str(pairs), "queries", 10),
        (str(pairs), "documents", 10),
    ]
    assert [each.cosine for each in found] == pytest.approx([1] * 4)
    assert [each.low for each in found] == pytest.approx([1] * 4)
    assert [each.words for each in found] == [2, 4, 2, 4]


@pytest.mark.parametrize("kind", ["queries", "documents"])
def test_a_folder_with_queries_or_documents_alone(beir: Path, kind: str) -> None:
    (beir / {"queries": "corpus.jsonl", "documents": "queries.jsonl"}[kind]).unlink()
    (beir / "notes.txt").write_text("No document of the collection.")
    found = list(likenesses(WordEncoder(), WordEncoder(), [beir]))
    assert [each.kind for each in found] == [kind]


def test_only_texts_that_are_embedded_otherwise_are_far(beir: Path, pairs: Path) -> None:
    student = WordEncoder(turned="text said about it")
    found = {
        (each.source, each.kind): each for each in likenesses(student, WordEncoder(), [beir, pairs])
    }
    assert found[str(beir), "queries"].cosine == pytest.approx(1)
    assert found[str(pairs), "queries"].cosine == pytest.approx(1)
    assert found[str(beir), "documents"].cosine < 0.8
    assert found[str(pairs), "documents"].cosine < 0.2


def test_queries_are_embedded_as_queries(beir: Path, pairs: Path) -> None:
    student = WordEncoder(turns_queries=True)
    found = list(likenesses(student, WordEncoder(), [beir, pairs]))
    assert [each.kind for each in found] == ["queries", "documents"] * 2
    assert [each.cosine for each in found] == pytest.approx([-1, 1] * 2)


def test_the_mean_is_of_cosines_and_the_low_one_of_a_tenth(tmp_path: Path) -> None:
    rows = [{"anchor": "same", "positive": "same"}] * 7 + [{"anchor": "x", "positive": "x"}] * 3
    path = write_lines(tmp_path / "pairs.jsonl", rows)
    queries, _ = likenesses(WordEncoder(turned="x"), WordEncoder(), [path])
    assert queries.cosine == pytest.approx(0.4)
    assert queries.low == pytest.approx(-1)
    path = write_lines(tmp_path / "fewer.jsonl", [*rows[:7] * 3, rows[-1]])
    queries, _ = likenesses(WordEncoder(turned="x"), WordEncoder(), [path])
    assert queries.low == pytest.approx(1)


def test_texts_are_drawn_and_cut(beir: Path) -> None:
    first, again, other = WordEncoder(), WordEncoder(), WordEncoder()
    counts = [
        [
            each.texts
            for each in likenesses(each, WordEncoder(), [beir], texts=5, words=3, seed=seed)
        ]
        for each, seed in ((first, 0), (again, 0), (other, 1))
    ]
    assert counts == [[5, 5]] * 3
    assert set(first.read[5:]) == {"A title text"}
    assert first.read == again.read != other.read
    assert len(set(first.read[:5])) == 5


def test_every_text_is_as_likely_as_any_other(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "p.jsonl", [{"query": f"asked {at}"} for at in range(20)])
    drawn = WordEncoder()
    for seed in range(200):
        list(likenesses(drawn, WordEncoder(), [path], texts=1, seed=seed))
    numbers = [int(text.split()[1]) for text in drawn.read]
    assert 7 < np.mean(numbers) < 12
    assert set(range(20)) == set(numbers)


def test_empty_texts_are_passed_over(tmp_path: Path) -> None:
    rows = [{"query": " ", "positive": "something"}, {"query": "asked", "positive": ""}]
    found = likenesses(WordEncoder(), WordEncoder(), [write_lines(tmp_path / "p.jsonl", rows)])
    assert [each.texts for each in found] == [1, 1]


@pytest.mark.parametrize(
    ("student", "options", "message"),
    [
        (WordEncoder(width=32), {}, r"widths differ \(32 and 64\)"),
        (WordEncoder(is_multi_vector=True), {}, "only single-vector"),
        (WordEncoder(), {"texts": 0}, "at least 1"),
        (WordEncoder(), {"words": 0}, "at least 1"),
    ],
)
def test_what_can_not_be_compared(
    pairs: Path, student: WordEncoder, options: dict[str, int], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        list(likenesses(student, WordEncoder(), [pairs], **options))


def test_sources_without_texts(tmp_path: Path) -> None:
    empty = write_lines(tmp_path / "empty.jsonl", [{"text": "of no pair"}])
    with pytest.raises(InputError, match="no texts"):
        list(likenesses(WordEncoder(), WordEncoder(), [empty]))
    with pytest.raises(InputError, match="absent"):
        list(likenesses(WordEncoder(), WordEncoder(), [tmp_path / "absent.jsonl"]))


def test_the_program_prints_the_farthest_last(
    beir: Path, pairs: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    encoders = {"student": WordEncoder(turned="text said about it"), "teacher": WordEncoder()}
    monkeypatch.setattr("retrieval.encoders.loading.load_encoder", encoders.__getitem__)
    arguments = ["student", "teacher", str(beir), str(pairs), "--texts", "3"]
    monkeypatch.setattr(sys, "argv", [str(PROGRAM), *arguments])
    runpy.run_path(str(PROGRAM), run_name="__main__")
    header, *lines = capsys.readouterr().out.splitlines()
    assert header.split() == ["cosine", "9", "in", "10", "texts", "words"]
    assert [line.split()[2] for line in lines] == ["3"] * 4
    assert [line.split(maxsplit=4)[4] for line in lines[-2:]] == [
        f"documents of {beir}",
        f"documents of {pairs}",
    ]
    assert [float(line.split()[0]) for line in lines[:2]] == [1, 1]
