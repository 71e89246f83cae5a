"""What documents are compared by: a digest of each text, and a MinHash sketch of its shingles.

Shingles are 5 characters in a row, white space left out: Korean spacing varies, and no morphological analyser is
needed. A sketch is 64 values in 16 bands of 4; documents that agree in a whole band are compared. At a similarity of
0.8 all but one pair in 4,000 do. What each choice finds is measured in bench/dedup.py.
"""

from dataclasses import dataclass

import numpy as np

from narae.log import Mistake, say

# Shingles hashed at a time: what numpy makes on the way stays in the cache (18 % faster than a batch at a time).
CHUNK = 1 << 15
MOST = 1024  # values in a sketch

_random = np.random.Generator(np.random.PCG64(653))
_FACTORS = _random.integers(1 << 62, 1 << 63, 32, dtype=np.uint64) | np.uint64(1)
_VALUE_FACTORS = _random.integers(0, 1 << 32, MOST, dtype=np.uint32) | np.uint32(1)
_VALUE_OFFSETS = _random.integers(0, 1 << 32, MOST, dtype=np.uint32)
# splitmix64's
_GOLDEN, _MIX1, _MIX2 = (np.uint64(x) for x in (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB))
_NONE = np.uint32(0xFFFFFFFF)
_SOLID = np.array([not chr(code).isspace() for code in range(0x3002)])  # the last space is U+3000


@dataclass(frozen=True)
class Settings:
    shingle: int = 5
    bands: int = 16
    rows: int = 4
    similarity: float = 0.8  # 0: only the same text is a duplicate

    def __post_init__(self) -> None:
        if not 0 <= self.similarity <= 1:
            raise Mistake(f"similarity {self.similarity}: it lies between 0 (the same text only) and 1")
        if not 1 <= self.shingle <= 64:
            raise Mistake(f"shingles of {self.shingle} characters: 1 to 64 are possible, 5 suits Korean")
        if self.bands < 1 or self.rows < 1 or self.values > MOST:
            raise Mistake(f"{self.bands} bands of {self.rows} rows: at least 1 of each, and at most {MOST} values")

    @property
    def values(self) -> int:
        return self.bands * self.rows

    @property
    def tasks(self) -> int:
        return 1 + self.bands if self.similarity else 1

    @property
    def dtype(self) -> np.dtype:
        """Of a value in a sketch. A band needs 32 bits in all, or millions of documents share it by chance."""
        return np.dtype({1: "<u4", 2: "<u2", 3: "<u2"}.get(self.rows, "u1"))

    @property
    def found(self) -> float:
        """The share of pairs, as similar as the threshold, that agree in a band."""
        return 1 - (1 - self.similarity**self.rows) ** self.bands

    @property
    def floor(self) -> float:
        """Where sketches agree less, the texts are not fetched: 4 standard errors below the threshold."""
        return self.similarity - 4 * (self.similarity * (1 - self.similarity) / self.values) ** 0.5

    def advise(self) -> None:
        if self.similarity and self.found < 0.95:
            say(
                f"warning: {self.bands} bands of {self.rows} rows find {self.found:.1%} of the pairs that are "
                f"{self.similarity} alike: more bands, or fewer rows, find more"
            )


@dataclass
class Marks:
    """What is kept of some documents, one row each."""

    digests: np.ndarray  # uint64, of the text without white space
    sketches: np.ndarray  # [documents, values], low bytes of MinHash values; no values where only digests count


def mark(texts: list[str], settings: Settings) -> Marks:
    """All texts at once: numpy then works on one long array of characters."""
    codes, starts, lengths = solid(texts, settings.shingle)
    digests = _digests(codes, starts, lengths, settings.shingle)
    if not settings.similarity or not texts:
        return Marks(digests, np.zeros((len(texts), settings.values if settings.similarity else 0), settings.dtype))
    return Marks(digests, _sketches(codes, starts, lengths, settings).astype(settings.dtype))


