"""Collections that are not what they should be: each has one result that a user can rely on."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from retrieval.errors import DownloadError, DuplicateIdError, InputError
from retrieval.evaluation import EvaluationSettings, Result, evaluate, read_collection
from retrieval.evaluation.data_sets import prepare
from retrieval.evaluation.suites import DataSet
from retrieval.files import BadLines
from retrieval.indexing.lexical import LexicalIndex
from retrieval.records import Document, Query
from tests.evaluation.file_server import FileServer, serve

pytest.importorskip("pytrec_eval", reason="needs the extra eval")

WriteBeir = Callable[..., Path]


def bm25(folder: Path, *, strict: bool = False) -> Result:
    """What `retrieval eval` does with BM25, without its files."""
    collection = read_collection(folder, strict=strict)
    index = LexicalIndex()
    documents = list(collection.documents())
    index.add([each.id for each in documents], [each.contents for each in documents])
    return evaluate(collection, index, None, EvaluationSettings(metrics=("nDCG@10", "P@1")))


def rewrite(path: Path, change: Callable[[bytes], bytes]) -> None:
    path.write_bytes(change(path.read_bytes()))


FILES = ("corpus.jsonl", "queries.jsonl", "qrels/test.tsv")


def test_judgements_of_unknown_ids_count_against_the_system(write_beir: WriteBeir) -> None:
    known = bm25(write_beir(name="known", test="q2\td2\t1\n"))
    unknown = write_beir(name="unknown", test="q2\td2\t1\nq2\tgone\t1\nq9\td1\t1\n")
    result = bm25(unknown)
    assert known.metrics["nDCG@10"] == 1
    ideal = 1 + 1 / 1.5849625007211562  # two relevant documents at ranks 1 and 2
    assert result.per_query["q2"]["nDCG@10"] == pytest.approx(1 / ideal)
    assert result.per_query["q9"]["nDCG@10"] == 0
    assert result.metrics["nDCG@10"] == pytest.approx(1 / ideal / 2)
    assert (result.counts.missing_documents, result.counts.missing_queries) == (1, 1)
    with pytest.raises(InputError, match=r"1 judged queries have no text and score 0: 'q9'"):
        bm25(unknown, strict=True)


@pytest.mark.parametrize(
    ("name", "line", "problem"),
    [
        ("corpus.jsonl", '{"_id": "d1", "text": "again"}', r"corpus\.jsonl:5: the id 'd1' is"),
        ("queries.jsonl", '{"_id": "q1", "text": "again"}', r"queries\.jsonl:5: the id 'q1' is"),
        ("qrels/test.tsv", "q1\td1\t1", r"test\.tsv:6: query 'q1' and document 'd1' .* 2 and 1"),
    ],
)
def test_a_duplicate_id_is_an_error_with_its_line(
    write_beir: WriteBeir, name: str, line: str, problem: str
) -> None:
    folder = write_beir()
    rewrite(folder / name, lambda content: content + line.encode() + b"\n")
    with pytest.raises(DuplicateIdError, match=problem):
        bm25(folder)


@pytest.mark.parametrize(
    "change",
    [
        lambda content: b"\xef\xbb\xbf" + content,
        lambda content: content.replace(b"\n", b"\r\n"),
        lambda content: content.rstrip(b"\n"),
        lambda content: b"\n" + content.replace(b"\n", b"\n \n"),
    ],
    ids=["byte-order mark", "Windows line ends", "no last line end", "blank lines"],
)
def test_files_of_other_editors_give_the_same_figures(
    write_beir: WriteBeir, change: Callable[[bytes], bytes]
) -> None:
    plain = bm25(write_beir(name="plain"))
    folder = write_beir(name="changed")
    for name in FILES:
        rewrite(folder / name, change)
    changed = bm25(folder)
    assert next(read_collection(folder).documents()).id == "d1"
    assert changed.per_query == plain.per_query
    assert changed.collection_fingerprint == plain.collection_fingerprint


@pytest.mark.parametrize("name", FILES)
def test_a_file_in_another_encoding_is_an_error_with_its_line(
    write_beir: WriteBeir, name: str
) -> None:
    folder = write_beir()
    rewrite(folder / name, lambda content: content.decode().encode("utf-16"))
    with pytest.raises(InputError, match=rf"{Path(name).name}:1: not UTF-8"):
        bm25(folder)


def test_tabs_and_line_ends_in_texts_are_kept(write_beir: WriteBeir) -> None:
    text = "a\ttab,\r\na line\u2028and \x00 more"
    folder = write_beir(
        documents=[{"_id": "d 1", "title": "two\twords", "text": text}],
        queries=[{"_id": "q1", "text": "tab\tline"}],
        test="q1\td 1\t1\n",
    )
    collection = read_collection(folder)
    assert list(collection.documents()) == [Document("d 1", text, "two\twords")]
    assert collection.queries == (Query("q1", "tab\tline"),)
    assert collection.qrels == {"q1": {"d 1": 1}}
    assert bm25(folder).metrics["nDCG@10"] == 1


def test_a_tab_that_json_does_not_allow_is_a_bad_line(write_beir: WriteBeir) -> None:
    folder = write_beir()
    rewrite(folder / "corpus.jsonl", lambda content: content.replace(b"lazy dogs", b"lazy\tdogs"))
    with pytest.raises(InputError, match=r"corpus\.jsonl:2: not JSON \(Invalid control character"):
        bm25(folder)
    bad_lines = BadLines(skip=True)
    documents = read_collection(folder, bad_lines=bad_lines).documents()
    assert [each.id for each in documents] == ["d1", "d3", "q1"]
    assert bad_lines.count == 1


def test_graded_judgements_are_gains_and_negative_ones_are_not_relevant(
    write_beir: WriteBeir,
) -> None:
    # The document q1 is the query itself; d1 has its words and others.
    first, second = "q1", "d1"
    graded = bm25(write_beir(name="graded", test=f"q1\t{first}\t1\nq1\t{second}\t3\n"))
    discount = 1 / 1.5849625007211562
    assert graded.metrics["nDCG@10"] == pytest.approx((1 + 3 * discount) / (3 + discount))
    negative = bm25(write_beir(name="negative", test=f"q1\t{first}\t-2\nq1\t{second}\t1\n"))
    assert negative.metrics["nDCG@10"] == pytest.approx(discount)
    assert negative.metrics["P@1"] == 0


def test_relevance_may_be_written_with_a_point(write_beir: WriteBeir) -> None:
    folder = write_beir(test="q1\td1\t2.0\nq2\td2\t1\n")
    assert read_collection(folder).qrels == {"q1": {"d1": 2}, "q2": {"d2": 1}}


def test_a_query_without_judgements_is_not_asked(write_beir: WriteBeir) -> None:
    result = bm25(write_beir(test="q1\td1\t1\n"))
    assert result.counts.queries == 1
    assert list(result.per_query) == ["q1"]


def test_a_query_without_a_relevant_document_scores_0_and_counts(write_beir: WriteBeir) -> None:
    result = bm25(write_beir(test="q2\td2\t1\nq1\td1\t0\n"))
    assert result.per_query["q1"]["nDCG@10"] == 0
    assert result.metrics["nDCG@10"] == pytest.approx(0.5)


@pytest.fixture
def archive(
    write_beir: WriteBeir, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> tuple[bytes, str]:
    """A BEIR zip and its checksum."""
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.setenv("no_proxy", "*")
    folder = write_beir(name="made")
    with zipfile.ZipFile(tmp_path / "tiny.zip", "w") as opened:
        for name in FILES:
            opened.write(folder / name, f"tiny/{name}")
    content = (tmp_path / "tiny.zip").read_bytes()
    return content, f"md5:{hashlib.md5(content).hexdigest()}"


def left_in(folder: Path) -> list[Path]:
    return [each for each in folder.rglob("*") if each.is_file() and each.suffix != ".lock"]


def test_a_truncated_download_is_an_error_and_leaves_no_data(
    archive: tuple[bytes, str], tmp_path: Path
) -> None:
    content, checksum = archive
    with serve(FileServer(content, cuts=[300, 0])) as server:
        data_set = DataSet(
            name="tiny", source="beir:tiny", url=server.url, archive_checksum=checksum
        )
        with pytest.raises(DownloadError, match=f"after 300 of {len(content)} bytes: run again"):
            prepare(data_set, tmp_path / "data")
        assert not (tmp_path / "data" / "tiny").exists()
        assert len(list(read_collection(prepare(data_set, tmp_path / "data")).documents())) == 4


def test_an_archive_that_was_cut_at_its_source_is_an_error_and_leaves_nothing(
    archive: tuple[bytes, str], tmp_path: Path
) -> None:
    with serve(FileServer(archive[0][:-100])) as server:
        data_set = DataSet(name="tiny", source="beir:tiny", url=server.url)
        with pytest.raises(DownloadError, match="damaged, or no zip"):
            prepare(data_set, tmp_path / "data")
    assert left_in(tmp_path / "data") == []


def test_another_checksum_is_an_error_with_both_and_leaves_nothing(
    archive: tuple[bytes, str], tmp_path: Path
) -> None:
    content, checksum = archive
    wrong = f"md5:{'0' * 32}"
    with serve(FileServer(content)) as server:
        data_set = DataSet(name="tiny", source="beir:tiny", url=server.url, archive_checksum=wrong)
        with pytest.raises(DownloadError, match=f"is {checksum}, expected {wrong}"):
            prepare(data_set, tmp_path / "data")
    assert left_in(tmp_path / "data") == []


MEASURING = """
import json, resource, sys
from pathlib import Path
from retrieval import load_encoder
from retrieval.corpus import read_corpus
from retrieval.indexing.lexical import LexicalIndex

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024

