"""Zip archives as AIHub ships them, read without unpacking: odd names, parts, and what can be wrong with a member.

Nothing is ever written to disk, so a member's name is only a label: absolute and `..` paths do no harm.
"""

import io
import lzma
import os
import re
import stat
import struct
import unicodedata
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any

import zstandard

# A bomb: text does not shrink 200-fold. Small members may (a megabyte of one letter), they harm nobody, unless they
# are so many that the archive as a whole grows like that.
RATIO, SMALL, WHOLE = 200, 64 << 20, 1 << 30
LARGEST = 64 << 30  # bytes of one member: more than all of data set 653
# zipfile takes the list of members into memory, about 700 bytes each.
MEMBERS, DIRECTORY = 1_000_000, 256 << 20
NAME = 1000  # characters of a member's name: it stands in the id of each of its documents
ENCRYPTED, UTF8 = 0x1, 0x800
METHODS = {9: "deflate64", 14: "LZMA", 93: "zstd", 95: "xz", 98: "PPMd", 99: "AES"}
_PART = re.compile(r"(?P<zip>.+\.zip)\.part(?P<number>\d+)$", re.IGNORECASE)
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")


class UnreadableError(Exception):
    """This archive or member cannot be read; the text says why."""


# What the standard library raises where a stream is cut off or damaged, or a header holds nonsense.
DAMAGE = (
    OSError,
    EOFError,
    zipfile.BadZipFile,
    zlib.error,
    lzma.LZMAError,
    zstandard.ZstdError,
    NotImplementedError,
    ValueError,
    OverflowError,
    MemoryError,
    RuntimeError,
    struct.error,
)
FAULTS = (UnreadableError, *DAMAGE)


def cause_of(error: BaseException) -> str:
    """One line: what is wrong, and what to do about it."""
    match error:
        case UnreadableError():
            return str(error)
        case FileNotFoundError() | NotADirectoryError():
            return "it is gone: something removed it after the sources were listed"
        case PermissionError():
            return "no permission to read it: chmod or chown it, or leave it out"
        case NotImplementedError():
            return f"packed in a way that is not read here ({error}): unpack it with 7z"
    said = str(error).strip().partition("\n")[0][:200]
    if "too much memory" in said:  # zstd --long, --ultra
        return f"packed in a way that takes too much memory to unpack ({said}): unpack it with zstd -d --long=31"
    return f"damaged or cut off ({said or type(error).__name__}): download it again"


def opened(path: Path) -> io.FileIO:
    """A regular file to read from. Anything else is refused: opening a pipe may wait for ever."""
    if not stat.S_ISREG(path.stat().st_mode):
        raise UnreadableError(f"{kind_of_node(path)}, not a file")
    return io.FileIO(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC))


def kind_of_node(path: Path) -> str:
    mode = path.stat().st_mode
    tests = {"a folder": stat.S_ISDIR, "a pipe": stat.S_ISFIFO, "a socket": stat.S_ISSOCK}
    return next((name for name, test in tests.items() if test(mode)), "a device")


class Joined(io.RawIOBase):
    """Files one after another, as one: the parts of an archive, read where they lie."""

    def __init__(self, paths: Sequence[Path]):
        self.files: list[Any] = []
        self.starts = [0]
        self.at = 0
        for path in paths:
            self.files.append(opened(path))
            self.starts.append(self.starts[-1] + os.fstat(self.files[-1].fileno()).st_size)

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self.at

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        self.at = max(0, offset + (0, self.at, self.starts[-1])[whence])
        return self.at

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        for number, file in enumerate(self.files):
            if self.starts[number] <= self.at < self.starts[number + 1]:
                file.seek(self.at - self.starts[number])
                count: int = file.readinto(buffer)
                self.at += count
                return count
        return 0

    def close(self) -> None:
        for file in self.files:
            file.close()
        super().close()


class Bounded(io.RawIOBase):
    """A decompressing stream that counts what comes out, and stops a bomb before it goes off."""

    def __init__(self, stream: Any, compressed: int, small: int | None = None, under: IO[bytes] | None = None):
        self.stream, self.under = stream, under
        self.limit = min(max(SMALL if small is None else small, compressed * RATIO), LARGEST)
        self.done = 0
        self.error: Exception | None = None

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        """As much as fits, since what a stream is shows in its head. What came before damage is handed out first."""
        count = 0
        while count < len(buffer) and not self.error:
            try:
                # A wrong checksum takes the last piece with it.
                piece = self.stream.read1(min(1 << 14, len(buffer) - count))
            except DAMAGE as error:
                self.error = error
                break
            if not piece:
                break
            buffer[count : count + len(piece)] = piece
            count += len(piece)
            if self.done + count > self.limit:
                cause = f"a zip bomb: it grows more than {RATIO}-fold, past {self.limit >> 20:,} MiB"
                self.error = UnreadableError(cause)
        self.done += count
        if self.error and not count:
            raise self.error
        return count

    def close(self) -> None:
        self.stream.close()
        if self.under:
            self.under.close()
        super().close()


class _Directory(io.BufferedReader):
    """zipfile reads the list of members in one piece, before it looks at any of them: the place to stop a flood."""

    def read(self, size: int | None = -1, /) -> bytes:
        wanted = -1 if size is None else size
        if wanted > DIRECTORY:
            raise UnreadableError(f"a zip bomb: a list of members of {wanted >> 20:,} MiB")
        data = super().read(wanted)
        if wanted > 46 * MEMBERS and data.count(b"PK\x01\x02") > MEMBERS:
            raise UnreadableError(f"a zip bomb: more than {MEMBERS:,} members")
        return data


