"""txt and jsonl: what is a document, how it is compressed, how it is encoded."""

import bz2
import gzip
import json
import lzma
import zipfile
from pathlib import Path

import pytest
import zstandard

from corpus import plain
from corpus.plain import Raw
from corpus.sources import Reader, files_of
from narae.log import Mistake

TEXT = "첫 줄\n둘째 줄\n\n\n셋째 줄\n  \n넷째 줄"


def read(source: Path | str, document: str = "blank", text_field: str = "text") -> list[tuple[str, Raw]]:
    reader = Reader(files_of([str(source)]), document, text_field, 0.001)
    found = [(f"{origin.place}#{number}", raw) for origin, number, raw in reader.read()]
    assert reader.unreadable == []
    return found


@pytest.mark.parametrize(
    ("document", "texts"),
    [
        ("line", ["첫 줄", "둘째 줄", "셋째 줄", "넷째 줄"]),
        ("blank", ["첫 줄\n둘째 줄", "셋째 줄", "넷째 줄"]),
        ("file", ["첫 줄\n둘째 줄\n\n\n셋째 줄\n  \n넷째 줄"]),
    ],
)
def test_what_is_a_document(tmp_path: Path, document: str, texts: list[str]) -> None:
    (tmp_path / "a.txt").write_text(TEXT + "\n", encoding="utf-8")
    assert [raw.text for _, raw in read(tmp_path, document)] == texts


PACKERS = {"gz": gzip.compress, "bz2": bz2.compress, "xz": lzma.compress, "zst": zstandard.compress, "": bytes}


@pytest.mark.parametrize("packer", PACKERS)
def test_compressed_whatever_the_name_says(tmp_path: Path, packer: str) -> None:
    (tmp_path / "a.txt").write_bytes(PACKERS[packer](TEXT.encode()))
    assert [raw.text for _, raw in read(tmp_path)] == ["첫 줄\n둘째 줄", "셋째 줄", "넷째 줄"]


def test_several_zstd_frames(tmp_path: Path) -> None:
    (tmp_path / "a.zst").write_bytes(zstandard.compress("하나\n".encode()) + zstandard.compress("둘\n".encode()))
    assert [raw.text for _, raw in read(tmp_path)] == ["하나\n둘"]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "cp949"])
def test_encodings(tmp_path: Path, encoding: str) -> None:
    (tmp_path / "a.txt").write_bytes("가나다 라마바 사과\n값은 100원\n".encode(encoding))
    assert [raw.text for _, raw in read(tmp_path)] == ["가나다 라마바 사과\n값은 100원"]


def test_jsonl(tmp_path: Path) -> None:
    records = [{"text": "하나\n둘", "id": 7}, {"text": "셋", "url": "u", "other": []}]
    lines = "\n".join(json.dumps(record) for record in records) + "\n\n"
    for name, data in {"a.jsonl": lines.encode(), "b.zst": zstandard.compress(lines.encode())}.items():
        (tmp_path / name).write_bytes(data)
        found = read(tmp_path / name)
        assert [(raw.text, raw.meta) for _, raw in found] == [("하나\n둘", {"id": "7"}), ("셋", {"url": "u"})]


def test_jsonl_field(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"body": "글"}\n' * 20, encoding="utf-8")
    assert {raw.text for _, raw in read(tmp_path, text_field="body")} == {"글"}
    with pytest.raises(Mistake, match=r"9 of 9 documents are broken.*line 9: no text; --text_field"):
        read(tmp_path)


def test_broken_lines_of_jsonl_are_kept_aside(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"text": "글"}\n{"text": \n{"text": 3}\n', encoding="utf-8")
    faults = [(raw.text, raw.fault) for _, raw in read(tmp_path)]
    assert faults == [("글", ""), ('{"text": ', "no JSON"), ('{"text": 3}', "no text")]


def test_ids(tmp_path: Path) -> None:
    folder = tmp_path / "novels"
    (folder / "sub").mkdir(parents=True)
    (folder / "sub" / "a.txt").write_text("하나\n\n둘", encoding="utf-8")
    with zipfile.ZipFile(folder / "b.zip", "w") as archive:
        archive.writestr("c.txt", "셋")
    assert [name for name, _ in read(folder)] == ["novels/b:c.txt#0", "novels/sub/a.txt#0", "novels/sub/a.txt#1"]
    assert [name for name, _ in read(folder / "sub" / "a.txt")] == ["a/a.txt#0", "a/a.txt#1"]


def test_patterns_and_what_is_not_there(tmp_path: Path) -> None:
    for name in ("a1.txt", "a2.txt", "b.txt", ".hidden.txt"):
        (tmp_path / name).write_text(name, encoding="utf-8")
    assert [raw.text for _, raw in read(f"{tmp_path}/a*.txt")] == ["a1.txt", "a2.txt"]
    assert [raw.text for _, raw in read(tmp_path)] == ["a1.txt", "a2.txt", "b.txt"]
    with pytest.raises(Mistake, match=r"--sources .*c\*.txt: no such file or folder"):
        read(f"{tmp_path}/c*.txt")


def test_what_is_no_text_is_listed(tmp_path: Path) -> None:
    (tmp_path / "a.bin").write_bytes(bytes(range(256)) * 10)
    (tmp_path / "b.html").write_bytes(b"<!DOCTYPE html><html>")
    (tmp_path / "c.txt.gz").write_bytes(gzip.compress("글\n".encode() * 90_000)[:-20])
    (tmp_path / "d.json").write_bytes(b'{"data": []}')
    (tmp_path / "e.csv").write_bytes(b"a,b\n1,2\n")
    reader = Reader(files_of([str(tmp_path)]), "line", "text", 0.001)
    assert len(list(reader.read())) > 1000
    found = [entry["cause"] for entry in reader.unreadable]
    wanted = ["neither UTF-8", "HTML page", "cut off", "without the paragraphs", ".csv file"]
    assert all(part in cause for part, cause in zip(wanted, found, strict=True)), found


def test_a_long_line_is_no_burden(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plain, "LONGEST", 100)
    (tmp_path / "a.txt").write_text("가" * 250 + "\n" + "나" * 30, encoding="utf-8")
    assert [raw.text for _, raw in read(tmp_path, "file")] == ["가" * 100, "가" * 100, "가" * 50 + "\n" + "나" * 30]
