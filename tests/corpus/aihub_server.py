"""AIHub's API on this machine, for tests: its lists and tars as they come, and each way in which it misbehaves."""

import io
import re
import socket
import struct
import tarfile
import threading
import time
import zipfile
from collections.abc import Iterable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

KEY = "11111111-SECRET-2222"
NOTICE = """The contents are encoded in UTF-8 including Korean characters. 
If the following contents are not output normally, 
Please modify the character information of the OS. 
=================공지사항=================== 
========================================== 

"""  # noqa: W291 - as it is sent


@dataclass
class Answer:
    """To one request for a file. What is not said is as it should be."""

    status: int = 200
    body: bytes | None = None  # instead of the tar
    type: str = "application/octet-stream"
    length: int | None = 0  # how far the announced length is off; None: not announced
    stop: int | None = None  # the connection ends after so many bytes
    reset: bool = False  # and not politely
    drip: float = 0.0  # seconds between one byte and the next
    hold: float = 0.0  # seconds before it ends


@dataclass
class AIHub:
    """`with AIHub({12: (path, size in words, tar)}) as hub`: hub.url, hub.requests."""

    files: dict[int, tuple[str, str, bytes]] = field(default_factory=dict)
    sets: dict[int, str] = field(default_factory=lambda: {653: "대규모 구매도서 기반 한국어 말뭉치 데이터"})
    ranges: bool = False  # AIHub itself does not resume
    tag: str = ""
    answers: dict[int, list[Answer]] = field(default_factory=dict)  # the next ones, then all is well
    always: dict[int, Answer] = field(default_factory=dict)
    lists: list[Answer] = field(default_factory=list)
    elsewhere: str = ""  # address that downloads are sent on to
    requests: list[tuple[str, dict[str, str]]] = field(default_factory=list)

    def __enter__(self) -> "AIHub":
        hub = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                hub.requests.append((self.path, {name.lower(): value for name, value in self.headers.items()}))
                hub.answer(self)

            def log_message(self, *words: Any) -> None:
                pass

        class Quiet(ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, *words: Any) -> None:  # a client that went away is no fault of the server
                pass

        self.server = Quiet(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"
        threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        return self

    def __exit__(self, *error: object) -> None:
        self.server.shutdown()
        self.server.server_close()

    @property
    def fetched(self) -> list[tuple[int, str]]:
        """(key of the file, the range that was asked for) of each request for a file."""
        downs = [(path, headers) for path, headers in self.requests if "fileSn=" in path]
        return [(int(path.rpartition("=")[2]), headers.get("range", "")) for path, headers in downs]

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        if found := re.search(r"/down/0\.6/(\d+)\.do\?fileSn=(\d+)$", request.path):
            self.file(request, int(found[2]))
        elif request.path.endswith("/info/dataset.do"):
            self.list(request, "".join(f"{key}, {name}\n" for key, name in self.sets.items()))
        elif re.search(rf"/info/({'|'.join(map(str, self.sets))})\.do$", request.path):
            self.list(request, tree((path, size, key) for key, (path, size, _) in self.files.items()))
        else:
            send(request, Answer(404, "페이지가 존재하지 않습니다.".encode(), "text/html"), {})

    def list(self, request: BaseHTTPRequestHandler, entries: str) -> None:
        answer = self.lists.pop(0) if self.lists else Answer(502, type="text/plain")  # 502 although all is well
        answer.body = (NOTICE + entries).encode() if answer.body is None else answer.body
        send(request, answer, {})

    def file(self, request: BaseHTTPRequestHandler, key: int) -> None:
        if self.elsewhere:
            return send(request, Answer(302, b""), {"Location": self.elsewhere + request.path})
        if request.headers.get("apikey") != KEY:
            return send(request, Answer(502, "인증에 실패했습니다.".encode(), "text/html"), {})
        queue = self.answers.get(key, [])
        answer = self.always.get(key) or (queue.pop(0) if queue else Answer())
        headers = {"ETag": self.tag} if self.tag else {}
        body = self.files[key][2] if answer.body is None else answer.body
        asked = re.match(r"bytes=(\d+)-", request.headers.get("Range", ""))
        if asked and self.ranges and request.headers.get("If-Range", self.tag) == self.tag and answer.body is None:
            start = int(asked[1])
            headers["Content-Range"] = f"bytes {start}-{len(body) - 1}/{len(body)}"
            return send(request, Answer(**{**vars(answer), "status": 206, "body": body[start:]}), headers)
        return send(request, Answer(**{**vars(answer), "body": body}), headers)


def send(request: BaseHTTPRequestHandler, answer: Answer, headers: dict[str, str]) -> None:
    body = answer.body or b""
    request.send_response(answer.status)
    request.send_header("Content-Type", answer.type)
    for name, value in headers.items():
        request.send_header(name, value)
    if answer.length is not None:
        request.send_header("Content-Length", str(len(body) + answer.length))
    request.end_headers()
    body = body[: answer.stop]
    for start in range(0, len(body), 1 if answer.drip else max(1, len(body))):
        request.wfile.write(body[start : start + 1] if answer.drip else body)
        request.wfile.flush()
        time.sleep(answer.drip)
    time.sleep(answer.hold)
    request.close_connection = True
    if answer.reset:
        request.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        request.connection.close()


def tree(files: Iterable[tuple[str, str, int]]) -> str:
    """The files as AIHub draws them: below a last entry by four columns, below another by three."""
    root: dict[str, Any] = {}
    for path, size, key in files:
        folder = root
        *above, name = path.split("/")
        for part in above:
            folder = folder.setdefault(part, {})
        folder[f"{name} | {size} | {key}"] = {}

    def draw(folder: dict[str, Any], indent: str) -> str:
        text = ""
        for name, below in folder.items():
            last = name == list(folder)[-1]
            text += f"{indent}{'└' if last else '├'}─{name}\n"
            text += draw(below, indent + ("    " if last else "│  "))
        return text

    return draw(root, "    ")


def zipped(**members: str) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, text in members.items():
            archive.writestr(f"{name}.json", text)
    return file.getvalue()


def tarred(
    *members: tuple[str, bytes] | tarfile.TarInfo, kind: int = tarfile.GNU_FORMAT, encoding: str = "utf-8"
) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=kind, encoding=encoding) as archive:
        for member in members:
            if isinstance(member, tarfile.TarInfo):
                archive.addfile(member)
            else:
                info = tarfile.TarInfo(member[0])
                info.size = len(member[1])
                archive.addfile(info, io.BytesIO(member[1]))
    return file.getvalue()


def parts(path: str, data: bytes, size: int) -> list[tuple[str, bytes]]:
    """Called by the byte that each starts at."""
    return [(f"{path}.part{start}", data[start : start + size]) for start in range(0, len(data), size)]
