"""Duplicates: the same text again, and near-copies with a few words changed.

A document becomes a digest, a sketch (64 MinHash values over its character 5-grams, spaces left out) and 16 band keys
of 4 values each. Two documents that share a key are compared, and the later one is dropped where the exact Jaccard
similarity of their 5-grams reaches the threshold. At 0.8 all but one pair in 4,000 share a key.
Memory: 136 bytes per document, and 8 more for its place in the spool. Only documents that stay are compared with,
so a page that occurs 10,000 times costs 10,000 looks, not 50 million. Speed: 30 MB/s and core.
"""

import functools
import hashlib
import json
import tempfile
from array import array
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from narae.documents import Document

SHINGLE, VALUES, BANDS = 5, 64, 16
# Where the sketches say less than this below the threshold, the texts are not fetched: 4 standard errors of 64 values.
MARGIN = 0.2
# Documents compared with per key. More share one only where a phrase is everywhere; the other 15 keys tell them apart.
BUCKET = 256

_random = np.random.Generator(np.random.PCG64(653))
_CODES = _random.integers(1 << 62, 1 << 63, SHINGLE, dtype=np.uint64) | np.uint64(1)
_FACTORS = _random.integers(0, 1 << 32, VALUES, dtype=np.uint32) | np.uint32(1)
_OFFSETS = _random.integers(0, 1 << 32, VALUES, dtype=np.uint32)
_MIX = np.uint64(0x9E3779B97F4A7C15)


@dataclass
class Marks:
    """What is kept of some documents to compare them by, one row each."""

    digests: np.ndarray  # uint64
    keys: np.ndarray  # uint32 [documents, BANDS]
    sketches: np.ndarray  # uint8 [documents, VALUES]: the low bytes, which agree by chance once in 256


def solid(text: str) -> str:
    return "".join(text.split())


def mark(texts: list[str]) -> Marks:
    """All texts at once: numpy then works on one long array of characters."""
    texts = [solid(text).ljust(SHINGLE, "\0") for text in texts]
    digests = [int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little") for text in texts]
    values = np.empty((len(texts), VALUES), dtype=np.uint32)
    if texts:
        codes = np.frombuffer("".join(texts).encode("utf-32-le"), dtype="<u4").astype(np.uint64)
        count = len(codes) - SHINGLE + 1
        mixed = np.zeros(count, dtype=np.uint64)
        for place, code in enumerate(_CODES):
            mixed += codes[place : place + count] * code
        mixed ^= mixed >> np.uint64(29)
        mixed *= _MIX
        shingles = (mixed >> np.uint64(32)).astype(np.uint32)
        lengths = np.array([len(text) for text in texts])
        starts = np.cumsum(lengths) - lengths
        # Slices end before the shingles that reach into the next text; reduceat wants the gaps named as well.
        edges = np.stack([starts, starts + lengths - SHINGLE + 1], axis=1).ravel()[:-1]
        hashed = np.empty_like(shingles)
        for place, (factor, offset) in enumerate(zip(_FACTORS, _OFFSETS, strict=True)):
            np.multiply(shingles, factor, out=hashed)
            np.add(hashed, offset, out=hashed)
            values[:, place] = np.minimum.reduceat(hashed, edges)[::2]
    rows = values.reshape(len(texts), BANDS, VALUES // BANDS).astype(np.uint64)
    keys = np.zeros((len(texts), BANDS), dtype=np.uint64)
    for place in range(rows.shape[2]):
        keys = (keys ^ rows[:, :, place]) * _MIX
        keys ^= keys >> np.uint64(31)
    return Marks(np.array(digests, dtype=np.uint64), (keys >> np.uint64(32)).astype(np.uint32), values.astype(np.uint8))


def joined(parts: list[Marks]) -> Marks:
    empty = mark([])
    return Marks(
        *(np.concatenate([getattr(m, key) for m in (empty, *parts)]) for key in ("digests", "keys", "sketches"))
    )


def jaccard(one: frozenset[str], other: frozenset[str]) -> float:
    both = len(one & other)
    return both / (len(one) + len(other) - both)


def shingles_of(text: str) -> frozenset[str]:
    text = solid(text).ljust(SHINGLE, "\0")
    return frozenset(text[i : i + SHINGLE] for i in range(len(text) - SHINGLE + 1))


def find(
    marks: Marks, order: Iterable[int], text_of: Callable[[int], str], threshold: float
) -> dict[int, tuple[int, float]]:
    """Of each duplicate: the document before it, in this order, that it repeats, and how similar they are."""
    found: dict[int, tuple[int, float]] = {}
    again = _shared(marks.digests)
    shared = np.stack([_shared(marks.keys[:, band]) for band in range(BANDS)], axis=1)
    first: dict[int, int] = {}
    buckets: dict[int, list[int]] = {}
    shingles = functools.lru_cache(maxsize=256)(lambda number: shingles_of(text_of(number)))
    for number in order:
        if again[number]:
            before = first.setdefault(int(marks.digests[number]), number)
            if before != number:
                found[number] = (before, 1.0)
                continue
        bands = np.flatnonzero(shared[number])
        if not threshold or not len(bands):
            continue
        mine = [buckets.setdefault(int(band) << 32 | int(marks.keys[number, band]), []) for band in bands]
        others = np.array(sorted({other for bucket in mine for other in bucket}), dtype=np.int64)
        if len(others):
            alike = (marks.sketches[others] == marks.sketches[number]).mean(axis=1)
            for place in np.argsort(-alike, kind="stable"):
                if alike[place] < threshold - MARGIN:
                    break
                similarity = jaccard(shingles(number), shingles(int(others[place])))
                if similarity >= threshold:
                    found[number] = (int(others[place]), similarity)
                    break
        if number not in found:
            for bucket in mine:
                if len(bucket) < BUCKET:
                    bucket.append(number)
    return found


def _shared(values: np.ndarray) -> np.ndarray:
    """Which rows hold a value that another row holds as well."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    return counts[inverse] > 1


class Spool:
    """Clean documents on disk, nameless, until it is known which of them are copies. As large as the text."""

    def __init__(self, folder: Path):
        self.file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115 - open as long as the spool
        self.starts = array("Q")
        self.sizes = array("Q")  # before and after cleaning, in turn

    def write(self, document: Document, before: int, after: int) -> None:
        self.starts.append(self.file.tell())
        self.sizes.extend((before, after))
        self.file.write(json.dumps(document.__dict__, ensure_ascii=False).encode() + b"\n")

    def read(self, number: int) -> Document:
        place = self.file.tell()
        self.file.seek(self.starts[number])
        document = Document(**json.loads(self.file.readline()))
        self.file.seek(place)
        return document

    def all(self) -> Iterator[Document]:
        self.file.seek(0)
        while line := self.file.readline():
            yield Document(**json.loads(line))

    def __enter__(self) -> "Spool":
        return self

    def __exit__(self, *_: object) -> None:
        self.file.close()
