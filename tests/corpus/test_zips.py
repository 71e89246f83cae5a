"""The traps of archives, each built here: names, parts, members that cannot be read, bombs, and damage of any kind."""

import gzip
import random
import stat
import struct
import warnings
import zipfile
from collections import Counter
from pathlib import Path

import pytest
from reading import books, causes, ids, read, texts, write_zip

from corpus import reader, zips
from corpus.plain import Raw
from corpus.sources import files_of, sources_of
from narae.log import Mistake


def test_members_are_read_as_they_lie(tmp_path: Path) -> None:
    members = {"360_INFO.json": b'{"id": 1, "statistics": {}, "info": {}}', "360_TEXT_1.json": books("하나.", "둘.")}
    write_zip(tmp_path / "TL_360.zip", members)
    write_zip(tmp_path / "b.zip", {"c.txt": "셋", "d.jsonl.gz": gzip.compress('{"text": "넷"}'.encode())})
    found, opened = read(tmp_path)
    assert [(name, raw.text) for name, raw in found] == [
        ("aihub653/TL_360:360_TEXT_1.json#0", "하나."),
        ("aihub653/TL_360:360_TEXT_1.json#1", "둘."),
        (f"{tmp_path.name}/b:c.txt#0", "셋"),
        (f"{tmp_path.name}/b:d.jsonl.gz#0", "넷"),
    ]
    assert {kind: (met["members"], met["documents"]) for kind, met in opened.formats.items()} == {
        "metadata": (1, 0),
        "aihub653-json": (1, 2),
        "text": (1, 1),
        "jsonl": (1, 1),
    }


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_methods(tmp_path: Path, method: int) -> None:
    write_zip(tmp_path / "a.zip", {"1.txt": "문장."}, method)
    assert texts(tmp_path) == ["문장."]


def test_cp949_and_utf8_names_without_the_flag(tmp_path: Path) -> None:
    class Name(zipfile.ZipInfo):
        encoding = "cp949"

        def _encodeFilenameFlags(self) -> tuple[bytes, int]:  # noqa: N802 - the standard library's name
            return self.filename.encode(self.encoding), 0

    class MacName(Name):
        encoding = "utf-8"

    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr(Name("자료/책_TEXT_1.json"), books("하나."))
        archive.writestr(MacName("자료/책_TEXT_2.json"), books("둘."))
    assert ids(tmp_path) == ["aihub653/a:자료/책_TEXT_1.json#0", "aihub653/a:자료/책_TEXT_2.json#0"]


def test_absolute_and_climbing_names_are_labels_only(tmp_path: Path) -> None:
    names = ["/etc/1.txt", "../../2.txt", "C:\\책\\3.txt", "../..", "a\nb.txt"]
    write_zip(tmp_path / "in" / "a.zip", dict.fromkeys(names, "글"))
    assert ids(tmp_path / "in") == [f"in/a:{name}#0" for name in ("etc/1.txt", "2.txt", "책/3.txt", "_", "a_b.txt")]
    assert [path.name for path in tmp_path.iterdir()] == ["in"]


def test_members_of_one_name_are_both_read(tmp_path: Path) -> None:
    with warnings.catch_warnings(), zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        warnings.simplefilter("ignore")
        for number, name in enumerate(["x.txt", "x.txt", "x.txt~1", "/x.txt"]):
            archive.writestr(name, f"글 {number}")
    found, _ = read({"path": str(tmp_path), "name": "s"})
    assert {name: raw.text for name, raw in found} == {
        "s/a:x.txt#0": "글 0",
        "s/a:x.txt~2#0": "글 1",
        "s/a:x.txt~1#0": "글 2",
        "s/a:x.txt~3#0": "글 3",
    }


def test_part0_that_is_a_whole_zip(tmp_path: Path) -> None:
    write_zip(tmp_path / "a.zip", {"1_TEXT.json": books("문장.")}).rename(tmp_path / "a.zip.part0")
    assert ids(tmp_path) == ["aihub653/a:1_TEXT.json#0"]


@pytest.mark.parametrize("by_offset", [True, False])
def test_parts_are_joined_by_number(tmp_path: Path, by_offset: bool) -> None:
    whole = write_zip(tmp_path / "a.zip", {f"{n}_TEXT.json": books(f"문장 {n}.") for n in range(9)})
    data, size = whole.read_bytes(), 90
    whole.unlink()
    assert len(data) > 10 * size  # so that the order of the names is the wrong one: part10 comes before part2
    for number, start in enumerate(range(0, len(data), size)):
        (tmp_path / f"a.zip.part{start if by_offset else number}").write_bytes(data[start : start + size])
    assert texts(tmp_path) == [f"문장 {n}." for n in range(9)]
    (tmp_path / f"a.zip.part{2 * size if by_offset else 2}").unlink()
    found, opened = read(tmp_path)
    assert found == []
    assert "a part is missing" in opened.unreadable[0]["cause"]


