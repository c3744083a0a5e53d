from __future__ import annotations

import math
import re
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from retrieval.errors import ConfigError, IndexFilesError, InputError
from retrieval.files import map_arrays
from retrieval.indexing import lexical
from retrieval.indexing.index import Batch
from retrieval.indexing.lexical import LexicalIndex, LexicalSettings, Tokenizer
from retrieval.indexing.versions import current_version

DOCUMENTS = [
    "red apple red apple red",
    "green apple",
    "red pear and green pear",
    "",
    "plum plum plum plum plum plum plum plum plum plum",
    "Red, GREEN; blue-yellow: naïve x",
]
PLAIN = LexicalSettings(stemmer="none", stop_words="none")


def build(folder: Path, settings: LexicalSettings, documents: list[str]) -> LexicalIndex:
    ids = [str(number) for number in range(len(documents))]
    return LexicalIndex.build(folder, [Batch(ids, documents)], settings=settings)


def scores(index: LexicalIndex, query: str) -> dict[str, float]:
    return {hit.document_id: hit.score for hit in index.search([query], 100)[0]}


def slow_bm25(
    query: str, documents: list[str], method: str, k1: float, b: float, delta: float
) -> dict[str, float]:
    """The table of Kamphuis et al. 2020, "Which BM25 do you mean?", one term after the other."""
    counts = [Counter(re.findall(r"\w\w+", document.lower())) for document in documents]
    total = len(counts)
    mean = sum(each.total() for each in counts) / total
    result = {}
    for number, each in enumerate(counts):
        terms = re.findall(r"\w\w+", query.lower())
        if not any(each[term] for term in terms):
            continue
        score = 0.0
        for term in terms:
            having = sum(term in other for other in counts)
            if not having:
                continue
            times = each[term]
            norm = 1 - b + b * each.total() / mean
            # What a document without the term gets, bm25s takes at the mean length.
            norm = norm if times else 1.0
            idf = {
                "lucene": math.log(1 + (total - having + 0.5) / (having + 0.5)),
                "robertson": math.log(max(1, (total - having + 0.5) / (having + 0.5))),
                "atire": math.log(total / having),
                "bm25l": math.log((total + 1) / (having + 0.5)),
                "bm25+": math.log((total + 1) / having),
            }[method]
            saturated = {
                "lucene": times / (k1 * norm + times),
                "robertson": times / (k1 * norm + times),
                "atire": (k1 + 1) * times / (k1 * norm + times),
                "bm25l": (k1 + 1) * (times / norm + delta) / (k1 + times / norm + delta),
                "bm25+": (k1 + 1) * times / (k1 * norm + times) + delta,
            }[method]
            score += idf * saturated
        result[str(number)] = score
    return result


@pytest.mark.parametrize("method", ["lucene", "robertson", "atire", "bm25l", "bm25+"])
@pytest.mark.parametrize(("k1", "b"), [(1.2, 0.75), (0.9, 0.4), (2.0, 0.0), (1.5, 1.0)])
def test_scores_are_those_of_the_formula(method: Any, k1: float, b: float, tmp_path: Path) -> None:
    settings = LexicalSettings(
        k1=k1, b=b, delta=0.7, method=method, stemmer="none", stop_words="none"
    )
    index = build(tmp_path / "index", settings, DOCUMENTS)
    for query in ("red", "green apple", "red red plum", "blue naïve missing", "pear and apple"):
        expected = slow_bm25(query, DOCUMENTS, method, k1, b, 0.7)
        assert scores(index, query) == pytest.approx(expected, rel=1e-5, abs=1e-6)


words = st.text(alphabet="abc", min_size=2, max_size=2)
passages = st.lists(words, max_size=12).map(" ".join)


