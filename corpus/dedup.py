"""Pairs of duplicates among any number of documents: the same text again, and near-copies with a few words changed.

    save   the marks of a piece (corpus/marks.py), in flat files beside it
    match  one task per band of the sketches, and one for the digests: pairs, near ones verified by exact Jaccard

The pairs of all tasks make groups (corpus/groups.py). No task needs more than 1 GB for 100 million documents.
"""

import itertools
import os
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np

from corpus.groups import PAIR
from corpus.marks import CHUNK, Marks, Settings, band_keys, jaccard, shingles_of
from narae.log import Mistake

# Documents sorted at a time: 630 MB at the peak. 100 million are 6 parts, and take 23 s of CPU per band.
PART = 1 << 24
# Documents that share keys, compared at a time: 870 MB at worst. Of more under one key, some meet in no block.
BLOCK = 1 << 20
# Of so many documents under one key every pair is compared; more are searched again by each other band.
RUN = 16
# Neighbours that each document is compared with there, per band.
NEAR = 4
# Pairs of texts compared in vain, per document and task, the most alike first.
TRIES = 8
# Shingles kept of texts that may be compared again: 64 MB.
KEPT = 8 << 20


def save(folder: Path, parts: Iterable[Marks], settings: Settings) -> None:
    """The marks of one piece, in order. Of a text that the piece repeats, only the first is there to be compared."""
    folder.mkdir(parents=True, exist_ok=True)
    parts = list(parts)
    digests = np.concatenate([np.zeros(0, np.uint64), *(part.digests for part in parts)])
    digests.tofile(folder / "digests.u64")
    if not settings.similarity:
        return
    nothing = np.zeros((0, settings.values), settings.dtype)
    firsts = np.sort(np.unique(digests, return_index=True)[1])
    sketches = np.concatenate([nothing, *(part.sketches for part in parts)])[firsts]
    firsts.astype("<u4").tofile(folder / "firsts.u32")
    sketches.tofile(folder / "sketches")
    with (folder / "keys.u32").open("wb") as file:
        for band in range(settings.bands):
            band_keys(sketches, band, settings).tofile(file)


