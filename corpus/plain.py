"""Plain text and jsonl, compressed or not, as documents. Everything streams: a file may be larger than memory."""

import bz2
import codecs
import gzip
import io
import json
import lzma
import math
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import IO, Any

import zstandard

from corpus.zips import Bounded, UnreadableError, opened

# Characters: a longer line or document goes on in a document of its own, so that memory stays bounded.
LONGEST = 16 << 20
HEAD = 1 << 16
BLOCK = 1 << 18  # bytes decoded at once; 64 KiB and 1 MiB are both 5 % slower
# Of characters that fit no encoding: past this share it is another encoding, or no text.
SPOILT = 0.01
BOMS = {
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF32_LE: "utf-32",  # before UTF-16, which begins with the same two bytes
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
PACKED_NAME = re.compile(r"\.(gz|bz2|xz|zst)$", re.IGNORECASE)
META = frozenset(("id", "url", "title", "author", "year", "date", "category", "kdc"))
NOTE = 1000  # characters: more is no note about a document, but text


@dataclass(slots=True)
class Raw:
    """A document as its source holds it. `fault`: it is none, and why; it is kept aside under this reason."""

    text: str
    meta: dict[str, Any] = field(default_factory=dict)
    fault: str = ""


class Zstd:
    """Frames of zstd, one after another. zstandard's own reader takes a file that was cut off for a shorter one."""

    def __init__(self, file: IO[bytes]):
        self.file, self.frame = file, zstandard.ZstdDecompressor().decompressobj()
        self.packed = self.text = b""
        self.at = 0
        self.inside = False  # a frame has begun and not ended

    def read1(self, size: int) -> bytes:
        while self.at == len(self.text):
            packed = self.packed or self.file.read(4096)  # 4 KiB of the worst bomb are 128 MiB
            if not packed and self.inside:
                raise EOFError("the last frame does not end")
            if not packed:
                return b""
            self.text, self.at = self.frame.decompress(packed), 0
            self.inside, self.packed = not self.frame.eof, self.frame.unused_data
            if self.frame.eof:
                self.frame = zstandard.ZstdDecompressor().decompressobj()
        piece = self.text[self.at : self.at + size]
        self.at += len(piece)
        return piece

    def close(self) -> None:
        self.file.close()


PACKED: dict[bytes, Callable[[Any], Any]] = {
    b"\x28\xb5\x2f\xfd": Zstd,
    b"\x1f\x8b": lambda file: gzip.GzipFile(fileobj=file),
    b"BZh": bz2.BZ2File,
    b"\xfd7zXZ\x00": lzma.LZMAFile,
}


def open_file(path: Path) -> io.BufferedReader:
    """The bytes of a file, decompressed where its first bytes say that it is compressed."""
    return unpacked(io.BufferedReader(opened(path), 1 << 17), path.stat().st_size)


def unpacked(stream: io.BufferedReader, size: int) -> io.BufferedReader:
    opener = packer(stream.peek(6))
    return io.BufferedReader(Bounded(opener(stream), size, under=stream), 1 << 17) if opener else stream


def packer(head: bytes) -> Callable[[Any], Any] | None:
    return next((opener for magic, opener in PACKED.items() if head.startswith(magic)), None)


def encoding_of(head: bytes, whole: bool = False) -> str:
    """UTF-8, UTF-16 or cp949, by the first bytes. UTF-8 where they are ASCII; a few spoilt characters do no harm."""
    for bom, name in BOMS.items():
        if head.startswith(bom):
            return name
    zeros = head[0::2].count(0), head[1::2].count(0)
    if head and sum(zeros) == len(head):
        raise UnreadableError("nothing but zero bytes: a download that did not finish, repeat it")
    # In UTF-16 a space has its zero byte on the side that the byte order says; only 가 (AC00) has it on the other.
    wide = ["utf-16-le" if zeros[1] > zeros[0] else "utf-16-be"] * (max(zeros) > 3 * min(zeros))
    names = ["utf-8", "cp949"]
    if sum(zeros) * 4 > len(head):
        names = wide
    elif sum(zeros) * 100 > len(head):
        names = ["utf-8", *wide, "cp949"]
    for name in names:
        try:
            codecs.getincrementaldecoder(name)().decode(head, final=whole)
            return name
        except UnicodeDecodeError:
            continue
    for name in names:
        text = codecs.getincrementaldecoder(name)("replace").decode(head, final=whole)
        if text.count("\ufffd") <= SPOILT * len(text):
            return name
    raise UnreadableError("neither UTF-8, UTF-16 nor cp949 text" if names else "binary, not text")


def told_by(head: bytes) -> str:
    """Its encoding, "ascii" as long as nothing tells more."""
    return "ascii" if head.isascii() and b"\0" not in head else encoding_of(head)


def blocks(stream: io.BufferedReader, encoding: str = "") -> Iterator[tuple[str, bool]]:
    """Whole lines, many at once, without the end of the last; any line end is \\n. What cannot be decoded is U+FFFD.

    (…, True) is a piece, LONGEST characters, of a line that goes on in what comes next; its end comes alone, too.
    """
    encoding = encoding or told_by(stream.peek(HEAD)[:HEAD])
    decoder = codecs.getincrementaldecoder("utf-8" if encoding == "ascii" else encoding)("replace")
    ends = io.IncrementalNewlineDecoder(None, translate=True)
    held: list[str] = []  # of a line that has not ended yet
    size, goes_on = 0, False
    while data := stream.read1(min(BLOCK, LONGEST // 2)):  # `read` drops what came before damage
        if encoding == "ascii" and not data.isascii():
            # What a file that began with ASCII turns out to be: what spoils the fewest characters.
            encoding = min(("utf-8", "cp949"), key=lambda name: data.decode(name, "replace").count("\ufffd"))
            decoder = codecs.getincrementaldecoder(encoding)("replace")
        first, newline, rest = ends.decode(decoder.decode(data)).partition("\n")
        held.append(first)
        size += len(first)
        if size > LONGEST:
            line = "".join(held)
            while len(line) > LONGEST:
                yield line[:LONGEST], True
                line, goes_on = line[LONGEST:], True
            held, size = [line], len(line)
        if newline:
            whole, more, rest = rest.rpartition("\n")
            line = "".join(held)
            if more and not goes_on:
                line = f"{line}\n{whole}"
            yield line, False
            if more and goes_on:
                yield whole, False
            held, size, goes_on = [rest], len(rest), False
    held.append(ends.decode(decoder.decode(b"", final=True), final=True))
    line = "".join(held).removesuffix("\n")
    if line or goes_on:
        yield line, False


def lines(stream: io.BufferedReader, encoding: str = "") -> Iterator[str]:
    """The lines of a stream, each without its end. What cannot be decoded becomes U+FFFD, which cleaning rejects."""
    for block, _ in blocks(stream, encoding):
        yield from block.split("\n")


def read_text(stream: io.BufferedReader, document: str, encoding: str = "") -> Iterator[Raw]:
    """txt: a document is a line, what stands between blank lines, or the file."""
    if document == "line":
        yield from (Raw(line) for line in lines(stream, encoding) if line and not line.isspace())
        return
    block: list[str] = []
    size = 0
    for line in lines(stream, encoding):
        blank = not line or line.isspace()
        if block and ((blank and document == "blank") or size + len(line) > LONGEST):
            yield Raw("\n".join(block))
            block, size = [], 0
        if block or not blank:
            block.append(line)
            size += len(line) + 1
    if block:
        yield Raw("\n".join(block))


def read_jsonl(stream: io.BufferedReader, text_field: str, encoding: str = "") -> Iterator[Raw]:
    """One JSON object per line; the text lies in one field."""
    decode = json.JSONDecoder().raw_decode  # json.loads looks for blanks around it first: 1.7 s per million, not 1.1
    number, skipping = 0, False
    for block, goes_on in blocks(stream, encoding):
        if goes_on or skipping:
            if not skipping:
                number += 1
                yield Raw(block[:NOTE], {"line": number}, "line too long")
            skipping = goes_on
            continue
        halves = "\\u" in block  # JSON may spell half a surrogate pair
        for line in block.split("\n"):
            number += 1
            try:
                record, end = decode(line)
            except (ValueError, RecursionError):
                end = -1
            if end != len(line):
                if not (bare := line.strip("\ufeff \t")):
                    continue
                try:
                    record = json.loads(bare)
                except (ValueError, RecursionError):
                    yield Raw(line, {"line": number}, "no JSON")
                    continue
            text = record.get(text_field) if type(record) is dict else None
            if type(text) is str:
                yield Raw(written(text) if halves else text, notes(record, text_field, halves))
            else:
                yield Raw(line, {"line": number}, f"no {text_field}")


def notes(record: Mapping[str, Any], text_field: str, halves: bool = False) -> dict[str, str]:
    """What a record says of its text, as far as it is small."""
    found = {}
    for key, value in record.items():
        if key in META and key != text_field:
            if not isinstance(value, str):
                value = str(value) if isinstance(value, (int, float, date)) else ""
            if value and len(value) <= NOTE:
                found[key] = written(value) if halves else value
    return found


def written(value: object) -> str:
    """As text that can be written: JSON may spell half a surrogate pair."""
    text = str(value)
    try:
        text.encode()
    except UnicodeEncodeError:
        text = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text


class Section(io.RawIOBase):
    """The bytes of a file from one place to another."""

    def __init__(self, file: IO[bytes], begin: int, end: int):
        self.file, self.left = file, max(0, end - begin)
        file.seek(begin)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        count: int = self.file.readinto(memoryview(buffer)[: self.left])  # type: ignore[attr-defined]
        self.left -= count
        return count

    def close(self) -> None:
        self.file.close()
        super().close()


def boundary(file: IO[bytes], at: int, between_blank: bool, encoding: str, before: float = math.inf) -> int:
    """The first byte from `at` on where a line begins, or, between blank lines, where one begins behind a blank one.

    Sections from the boundary of one byte to that of another hold whole documents, each of them once. It is not looked
    for past `before`: what is given then lies behind that, too.
    """
    if at == 0:
        return 0
    # The line that holds the byte in front may be blank. One of more than NOTE blanks is not seen to be.
    place = max(0, at - 1 - NOTE) if between_blank else at - 1
    file.seek(place)
    front = file.read(at - 1 - place)
    whole = b"\n" in front or place == 0
    place += front.rfind(b"\n") + 1 if whole else len(front)
    file.seek(place)
    while place < before and (piece := file.readline(HEAD)):
        place += len(piece)
        ends = piece.endswith(b"\n")
        blank = whole and len(piece) <= NOTE and not piece.decode(encoding, "replace").strip()
        if ends and (blank or not between_blank):
            break
        whole = ends
    return place
