"""What is wrong with downloads, each kind once through the whole command: one clear line, and all else is processed."""

import json
import os
import re
import shutil
import stat
import struct
import subprocess
import sys
import warnings
import zipfile
import zlib
from pathlib import Path
from random import Random
from typing import Any

import pyarrow
import pytest
import zstandard
from miniatures import Unflagged, table, tale
from pyarrow import parquet
from reading import books, write_zip

from corpus import collect, stages
from corpus.bigjson import LARGEST
from corpus.plain import LONGEST
from narae.artifact import Artifact, find, open_artifact
from narae.documents import read_documents, shards
from narae.log import Mistake
from tests.helpers import HOME, call

pytestmark = pytest.mark.usefixtures("artifacts")
DRAW = Random(0)
A, B, C, D, E, F, G, H = TALES = [tale(DRAW) for _ in range(8)]
AGAIN = "download it again"
GONE = "it is gone: something removed it after the sources were listed"


WORDS = ("--quality", "sample", "--workers", "1", "--max_unreadable", "1")


def collected(folder: Path, name: str = "sample") -> Artifact:
    call(collect.main, "--sources", f"s={folder}", "--name", name, *WORDS)
    return open_artifact("corpus", name, verify=True)


def texts(corpus: Artifact) -> dict[str, str]:
    paths = [path for split in ("train", "val") for path in shards(corpus.path, split)]
    return {document.id: document.text for document in read_documents(paths)}


def rejected(corpus: Artifact) -> dict[str, str]:
    paths = [corpus.path / "rejected.jsonl.zst"]
    return {document.id: document.meta["rejected"] for document in read_documents(paths)}


def unreadable(corpus: Artifact) -> dict[str, str]:
    entries = corpus.counts["unreadable"]
    found = {f"{entry['archive']}:{entry['member']}".rstrip(":"): entry["cause"] for entry in entries}
    assert len(found) == len(entries)
    return found


