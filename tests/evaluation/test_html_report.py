from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import pytest

from retrieval.errors import ConfigError
from retrieval.evaluation import Result
from retrieval.evaluation.html_report import html_report
from retrieval.evaluation.index_sweep import IndexSweep
from retrieval.evaluation.report_content import report_content
from retrieval.evaluation.report_sources import ReportSources, TrainingRun

MakeResult = Callable[..., Result]
VOID = {"meta", "path", "use", "rect"}

pytest.importorskip("matplotlib")


@pytest.fixture
def page(make_result: MakeResult, make_sweep: Callable[[], IndexSweep]) -> str:
    """A page of everything, with a name that would be markup."""
    results = [
        make_result("BM25", metrics={"nDCG@10": 0.25, "recall@100": 0.9}),
        make_result("<b>dense</b>", metrics={"nDCG@10": 0.5}, index_bytes=None),
        make_result("late", metrics={"nDCG@10": 0.125, "recall@100": 0.95}),
    ]
    run = TrainingRun(name="mine", records=[{"step": 1, "loss": 2.0}, {"step": 2, "loss": 1.0}])
    sources = ReportSources(
        results=results,
        result_paths=[Path("result.json")] * 3,
        sweeps=[make_sweep()],
        runs=[run],
    )
    return html_report(report_content(sources))


class Structure(HTMLParser):
    """Checks nesting, and collects what the tests ask about."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.feed(page)
        assert self.open == [], "tags that are not closed"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self.open.pop() == tag

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


def test_the_page_needs_nothing_beside_itself(page: str) -> None:
    structure = Structure(page)
    assert not structure.all("link")
    assert not structure.all("img")
    assert [each for each in structure.all("script") if "src" in each] == []
    assert not re.search(r"url\((?!#)|@import|https?://(?!www\.w3\.org/)", page)


def test_the_page_is_built_for_keyboards_and_readers(page: str) -> None:
    structure = Structure(page)
    assert structure.all("html")[0]["lang"] == "en"
    assert "width=device-width" in str(structure.all("meta")[1]["content"])
    ids = [attributes["id"] for _, attributes in structure.tags if "id" in attributes]
    assert len(set(ids)) == len(ids)
    for link in structure.all("a"):
        assert str(link["href"]).removeprefix("#") in ids
    tables = [each for each in structure.all("table") if each.get("class") == "sortable"]
    assert len(tables) == len(structure.all("caption")) == 5
    assert all(each.get("scope") in ("col", "row") for each in structure.all("th"))
    frames = [each for each in structure.all("div") if each.get("class") == "frame"]
    assert all(each["tabindex"] == "0" and each["aria-label"] for each in frames)
    drawings = structure.all("svg")
    assert len(drawings) == len(structure.all("figcaption")) == 4
    assert all(each["role"] == "img" and each["aria-label"] for each in drawings)


def test_names_are_text_and_the_best_is_strong(page: str) -> None:
    assert "<b>dense</b>" not in page
    row = page[page.index('<th scope="row">&lt;b&gt;dense&lt;/b&gt;</th>') :].split("</tr>")[0]
    assert '<td data-value="0.5"><strong>0.500</strong> <small>0.500 to 0.500</small></td>' in row


def test_what_made_the_results_is_told_once_where_it_is_the_same(page: str) -> None:
    shared, *own = page[page.index("What made the results</h2>") :].split("<details>")[1:]
    assert "The same in all results" in shared
    assert '<th scope="row">versions.numpy</th><td>2.4.6</td>' in shared
    # The dense system's index has no size, and nothing else of its own.
    assert [each.split("</summary>")[0] for each in own] == [
        "<summary>BM25 on tiny",
        "<summary>late on tiny",
    ]
    assert all('<th scope="row">index_bytes</th><td>1234567</td>' in each for each in own)


def test_the_same_content_gives_the_same_page(
    make_result: MakeResult, make_sweep: Callable[[], IndexSweep]
) -> None:
    def write() -> str:
        sources = ReportSources(
            results=[make_result()], result_paths=[Path("a.json")], sweeps=[make_sweep()]
        )
        return html_report(report_content(sources))

    assert write() == write()


def test_metrics_of_no_result_are_an_error(make_sweep: Callable[[], IndexSweep]) -> None:
    with pytest.raises(ConfigError, match="there are none"):
        report_content(ReportSources(sweeps=[make_sweep()]), metrics=["nDCG@10"])


_CLICKS = """
<script>
const [scores, , costs] = document.querySelectorAll("table.sortable");
const seen = [];
const clicks = [[scores, 1], [scores, 1], [scores, 0], [scores, 0], [costs, 1], [costs, 1]];
for (const [table, column] of clicks) {
  const heading = table.tHead.rows[0].cells[column];
  heading.querySelector("button").click();
  const names = [...table.tBodies[0].rows].map((row) => row.cells[0].textContent);
  const sorted = [...table.tHead.rows[0].cells].filter((each) => each.ariaSort !== "none");
  seen.push([heading.ariaSort, sorted.length, ...names]);
}
const page = document.documentElement;
const out = document.createElement("pre");
out.id = "seen";
out.textContent = JSON.stringify({ seen, overflow: page.scrollWidth - page.clientWidth });
document.body.append(out);
</script>
"""


@pytest.fixture
def in_browser(tmp_path: Path) -> Callable[[str, int], str]:
    """Opens a page at a width in Chromium and gives the document that its scripts left."""
    browser = shutil.which("chromium") or shutil.which("chromium-browser")
    if browser is None:
        pytest.skip("needs chromium on the PATH")

    def open_page(page: str, width: int) -> str:
        path = tmp_path / "page.html"
        path.write_text(page, "utf-8")
        command = [
            browser, "--headless", "--no-sandbox", "--disable-gpu", "--dump-dom",
            f"--user-data-dir={tmp_path / 'profile'}", f"--window-size={width},900",
            path.as_uri(),
        ]  # fmt: skip
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
        return done.stdout

    return open_page


def test_headings_sort_and_the_page_never_scrolls_sideways(
    page: str, in_browser: Callable[[str, int], str]
) -> None:
    document = in_browser(page.replace("</body>", f"{_CLICKS}</body>"), 500)
    found = re.search(r'<pre id="seen">(.*?)</pre>', document)
    assert found is not None
    told = json.loads(found[1].replace("&lt;", "<").replace("&gt;", ">"))
    dense = "<b>dense</b>"
    assert told["seen"] == [
        ["descending", 1, dense, "BM25", "late"],
        ["ascending", 1, "late", "BM25", dense],
        ["ascending", 1, dense, "BM25", "late"],
        ["descending", 1, "late", "BM25", dense],
        # The dense system's index has no size: it stays last.
        ["descending", 1, "BM25 on tiny", "late on tiny", f"{dense} on tiny"],
        ["ascending", 1, "BM25 on tiny", "late on tiny", f"{dense} on tiny"],
    ]
    assert told["overflow"] == 0