def test_parts_beside_the_whole_are_leftovers(tmp_path: Path) -> None:
    whole = write_zip(tmp_path / "a.zip", {"1.txt": "문장."})
    (tmp_path / "a.zip.part0").write_bytes(whole.read_bytes())
    assert texts(tmp_path) == ["문장."]


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
    good = books("좋은 문장.")
    page = b"\n<!DOCTYPE html><html><body>502 Bad Gateway</body></html>"
    link = zipfile.ZipInfo("5_link.txt")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        for name, content in {"0.json": b"", "1_TEXT.json": good[:-9], "2_TEXT.json": good}.items():
            archive.writestr(name, content)
        archive.writestr("3.zip", b"PK\x03\x04")
        archive.writestr("4.txt", page)
        archive.writestr(link, "/etc/passwd")
        archive.writestr("__MACOSX/._2_TEXT.json", "x")
        archive.writestr("folder/", "")
    flagged(write_zip(tmp_path / "b.zip", {"1.txt": "글"}), flag=1)
    flagged(write_zip(tmp_path / "c.zip", {"1.txt": "글"}), method=9)
    (tmp_path / "d.zip").write_bytes(page)
    whole = write_zip(tmp_path / "e.zip", {f"{n}_TEXT.json": good for n in range(9)})
    whole.write_bytes(whole.read_bytes()[:500])
    (tmp_path / "f.zip").write_bytes(b"")
    write_zip(tmp_path / "g.zip", {})
    (tmp_path / "h.zip").write_bytes(b"RIFF")
    write_zip(tmp_path / "i.zip", {"[Content_Types].xml": "<x/>", "word/document.xml": "<x/>"})
    found, opened = read({"path": str(tmp_path), "name": "s"})
    assert [(name, raw.text) for name, raw in found] == [("aihub653/a:2_TEXT.json#0", "좋은 문장.")]
    wanted = [
        ("0.json", "empty"),
        ("1_TEXT.json", "invalid JSON"),
        ("3.zip", "zip inside a zip"),
        ("4.txt", "HTML page"),
        ("5_link.txt", "a link, not a file"),
        ("1.txt", "encrypted"),
        ("1.txt", "deflate64"),
        ("s/d.zip", "HTML page"),
        ("s/e.zip", "truncated"),
        ("s/f.zip", "empty"),
        ("s/g.zip", "without members"),
        ("s/h.zip", "not a zip"),
        ("s/i.zip", "office document"),
    ]
    got = causes(opened)
    assert [name for name, _ in got] == [name for name, _ in wanted]
    assert all(part in cause for (_, part), (_, cause) in zip(wanted, got, strict=True)), got
    assert opened.unreadable[1] == {
        "archive": "s/a.zip",
        "member": "1_TEXT.json",
        "cause": got[1][1],
        "bytes": len(good) - 9,
    }


def test_a_damaged_member_gives_what_came_before(tmp_path: Path) -> None:
    rows = "".join(f"문장 {n * n * 7919} 번.\n" for n in range(20_000)).encode()
    path = write_zip(tmp_path / "a.zip", {"1.txt": rows, "2.txt": "뒤"}, zipfile.ZIP_STORED)
    # Stored, so that a wrong byte shows in the checksum alone.
    path.write_bytes(path.read_bytes().replace("문장 0 번".encode(), "문장 1 번".encode()))
    found, opened = read(tmp_path, document="line")
    assert 19_000 < len(found) < 20_001
    assert found[-1][1].text == "뒤"
    assert [(name, cause[:18]) for name, cause in causes(opened)] == [("1.txt", "damaged or cut off")]


def test_a_bomb_is_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(zips, "SMALL", 1 << 20)
    write_zip(tmp_path / "a.zip", {"1.txt": b" " * (8 << 20), "2.txt": "문장."})
    (tmp_path / "b.txt.gz").write_bytes(gzip.compress(b" " * (8 << 20)))
    found, opened = read({"path": str(tmp_path), "name": "s"})
    assert [raw.text for _, raw in found] == ["문장."]
    assert [(name, cause[:10]) for name, cause in causes(opened)] == [
        ("1.txt", "a zip bomb"),
        ("s/b.txt.gz", "a zip bomb"),
    ]


def test_many_small_bombs_are_a_bomb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bomb = b" " * (1 << 20)
    write_zip(tmp_path / "a.zip", {"0.txt": "문장.", **{f"{n}.txt": bomb for n in range(1, 4)}})
    assert texts(tmp_path) == ["문장."]
    monkeypatch.setattr(zips, "WHOLE", 2 << 20)
    found, opened = read(tmp_path)
    assert [raw.text for _, raw in found] == ["문장."]
    assert [name for name, cause in causes(opened) if "bomb" in cause] == ["1.txt", "2.txt", "3.txt"]


