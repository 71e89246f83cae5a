"""AIHub's API: its lists, its files as a stream, and each of its refusals as a sentence with the remedy.

How it answers, as public clients of it report:
- /info/dataset.do lists the sets as `653, name`, /info/653.do the files of one as a tree with `name | 3 GB | key` for
  leaves. Neither needs a key; both may come with status 502 and be whole all the same.
- /down/0.6/653.do?fileSn=12 with the key in the header `apikey` answers with a tar that holds NAME.zip.part0,
  NAME.zip.part1073741824 … A refusal is status 502 and a sentence in Korean, sometimes a page of the site.
- It has been seen to answer a Range with the whole tar again, to stall for minutes, and to send all parts twice.
"""

import contextlib
import html
import http.client
import itertools
import json
import os
import re
import ssl
import time
import unicodedata
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar

from corpus.aihub_stream import CutError, Stream, is_header, why
from narae.log import Mistake, say

T = TypeVar("T")
VERSION = "0.6"  # of the download interface; older ones are turned away
PAGE = "https://aihub.or.kr/aihubdata/data/view.do?currMenu=115&topMenu=100&aihubDataSe=data&dataSetSn={}"
KEYS = "https://www.aihub.or.kr/devsport/apishell/list.do?currMenu=403&topMenu=100"
LONGEST_PAUSE = 60.0  # seconds
LIST_BYTES, PAGE_BYTES = 32 << 20, 1 << 16  # more of a list or of a page is not read
SENTENCE = 600  # characters: a refusal is shorter; of a longer web page only the title says anything
# What a refusal says, and what it means. The first that matches counts: the later words also stand in other sentences.
REFUSALS = {
    "해외": "AIHub lets only addresses in Korea download: run this on a machine there",
    "신규 *버전": f"AIHub no longer takes version {VERSION} of its download interface: a newer Narae is needed",
    "점검": "AIHub is down for maintenance: run the same command again later",
    "초과|횟수|너무 많": "AIHub's limit on downloads is reached: run the same command again later, tomorrow at best",
    "유효기간|만료": "the approval of set {dataset} has run out: apply again at {page}",
    "승인|신청|권한": "set {dataset} is not approved for the account of this key: apply at {page}",
    "인증|api *key|로그인": "AIHub does not take the key in AIHUB_APIKEY: copy it again, or get another at {keys}",
    "존재하지": "AIHub has no such file or set {dataset}: --search finds a set, --list its files",
}
STATUSES = {401: "인증", 403: "권한", 404: "존재하지"}
UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}


@dataclass
class Remote:
    """A file as the list shows it. Its size is rounded to a whole KB, MB or GB."""

    key: int
    path: str
    shown: str
    size: int = 0
    unit: int = 1

    @property
    def name(self) -> str:
        return self.path.rpartition("/")[2]

    @property
    def is_zip(self) -> bool:
        return self.path.lower().endswith(".zip")

    def fits(self, size: int) -> bool:
        return abs(size - self.size) <= self.unit


def parse_sets(text: str) -> dict[int, str]:
    """key -> name"""
    lines = re.findall(r"^\s*(\d+)\s*,\s*(\S.*?)\s*$", text, re.MULTILINE)
    return {int(key): unicodedata.normalize("NFC", name) for key, name in lines}


def parse_files(text: str) -> list[Remote]:
    """The leaves of the tree. A line belongs below the last one that stands further left: levels differ in width."""
    files: list[Remote] = []
    above: list[tuple[int, str]] = []
    for line in unicodedata.normalize("NFC", text).splitlines():
        found = re.match(r"(?P<indent>[\s│]*)[├└]─+\s*(?P<entry>.+?)\s*$", line)
        if not found:
            continue
        indent = len(found["indent"])
        while above and above[-1][0] >= indent:
            above.pop()
        leaf = re.fullmatch(r"(.+?)\s*\|\s*([^|]*?)\s*\|\s*(\d+)", found["entry"])
        if leaf:
            path = "/".join([name for _, name in above] + [leaf[1]])
            size = re.match(r"([\d.]+)\s*([KMGT]?)", leaf[2].upper().replace(",", ""))
            unit = UNITS[size[2]] if size else 1
            files.append(Remote(int(leaf[3]), path, leaf[2], int(float(size[1]) * unit) if size else 0, unit))
        else:
            above.append((indent, found["entry"]))
    return files


class _Redirect(urllib.request.HTTPRedirectHandler):
    """Follows, but the key goes to no other host, and never from https to http."""

    def redirect_request(
        self, req: urllib.request.Request, fp: Any, code: int, msg: str, headers: Any, newurl: str
    ) -> urllib.request.Request | None:
        request = super().redirect_request(req, fp, code, msg, headers, newurl)
        old, new = urllib.parse.urlsplit(req.full_url), urllib.parse.urlsplit(newurl)
        if request and (old.hostname != new.hostname or new.scheme not in (old.scheme, "https")):
            request.remove_header("Apikey")
        return request