class Archive:
    """An open zip: its members in their order, each with a label of its own."""

    def __init__(self, paths: Sequence[Path]):
        if _PART.match(paths[0].name):
            check_parts(paths)
        self.file = _Directory(Joined(paths), 1 << 17)
        try:
            self.zip = zipfile.ZipFile(self.file)
        except UnreadableError:
            self.file.close()
            raise
        except DAMAGE as error:
            self.file.close()
            raise UnreadableError(_no_zip(paths[0], error)) from None
        self.members = self.zip.infolist()
        self.names = distinct([member_name(info) for info in self.members])
        if {"[Content_Types].xml", "mimetype"} & set(self.names):
            self.close()
            raise UnreadableError("an office document or an e-book, not an archive of texts: save it as text")
        self.overlapping = overlapping(self.members)
        grown = sum(info.file_size for info in self.members)
        bomb = grown > max(WHOLE, RATIO * sum(info.compress_size for info in self.members))
        self.small = 0 if bomb else SMALL

    def open(self, number: int) -> io.BufferedReader:
        """One member's bytes."""
        if number >= len(self.members):
            raise UnreadableError("the archive has changed since its members were listed: start again")
        info = self.members[number]
        if stat.S_ISLNK(info.external_attr >> 16):
            raise UnreadableError("a link, not a file")
        if info.flag_bits & ENCRYPTED:
            raise UnreadableError("encrypted: unpack it with its password")
        if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA):
            method = METHODS.get(info.compress_type, "an unknown method")
            raise UnreadableError(f"compressed with {method} (method {info.compress_type}): unpack it with 7z")
        if number in self.overlapping:
            raise UnreadableError("it shares its bytes with another member: a zip bomb, or a damaged list of members")
        return io.BufferedReader(Bounded(self.zip.open(info), info.compress_size, self.small), 1 << 17)

    def close(self) -> None:
        self.zip.close()
        self.file.close()


def gather(files: Sequence[Path]) -> Iterator[tuple[Path, list[Path]]]:
    """(the archive's own name, its parts in order) for parts, (file, [file]) for any other file."""
    there = set(files)
    parts: dict[Path, list[tuple[int, Path]]] = {}
    for file in files:
        if found := _PART.match(file.name):
            parts.setdefault(file.with_name(found["zip"]), []).append((int(found["number"]), file))
    for file in files:
        found = _PART.match(file.name)
        if not found:
            yield file, [file]
            continue
        whole = file.with_name(found["zip"])
        if whole in parts and whole not in there:  # a whole NAME.zip beside its parts was joined from them
            # AIHub's own downloader joins in the order of the names, where part10 comes before part2.
            yield whole, [path for _, path in sorted(parts.pop(whole))]


def check_parts(paths: Sequence[Path]) -> None:
    """Parts are named by number (0, 1, 2 …) or by the byte that they start at; a gap means that one is missing."""
    start = 0
    for index, path in enumerate(paths):
        found = _PART.match(path.name)
        assert found
        number = int(found["number"])
        if number not in (index, start):
            raise UnreadableError(
                f"{path.name} follows {start:,} bytes in {index} parts: a part is missing, download again"
            )
        start += path.stat().st_size


def _no_zip(path: Path, error: Exception) -> str:
    with opened(path) as file:
        head = file.read(512)
    if not head:
        return "empty"
    if head.lstrip(b"\xef\xbb\xbf \r\n\t")[:1] == b"<":
        return "an HTML page, not a zip: the download failed, repeat it"
    if not head.startswith(b"PK"):
        return "not a zip: download it again"
    return f"a truncated or damaged zip ({str(error)[:200]}): download it again"


def is_zip(path: Path, head: bytes) -> bool:
    """By what it says it is or by what it holds: a failed download named .zip is to be met, too."""
    named = path.suffix.lower() == ".zip" or _PART.match(path.name) is not None
    return named or head.startswith((b"PK\x03\x04", b"PK\x05\x06"))


def member_name(info: zipfile.ZipInfo) -> str:
    """Korean Windows writes cp949 and macOS UTF-8, both without the flag that says so."""
    name = info.filename
    if not info.flag_bits & UTF8:
        raw = name.encode("cp437", errors="replace")
        for encoding in ("utf-8", "cp949"):
            try:
                name = raw.decode(encoding)
                break
            except UnicodeDecodeError:
                continue
    parts = _CONTROL.sub("_", unicodedata.normalize("NFC", name)).replace("\\", "/").split("/")
    kept = [part for part in parts if part not in ("", ".", "..") and not re.fullmatch("[A-Za-z]:", part)]
    return "/".join(kept)[:NAME] or "_"


def distinct(names: Sequence[str]) -> list[str]:
    """A second member of one name gets `~1` after it, so that the ids of its documents are its own."""
    taken = set(names)
    times: dict[str, int] = {}
    found = []
    for name in names:
        label, count = name, times.get(name, 0)
        while count and (label := f"{name}~{count}") in taken:
            count += 1
        taken.add(label)
        times[name] = count + 1
        found.append(label)
    return found


def overlapping(members: Sequence[zipfile.ZipInfo]) -> set[int]:
    """Members that begin inside another one: the way to make gigabytes of a few bytes without nesting."""
    inside, end = set(), 0
    for number in sorted(range(len(members)), key=lambda number: members[number].header_offset):
        info = members[number]
        if info.header_offset < end:
            inside.add(number)
        end = max(end, info.header_offset + 30 + info.compress_size)  # 30 bytes: a header without its name
    return inside
