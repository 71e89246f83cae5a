"""What --explain says: whole outputs on small documents, and that nothing of a document harms the terminal."""

import io
import itertools
import re
import sys
import unicodedata
from dataclasses import dataclass, fields
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from corpus import quality
from corpus.clean import STEPS as STEPS_OF_CLEANING
from corpus.clean import clean
from corpus.explain import HUNKS, Step, coloured, differences, render, trace, visible


@dataclass
class Limits:
    min_chars: int = 10
    max_chars: int = 2_000_000
    min_hangul: float = 0.5
    max_symbols: float = 0.1


def unescape(text: str) -> str:
    return text.replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&")


STEPS: tuple[Step, ...] = (
    ("invisible", lambda text: text.replace("\u200b", "")),
    ("entities", unescape),
    ("tags", lambda text: re.sub("</?b>", "", text)),
    ("repeats", lambda text: re.sub(r"(ㅋ)\1{3,}", r"\1\1\1", text)),
)


def explained(text: str, steps: tuple[Step, ...] = STEPS, **given: Any) -> str:
    settings: dict[str, Any] = {
        "text": text,
        "source": {"source": "wiki", "licence": "CC BY-SA 4.0"},
        "meta": {},
        "passed": trace(text, steps),
        "measured": {},
        "limits": Limits(),
        "reason": "",
        "matches": [],
        "duplicate": None,
        "end": "train-00000.jsonl.zst",
        "colour": False,
    }
    return render("wiki/a.txt#3", **settings | given)


def test_a_whole_explanation() -> None:
    text = "나래\u200b는 &amp;lt;b&amp;gt;장터에 갔다ㅋㅋㅋㅋㅋ."
    assert explained(
        text,
        meta={"kdc": "813", "year": 1998},
        measured={"chars": 14.0, "hangul": 0.9231, "symbols": 0.25, "eojeol": 4.5},
        reason="symbols",
        matches=["kobest_boolq#12"],
        duplicate={"id": "wiki/a.txt#3", "of": "wiki/b.txt#1", "similarity": 0.934},
        end="rejected.jsonl.zst",
    ) == (
        "document  wiki/a.txt#3\n"
        "source    wiki\n"
        "licence   CC BY-SA 4.0\n"
        "metadata  kdc 813, year 1998\n"
        "as read   34 characters, 62 bytes\n"
        "\n"
        "invisible: 1 change, -1 character\n"
        "    나래[-⟨U+200B⟩-]는 &amp;lt;b&amp;gt;장…\n"
        "entities: 2 changes, -8 characters\n"
        "    나래는 &[-amp;-]lt;b&[-amp;-]gt;장터에 갔다ㅋㅋㅋㅋㅋ.\n"
        "repeats: 1 change, -2 characters\n"
        "    …는 &lt;b&gt;장터에 갔다ㅋㅋㅋ[-ㅋㅋ-].\n"
        "entities, round 2: 2 changes, -6 characters\n"
        "    나래는 [-&lt;-]{+<+}b[-&gt;-]{+>+}장터에 갔다ㅋㅋㅋ.\n"
        "tags, round 2: 1 change, -3 characters\n"
        "    나래는 [-<b>-]장터에 갔다ㅋㅋㅋ.\n"
        "\n"
        "chars    14      at least 10, at most 2,000,000\n"
        "hangul   0.9231  at least 0.5\n"
        "symbols  0.25    at most 0.1                     ✗\n"
        "eojeol   4.5\n"
        "\n"
        "cleaned     14 characters, 36 bytes\n"
        "verdict     rejected: symbols\n"
        "benchmarks  kobest_boolq#12\n"
        "duplicate   93.4 % of wiki/b.txt#1\n"
        "end         rejected.jsonl.zst\n"
    )


def test_a_document_that_nothing_changes() -> None:
    assert explained("나래는 장터에 갔다.", duplicate={"id": "x", "of": "wiki/b#1", "similarity": 1.0}) == (
        "document  wiki/a.txt#3\n"
        "source    wiki\n"
        "licence   CC BY-SA 4.0\n"
        "as read   11 characters, 27 bytes\n"
        "\n"
        "nothing changed by: invisible, entities, tags, repeats\n"
        "\n"
        "cleaned     11 characters, 27 bytes\n"
        "verdict     good\n"
        "benchmarks  nothing of them\n"
        "duplicate   the same as wiki/b#1\n"
        "end         train-00000.jsonl.zst\n"
    )


