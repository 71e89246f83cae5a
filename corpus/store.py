"""Where a piece of the corpus lies between the stages: its clean documents, and what is known of each.

The documents are lines of JSON in zstd frames of about 64 kB, so that a single text can be fetched for the price of
unpacking one frame: 70 µs, and 230 in frames of 256 kB, which are 8 % smaller. A piece is written in a folder beside
its place and renamed in: it is there whole or not at all.
"""

import io
import json
import sys
from array import array
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import zstandard

from narae.documents import Document, line_of

FRAME = 64_000  # bytes of JSON
# Of each document: its frame's place in the file, its own place in the frame, its bytes before and after cleaning, and
# the number that decides between train and val.
COLUMNS = {"frame": "Q", "start": "I", "before": "I", "after": "I", "draw": "d"}


class PieceWriter:
    def __init__(self, folder: Path):
        self.folder = folder
        self.file = (folder / "documents.jsonl.zst").open("wb")
        self.compress = zstandard.ZstdCompressor(level=1).compress
        self.lines: list[bytes] = []
        self.room = self.at = 0
        self.columns: dict[str, array[Any]] = {name: array(code) for name, code in COLUMNS.items()}

    def write(self, document: Document, before: int, after: int, draw: float) -> None:
        line = line_of(document)
        for name, value in (("frame", self.at), ("start", self.room), ("before", before), ("after", after)):
            self.columns[name].append(value)
        self.columns["draw"].append(draw)
        self.lines.append(line)
        self.room += len(line)
        if self.room >= FRAME:
            self._frame()

    def _frame(self) -> None:
        self.at += self.file.write(self.compress(b"".join(self.lines)))
        self.lines, self.room = [], 0

    def close(self, counts: dict[str, Any]) -> None:
        if self.lines:
            self._frame()
        self.file.close()
        for name, column in self.columns.items():
            with (self.folder / name).open("wb") as file:
                column.tofile(file)
        (self.folder / "counts.json").write_text(json.dumps(counts, ensure_ascii=False), encoding="utf-8")


class Piece:
    """What a PieceWriter published. Nothing is kept in memory but the frame that was read last."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.documents = folder / "documents.jsonl.zst"
        self._at, self._frame = -1, b""

    def counts(self) -> dict[str, Any]:
        return json.loads((self.folder / "counts.json").read_text(encoding="utf-8"))

    def column(self, name: str) -> np.ndarray:
        return np.fromfile(self.folder / name, dtype=COLUMNS[name])

    def lines(self) -> Iterator[bytes]:
        """The documents in order, each as its line of JSON."""
        with self.documents.open("rb") as file:
            unpack = zstandard.ZstdDecompressor()
            yield from io.BufferedReader(unpack.stream_reader(file, read_across_frames=True), 1 << 20)

    def document(self, number: int) -> Document:
        frame, start = self._value("frame", number), self._value("start", number)
        if frame != self._at:
            parts, unpack = [], zstandard.ZstdDecompressor().decompressobj()
            with self.documents.open("rb") as file:
                file.seek(frame)
                while not unpack.eof:
                    parts.append(unpack.decompress(file.read(1 << 16)))
            self._at, self._frame = frame, b"".join(parts)
        return Document(**json.loads(self._frame[start : self._frame.index(b"\n", start)]))

    def _value(self, name: str, number: int) -> int:
        size = array(COLUMNS[name]).itemsize
        with (self.folder / name).open("rb", buffering=0) as file:
            file.seek(number * size)
            return int.from_bytes(file.read(size), sys.byteorder)
