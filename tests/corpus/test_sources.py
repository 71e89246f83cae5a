"""What the user points at: sources with their settings, files with their labels, units that can be read apart."""

import json
import os
import unicodedata
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from reading import books, causes, ids, read, texts, write_zip

from corpus import aihub, reader, zips
from corpus.reader import Reader, Unit
from corpus.sources import DEFAULTS, File, files_of, fingerprints, sources_of
from narae.log import Mistake


def files(*entries: Any, **defaults: Any) -> list[File]:
    return files_of(sources_of(entries, defaults))


def write(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(name, encoding="utf-8")


def test_a_source_says_how_it_is_read(tmp_path: Path) -> None:
    entry = {"path": str(tmp_path), "name": "news", "licence": "CC BY 4.0", "weight": 2, "quality": "news"}
    defaults = {"licence": "", "schema": "", "text_field": "body", "document": "line", "max_documents": 3}
    assert tuple(sorted(defaults)) == tuple(sorted(DEFAULTS))
    first, second = sources_of([entry, str(tmp_path / "b.txt.gz")], defaults)
    assert asdict(first) == {**defaults, **entry, "path": [str(tmp_path)]}
    assert (second.name, second.licence, second.weight, second.text_field) == ("b", "", 1.0, "body")
    assert first.described() == asdict(first) | {"path": []}
    assert sources_of(["hub:o/n:c@s"], {})[0].described()["path"] == ["hub:o/n:c@s"]


@pytest.mark.parametrize(
    ("place", "name"),
    [
        ("029.대규모 말뭉치", "029.대규모 말뭉치"),
        ("029.대규모 말뭉치/*.txt", "029.대규모 말뭉치"),
        ("029.대규모 말뭉치/a.jsonl.zst", "a"),
        ("029.대규모 말뭉치/**/*.zip", "029.대규모 말뭉치"),
        ("hub:owner/set_name:config@test", "set_name"),
        ("book s=029.대규모 말뭉치", "book s"),
        ("a=b.txt", "a=b"),
        ("not there.txt", "not there"),
    ],
)
def test_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str, name: str) -> None:
    write(tmp_path, "029.대규모 말뭉치/a.jsonl.zst", "029.대규모 말뭉치/b.txt", "a=b.txt")
    monkeypatch.chdir(tmp_path)
    assert sources_of([place], {})[0].name == name
    assert sources_of([{"path": unicodedata.normalize("NFD", place)}], {})[0].name.isprintable()


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        ({"path": "x", "licens": "y"}, r"unknown key licens: did you mean licence\?"),
        ({"name": "y"}, "`path` is to be a path or a list"),
        ({"path": [1]}, "`path` is to be a path or a list"),
        ({"path": []}, "`path` is to be a path or a list"),
        (7, "a source is a path, or in yaml a mapping"),
        ({"path": "x", "weight": "much"}, "source x: weight is to be a number, and 'much' is not"),
        ({"path": "x", "weight": 0}, "a weight is above 0"),
        ({"path": "x", "weight": float("nan")}, "a weight is above 0"),
        ({"path": "x", "max_documents": 1.5}, "max_documents is to be a whole number"),
        ({"path": "x", "max_documents": -1}, "0 documents means all"),
        ({"path": "x", "licence": None}, "licence is to be text"),
        ({"path": "x", "document": "page"}, "document 'page' is none of line, blank, file"),
        ({"path": "x", "schema": "aihub653"}, "schema 'aihub653' is none of text, jsonl,.*, aihub653-json"),
        ({"path": "x", "name": "a/b"}, "has no / in it"),
    ],
)
def test_what_a_source_cannot_be(entry: Any, said: str) -> None:
    with pytest.raises(Mistake, match=said):
        sources_of([entry], {})


def test_two_sources_of_one_name() -> None:
    with pytest.raises(Mistake, match=r"/x/a.txt and /y/a.txt are both called a: .*other=/y/a.txt"):
        sources_of(["/x/a.txt", "/y/a.txt"], {})
    assert [source.name for source in sources_of(["/x/a.txt", "b=/y/a.txt"], {})] == ["a", "b"]