def test_what_is_no_document_was_not_cleaned() -> None:
    said = explained("broken", passed=[], reason="broken line", end="rejected.jsonl.zst")
    assert "\n\nnot cleaned: its source does not hold it as a document\n\nverdict     rejected: broken line\n" in said


def test_a_trace_takes_the_rounds_that_cleaning_takes() -> None:
    passed = trace("&amp;lt;b>", STEPS)
    assert [(change.round, change.step) for change in passed if change.before != change.after] == [
        (1, "entities"),
        (2, "entities"),
        (2, "tags"),
    ]
    assert passed[-1].round == 3 and passed[-1].after == ""  # the third finds nothing more to do
    assert len(passed) == 3 * len(STEPS)
    endless = trace("나래", [("longer", lambda text: text + "!")], rounds=4)
    assert [change.after for change in endless] == ["나래!", "나래!!", "나래!!!", "나래!!!!", ""]
    said = explained("나래", passed=endless)
    assert "\nround 4 was the last and still changed something: nothing is left of the text\n\n" in said
    assert "cleaned     0 characters, 0 bytes" in said


@pytest.mark.parametrize(
    "text",
    [
        "",
        "나래는 장터에 갔다.",
        "나래\u200b는 &amp;lt;b&amp;gt;<p>장터에  갔다ㅋㅋㅋㅋㅋㅋ.\r\n010-1234-5678",
        "나래 " + "<" * 9 + "b>" * 9,  # more rounds than there are: nothing is left
    ],
)
def test_a_trace_ends_where_cleaning_ends(text: str) -> None:
    passed = trace(text, STEPS_OF_CLEANING)
    assert passed[-1].after == clean(text)
    assert explained(text, passed=passed).count("⟨U+200B⟩") == text.count("\u200b")


def test_what_is_measured_stands_beside_its_limits() -> None:
    """Every limit of quality that is a number is one of a measure."""
    measured = quality.measure("나래는 장터에 갔다.")
    limits = {field.name for field in fields(quality.Limits) if not isinstance(field.default, bool)}
    assert limits == {f"{side}_{name}" for name in measured for side in ("min", "max")} & limits
    said = explained("", measured=measured, limits=quality.Limits())
    assert re.search(r"^hangul +0\.8889 +at least 0\.3$", said, re.M)  # 8 of 9 that are no spaces
    assert re.search(r"^chars +11 +at least 20, at most 2,000,000 +✗$", said, re.M)
    assert said.count("✗") == 1


@pytest.mark.parametrize(
    ("before", "after", "pieces"),
    [
        ("나래는 갔다.", "나래는 갔다.", [("나래는 갔다.", "나래는 갔다.")]),
        ("", "", []),
        ("", "새 글", [("", "새 글")]),
        ("장에 갔다. 왔다.", "장에 왔다.", [("장에 ",) * 2, ("갔다. ", ""), ("왔다.",) * 2]),
        ("나래는 아침에 갔다", "나래는 저녁에 갔다", [("나래는 ",) * 2, ("아침", "저녁"), ("에 갔다",) * 2]),
        ("나래는 갔다. 나래는 왔다.", "나래는 왔다.", [("나래는 갔다. ", ""), ("나래는 왔다.",) * 2]),
        ("가나다라마바", "바가사마라자", [("가나다라마바", "바가사마라자")]),  # by chance they share letters
        ("좋아요ㅋㅋㅋㅋ 네", "좋아요ㅋㅋㅋ 네", [("좋아요ㅋㅋㅋ",) * 2, ("ㅋ", ""), (" 네",) * 2]),
    ],
)
def test_differences_by_hand(before: str, after: str, pieces: list[tuple[str, str]]) -> None:
    assert differences(before, after, fine=True) == pieces


def test_differences_by_words_mark_whole_words() -> None:
    assert differences("좋아요ㅋㅋㅋㅋ 네", "좋아요ㅋㅋㅋ 네") == [("좋아요ㅋㅋㅋㅋ", "좋아요ㅋㅋㅋ"), (" 네", " 네")]


def test_a_long_piece_that_went_is_one_difference() -> None:
    """Longer than the window, and every second token is a space that would fit anywhere."""
    words = [f"낱말{number} " for number in range(400)]
    whole, cut = "".join(words), "".join(words[:50] + words[250:])
    gone = "".join(words[50:250])
    assert [old for old, new in differences(whole, cut) if old != new] == [gone]
    assert [new for old, new in differences(cut, whole) if old != new] == [gone]


