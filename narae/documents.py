"""Documents on disk: jsonl compressed with zstd, one shard after another. The writer and the reader of the format."""

import hashlib
import io
import json
from collections.abc import Iterable, Iterator
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


class LineWriter:
    """Lines of JSON into one zstd file."""

    def __init__(self, path: Path):
        self._stream = zstandard.ZstdCompressor(level=3).stream_writer(path.open("wb"))

    def write(self, line: bytes) -> None:
        self._stream.write(line)

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


def read_documents(paths: Iterable[Path]) -> Iterator[Document]:
    """Stream the documents of some shards, in order, one line in memory at a time."""
    for path in paths:
        number = 0
        try:
            for line in _lines(path):
                yield Document(**json.loads(line))
                number += 1
        except (ValueError, TypeError, zstandard.ZstdError) as error:
            raise Mistake(f"{path}, line {number + 1}: not a document ({error}); the shard is damaged") from None


def find_lines(paths: Iterable[Path], name: str) -> Iterator[dict[str, Any]]:
    """The records with this id; only they are parsed."""
    front = b'{"id":' + json.dumps(name, ensure_ascii=False).encode()
    for path in paths:
        yield from (json.loads(line) for line in _lines(path) if line.startswith(front))


def _lines(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        stream = zstandard.ZstdDecompressor().stream_reader(file, read_across_frames=True)
        yield from io.BufferedReader(stream, 1 << 20)


def draw(name: str) -> float:
    """Between 0 and 1, by a document's id alone: what is drawn stays drawn when other documents come or go."""
    return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), "big") / 2**64
