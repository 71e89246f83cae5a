"""txt and jsonl: what is a document, how it is compressed, how it is encoded."""

import bz2
import gzip
import io
import json
import lzma
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import zstandard
from helpers import HOME
from hypothesis import example, given, settings
from hypothesis import strategies as some
from reading import causes, read, texts

from corpus import plain
from corpus.plain import Raw
from narae.log import Mistake

TEXT = "첫 줄\n둘째 줄\n\n\n셋째 줄\n  \n넷째 줄"


@pytest.mark.parametrize(
    ("document", "wanted"),
    [
        ("line", ["첫 줄", "둘째 줄", "셋째 줄", "넷째 줄"]),
        ("blank", ["첫 줄\n둘째 줄", "셋째 줄", "넷째 줄"]),
        ("file", ["첫 줄\n둘째 줄\n\n\n셋째 줄\n  \n넷째 줄"]),
    ],
)
def test_what_is_a_document(tmp_path: Path, document: str, wanted: list[str]) -> None:
    for end in ("\n", "\r\n", "\r"):
        (tmp_path / "a.txt").write_bytes((TEXT + "\n").replace("\n", end).encode())
        assert texts(tmp_path, document=document) == wanted


PACKERS = {"gz": gzip.compress, "bz2": bz2.compress, "xz": lzma.compress, "zst": zstandard.compress, "": bytes}


@pytest.mark.parametrize("packer", PACKERS)
def test_compressed_whatever_the_name_says(tmp_path: Path, packer: str) -> None:
    (tmp_path / "a.txt").write_bytes(PACKERS[packer](TEXT.encode()))
    assert texts(tmp_path) == ["첫 줄\n둘째 줄", "셋째 줄", "넷째 줄"]


@pytest.mark.parametrize("packer", ["gz", "bz2", "xz", "zst"])
def test_several_frames_and_a_cut_one(tmp_path: Path, packer: str) -> None:
    one, two = (PACKERS[packer]("".join(f"{word} {n}\n" for n in range(5000)).encode()) for word in ("하나", "둘"))
    (tmp_path / "a.txt").write_bytes(one + two)
    assert texts(tmp_path, document="line") == [f"{word} {n}" for word in ("하나", "둘") for n in range(5000)]
    (tmp_path / "a.txt").write_bytes(one + two[:-9])
    found, reader = read(tmp_path, document="line")
    assert [raw.text for _, raw in found[:5000]] == [f"하나 {n}" for n in range(5000)]
    assert len(reader.unreadable) == 1
    assert "damaged or cut off" in reader.unreadable[0]["cause"]


@pytest.mark.parametrize(
    "encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32", "cp949", "euc_kr"]
)
def test_encodings(tmp_path: Path, encoding: str) -> None:
    (tmp_path / "a.txt").write_bytes("가나다 라마바 사과\n값은 100원\n".encode(encoding))
    assert texts(tmp_path) == ["가나다 라마바 사과\n값은 100원"]