@given(
    st.lists(st.sampled_from(["나래", "는 ", "갔다. ", "\n", "ㅋㅋㅋㅋ", "\u200b", "<b>", "\ud800"]), max_size=30),
    st.booleans(),
)
def test_differences_lose_nothing(parts: list[str], fine: bool) -> None:
    before = "".join(parts)
    after = before.replace("\u200b", "").replace("ㅋㅋㅋㅋ", "ㅋㅋㅋ").replace("<b>", "\n")
    pieces = differences(before, after, fine)
    assert ("".join(old for old, _ in pieces), "".join(new for _, new in pieces)) == (before, after)
    assert all((a == b) != (c == d) for (a, b), (c, d) in itertools.pairwise(pieces))


def test_what_cannot_be_seen_has_its_code() -> None:
    assert visible("가\u200b나\xa0다\t라\n마 바\x1b[31m") == "가⟨U+200B⟩나⟨U+00A0⟩다⟨U+0009⟩라⏎마 바⟨U+001B⟩[31m"
    assert visible("\ud800\ue000\u3164") == "⟨U+D800⟩⟨U+E000⟩⟨U+3164⟩"
    taken_apart = unicodedata.normalize("NFD", "한")
    said = explained(f"{taken_apart} 글", (("NFC", lambda text: unicodedata.normalize("NFC", text)),))
    assert "    [-⟨U+1112⟩⟨U+1161⟩⟨U+11AB⟩-]{+한+} 글\n" in said


def test_no_control_character_reaches_the_terminal() -> None:
    bad = "\x1b]0;title\x07"
    said = explained(
        f"{bad}글", (("gone", lambda text: text.replace(bad, "")),), source={bad: bad, "x": bad}, meta={bad: bad},
        reason=bad, matches=[bad], duplicate={"of": bad}, end=bad,
    )  # fmt: skip
    assert not re.search("[\x00-\x09\x0b-\x1f\x7f]", said)


def test_far_apart_changes_are_shown_with_what_stands_around_them() -> None:
    far = "가나다라마 " * 20
    said = explained(f"\u200b{far}하나\u200b둘{far}\u200b")
    assert said.split("\n")[6:9] == [
        "    [-⟨U+200B⟩-]가나다라마 가나다라마 가나다라마 가나…",
        "    …가나다라마 가나다라마 가나다라마 하나[-⟨U+200B⟩-]둘가나다라마 가나다라마 가나다라마 가…",
        "    …마 가나다라마 가나다라마 가나다라마 [-⟨U+200B⟩-]",
    ]


def test_very_many_and_very_long_changes_are_counted_not_shown() -> None:
    far = "가나다라마 " * 20
    said = explained(f"\u200b{far}" * (HUNKS + 3))
    assert f"invisible: {HUNKS + 3} changes, -{HUNKS + 3} characters" in said
    assert said.count("[-") == HUNKS and "    and 3 more places\n" in said
    said = explained("끝" + "ㅋ" * 1000)
    assert f"끝ㅋㅋㅋ[-{'ㅋ' * 40}…917 more…{'ㅋ' * 40}-]" in said


def test_colours_only_where_they_are_wanted(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    text = "나래\u200b는 &lt;"
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setattr(sys, "stdout", Terminal())
    assert coloured()
    said = explained(text, colour=None, measured={"chars": 6.0, "hangul": 0.6})
    assert "나래\x1b[31m[-⟨U+200B⟩-]\x1b[0m는" in said
    assert "\x1b[31m[-&lt;-]\x1b[0m\x1b[32m{+<+}\x1b[0m" in said
    assert "\n\x1b[31mchars   6    at least 10, at most 2,000,000  ✗\x1b[0m\nhangul  0.6  at least 0.5\n" in said
    plain = re.sub("\x1b\\[[0-9]+m", "", said)
    monkeypatch.setenv("NO_COLOR", "1")
    assert explained(text, colour=None, measured={"chars": 6.0, "hangul": 0.6}) == plain
    monkeypatch.delenv("NO_COLOR")
    monkeypatch.setattr(sys, "stdout", io.StringIO())
    assert explained(text, colour=None, measured={"chars": 6.0, "hangul": 0.6}) == plain
