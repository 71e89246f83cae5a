"""Zip archives as AIHub ships them, read without unpacking: odd names, parts, and what can be wrong with a member.

Nothing is ever written to disk, so a member's name is only a label: absolute and `..` paths do no harm.
"""

import io
import lzma
import os
import re
import unicodedata
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO

import zstandard

# A bomb: text does not shrink 200-fold. Small members may (a megabyte of one letter), they harm nobody.
RATIO, SMALL = 200, 64 << 20
ENCRYPTED, UTF8 = 0x1, 0x800
METHODS = {9: "deflate64", 14: "LZMA", 93: "zstd", 95: "xz", 98: "PPMd", 99: "AES"}
# What the standard library raises where a stream is cut off or damaged.
FAULTS = (OSError, EOFError, zipfile.BadZipFile, zlib.error, lzma.LZMAError, zstandard.ZstdError, NotImplementedError)
_PART = re.compile(r"(?P<zip>.+\.zip)\.part(?P<number>\d+)$", re.IGNORECASE)


class UnreadableError(Exception):
    """This archive or member cannot be read; the text says why."""


class Joined(io.RawIOBase):
    """Files one after another, as one: the parts of an archive, read where they lie."""

    def __init__(self, paths: Sequence[Path]):
        self.files = [path.open("rb") for path in paths]
        self.starts = [0]
        for path in paths:
            self.starts.append(self.starts[-1] + path.stat().st_size)
        self.at = 0

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
                count = file.readinto(buffer)
                self.at += count
                return count
        return 0

    def close(self) -> None:
        for file in self.files:
            file.close()
        super().close()


class Bounded(io.RawIOBase):
    """A decompressing stream that counts what comes out, and stops a bomb before it goes off."""

    def __init__(self, stream: IO[bytes], compressed: int):
        self.stream = stream
        self.limit = max(SMALL, compressed * RATIO)
        self.done = 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        data = self.stream.read(len(buffer))
        self.done += len(data)
        if self.done > self.limit:
            raise UnreadableError(f"a zip bomb: it grows more than {RATIO}-fold, past {self.limit >> 20:,} MiB")
        buffer[: len(data)] = data
        return len(data)

    def close(self) -> None:
        self.stream.close()
        super().close()


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


def open_zip(paths: Sequence[Path]) -> zipfile.ZipFile:
    if _PART.match(paths[0].name):
        check_parts(paths)
    with paths[0].open("rb") as file:
        head = file.read(512)
    if not head:
        raise UnreadableError("empty")
    if head.lstrip(b"\xef\xbb\xbf \r\n\t")[:1] == b"<":
        raise UnreadableError("an HTML page, not a zip: the download failed, repeat it")
    if not head.startswith(b"PK"):
        raise UnreadableError("not a zip: download it again")
    try:
        return zipfile.ZipFile(io.BufferedReader(Joined(paths), 1 << 17))
    except (zipfile.BadZipFile, OSError, ValueError) as error:
        raise UnreadableError(f"a truncated or damaged zip ({error}): download it again") from None


def is_zip(paths: Sequence[Path]) -> bool:
    """By what it says it is or by what it holds: a failed download named .zip is to be met, too."""
    if paths[0].suffix.lower() == ".zip" or _PART.match(paths[0].name):
        return True
    with paths[0].open("rb") as file:
        return file.read(4) in (b"PK\x03\x04", b"PK\x05\x06")


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
    parts = unicodedata.normalize("NFC", name).replace("\\", "/").split("/")
    return "/".join(part for part in parts if part not in ("", ".", "..") and not re.fullmatch("[A-Za-z]:", part))


def open_member(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> io.BufferedReader:
    if info.flag_bits & ENCRYPTED:
        raise UnreadableError("encrypted: unpack it with its password")
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA):
        method = METHODS.get(info.compress_type, "an unknown method")
        raise UnreadableError(f"compressed with {method} (method {info.compress_type}): unpack it with 7z")
    return io.BufferedReader(Bounded(archive.open(info), info.compress_size), 1 << 17)