def inside(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def raw_zip(path: Path, *members: tuple[str, int, int, bytes, int]) -> Path:
    """(name, method, CRC-32, size, packed bytes, how often they stand there; none: a hole of that size)"""
    directory = b""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        for name, method, crc, size, packed, times in members:
            label, at, long = name.encode(), file.tell(), len(packed) * times if packed else size
            about = struct.pack("<HHHHIIIH", 0x800, method, 0, 33, crc, long, size, len(label))
            file.write(b"PK\3\4\x14\0" + about + b"\0\0" + label)
            for _ in range(times):
                file.write(packed)
            file.seek(at + 30 + len(label) + long)
            directory += b"PK\1\2\x14\0\x14\0" + about + struct.pack("<HHHHII", 0, 0, 0, 0, 0, at) + label
        at = file.tell()
        file.write(directory)
        file.write(b"PK\5\6" + struct.pack("<HHHHIIH", 0, 0, len(members), len(members), len(directory), at, 0))
    return path


def flagged(path: Path, flags: int, method: int = 0) -> None:
    """Write other flags and another method into the headers of a zip of one member."""
    data = bytearray(path.read_bytes())
    for header, offset in ((b"PK\3\4", 6), (b"PK\1\2", 8)):
        struct.pack_into("<HH", data, data.index(header) + offset, flags, method)
    path.write_bytes(bytes(data))


@pytest.fixture
def broken(tmp_path: Path) -> tuple[Path, dict[str, str]]:
    """A folder with one sound archive among others, and why those cannot be read."""
    folder = tmp_path / "in"
    page = b"<!DOCTYPE html><html><body>502 Bad Gateway</body></html>"
    sound = write_zip(folder / "TL_1.zip", {"1_TEXT.json": books(A, B)}).read_bytes()
    (folder / "cut.zip").write_bytes(sound[:-40])
    (folder / "empty.zip").write_bytes(b"")
    (folder / "html.zip").write_bytes(page)
    (folder / "other.zip").write_bytes(b"RIFF" + bytes(99))
    (folder / "part.zip.part1").write_bytes(sound[30:])
    flagged(write_zip(folder / "locked.zip", {"1.txt": C}), 0x801)
    flagged(write_zip(folder / "old.zip", {"1.txt": C}), 0x800, 9)
    write_zip(folder / "nothing.zip", {})
    link = zipfile.ZipInfo("link.txt")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(folder / "mixed.zip", "w") as archive:
        for name, data in (("inner.zip", sound), ("page.txt", page), (link, "/etc/passwd"), ("last.txt", D)):
            archive.writestr(name, data)
    return folder, {
        "s/cut.zip": f"a truncated or damaged zip (File is not a zip file): {AGAIN}",
        "s/empty.zip": "empty",
        "s/html.zip": "an HTML page, not a zip: the download failed, repeat it",
        "s/locked.zip:1.txt": "encrypted: unpack it with its password",
        "s/mixed.zip:inner.zip": "a zip inside a zip: unpack the outer one",
        "s/mixed.zip:page.txt": "an HTML page: the download failed, or it was never a corpus",
        "s/mixed.zip:link.txt": "a link, not a file",
        "s/nothing.zip": "an archive without members",
        "s/old.zip:1.txt": "compressed with deflate64 (method 9): unpack it with 7z",
        "s/other.zip": f"not a zip: {AGAIN}",
        "s/part.zip": "part.zip.part1 follows 0 bytes in 0 parts: a part is missing, download again",
    }


def test_archives_that_cannot_be_read(broken: tuple[Path, dict[str, str]]) -> None:
    folder, causes = broken
    corpus = collected(folder)
    assert unreadable(corpus) == causes
    assert texts(corpus) == {
        "aihub653/TL_1:1_TEXT.json#0": A,
        "aihub653/TL_1:1_TEXT.json#1": B,
        "s/mixed:last.txt#0": D,
    }
    assert corpus.counts["read"]["documents"] == 3


def test_too_much_that_cannot_be_read_stops(broken: tuple[Path, dict[str, str]]) -> None:
    folder, causes = broken
    assert len(causes) == 11  # of which the empty one loses nothing
    with pytest.raises(Mistake) as mistake:
        call(collect.main, "--sources", f"s={folder}", "--quality", "sample", "--workers", "1")
    assert mistake.value.message == (
        "10 archives or members are unreadable, and --max_unreadable allows 8; the last is s/part.zip: "
        "part.zip.part1 follows 0 bytes in 0 parts: a part is missing, download again"
    )
    assert find("corpus", "sample") is None
    assert len(unreadable(collected(folder))) == 11


MEGABYTE = 1 << 20


def deflated(block: bytes) -> bytes:
    """Bytes that can stand behind one another in a stream, which b"\\3\\0" ends."""
    packer = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    return packer.compress(block) + packer.flush(zlib.Z_FULL_FLUSH)


def test_bombs(tmp_path: Path) -> None:
    folder, spaces = tmp_path / "in", deflated(b" " * MEGABYTE)
    crc = zlib.crc32(b" " * (80 * MEGABYTE))
    small = zlib.crc32(b" " * (60 * MEGABYTE))
    last = ("last.txt", 0, zlib.crc32(A.encode()), len(A.encode()), A.encode(), 1)
    raw_zip(folder / "ratio.zip", ("1.txt", 8, crc, 80 * MEGABYTE, spaces * 80 + b"\3\0", 1), last)
    # Each of them is small enough, and all together they are not.
    many = [(f"{n}.txt", 8, small, 60 * MEGABYTE, spaces * 60 + b"\3\0", 1) for n in range(18)]
    raw_zip(folder / "size.zip", *many, ("last.txt", 0, zlib.crc32(B.encode()), len(B.encode()), B.encode(), 1))
    entry = b"PK\1\2" + bytes(24) + struct.pack("<H", 1) + bytes(16) + b"a"
    end = struct.pack("<HHHHIIH", 0, 0, 0xFFFF, 0xFFFF, len(entry) * 1_000_001, 0, 0)
    (folder / "count.zip").write_bytes(entry * 1_000_001 + b"PK\5\6" + end)
    with (folder / "list.zip").open("wb") as file:
        file.seek(300 * MEGABYTE)  # a hole
        file.write(b"PK\5\6" + struct.pack("<HHHHIIH", 0, 0, 1, 1, 300 * MEGABYTE, 0, 0))
    gzip_end = b"\3\0" + struct.pack("<II", crc, 80 * MEGABYTE)
    (folder / "a.txt.gz").write_bytes(b"\x1f\x8b\x08" + bytes(7) + spaces * 80 + gzip_end)
    packed = zstandard.ZstdCompressor().compress(b" " * (80 * MEGABYTE))
    (folder / "b.jsonl.zst").write_bytes(packed)
    # Another archive's members lie in the same place: gigabytes of a few bytes, without one bomb.
    again = write_zip(folder / "twice.zip", {"1.txt": C, "2.txt": C})
    data = bytearray(again.read_bytes())
    second = data.rindex(b"PK\1\2")
    struct.pack_into("<I", data, second + 42, 0)
    again.write_bytes(bytes(data))
    corpus = collected(folder)
    bomb = "a zip bomb: it grows more than 200-fold, past {} MiB".format
    assert unreadable(corpus) == {
        "s/a.txt.gz": bomb(64),
        "s/b.jsonl.zst": bomb(64),
        "s/count.zip": "a zip bomb: more than 1,000,000 members",
        "s/list.zip": "a zip bomb: a list of members of 300 MiB",
        "s/ratio.zip:1.txt": bomb(64),
        **{f"s/size.zip:{n}.txt": bomb(200 * len(spaces * 60 + b"..") >> 20) for n in range(18)},
        "s/twice.zip:2.txt": "it shares its bytes with another member: a zip bomb, or a damaged list of members",
    }
    assert texts(corpus) == {"s/ratio:last.txt#0": A, "s/size:last.txt#0": B, "s/twice:1.txt#0": C}


def test_names_lead_nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, outside = tmp_path / "in", tmp_path / "outside"
    for path in (folder, outside):
        path.mkdir()
    monkeypatch.chdir(outside)
    names = [
        "../../outside/1.txt",
        f"{outside}/2.txt",
        "C:\\outside\\3.txt",
        "같은.txt",
        "같은.txt",
        "../같은.txt",
        "책\n.txt",
    ]
    with warnings.catch_warnings(), zipfile.ZipFile(folder / "a.zip", "w") as archive:
        warnings.simplefilter("ignore")
        for name, text in zip(names, TALES, strict=False):
            archive.writestr(name, text)
        archive.writestr(Unflagged("자료/책.txt"), H)  # in cp949
        archive.writestr("긴/" * 9_000 + "이름.txt", tale(Random(1)))
    before = inside(outside), inside(folder)
    corpus = collected(folder)
    assert (inside(outside), inside(folder)) == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["artifacts", "in", "outside"]
    assert texts(corpus) == {
        "s/a:outside/1.txt#0": A,
        f"s/a:{str(outside)[1:]}/2.txt#0": B,
        "s/a:outside/3.txt#0": C,
        "s/a:같은.txt#0": D,
        "s/a:같은.txt~1#0": E,
        "s/a:같은.txt~2#0": F,
        "s/a:책_.txt#0": G,
        "s/a:자료/책.txt#0": H,
        "s/a:" + "긴/" * 500 + "#0": tale(Random(1)),
    }
    assert unreadable(corpus) == {}


ENCODINGS = ["cp949", "euc-kr", "utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-8-sig"]


def test_encodings(tmp_path: Path) -> None:
    draw, wanted, members = Random(1), {}, {}
    (tmp_path / "in").mkdir()
    for encoding in ENCODINGS:
        one, two, three, four = (tale(draw) for _ in range(4))
        (tmp_path / "in" / f"{encoding}.txt").write_bytes(f"{one}\n\n{two}".encode(encoding))
        (tmp_path / "in" / f"{encoding}.csv").write_bytes(f"id,text\r\n1,{three}\r\n".encode(encoding))
        members[f"{encoding}_TEXT.json"] = books(four).decode().encode(encoding)
        wanted |= {f"s/{encoding}.txt#0": one, f"s/{encoding}.txt#1": two, f"s/{encoding}.csv#0": three}
        wanted[f"aihub653/a:{encoding}_TEXT.json#0"] = four
    write_zip(tmp_path / "in" / "a.zip", members)
    (tmp_path / "in" / "nul.txt").write_bytes(A.replace(" ", "\0 ", 1).encode())
    halves = [{"text": f"{B}\ud83d"}, {"text": f"{C}\ud83d\ude00"}, {"text": D, "title": "\udc00"}]
    (tmp_path / "in" / "half.jsonl").write_text("\n".join(map(json.dumps, halves)))
    # What UTF-8 forbids: a few such characters among many cost their own document alone.
    spoilt = "\n\n".join(TALES[4:]).encode() + b"\n\n" + H.encode() + b" \xed\xa0\xbd"
    (tmp_path / "in" / "half.txt").write_bytes(spoilt)
    (tmp_path / "in" / "zeros.txt").write_bytes(bytes(5000))
    (tmp_path / "in" / "noise.txt").write_bytes(Random(2).randbytes(5000))
    corpus = collected(tmp_path / "in")
    wanted |= {"s/nul.txt#0": A, "s/half.jsonl#1": f"{C}😀", "s/half.jsonl#2": D}
    wanted |= {f"s/half.txt#{n}": text for n, text in enumerate(TALES[4:])}
    assert texts(corpus) == wanted
    assert rejected(corpus) == {"s/half.jsonl#0": "undecodable characters", "s/half.txt#4": "undecodable characters"}
    assert unreadable(corpus) == {
        "s/noise.txt": "neither UTF-8, UTF-16 nor cp949 text",
        "s/zeros.txt": "nothing but zero bytes: a download that did not finish, repeat it",
    }


def test_records_that_are_none(tmp_path: Path) -> None:
    members = {
        "1_TEXT.json": books(A, B)[:-20],
        "2_TEXT.json": books(C).replace(b'"text":', b'"text"'),
        "3_TEXT.json": b'{"paragraphs": [' + b"[" * 100_000,
        "4_TEXT.json": json.dumps({"paragraphs": [{"sentences": 5}, {"sentences": [{"text": 7}]}, {"id": 1}, None, 5]}),
        "5_TEXT.json": '{"paragraphs": {"sentences": [[]]}}',
        "6_TEXT.json": books(D).replace(b'"id": "0"', b'"id": ' + b"9" * 5000),
        "7.json": '{"unknown": [1]}',
    }
    write_zip(tmp_path / "in" / "a.zip", members)
    told = [f"{tale(DRAW)} 그리고, 끝이었다." for _ in range(9)]
    rows = [f'{n},"{text}"' for n, text in enumerate(told)]
    rows[3] = f'3,"{E}'
    rows[5] = f'5,"그는 "가자" 하고 말했다. {F}"'
    (tmp_path / "in" / "b.csv").write_text("\n".join(["id,text", *rows]), encoding="utf-8")
    lines = [
        json.dumps({"text": G}),
        "{",
        "[]",
        "5",
        '{"text": 5}',
        '{"text": null}',
        '{"Text": "글"}',
        '{"text": "글"',
    ]
    (tmp_path / "in" / "c.jsonl").write_text("\n".join([*lines, json.dumps({"text": H})]), encoding="utf-8")
    corpus = collected(tmp_path / "in")
    assert unreadable(corpus) == {
        "s/a.zip:1_TEXT.json": f"invalid JSON: cut off after {len(books(A, B)[:-20].decode())} characters",
        "s/a.zip:2_TEXT.json": "invalid JSON at character 62: Expecting ':' delimiter",
        "s/a.zip:3_TEXT.json": "JSON nested too deeply at character 16",
        "s/a.zip:7.json": "JSON of no set that is known here, with the keys unknown: --schema forces one; "
        "jsonl has a record on each line",
    }
    types = {f"aihub653/a:4_TEXT.json#{n}": "wrong types" for n in (0, 1, 3, 4)}
    assert rejected(corpus) == types | {
        "aihub653/a:4_TEXT.json#2": "no sentences",
        "aihub653/a:5_TEXT.json#0": "wrong types",
        "s/b.csv#3": "broken quotes",
        "s/b.csv#5": "broken quotes",
        **{f"s/c.jsonl#{n}": "no text" for n in (2, 3, 4, 5, 6)},
        **{f"s/c.jsonl#{n}": "no JSON" for n in (1, 7)},
    }
    assert texts(corpus) == {
        "aihub653/a:1_TEXT.json#0": A,
        "aihub653/a:6_TEXT.json#0": D,
        **{f"s/b.csv#{n}": told[n] for n in (0, 1, 2, 4, 6, 7, 8)},
        "s/c.jsonl#0": G,
        "s/c.jsonl#8": H,
    }
    assert corpus.counts["read"]["documents"] == len(texts(corpus)) + len(rejected(corpus))


def test_tables_of_arrow(tmp_path: Path) -> None:
    """Unchecked, offsets that lead elsewhere end the process, and a hole ends the table."""
    (tmp_path / "in").mkdir()
    sound = table(TALES, "arrow")  # three rows in each of its batches
    ends = [len("".join(TALES[:number]).encode()) for number in range(4)]
    offsets = struct.pack("<4i", *ends)
    assert sound.count(offsets) == 1
    second = sound.index(b"\xff\xff\xff\xff", sound.index(TALES[2].encode()))
    (tmp_path / "in" / "a.arrow").write_bytes(sound)
    (tmp_path / "in" / "b.arrow").write_bytes(sound.replace(offsets, struct.pack("<4i", 0, 1 << 30, 5, ends[3])))
    (tmp_path / "in" / "c.arrow").write_bytes(sound[:second] + bytes(16) + sound[second + 16 :])
    (tmp_path / "in" / "d.arrow").write_bytes(sound[:second])
    corpus = collected(tmp_path / "in")
    early = "damaged or cut off (its end comes too early): download it again"
    causes = unreadable(corpus)
    assert causes.pop("s/b.arrow").startswith("damaged or cut off (Offset invariant failure")  # in pyarrow's words
    assert causes == {"s/c.arrow": early, "s/d.arrow": early}
    assert texts(corpus) == {f"s/a.arrow#{number}": text for number, text in enumerate(TALES)}
    assert corpus.counts["duplicates"]["exact"]["documents"] == 6  # what lies before the damage


def test_many_documents_without_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They take memory, too: five million of them in a file of 60 MB did take 2.7 GB."""
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.jsonl").write_text('{"text": ""}\n' * 20_000 + json.dumps({"text": A}))
    sizes, sifted = [], stages.sifted

    def measured(rows: list[stages.Row], *given: Any) -> Any:
        sizes.append(len(rows))
        return sifted(rows, *given)

    monkeypatch.setattr(stages, "sifted", measured)
    corpus = collected(tmp_path / "in")
    assert corpus.counts["rejected"] == {"too short": {"documents": 20_000, "bytes": 0}}
    assert (max(sizes), sum(sizes)) == (2_500, 20_001)


def test_what_lies_in_folders_and_is_no_file(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    (folder / "sub").mkdir(parents=True)
    (folder / "a.txt").write_text(A, encoding="utf-8")
    (folder / "sub" / "b.txt").write_text(B, encoding="utf-8")
    (folder / "sub" / "round").symlink_to(folder)
    (folder / "itself.txt").symlink_to(folder / "itself.txt")
    (folder / "lost.txt").symlink_to(tmp_path / "nowhere")
    (folder / "null.txt").symlink_to("/dev/null")
    os.mkfifo(folder / "pipe.jsonl")
    corpus = collected(folder)
    assert unreadable(corpus) == {
        "s/itself.txt": "a link to nothing",
        "s/lost.txt": "a link to nothing",
        "s/null.txt": "a device, not a file",
        "s/pipe.jsonl": "a pipe, not a file",
    }
    assert texts(corpus) == {"s/a.txt#0": A, "s/sub/b.txt#0": B}


def test_a_folder_that_vanishes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "in"
    write_zip(folder / "sub" / "a.zip", {"1.txt": A, "2.txt": B})
    (folder / "sub" / "b.jsonl").write_text(json.dumps({"text": C}))
    (folder / "c.txt").write_text(D, encoding="utf-8")
    (folder / "d.txt").write_text(E, encoding="utf-8")
    prepare = collect.prepare

    def vanish(*given: object) -> object:
        shutil.rmtree(folder / "sub")
        (folder / "d.txt").unlink()
        (folder / "d.txt").mkdir()
        return prepare(*given)

    monkeypatch.setattr(collect, "prepare", vanish)
    corpus = collected(folder)
    assert [(entry["archive"], entry["member"], entry["cause"]) for entry in corpus.counts["unreadable"]] == [
        ("s/d.txt", "", "a folder, not a file"),
        *[("s/sub/a.zip", "", GONE)] * 2,  # one for each member
        ("s/sub/b.jsonl", "", GONE),
    ]
    assert texts(corpus) == {"s/c.txt#0": D}


# Root may do anything, unless these two powers are taken from it: to read and to write what is another's.
MORTAL = """
import ctypes, os, sys
for power in (1, 2):
    ctypes.CDLL(None).prctl(24, power, 0, 0, 0)
os.execv(sys.executable, [sys.executable, *sys.argv[1:]])
"""


LIMITED = """
import os, resource, sys
resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))
os.execv(sys.executable, [sys.executable, *sys.argv[1:]])
"""


def command(before: str, *words: str, check: bool = False) -> subprocess.CompletedProcess[str]:
    line = [sys.executable, "-c", before, str(HOME / "corpus" / "collect.py"), *words]
    return subprocess.run(line, capture_output=True, text=True, check=check)


def one_line(done: subprocess.CompletedProcess[str]) -> str:
    """What a run says that gave up: its last words, behind lines with a time in front."""
    assert done.returncode == 1, done.stderr
    *before, last = done.stderr.splitlines()
    assert all(re.match(r"\d\d:\d\d:\d\d  ", line) for line in before), done.stderr
    assert last.startswith("corpus/collect: ")
    return last.removeprefix("corpus/collect: ")


def test_no_permission(tmp_path: Path, artifacts: Path) -> None:
    folder = tmp_path / "in"
    for name, text in (("a.txt", A), ("closed.txt", B), ("sub/c.txt", C)):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text, encoding="utf-8")
    closed = [folder / "closed.txt", folder / "sub"]
    words = ["--sources", f"s={folder}", *WORDS]
    try:
        for path in closed:
            path.chmod(0)
        command(MORTAL, *words, check=True)
        corpus = open_artifact("corpus", "sample", verify=True)
        (artifacts / "corpus").chmod(0o555)
        refused = command(MORTAL, *words, "--name", "other")
    finally:
        for path in (*closed, artifacts / "corpus"):
            path.chmod(0o755)
    cause = "no permission to read it: chmod or chown it, or leave it out"
    assert unreadable(corpus) == {"s/closed.txt": cause, "s/sub": cause}
    assert texts(corpus) == {"s/a.txt#0": A}
    assert one_line(refused) == (
        f"{artifacts}/corpus/.lock-other: Permission denied; once that is mended, the same command goes on from here "
        f"(removing {artifacts}/corpus/.work-other gives up)"
    )
    assert sorted(path.name for path in (artifacts / "corpus").iterdir()) == [".lock-sample", "sample"]


def sources(folder: Path) -> None:
    draw = Random(3)
    folder.mkdir()
    for name in "abc":
        records = [{"text": " ".join(tale(draw) for _ in range(3))} for _ in range(400)]
        (folder / f"{name}.jsonl").write_text("\n".join(map(json.dumps, records)))


# In a name space of its own, so that the small disk is gone with the process, whatever becomes of it.
SMALL_DISK = """
import contextlib, io, json, os, subprocess, sys
from pathlib import Path
small, sizes, words = Path(sys.argv[1]), json.loads(sys.argv[2]), sys.argv[3:]
sys.argv = ["corpus/collect.py", *words]
os.environ["NARAE_ARTIFACTS"] = str(small)
from corpus import collect
def run():
    with contextlib.redirect_stderr(io.StringIO()) as said:
        try:
            collect.main()
            end = ""
        except SystemExit as mistake:
            end = str(mistake)
    return [end, said.getvalue()]
