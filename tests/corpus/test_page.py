"""The page about a corpus: its figures by hand, whatever the data brings, and no word of a text where none may be."""

import json
import re
from html.parser import HTMLParser
from typing import Any

import pytest

from corpus.excerpts import SHOWN
from corpus.page import Sample, page
from narae.markup import share, size

ATTACK = "<script>alert(1)</script>\"'&\x00\u202e\ud800"
VOID = {"meta", "rect"}


def amount(documents: int, size: int) -> dict[str, int]:
    return {"documents": documents, "bytes": size}


def counts() -> dict[str, Any]:
    """Two sources. Bytes: 1,000,000 + 200,000 read, 1,000 of them lost by mending."""
    books = {
        "licence": "for learning only",
        "weight": 2.0,
        "read": amount(1000, 1_000_000),
        "train": amount(900, 940_000),
        "val": amount(10, 9_000),
        "rejected": {"too short": amount(50, 1_000), "symbols": amount(20, 20_000)},
        "duplicates": {"exact": amount(15, 15_000), "near": amount(5, 14_000)},
    }
    web = {
        "licence": "CC BY-SA 4.0",
        "weight": 0.5,
        "read": amount(500, 200_000),
        "train": amount(400, 150_000),
        "val": amount(0, 0),
        "rejected": {"too short": amount(100, 50_000)},
        "duplicates": {"exact": amount(0, 0), "near": amount(0, 0)},
    }
    return {
        "read": amount(1500, 1_200_000),
        "train": amount(1300, 1_090_000),
        "val": amount(10, 9_000),
        "rejected": {"symbols": amount(20, 20_000), "too short": amount(150, 51_000)},
        "duplicates": {"exact": amount(15, 15_000), "near": amount(5, 14_000)},
        "cleaned": amount(321, -1_000),
        "masked": {"<전화번호>": 12, "<전자우편>": 3},
        "unreadable": [
            {"archive": "TL_100.zip", "member": "a.json", "cause": "invalid JSON (Expecting value)", "bytes": 2_500_000}
        ],
        "formats": {"653 json": {"members": 3, "documents": 1000, "text": 4000, "original_text": 7}},
        "sources": {"책": books, "web": web},
    }


SAMPLES = [
    Sample("rejected", "too short", "web", "web/a#1", "짧은 글"),
    Sample("kept", "", "책", "책/b#2", "남은 글은 이렇게 생겼다."),
    Sample("near duplicate", "", "책", "책/c#3", "어제는 바다에 갔다.", "책/c#1", "오늘은 바다에 갔다.", 0.875),
    Sample("exact duplicate", "", "책", "책/d#3", "똑같은 글이다.", "책/d#1", "똑같은 글이다.", 1.0),
    Sample(
        "benchmark", "", "web", "web/e#5", "그는 말했다 나무늘보는 나무 위에서 하루를 산다 한다", "kobest/12",
        "그는 물었다 나무늘보는 나무 위에서 하루를 산다 그런가",
    ),
]  # fmt: skip


class Page(HTMLParser):
    """Checks that the page is well formed, and keeps its words, tags and the cells of its tables."""

    def __init__(self, source: str):
        super().__init__()
        self.source = source
        self.words = ""
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.rows: list[list[str]] = []
        self.feed(source)
        self.words = " ".join(self.words.split())
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)
        if tag == "tr":
            self.rows.append([])
        if tag in ("th", "td"):
            self.rows[-1].append("")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" not in self.open:
            data = data.replace("\u202f", " ")
            self.words += data
            if {"td", "th"} & set(self.open):
                self.rows[-1][-1] += data

    def row(self, key: str) -> list[str]:
        return next(row[1:] for row in self.rows if row[0] == key)


def test_the_figures_are_those_of_the_counts() -> None:
    found = Page(page("books", counts(), SAMPLES, with_text=True))
    assert found.row("read")[:4] == ["1 500", "100.0 %", "1.2 MB", "100.0 %"]
    assert found.row("rejected: too short")[:4] == ["−150", "10.0 %", "51.0 kB", "4.2 %"]
    assert found.row("near duplicates")[:4] == ["−5", "0.3 %", "14.0 kB", "1.2 %"]
    assert found.row("val")[:2] == ["10", "0.7 %"]
    rejected = ["rejected: too short", "rejected: symbols"]
    labels = [row[0] for row in found.rows[1:8]]
    assert labels == ["read", *rejected, "exact duplicates", "near duplicates", "train", "val"]
    assert "documents: 1 500 read = 1 300 train + 10 val + 170 rejected + 20 duplicates." in found.words
    assert (
        "bytes: 1 200 000 read − 1 000 by mending = 1 090 000 train + 9 000 val + 71 000 rejected + 29 000 duplicates."
        in found.words
    )
    assert "does not add up" not in found.words
    assert found.row("책") == ["1 000", "1.0 MB", "910", "949.0 kB", "91.0 %", "70", "20", "2", "for learning only"]
    assert found.row("all") == ["1 500", "1.2 MB", "1 310", "1.1 MB", "87.3 %", "170", "20", "", ""]
    by_reason = [row for row in found.rows if row[0] in ("책", "web")][2:]
    assert by_reason == [["책", "50", "20"], ["web", "100", "–"]]
    assert "Cleaning changed 321 of 1 310 kept documents; their text became 1.0 kB less." in found.words
    assert found.row("<전화번호>") == ["12"]
    assert found.row("653 json") == ["3", "1 000", "text 4 000, original_text 7"]
    assert found.row("TL_100.zip") == ["a.json", "invalid JSON (Expecting value)", "2.5 MB"]