encoder, index = load_encoder("starter-dense"), LexicalIndex()
list(encoder.encode_documents(["first"]))
steps = [peak()]
documents = list(read_corpus(Path(sys.argv[1])))
steps.append(peak())
list(encoder.encode_documents([each.contents for each in documents]))
steps.append(peak())
index.add([each.id for each in documents], [each.contents for each in documents])
steps.append(peak())
hits = index.search(["needle"], 1)[0]
lengths = {each.id: len(each.text) for each in documents}
print(json.dumps({"lengths": lengths, "peaks": steps, "found": hits[0].document_id}))
"""


@pytest.mark.slow
def test_a_document_of_200_megabytes_takes_a_few_times_its_size(write_beir: WriteBeir) -> None:
    size = 200_000_000
    folder = write_beir()
    with open(folder / "corpus.jsonl", "ab") as stream:
        stream.write(b'{"_id": "huge", "text": "')
        for _ in range(size // 1_000_000):
            stream.write(b"something " * 99_999 + b"the needle")
        stream.write(b'"}\n{"_id": "after", "text": "small"}\n')
    done = subprocess.run(
        [sys.executable, "-c", MEASURING, str(folder)], capture_output=True, check=True
    )
    measured = json.loads(done.stdout)
    lengths = {"d1": 19, "d2": 23, "d3": 21, "q1": 11, "huge": size, "after": 5}
    assert measured["lengths"] == lengths
    assert measured["found"] == "huge"
    start, read, encoded, indexed = measured["peaks"]
    # The file's bytes, their text, and the string in it; the reader of lines joins its buffers.
    assert read - start < 4.5 * size
    # Encoding goes on with less than reading took; BM25 has another copy and a number a word.
    assert encoded - start < 4.5 * size
    assert indexed - start < 6 * size
