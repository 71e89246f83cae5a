"""corpus/download.py against a server on this machine that does what AIHub does, and all that can go wrong."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tarfile
import time
import unicodedata
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from aihub_server import KEY, AIHub, Answer, parts, tarred, tree, zipped
from helpers import HOME, call

from corpus import aihub_fetch, download
from corpus.aihub_api import Remote, parse_files, parse_sets
from narae.log import Mistake, Progress

TOP = "029.대규모 구매도서 기반 한국어 말뭉치 데이터/01.데이터/1.Training/라벨링데이터"
# Random letters do not shrink: about 2.6 kB each, in three parts of 1,000 bytes.
BOOKS = {name: zipped(**{name: "".join(random.Random(name).choices("가나다라마바사아자차", k=4000))}) for name in "ab"}
ONE, TWO = f"{TOP}/TL_a.zip", f"{TOP}/TL_b.zip"
HEAD = 3 * 512  # before the bytes of a member: a name of over 100 bytes takes two blocks of its own in a GNU tar
QUICK = ["--dataset", "653", "--wait", "0", "--retries", "2", "--timeout", "5"]


def listed(path: str, tar: bytes, size: str = "3 KB") -> tuple[str, str, bytes]:
    return path, size, tar


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[AIHub]:
    files = {
        12: listed(ONE, tarred(*parts(ONE, BOOKS["a"], 1000))),
        13: listed(TWO, tarred(*parts(TWO, BOOKS["b"], 1 << 30))),
    }
    for name in ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AIHUB_APIKEY", KEY)
    monkeypatch.chdir(tmp_path)
    with AIHub(files) as hub:
        monkeypatch.setenv("NARAE_AIHUB_URL", hub.url)
        yield hub


def fetch(*words: str) -> None:
    call(download.main, *QUICK, *words)


def refused(*words: str) -> str:
    with pytest.raises(Mistake) as caught:
        fetch(*words)
    return str(caught.value)


def there(folder: Path) -> dict[str, bytes]:
    """Every file below the folder that the command runs in, but for its own record."""
    found = {file.relative_to(folder).as_posix(): file for file in folder.rglob("*") if not file.is_dir()}
    own = {"data/.download/lock", "data/.download/653.json"}
    return {name: file.read_bytes() for name, file in found.items() if name not in own}


BOTH = {f"data/{ONE}": BOOKS["a"], f"data/{TWO}": BOOKS["b"]}


def test_without_arguments_it_says_what_it_needs(
    hub: AIHub, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    call(download.main)
    assert "it is set" in capsys.readouterr().out
    monkeypatch.delenv("AIHUB_APIKEY")
    call(download.main)
    said = capsys.readouterr().out
    assert "AIHUB_APIKEY (not set yet)" in said and "corpus/download.py --search" in said
    assert hub.requests == []
    assert refused() == (
        "AIHUB_APIKEY is not set: get a key at https://www.aihub.or.kr/devsport/apishell/list.do?currMenu=403&topMenu=100"
        ", then export AIHUB_APIKEY=…"
    )
    assert hub.requests == []


def test_a_set_is_found_and_listed_without_a_key(
    hub: AIHub, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("AIHUB_APIKEY")
    hub.sets = {653: "대규모 구매도서 기반 한국어 말뭉치 데이터", 97: "문서요약 텍스트"}
    call(download.main, "--search", unicodedata.normalize("NFD", "도서"))
    assert capsys.readouterr().out.split() == ["653", "6.1", "kB", *hub.sets[653].split()]
    call(download.main, "--dataset", "653", "--list")
    assert capsys.readouterr().out.splitlines() == [
        f"      12      3 KB  {ONE}",
        f"      13      3 KB  {TWO}",
        "2 files, about 6.1 kB",
    ]
    assert there(tmp_path) == {} and all("apikey" not in headers for _, headers in hub.requests)
    with pytest.raises(Mistake, match=r"^--search 날씨: no set of AIHub has this in its name$"):
        call(download.main, "--search", "날씨")


def test_the_tree_is_read_by_how_far_its_lines_stand_in() -> None:
    text = """
=================공지사항===================
    └─134-1.감정이 태깅된 자유대화 (성인)
        └─01-1.정식개방데이터
            ├─Training
            │  ├─01.원천데이터
            │  │  ├─TS_01.실내_1.zip | 47 GB | 507715
            │  │  └─TS_02.실외.zip | 1.5 MB | 507720
            │  └─02.라벨링데이터
            │      └─TL.zip | 313 KB | 507722
            └─README | 10 B | 5
