"""Data set 653 and the traps of its archives, each built here."""

import json
import struct
import zipfile
from pathlib import Path

import pytest

from corpus import zips
from corpus.sources import Reader, files_of
from narae.log import Mistake


def paragraph(*sentences: str, key: str = "text", **info: object) -> dict[str, object]:
    return {"id": "p", "info": info, "sentences": [{key: sentence} for sentence in sentences]}


def text_json(*paragraphs: dict[str, object]) -> bytes:
    return json.dumps({"paragraphs": paragraphs}, ensure_ascii=False).encode()


def write_zip(path: Path, members: dict[str, bytes]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return path


def read(*sources: Path, max_unreadable: float = 0.001) -> tuple[list[tuple[str, str]], Reader]:
    reader = Reader(files_of([str(source) for source in sources]), "blank", "text", max_unreadable)
    return [(f"{origin.place}#{number}", raw.text) for origin, number, raw in reader.read()], reader


def causes(reader: Reader) -> list[tuple[str, str]]:
    return [(entry["member"], entry["cause"]) for entry in reader.unreadable]


def test_json_paragraphs(tmp_path: Path) -> None:
    both = {"sentences": [{"text": "고친 문장.", "original_text": "원문."}, {"text": "", "original_text": "원문 둘."}]}
    members = {
        "360_INFO.json": b'{"id": 1, "statistics": {}}',
        "360_TEXT_001.json": text_json(
            paragraph("첫 문장.", " 둘째 문장. ", kdc="360", published_year="2001"),
            paragraph("셋.", key="original_text"),
            both,
        ),
    }
    documents, reader = read(write_zip(tmp_path / "TL_360.zip", members))
    assert documents == [
        ("aihub653/TL_360:360_TEXT_001.json#0", "첫 문장. 둘째 문장."),
        ("aihub653/TL_360:360_TEXT_001.json#1", "셋."),
        ("aihub653/TL_360:360_TEXT_001.json#2", "고친 문장. 원문 둘."),
    ]
    assert reader.formats["653 json"] == {"members": 1, "documents": 3, "text": 3, "original_text": 2}
    assert reader.formats["653 info"] == {"members": 1}
    assert reader.unreadable == []
    (_, _, raw), *_ = Reader(files_of([str(tmp_path)]), "blank", "text", 0).read()
    assert raw.meta == {"document": "p", "kdc": "360", "year": "2001"}


def test_a_paragraph_without_sentences_is_kept_aside(tmp_path: Path) -> None:
    write_zip(tmp_path / "a.zip", {"1_TEXT_1.json": text_json({"id": "x"}, paragraph("문장."))})
    reader = Reader(files_of([str(tmp_path)]), "blank", "text", 0)
    assert [raw.fault for _, _, raw in reader.read()] == ["no sentences", ""]


def test_tsv_sentences(tmp_path: Path) -> None:
    rows = [
        '653.1.0\t그는 "가자 하고 말했다.\t810\t2001\t1950\t작가',
        "653.1.1\t둘째 문장.\t810\t2001\t1950\t작가",
        "두 동강 난 줄",
        "653.2.0\t다른 글.\t810\t2001\t1950\t작가\t일곱째",
        "653.1.2\t돌아온 글.\t810\t2001\t1950\t작가",
    ]
    write_zip(tmp_path / "TS_810.zip", {"810_DATA.tsv": "\r\n".join(rows).encode("utf-8-sig")})
    reader = Reader(files_of([str(tmp_path)]), "blank", "text", 0)
    raws = [raw for _, _, raw in reader.read()]
    assert [(raw.text, raw.fault, raw.meta.get("document")) for raw in raws] == [
        ("두 동강 난 줄", "broken line", None),
        ('그는 "가자 하고 말했다. 둘째 문장.', "", "1"),
        ("다른 글.", "", "2"),
        ("돌아온 글.", "", "1"),
    ]
    assert reader.formats["653 tsv"] == {"members": 1, "documents": 4, "6 columns": 3, "7 columns": 1, "1 columns": 1}


def test_unpacked_files_are_read_as_well(tmp_path: Path) -> None:
    (tmp_path / "653").mkdir()
    (tmp_path / "653" / "810_TEXT_1.json").write_bytes(text_json(paragraph("문장.")))
    assert read(tmp_path / "653")[0] == [("aihub653/653/810_TEXT_1.json#0", "문장.")]


def test_cp949_and_utf8_names_without_the_flag(tmp_path: Path) -> None:
    class Name(zipfile.ZipInfo):
        encoding = "cp949"

        def _encodeFilenameFlags(self) -> tuple[bytes, int]:  # noqa: N802 - the standard library's name
            return self.filename.encode(self.encoding), 0

    class MacName(Name):
        encoding = "utf-8"

    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr(Name("자료/책_TEXT_1.json"), text_json(paragraph("하나.")))
        archive.writestr(MacName("자료/책_TEXT_2.json"), text_json(paragraph("둘.")))
    assert [name for name, _ in read(tmp_path)[0]] == [
        "aihub653/a:자료/책_TEXT_1.json#0",
        "aihub653/a:자료/책_TEXT_2.json#0",
    ]


def test_absolute_and_climbing_names_are_labels_only(tmp_path: Path) -> None:
    names = ["/etc/1_TEXT.json", "../../2_TEXT.json", "C:\\책\\3_TEXT.json"]
    write_zip(tmp_path / "in" / "a.zip", {name: text_json(paragraph(name)) for name in names})
    got = [name for name, _ in read(tmp_path / "in")[0]]
    assert got == ["aihub653/a:etc/1_TEXT.json#0", "aihub653/a:2_TEXT.json#0", "aihub653/a:책/3_TEXT.json#0"]
    assert [path.name for path in tmp_path.iterdir()] == ["in"]


def test_part0_that_is_a_whole_zip(tmp_path: Path) -> None:
    write_zip(tmp_path / "a.zip", {"1_TEXT.json": text_json(paragraph("문장."))}).rename(tmp_path / "a.zip.part0")
    assert read(tmp_path)[0] == [("aihub653/a:1_TEXT.json#0", "문장.")]


@pytest.mark.parametrize("by_offset", [True, False])
def test_parts_are_joined_by_number(tmp_path: Path, by_offset: bool) -> None:
    whole = write_zip(tmp_path / "a.zip", {f"{n}_TEXT.json": text_json(paragraph(f"문장 {n}.")) for n in range(9)})
    data, size = whole.read_bytes(), 90
    whole.unlink()
    assert len(data) > 10 * size  # so that the order of the names is the wrong one: part10 comes before part2
    for number, start in enumerate(range(0, len(data), size)):
        (tmp_path / f"a.zip.part{start if by_offset else number}").write_bytes(data[start : start + size])
    documents, reader = read(tmp_path)
    assert [text for _, text in documents] == [f"문장 {n}." for n in range(9)]
    assert reader.unreadable == []
    (tmp_path / f"a.zip.part{2 * size if by_offset else 2}").unlink()
    documents, reader = read(tmp_path)
    assert documents == []
    assert "a part is missing" in reader.unreadable[0]["cause"]


def test_parts_beside_the_whole_are_leftovers(tmp_path: Path) -> None:
    whole = write_zip(tmp_path / "a.zip", {"1_TEXT.json": text_json(paragraph("문장."))})
    (tmp_path / "a.zip.part0").write_bytes(whole.read_bytes())
    assert read(tmp_path)[0] == [("aihub653/a:1_TEXT.json#0", "문장.")]


def flagged(path: Path, flag: int | None = None, method: int | None = None) -> None:
    """Write another flag or method into the headers of a zip of one member."""
    data = bytearray(path.read_bytes())
    for header, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        at = data.index(header) + offset
        if flag is not None:
            struct.pack_into("<H", data, at, flag)
        if method is not None:
            struct.pack_into("<H", data, at + 2, method)
    path.write_bytes(bytes(data))


def test_what_cannot_be_read_is_listed_with_its_cause(tmp_path: Path) -> None:
    good = text_json(paragraph("좋은 문장."))
    write_zip(
        tmp_path / "a_members.zip",
        {"0_TEXT.json": b"", "1_TEXT.json": good[:-9], "2_TEXT.json": good, "3.zip": b"PK\x03\x04"},
    )
    flagged(write_zip(tmp_path / "b_encrypted.zip", {"1_TEXT.json": good}), flag=1)
    flagged(write_zip(tmp_path / "c_deflate64.zip", {"1_TEXT.json": good}), method=9)
    (tmp_path / "d_page.zip").write_bytes(b"\n<!DOCTYPE html><html><body>502 Bad Gateway</body></html>")
    whole = write_zip(tmp_path / "e_cut.zip", {f"{n}_TEXT.json": good for n in range(9)})
    whole.write_bytes(whole.read_bytes()[:500])
    (tmp_path / "f_empty.zip").write_bytes(b"")
    write_zip(tmp_path / "g_bare.zip", {})
    documents, reader = read(tmp_path)
    assert documents == [("aihub653/a_members:2_TEXT.json#0", "좋은 문장.")]
    names = [entry["archive"].partition("/")[2] for entry in reader.unreadable]
    assert names == [
        *["a_members.zip"] * 3,
        *(f"{name}.zip" for name in ("b_encrypted", "c_deflate64", "d_page", "e_cut", "f_empty", "g_bare")),
    ]
    found = [cause for _, cause in causes(reader)]
    wanted = [
        "empty",
        "invalid JSON",
        "zip inside a zip",
        "encrypted",
        "deflate64",
        "HTML page",
        "truncated",
        "empty",
        "without members",
    ]
    assert all(part in cause for part, cause in zip(wanted, found, strict=True)), found


def test_a_damaged_member_gives_what_came_before(tmp_path: Path) -> None:
    rows = "".join(f"653.{n}.0\t문장 {n * n * 7919} 번.\t810\t2001\t1950\t작가\n" for n in range(20_000)).encode()
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("1_DATA.tsv", rows)  # stored, so that a wrong byte shows in the checksum alone
    path.write_bytes(path.read_bytes().replace("문장 0 번".encode(), "문장 1 번".encode()))
    documents, reader = read(tmp_path)
    assert 1000 < len(documents) < 20_000
    assert "damaged or cut off" in reader.unreadable[0]["cause"]


def test_a_bomb_is_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(zips, "SMALL", 1 << 20)
    write_zip(
        tmp_path / "a.zip",
        {"1_TEXT.json": b'{"paragraphs": ["' + b" " * (8 << 20), "2_TEXT.json": text_json(paragraph("문장."))},
    )
    documents, reader = read(tmp_path)
    assert [text for _, text in documents] == ["문장."]
    assert "zip bomb" in reader.unreadable[0]["cause"]


def test_too_much_that_is_unreadable_stops(tmp_path: Path) -> None:
    good = {f"{n}_TEXT.json": text_json(paragraph("문장.")) for n in range(10)}
    bad = {f"{n}_TEXT_bad.json": b"{" for n in range(8)}
    write_zip(tmp_path / "a" / "a.zip", good | bad)
    assert len(read(tmp_path / "a")[1].unreadable) == 8
    write_zip(tmp_path / "b" / "b.zip", good | bad | {"9_TEXT_bad.json": b"{", "e_TEXT.json": b""})
    with pytest.raises(
        Mistake, match=r"9 of 20 members are unreadable, and --max_unreadable allows 8; .*9_TEXT_bad.json: invalid JSON"
    ):
        read(tmp_path / "b")
    assert len(read(tmp_path / "b", max_unreadable=0.5)[1].unreadable) == 10


def test_broken_lines_past_a_limit_stop(tmp_path: Path) -> None:
    rows = ["653.1.0\t문장.\t810\t2001\t1950\t작가"] + ["조각"] * 9
    write_zip(tmp_path / "a.zip", {"1_DATA.tsv": "\n".join(rows).encode()})
    with pytest.raises(
        Mistake, match=r"9 of 9 documents are broken, the last in .*a.zip:1_DATA.tsv, line 10: broken line"
    ):
        read(tmp_path)


def test_archives_of_one_name_keep_their_ids_apart(tmp_path: Path) -> None:
    for folder in ("x", "y"):
        write_zip(tmp_path / folder / "a.zip", {"1_TEXT.json": text_json(paragraph("문장."))})
    ids = [name for name, _ in read(tmp_path)[0]]
    assert ids == [f"aihub653/{tmp_path.name}/{folder}/a.zip:1_TEXT.json#0" for folder in ("x", "y")]


def test_other_encodings_of_json(tmp_path: Path) -> None:
    content = text_json(paragraph("문장 하나.")).decode()
    encodings = ("utf-8-sig", "utf-16", "cp949")
    write_zip(tmp_path / "a.zip", {f"{name}_TEXT.json": content.encode(name) for name in encodings})
    assert [text for _, text in read(tmp_path)[0]] == ["문장 하나."] * 3


def test_half_a_surrogate_pair_can_be_written(tmp_path: Path) -> None:
    pair = b'{"paragraphs": [{"sentences": [{"text": "\\ud83d\\ude00 \\ud83d"}]}]}'
    write_zip(tmp_path / "a.zip", {"1_TEXT.json": pair})
    assert [text for _, text in read(tmp_path)[0]] == ["😀 \ufffd"]