@pytest.mark.parametrize("key", ["read", "val", "cleaned"])
def test_counts_that_do_not_add_up_are_not_hidden(key: str) -> None:
    wrong = counts()
    wrong[key]["bytes"] += 1
    over = -1 if key == "val" else 1
    words = Page(page("books", wrong, [], with_text=True)).words
    assert f"This does not add up: {over} bytes are unaccounted for." in words
    assert "would have stopped" not in words


def test_bars_stand_where_the_documents_go() -> None:
    found = Page(page("books", counts(), [], with_text=True))
    drawn = [(tag["class"], tag["x"], tag["width"]) for name, tag in found.tags if name == "rect" and "x" in tag]
    # The figure: 1,300 train, 10 val, 5 near, 15 exact and 170 rejected of 1,500.
    assert drawn[:5] == [
        ("train", "0.00%", "86.67%"),
        ("val", "86.67%", "0.67%"),
        ("near", "87.33%", "0.40%"),  # 0.33 % would not be seen
        ("exact", "87.67%", "1.00%"),
        ("rejected", "88.67%", "11.33%"),
    ]
    lost = [place for style, *place in drawn if style == "lost"]
    assert lost == [["90.00%", "10.00%"], ["88.67%", "1.33%"], ["87.67%", "1.00%"], ["87.33%", "0.40%"]]


def test_samples_stand_under_their_reason_with_what_differs_marked() -> None:
    source = page("books", counts(), SAMPLES, with_text=True)
    assert re.findall(r"<h3>(Rej.*?|Near.*?|Exact.*?|Parts.*?|Kept.*?)</h3>", source) == [
        "Rejected: too short",
        'Near duplicates: <span lang="ko">책</span>',
        'Exact duplicates: <span lang="ko">책</span>',
        "Parts of benchmarks: web",
        'Kept: <span lang="ko">책</span>',
    ]
    quotes = re.findall(r'<blockquote lang="ko">(.*?)</blockquote>', source)
    assert quotes == [
        "짧은 글",
        "<mark>어제는</mark> 바다에 갔다.",
        "<mark>오늘은</mark> 바다에 갔다.",
        "똑같은 글이다.",
        "그는 말했다<mark> 나무늘보는 나무 위에서 하루를 산다 </mark>한다",
        "그는 물었다<mark> 나무늘보는 나무 위에서 하루를 산다 </mark>그런가",
        "남은 글은 이렇게 생겼다.",
    ]
    words = Page(source).words
    assert "책/c#3 (11 characters), 87.5 % alike, repeats어제는" in words
    assert "web/e#5 (29 characters), holds a part of그는 말했다" in words and "kobest/12 (30 characters)" in words


def test_long_texts_are_cut_around_what_differs() -> None:
    before, after = ["가나다라 " * 30, "마바사아 " * 60]
    pair = Sample("near duplicate", "", "책", "a", f"{before}하나 {after}", "b", f"{before}둘 {after}", 0.99)
    left, right = re.findall(r'<blockquote lang="ko">(.*?)</blockquote>', page("books", {}, [pair], with_text=True))
    assert left == f"…{'가나다라 ' * 8}<mark>하나</mark> {('마바사아 ' * 8)[:-1]}…"
    assert right == left.replace("하나", "둘")
    plain = Sample("kept", "", "책", "a", "한 줄\n\n\n\n" * 20 + "끝", length=5000)
    source = page("books", {}, [plain], with_text=True)
    assert '<blockquote lang="ko">' + "한 줄\n\n" * 4 + "한 줄\n…</blockquote>" in source
    assert "(5\u202f000 characters)" in source


def test_few_samples_of_many_are_shown_from_every_source() -> None:
    many = [Sample("rejected", "symbols", name, f"{name}#{n}", "글") for name in "abcde" for n in range(40)]
    source = page("books", {}, many, with_text=True)
    assert re.findall(r"<code>(.)#(\d+)</code>", source) == [(name, "0") for name in "abcde"]
    assert SHOWN == 5


def test_without_texts_there_is_no_text_at_all() -> None:
    """Every Korean word of the samples and causes is looked for."""
    given = counts()
    causes = {
        'no such key: "비밀 글"': "no such key …",
        "비밀 글은 읽을 수 없다": "…",
        "broken line 'secret text'": "broken line …",
        "invalid JSON (비밀)": "invalid JSON …",
        "the archive's end is missing": "the archive's end is missing",
    }
    given["unreadable"] = [{"archive": "가.zip", "member": str(n), "cause": cause} for n, cause in enumerate(causes)]
    source = page("books", given, SAMPLES, with_text=False)
    for sample in SAMPLES:
        for word in (*sample.text.split(), *sample.other_text.split()):
            assert word not in source, word
        assert sample.id in source
    assert "비밀" not in source and "secret" not in source and "blockquote lang" not in source
    found = Page(source)
    cells = [row[2] for row in found.rows if row[0] == "가.zip"]
    assert [cell.strip() for cell in cells] == list(causes.values())
    assert "Texts are left out of this page" in found.words
    assert "책/c#3 (11 characters), 87.5 % alike, repeats 책/c#1 (11 characters)" in found.words
    assert "Texts are left out" not in page("books", given, SAMPLES, with_text=True)


