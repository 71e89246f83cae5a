"""Benchmarks must not be trained on: finds the documents that hold an entry of one.

    build  benchmark files -> an index in a folder
    load   the index, for any number of workers: 17 bytes per 13-gram that it keeps, a fifth of all

An entry is any text in a benchmark's records, reduced to its letters and digits. A document holds an entry if it holds
80 % of the entry's distinct 13-grams, wherever they stand; entries of fewer than 13 letters are too short to tell.
Against KoBEST, 8 letters find 92 of 863,213 natural documents (138 MB) and 10 letters 17, nearly all for an everyday
sentence; 11 and more find one, a novel that the entry quotes. 13 leave a margin for larger corpora, and 20,416 of
KoBEST's 51,512 texts too short. Speed: 130 MB/s and core where little is found.
"""

import csv
import hashlib
import json
import math
import os
import tempfile
import unicodedata
import weakref
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from corpus.marks import CHUNK, windows
from corpus.plain import PACKED_NAME, open_file
from corpus.plain import lines as lines_of
from corpus.tables import records
from corpus.zips import FAULTS, cause_of
from narae.log import Mistake, say

BATCH = 1 << 20  # letters of entries looked at together
COUNTERS = 1 << 24  # of how common a gram is among the entries: 64 MB while the index is built
PLANES = 0x20000  # code points that are looked up; behind them there are no letters but rare Hanja


@dataclass(frozen=True)
class Settings:
    letters: int = 13
    overlap: float = 0.8

    def __post_init__(self) -> None:
        if not 4 <= self.letters <= 64:
            raise Mistake(f"{self.letters} letters in a row: 4 to 64 are possible, and below 13 are everyday sentences")
        if not 0 < self.overlap <= 1:
            raise Mistake(f"overlap {self.overlap}: a share above 0, and at most 1")


class Match(NamedTuple):
    """Which entry a document holds, and how much of it. Of equal entries, the first."""

    file: str
    line: int
    field: str
    overlap: float

    def __str__(self) -> str:
        return f"{self.file}:{self.line} {self.field} ({self.overlap:.0%})"


def folded(texts: list[str]) -> tuple[np.ndarray, np.ndarray]:
    """Letters and digits of all texts, small and half-wide, as one array of code points; where each text ends in it."""
    codes = np.frombuffer("".join(texts).encode("utf-32-le", "surrogatepass"), dtype="<u4")
    letters = _letters().take(codes, mode="clip")
    places = np.flatnonzero(letters)
    ends = np.cumsum(np.fromiter(map(len, texts), np.int64, len(texts)))
    return letters.take(places), np.searchsorted(places, ends)


@lru_cache(maxsize=1)
def _letters() -> np.ndarray:
    """Of each code point, what stands for it; 0 where it is no letter or digit."""
    table = np.zeros(PLANES + 1, np.uint32)
    for code in range(PLANES):
        letter = chr(code)
        if letter.isalnum():
            for fold in (partial(unicodedata.normalize, "NFKC"), str.casefold):
                letter = fold(letter) if len(fold(letter)) == 1 else letter
            table[code] = ord(letter)
    return table


class Index:
    """What `build` left in a folder. The entries themselves stay on disk."""

    def __init__(self, folder: Path):
        about = json.loads((folder / "index.json").read_text(encoding="utf-8"))
        self.settings = Settings(**about["settings"])
        self.counts: dict[str, dict[str, int]] = about["counts"]
        self._fields: list[str] = about["fields"]
        self._shift = np.uint64(64 - about["bits"])
        self._grams = np.fromfile(folder / "grams.u64", "<u8")
        self._owners = np.fromfile(folder / "owners.u32", "<u4")
        self._seen = np.fromfile(folder / "seen.u8", np.uint8)
        self._starts = np.fromfile(folder / "starts.u64", "<u8")
        self._origins = np.fromfile(folder / "origins.u32", "<u4").reshape(-1, 3)
        self._file = os.open(folder / "letters.u32", os.O_RDONLY)
        weakref.finalize(self, os.close, self._file)

    def find(self, texts: list[str]) -> list[tuple[int, list[Match]]]:
        """Which texts (in NFC, as cleaning leaves them) hold an entry, and which entries."""
        if not len(self._grams):
            return []
        width = self.settings.letters
        letters, ends = folded(texts)
        hashed = windows(letters, width)
        chunks = range(0, len(hashed), CHUNK)
        hits = [np.flatnonzero(self._perhaps(hashed[start : start + CHUNK])) + start for start in chunks]
        hit = np.concatenate([np.zeros(0, np.int64), *hits])
        text = np.searchsorted(ends, hit, "right")
        begin, end = (np.searchsorted(self._grams, hashed[hit], side) for side in ("left", "right"))
        inside = hit + width <= ends[text]  # not from one text into the next
        text, begin, count = text[inside], begin[inside], (end - begin)[inside]
        # Every entry that keeps the gram: from `begin`, as many as `count`.
        which = np.repeat(begin - np.cumsum(count) + count, count) + np.arange(count.sum())
        both = np.unique(np.repeat(text, count) << 32 | self._owners[which])
        found: dict[int, list[Match]] = {}
        mine, before = np.zeros(0, np.uint64), -1
        for number, entry in zip((both >> 32).tolist(), (both & 0xFFFFFFFF).tolist(), strict=True):
            if number != before:
                start = int(ends[number - 1]) if number else 0
                mine, before = np.unique(hashed[start : int(ends[number]) - width + 1]), number
            its = np.unique(windows(self._entry(entry), width))
            overlap = len(np.intersect1d(its, mine, assume_unique=True)) / len(its)
            if overlap >= self.settings.overlap - 1e-9:
                file, line, field = self._origins[entry].tolist()
                match = Match(list(self.counts)[file], line, self._fields[field], round(overlap, 4))
                found.setdefault(number, []).append(match)
        return list(found.items())

    def _perhaps(self, hashed: np.ndarray) -> np.ndarray:
        """One bit per hash, 32 as many as there are grams: few that are none pass."""
        place = hashed >> self._shift
        return self._seen.take((place >> np.uint64(3)).view(np.int64)) >> (place & np.uint64(7)).astype(np.uint8) & 1

    def _entry(self, number: int) -> np.ndarray:
        start, end = self._starts[number : number + 2].tolist()
        return np.frombuffer(os.pread(self._file, 4 * (end - start), 4 * start), "<u4")


