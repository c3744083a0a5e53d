"""Hard negatives: the same as by brute force, counts that add up, runs that go on."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from retrieval import scoring
from retrieval.encoders.dense import DenseEncoder
from retrieval.encoders.embedding_store import StoreSettings
from retrieval.encoders.loading import load_encoder
from retrieval.encoders.multi_vector import MultiVectorEncoder
from retrieval.errors import ConfigError, InputError
from retrieval.files import BadLines
from retrieval.indexing.retriever import Retriever, build_index
from retrieval.records import Allowed, Document, Hit
from retrieval.training import mining_run
from retrieval.training.mining import MiningSettings, mine
from retrieval.training.mining_pairs import PairTable, Question, document_id
from retrieval.training.mining_run import mine_to
from tests.programs import run_program

WORDS = [
    "path",
    "file",
    "folder",
    "read",
    "write",
    "open",
    "close",
    "data",
    "list",
    "tree",
    "node",
    "graph",
    "edge",
    "sort",
    "find",
    "key",
]
# Scores of a random model are close: float16 would change their order.
FLOAT32 = StoreSettings(dtype="float32")


def sentences(count: int, seed: int) -> list[str]:
    drawn = random.Random(seed)
    return [" ".join(drawn.choices(WORDS, k=8)) + f" {at}" for at in range(count)]


def write_pairs(path: Path, pairs: Sequence[tuple[str, str]]) -> Path:
    lines = [json.dumps({"anchor": query, "positive": text}) for query, text in pairs]
    path.write_text("".join(line + "\n" for line in lines), "utf-8")
    return path


@pytest.fixture(scope="module", params=["dense", "multi_vector"])
def encoder(request: pytest.FixtureRequest, tiny_backbone: Path) -> Any:
    if request.param == "dense":
        return DenseEncoder.from_backbone(str(tiny_backbone), seed=1)
    return MultiVectorEncoder.from_backbone(str(tiny_backbone), width=16, seed=1)


def retriever(folder: Path, pairs: PairTable, encoder: Any, kind: str = "exact") -> Retriever:
    build_index(folder, pairs.documents(), kind=kind, encoder=encoder, store=FLOAT32).close()
    return Retriever.open(folder, encoder=encoder)


def brute_force(encoder: Any, query: str, texts: Sequence[str]) -> dict[str, float]:
    queries: Any = list(encoder.encode_queries([query]))
    stored: Any = list(encoder.encode_documents(texts))
    if encoder.reference.is_multi_vector:
        scores = scoring.maxsim(queries, stored)[0]
    else:
        scores = scoring.dot(np.stack(queries), np.stack(stored))[0]
    return dict(zip(texts, scores.tolist()))


@pytest.mark.parametrize(
    "settings",
    [
        MiningSettings(negatives=2, first=1, last=5),
        MiningSettings(negatives=2, first=3, last=6),
        MiningSettings(negatives=1, first=1, last=12, relative_margin=0.02),
        MiningSettings(negatives=2, first=2, last=12, absolute_margin=0.01),
    ],
)
def test_negatives_are_those_of_brute_force(
    tmp_path: Path, encoder: Any, settings: MiningSettings
) -> None:
    texts = sentences(30, seed=1)
    # The first query has two positives.
    pairs = [(sentences(1, seed=2)[0], text) for text in texts[:2]]
    pairs += list(zip(sentences(10, seed=3), texts[2:12]))
    with PairTable([write_pairs(tmp_path / "pairs.jsonl", pairs)]) as table:
        corpus = [Document(str(at), text) for at, text in enumerate(texts)]
        documents = list(table.documents(corpus))
        assert [each.text for each in documents] == texts
        build_index(
            tmp_path / "index", documents, kind="exact", encoder=encoder, store=FLOAT32
        ).close()
        searcher = Retriever.open(tmp_path / "index", encoder=encoder)
        questions = list(table.questions())
        results, _ = mine(questions, searcher, settings)
    assert questions[0].positives == texts[:2]
    found_any = 0
    for mined in results:
        scores = brute_force(encoder, mined.question.query, texts)
        lowest = min(scores[text] for text in mined.question.positives)
        others = [text for text in texts if text not in mined.question.positives]
        ranked = sorted(others, key=lambda text: -scores[text])[settings.first - 1 : settings.last]
        kept = [
            text
            for text in ranked
            if scores[text] <= lowest - (settings.absolute_margin or -1e9)
            and scores[text] <= lowest - abs(lowest) * (settings.relative_margin or -1e9)
        ]
        expected = kept[: settings.negatives] if len(kept) >= settings.negatives else []
        assert [each.text for each in mined.negatives] == expected
        for each in [*mined.negatives, *mined.positives]:
            assert each.score == pytest.approx(scores[each.text], abs=2e-3)
        found_any += bool(expected)
    assert found_any >= 2


class Given:
    """A searcher with given scores, for one query."""

    def __init__(self, texts: Sequence[str], scores: Sequence[float]) -> None:
        self.texts = {document_id(text): text for text in texts}
        order = sorted(zip(self.texts, scores), key=lambda each: -each[1])
        self.hits = [Hit(identifier, score) for identifier, score in order]

    def find(
        self, questions: Sequence[str], k: int = 10, *, allowed: Allowed | None = None
    ) -> list[list[Hit]]:
        hits = [each for each in self.hits if allowed is None or each.document_id in allowed]  # type: ignore[operator]
        return [hits[:k] for _ in questions]

    def document(self, document_id: str) -> Document | None:
        return Document(document_id, self.texts[document_id])


@hypothesis_settings(deadline=None)
@given(
    scores=st.lists(st.floats(-2, 2), min_size=4, max_size=20),
    first=st.integers(1, 4),
    width=st.integers(1, 10),
    absolute=st.none() | st.floats(0, 1),
    relative=st.none() | st.floats(0, 1),
    maximum=st.none() | st.floats(-1, 1),
    sampling=st.sampled_from(["top", "random"]),
    count=st.integers(1, 3),
)
def test_every_candidate_has_one_reason_and_every_negative_keeps_the_bounds(
    scores: list[float],
    first: int,
    width: int,
    absolute: float | None,
    relative: float | None,
    maximum: float | None,
    sampling: Any,
    count: int,
) -> None:
    settings = MiningSettings(
        negatives=min(count, width),
        first=first,
        last=first + width - 1,
        absolute_margin=absolute,
        relative_margin=relative,
        max_score=maximum,
        sampling=sampling,
    )
    texts = [f"text number {at}" for at in range(len(scores))]
    texts[3] = "Text, number 0!"  # the words of a positive
    question = Question(0, "q", texts[:2])
    (mined,), counts = mine([question], Given(texts, scores), settings)
    candidates = counts.pop("candidates")
    assert counts.total() == candidates == min(len(scores), settings.last + 2)
    assert len(mined.negatives) in (0, settings.negatives)
    assert counts["mined"] == len(mined.negatives)
    positive = min(scores[:2])
    for each in mined.negatives:
        assert each.text in texts[2:3] + texts[4:]
        assert maximum is None or each.score <= maximum
        assert absolute is None or each.score <= positive - absolute
        assert relative is None or each.score <= positive - abs(positive) * relative
    ordered = [each.score for each in mined.negatives]
    assert ordered == sorted(ordered, reverse=True)


def test_a_relative_margin_below_zero_asks_for_less_still() -> None:
    searcher = Given(["p", "a", "b"], [-1.0, -1.04, -1.06])
    settings = MiningSettings(relative_margin=0.05)
    (mined,), _ = mine([Question(0, "q", ["p"])], searcher, settings)
    assert [each.text for each in mined.negatives] == ["b"]


def test_a_positive_without_a_score_gives_no_negatives_where_a_margin_needs_it() -> None:
    class WithoutPositives(Given):
        def find(
            self, questions: Sequence[str], k: int = 10, *, allowed: Allowed | None = None
        ) -> list[list[Hit]]:
            return [[]] if allowed is not None else super().find(questions, k)

    searcher = WithoutPositives(["p", "a"], [0.5, 0.4])
    question = Question(0, "q", ["p"])
    _, counts = mine([question], searcher, MiningSettings(absolute_margin=0.0))
    assert counts["unscored_positive"] == 1
    (mined,), _ = mine([question], searcher, MiningSettings())
    assert [each.text for each in mined.negatives] == ["a"]


def test_a_teacher_s_scores_decide_and_are_kept() -> None:
    of_teacher = {"p": 5.0, "a": 9.0, "b": 1.0, "c": 2.0}
    searcher = Given(list(of_teacher), [0.9, 0.8, 0.7, 0.6])

    def teacher(query: str, texts: Sequence[str]) -> list[float]:
        assert query == "q"
        return [of_teacher[text] for text in texts]

    settings = MiningSettings(negatives=2, absolute_margin=1.0)
    (mined,), counts = mine([Question(0, "q", ["p"])], searcher, settings, teacher=teacher)
    assert mined.positives == [("p", 5.0)]
    assert mined.negatives == [("c", 2.0), ("b", 1.0)]
    assert counts["absolute_margin"] == 1


@pytest.mark.parametrize("margin", [None, 0.01])
def test_dense_negatives_are_those_of_sentence_transformers(
    tmp_path: Path, tiny_backbone: Path, margin: float | None
) -> None:
    from datasets import Dataset
    from sentence_transformers.util import mine_hard_negatives

    encoder = DenseEncoder.from_backbone(str(tiny_backbone), seed=1)
    queries, texts = sentences(12, seed=5), sentences(12, seed=6)
    theirs = mine_hard_negatives(
        Dataset.from_dict({"anchor": queries, "positive": texts}),
        encoder.model,
        range_min=0 if margin else 2,
        range_max=9,
        relative_margin=margin,
        num_negatives=2,
        output_format="n-tuple",
        verbose=False,
    )
    assert len(theirs) >= 2
    pairs = write_pairs(tmp_path / "pairs.jsonl", list(zip(queries, texts)))
    settings = MiningSettings(negatives=2, first=1 if margin else 3, last=9, relative_margin=margin)
    with PairTable([pairs]) as table:
        searcher = retriever(tmp_path / "index", table, encoder)
        mine_to(tmp_path / "out", table, lambda: searcher, settings, made_with={})
    ours = [json.loads(line) for line in (tmp_path / "out/negatives.jsonl").open()]
    columns = ("positive", "negative_1", "negative_2")
    assert [[row["query"], *(row[each] for each in columns)] for row in ours] == [
        [row["anchor"], *(row[each] for each in columns)] for row in theirs
    ]


def test_a_killed_run_goes_on_and_writes_the_same_bytes(
    tmp_path: Path, encoder: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mining_run, "SHARD_QUESTIONS", 4)
    path = write_pairs(
        tmp_path / "pairs.jsonl", list(zip(sentences(18, seed=7), sentences(18, seed=8)))
    )
    settings = MiningSettings(negatives=2, first=2, last=9, sampling="random", seed=3)
    with PairTable([path]) as table:
        searcher = retriever(tmp_path / "index", table, encoder)
        whole = mine_to(tmp_path / "whole", table, lambda: searcher, settings, made_with={})
        asked: list[int] = []

        class Killed(Retriever):
            def find(
                self, questions: Sequence[str], k: int = 10, *, allowed: Allowed | None = None
            ) -> list[list[Hit]]:
                asked.append(len(questions))
                if len(asked) == 6:
                    raise KeyboardInterrupt
                return super().find(questions, k, allowed=allowed)

        killed = Killed(searcher.index, searcher.encoder)
        output = tmp_path / "killed"
        with pytest.raises(KeyboardInterrupt):
            mine_to(output, table, lambda: killed, settings, made_with={})
        assert sorted(each.name for each in output.glob("shard-*")) == [
            "shard-00000.json",
            "shard-00001.json",
        ]
        with pytest.raises(ConfigError, match="begun with other settings"):
            mine_to(output, table, lambda: killed, MiningSettings(), made_with={})
        resumed = mine_to(output, table, lambda: killed, settings, made_with={})
        with pytest.raises(ConfigError, match="holds mined negatives already"):
            mine_to(output, table, lambda: killed, settings, made_with={})
    assert resumed == whole
    for name in ("negatives.jsonl", "manifest.json", "run.json"):
        assert (output / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    assert sorted(each.name for each in output.iterdir()) == [
        "manifest.json",
        "negatives.jsonl",
        "run.json",
    ]
    # Two calls a shard of four questions: 2 shards and a half, then the other three.
    assert asked == [4, 4, 4, 4, 4, 4, 4, 4, 4, 4, 2, 2]
    counts = whole["counts"]
    assert counts["pairs"] == counts["mined_pairs"] + counts.get("too_few_pairs", 0) == 18
    assert sum(whole["candidate_reasons"].values()) == counts["candidates"]


@pytest.mark.parametrize("form", ["triplets", "tuples", "distillation"])
def test_the_readers_of_recipes_read_what_was_mined(tmp_path: Path, form: Any) -> None:
    from retrieval.training.examples import read_contrastive, read_distillation

    texts = ["alpha one", "beta two", "gamma three"]
    path = write_pairs(tmp_path / "pairs.jsonl", [("q", texts[0])])
    with PairTable([path]) as table:
        searcher = Given(texts, [0.9, 0.8, 0.5])
        settings = MiningSettings(negatives=2, last=5)
        output = tmp_path / form
        manifest = mine_to(output, table, lambda: searcher, settings, form=form, made_with={})
    read = read_distillation if form == "distillation" else read_contrastive
    rows = read([output / "negatives.jsonl"]).to_list()
    pair = {"query": "q", "positive": texts[0]}
    assert (
        rows
        == {
            "triplets": [{**pair, "negative": text} for text in texts[1:]],
            "tuples": [{**pair, "negative_1": texts[1], "negative_2": texts[2]}],
            "distillation": [
                {
                    "query": "q",
                    **{f"document_{at}": text for at, text in enumerate(texts, 1)},
                    "label": [0.9, 0.8, 0.5],
                }
            ],
        }[form]
    )
    assert manifest["counts"]["lines"] == len(rows)


def test_pairs_are_counted_once_and_bad_rows_are_named(tmp_path: Path) -> None:
    path = tmp_path / "pairs.jsonl"
    rows = ['{"query": "q", "positive": "p"}'] * 2
    rows += [
        '{"query": "", "positive": "p"}',
        "{",
        '{"query": "q"}',
        "",
        '{"query": "r", "positive": "p"}',
    ]
    path.write_text("\n".join(rows) + "\n", "utf-8")
    with pytest.raises(InputError, match=r"pairs\.jsonl:3: expected text under 'query'"):
        PairTable([path])
    with PairTable([path], BadLines(skip=True)) as table:
        assert table.counts == {"rows": 6, "pairs": 2, "repeated": 1, "unusable": 3}
        assert [(each.number, each.query) for each in table.questions()] == [(0, "q"), (1, "r")]
        corpus = [Document("1", "p"), Document("2", "other", "title"), Document("3", " ")]
        assert [each.text for each in table.documents(corpus)] == ["p", "title other"]


@pytest.mark.parametrize(
    "arguments", [{"negatives": 0}, {"first": 0}, {"first": 9, "last": 8}, {"relative_margin": -1}]
)
def test_settings_that_make_no_sense_are_refused(arguments: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        MiningSettings(**arguments)


@pytest.mark.parametrize("kind", ["bm25", "plaid"])
def test_the_program_mines_with_any_index(tmp_path: Path, tiny_backbone: Path, kind: str) -> None:
    path = write_pairs(
        tmp_path / "pairs.jsonl", list(zip(sentences(40, seed=9), sentences(40, seed=10)))
    )
    model = tmp_path / "model"
    MultiVectorEncoder.from_backbone(str(tiny_backbone), width=16, seed=1).save(model)
    command: list[str | Path] = ["train/mine.py", path, "--output", "out"]
    if kind == "plaid":
        command += ["--model", model, "--teacher", model, "relative_margin=0.001"]
    done = run_program(*command, "negatives=3", "first=2", "last=20", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "out/negatives.jsonl"
    manifest = json.loads((tmp_path / "out/manifest.json").read_text())
    counts, reasons = manifest["counts"], manifest["candidate_reasons"]
    assert counts["rows"] == counts["pairs"] == 40
    assert counts["mined_pairs"] + counts.get("too_few_pairs", 0) == 40
    assert counts["lines"] == counts["mined_pairs"] >= 1
    assert sum(reasons.values()) == counts["candidates"]
    assert manifest["made_with"]["index"] == ("lexical" if kind == "bm25" else "plaid")
    if kind == "plaid":
        fingerprint = load_encoder(model).reference.fingerprint
        assert manifest["made_with"]["model"]["fingerprint"] == fingerprint