def test_english_in_utf_16(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes("plain words".encode("utf-16-le"))
    assert texts(tmp_path) == ["plain words"]


@pytest.mark.parametrize("encoding", ["utf-8", "cp949"])
def test_korean_that_comes_late(tmp_path: Path, encoding: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plain, "HEAD", 20)
    monkeypatch.setattr(plain, "BLOCK", 16)
    content = "word\r\n" * 10 + "한글이 뒤에 온다.\r\n" * 3
    (tmp_path / "a.txt").write_bytes(content.encode(encoding))
    assert texts(tmp_path, document="line") == ["word"] * 10 + ["한글이 뒤에 온다."] * 3


def test_spoilt_characters_do_not_spoil_the_rest(tmp_path: Path) -> None:
    good = "좋은 문장이 이어진다.\n" * 50
    (tmp_path / "a.txt").write_bytes(b"\xed\xa0\x80 lone\n" + good.encode() + b"nul \x00 byte\n")
    found = texts(tmp_path, document="line")
    assert found == ["\ufffd\ufffd\ufffd lone", *["좋은 문장이 이어진다."] * 50, "nul \x00 byte"]


def test_jsonl(tmp_path: Path) -> None:
    records = [
        {"text": "하나\n둘", "id": 7, "year": 1987},
        {"text": "셋", "url": "u", "other": 1, "title": "긴" * 2000},
    ]
    lines = "\r\n".join(json.dumps(record) for record in records) + "\n\n"
    for name, data in {"a.jsonl": lines.encode(), "b.zst": zstandard.compress(lines.encode("utf-8-sig"))}.items():
        (tmp_path / name).write_bytes(data)
        found, _ = read(tmp_path / name)
        assert [raw for _, raw in found] == [Raw("하나\n둘", {"id": "7", "year": "1987"}), Raw("셋", {"url": "u"})]


def test_jsonl_field(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"body": "글", "no": 1}\n' * 20, encoding="utf-8")
    assert texts(tmp_path, text_field="body") == ["글"] * 20
    with pytest.raises(
        Mistake, match=r"9 of 9 documents are broken.*a.jsonl, line 9: no text; there are body, no: --text"
    ):
        read(tmp_path)


def test_broken_lines_of_jsonl_are_kept_aside(tmp_path: Path) -> None:
    lines = ['{"text": "글"}', '{"text": ', '{"text": 3}', "[1]", ' {"text": "둘"} ', "[" * 9999, '{"text": "셋"}{}']
    (tmp_path / "a.jsonl").write_text("\n".join(lines), encoding="utf-8")
    found, reader = read(tmp_path)
    wanted = ["", "no JSON", "no text", "no text", "", "no JSON", "no JSON"]
    assert [(raw.text, raw.fault) for _, raw in found if raw.fault] == [
        (line, fault) for line, fault in zip(lines, wanted, strict=True) if fault
    ]
    assert [raw.text for _, raw in found if not raw.fault] == ["글", "둘"]
    assert reader.formats == {"jsonl": {"members": 1, "documents": 7}}


def test_half_a_surrogate_pair_can_be_written(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"text": "\\ud83d\\ude00 \\ud83d", "id": "\\udc00"}', encoding="utf-8")
    ((_, raw),), _ = read(tmp_path)
    assert (raw.text, raw.meta) == ("😀 \ufffd", {"id": "\ufffd"})


def test_short_documents_are_counted(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("짧다.\n" + "길" * 60 + "\n", encoding="utf-8")
    assert read(tmp_path, document="line")[1].formats == {"text": {"members": 1, "documents": 2, "short": 1}}


def test_what_is_no_text_is_listed(tmp_path: Path) -> None:
    contents = {
        "a.bin": (bytes(range(256)) * 10, "neither UTF-8"),
        "b.html": (b"<!DOCTYPE html><html>", "HTML page"),
        "c.txt.gz": (gzip.compress("글\n".encode() * 90_000)[:-20], "cut off"),
        "d.json": (b'{"some": [], "thing": 1}', "no set that is known here, with the keys some, thing"),
        "e.json": (b'{"some": [', "invalid JSON"),
        "f.txt": (b"", "empty"),
        "g.txt": (bytes(5000), "nothing but zero bytes"),
        "h.xml": ("<글/>".encode(), "XML"),
        "i.pdf": (b"%PDF-1.4", "PDF"),
        "j.tar": (b"a" * 257 + b"ustar", "tar"),
        "k.hwp": (b"\xd0\xcf\x11\xe0\xa1", "hwp"),
    }
    for name, (data, _) in contents.items():
        (tmp_path / name).write_bytes(data)
    found, reader = read({"path": str(tmp_path), "name": "x"}, document="line")
    assert 80_000 < len(found) < 90_000
    got = dict(causes(reader))
    assert list(got) == [f"x/{name}" for name in contents]
    assert all(wanted in got[f"x/{name}"] for name, (_, wanted) in contents.items()), got


def test_a_long_line_goes_on_in_another_document(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plain, "LONGEST", 100)
    (tmp_path / "a.txt").write_text("가" * 250 + "\n" + "나" * 30, encoding="utf-8")
    assert texts(tmp_path, document="file") == ["가" * 100, "가" * 100, "가" * 50 + "\n" + "나" * 30]
    (tmp_path / "a.txt").write_text("가" * 100 + "\n" + "나" * 101, encoding="utf-8")
    assert texts(tmp_path, document="line") == ["가" * 100, "나" * 100, "나"]
    (tmp_path / "a.txt").write_text("a" * 120 + "\nb\n\nc\nd", encoding="utf-8")
    assert texts(tmp_path, document="line") == ["a" * 100, "a" * 20, "b", "c", "d"]
    (tmp_path / "a.txt").unlink()
    long, short = '{"text": "' + "a" * 490 + '"}\n', '{"text":"b"}\n'
    (tmp_path / "a.jsonl").write_text(short + long + long + short * 5, encoding="utf-8")
    found, _ = read(tmp_path)
    assert [raw.fault for _, raw in found] == ["", "line too long", "line too long", "", "", "", "", ""]
    assert [raw.meta for _, raw in found if raw.fault] == [{"line": 2}, {"line": 3}]


@pytest.mark.parametrize("name", ["a.txt", "a.jsonl", "a.csv"])
def test_a_line_of_a_hundred_megabytes_is_no_burden(tmp_path: Path, name: str) -> None:
    front, back = {"a.txt": ("", ""), "a.jsonl": ('{"text": "', '"}'), "a.csv": ("id,text\n1,", "\n2,끝")}[name]
    with (tmp_path / name).open("wb") as file:
        file.write(front.encode())
        for _ in range(100):
            file.write("글자 ".encode() * 150_000)
        file.write(back.encode())
    code = (
        "import resource, sys; sys.path += sys.argv[1:2]; from reading import read\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "count = len(read(sys.argv[2])[0])\n"
        "print(count, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) >> 10)"
    )
    words = [sys.executable, "-c", code, str(HOME / "tests/corpus"), str(tmp_path / name)]
    if name == "a.txt":  # of 45 million characters none would be left in memory
        words[2] = code.replace("len(read(sys.argv[2])[0])", "sum(1 for _ in stream(sys.argv[2]))").replace(
            "import read", "import stream"
        )
    done = subprocess.run(words, cwd=HOME, capture_output=True, text=True, check=True)
    count, grown = map(int, done.stdout.split())
    assert count == {"a.txt": 3, "a.jsonl": 1, "a.csv": 4}[name]
    assert grown < 250  # MiB; the line alone has 86 in memory as bytes, and 172 as text


def cut_in_ranges(data: bytes, suffix: str, size: int, document: str) -> list[Raw]:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"a{suffix}"
        path.write_bytes(data)
        found, reader = read(
            {"path": str(path), "schema": "text" if suffix == ".txt" else "jsonl"}, size=size, document=document
        )
    assert reader.unreadable == []
    return [raw for _, raw in found]


def lines_of(text: str) -> list[str]:
    return re.split("\r\n|\r|\n", text)


def blocks_of(text: str) -> Iterator[str]:
    block: list[str] = []
    for line in [*lines_of(text), ""]:
        if line.strip():
            block.append(line)
        elif block:
            yield "\n".join(block)
            block = []


PIECES = some.lists(
    some.sampled_from(["가", "나다", "a", " ", "\u3000", "\t", "\n", "\n\n", "\r\n", "\r\n\r\n", "\r", "힣", "\ufeff"]),
    max_size=40,
).map("".join)


@settings(max_examples=300, deadline=None)
@given(
    text=PIECES,
    size=some.integers(1, 30),
    encoding=some.sampled_from(["utf-8", "utf-8-sig", "cp949"]),
    note=some.sampled_from([2, 1000]),
)
@example(text="\n\n\ufeff가", size=1, encoding="utf-8-sig", note=1000)  # a mark of bytes in front alone is one
@example(text="\n\ufeff\n가", size=1, encoding="utf-8-sig", note=1000)
def test_ranges_of_bytes_hold_each_document_once(text: str, size: int, encoding: str, note: int) -> None:
    text = "글자 " + (text.replace("\ufeff", "") if encoding == "cp949" else text)
    wanted = {"line": [line for line in lines_of(text) if line.strip()], "blank": list(blocks_of(text))}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plain, "NOTE", note)
        for document in wanted:
            found = cut_in_ranges(text.encode(encoding), ".txt", size, document)
            assert [raw.text for raw in found] == wanted[document]


@settings(max_examples=100, deadline=None)
@given(
    lines=some.lists(some.sampled_from(['{"text": "가"}', '{"text": "나 다"}', "", " ", '{"te']), max_size=8),
    end=some.sampled_from(["\n", "\r\n"]),
    last=some.booleans(),
    size=some.integers(1, 50),
)
def test_ranges_of_jsonl(lines: list[str], end: str, last: bool, size: int) -> None:
    data = ('{"text": "첫"}' + end + end.join(lines) + end * last).encode()
    wanted = ["첫", *(line[10:-2] if line.endswith("}") else line for line in lines if line.strip())]
    assert [raw.text for raw in cut_in_ranges(data, ".jsonl", size, "blank")] == wanted


def test_a_boundary_is_not_looked_for_beyond_its_range() -> None:
    """Else a file without blank lines would be read once for each of its ranges."""
    file = io.BytesIO(b"word\n" * 1000 + b"\n" + b"word\n")
    assert plain.boundary(file, 10, True, "ascii") == 5001
    assert plain.boundary(file, 10, True, "ascii", before=20) == file.tell() == 20
    assert plain.boundary(file, 11, False, "ascii", before=20) == file.tell() == 15


def test_ranges_of_lines_that_are_too_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plain, "LONGEST", 10)
    text = "".join(f"{'가' * n}\n" for n in range(1, 45))
    wanted = [("가" * n)[start : start + 10] for n in range(1, 45) for start in range(0, n, 10)]
    for size in (1, 7, 50, 1000, 9999):
        assert [raw.text for raw in cut_in_ranges(text.encode(), ".txt", size, "line")] == wanted
