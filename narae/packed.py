"""The packed format: rows of token ids, where each came from, and a checksum of every row.

    python narae/packed.py --row 17                        # a row's text, and the documents that it came from
    python narae/packed.py --row 0 --split val --packed books

A split is rows of `sequence_length` tokens. Any row may end in padding; text is never encoded to the padding's id.

    train-00000.bin   rows × sequence_length ids, little endian: uint16, above 65,536 entries uint32
    train-00000.idx   12 bytes per entry, in order. An entry says: here begins document `ordinal`, at its token
                      piece × sequence_length. The first 8 bytes hold the place in their low 40 bits, counted in tokens
                      from the beginning of the split, padding included, and the piece in the high 24; the last 4 hold
                      the ordinal among the documents of the corpus's split, empty ones included
    train-00000.crc   4 bytes per row: its CRC-32
    val.src           4 bytes per document of the corpus's split, empty ones included: the number of its source, in
                      the order of the counts' `sources`. Val alone has it, where a model is judged by source

In a stream documents follow each other, whole: one may go on in the next row and in the next shard, and every entry has
piece 0. Where documents are fitted into rows, a long one is cut into pieces, each of which fills a row but the last.
Every shard but the last has the same number of rows.
"""

import bisect
import functools
import itertools
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO, Any, NamedTuple

import numpy as np

from narae.artifact import Artifact, maker, open_artifact
from narae.config import option, parse
from narae.documents import read_documents, shards
from narae.log import Mistake

INDEX = np.dtype([("start", "<u8"), ("ordinal", "<u4")])
PLACE_BITS = 40  # of an entry's first 8 bytes: a trillion tokens in a split, and 16 million pieces of a document
PLACE = (1 << PLACE_BITS) - 1
SOURCE = np.dtype("<u4")
UNNAMED = "other"  # the source of documents that name none
IGNORED = -100  # the label that torch's cross entropy leaves out


@dataclass
class Config:
    row: int = option(0, "the row to show")
    packed: str = option("sample", "the packed artifact")
    split: str = option("train", "train or val")


def main() -> None:
    config = parse(Config, about=__doc__)
    packed = open_artifact("packed", config.packed)
    rows = PackedRows(packed, config.split)
    if not 0 <= config.row < len(rows):
        raise Mistake(f"--row {config.row}: {packed.path}, {config.split}, has {len(rows):,} rows, from 0 on")
    parts = rows.origin(config.row)
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(parent(packed, "tokenizer").path / "tokenizer.json"))
    ids = rows[config.row]
    print(f"row {config.row} of {len(rows):,} in {packed.path}, {config.split}")
    for part in parts:
        last = part.offset + part.stop - part.start
        print(f"\n[{part.start}:{part.stop}]  {part.document}  tokens {part.offset}:{last}")
        print(tokenizer.decode(ids[part.start : part.stop].tolist(), skip_special_tokens=False))
    if parts[-1].stop < len(ids):
        print(f"\n[{parts[-1].stop}:{len(ids)}]  padding")


def dtype_for(entries: int) -> np.dtype[Any]:
    """The smallest type that holds every id of a vocabulary."""
    if entries > 1 << 32:
        raise Mistake(f"a vocabulary of {entries:,} entries: packed ids have 4 bytes at most, which is {1 << 32:,}")
    return np.dtype("<u2") if entries <= 1 << 16 else np.dtype("<u4")