"""
    top = "134-1.감정이 태깅된 자유대화 (성인)/01-1.정식개방데이터"
    assert parse_files(text) == [
        Remote(507715, f"{top}/Training/01.원천데이터/TS_01.실내_1.zip", "47 GB", 47 << 30, 1 << 30),
        Remote(507720, f"{top}/Training/01.원천데이터/TS_02.실외.zip", "1.5 MB", 3 << 19, 1 << 20),
        Remote(507722, f"{top}/Training/02.라벨링데이터/TL.zip", "313 KB", 313 << 10, 1 << 10),
        Remote(5, f"{top}/README", "10 B", 10, 1),
    ]
    assert parse_files(tree([("가/나.zip", "1 KB", 1), ("가/다/라.zip", "2 KB", 2)]))[1].path == "가/다/라.zip"
    assert parse_sets("DataSet 목록\n====\n653, 도서, 책\n 97 ,요약 \n") == {653: "도서, 책", 97: "요약"}


def test_a_set_arrives_byte_for_byte(hub: AIHub, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    fetch()
    assert there(tmp_path) == BOTH
    assert hub.fetched == [(12, ""), (13, "")]
    said = capsys.readouterr().err
    size = sum(map(len, BOOKS.values())) / 1000
    assert said.endswith(
        f"  2 files, {size:.1f} kB, are in data; next: python corpus/collect.py "
        "--sources 'data/029.대규모 구매도서 기반 한국어 말뭉치 데이터'\n"
    )
    assert KEY not in said + (tmp_path / "data/.download/653.json").read_text()

    fetch()  # what is there is not fetched again
    assert len(hub.fetched) == 2 and "2 of 2 files are here already" in capsys.readouterr().err
    (tmp_path / "data" / ONE).write_bytes(b"cut off")
    fetch()
    assert there(tmp_path) == BOTH and hub.fetched[2:] == [(12, "")]


def test_progress_counts_the_bytes(hub: AIHub, monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[float] = []
    monkeypatch.setattr(Progress, "update", lambda bar, done, note="": shown.append(done / bar.total))
    fetch()
    assert shown == sorted(shown) and 0 < shown[0] < 0.5 and shown[-1] == 1


def test_files_are_chosen_by_key_or_name(hub: AIHub, tmp_path: Path) -> None:
    fetch("--files", "13")
    assert hub.fetched == [(13, "")]
    fetch("--match", unicodedata.normalize("NFD", "*라벨링데이터/TL_[a]*"), "--to", "there")
    assert hub.fetched[1:] == [(12, "")] and (tmp_path / "there" / ONE).read_bytes() == BOOKS["a"]
    assert refused("--files", "13", "99") == "--files 99: set 653 has no such file; --list shows them"
    assert refused("--match", "TS_*") == "--match TS_*: none of 2 files, like TL_a.zip, matches"
    with pytest.raises(Mistake, match=r"^--dataset KEY says of which set; --search WORD finds it$"):
        call(download.main, "--match", "TL_*")


@pytest.mark.parametrize("order", ["by number", "as strings", "as strings, counted", "twice"])
def test_parts_are_put_together_by_their_number(hub: AIHub, tmp_path: Path, order: str) -> None:
    """As strings, part10 comes before part2: this is how a tar may hold them, and how they must not be joined.

    Where they come twice, the first ones count.
    """
    pieces = parts(ONE, BOOKS["a"], 200)
    assert len(pieces) > 11
    if "counted" in order:
        pieces = [(f"{ONE}.part{number}", data) for number, (_, data) in enumerate(pieces)]
    if "strings" in order:
        assert pieces != sorted(pieces)
        pieces.sort()
    hub.files = {
        12: listed(
            ONE, tarred(*pieces, *([(name, bytes(len(data))) for name, data in pieces] if order == "twice" else []))
        )
    }
    fetch()
    assert there(tmp_path) == {f"data/{ONE}": BOOKS["a"]}


def test_a_missing_part_is_named_and_the_rest_arrives(
    hub: AIHub, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    first, _, third = parts(ONE, BOOKS["a"], 1000)
    whole, hub.files[12] = hub.files[12], listed(ONE, tarred(first, third))
    reason = "a part is missing: after 1,000 bytes comes the one for byte 2,000"
    assert refused() == (f"1 of 2 files did not arrive: TL_a.zip: {reason}. The same command fetches them again")
    assert f"TL_a.zip: {reason}; fetched once more\n" in capsys.readouterr().err
    assert hub.fetched == [(12, ""), (12, ""), (13, "")]
    assert there(tmp_path) == {f"data/{TWO}": BOOKS["b"]}

    hub.files[12] = whole
    fetch()
    assert there(tmp_path) == BOTH and hub.fetched[3:] == [(12, "")]


@pytest.mark.parametrize("how", ["closed", "reset", "length too long", "length too short", "truncated", "no length"])
@pytest.mark.parametrize("ranges", [True, False])
def test_a_cut_file_goes_on(
    hub: AIHub, capsys: pytest.CaptureFixture[str], tmp_path: Path, how: str, ranges: bool
) -> None:
    """From where it was cut if the server can, else from the start of this file, and only of this one."""
    hub.ranges = ranges
    tar = hub.files[12][2]
    at = HEAD + 700  # in the middle of the first part
    hub.answers[12] = {
        "closed": [Answer(stop=at)],
        "reset": [Answer(stop=at, reset=True, hold=0.5)],
        "length too long": [Answer(stop=at, length=10**6)],
        "length too short": [Answer(length=at - len(tar))],
        "truncated": [Answer(body=tar[:at])],
        "no length": [Answer(body=tar[:at], length=None)],
    }[how]
    fetch()
    assert there(tmp_path) == BOTH
    assert hub.fetched == [(12, ""), (12, f"bytes={at}-"), (13, "")]
    said = capsys.readouterr().err
    assert said.count("; again in 0 s (1 of 2)\n") == 1
    again = "TL_a.zip: AIHub does not go on in the middle of a file, so it starts again\n"
    assert said.count(again) == (not ranges)


@pytest.mark.parametrize("ranges", [True, False])
def test_a_cut_anywhere_ends_in_the_same_bytes(hub: AIHub, tmp_path: Path, ranges: bool) -> None:
    """In headers, names, padding and between members, too."""
    hub.ranges, hub.tag = ranges, '"1"'
    name = f"{'아주 ' * 20}긴 이름.zip"  # needs a header of its own
    tar = tarred(*parts(name, BOOKS["a"], 1000))
    hub.files = {12: listed(name, tar)}
    places = [*range(0, len(tar), 389), *range(512, len(tar), 1536)]
    for number, at in enumerate(places):
        hub.answers[12] = [Answer(stop=at), Answer(stop=97)]
        fetch("--to", f"data{number}")
        assert (tmp_path / f"data{number}" / name).read_bytes() == BOOKS["a"], at
        shutil.rmtree(tmp_path / f"data{number}")


def test_a_tar_that_changed_meanwhile_starts_again(hub: AIHub, tmp_path: Path) -> None:
    hub.ranges, hub.tag = True, '"1"'
    hub.always[12] = Answer(stop=HEAD + 900)
    message = refused("--files", "12", "--retries", "0")
    assert message == (
        f"TL_a.zip: the connection was cut after {HEAD + 900:,} bytes, {len(hub.files[12][2]) - HEAD - 900:,} before "
        "the end; --retries is 0. The same command goes on from here"
    )
    assert there(tmp_path) == {"data/.download/653-12-0.partial": BOOKS["a"][:900]}
    hub.always, hub.tag = {}, '"2"'
    hub.files[12] = listed(ONE, tarred((f"{ONE}.part0", BOOKS["b"])))
    fetch("--files", "12")
    assert there(tmp_path) == {f"data/{ONE}": BOOKS["b"]}
    assert [headers.get("if-range", "") for path, headers in hub.requests if "fileSn" in path] == ["", '"1"']


def test_a_server_that_has_no_such_range_is_asked_for_all_of_it(
    hub: AIHub, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    hub.answers[12] = [Answer(stop=2000), Answer(416, b"", "text/html")]
    fetch()
    assert hub.fetched == [(12, ""), (12, "bytes=2000-"), (12, ""), (13, "")]
    assert there(tmp_path) == BOTH and capsys.readouterr().err.count("; again in ") == 1


def test_what_somebody_deleted_meanwhile_is_fetched_again(hub: AIHub, tmp_path: Path) -> None:
    hub.ranges = True
    hub.answers[12] = [Answer(stop=2000)]
    refused("--retries", "0")
    (tmp_path / "data/.download/653-12-0.partial").unlink()
    fetch()
    assert hub.fetched == [(12, ""), (12, ""), (13, "")] and there(tmp_path) == BOTH


def test_a_stop_during_the_check_fetches_nothing_again(
    hub: AIHub, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def stopped(path: Path) -> str:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(aihub_fetch, "check_zip", stopped)
        with pytest.raises(SystemExit, match=r"^130$"):
            fetch()
    assert there(tmp_path) == {"data/.download/653-12-0.partial": BOOKS["a"]}
    fetch()
    assert hub.fetched == [(12, ""), (13, "")] and there(tmp_path) == BOTH


def test_a_connection_that_stays_cut_stops_with_what_to_do(
    hub: AIHub, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    hub.always[12] = Answer(500, b"", "text/html")
    assert refused() == (
        "TL_a.zip: AIHub answered nothing instead of data (HTTP 500); tried 3 times. The same command goes on from here"
    )
    said = capsys.readouterr().err
    assert "again in 0 s (1 of 2)" in said and "again in 0 s (2 of 2)" in said
    assert hub.fetched == [(12, "")] * 3 and there(tmp_path) == {}
    hub.always, hub.answers[12] = {}, [Answer(500, b"", "text/html"), Answer(429, b"", "text/html")]
    capsys.readouterr()
    fetch()
    assert "TL_a.zip: AIHub asks for fewer requests (HTTP 429); again in 0 s (2 of 2)" in capsys.readouterr().err
    assert there(tmp_path) == BOTH


def test_pauses_grow(hub: AIHub, monkeypatch: pytest.MonkeyPatch) -> None:
    pauses: list[float] = []
    monkeypatch.setattr(time, "sleep", pauses.append)
    monkeypatch.setenv("NARAE_AIHUB_URL", "http://127.0.0.1:1")
    assert refused("--wait", "9", "--retries", "4").startswith(
        "the list of set 653: http://127.0.0.1:1 cannot be reached ([Errno 111] Connection refused); tried 5 times."
    )
    assert pauses == [9, 18, 36, 60]


def test_a_trickle_is_a_cut(hub: AIHub, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    hub.answers[12] = [Answer(drip=0.01), Answer(stop=600, hold=2)]
    fetch("--timeout", "0.3", "--retries", "9")
    said = capsys.readouterr().err
    assert "TL_a.zip: the connection stalled after " in said and "TL_a.zip: the connection was cut after " in said
    assert there(tmp_path) == BOTH


PAGE = "https://aihub.or.kr/aihubdata/data/view.do?currMenu=115&topMenu=100&aihubDataSe=data&dataSetSn=653"
KEYS = "https://www.aihub.or.kr/devsport/apishell/list.do?currMenu=403&topMenu=100"
MENU = "<li>로그인</li><li>이용 신청</li><li>자주 묻는 질문</li>" * 40
BAD_KEY = f"AIHub does not take the key in AIHUB_APIKEY: copy it again, or get another at {KEYS}"
NOT_APPROVED = f"set 653 is not approved for the account of this key: apply at {PAGE}"
EXPIRED = f"the approval of set 653 has run out: apply again at {PAGE}"
ABROAD = "AIHub lets only addresses in Korea download: run this on a machine there"
QUOTA = "AIHub's limit on downloads is reached: run the same command again later, tomorrow at best"
OLD = "AIHub no longer takes version 0.6 of its download interface: a newer Narae is needed"
NOTHING = "AIHub has no such file or set 653: --search finds a set, --list its files"
DOWN = "AIHub is down for maintenance: run the same command again later"


@pytest.mark.parametrize(
    ("status", "body", "message"),
    [
        (502, "API key 인증에 실패했습니다.", BAD_KEY),
        (401, "", BAD_KEY),
        (200, '{"code": 401, "msg": "no"}', BAD_KEY),
        (502, "홈페이지에서 신청하고 승인된 뒤에 이용할 수 있습니다.", NOT_APPROVED),
        (403, "", NOT_APPROVED),
        (502, "승인 유효기간이 만료되어 재신청이 필요합니다.", EXPIRED),
        (502, "AI 허브는 해외에서의 다운로드를 제한합니다.", ABROAD),
        (502, "일일 다운로드 횟수를 초과했습니다.", QUOTA),
        (502, "신규 버전을 받아 주세요.", OLD),
        (502, "요청한 파일이 존재하지 않습니다.", NOTHING),
        (404, "", NOTHING),
        (200, f"<!DOCTYPE html><html><title>시스템 점검 안내</title><body>{MENU}</body></html>", DOWN),
        (200, "<html><body><h1>서비스 점검 중</h1></body></html>", DOWN),
    ],
)
@pytest.mark.parametrize("encoding", ["utf-8", "cp949"])
def test_a_refusal_becomes_a_sentence(
    hub: AIHub, tmp_path: Path, status: int, body: str, message: str, encoding: str
) -> None:
    hub.always[12] = Answer(status, body.encode(encoding), "text/html")
    assert refused() == message
    assert hub.fetched == [(12, "")] and there(tmp_path) == {}


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (f"<!DOCTYPE html><html><title>AI-Hub\n &amp; 메인</title><body>{MENU}</body></html>", "“AI-Hub & 메인”"),
        (f"알 수 없음 \x1b[31m{KEY}", "“알 수 없음 [31m…”"),
        ("", "nothing"),
    ],
)
def test_an_unknown_answer_is_quoted_after_some_tries(hub: AIHub, tmp_path: Path, body: str, said: str) -> None:
    hub.always[12] = Answer(200, body.encode(), "application/octet-stream")
    message = refused()
    assert message.startswith(f"TL_a.zip: AIHub answered {said} instead of data (HTTP 200); tried 3 times.")
    assert there(tmp_path) == {}


def test_a_wrong_key_is_never_shown(hub: AIHub, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("AIHUB_APIKEY", "wrong-key")
    assert refused() == BAD_KEY
    for bad in ("two\nlines", "with space", "한글"):
        monkeypatch.setenv("AIHUB_APIKEY", bad)
        assert refused() == "AIHUB_APIKEY holds spaces or letters that no key has: copy it again"
    assert len(hub.fetched) == 1 and there(tmp_path) == {}


def test_a_set_that_is_not_there(hub: AIHub) -> None:
    with pytest.raises(Mistake, match=f"^{NOTHING.replace('653', '7')}$"):
        call(download.main, "--dataset", "7", "--list")
    hub.lists = [Answer(403, b"Forbidden", "text/html")]  # of some sets that the list of sets has
    assert refused("--list") == NOTHING


def test_a_list_that_is_cut_is_asked_for_again(hub: AIHub, capsys: pytest.CaptureFixture[str]) -> None:
    """Half a list would be half a set."""
    hub.lists = [Answer(502, type="text/plain", stop=700), Answer(500, b"", "text/html")]
    fetch("--list")
    assert "2 files" in capsys.readouterr().out


def damaged(data: bytes) -> bytes:
    """Another byte in the middle of what a member holds: only its CRC tells."""
    stored = bytearray(data)
    stored[1300] ^= 1
    return bytes(stored)


def test_a_damaged_zip_is_fetched_once_more(hub: AIHub, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    hub.answers[12] = [Answer(body=tarred(*parts(ONE, damaged(BOOKS["a"]), 1000)))]
    fetch()
    said = capsys.readouterr().err
    assert "  TL_a.zip: a damaged zip (" in said and said.count("; fetched once more\n") == 1
    assert hub.fetched == [(12, ""), (12, ""), (13, "")] and there(tmp_path) == BOTH


def test_a_zip_that_stays_damaged_is_kept_aside(hub: AIHub, tmp_path: Path) -> None:
    hub.files[12] = listed(ONE, tarred((ONE, damaged(BOOKS["a"]))))
    hub.files[14] = listed("쪽.zip", tarred(("쪽.zip", b"<html>")))
    message = refused()
    assert message.startswith("2 of 3 files did not arrive: TL_a.zip: a damaged zip (")
    assert "; 쪽.zip: a damaged zip (File is not a zip file), kept as data/.download/653-14.damaged." in message
    assert there(tmp_path) == {
        f"data/{TWO}": BOOKS["b"],
        "data/.download/653-12.damaged": damaged(BOOKS["a"]),
        "data/.download/653-14.damaged": b"<html>",
    }
    assert hub.fetched == [(12, ""), (12, ""), (13, ""), (14, ""), (14, "")]


def link(name: str, kind: bytes, target: str = "/etc/passwd") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


@pytest.mark.parametrize(
    ("member", "reason"),
    [
        (("../outside.zip", b"x"), "'../outside.zip' in the tar is no path below the folder"),
        (("a/../../outside.zip.part0", b"x"), "'a/../../outside.zip.part0' in the tar is no path below the folder"),
        (("..\\outside.zip", b"x"), "'../outside.zip' in the tar is no path below the folder"),
        (("/tmp/outside.zip", b"x"), "'/tmp/outside.zip' in the tar is no path below the folder"),
        (("C:\\outside.zip", b"x"), "'C:/outside.zip' in the tar is no path below the folder"),
        (("a\nb.zip", b"x"), r"'a\nb.zip' in the tar is no path below the folder"),
        ((".download/lock", b"x"), "'.download/lock' in the tar would lie among this command's own files"),
        (link("a", tarfile.SYMTYPE), "'a' in the tar is no plain file but a link"),
        (link("a", tarfile.SYMTYPE, ".."), "'a' in the tar is no plain file but a link"),
        (link("a", tarfile.LNKTYPE), "'a' in the tar is no plain file but a hard link"),
        (link("a", tarfile.CHRTYPE), "'a' in the tar is no plain file but a device"),
        (link("a", tarfile.FIFOTYPE), "'a' in the tar is no plain file but a pipe"),
    ],
)
def test_nothing_is_written_outside_the_folder(
    hub: AIHub, tmp_path: Path, member: tuple[str, bytes] | tarfile.TarInfo, reason: str
) -> None:
    """The good file beside the bad one is not trusted either; the next file is its own tar."""
    for kind in (tarfile.GNU_FORMAT, tarfile.PAX_FORMAT):
        hub.files[12] = listed(ONE, tarred((f"{ONE}.part0", BOOKS["a"]), member, ("a/evil.zip", b"x"), kind=kind))
        assert refused() == f"1 of 2 files did not arrive: TL_a.zip: {reason}. The same command fetches them again"
        assert there(tmp_path) == {f"data/{TWO}": BOOKS["b"]}
        assert [key for key, _ in hub.fetched].count(12) == 1  # it would be the same again
        hub.requests.clear()


def head(size: int, kind: bytes = tarfile.REGTYPE) -> bytes:
    info = tarfile.TarInfo("a")
    info.size, info.type = size, kind
    return info.tobuf(tarfile.GNU_FORMAT)


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (bytes(1024), "the tar holds no file"),
        (tarred((f"{ONE}.part9999999", b"a")), "a part is missing: after 0 bytes comes the one for byte 9,999,999"),
        (tarred((ONE, b"a"), (ONE, b"aa")), "the part at byte 0 comes twice, with 1 and 2 bytes"),
        (tarred((ONE, b"a"))[:1024] + b"x" * 512, "the tar is damaged at byte 1,024 (invalid header)"),
        (head(-600), "the tar is damaged at byte 0 (a negative size)"),
        (head(1 << 30, tarfile.GNUTYPE_LONGNAME), "the tar has a header of 1,073,741,824 bytes at byte 0"),
    ],
)
def test_a_tar_that_makes_no_sense(hub: AIHub, tmp_path: Path, body: bytes, reason: str) -> None:
    hub.files = {12: listed(ONE, body)}
    message = f"1 of 1 files did not arrive: TL_a.zip: {reason}. The same command fetches them again"
    assert refused() == message and there(tmp_path) == {}


@pytest.mark.parametrize(
    ("kind", "encoding"),
    [(tarfile.GNU_FORMAT, "utf-8"), (tarfile.PAX_FORMAT, "utf-8"), (tarfile.GNU_FORMAT, "cp949")],
)
def test_names_are_nfc_however_they_are_sent(hub: AIHub, tmp_path: Path, kind: int, encoding: str) -> None:
    long = f"{TOP}/{'긴 이름 ' * 20}.zip"
    for name in (long, "./폴더/짧은 이름.zip"):
        sent = name if encoding == "cp949" else unicodedata.normalize("NFD", name)
        folder = tarfile.TarInfo("폴더/")
        folder.type = tarfile.DIRTYPE
        hub.files = {12: listed(name, tarred(folder, (f"{sent}.part0", BOOKS["a"]), kind=kind, encoding=encoding))}
        fetch("--to", "data2")
        assert (tmp_path / "data2" / name).read_bytes() == BOOKS["a"]
        shutil.rmtree(tmp_path / "data2")


def test_two_files_of_one_name_do_not_replace_each_other(hub: AIHub, tmp_path: Path) -> None:
    hub.files[14] = listed("other.zip", tarred((ONE, BOOKS["b"])))
    assert refused() == (
        f"1 of 3 files did not arrive: other.zip: {ONE} is what file 12 is called, too. "
        "The same command fetches them again"
    )
    assert there(tmp_path) == BOTH


def marked(data: bytes, method: int | None = None, encrypted: bool = False) -> bytes:
    """The same zip, said to be compressed otherwise or encrypted."""
    changed = bytearray(data)
    for start, flags in ((data.index(b"PK\x03\x04"), 6), (data.index(b"PK\x01\x02"), 8)):
        changed[start + flags] |= encrypted
        if method is not None:
            changed[start + flags + 2] = method
    return bytes(changed)


def test_what_cannot_be_checked_is_said(hub: AIHub, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """Members of other methods, and of a zip in several volumes; and files that are no zips have no CRC at all."""
    sent = {"d.zip": marked(BOOKS["a"], 9), "e.zip": marked(BOOKS["a"], encrypted=True)}
    sent |= {"v.z01": BOOKS["a"][:500], "v.zip": BOOKS["a"][500:], "설명.txt": "설명".encode(), "빈.txt": b""}
    hub.files = {key: listed(name, tarred((name, data))) for key, (name, data) in enumerate(sent.items())}
    fetch()
    assert there(tmp_path) == {f"data/{name}": data for name, data in sent.items()}
    said = capsys.readouterr().err
    assert "  d.zip: 1 deflate64 members, whose CRCs cannot be checked here (7z t can)\n" in said
    assert "  e.zip: 1 encrypted members, whose CRCs cannot be checked here (7z t can)\n" in said
    assert "  v.zip: one volume of a zip, whose CRCs cannot be checked\n" in said
    assert " are in data (3 are no zips: their length is right, more cannot be checked); next: " in said


def test_an_end_without_its_mark_is_no_end_unless_the_zip_is_whole(hub: AIHub, tmp_path: Path) -> None:
    blocks = [("z.zip", BOOKS["a"]), ("z.txt", b"a" * 1500)]
    hub.files = {
        key: listed(name, tarred((name, data))[: 512 + len(data) + -len(data) % 512], size)
        for key, ((name, data), size) in enumerate(zip(blocks, ["3 KB", "2 KB"], strict=True))
    }
    fetch()
    assert there(tmp_path) == {f"data/{name}": data for name, data in blocks}
    hub.files = {5: listed("y.txt", hub.files[1][2], "9 KB")}
    assert refused("--to", "data2").startswith("y.txt: the answer is over after 2,048 bytes, before the end of the tar")


def test_a_full_disk_is_seen_beforehand(hub: AIHub, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The list rounds: 3 KB may be up to 4 KiB, 8,192 bytes for both."""
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=8191))
    assert refused() == (
        "--to data has 8.2 kB free, and 2 files need up to 8.2 kB: free some, name another folder, "
        "or choose files with --files or --match"
    )
    assert hub.fetched == [] and there(tmp_path) == {}
    free = [8192, 3000, 2600]  # beforehand, then for each member as large as it really is: 1,000 bytes, 1,000 bytes …
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=free.pop(0) if free else 500))
    assert refused() == "--to data: No space left on device (while writing); free some space"
    assert there(tmp_path) == {"data/.download/653-12-0.partial": BOOKS["a"][:2000]}
    assert hub.fetched == [(12, "")]

    # what is there already, on whole blocks of 4,096 bytes, needs no room any more
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=4096))
    fetch()
    assert there(tmp_path) == BOTH