@given(documents=st.lists(passages, min_size=1, max_size=8), query=passages, data=st.data())
@settings(max_examples=60, deadline=None)
def test_statistics_are_those_of_the_documents_left(
    documents: list[str],
    query: str,
    data: st.DataObject,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    index = build(tmp_path_factory.mktemp("lexical") / "index", PLAIN, documents)
    gone = data.draw(st.sets(st.integers(0, len(documents) - 1)))
    index.delete([str(number) for number in gone])
    index.add(["more"], ["aa bb cc cc"])
    left = [number for number in range(len(documents)) if number not in gone]
    names = [*map(str, left), "more"]
    texts = [*(documents[number] for number in left), "aa bb cc cc"]
    expected = slow_bm25(query, texts, "lucene", 1.2, 0.75, 0.5)
    named = {names[int(number)]: score for number, score in expected.items()}
    assert scores(index, query) == pytest.approx(named, rel=1e-4, abs=1e-6)


def test_a_document_without_a_shared_term_is_no_hit(tmp_path: Path) -> None:
    index = build(tmp_path / "index", LexicalSettings(), DOCUMENTS)
    assert set(scores(index, "plum")) == {"4"}
    assert scores(index, "banana") == {}
    assert scores(index, "") == {}
    assert scores(index, "the of and") == {}


def test_a_term_in_every_document_still_matches(tmp_path: Path) -> None:
    # Its weight is 0 in both formulas.
    for method in ("atire", "robertson"):
        settings = LexicalSettings(method=method)
        index = build(tmp_path / method, settings, ["apple one", "apple two"])
        assert scores(index, "apple") == {"0": 0.0, "1": 0.0}


def test_words_are_stemmed_and_stop_words_left_out() -> None:
    tokenizer = Tokenizer(LexicalSettings())
    tokenizer.learn("The runners are running to the Indexes")
    assert list(tokenizer.terms) == ["runner", "run", "index"]
    assert tokenizer.look_up("Index, runs! and other things") == [2, 1]
    plain = Tokenizer(PLAIN)
    plain.learn("The runners are running")
    assert list(plain.terms) == ["the", "runners", "are", "running"]
    german = Tokenizer(LexicalSettings(stemmer="german", stop_words="german"))
    german.learn("Die Häuser und das Haus")
    assert list(german.terms) == ["haus"]


def test_words_added_later_are_found_after_opening(tmp_path: Path) -> None:
    build(tmp_path / "index", LexicalSettings(), DOCUMENTS)
    index = LexicalIndex.open(tmp_path / "index", writable=True)
    assert scores(index, "melon") == {}
    index.add(["new"], ["a melon"])
    index.save()
    assert set(scores(LexicalIndex.open(tmp_path / "index"), "melons")) == {"new"}


def test_postings_are_saved_once_and_read_without_computing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = scores(build(tmp_path / "index", LexicalSettings(), DOCUMENTS), "red apple")
    monkeypatch.setattr("bm25s.BM25.build_index_from_ids", None)
    assert scores(LexicalIndex.open(tmp_path / "index"), "red apple") == expected
    version = current_version(tmp_path / "index")
    assert not [path for path in version.iterdir() if path.suffix in (".pkl", ".npy", ".npz")]
    assert map_arrays(version / "weights.safetensors")["weights"].dtype == np.float32


def test_no_progress_bar_is_shown(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    build(tmp_path / "index", LexicalSettings(), DOCUMENTS)
    captured = capfd.readouterr()
    assert captured.out == captured.err == ""


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"k1": -1.0}, "k1=-1.0"),
        ({"b": 1.5}, "b=1.5"),
        ({"stemmer": "klingon"}, "klingon.*english"),
        ({"stop_words": "klingon"}, "klingon.*english"),
    ],
)
def test_impossible_settings_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        LexicalSettings(**settings)


def test_one_text_or_a_vector_in_place_of_texts_is_refused(tmp_path: Path) -> None:
    index = build(tmp_path / "index", LexicalSettings(), DOCUMENTS)
    with pytest.raises(InputError, match="a list of texts, got str"):
        index.search("red apple")
    vectors: Any = np.zeros((1, 4))
    with pytest.raises(InputError, match="a list of texts, got ndarray"):
        index.search(vectors)
    with pytest.raises(InputError, match="a list of texts"):
        index.add(["x"], vectors)


def test_a_damaged_document_number_is_named(tmp_path: Path) -> None:
    LexicalIndex.build(tmp_path / "index", [Batch(["a", "b"], ["bread and salt", "salt"])]).close()
    index = LexicalIndex.open(tmp_path / "index")
    weights = index._current_weights()
    index._weights = weights._replace(documents=weights.documents + 2)
    with pytest.raises(IndexFilesError, match="names documents that are not there"):
        index.search(["bread"], 2)


def test_a_long_text_is_cut_into_the_words_of_its_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    text = "Red apples, don't\u2028fall  far\tfrom äpfel-trees " * 20 + "x" * 50 + " end"
    whole = Tokenizer(LexicalSettings())
    numbers = whole.learn(text)
    monkeypatch.setattr(lexical, "_PIECE_CHARACTERS", 7)
    cut = Tokenizer(LexicalSettings())
    assert cut.learn(text) == numbers
    assert cut.terms == whole.terms