@dataclass
class Server:
    """Where AIHub's API is: NARAE_AIHUB_URL names a mirror. Proxies are taken from the environment."""

    retries: int
    wait: float
    timeout: float
    key: str = field(default="", repr=False)

    def __post_init__(self) -> None:
        self.url = os.environ.get("NARAE_AIHUB_URL", "https://api.aihub.or.kr").rstrip("/")
        if not re.match(r"https?://[^/]", self.url):
            raise Mistake(f"NARAE_AIHUB_URL is {self.url!r}: it must be an address like https://api.aihub.or.kr")
        self.opener = urllib.request.build_opener(_Redirect)

    def sets(self) -> dict[int, str]:
        """key -> name"""
        return self.patiently("the list of sets", lambda: self._list("/info/dataset.do", parse_sets, 0))

    def files(self, dataset: int) -> list[Remote]:
        what = f"the list of set {dataset}"
        return self.patiently(what, lambda: self._list(f"/info/{dataset}.do", parse_files, dataset))

    def open(self, dataset: int, file: int, at: int = 0, tag: str = "") -> Stream:
        """The tar of one file, from byte `at` where the server can; Stream.at says where it begins."""
        headers = {"apikey": self.key}
        if at:
            headers |= {"Range": f"bytes={at}-"} | ({"If-Range": tag} if tag else {})
        stream, status = self._get(f"/down/{VERSION}/{dataset}.do?fileSn={file}", headers)
        if at and (status == 416 or stream.at not in (0, at)):
            stream.response.close()
            return self.open(dataset, file)
        if status in (200, 206) and (stream.at or is_header(stream.peek(512))):
            return stream
        with stream:
            raise self.refusal(status, _all(stream, PAGE_BYTES), dataset)

    def refusal(self, status: int, body: bytes, dataset: int) -> BaseException:
        """What an answer that is no data says: a Mistake where waiting does not help, else a CutError."""
        text = _text(body)
        clear = _visible(text)
        if re.search(r"<(!doctype|html|head|body)\b", text, re.IGNORECASE) and len(clear) > SENTENCE:
            title = re.search(r"(?is)<title\b[^>]*>(.*?)</title>", text)
            clear = _visible(title[1]) if title else "a web page"
        with contextlib.suppress(ValueError, TypeError, KeyError):
            status = int(json.loads(text)["code"])  # the status line is only that of the server before it
        for words, meaning in REFUSALS.items():
            if re.search(words, clear, re.IGNORECASE) or STATUSES.get(status, ".") in words.split("|"):
                return Mistake(meaning.format(dataset=dataset, page=PAGE.format(dataset), keys=KEYS))
        if status == 429:
            return CutError("AIHub asks for fewer requests (HTTP 429)")
        said = clear.replace(self.key, "…")[:200] if self.key else clear[:200]
        return CutError(f"AIHub answered {f'“{said}”' if said else 'nothing'} instead of data (HTTP {status})")

    def patiently(self, what: str, action: Callable[[], T], hush: Callable[[], None] = lambda: None) -> T:
        """Again where it was cut, each time after a longer pause. `hush` takes a progress line off the terminal."""
        for tries in itertools.count():
            try:
                return action()
            except CutError as cut:
                if tries >= self.retries:
                    times = f"tried {tries + 1} times" if tries else "--retries is 0"
                    raise Mistake(f"{what}: {cut}; {times}. The same command goes on from here") from None
                pause = min(self.wait * 2**tries, LONGEST_PAUSE)
                hush()
                say(f"{what}: {cut}; again in {pause:g} s ({tries + 1} of {self.retries})")
                time.sleep(pause)
        raise AssertionError

    def _list(self, path: str, parsed: Callable[[str], T], dataset: int) -> T:
        stream, status = self._get(path, {})
        with stream:
            body = _all(stream, LIST_BYTES)
        entries = parsed(_text(body)) if status in (200, 502) else None
        if not entries:
            raise self.refusal(404 if status == 403 else status, body, dataset)
        return entries

    def _get(self, path: str, headers: dict[str, str]) -> tuple[Stream, int]:
        request = urllib.request.Request(self.url + path, headers={"User-Agent": "narae", **headers})
        response: Any
        try:
            response = self.opener.open(request, timeout=self.timeout)
        except urllib.error.HTTPError as error:
            response = error  # not error.fp: that closes with it
        except (OSError, http.client.HTTPException) as error:
            if isinstance(getattr(error, "reason", None), ssl.SSLCertVerificationError):
                raise Mistake(
                    f"the certificate of {self.url} is not trusted here: set SSL_CERT_FILE to what "
                    "`python -m certifi` prints, or to the certificate of your proxy"
                ) from None
            raise CutError(f"{self.url} cannot be reached ({why(error)})") from None
        return Stream(response, self.timeout), response.status


def _all(stream: Stream, most: int) -> bytes:
    data = b""
    while len(data) < most and (more := stream.read(most - len(data))):
        data += more
    return data


def _visible(page: str) -> str:
    return " ".join(html.unescape(re.sub(r"(?is)<(script|style)\b.*?</\1>|<[^>]*>", " ", page)).split())


def _text(body: bytes) -> str:
    try:
        text = body.decode("utf-8-sig")
    except UnicodeDecodeError:
        text = body.decode("cp949", "replace")
    return re.sub(r"[\0-\x08\x0e-\x1f\x7f]", "", text)  # what is printed must not steer a terminal