def test_a_folder_that_cannot_be_written(hub: AIHub, tmp_path: Path) -> None:
    (tmp_path / "data").write_text("a file")
    assert refused() == "--to data: Not a directory (data/.download); mend that or name another"


def test_files_that_are_there_without_a_record_are_checked_not_fetched(
    hub: AIHub, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "data" / TOP).mkdir(parents=True)
    (tmp_path / "data" / ONE).write_bytes(BOOKS["a"])
    (tmp_path / "data" / TWO).write_bytes(damaged(BOOKS["b"]))
    other = zipped(c="right, but not of the size that the list shows")
    hub.files[14] = listed("c.zip", tarred(("c.zip", BOOKS["a"])))
    (tmp_path / "data/c.zip").write_bytes(other)
    (tmp_path / "data/.download").mkdir()
    (tmp_path / "data/.download/653.json").write_text('{"done": {')
    fetch()
    assert "1 of 3 files are here already" in capsys.readouterr().err
    assert hub.fetched == [(13, ""), (14, "")] and there(tmp_path) == BOTH | {"data/c.zip": BOOKS["a"]}


def start(*words: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, str(HOME / "corpus/download.py"), *QUICK, *words],
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a background job of a shell ignores it
    )


def wait_for(condition: Callable[[], object], seconds: float = 30.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_a_stopped_download_goes_on(hub: AIHub, tmp_path: Path, how: signal.Signals) -> None:
    """A real process, stopped while the second file is on its way, after its state was written at least once."""
    hub.ranges = True
    hub.answers[13] = [Answer(drip=0.001)]
    with start("--timeout", "60") as child:
        record = tmp_path / "data/.download/653.json"
        wait_for(lambda: record.exists() and json.loads(record.read_text())["begun"].get("13", {}).get("at", 0) > 600)
        assert KEY not in Path(f"/proc/{child.pid}/cmdline").read_text()
        child.send_signal(how)
        said = child.stderr.read() if child.stderr else ""
    assert child.returncode == (-9 if how == signal.SIGKILL else 130)
    assert KEY not in said and "Traceback" not in said
    assert (how == signal.SIGINT) == said.endswith("  stopped; the same command goes on from here\n")
    left = there(tmp_path)
    assert left.keys() == {f"data/{ONE}", "data/.download/653-13-0.partial"}
    assert BOOKS["b"].startswith(left["data/.download/653-13-0.partial"])
    at = json.loads(record.read_text())["begun"]["13"]["at"]

    fetch()
    assert hub.fetched == [(12, ""), (13, ""), (13, f"bytes={at}-")]
    assert there(tmp_path) == BOTH


def test_a_second_download_into_the_folder_is_refused(hub: AIHub, tmp_path: Path) -> None:
    hub.answers[12] = [Answer(stop=600, hold=60)]
    with start("--timeout", "60") as child:
        wait_for(lambda: hub.fetched)
        assert refused() == "another download writes to data: wait for it, or name another --to"
        child.kill()
        child.communicate()
    fetch()
    assert there(tmp_path) == BOTH


def test_a_full_disk_in_the_middle_is_said(hub: AIHub, tmp_path: Path) -> None:
    """A limit on the size of files stands in for it: the write fails in the same place."""
    code = (
        "import resource, runpy, signal, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000)); "
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN); sys.argv = sys.argv[1:]; "
        "runpy.run_path(sys.argv[0], run_name='__main__')"
    )
    words = [sys.executable, "-c", code, str(HOME / "corpus/download.py"), *QUICK, "--files", "13"]
    done = subprocess.run(words, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(HOME)})
    assert done.returncode == 1
    assert done.stderr.endswith("--to data: File too large (while writing); mend that or name another\n")
    assert there(tmp_path) == {"data/.download/653-13-0.partial": BOOKS["b"][:2000]}
    hub.ranges = True
    fetch()
    assert hub.fetched[:2] == [(13, ""), (12, "")] and hub.fetched[2:] == [(13, f"bytes={HEAD + 2000}-")]
    assert there(tmp_path) == BOTH


def test_the_key_stays_with_its_host(hub: AIHub, tmp_path: Path) -> None:
    """A redirect within the host is followed with the key, one to another host without."""
    with AIHub(hub.files) as other:
        hub.elsewhere = other.url.replace("127.0.0.1", "localhost")
        assert refused() == BAD_KEY
        assert [headers.get("apikey") for _, headers in other.requests] == [None]
        hub.elsewhere = other.url
        fetch()
        assert [headers["apikey"] for _, headers in other.requests[1:]] == [KEY, KEY]
    assert there(tmp_path) == BOTH


def test_proxies_are_honoured(hub: AIHub, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("http_proxy", hub.url)
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.setenv("NARAE_AIHUB_URL", "http://aihub.invalid/mirror/")
    fetch()
    assert there(tmp_path) == BOTH
    assert hub.requests[0][0] == "http://aihub.invalid/mirror/info/653.do"
    monkeypatch.setenv("NARAE_AIHUB_URL", "aihub.invalid")
    assert refused() == "NARAE_AIHUB_URL is 'aihub.invalid': it must be an address like https://api.aihub.or.kr"