def test_whatever_the_data_brings_stays_text() -> None:
    given = counts()
    given["sources"][ATTACK] = given["sources"].pop("web") | {"licence": ATTACK}
    given["rejected"][ATTACK] = amount(0, 0)
    given["masked"][ATTACK] = 1
    given["formats"][ATTACK] = {ATTACK: 3, "note": ATTACK}
    given["unreadable"] = [{"archive": ATTACK, "member": ATTACK, "cause": ATTACK}]
    hostile = [
        Sample(kind, ATTACK, ATTACK, ATTACK, f"{ATTACK} {n}", ATTACK, ATTACK, 0.9)
        for n, kind in enumerate(["kept", "rejected", "near duplicate", "exact duplicate", "benchmark"])
    ]
    for with_text in (True, False):
        source = page(ATTACK, given, hostile, with_text)
        source.encode()  # no lone surrogates
        assert "<script" not in source and "\u202e" not in source and "\x00" not in source
        names = {name for name, _ in Page(source).tags}
        assert not names & {"script", "link", "img", "iframe", "object", "base"}
        assert source.count("\ufffd") > 10
    assert all("href" not in tag or str(tag["href"]).startswith("#") for _, tag in Page(source).tags)
    assert "url(" not in source and "@import" not in source and "default-src 'none'" in source


def test_a_corpus_of_nothing_and_a_huge_one() -> None:
    empty = Page(page("books", {}, [], with_text=True))
    assert empty.row("read")[:4] == ["0", "–", "0 B", "–"]
    assert "No source brought a document." in empty.words
    huge = {
        "read": amount(300_000_000, 49_600_000_000),
        "train": amount(299_999_999, 49_599_999_999),
        "rejected": {"symbols": amount(1, 1)} | {f"reason {n:02d}": amount(0, 0) for n in range(19)},
        "unreadable": [{"archive": f"{n}.zip", "member": "", "cause": "empty"} for n in range(1234)],
        "sources": {f"source {n:03d}": {} for n in range(199)},
    }
    huge["sources"]["books"] = {"read": huge["read"], "train": huge["train"], "rejected": huge["rejected"]}  # type: ignore[index]
    found = Page(page("books", huge, [], with_text=False))
    assert found.row("train")[:4] == ["299 999 999", ">99.9 %", "49.6 GB", ">99.9 %"]
    assert found.row("rejected: symbols")[:4] == ["−1", "<0.1 %", "1 B", "<0.1 %"]
    assert [row[0] for row in found.rows].count("source 198") == 2
    heads = next(row for row in found.rows if "14 others" in row)
    assert heads == ["source", "symbols", *(f"reason {n:02d}" for n in range(5)), "14 others"]
    assert "And 1 184 more, all listed in manifest.json." in found.words
    assert sum(row[0].endswith(".zip") for row in found.rows) == 50


def test_a_page_reads_well_without_eyes_and_is_always_the_same() -> None:
    source = page("books", counts(), SAMPLES, with_text=True)
    assert source == page("books", json.loads(json.dumps(counts())), list(SAMPLES), with_text=True)
    found = Page(source)
    tags = [name for name, _ in found.tags]
    assert tags.count("table") == tags.count("caption") == 6
    assert all(tag.get("scope") in ("row", "col") for name, tag in found.tags if name == "th")
    assert all(tag.get("aria-hidden") == "true" for name, tag in found.tags if name == "svg")
    said = [tag["aria-label"] for name, tag in found.tags if tag.get("role") == "img"]
    assert str(said[0]).replace("\u202f", " ") == (
        "documents: train 86.7 %, val 0.7 %, near duplicates 0.3 %, exact duplicates 1.0 %, rejected 11.3 %"
    )
    ids = [tag["id"] for _, tag in found.tags if "id" in tag]
    assert len(ids) == len(set(ids))
    assert {str(tag["href"])[1:] for name, tag in found.tags if name == "a"} <= set(ids)


def test_numbers_as_words() -> None:
    sizes = (0, 999, 1000, 49_600_000_000, 1_234_567_890_123)
    assert [size(n).replace("\u202f", " ") for n in sizes] == ["0 B", "999 B", "1.0 kB", "49.6 GB", "1.2 TB"]
    shares = ((0, 3), (1, 10_000), (1, 3), (9_999, 10_000), (3, 3), (1, 0))
    assert [share(*pair).replace("\u202f", " ") for pair in shares] == [
        "0.0 %", "&lt;0.1 %", "33.3 %", "&gt;99.9 %", "100.0 %", "–",
    ]  # fmt: skip
