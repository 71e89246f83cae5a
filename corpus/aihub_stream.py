"""The tar that AIHub answers with, read as it arrives: it is never on disk, and a cut one can be gone on with."""

import contextlib
import http.client
import re
import tarfile
import time
import unicodedata
from types import TracebackType

BLOCK = tarfile.BLOCKSIZE
LEAST = 1024  # bytes/s: a connection that brings less for a whole timeout has stalled
LONG_NAME = 1 << 16  # bytes: headers with longer names are none
EXTENDED = (tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE)


class CutError(Exception):
    """It did not work out this time, and may the next: the text says what happened."""


class UnmarkedError(CutError):
    """The answer is over where a member could begin, and did not say that this is the end."""


class DamagedError(Exception):
    """The file is not what it should be: the text says how."""


class RefusedError(DamagedError):
    """It must not be written, now or later."""


class Stream:
    """The body of an answer. A connection that ends before its time, or stalls, is a CutError."""

    def __init__(self, response: http.client.HTTPResponse, timeout: float):
        self.response, self.timeout = response, timeout
        self.tag = response.headers.get("ETag", "")
        length = response.headers.get("Content-Length", "")
        self.left = int(length) if length.isdigit() and not response.chunked else None
        # 0 where the server sends the whole although it was asked for the rest
        ranged = (
            re.match(r"bytes (\d+)-", response.headers.get("Content-Range", "")) if response.status == 206 else None
        )
        self.at = int(ranged[1]) if ranged else 0
        self.peeked = b""
        self.mark, self.since = time.monotonic(), 0

    def read(self, most: int) -> bytes:
        """Up to `most` bytes; b"" where the answer is over."""
        if self.peeked:
            data, self.peeked = self.peeked[:most], self.peeked[most:]
        else:
            data = self._receive(most)
        self.at += len(data)
        return data

    def exactly(self, size: int) -> bytes:
        """`size` bytes, or b"" where the answer is over before the first of them."""
        data = b""
        while len(data) < size:
            more = self.read(size - len(data))
            if not more:
                if not data:
                    break
                raise CutError(f"the answer is over after {self.at:,} bytes, in the middle of the tar")
            data += more
        return data

    def peek(self, size: int) -> bytes:
        while len(self.peeked) < size and (more := self._receive(size - len(self.peeked))):
            self.peeked += more
        return self.peeked

    def _receive(self, most: int) -> bytes:
        if self.left == 0:
            return b""
        try:
            # not read(): it waits until all of it is there, and a trickle would never be noticed
            data = self.response.read1(most if self.left is None else min(most, self.left))
        except (OSError, http.client.HTTPException) as error:
            raise CutError(f"the connection was cut after {self.at:,} bytes ({why(error)})") from None
        if self.left is not None:
            if not data:
                raise CutError(f"the connection was cut after {self.at:,} bytes, {self.left:,} before the end")
            self.left -= len(data)
        self.since += len(data)
        spent = time.monotonic() - self.mark
        if spent >= self.timeout:
            if self.since < LEAST * self.timeout:
                raise CutError(f"the connection stalled after {self.at:,} bytes ({self.since:,} in {spent:.1f} s)")
            self.mark, self.since = time.monotonic(), 0
        return data

    def __enter__(self) -> "Stream":
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.response.close()


def header(stream: Stream) -> tarfile.TarInfo | None:
    """The next member, or None at the mark of the end.

    tarfile itself takes a tar that breaks off between two members, or has a damaged header there, for complete.
    """
    changes: dict[str, str] = {}
    while True:
        block = stream.exactly(BLOCK)
        if not block:
            raise UnmarkedError(f"the answer is over after {stream.at:,} bytes, before the end of the tar")
        if not any(block):
            return None
        try:
            info = tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
        except tarfile.HeaderError as error:
            raise DamagedError(f"the tar is damaged at byte {stream.at - BLOCK:,} ({error})") from None
        if info.type in (*EXTENDED, tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK):
            if not 0 < info.size <= LONG_NAME:
                raise DamagedError(f"the tar has a header of {info.size:,} bytes at byte {stream.at - BLOCK:,}")
            data = stream.exactly(info.size + -info.size % BLOCK)[: info.size]
            if info.type == tarfile.GNUTYPE_LONGNAME:
                changes["path"] = data.rstrip(b"\0").decode("utf-8", "surrogateescape")
            elif info.type != tarfile.XGLTYPE:
                found = re.findall(rb"\d+ (path|size)=([^\n]*)\n", data)
                changes |= {key.decode(): value.decode("utf-8", "surrogateescape") for key, value in found}
            continue
        info.name = changes.get("path", info.name)
        info.size = int(changes["size"]) if changes.get("size", "").isdigit() else info.size
        if info.size < 0:
            raise DamagedError(f"the tar is damaged at byte {stream.at - BLOCK:,} (a negative size)")
        return info


def place(info: tarfile.TarInfo) -> str:
    """Where a member belongs below the folder, in NFC. What would lie elsewhere, or is no plain file, is refused."""
    raw = info.name.encode("utf-8", "surrogateescape")
    try:
        name = raw.decode()
    except UnicodeDecodeError:
        name = raw.decode("cp949", "replace")  # Korean Windows
    name = unicodedata.normalize("NFC", name).replace("\\", "/")
    if not (info.isreg() or info.isdir()) or info.issparse():
        raise RefusedError(f"{name!r} in the tar is no plain file but a {_KINDS.get(info.type, 'special file')}")
    parts = [part for part in name.split("/") if part not in ("", ".")]
    if re.match(r"/|[A-Za-z]:", name) or re.search(r"[\0-\x1f\x7f]", name) or ".." in parts or not parts:
        raise RefusedError(f"{name!r} in the tar is no path below the folder")
    if parts[0].startswith("."):
        raise RefusedError(f"{name!r} in the tar would lie among this command's own files")
    return "/".join(parts)


_KINDS = {
    tarfile.SYMTYPE: "link",
    tarfile.LNKTYPE: "hard link",
    tarfile.CHRTYPE: "device",
    tarfile.BLKTYPE: "device",
    tarfile.FIFOTYPE: "pipe",
    tarfile.GNUTYPE_SPARSE: "sparse file",
}


def is_header(block: bytes) -> bool:
    """Whether a tar begins like this: a header whose checksum is right, or the mark of its end."""
    with contextlib.suppress(tarfile.HeaderError):
        tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
        return True
    return len(block) == tarfile.BLOCKSIZE and not any(block)


def why(error: BaseException) -> str:
    reason = getattr(error, "reason", error)
    return "timed out" if isinstance(reason, TimeoutError) else str(reason) or type(reason).__name__