def solid(texts: list[str], gap: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The characters without white space, `gap` zeros after each text; where each text starts, and how long it is."""
    zeros = "\0" * gap
    codes = np.frombuffer((zeros.join(texts) + zeros).encode("utf-32-le", "surrogatepass"), dtype="<u4")
    places = np.flatnonzero(np.take(_SOLID, codes, mode="clip"))
    sizes = np.fromiter(map(len, texts), np.int64, len(texts)) + gap
    ends = np.searchsorted(places, np.cumsum(sizes))
    starts = np.concatenate([[0], ends[:-1]])[: len(texts)]
    return codes.take(places), starts, ends - starts - gap


def _digests(codes: np.ndarray, starts: np.ndarray, lengths: np.ndarray, gap: int) -> np.ndarray:
    """The sum of a 64-bit hash of each character with its place. Any two of 100 million texts agree once in 3,700 runs.

    Twice as fast as BLAKE2 of each text, which has to be joined and encoded for it.
    """
    places = np.arange(len(codes), dtype=np.int64)
    places -= np.repeat(starts, lengths + gap)
    mixed = places.view(np.uint64)
    mixed *= _GOLDEN
    mixed += codes
    mixed ^= mixed >> np.uint64(30)
    mixed *= _MIX1
    mixed ^= mixed >> np.uint64(27)
    mixed *= _MIX2
    mixed ^= mixed >> np.uint64(31)
    # Of an empty text reduceat gives the first zero of its gap, whose hash is 0.
    edges = np.stack([starts, starts + lengths], axis=1).ravel()
    return np.add.reduceat(mixed, edges)[::2] if len(edges) else np.zeros(0, np.uint64)


def windows(codes: np.ndarray, width: int) -> np.ndarray:
    """A 64-bit hash of each `width` characters in a row."""
    hashed = np.empty(max(len(codes) - width + 1, 0), np.uint64)
    for start in range(0, len(hashed), CHUNK):
        hashed[start : start + CHUNK] = _windows(codes[start : start + CHUNK + width - 1], width)
    return hashed


def _windows(codes: np.ndarray, width: int) -> np.ndarray:
    """Of 2, 4, 8 … characters from those of half as many; 5 characters are 1 and 4, 13 are 1, 4 and 8."""
    span, covered = codes.astype(np.uint64), 0
    hashed = span
    for bit in range(width.bit_length()):
        if width >> bit & 1:
            count = len(codes) - covered - (1 << bit) + 1
            hashed = hashed[:count] * _FACTORS[bit] + span[covered : covered + count] if covered else span
            covered += 1 << bit
        if width >> bit > 1:
            span = span[: -(1 << bit)] * _FACTORS[16 + bit] + span[1 << bit :]
    return _stirred(hashed)


def _stirred(hashed: np.ndarray) -> np.ndarray:
    hashed = (hashed ^ (hashed >> np.uint64(29))) * _GOLDEN
    hashed ^= hashed >> np.uint64(32)
    return hashed


def _sketches(codes: np.ndarray, starts: np.ndarray, lengths: np.ndarray, settings: Settings) -> np.ndarray:
    """Each shingle is hashed once and falls into one of 64 bins, whose value is the least that fell there.

    Three times as fast as 64 hashes of each shingle (145 MB/s). In short texts, bins that stay empty are filled by a
    second throw, and those still empty by a hash of their own, as MinHash has it: so each value of two texts agrees as
    often as they are similar, and independently, however short they are. Copies of full bins would tie bands together.
    """
    width, values, count = settings.shingle, settings.values, len(starts)
    hashed = windows(codes, width)
    sizes = np.maximum(lengths - width + 1, 1)
    # Windows that reach into the gap belong to nobody, but the first of a text shorter than a shingle.
    owners = np.stack([np.arange(count), np.full(count, count)], axis=1).ravel()
    owner = np.repeat(owners, np.stack([sizes, lengths + width - sizes], axis=1).ravel())[: len(hashed)]
    table = _thrown(hashed, owner, count + 1, values)[:count]
    rows = np.flatnonzero((table == _NONE).any(axis=1))
    if len(rows):
        renumbered = np.full(count + 1, -1)
        renumbered[rows] = np.arange(len(rows))
        owner = renumbered[owner]
        theirs = np.flatnonzero(owner >= 0)
        again = _thrown(_stirred(hashed[theirs] * _MIX1), owner[theirs], len(rows), values)
        table[rows] = np.where(table[rows] == _NONE, again, table[rows])
        rows = rows[(table[rows] == _NONE).any(axis=1)]
    rows = rows[np.argsort(sizes[rows], kind="stable")]
    while len(rows):
        # Texts of about one length side by side, as many as make 2 * CHUNK shingles; short ones repeat their last.
        some = sizes[rows[: 2 * CHUNK]] * np.arange(1, len(rows[: 2 * CHUNK]) + 1)
        group, rows = np.split(rows, [max(1, int(np.searchsorted(some, 2 * CHUNK, "right")))])
        steps = np.minimum(np.arange(sizes[group[-1]])[:, None], sizes[group] - 1)
        shingles = (hashed[starts[group] + steps] >> np.uint64(16)).astype(np.uint32)
        least, work = np.empty((values, len(group)), np.uint32), np.empty_like(shingles)
        for value in range(values):
            np.multiply(shingles, _VALUE_FACTORS[value], out=work)
            np.add(work, _VALUE_OFFSETS[value], out=work)
            np.minimum.reduce(work, axis=0, out=least[value])
        table[group] = np.where(table[group] == _NONE, least.T, table[group])
    return table


def _thrown(hashed: np.ndarray, owner: np.ndarray, rows: int, values: int) -> np.ndarray:
    table = np.full(rows * values, _NONE)
    for start in range(0, len(hashed), CHUNK):
        chunk = hashed[start : start + CHUNK]
        bins = (chunk >> np.uint64(32)) * np.uint64(values) >> np.uint64(32)
        np.minimum.at(table, bins.view(np.int64) + owner[start : start + CHUNK] * values, chunk.astype(np.uint32))
    return table.reshape(rows, values)


def band_keys(sketches: np.ndarray, band: int, settings: Settings) -> np.ndarray:
    """One uint32 per document: equal where all values of the band are."""
    key = np.zeros(len(sketches), np.uint64)
    for place in range(band * settings.rows, (band + 1) * settings.rows):
        key = (key ^ sketches[:, place]) * _GOLDEN
        key ^= key >> np.uint64(31)
    return (key >> np.uint64(32)).astype(np.uint32)


def shingles_of(text: str, settings: Settings) -> np.ndarray:
    """The distinct shingles of a text, as sorted 64-bit hashes: by chance two agree once in 10^19."""
    codes, _, lengths = solid([text], settings.shingle)
    return np.unique(windows(codes, settings.shingle)[: max(int(lengths[0]) - settings.shingle + 1, 1)])


def jaccard(one: np.ndarray, other: np.ndarray) -> float:
    both = len(np.intersect1d(one, other, assume_unique=True))
    return both / (len(one) + len(other) - both)