class Piece:
    """The marks of one piece: whole columns, or single rows. Nothing is mapped: mapped pages count as memory."""

    def __init__(self, folder: Path, settings: Settings):
        self.folder, self.settings = folder, settings
        try:
            self.documents = (folder / "digests.u64").stat().st_size // 8
            self.firsts, sketches, keys = 0, 0, 0
            if settings.similarity:
                self.firsts = (folder / "firsts.u32").stat().st_size // 4
                sketches, keys = ((folder / name).stat().st_size for name in ("sketches", "keys.u32"))
        except OSError as error:
            raise Mistake(f"{folder}: no marks of a piece there ({error.strerror}); clean its source again") from None
        row = settings.values * settings.dtype.itemsize
        if sketches != self.firsts * row or keys != self.firsts * settings.bands * 4:
            raise Mistake(
                f"{folder}: marks of other settings than {settings.bands} bands of {settings.rows} rows; "
                "clean the sources again"
            )

    def digests(self) -> np.ndarray:
        return np.fromfile(self.folder / "digests.u64", "<u8")

    def column(self, band: int) -> np.ndarray:
        return np.fromfile(self.folder / "keys.u32", "<u4", self.firsts, offset=4 * band * self.firsts)

    def rows(self, places: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Of some firsts: their numbers, digests and sketches."""
        numbers = _rows(self.folder / "firsts.u32", np.dtype("<u4"), 1, places)[:, 0]
        digests = _rows(self.folder / "digests.u64", np.dtype("<u8"), 1, numbers)[:, 0]
        return numbers, digests, _rows(self.folder / "sketches", self.settings.dtype, self.settings.values, places)


def _rows(file: Path, dtype: np.dtype, width: int, places: np.ndarray) -> np.ndarray:
    size = width * dtype.itemsize
    if len(places) * 16 > file.stat().st_size // size:  # one in 16 is sooner read with all the others
        return np.fromfile(file, dtype).reshape(-1, width)[places]
    found = bytearray(size * len(places))
    handle = os.open(file, os.O_RDONLY)
    try:
        for number, place in enumerate(places.tolist()):
            found[number * size : (number + 1) * size] = os.pread(handle, size, place * size)
    finally:
        os.close(handle)
    return np.frombuffer(found, dtype).reshape(-1, width)


def match(
    task: int, folders: list[Path], settings: Settings, text_of: Callable[[int, int], str], part: int = PART
) -> Iterator[np.ndarray]:
    """Pairs (PAIR) of duplicates, the earlier document first. Task 0: of digests; task n: of band n - 1.

    `text_of` gives the text of document `number` in piece `piece`. The same for any number of tasks at a time.
    """
    pieces = [Piece(folder, settings) for folder in folders]
    if task == 0:
        return _exact(pieces, part)
    return _near(task - 1, pieces, settings, text_of, part)


def _exact(pieces: list[Piece], part: int) -> Iterator[np.ndarray]:
    starts = np.cumsum([0, *(piece.documents for piece in pieces)])
    for low, high in _ranges(int(starts[-1]), max(part // 4, 1), 64):
        values, places = [np.zeros(0, np.uint64)], [np.zeros(0, np.int64)]
        for start, piece in zip(starts, pieces, strict=False):
            digests = piece.digests()
            here = np.flatnonzero((digests >= low) & (digests <= high))
            values.append(digests[here])
            places.append(here + start)
        digests, place = np.concatenate(values), np.concatenate(places)
        order = np.argsort(digests, kind="stable")  # of equal ones the first document leads
        digests, place = digests[order], place[order]
        fresh = _changes(digests)
        first = np.maximum.accumulate(np.where(fresh, np.arange(len(fresh)), 0))
        found = np.zeros(np.count_nonzero(~fresh), PAIR)
        for side, which in (("a", place[first[~fresh]]), ("b", place[~fresh])):
            found[f"piece_{side}"] = np.searchsorted(starts, which, "right") - 1
            found[f"number_{side}"] = which - starts[found[f"piece_{side}"]]
        found["similarity"] = 1
        yield found


def _ranges(documents: int, part: int, bits: int) -> list[tuple[np.uint64, np.uint64]]:
    """Of hashes, first and last: each range holds about `part` documents."""
    count = max(1, -(-documents // part))
    edges = [(1 << bits) * number // count for number in range(count + 1)]
    return [(np.uint64(low), np.uint64(high - 1)) for low, high in itertools.pairwise(edges)]


def _changes(values: np.ndarray) -> np.ndarray:
    """Where a sorted array holds another value than before."""
    fresh = np.ones(len(values), bool)
    np.not_equal(values[1:], values[:-1], out=fresh[1:])
    return fresh


def _near(
    band: int, pieces: list[Piece], settings: Settings, text_of: Callable[[int, int], str], part: int
) -> Iterator[np.ndarray]:
    starts = np.cumsum([0, *(piece.firsts for piece in pieces)])
    if starts[-1] >= 1 << 32:
        raise Mistake(f"{starts[-1]:,} documents: near-copies are searched among at most {(1 << 32) - 1:,}")
    for low, high in _ranges(int(starts[-1]), part, 32):
        columns = [np.zeros(0, np.uint64)]
        for start, piece in zip(starts, pieces, strict=False):
            keys = piece.column(band)
            here = np.flatnonzero((keys >= low) & (keys <= high)).astype(np.uint64)
            columns.append(keys[here].astype(np.uint64) << np.uint64(32) | here + np.uint64(start))
        both = np.concatenate(columns)  # key, then document
        del columns
        both.sort()
        fresh = _changes(both >> np.uint64(32))
        shared = ~fresh
        shared[:-1] |= ~fresh[1:]
        both, fresh = both[shared], fresh[shared]
        starts_of_runs = np.flatnonzero(fresh)
        begin = 0
        while begin < len(both):
            end = begin + BLOCK
            if end < len(both):  # whole runs; one longer than a block is cut, in document order
                whole = int(starts_of_runs[np.searchsorted(starts_of_runs, end, "right") - 1])
                end = whole if whole > begin else end
            run, place = np.cumsum(fresh[begin:end]), (both[begin:end] & np.uint64(0xFFFFFFFF)).astype(np.int64)
            yield _Block(band, run, *_fetched(pieces, starts, place), settings).pairs(text_of)
            begin = end


def _fetched(pieces: list[Piece], starts: np.ndarray, place: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(piece, number) of documents, their digests and their sketches, read piece by piece."""
    settings = pieces[0].settings
    which = np.searchsorted(starts, place, "right") - 1
    order = np.argsort(place)
    names, digests = np.empty((len(place), 2), np.uint32), np.empty(len(place), np.uint64)
    sketches = np.empty((len(place), settings.values), settings.dtype)
    for group in np.split(order, np.flatnonzero(_changes(which[order]))[1:]):
        number = int(which[group[0]])
        names[group, 0] = number
        names[group, 1], digests[group], sketches[group] = pieces[number].rows(place[group] - starts[number])
    return names, digests, sketches


class _Block:
    """Documents of whole runs: those of a run share the key of the band. Each text once, in document order."""

    def __init__(
        self,
        band: int,
        run: np.ndarray,
        names: np.ndarray,
        digests: np.ndarray,
        sketches: np.ndarray,
        settings: Settings,
    ):
        order = np.lexsort((digests, run))  # stable: the first document of a text leads
        once = np.sort(order[_changes(run[order]) | _changes(digests[order])])
        self.band, self.settings = band, settings
        self.run, self.names, self.sketches = run[once], names[once], sketches[once]

    def pairs(self, text_of: Callable[[int, int], str]) -> np.ndarray:
        """Verified pairs. Documents that earlier ones of the same run already tie together are not compared again."""
        leader: dict[int, int] = {}
        vain = Counter[int]()
        shingles = _Shingles(text_of, self.settings)
        found = []

        def lead(row: int) -> int:
            while (next_one := leader.get(row, row)) != row:
                leader[row] = row = leader.get(next_one, next_one)
            return row

        likely = self._likely()
        for one, other in (pair for at in range(0, len(likely), CHUNK) for pair in likely[at : at + CHUNK].tolist()):
            if lead(one) == lead(other) or max(vain[one], vain[other]) >= TRIES:
                continue
            names = self.names[[one, other]].tolist()
            similarity = jaccard(shingles(*names[0]), shingles(*names[1]))
            if similarity >= self.settings.similarity:
                leader[max(lead(one), lead(other))] = min(lead(one), lead(other))
                found.append((*names[0], *names[1], similarity))
            else:
                vain.update((one, other))
        return np.array(found, PAIR)

    def _likely(self) -> np.ndarray:
        """Pairs whose sketches agree enough and that no earlier band brings, run by run, the most alike first."""
        long = np.bincount(self.run)[self.run] > RUN
        codes, alike = self._alike(_neighbours(self.run[~long], np.flatnonzero(~long), RUN - 1))
        rows = np.flatnonzero(long)
        bands = self.settings.bands if len(rows) else 0
        best = np.zeros(0, np.int64), np.zeros(0)
        for band in (band for band in range(bands) if band != self.band):
            # By the band after it as well: of many that share both keys, the most alike stand side by side.
            key, then = (band_keys(self.sketches[rows], which % bands, self.settings) for which in (band, band + 1))
            order = np.lexsort((then, key, self.run[rows]))
            group = np.cumsum(_changes(self.run[rows][order]) | _changes(key[order]))
            more = self._alike(_neighbours(group, rows[order], NEAR))
            best = self._best(np.concatenate([best[0], more[0]]), np.concatenate([best[1], more[1]]))
        codes, alike = np.concatenate([codes, best[0]]), np.concatenate([alike, best[1]])
        one, other = np.divmod(codes, max(len(self.run), 1))
        return np.stack([one, other], axis=1)[np.lexsort((codes, -alike, self.run[one]))]

    def _alike(self, candidates: Iterator[tuple[np.ndarray, np.ndarray]]) -> tuple[np.ndarray, np.ndarray]:
        """Of pairs of rows: those to be compared, one number for both, and how much their sketches agree."""
        settings, codes, likeness = self.settings, [np.zeros(0, np.int64)], [np.zeros(0)]
        for ones, others in candidates:
            for start in range(0, len(ones), CHUNK):
                one, other = ones[start : start + CHUNK], others[start : start + CHUNK]
                agree = self.sketches[one] == self.sketches[other]
                alike = agree.mean(axis=1)
                brought = agree.reshape(-1, settings.bands, settings.rows)[:, : self.band].all(axis=2).any(axis=1)
                likely = np.flatnonzero((alike >= settings.floor) & ~brought)
                codes.append(np.minimum(one, other)[likely] * len(self.run) + np.maximum(one, other)[likely])
                likeness.append(alike[likely])
        return np.concatenate(codes), np.concatenate(likeness)

    def _best(self, codes: np.ndarray, alike: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Each pair once, and of each document no more earlier ones than texts may be compared in vain."""
        codes, first = np.unique(codes, return_index=True)
        other = codes % len(self.run)
        order = np.lexsort((-alike[first], other))
        place = np.arange(len(order))
        begin = np.maximum.accumulate(np.where(_changes(other[order]), place, 0))
        kept = order[place - begin < TRIES]
        return codes[kept], alike[first][kept]


def _neighbours(group: np.ndarray, rows: np.ndarray, most: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Rows up to `most` places apart in the same group."""
    for step in range(1, most + 1):
        same = np.flatnonzero(group[step:] == group[:-step])
        yield rows[same], rows[same + step]


class _Shingles:
    """The shingles of texts, the last ones kept: a document is often compared with several."""

    def __init__(self, text_of: Callable[[int, int], str], settings: Settings):
        self.text_of, self.settings = text_of, settings
        self.kept: OrderedDict[tuple[int, int], np.ndarray] = OrderedDict()
        self.room = KEPT

    def __call__(self, piece: int, number: int) -> np.ndarray:
        name = piece, number
        if name in self.kept:
            self.kept.move_to_end(name)
            return self.kept[name]
        found = self.kept[name] = shingles_of(self.text_of(piece, number), self.settings)
        self.room -= len(found)
        while self.room < 0 and len(self.kept) > 2:
            self.room += len(self.kept.popitem(last=False)[1])
        return found