load = Index


def of(files: list[str], settings: Settings | None = None) -> Index:
    """The index of some files, for this process alone."""
    with tempfile.TemporaryDirectory() as folder:
        build(files, Path(folder), settings)
        return load(Path(folder))


def fingerprint(path: str) -> list[object]:
    """What tells this file from another one of its name."""
    try:
        with Path(path).open("rb") as file:
            return [os.fstat(file.fileno()).st_size, hashlib.file_digest(file, "sha256").hexdigest()[:16]]
    except OSError as error:
        raise Mistake(f"benchmark {path}: {error.strerror}; name a jsonl, json, csv or tsv file") from None


def build(files: list[str], folder: Path, settings: Settings | None = None) -> None:
    settings = settings or Settings()
    folder.mkdir(parents=True, exist_ok=True)
    counts, fields, starts = _write_entries(files, folder, settings)
    common = np.zeros(COUNTERS, np.uint32)
    for _, gram in _all_grams(folder, starts, settings.letters):
        np.add.at(common, _counter(gram), 1)
    grams, owners = [np.zeros(0, np.uint64)], [np.zeros(0, np.uint32)]
    for owner, gram in _all_grams(folder, starts, settings.letters):
        # Who holds 80 % of an entry's grams holds one of any 20 % and one more of them: the rarest are kept.
        order = np.lexsort((common[_counter(gram)], owner))
        _, first, total = np.unique(owner, return_index=True, return_counts=True)
        room = total - np.maximum(np.ceil(settings.overlap * total - 1e-9), 1) + 1
        kept = order[np.arange(len(owner)) - np.repeat(first, total) < np.repeat(room, total)]
        grams.append(gram[kept])
        owners.append(owner[kept].astype(np.uint32))
    gram = np.concatenate(grams)
    order = np.argsort(gram, kind="stable")
    gram = gram[order]
    gram.tofile(folder / "grams.u64")
    np.concatenate(owners)[order].tofile(folder / "owners.u32")
    bits = min(max(math.ceil(math.log2(32 * max(len(gram), 1))), 16), 31)
    seen, place = np.zeros(1 << bits >> 3, np.uint8), gram >> np.uint64(64 - bits)
    bit = np.left_shift(np.uint8(1), (place & np.uint64(7)).astype(np.uint8))
    np.bitwise_or.at(seen, (place >> np.uint64(3)).astype(np.int64), bit)
    seen.tofile(folder / "seen.u8")
    about = {"settings": asdict(settings), "bits": bits, "fields": fields, "counts": counts}
    (folder / "index.json").write_text(json.dumps(about, ensure_ascii=False, indent=1), encoding="utf-8")
    if files:
        all_of = {key: sum(count[key] for count in counts.values()) for key in ("entries", "short", "broken")}
        said = f"{all_of['entries']:,} benchmark entries, {all_of['short']:,} more of under {settings.letters} letters"
        say(said + (f"; {all_of['broken']:,} lines are no records" if all_of["broken"] else ""))