def test_ids(tmp_path: Path) -> None:
    folder = tmp_path / "novels"
    (folder / "sub").mkdir(parents=True)
    (folder / "sub" / "a.txt").write_text("하나\n\n둘", encoding="utf-8")
    write_zip(folder / "b.zip", {"c.txt": "셋"})
    write_zip(folder / "sub" / "b.zip", {"c.txt": "넷"})
    (folder / "d_TEXT_1.json").write_bytes(books("책."))
    write_zip(folder / "TL_1.zip", {"e_TEXT_1.json": books("책.")})
    wanted = ["b:c.txt#0", "sub/a.txt#0", "sub/a.txt#1", "sub/b:c.txt#0"]
    books_wanted = ["aihub653/TL_1:e_TEXT_1.json#0", "aihub653/{}/d_TEXT_1.json#0"]
    for entry, name in ((str(folder), "novels"), ({"path": str(folder), "name": "소설"}, "소설")):
        found = ids(entry)
        assert [id for id in found if not id.startswith("aihub")] == [f"{name}/{each}" for each in wanted]
        assert [id for id in found if id.startswith("aihub")] == [each.format(name) for each in books_wanted]
    assert ids(folder / "sub" / "a.txt") == ["a/a.txt#0", "a/a.txt#1"]
    assert ids(f"{tmp_path}/*/sub") == [
        f"{tmp_path.name}/novels/sub/{each}" for each in ("a.txt#0", "a.txt#1", "b:c.txt#0")
    ]
    several = {"path": [str(folder / "sub"), str(folder / "d_TEXT_1.json")], "name": "x", "schema": "text"}
    assert ids(several)[-2:] == ["x/sub/a.txt#1", "x/sub/b:c.txt#0"]


def test_archives_of_one_name_keep_their_ids_apart(tmp_path: Path) -> None:
    for folder in ("x", "y"):
        write_zip(tmp_path / folder / "a.zip", {"1_TEXT.json": books("문장.")})
    write_zip(tmp_path / "z" / "a.zip", {"1.txt": "글"})
    write_zip(tmp_path / "z" / "a", {"1.txt": "글"})
    assert ids(tmp_path / "z") == ["z/a:1.txt#0", "z/a.zip:1.txt#0"]
    (tmp_path / "z").rename(tmp_path / ".z")
    assert ids(tmp_path) == [f"aihub653/{tmp_path.name}/{folder}/a.zip:1_TEXT.json#0" for folder in ("x", "y")]
    assert ids(tmp_path / "x", tmp_path / "y") == [f"aihub653/{folder}/a.zip:1_TEXT.json#0" for folder in ("x", "y")]


def test_patterns_and_what_is_not_there(tmp_path: Path) -> None:
    write(tmp_path, "a1.txt", "a2.txt", "b.txt", ".hidden.txt", "__MACOSX/c.txt", "Thumbs.db", ".git/d.txt")
    assert texts(f"{tmp_path}/a*.txt") == ["a1.txt", "a2.txt"]
    assert texts(tmp_path) == ["a1.txt", "a2.txt", "b.txt"]
    for missing in ("c*.txt", "c.txt", "c/*.txt"):
        with pytest.raises(Mistake, match=r"--sources .*/c.*txt: no such file or folder"):
            files(f"{tmp_path}/{missing}")
    with pytest.raises(Mistake, match=r"--sources .*\.git/x: there is no file in it"):
        (tmp_path / ".git" / "x").mkdir()
        files(str(tmp_path / ".git" / "x"))


def test_names_on_disk_are_in_any_encoding(tmp_path: Path) -> None:
    (tmp_path / unicodedata.normalize("NFD", "맥.txt")).write_text("하나", encoding="utf-8")
    (tmp_path / os.fsdecode("윈도.txt".encode("cp949"))).write_text("둘", encoding="utf-8")
    assert ids({"path": str(tmp_path), "name": "s"}) == ["s/맥.txt#0", "s/윈도.txt#0"]
    (tmp_path / unicodedata.normalize("NFC", "맥.txt")).write_text("셋", encoding="utf-8")
    with pytest.raises(Mistake, match=r"would both be called .*맥.txt; rename one"):
        files(str(tmp_path))