def test_a_member_is_not_endless(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(zips, "LARGEST", 1000)
    write_zip(tmp_path / "a.zip", {"1.txt": random.Random(0).randbytes(3000).hex()})
    assert "past" in read(tmp_path)[1].unreadable[0]["cause"]


def test_a_flood_of_members_is_stopped_before_it_is_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_zip(tmp_path / "a.zip", {f"{n}.txt": "글" for n in range(200)})
    assert len(texts(tmp_path)) == 200
    monkeypatch.setattr(zips, "MEMBERS", 199)
    assert causes(read(tmp_path)[1])[0][1] == "a zip bomb: more than 199 members"
    monkeypatch.setattr(zips, "DIRECTORY", 1000)
    assert "a list of members of" in causes(read(tmp_path)[1])[0][1]


def test_members_that_share_their_bytes_are_read_once(tmp_path: Path) -> None:
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for number in range(3):
            archive.writestr(f"{number}.txt", "같은 길이의 글")
        for info in archive.infolist()[1:]:
            info.header_offset = 0
            info.filename = info.orig_filename = "0.txt"
    found, opened = read(tmp_path)
    assert [raw.text for _, raw in found] == ["같은 길이의 글"]
    assert [(name, "shares its bytes" in cause) for name, cause in causes(opened)] == [
        ("0.txt~1", True),
        ("0.txt~2", True),
    ]


def test_an_archive_that_changes_after_it_was_listed(tmp_path: Path) -> None:
    path = write_zip(tmp_path / "a.zip", {"1.txt": "하나", "2.txt": "둘"})
    files = files_of(sources_of([str(tmp_path)], {}))
    listed = reader.units(files)
    write_zip(path, {"1.txt": "하나"})
    with reader.Reader(files) as opened:
        assert [raw.text for unit in listed for _, _, raw in opened.read(unit)] == ["하나"]
        assert "changed" in opened.unreadable[0]["cause"]
    path.unlink()
    with reader.Reader(files) as opened:
        assert [raw.text for unit in listed for _, _, raw in opened.read(unit)] == []
        assert [entry["cause"][:10] for entry in opened.unreadable] == ["it is gone"] * 2


SOUND = {
    "1.txt": "\n\n".join(f"첫 멤버의 문단 {n}." for n in range(40)),
    "2_TEXT.json": books(*(f"책의 문단 {n}." for n in range(40))),
    "3.jsonl": "\n".join(f'{{"text": "기록 {n}.", "id": {n}}}' for n in range(40)),
    "4.csv": "id,text\n" + "".join(f'{n},"표의 글 {n}, 그리고"\n' for n in range(40)),
    "5.tsv": "".join(f"653.{n}.0\t문장 {n}.\t810\t2001\t1950\t작가\n" for n in range(40)),
    "6.txt": "마지막",
}


def damaged(data: bytearray, kind: str, at: int, draw: random.Random) -> None:
    if kind == "change":
        for place in range(at, min(at + draw.choice([1, 1, 4]), len(data))):
            data[place] = draw.randrange(256)
    elif kind == "cut":
        del data[at:]
    elif kind == "drop":
        del data[at : at + draw.randrange(1, 50)]
    elif kind == "add":
        data[at:at] = draw.randbytes(draw.randrange(1, 50))
    else:
        other = draw.randrange(len(data) - 20)
        data[at : at + 20], data[other : other + 20] = data[other : other + 20], data[at : at + 20]


def by_member(found: list[tuple[str, Raw]]) -> dict[str, list[str]]:
    members: dict[str, list[str]] = {}
    for name, raw in found:
        members.setdefault(name.partition(":")[2].rpartition("#")[0], []).append(raw.text)
    return members


def test_damage_of_any_kind_costs_no_more_than_it_touches(tmp_path: Path) -> None:
    """500 archives with bytes changed, lost or added: it never falls over, and what was not touched is all there."""
    methods = [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA]
    sound = {method: write_zip(tmp_path / f"{method}" / "a.zip", SOUND, method) for method in methods}
    wanted = by_member(read(tmp_path / "0")[0])
    assert [len(found) for found in wanted.values()] == [40, 40, 40, 40, 40, 1]
    draw = random.Random(0)
    seen = Counter[str]()
    (tmp_path / "in").mkdir()
    for number in range(500):
        method = draw.choice(methods)
        data = bytearray(sound[method].read_bytes())
        kind = draw.choice(["change", "change", "change", "cut", "drop", "add", "swap"])
        at = draw.randrange(len(data) - 20)
        damaged(data, kind, at, draw)
        (tmp_path / "in" / "a.zip").write_bytes(data)
        try:
            found, opened = read(tmp_path / "in")
        except Mistake as error:
            assert "documents are broken" in error.message  # more than 8 of 40
            seen["too much"] += 1
            continue
        assert all("\n" not in cause and len(cause) < 300 for _, cause in causes(opened))
        seen[f"{kind}, {'listed' if opened.unreadable else 'unseen'}"] += 1
        with zipfile.ZipFile(sound[method]) as archive:
            starts = [*(info.header_offset for info in archive.infolist()), archive.start_dir]
        if kind == "change" and at + 4 < starts[-1]:
            got = by_member(found)
            for name, start, end in zip(SOUND, starts, starts[1:], strict=False):
                assert (start < at + 4 and at < end) or got.get(name) == wanted[name], (number, name)
    assert min(seen[f"{kind}, listed"] for kind in ("change", "cut", "drop", "add", "swap")) > 20, seen
    assert sorted(path.name for path in tmp_path.iterdir()) == ["0", "12", "14", "8", "in"]