def _write_entries(
    files: list[str], folder: Path, settings: Settings
) -> tuple[dict[str, dict[str, int]], list[str], np.ndarray]:
    """The letters of all entries in one file; counts of each benchmark, names of fields, and where entries start."""
    counts: dict[str, dict[str, int]] = {}
    fields: dict[str, int] = {}
    known: set[bytes] = set()
    sizes, origins = [0], []
    names = [Path(file).name for file in files]
    with (folder / "letters.u32").open("wb") as out:
        for number, (file, name) in enumerate(zip(files, names, strict=True)):
            label = name if names.count(name) == 1 else file
            count = counts[label] = dict.fromkeys(("entries", "short", "repeated", "broken"), 0)
            for batch in _batches(_texts(Path(file), count)):
                letters, ends = folded([unicodedata.normalize("NFC", text) for _, _, text in batch])
                for (line, field, _), entry in zip(batch, np.split(letters, ends[:-1]), strict=True):
                    digest = hashlib.blake2b(entry.tobytes(), digest_size=12).digest()
                    kind = "short" if len(entry) < settings.letters else "repeated" if digest in known else "entries"
                    count[kind] += 1
                    if kind == "entries":
                        known.add(digest)
                        entry.tofile(out)
                        sizes.append(len(entry))
                        origins.append((number, line, fields.setdefault(field, len(fields))))
            if sum(count.values()) == count["broken"]:
                broken = f"{count['broken']:,} lines are no records, and " if count["broken"] else ""
                raise Mistake(f"benchmark {file}: {broken}no text is in it; jsonl, json, csv and tsv can be read")
    starts = np.cumsum(sizes, dtype=np.uint64)
    starts.tofile(folder / "starts.u64")
    np.array(origins, "<u4").reshape(-1, 3).tofile(folder / "origins.u32")
    return counts, list(fields), starts


def _batches(texts: Iterable[tuple[int, str, str]]) -> Iterator[list[tuple[int, str, str]]]:
    batch, room = [], BATCH
    for entry in texts:
        batch.append(entry)
        room -= len(entry[2])
        if room <= 0:
            yield batch
            batch, room = [], BATCH
    if batch:
        yield batch


def _texts(file: Path, count: dict[str, int]) -> Iterator[tuple[int, str, str]]:
    """(line, field, text) of every text in the records of a file; lines that are none are counted."""
    kind = Path(PACKED_NAME.sub("", file.name)).suffix.lower()
    try:
        with open_file(file) as stream:
            lines = lines_of(stream)
            for line, record in _table(lines, kind) if kind in (".csv", ".tsv") else _json(lines, kind):
                if record is None:
                    count["broken"] += 1
                else:
                    yield from ((line, field, text) for field, text in record)
    except FAULTS as error:
        raise Mistake(f"benchmark {file}: {cause_of(error)}") from None


Record = list[tuple[str, str]] | None  # (field, text) …


def _table(lines: Iterator[str], kind: str) -> Iterator[tuple[int, Record]]:
    """csv has quotes, tsv has none. The first line names the columns."""
    delimiter, quoted = ("\t", False) if kind == ".tsv" else (",", True)
    names = next(csv.reader(lines, delimiter=delimiter), [])
    for number, (cells, fault) in enumerate(records(lines, delimiter, quoted, len(names)), start=2):
        yield number, None if fault else list(zip(names, cells, strict=False))


def _json(lines: Iterator[str], kind: str) -> Iterator[tuple[int, Record]]:
    """A record per line; in .json also one list of them, or one object."""
    if kind == ".json":
        whole = "\n".join(lines)
        try:
            value = json.loads(whole)
        except (ValueError, RecursionError):
            lines = iter(whole.split("\n"))
        else:
            values = value if isinstance(value, list) else [value]
            yield from ((number, list(_strings(one, ""))) for number, one in enumerate(values, start=1))
            return
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            record: Record = list(_strings(json.loads(line), ""))
        except (ValueError, RecursionError):
            record = None
        yield number, record


def _strings(value: Any, field: str) -> Iterator[tuple[str, str]]:
    if isinstance(value, str):
        yield field, value
    for key, part in value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ():
        yield from _strings(part, f"{field}.{key}" if field else str(key))


def _all_grams(folder: Path, starts: np.ndarray, width: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """(entry, gram): the distinct grams of each entry, some entries at a time."""
    first, last = 0, len(starts) - 1
    while first < last:
        until = min(max(first + 1, int(np.searchsorted(starts, starts[first] + BATCH, "right")) - 1), last)
        edges = (starts[first : until + 1] - starts[first]).astype(np.int64)
        letters = np.fromfile(folder / "letters.u32", "<u4", int(edges[-1]), offset=4 * int(starts[first]))
        gram, place = windows(letters, width), np.arange(len(letters) - width + 1)
        owner = np.searchsorted(edges[1:], place, "right")
        inside = place + width <= edges[1:][owner]
        owner, gram = owner[inside] + first, gram[inside]
        order = np.lexsort((gram, owner))
        owner, gram = owner[order], gram[order]
        fresh = np.ones(len(gram), bool)
        fresh[1:] = (gram[1:] != gram[:-1]) | (owner[1:] != owner[:-1])
        yield owner[fresh], gram[fresh]
        first = until


def _counter(gram: np.ndarray) -> np.ndarray:
    return (gram % np.uint64(COUNTERS)).astype(np.int64)
