"""Documents on disk: jsonl compressed with zstd, one shard after another. The writer and the reader of the format."""

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


class ShardWriter:
    """Writes `<split>-00000.jsonl.zst` … of about `shard_bytes` of text each."""

    def __init__(self, folder: Path, split: str, shard_bytes: int = 256_000_000):
        self.folder, self.split, self.shard_bytes = folder, split, shard_bytes
        self.documents = self.bytes = self.shards = 0
        self._room = 0
        self._file: io.BufferedWriter | None = None
        self._stream: zstandard.ZstdCompressionWriter | None = None

    def write(self, document: Document) -> None:
        size = len(document.text.encode("utf-8", "surrogatepass"))
        if self._stream is None or self._room <= 0:
            self._next()
        assert self._stream is not None
        line = json.dumps(document.__dict__, ensure_ascii=False, separators=(",", ":"))
        self._stream.write(line.encode() + b"\n")
        self._room -= size
        self.documents += 1
        self.bytes += size

    def _next(self) -> None:
        self.close()
        path = self.folder / f"{self.split}-{self.shards:05d}.jsonl.zst"
        self._file = path.open("wb")
        self._stream = zstandard.ZstdCompressor(level=3).stream_writer(self._file)
        self.shards += 1
        self._room = self.shard_bytes

    def close(self) -> None:
        if self._stream is not None:
            self._stream.close()  # closes the file as well
            self._stream = None

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
        with path.open("rb") as file, zstandard.ZstdDecompressor().stream_reader(file) as stream:
            number = 0
            try:
                for line in io.TextIOWrapper(stream, encoding="utf-8"):
                    yield Document(**json.loads(line))
                    number += 1
            except (ValueError, TypeError, zstandard.ZstdError) as error:
                raise Mistake(f"{path}, line {number + 1}: not a document ({error}); the shard is damaged") from None
