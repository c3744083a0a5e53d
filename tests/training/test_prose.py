"""Pairs of prose from docstrings, WordNet and wikis."""

from __future__ import annotations

import bz2
import sys
import zipfile
from pathlib import Path

import pytest

from retrieval.errors import InputError, MissingExtraError
from retrieval.files import BadLines, read_jsonl
from retrieval.training import prose
from retrieval.training.prose import ProsePair, docstring_pairs, passages, wordnet_pairs
from retrieval.training.wiki_dumps import wiki_pairs
from tests.programs import run_program

PROGRAM = ("train/prose_pairs.py", "docstrings")
MODULE = '''"""A module of few words."""

def drag(speed):
    """Compute the drag of a wing. It is a force.

    The drag of a wing grows with the square of the :math:`speed` and with the area that meets
    the flow [1]_, as long as the boundary layer stays where it is.

    Parameters
    ----------
    speed : float
        How fast the wing is, in metres a second, measured against air that does not move at all.

    Notes
    -----
    Behind the wing the flow separates into `vortices`, which carry away the energy that the
    engine has put into it.

    >>> drag(1.0) == 0.5 and drag(2.0) == 2.0 and drag(3.0) == 4.5 and drag(4.0) == 8.0
    """
'''
DRAG = (
    "The drag of a wing grows with the square of the speed and with the area that meets the flow , "
    "as long as the boundary layer stays where it is. "
    "Behind the wing the flow separates into vortices, which carry away the energy that the engine "
    "has put into it."
)


def test_a_docstrings_first_sentence_is_paired_with_its_prose(tmp_path: Path) -> None:
    (tmp_path / "wings.py").write_text(MODULE, "utf-8")
    (pair,) = docstring_pairs(tmp_path)
    assert pair.query == "Compute the drag of a wing."
    assert pair.positive == DRAG
    assert pair.source == "wings.py"
    assert list(docstring_pairs(tmp_path / "wings.py")) == [pair]


def test_a_question_is_no_part_of_its_answer_and_has_three_words(tmp_path: Path) -> None:
    rest = "It holds back whatever moves through air or water, and it grows with the speed of that."
    for first, found in (("Compute the drag.", [rest]), ("The drag.", [])):
        text = f'"""{first} {rest}\n\n{rest} Twice as fast is four times as much."""'
        (tmp_path / "wings.py").write_text(text, "utf-8")
        pairs = list(docstring_pairs(tmp_path))
        assert [each.query for each in pairs] == [first] * len(found)
        assert all(each.positive.startswith(rest) for each in pairs)


@pytest.mark.parametrize(
    ("paragraph", "is_prose"),
    [
        ("A wing that is moved through air meets drag, which grows with speed.", True),
        ("A wing that is moved through air meets drag, which grows with speed", False),
        ("A wing that is moved through air meets drag.", False),
        ("a = b + c * (d - e) / f ** 2 and g = h[0] + k[1] or x <= y < z == 10.", False),
        (
            "(wing) (drag) (flow) (lift) (area) (heat) (time) (work) (rate) (gain) (cost) (end).",
            False,
        ),
        ("a b c d e f g h i j k l m n o p and a few words and still more of them.", False),
        (".. A wing that is moved through air meets drag, which grows with speed.", False),
    ],
)
def test_sentences_of_words_are_prose(tmp_path: Path, paragraph: str, is_prose: bool) -> None:
    filler = "Behind it the flow separates into vortices that carry the energy of the engine away."
    text = f'"""Compute the drag.\n\n{paragraph}\n\n{filler} {filler}"""'
    (tmp_path / "wings.py").write_text(text, "utf-8")
    (pair,) = docstring_pairs(tmp_path)
    kept = pair.positive.removesuffix(f"{filler} {filler}").strip()
    assert kept == (paragraph if is_prose else "")


def test_paragraphs_come_once_over_all_roots(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / f"{name}.py").write_text(MODULE, "utf-8")
    seen: set[str] = set()
    assert len(list(docstring_pairs(tmp_path / "one.py", seen))) == 1
    assert list(docstring_pairs(tmp_path / "two.py", seen)) == []
    assert len(list(docstring_pairs(tmp_path))) == 1


def test_a_wheel_is_read_without_its_tests(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "wings-1-py3-none-any.whl", "w") as wheel:
        wheel.writestr("wings/tests/drag.py", MODULE.replace("wing", "sail"))
        wheel.writestr("wings/test_drag.py", MODULE.replace("wing", "keel"))
        wheel.writestr("wings/drag.py", MODULE)
        wheel.writestr("wings/broken.py", "def")
        wheel.writestr("wings/RECORD", "wings/drag.py")
    (pair,) = docstring_pairs(tmp_path / "wings-1-py3-none-any.whl")
    assert pair.source == "wings/drag.py"


def test_a_damaged_wheel_is_named(tmp_path: Path) -> None:
    wheel = tmp_path / "wings-1-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("wings/drag.py", MODULE)
    whole = wheel.read_bytes()
    for damaged in (whole[:-20], whole[:60] + b"\0" * 40 + whole[100:], b""):
        wheel.write_bytes(damaged)
        with pytest.raises(InputError, match=r"wings-1-.*\.whl: cannot be read"):
            list(docstring_pairs(wheel))