class PackedWriter:
    """Writes runs of tokens into the shards of one split. The end of the `with` block pads the last row."""

    def __init__(self, folder: Path, split: str, dtype: np.dtype[Any], sequence_length: int, shard_rows: int, pad: int):
        self.folder, self.split, self.dtype, self.pad = folder, split, dtype, pad
        self.sequence_length, self.shard_tokens = sequence_length, shard_rows * sequence_length
        self.place = self.padding = self.documents = self.pieces = 0  # place: the tokens so far, padding included
        self._files: list[IO[bytes]] = []
        self._shard = -1
        self._sum = 0  # of the row that is not full yet

    def write(
        self, ids: np.ndarray, starts: np.ndarray, ordinals: np.ndarray, pieces: np.ndarray | None = None
    ) -> None:
        """A run of tokens; where in it documents begin, their ordinals, and the piece that each begins with (0)."""
        assert starts.size == ordinals.size and (pieces is None or pieces.size == starts.size)
        assert starts.size == 0 or (starts[0] >= 0 and starts[-1] < ids.size and (np.diff(starts) > 0).all())
        if ids.dtype != self.dtype:
            assert ids.size == 0 or 0 <= int(ids.min()) <= int(ids.max()) <= np.iinfo(self.dtype).max
            ids = ids.astype(self.dtype)
        if self.place + ids.size > PLACE:
            raise Mistake(f"{self.split} would have more than {PLACE:,} tokens: pack the corpus as several artifacts")
        places = np.asarray(starts, np.int64) + self.place
        index = np.empty(starts.size, INDEX)
        index["start"], index["ordinal"] = places, ordinals
        if pieces is not None:
            assert pieces.size == 0 or 0 <= int(pieces.min()) <= int(pieces.max()) < 1 << (64 - PLACE_BITS)
            index["start"] |= pieces.astype(np.uint64) << np.uint64(PLACE_BITS)
        self.padding += int(np.count_nonzero(ids == self.pad))
        self.pieces += starts.size
        self.documents += starts.size - (int(np.count_nonzero(pieces)) if pieces is not None else 0)
        while ids.size:
            shard, filled = divmod(self.place, self.shard_tokens)
            here = int(np.searchsorted(places, (shard + 1) * self.shard_tokens))
            room = self.shard_tokens - filled
            self._append(shard, ids[:room], index[:here])
            ids, index, places = ids[room:], index[here:], places[here:]

    def _append(self, shard: int, ids: np.ndarray, index: np.ndarray) -> None:
        if shard != self._shard:
            self._close()
            name = f"{self.split}-{shard:05d}"
            self._files = [(self.folder / f"{name}{suffix}").open("wb") for suffix in (".bin", ".idx", ".crc")]
            self._shard = shard
        data = np.ascontiguousarray(ids).data.cast("B")
        rows, entries, sums = self._files
        rows.write(data)
        entries.write(index.tobytes())
        sums.write(self._sums(data))
        self.place += ids.size

    def _sums(self, data: memoryview) -> bytes:
        """The checksums of the rows that these bytes complete; that of an unfinished row goes on with the next."""
        row_bytes = self.sequence_length * self.dtype.itemsize
        begin = 0
        sums = []
        for end in range(row_bytes - self.place * self.dtype.itemsize % row_bytes, len(data) + 1, row_bytes):
            sums.append(zlib.crc32(data[begin:end], self._sum))
            self._sum, begin = 0, end
        self._sum = zlib.crc32(data[begin:], self._sum)
        return np.array(sums, "<u4").tobytes()

    def _close(self) -> None:
        for file in self._files:
            file.close()
        self._files = []

    def __enter__(self) -> "PackedWriter":
        return self

    def __exit__(
        self, error: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            none = np.empty(0, np.int64)
            self.write(np.full(-self.place % self.sequence_length, self.pad, self.dtype), none, none)
        self._close()

    def write_sources(self, numbers: np.ndarray) -> None:
        """Of every document of the corpus's split the number of its source; the counts name them, in order."""
        numbers.astype(SOURCE).tofile(self.folder / f"{self.split}.src")

    @property
    def counts(self) -> dict[str, Any]:
        """Complete at the end of the `with` block."""
        return {
            "rows": self.place // self.sequence_length,
            "tokens": self.place - self.padding,
            "documents": self.documents,
            "pieces": self.pieces,
            "padding": self.padding,
        }


class Part(NamedTuple):
    """Tokens start:stop of a row are the tokens from `offset` on of this document."""

    document: str
    start: int
    stop: int
    offset: int


class PackedRows:
    """The rows of a split, read through memory maps: `rows[i]` is an int64 array of sequence_length ids.

    Every row that is read is compared with its checksum, and its index with the ends of documents in it.
    """

    def __init__(self, artifact: Artifact, split: str = "train"):
        counts = artifact.counts
        if split not in ("train", "val"):
            raise Mistake(f"--split {split}: a packed artifact has train and val")
        self.artifact, self.split = artifact, split
        self.counts: dict[str, Any] = counts[split]
        self.sequence_length: int = counts["sequence_length"]
        self.tokens: int = self.counts["tokens"]
        self.pad: int = counts["pad"]
        self.eos: int = counts["eos"]
        self.files = sorted(artifact.path.glob(f"{split}-*.bin"))
        dtype = np.dtype(counts["dtype"]).newbyteorder("<")
        self._bins = [self._map(file, np.dtype((dtype, self.sequence_length))) for file in self.files]
        self._indexes = [self._map(file.with_suffix(".idx"), INDEX) for file in self.files]
        self._sums = [self._map(file.with_suffix(".crc"), np.dtype("<u4")) for file in self.files]
        self._first = [0, *itertools.accumulate(len(rows) for rows in self._bins)]  # the first row of every shard
        self._agree("rows", self._first[-1], self.counts["rows"])
        self._agree("index entries", sum(map(len, self._indexes)), self.counts["pieces"])
        for file, rows, sums in zip(self.files, self._bins, self._sums, strict=True):
            self._agree(f"checksums of {file.name}", len(sums), len(rows))
        # What a shard begins with: the last entry before it. A document may be longer than a shard.
        self._carried = list(
            itertools.accumulate(
                self._indexes, lambda last, index: index[-1:] if len(index) else last, initial=np.empty(0, INDEX)
            )
        )

    def __len__(self) -> int:
        return self._first[-1]

    def __reduce__(self) -> tuple[Any, ...]:
        return PackedRows, (self.artifact, self.split)  # a worker maps the files again; pickling would copy them

    def __getitem__(self, row: int) -> np.ndarray:
        return self._ids(row).astype(np.int64)

    def labels(self, row: int) -> np.ndarray:
        """The ids, not shifted, with -100 where the row is padding."""
        labels = self[row]
        labels[self._used(labels) :] = IGNORED
        return labels

    def positions(self, row: int) -> np.ndarray:
        """Counts from 0 again at every document, and at the padding."""
        starts, _, _, used = self._parts(row)
        places = np.arange(self.sequence_length)
        edges = np.append(starts, used)
        return places - edges[np.searchsorted(edges, places, side="right") - 1]

    def documents(self, row: int) -> np.ndarray:
        """Which document each token belongs to, as its ordinal in the corpus's split; -1 where the row is padding."""
        starts, ordinals, _, used = self._parts(row)
        places = np.arange(self.sequence_length)
        found = ordinals[np.searchsorted(starts, places, side="right") - 1]
        found[used:] = -1
        return found

    def sources(self, row: int) -> np.ndarray:
        """Which source each token belongs to, as its place in `source_names`; -1 where the row is padding."""
        documents = self.documents(row)
        return np.where(documents < 0, -1, self._sources[documents])

    @property
    def source_names(self) -> list[str]:
        if "sources" not in self.counts:
            raise Mistake(f"{self.artifact.path}: {self.split} has no sources, only val does")
        return list(self.counts["sources"])

    @functools.cached_property
    def _sources(self) -> np.ndarray:
        file = self.artifact.path / f"{self.split}.src"
        names, found = self.source_names, self._map(file, SOURCE)
        self._agree(f"documents in {file.name}", len(found), sum(self.counts["corpus_shards"]))
        if len(found) and int(found.max()) >= len(names):
            raise Mistake(f"{file} names source {found.max()}, and there are {len(names)}: {self._remedy()}")
        return found.astype(np.int64)

    def begins(self, row: int) -> np.ndarray:
        """True at the first token of a document; where one only goes on, in a new row, it is not."""
        starts, _, offsets, _ = self._parts(row)
        found = np.zeros(self.sequence_length, bool)
        found[starts[offsets == 0]] = True
        return found

    def openings(self, source: str) -> np.ndarray:
        """Where the documents of a source begin: places in the split, in order."""
        index = np.concatenate([np.empty(0, INDEX), *self._indexes])
        index = index[index["start"] >> np.uint64(PLACE_BITS) == 0]
        of_source = self._sources[index["ordinal"]] == self.source_names.index(source)
        return index["start"][of_source].astype(np.int64)

    def origin(self, row: int) -> list[Part]:
        """The documents of a row by their ids in the corpus, in order."""
        starts, ordinals, offsets, used = self._parts(row)
        names = self._names(ordinals.tolist())
        stops = [*starts[1:].tolist(), used]
        return [
            Part(names[ordinal], start, stop, offset)
            for ordinal, start, stop, offset in zip(
                ordinals.tolist(), starts.tolist(), stops, offsets.tolist(), strict=True
            )
        ]

    def names(self, rows: Iterable[int]) -> dict[int, list[str]]:
        """The documents of several rows by their ids: each shard of the corpus is read once at most."""
        ordinals = {row: self._parts(row)[1].tolist() for row in rows}
        names = self._names(list(itertools.chain.from_iterable(ordinals.values())))
        return {row: [names[one] for one in found] for row, found in ordinals.items()}

    def _map(self, file: Path, dtype: np.dtype[Any]) -> np.ndarray:
        size = file.stat().st_size if file.is_file() else -1
        if size < 0 or size % dtype.itemsize:
            met = "is missing" if size < 0 else f"has {size:,} bytes, not a multiple of {dtype.itemsize}"
            raise Mistake(f"{file} {met}: {self._remedy()}")
        plain = dtype.base
        if not size:  # nothing cannot be mapped
            return np.empty((0, *dtype.shape), plain)
        return np.memmap(file, plain, "r").view(np.ndarray).reshape(-1, *dtype.shape)

    def _agree(self, what: str, found: int, expected: int) -> None:
        if found != expected:
            raise Mistake(
                f"{self.artifact.path}, {self.split}, has {found:,} {what}, not {expected:,}: {self._remedy()}"
            )

    def _remedy(self) -> str:
        return f"run `{maker('packed', self.artifact.path.name)} --overwrite`"

    def _locate(self, row: int) -> tuple[int, int]:
        if not 0 <= row < len(self):
            raise IndexError(f"row {row} of {len(self):,}")
        shard = bisect.bisect_right(self._first, row) - 1
        return shard, row - self._first[shard]

    def _ids(self, row: int) -> np.ndarray:
        shard, place = self._locate(row)
        ids = self._bins[shard][place]
        if zlib.crc32(ids) != self._sums[shard][place]:
            message = f"row {row} in {self.files[shard]} does not have its checksum: {self._remedy()}"
            raise Mistake(message, every_rank=True)
        return ids

    def _used(self, ids: np.ndarray) -> int:
        """Where the padding begins."""
        if ids[-1] != self.pad:
            return len(ids)
        return int(np.flatnonzero(ids != self.pad)[-1]) + 1

    def _parts(self, row: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, int]:
        """Where documents begin in the row, their ordinals, the token that each begins with, where padding begins."""
        ids = self._ids(row)
        used = self._used(ids)
        shard, _ = self._locate(row)
        index, begin = self._indexes[shard], row * self.sequence_length
        low = bisect.bisect_right(index["start"], begin, key=_place)
        high = bisect.bisect_left(index["start"], begin + used, lo=low, key=_place)
        found = np.concatenate([index[low - 1 : low] if low else self._carried[shard], index[low:high]])
        places = (found["start"] & np.uint64(PLACE)).astype(np.int64) - begin
        ends = np.flatnonzero(ids[: used - 1] == self.eos) + 1
        if not places.size or not np.array_equal(places[1:], ends):
            file = self.files[shard].with_suffix(".idx")
            message = f"row {row} has other ends of documents than {file} says: {self._remedy()}"
            raise Mistake(message, every_rank=True)
        offsets = (found["start"] >> np.uint64(PLACE_BITS)).astype(np.int64) * self.sequence_length
        offsets[0] -= places[0]
        places[0] = 0
        return places, found["ordinal"].astype(np.int64), offsets, used

    def _names(self, ordinals: list[int]) -> dict[int, str]:
        """The ids of some documents. The counts name the documents of every shard, so that only theirs are read."""
        corpus = parent(self.artifact, "corpus")
        names, first = {}, 0
        for file, count in zip(shards(corpus.path, self.split), self.counts["corpus_shards"], strict=True):
            wanted = [ordinal - first for ordinal in ordinals if first <= ordinal < first + count]
            if wanted:
                for number, document in enumerate(itertools.islice(read_documents([file]), max(wanted) + 1)):
                    names[first + number] = document.id
            first += count
        return names


def _place(start: np.uint64) -> int:
    return int(start) & PLACE


def parent(artifact: Artifact, kind: str) -> Artifact:
    """The artifact of that kind from which this one was made."""
    names = [one["name"] for one in artifact.manifest["parents"] if one["kind"] == kind]
    return open_artifact(kind, names[0])


if __name__ == "__main__":
    main()
