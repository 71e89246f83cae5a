"""Documents on disk: jsonl compressed with zstd, one shard after another. The writer and the reader of the format."""

import hashlib
import io
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

import zstandard

from narae.log import Mistake


@dataclass
class Document:
    """A text with its origin. `id` is `<data set>/<archive>:<member>#<n>` and survives to the packed index."""

    id: str
    text: str
    source: str = ""
    licence: str = ""
    meta: dict[str, Any] = field(default_factory=dict)


_quoted = json.encoder.encode_basestring


def line_of(document: Document) -> bytes:
    """What json.dumps writes without blanks, field by field: that takes two thirds of its time."""
    meta = json.dumps(document.meta, ensure_ascii=False, separators=(",", ":")) if document.meta else "{}"
    parts = document.id, document.text, document.source, document.licence
    words = '{"id":%s,"text":%s,"source":%s,"licence":%s,"meta":%s}\n' % (*map(_quoted, parts), meta)  # noqa: UP031
    return words.encode()


FRAME = 4_000_000  # bytes of lines in a zstd frame: what several processes share out among them
PART = 1_250_000  # compressed bytes of a part at least
FIELDS = "id", "text", "source"


class LineWriter:
    """Lines of JSON into one zstd file, in frames of whole lines, each with a checksum."""

    def __init__(self, path: Path):
        self._stream = zstandard.ZstdCompressor(level=3, write_checksum=True).stream_writer(path.open("wb"))
        self._room = FRAME

    def write(self, line: bytes) -> None:
        self._stream.write(line)
        self._room -= len(line)
        if self._room <= 0:
            self._stream.flush(zstandard.FLUSH_FRAME)
            self._room = FRAME

    def close(self) -> None:
        self._stream.close()  # closes the file as well

    def __enter__(self) -> "LineWriter":
        return self

    def __exit__(
        self, error: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class ShardWriter:
    """Writes `<split>-00000.jsonl.zst` … of about `shard_bytes` of text each."""

    def __init__(self, folder: Path, split: str, shard_bytes: int = 256_000_000):
        self.folder, self.split, self.shard_bytes = folder, split, shard_bytes
        self.documents = self.bytes = 0
        self.sizes: list[int] = []  # bytes of text in each shard
        self._writer: LineWriter | None = None

    def write(self, document: Document) -> None:
        self.write_line(line_of(document), len(document.text.encode("utf-8", "surrogatepass")))

    def write_line(self, line: bytes, size: int) -> None:
        """A document that is JSON already, with the bytes of its text."""
        if self._writer is None or self.sizes[-1] >= self.shard_bytes:
            self.close()
            self._writer = LineWriter(self.folder / f"{self.split}-{len(self.sizes):05d}.jsonl.zst")
            self.sizes.append(0)
        self._writer.write(line)
        self.sizes[-1] += size
        self.documents += 1
        self.bytes += size

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()
            self._writer = None

    def __enter__(self) -> "ShardWriter":
        return self

    def __exit__(
        self, error: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def shards(folder: Path, split: str) -> list[Path]:
    return sorted(folder.glob(f"{split}-*.jsonl.zst"))


@dataclass(frozen=True)
class Part:
    """Some frames of a shard, by their bytes in the file: whole lines."""

    path: Path
    begin: int
    end: int


def parts(paths: Iterable[Path], least: int = PART) -> list[Part]:
    """Shards cut between frames, the same way whoever reads them; nothing is decompressed for it."""
    found = []
    for path in paths:
        begin = 0
        for end in _frame_ends(path):
            if end - begin >= least:
                found.append(Part(path, begin, end))
                begin = end
        if begin < path.stat().st_size:
            found.append(Part(path, begin, path.stat().st_size))
    return found


def _frame_ends(path: Path) -> Iterator[int]:
    """Where each zstd frame ends: a header, then blocks that say how long they are."""
    with path.open("rb") as file:
        while head := file.read(18):  # no header is longer
            try:
                frame = zstandard.get_frame_parameters(head)
                file.seek(zstandard.frame_header_size(head) - len(head), io.SEEK_CUR)
            except zstandard.ZstdError as error:
                raise Mistake(f"{path}: no zstd frame at byte {file.tell() - len(head):,} ({error})") from None
            last = False
            while not last:
                if len(block := file.read(3)) < 3:
                    raise Mistake(f"{path} ends within a frame: the shard is cut off")
                number = int.from_bytes(block, "little")
                last, kind, size = bool(number & 1), number >> 1 & 3, number >> 3
                file.seek(1 if kind == 1 else size, io.SEEK_CUR)  # kind 1: one byte that repeats
            yield file.seek(4 if frame.has_checksum else 0, io.SEEK_CUR)


def read_documents(paths: Iterable[Path | Part]) -> Iterator[Document]:
    """Stream the documents of some shards or parts, in order, one line in memory at a time."""
    for path in paths:
        number = 0
        try:
            for line in read_lines(path):
                yield Document(**json.loads(line))
                number += 1
        except (ValueError, TypeError) as error:
            raise damaged(path, number, error) from None


def damaged(path: Path | Part, number: int, error: Exception) -> Mistake:
    """Line `number` of a shard or part, counted from 0, is no document."""
    where = f"{path.path}, from byte {path.begin:,} on" if isinstance(path, Part) else f"{path}"
    return Mistake(f"{where}, line {number + 1}: not a document ({error}); the shard is damaged")


def read_table(part: Part) -> Any:
    """The ids, texts and sources of a part as an arrow table, at three times the speed of one line after another."""
    import pyarrow as pa

    return pa.concat_tables([_table(b"", part, 0, FIELDS), *read_tables(part)]).combine_chunks()


def read_tables(part: Part, fields: Sequence[str] = FIELDS, block: int = 2 * FRAME) -> Iterator[Any]:
    """A part in arrow tables of about `block` bytes, with these fields of its documents.

    Their bytes are the shard's: what a LineWriter wrote is UTF-8, and the checksums say that it still is.
    """
    number, lines = 0, b""
    try:
        with _opened(part) as stream:
            while more := stream.read(block):
                end = more.rfind(b"\n") + 1
                if not end:  # a document longer than a block
                    lines += more
                    continue
                lines += more[:end]
                found = _table(lines, part, number, fields)
                yield found
                number += len(found)
                lines = more[end:]
    except zstandard.ZstdError as error:
        raise damaged(part, number, error) from None
    if lines:
        yield _table(lines, part, number, fields)


def _table(lines: bytes, part: Part, number: int, fields: Sequence[str]) -> Any:
    import numpy as np
    import pyarrow as pa
    from pyarrow import json as table

    schema = pa.schema([(name, pa.large_string()) for name in fields])
    if not lines:
        return schema.empty_table()
    whole = table.ReadOptions(use_threads=False, block_size=len(lines) + 1)  # no document is too long for it
    wanted = table.ParseOptions(explicit_schema=schema, unexpected_field_behavior="ignore")
    try:
        found = table.read_json(pa.BufferReader(lines), whole, wanted)
        ends = int(np.count_nonzero(np.frombuffer(lines, np.uint8) == 10))  # bytes.count takes three times as long
        if found.num_rows == ends and not any(column.null_count for column in found.columns):
            return found
    except pa.ArrowInvalid:  # half a surrogate pair, which JSON can spell and UTF-8 cannot; or damage, which is told
        pass
    values: dict[str, list[str]] = {name: [] for name in fields}
    for line in lines.split(b"\n")[: -1 if lines.endswith(b"\n") else None]:
        try:
            document = Document(**json.loads(line))
            for name in fields:
                values[name].append(getattr(document, name).encode(errors="replace").decode())
        except (ValueError, TypeError, AttributeError) as error:
            raise damaged(part, number, error) from None
        number += 1
    return pa.table(values, schema)


def find_lines(paths: Iterable[Path], name: str) -> Iterator[dict[str, Any]]:
    """The records with this id; only they are parsed."""
    front = b'{"id":' + json.dumps(name, ensure_ascii=False).encode()
    for path in paths:
        yield from (json.loads(line) for line in read_lines(path) if line.startswith(front))


def read_lines(path: Path | Part) -> Iterator[bytes]:
    number = 0
    try:
        with _opened(path) as stream:
            for line in io.BufferedReader(stream, 1 << 20):
                yield line
                number += 1
    except zstandard.ZstdError as error:
        raise damaged(path, number, error) from None


def _opened(path: Path | Part) -> Any:
    source: Any = path
    if isinstance(path, Part):
        with path.path.open("rb") as file:
            file.seek(path.begin)
            source = io.BytesIO(file.read(path.end - path.begin))
    else:
        source = path.open("rb")
    return zstandard.ZstdDecompressor().stream_reader(source, read_across_frames=True)


def copies(name: str, weight: float) -> int:
    """How often a document comes where its source has this weight: 2.5 is two or three times."""
    whole = int(weight)
    return whole + (weight > whole and draw(name) < weight - whole)


def draw(name: str) -> float:
    """Between 0 and 1, by a document's id alone: what is drawn stays drawn when other documents come or go."""
    return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), "big") / 2**64
