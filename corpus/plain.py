"""Plain text and jsonl, compressed or not, as documents. Everything streams: a file may be larger than memory."""

import bz2
import codecs
import gzip
import io
import json
import lzma
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import zstandard

from corpus.zips import Bounded, UnreadableError

# Characters: a longer line or document goes on in a document of its own, so that memory stays bounded.
LONGEST = 16 << 20
HEAD = 1 << 16
MAGIC: dict[bytes, Callable[[Path, str], Any]] = {
    b"\x1f\x8b": gzip.GzipFile,
    b"BZh": bz2.open,
    b"\xfd7zXZ\x00": lzma.LZMAFile,
}
ZSTD = b"\x28\xb5\x2f\xfd"
BOMS = {codecs.BOM_UTF8: "utf-8-sig", codecs.BOM_UTF16_LE: "utf-16", codecs.BOM_UTF16_BE: "utf-16"}


@dataclass
class Raw:
    """A document as its source holds it. `fault`: it is none, and why; it is kept aside under this reason."""

    text: str
    meta: dict[str, Any] = field(default_factory=dict)
    fault: str = ""


def open_file(path: Path) -> io.BufferedReader:
    """The bytes of a file, decompressed where its first bytes say that it is compressed."""
    with path.open("rb") as file:
        head = file.read(6)
    stream: IO[bytes] | None = None
    if head.startswith(ZSTD):
        stream = zstandard.ZstdDecompressor().stream_reader(path.open("rb"), read_across_frames=True, closefd=True)
    for magic, opener in MAGIC.items():
        if head.startswith(magic):
            stream = opener(path, "rb")
    if stream is None:
        return io.BufferedReader(path.open("rb", buffering=0), 1 << 17)
    return io.BufferedReader(Bounded(stream, path.stat().st_size), 1 << 17)


def encoding_of(head: bytes, whole: bool) -> str:
    """UTF-8, UTF-16 or cp949, by the first bytes."""
    for bom, name in BOMS.items():
        if head.startswith(bom):
            return name
    names = ["utf-8", "cp949"]
    if b"\0" in head:
        # In UTF-16 a space has its zero byte on the side that the byte order says; only 가 (AC00) has it on the other.
        zeros = head[0::2].count(0), head[1::2].count(0)
        if max(zeros) <= 3 * min(zeros):
            raise UnreadableError("binary, not text")
        names = ["utf-16-le" if zeros[1] > zeros[0] else "utf-16-be"]
    for name in names:
        try:
            codecs.getincrementaldecoder(name)().decode(head, final=whole)
            return name
        except UnicodeDecodeError:
            continue
    raise UnreadableError("neither UTF-8, UTF-16 nor cp949 text")


def lines(stream: io.BufferedReader) -> Iterator[str]:
    """The lines of a stream, each without its end. What cannot be decoded becomes U+FFFD, which cleaning rejects."""
    head = stream.peek(HEAD)[:HEAD]
    encoding = encoding_of(head, whole=False)
    text = io.TextIOWrapper(stream, encoding=encoding, errors="replace")
    for line in iter(lambda: text.readline(LONGEST), ""):
        yield line[:-1] if line[-1] == "\n" else line


def read_text(stream: io.BufferedReader, document: str) -> Iterator[Raw]:
    """txt: a document is a line, what stands between blank lines, or the file."""
    block: list[str] = []
    size = 0
    for line in lines(stream):
        blank = not line.strip()
        if document == "line":
            if not blank:
                yield Raw(line)
            continue
        if block and ((blank and document == "blank") or size + len(line) > LONGEST):
            yield Raw("\n".join(block))
            block, size = [], 0
        if block or not blank:
            block.append(line)
            size += len(line) + 1
    if block:
        yield Raw("\n".join(block))


def read_jsonl(stream: io.BufferedReader, text_field: str) -> Iterator[Raw]:
    """One JSON object per line; the text lies in one field."""
    for number, line in enumerate(lines(stream), start=1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
            text = record[text_field]
            if not isinstance(text, str):
                raise TypeError
        except ValueError:
            yield Raw(line, {"line": number}, "no JSON")
        except (KeyError, TypeError):
            yield Raw(line, {"line": number}, f"no {text_field}")
        else:
            yield Raw(written(text), {key: written(record[key]) for key in ("id", "url", "title") if record.get(key)})


def written(value: object) -> str:
    """As text that can be written: JSON may spell half a surrogate pair."""
    text = str(value)
    try:
        text.encode()
    except UnicodeEncodeError:
        text = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text