def test_links_pipes_and_other_things_in_folders(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    write(folder, "a.txt", "sub/b.txt")
    (folder / "sub" / "round").symlink_to(folder)
    (folder / "again").symlink_to(folder / "sub")
    (folder / "c.txt").symlink_to(tmp_path / "elsewhere.txt")
    (folder / "lost.txt").symlink_to(tmp_path / "nothing")
    (folder / "itself").symlink_to(folder / "itself")
    write(tmp_path, "elsewhere.txt")
    os.mkfifo(folder / "pipe")
    found, opened = read(folder)
    # A folder that has two names is read under the first of them.
    assert [name for name, _ in found] == ["in/a.txt#0", "in/again/b.txt#0", "in/c.txt#0"]
    assert causes(opened) == [
        ("in/itself", "a link to nothing"),
        ("in/lost.txt", "a link to nothing"),
        ("in/pipe", "a pipe, not a file"),
    ]
    assert fingerprints(opened.files)["in/pipe"] == [0, "a pipe, not a file"]
    with pytest.raises(Mistake, match="pipe: a pipe, not a file"):
        files(str(folder / "pipe"))
    with pytest.raises(Mistake, match="null: a device, not a file"):
        files("/dev/null")


def refuse(path: Path, *others: Any, **options: Any) -> Any:
    raise PermissionError(13, "Permission denied", str(path))


def test_no_permission(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, "a.txt", "sub/b.txt", "sub/c.txt")
    real = Path.iterdir
    # Root may read everything, so the refusal is made here.
    monkeypatch.setattr(Path, "iterdir", lambda path: refuse(path) if path.name == "sub" else real(path))
    found, opened = read({"path": str(tmp_path), "name": "s"})
    assert [name for name, _ in found] == ["s/a.txt#0"]
    assert causes(opened) == [("s/sub", "no permission to read it: chmod or chown it, or leave it out")]
    with pytest.raises(Mistake, match="sub: no permission to read it: chmod"):
        files(str(tmp_path / "sub"))
    monkeypatch.undo()
    monkeypatch.setattr(zips.os, "open", refuse)
    _, opened = read({"path": str(tmp_path), "name": "s"})
    assert [name for name, _ in causes(opened)] == ["s/a.txt", "s/sub/b.txt", "s/sub/c.txt"]


def test_what_vanishes_after_it_was_listed(tmp_path: Path) -> None:
    write(tmp_path, "a.txt", "b/c.txt")
    write_zip(tmp_path / "b" / "d.zip", {"1.txt": "글"})
    listed = files({"path": str(tmp_path), "name": "s"})
    (tmp_path / "b").rename(tmp_path / "moved")
    gone = "it is gone: something removed it after the sources were listed"
    assert fingerprints(listed)["s/b/c.txt"] == [0, gone]
    with Reader(listed) as opened:
        assert [raw.text for unit in reader.units(listed) for _, _, raw in opened.read(unit)] == ["a.txt"]
    assert causes(opened) == [("s/b/c.txt", gone), ("s/b/d.zip", gone)]


def test_fingerprints_tell_other_input(tmp_path: Path) -> None:
    write(tmp_path, "in/a.txt", "in/b.zip.part0", "in/b.zip.part1")
    before = fingerprints(files(str(tmp_path / "in")))
    assert list(before) == ["in/a.txt", "in/b.zip:b.zip.part0", "in/b.zip:b.zip.part1"]
    assert before["in/a.txt"][0] == 8
    write(tmp_path / "other", "in/a.txt", "in/b.zip.part0", "in/b.zip.part1")
    (tmp_path / "other" / "in" / "a.txt").write_text("in/b.txt")
    after = fingerprints(files(str(tmp_path / "other" / "in")))
    assert [key for key in before if before[key] != after[key]] == ["in/a.txt"]
    found = []
    for end in ("a", "b", "ba"):
        (tmp_path / "long.txt").write_text("a" * 200_000 + end)
        found += fingerprints(files(str(tmp_path / "long.txt"))).values()
    assert [size for size, _ in found] == [200_001, 200_001, 200_002]
    assert found[0] != found[1]


def test_validation_archives(tmp_path: Path) -> None:
    names = [
        "1.Training/a.txt",
        "2.Validation/b.txt",
        "Validation/c.txt",
        "cross_validation/d.txt",
        "VL_1.zip",
        "e.txt",
    ]
    write(tmp_path / "in", *names)
    assert [file.label[3:] for file in files(str(tmp_path / "in")) if file.validation] == [
        "2.Validation/b.txt",
        "VL_1.zip",
        "Validation/c.txt",
    ]
    assert [file.validation for file in files(str(tmp_path / "in" / "2.Validation" / "b.txt"))] == [True]
    assert [file.validation for file in files(str(tmp_path / "in" / "Validation"))] == [True]


def test_licences(tmp_path: Path) -> None:
    write_zip(tmp_path / "a.zip", {"1_TEXT.json": books("책."), "2.txt": "글"})
    for own, wanted in (("", [aihub.SCHEMAS["aihub653-json"].licence, ""]), ("CC0", ["CC0", "CC0"])):
        listed = files({"path": str(tmp_path), "licence": own})
        with Reader(listed) as opened:
            assert [opened.licence for unit in reader.units(listed) for _ in opened.read(unit)] == wanted


def test_a_schema_is_forced(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_bytes(books("책."))
    (tmp_path / "b.txt").write_text('{"text": "글"}', encoding="utf-8")
    source = {"path": str(tmp_path), "name": "s"}
    assert texts(source) == ["책.", "글"]
    assert texts({**source, "schema": "text"})[1] == '{"text": "글"}'
    found, opened = read({**source, "schema": "aihub653-json"})
    assert [raw.text for _, raw in found] == ["책."]
    assert "not aihub653-json" in causes(opened)[0][1]
    found, opened = read({**source, "schema": "parquet"})
    assert [cause for _, cause in causes(opened)] == [
        "not parquet: leave `schema` out, and it is told by its content"
    ] * 2


@pytest.mark.parametrize(
    ("name", "content", "wanted"),
    [
        ("a.txt", '{"text": "글"}\n', ["글"]),
        ("a.txt", '{"text"} 는 글이다.', ['{"text"} 는 글이다.']),
        ("a.json", '{"text": "글"}\n{"text": "둘"}\n', ["글", "둘"]),
        ("a.txt", "가\t나\t다\n라\t마\t바\n", ["가\t나\t다\n라\t마\t바"]),
        ("a.jsonl", '{"id": "' + "a" * (1 << 16) + '", "text": "글"}', ["글"]),
        ("a.json", '{"text": "' + "글" * (1 << 16) + '"}', ["글" * (1 << 16)]),
    ],
)
def test_told_by_its_content(tmp_path: Path, name: str, content: str, wanted: list[str]) -> None:
    (tmp_path / name).write_text(content, encoding="utf-8")
    assert texts(tmp_path) == wanted


def test_units(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"word\n" * 50)
    (tmp_path / "b.csv").write_bytes(b"text\n" * 50)
    (tmp_path / "c.txt").write_bytes("넓은 글\n".encode("utf-16") * 20)
    write_zip(tmp_path / "d.zip", {"1.txt": "x" * 300, "folder/": "", ".hidden": "x", "2.txt": "글"})
    (tmp_path / "e.zip").write_bytes(b"PK")
    listed = files(str(tmp_path), document="line")
    found = reader.units(listed, 100)
    assert found == [
        Unit(0, -1, 0, 100, 0, 100),
        Unit(0, -1, 100, 200, 1, 100),
        Unit(0, -1, 200, 250, 2, 50),
        Unit(1, bytes=250),
        Unit(2, bytes=listed[2].bytes),
        Unit(3, member=0, bytes=300),
        Unit(3, member=3, bytes=3),
        Unit(4, bytes=2),
    ]
    assert [Unit(**json.loads(json.dumps(asdict(unit)))) for unit in found] == found
    assert reader.members(found) == 6
    assert reader.units(files(str(tmp_path), document="file"), 100)[0] == Unit(0, bytes=250)
    with Reader(listed) as opened:
        assert [number for _, number, _ in opened.read(found[1])] == [f"1.{n}" for n in range(20)]
        assert opened.formats == {"text": {"members": 0, "documents": 20, "short": 20}}


def test_broken_lines_past_a_limit_stop(tmp_path: Path) -> None:
    rows = ["653.1.0\t문장.\t810\t2001\t1950\t작가"] + ["조각"] * 9
    write_zip(tmp_path / "a.zip", {"1_DATA.tsv": "\n".join(rows)})
    with pytest.raises(
        Mistake, match=r"9 of 9 documents are broken, the last in .*/a.zip:1_DATA.tsv, line 10: broken line"
    ):
        read(tmp_path)
    (tmp_path / "a.zip").unlink()
    lines = '{"text": "글"}\n' * 60 + '{"text": "글"\n' * 9
    (tmp_path / "b.jsonl").write_text(lines, encoding="utf-8")
    with pytest.raises(Mistake, match=r"9 of 69 documents .*/b.jsonl, line 69: no JSON; a larger --max_unreadable"):
        read(tmp_path)
    with pytest.raises(Mistake, match=r"/b.jsonl, line \d from byte 1,000 on: no JSON; "):
        read(tmp_path, size=1000)
    (tmp_path / "b.jsonl").write_text('{"text": "글"}\n' * 900 + '{"text": "글"\n' * 9, encoding="utf-8")
    assert len(read(tmp_path)[0]) == 909
