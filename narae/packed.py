"""The packed format: rows of token ids, where each came from, and the order in which training reads them.

    python narae/packed.py --row 17                        # a row's text, and the documents that it came from
    python narae/packed.py --row 0 --split val --packed books

A split is one sequence of tokens, document after document, cut into rows of `sequence_length`; the last row is padded.

    train-00000.bin   rows × sequence_length ids, little endian: uint16, above 65,536 entries uint32
    train-00000.idx   per document that begins in this shard 12 bytes: its first token, counted from the beginning of
                      the split (8), and its place among the documents of the corpus's split, empty ones included (4)

Every shard but the last has the same number of rows. A document may go on in the next shard; a row may not.
"""

import bisect
import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO, Any, NamedTuple

import numpy as np

from narae.artifact import Artifact, open_artifact
from narae.config import option, parse
from narae.documents import read_documents, shards
from narae.log import Mistake

INDEX = np.dtype([("start", "<u8"), ("ordinal", "<u4")])
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
    """Streams documents into the shards of one split. The end of the `with` block pads the last row."""

    def __init__(self, folder: Path, split: str, dtype: np.dtype[Any], sequence_length: int, shard_rows: int, pad: int):
        self.folder, self.split, self.dtype, self.pad = folder, split, dtype, pad
        self.sequence_length, self.shard_tokens = sequence_length, shard_rows * sequence_length
        self.tokens = self.documents = 0
        self._files: list[IO[bytes]] = []
        self._shard = -1

    def write(self, ids: np.ndarray, lengths: np.ndarray, ordinals: np.ndarray) -> None:
        """Some documents, one after another in `ids`: how long each is, and its ordinal."""
        assert ids.size == int(lengths.sum()) and lengths.size == ordinals.size
        assert ids.size == 0 or 0 <= int(ids.min()) <= int(ids.max()) <= np.iinfo(self.dtype).max
        index = np.empty(lengths.size, INDEX)
        index["start"] = self.tokens + np.cumsum(lengths) - lengths
        index["ordinal"] = ordinals
        ids = ids.astype(self.dtype, copy=False)
        while ids.size:
            shard, filled = divmod(self.tokens, self.shard_tokens)
            self._open(shard)
            end = (shard + 1) * self.shard_tokens
            here = int(np.searchsorted(index["start"], end))
            room = self.shard_tokens - filled
            self._files[0].write(ids[:room].tobytes())
            self._files[1].write(index[:here].tobytes())
            self.tokens += min(room, ids.size)
            ids, index = ids[room:], index[here:]
        self.documents += lengths.size

    def _open(self, shard: int) -> None:
        if shard != self._shard:
            self._close()
            name = f"{self.split}-{shard:05d}"
            self._files = [(self.folder / f"{name}{suffix}").open("wb") for suffix in (".bin", ".idx")]
            self._shard = shard

    def _close(self) -> None:
        for file in self._files:
            file.close()
        self._files = []

    def __enter__(self) -> "PackedWriter":
        return self

    def __exit__(
        self, error: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._files and error is None:
            self._files[0].write(np.full(self.padding, self.pad, self.dtype).tobytes())
        self._close()

    @property
    def padding(self) -> int:
        return -self.tokens % self.sequence_length

    @property
    def counts(self) -> dict[str, Any]:
        rows = (self.tokens + self.padding) // self.sequence_length
        return {"rows": rows, "tokens": self.tokens, "documents": self.documents, "padding": self.padding}


class Part(NamedTuple):
    """Tokens start:stop of a row are the tokens from `offset` on of this document."""

    document: str
    start: int
    stop: int
    offset: int


class PackedRows:
    """The rows of a split, read through memory maps: `rows[i]` is an int64 array of sequence_length ids."""

    def __init__(self, artifact: Artifact, split: str = "train"):
        counts = artifact.counts
        if split not in ("train", "val"):
            raise Mistake(f"--split {split}: a packed artifact has train and val")
        self.artifact, self.split = artifact, split
        self.counts: dict[str, Any] = counts[split]
        self.sequence_length: int = counts["sequence_length"]
        self.tokens: int = self.counts["tokens"]
        dtype = np.dtype(counts["dtype"]).newbyteorder("<")
        files = sorted(artifact.path.glob(f"{split}-*.bin"))
        self._bins = [np.memmap(file, dtype, "r").reshape(-1, self.sequence_length) for file in files]
        self._indexes = [_index(file.with_suffix(".idx")) for file in files]
        self._first = [0, *itertools.accumulate(len(rows) for rows in self._bins)]  # the first row of every shard
        if self._first[-1] != self.counts["rows"]:
            raise Mistake(f"{artifact.path} has {self._first[-1]:,} rows, its manifest says {self.counts['rows']:,}")

    def __len__(self) -> int:
        return self._first[-1]

    def __reduce__(self) -> tuple[Any, ...]:
        return PackedRows, (self.artifact, self.split)  # a worker maps the files again; pickling would copy them

    def __getitem__(self, row: int) -> np.ndarray:
        shard, place = self._locate(row)
        return self._bins[shard][place].astype(np.int64)

    def labels(self, row: int) -> np.ndarray:
        """The ids, not shifted, with -100 where the row is padding."""
        labels = self[row]
        labels[self._used(row) :] = IGNORED
        return labels

    def positions(self, row: int) -> np.ndarray:
        """Counts from 0 again at every document, and at the padding."""
        starts, _, _ = self._parts(row)
        places = np.arange(self.sequence_length)
        edges = np.append(starts, self._used(row))
        return places - edges[np.searchsorted(edges, places, side="right") - 1]

    def documents(self, row: int) -> np.ndarray:
        """Which document each token belongs to, as its ordinal in the corpus's split; -1 where the row is padding."""
        starts, ordinals, _ = self._parts(row)
        places = np.arange(self.sequence_length)
        found = ordinals[np.searchsorted(starts, places, side="right") - 1]
        found[self._used(row) :] = -1
        return found

    def origin(self, row: int) -> list[Part]:
        """The documents of a row by their ids in the corpus, in order."""
        starts, ordinals, offset = self._parts(row)
        stops = [*starts[1:].tolist(), self._used(row)]
        names = self._names(ordinals.tolist())
        return [
            Part(names[ordinal], start, stop, 0 if number else offset)
            for number, (ordinal, start, stop) in enumerate(zip(ordinals.tolist(), starts.tolist(), stops, strict=True))
        ]

    def _locate(self, row: int) -> tuple[int, int]:
        if not 0 <= row < len(self):
            raise IndexError(f"row {row} of {len(self):,}")
        shard = bisect.bisect_right(self._first, row) - 1
        return shard, row - self._first[shard]

    def _used(self, row: int) -> int:
        return min(self.sequence_length, self.tokens - row * self.sequence_length)

    def _parts(self, row: int) -> tuple[np.ndarray, np.ndarray, int]:
        """Where documents begin in the row, their ordinals, and how many tokens of the first lie in earlier rows."""
        shard, _ = self._locate(row)
        begin = row * self.sequence_length
        starts = self._indexes[shard]["start"]
        low = bisect.bisect_right(starts, begin)
        high = bisect.bisect_left(starts, begin + self.sequence_length, lo=low)
        inside = self._indexes[shard][low:high]
        # A document longer than a shard leaves an index without entries: the one before it has the beginning.
        earlier = next(index for index in (self._indexes[shard][:low], *self._indexes[:shard][::-1]) if len(index))[-1]
        places = np.append(0, inside["start"].astype(np.int64) - begin)
        ordinals = np.append(earlier["ordinal"], inside["ordinal"]).astype(np.int64)
        return places, ordinals, begin - int(earlier["start"])

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


def _index(file: Path) -> np.ndarray:
    return np.memmap(file, INDEX, "r") if file.stat().st_size else np.empty(0, INDEX)  # nothing cannot be mapped


def parent(artifact: Artifact, kind: str) -> Artifact:
    """The artifact of that kind from which this one was made."""
    names = [one["name"] for one in artifact.manifest["parents"] if one["kind"] == kind]
    return open_artifact(kind, names[0])


def batch(step: int, global_batch: int, rank: int, ranks: int, *, rows: int, seed: int) -> np.ndarray:
    """The rows of one rank in one step. Rank after rank they are the global batch, however many ranks there are.

    Steps go through one epoch after another; a batch may hold the end of one and the beginning of the next.
    """
    if global_batch % ranks:
        raise Mistake(f"a global batch of {global_batch} rows cannot be shared evenly by {ranks} ranks")
    share = global_batch // ranks
    begin = step * global_batch + rank * share
    return order(np.arange(begin, begin + share), rows, seed)


def order(position: np.ndarray | int, rows: int, seed: int) -> np.ndarray:
    """The row at each position of the endless sequence of epochs, every epoch a permutation of its own.

    A pure function: nothing is kept in memory, and a resume at any depth costs what the first step costs. It is a
    Feistel network over pairs (left, right) that number left × width + right, with addition instead of xor, so that
    any width and height will do; a number that falls outside the rows walks on along its cycle until it is inside.
    """
    if rows < 1:
        raise Mistake(f"an order over {rows} rows: there is nothing to read")
    epoch, number = np.divmod(np.atleast_1d(np.asarray(position, np.int64)).astype(np.uint64), np.uint64(rows))
    key = _mix(_mix(np.full_like(epoch, seed % 2**64)) + epoch)
    height = int(np.ceil(np.sqrt(rows)))
    width = -(-rows // height)
    number = _permute(number, key, height, width)
    while (outside := np.flatnonzero(number >= rows)).size:
        number[outside] = _permute(number[outside], key[outside], height, width)
    return number.astype(np.int64)


def _permute(number: np.ndarray, key: np.ndarray, height: int, width: int) -> np.ndarray:
    left, right = np.divmod(number, np.uint64(width))
    for turn in _turns():
        left = (left + _mix(right + _mix(key + turn)) % np.uint64(height)) % np.uint64(height)
        right = (right + _mix(left + _mix(key - turn)) % np.uint64(width)) % np.uint64(width)
    return left * np.uint64(width) + right


def _turns() -> Iterator[np.uint64]:
    return (np.uint64(turn) for turn in range(1, 5))


def _mix(values: np.ndarray) -> np.ndarray:
    """The finalizer of splitmix64: each bit of the result depends on each bit of the value."""
    values = values + np.uint64(0x9E3779B97F4A7C15)
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


if __name__ == "__main__":
    main()