def test_passages_are_cut_by_words() -> None:
    words = [str(n) for n in range(2 * prose.MAX_PASSAGE_WORDS + prose.MIN_PASSAGE_WORDS - 1)]
    first, second = passages([" ".join(words[:7]), " ".join(words[7:])])
    assert first.split() + second.split() == words[: 2 * prose.MAX_PASSAGE_WORDS]
    assert list(passages(["too short"])) == []


NOUN = """\
  1 This software and database is being provided to you
00000001 03 n 02 control_surface 0 airfoil 0 002 ~ 00000002 n 0000 @ 00000003 n 0000 | a device \
that gives force when it moves through the air; "the airfoil stalled"
00000002 03 n 01 aileron 0 001 @ 00000001 n 0000 | an airfoil that controls rolling; behind a wing
00000003 03 n 01 device 0 000 | a tool
"""


def write_wordnet(folder: Path, noun: str) -> None:
    for name in ("verb", "adj", "adv"):
        (folder / f"data.{name}").write_text("", "utf-8")
    (folder / "data.noun").write_text(noun, "utf-8")


def test_words_are_paired_with_their_gloss_and_its_kinds(tmp_path: Path) -> None:
    write_wordnet(tmp_path, NOUN)
    assert list(wordnet_pairs(tmp_path)) == [
        ProsePair(
            "control surface, airfoil",
            'a device that gives force when it moves through the air; "the airfoil stalled". '
            "aileron: an airfoil that controls rolling",
            "noun",
        ),
        ProsePair("aileron", "an airfoil that controls rolling; behind a wing", "noun"),
    ]


def test_what_is_not_wordnets_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"data\.noun: not there"):
        list(wordnet_pairs(tmp_path))
    write_wordnet(tmp_path, NOUN + "no line of this format | at all\n")
    with pytest.raises(InputError, match=r"data\.noun:5: not a line"):
        list(wordnet_pairs(tmp_path))


SENTENCE = "The albedo of a planet is the share of the light that it gives back to the sky. "
PAGES = f"""<mediawiki xmlns="http://www.mediawiki.org/xml/export-0.10/">
<page><title>Albedo</title><ns>0</ns><revision><text>{{{{Infobox|a=b}}}}
[[File:Moon.jpg|thumb|The moon, which gives back little of the light that it gets from the sun.]]
'''{SENTENCE * 2}'''&lt;ref&gt;A book about it, read by nobody in many, many years.&lt;/ref&gt;

== Of [[snow|Snow]] ==
{SENTENCE * 2}

=== Old ===
{SENTENCE * 3}
* a list

== See also ==
{SENTENCE * 2}
</text></revision></page>
<page><title>Albedos</title><ns>0</ns><redirect title="Albedo" /><revision><text>{SENTENCE * 2}
</text></revision></page>
<page><title>Talk:Albedo</title><ns>1</ns><revision><text>{SENTENCE * 2}</text></revision></page>
</mediawiki>"""


@pytest.mark.parametrize("suffix", [".xml", ".xml.bz2"])
def test_sections_of_a_wiki_are_paired_with_their_titles(tmp_path: Path, suffix: str) -> None:
    pytest.importorskip("mwparserfromhell")
    dump = tmp_path / f"wiki{suffix}"
    content = PAGES.encode()
    dump.write_bytes(bz2.compress(content) if suffix.endswith("bz2") else content)
    assert list(wiki_pairs(dump)) == [
        ProsePair("Albedo", (SENTENCE * 2).strip(), "Albedo"),
        ProsePair("Albedo: Of Snow", (SENTENCE * 2).strip(), "Albedo"),
        ProsePair("Albedo: Old", (SENTENCE * 3).strip(), "Albedo"),
    ]


def test_what_is_no_dump_is_named(tmp_path: Path) -> None:
    path = tmp_path / "dump.xml.bz2"
    for content in (b"no archive", bz2.compress(b"<mediawiki>"), bz2.compress(PAGES.encode())[:99]):
        path.write_bytes(content)
        with pytest.raises(InputError, match=r"dump\.xml\.bz2: cannot be read"):
            list(wiki_pairs(path))


def test_without_its_parser_a_wiki_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "mwparserfromhell", None)
    (tmp_path / "dump.xml").write_text(PAGES, "utf-8")
    with pytest.raises(MissingExtraError, match=r"\[wiki\]"):
        list(wiki_pairs(tmp_path / "dump.xml"))


def test_the_program_writes_the_same_bytes_again(tmp_path: Path) -> None:
    (tmp_path / "wings.py").write_text(MODULE, "utf-8")
    written = []
    for name in ("first.jsonl.gz", "second.jsonl.gz"):
        done = run_program(*PROGRAM, tmp_path / "wings.py", "--output", tmp_path / name)
        assert done.returncode == 0, done.stderr
        assert "1 pairs" in done.stdout
        written.append((tmp_path / name).read_bytes())
    assert written[0] == written[1]
    ((_, record),) = read_jsonl(tmp_path / "first.jsonl.gz", BadLines())
    assert record["anchor"] == "Compute the drag of a wing."


def test_the_program_says_where_nothing_is_found(tmp_path: Path) -> None:
    (tmp_path / "bare.py").write_text("x = 1\n", "utf-8")
    for path, message in (("bare.py", "no prose in"), ("none.py", "not there")):
        done = run_program(*PROGRAM, tmp_path / path, "--output", tmp_path / "out.jsonl")
        assert done.returncode == 1
        assert message in done.stderr
        assert not (tmp_path / "out.jsonl").exists()