for size in sizes:
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}k", "tmpfs", small], check=True)
    runs = [run()]
    left = sorted(path.name for path in small.glob("corpus/*"))
    if runs[0][0]:
        subprocess.run(["mount", "-o", "remount,size=64m", small], check=True)
        runs.append(run())
    manifest = json.loads((small / "corpus" / "sample" / "manifest.json").read_text())
    print(json.dumps([runs, left, sorted(path.name for path in small.glob("corpus/*")), manifest["files"]]))
    subprocess.run(["umount", "-l", small], check=True)
"""


def test_a_full_disk(tmp_path: Path) -> None:
    """At any moment: while sources are read, while shards are written, and when all is put together."""
    sources(tmp_path / "in")
    wanted = collected(tmp_path / "in").manifest["files"]
    work = tmp_path / "small" / "corpus" / ".work-sample"
    (tmp_path / "small").mkdir()
    words = ["unshare", "-m", sys.executable, "-c", SMALL_DISK, str(tmp_path / "small")]
    words += [json.dumps(list(range(4, 1200, 130))), "--sources", f"s={tmp_path}/in", *WORDS]
    if os.geteuid() or not shutil.which("unshare") or subprocess.run(["unshare", "-m", "mount"]).returncode:
        pytest.skip("mounting takes root; a limit on the size of files stands for it in the next test")
    done = subprocess.run(words, cwd=HOME, capture_output=True, text=True, check=True)
    full = (
        f"{work}: No space left on device; once that is mended, the same command goes on from here "
        f"(removing {work} gives up)"
    )
    went_on = []
    for runs, left, after, files in map(json.loads, done.stdout.splitlines()):
        assert files == wanted
        assert after == [".lock-sample", "sample"]
        if len(runs) == 2:
            (said, log), (nothing, again) = runs
            assert (said, nothing, left) == (full, "", [".lock-sample", ".work-sample"])
            assert "Traceback" not in log + again
            went_on.append("going on with what an earlier start left" in again)
    assert went_on[0] is False and went_on[-1] is True and 4 <= len(went_on) < 14


def test_files_that_may_not_grow(tmp_path: Path) -> None:
    sources(tmp_path / "in")
    words = ["--sources", f"s={tmp_path}/in", *WORDS]
    wanted = collected(tmp_path / "in", "wanted").manifest["files"]
    work = open_artifact("corpus", "wanted").path.with_name(".work-sample")
    refused = (
        f"{work}: File too large; once that is mended, the same command goes on from here (removing {work} gives up)"
    )
    assert one_line(command(LIMITED, *words)) == refused
    assert one_line(command(LIMITED, *words, "--workers", "2")) == refused
    got = collected(tmp_path / "in").manifest["files"]
    for files in (got, wanted):
        del files["corpus.html"]  # it bears the name
    assert got == wanted


# What a run takes at its peak; VmHWM is this program's alone, unlike ru_maxrss, which a child has from its parent.
MEASURED = """
import atexit, re, runpy, sys
from pathlib import Path
peak = re.compile(r"VmHWM:\\s+(\\d+)")
atexit.register(lambda: print(int(peak.search(Path("/proc/self/status").read_text())[1]) >> 10))
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def long_line(path: Path, front: str, back: str, megabytes: int) -> None:
    """Of a block that is like the one before, but for a part that does not shrink: 60-fold it does, and is no bomb."""
    draw, block = Random(4), "".join(tale(Random(5)) + " " for _ in range(5000)).encode()[: 3 << 18]
    with path.open("wb") as file, zstandard.ZstdCompressor().stream_writer(file) as packer:
        packer.write(front.encode())
        for _ in range(megabytes * 4 // 3):
            packer.write(block.decode("utf-8", "ignore").encode())
            packer.write(draw.randbytes(6000).hex().encode())
        packer.write(back.encode())


def test_what_is_too_large_for_memory(tmp_path: Path) -> None:
    """A line of 500 MB, one of 90 MB that is cleaned and judged, and members of 2 GB, in a process of their own."""
    folder = tmp_path / "in"
    folder.mkdir()
    long_line(folder / "a.jsonl.zst", '{"text": "', '"}\n' + json.dumps({"text": A}), 500)
    hangul = ("가나다라 마바사아자차 " * (LONGEST // 5))[: 2 * LONGEST + 3]
    (folder / "b.txt").write_text(f"{B}\n\n{hangul}\n\n{C}", encoding="utf-8")
    two, spaces = 2 << 30, deflated(b" " * MEGABYTE) * 2048
    last = ("last.txt", 0, zlib.crc32(D.encode()), len(D.encode()), D.encode(), 1)
    raw_zip(folder / "c.zip", ("spaces.txt", 8, 0, two, spaces + b"\3\0", 1), last)
    raw_zip(folder / "d.zip", ("hole.txt", 0, 0, two, b"", 0))
    front = deflated(books(E)[:-2] + b', {"id": "')
    raw_zip(folder / "e.zip", ("1_TEXT.json", 8, 0, two, front + spaces, 1))
    write_zip(folder / "f.zip", {"1_TEXT.json": b'{"paragraphs": [[' + b"{}," * (LARGEST // 3 - 1000) + b"{}]]}"})
    write_zip(folder / "g.zip", {"1_TEXT.json": b'{"paragraphs": [ [' + b"{}," * (LARGEST // 3 + 99_000) + b"{}]]}"})
    parquet.write_table(pyarrow.table({"text": ["가" * 50_000_000]}), folder / "h.parquet", compression="zstd")
    done = command(MEASURED, "--sources", f"s={folder}", *WORDS, check=True)
    corpus = open_artifact("corpus", "sample", verify=True)
    record = f"one record of more than {LARGEST:,} characters, from character {{}} on"
    assert unreadable(corpus) == {
        "s/c.zip:spaces.txt": "a zip bomb: it grows more than 200-fold, past 405 MiB",
        "s/d.zip:hole.txt": "nothing but zero bytes: a download that did not finish, repeat it",
        "s/e.zip:1_TEXT.json": record.format(len(books(E).decode())),
        "s/g.zip:1_TEXT.json": record.format(17),
        "s/h.parquet": "a bomb: it grows more than 200-fold, past 64 MiB",
    }
    none = {f"aihub653/f:1_TEXT.json#{n}": "wrong types" for n in (0, 1)}  # as JSON it takes two documents
    long = {f"s/b.txt#0.{n}": "too long" for n in (1, 2)}
    assert rejected(corpus) == long | {"s/a.jsonl.zst#0": "line too long", "s/b.txt#0.3": "too short"} | none
    assert texts(corpus) == {
        "s/a.jsonl.zst#1": A,
        "s/b.txt#0.0": B,
        "s/b.txt#1.0": C,
        "s/c:last.txt#0": D,
        "aihub653/e:1_TEXT.json#0": E,
    }
    assert int(done.stdout) < 1000  # MiB, of the 1,500 that a worker may take
