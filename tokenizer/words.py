"""How often each word occurs in a corpus: what BPE is trained on, far smaller than the text.

Every pattern here begins a new piece at a space between two characters that are no spaces. So text is first cut there,
which needs no regular expression; the pieces of each distinct chunk are looked for once. Memory is bounded: when there
are too many distinct chunks, some of the rare ones stand for all of them.
"""

import itertools
import os
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import regex

from narae.documents import Part, copies, read_table
from narae.log import Mistake

AT_ONCE = 4  # parts that are counted together, 4 MB of text each
MOST_CHUNKS = 8_000_000  # distinct ones in memory, of 40 bytes
MOST_BYTES = 16_000_000  # of distinct words: merging takes 25 bytes for each
MOST = 1 << 53  # a count above this is not exact any more

# RE2 means ASCII where it says \s
BLANK = r"[\s\p{Z}\x0b\x1c-\x1f\x85]"
BESIDE_BLANK = f" {BLANK}|{BLANK} "
BETWEEN = re.compile(r"(?<=\S) (?=\S)")
LOOKING_AHEAD = r"\s+(?!\S)|"
PLAIN = "^[!-~가-힣ㄱ-ㅣ‘’“”…·]*$"  # nothing that a normal form, or another version of Unicode, would see otherwise
NOTHING = "^$"
END = "\x00"


@dataclass
class Words:
    """Distinct words in `text`, 0xFF behind each, and how often they occur."""

    text: bytes
    counts: np.ndarray
    sources: dict[str, dict[str, int]] = field(default_factory=dict)  # documents and bytes that were counted

    def __iter__(self) -> Iterator[tuple[str, int]]:
        words = self.text.split(b"\xff")[:-1]
        return zip((word.decode() for word in words), self.counts.tolist(), strict=True)

    @property
    def documents(self) -> int:
        return sum(source["documents"] for source in self.sources.values())

    @property
    def bytes(self) -> int:
        return sum(source["bytes"] for source in self.sources.values())


def count_words(
    parts: Sequence[Part],
    pattern: str,
    weights: dict[str, float],
    share: float = 1.0,
    threads: int = 0,
    tell: Callable[[int], None] = lambda _: None,
) -> Words:
    """The words of the documents in these parts; a document counts weight of its source × share times.

    The parts are counted in groups, and the groups added in their order: the result does not depend on `threads`.
    """
    pa.set_memory_pool(pa.system_memory_pool())  # arrow's own keeps what was freed: 0.5 GB here
    groups = [parts[begin : begin + AT_ONCE] for begin in range(0, len(parts), AT_ONCE)]
    threads = min(threads or len(os.sched_getaffinity(0)), len(groups)) or 1
    total = Chunks()
    sources: dict[str, Counter[str]] = {}
    with ThreadPoolExecutor(threads) as pool:
        waiting = []
        for group in itertools.chain(groups, [None] * threads):
            if group is not None:
                waiting.append(pool.submit(_count, group, weights, share))
            if len(waiting) > threads or (group is None and waiting):
                chunks, read = waiting.pop(0).result()
                total.add(chunks)
                for name, counted in read.items():
                    sources.setdefault(name, Counter()).update(counted)
                tell(sum(source["bytes"] for source in sources.values()))
    words = _words(total, pattern)
    words.sources = {name: dict(counted) for name, counted in sorted(sources.items())}
    return words


class Chunks:
    """Text between spaces, with counts. What begins a document has no space before it, and is kept apart."""

    def __init__(self) -> None:
        self.found: dict[str, list[tuple[Any, np.ndarray]]] = {"": [], " ": []}  # by what stands before it

    def count(self, texts: Any, times: int) -> None:
        """Documents, of which each counts so many times."""
        spaced = pc.match_substring_regex(texts, BESIDE_BLANK)
        cut = pc.split_pattern(texts.filter(pc.invert(spaced)), " ")
        pieces = [BETWEEN.split(text) for text in texts.filter(spaced).to_pylist()]
        first = pa.array([piece[0] for piece in pieces], pa.large_string())
        inner = pa.array(itertools.chain.from_iterable(piece[1:] for piece in pieces), pa.large_string())
        both = {"": [pc.list_element(cut, 0), first], " ": [pc.list_slice(cut, 1).flatten(), inner]}
        for space, arrays in both.items():
            found = pc.value_counts(pa.chunked_array(arrays))
            self.found[space].append((found.field("values"), found.field("counts").to_numpy() * times))

    def add(self, other: "Chunks") -> None:
        for space, found in other.found.items():
            self.found[space] += found
        if sum(len(texts) for found in self.found.values() for texts, _ in found) > 2 * MOST_CHUNKS:
            self.together()

    def together(self) -> None:
        for space, found in self.found.items():
            texts, counts = _summed(found)
            self.found[space] = [_thinned(texts, counts, np.ones(len(counts), np.int64), MOST_CHUNKS)]


def _count(group: Sequence[Part], weights: dict[str, float], share: float) -> tuple[Chunks, dict[str, Counter[str]]]:
    wanted: dict[int, list[Any]] = {}
    sources: dict[str, Counter[str]] = {}
    for part in group:
        table = read_table(part).combine_chunks()
        texts, named = table["text"].chunk(0), table["source"].chunk(0).dictionary_encode()
        names, which = named.dictionary.to_pylist(), named.indices.to_numpy()
        times = np.ones(len(texts), np.int64)
        if share != 1 or any(weights.get(name, 1) != 1 for name in names):
            each = zip(table["id"].to_pylist(), which.tolist(), strict=True)
            times = np.array([copies(id, weights.get(names[one], 1) * share) for id, one in each], np.int64)
        documents = np.bincount(which, times, len(names))
        sizes = np.bincount(which, times * pc.binary_length(texts).to_numpy(), len(names))
        for name, number, size in zip(names, documents.tolist(), sizes.tolist(), strict=True):
            sources.setdefault(name, Counter()).update(documents=int(number), bytes=int(size))
        for number in np.unique(times[times > 0]).tolist():
            wanted.setdefault(number, []).append(texts.filter(pa.array(times == number)))
    chunks = Chunks()
    for number, some in wanted.items():
        chunks.count(pa.concat_arrays(some), number)
    return chunks, sources


def _summed(found: list[tuple[Any, np.ndarray]]) -> tuple[Any, np.ndarray]:
    """Equal texts together. pyarrow's group_by takes three times as long."""
    if not found:
        return pa.array([], pa.large_string()), np.empty(0, np.int64)
    encoded = pa.concat_arrays([texts for texts, _ in found]).dictionary_encode()
    counts = np.concatenate([counts for _, counts in found])
    whole = np.bincount(encoded.indices.to_numpy(), counts, len(encoded.dictionary))
    if len(whole) and whole.max() >= MOST:
        raise Mistake(f"a word occurs {whole.max():,.0f} times; up to {MOST:,} can be counted: lower the weights")
    return encoded.dictionary, whole.astype(np.int64)


def _thinned(texts: Any, counts: np.ndarray, sizes: np.ndarray, room: int) -> tuple[Any, np.ndarray]:
    """Where all do not fit, some of the rare ones stand for all of them, and count for what they stand for.

    To leave the rare ones out would be a bias: of 138 MB without the words that occur once came a vocabulary with 1.4 %
    more tokens for the same text.
    """
    least = 1
    while sizes.sum() > room:
        least *= 2
        rare = counts < least
        stands = np.diff(np.cumsum(np.where(rare, counts, 0)) // least, prepend=0)
        keep = ~rare | (stands > 0)
        texts, counts, sizes = texts.filter(pa.array(keep)), np.where(rare, least, counts)[keep], sizes[keep]
    return texts, counts


def _words(chunks: Chunks, pattern: str) -> Words:
    """The pattern's pieces of all chunks. RE2 is five times as fast; it has no lookahead, which only blanks need."""
    find = regex.compile(pattern).findall
    plainly = pattern.replace(LOOKING_AHEAD, "")
    simple = "(?=" not in plainly and "(?!" not in plainly
    found: list[tuple[Any, np.ndarray]] = []
    chunks.together()
    for space, ((texts, counts),) in chunks.found.items():
        plain = pc.match_substring_regex(texts, PLAIN if simple else NOTHING)
        others = pc.invert(plain)
        ends = (pa.scalar(end, pa.large_string()) for end in (space, ""))
        spaced = pc.binary_join_element_wise(next(ends), texts.filter(plain), next(ends))
        marked = pc.replace_substring_regex(spaced, plainly, r"\0" + END) if simple else spaced
        pieces = pc.split_pattern(marked, END)
        found.append((pieces.flatten(), np.repeat(counts[plain], pc.list_value_length(pieces))))
        normal = (unicodedata.normalize("NFC", space + text) for text in texts.filter(others).to_pylist())
        searched = [find(text) for text in normal]
        numbers = np.repeat(counts[others], [len(some) for some in searched])
        found.append((pa.array(itertools.chain.from_iterable(searched), pa.large_string()), numbers))
    summed, totals = _summed(found)
    filled = pc.not_equal(summed, "")  # behind each last piece there is nothing
    summed, totals = summed.filter(filled), totals[filled]
    summed, totals = _thinned(summed, totals, pc.binary_length(summed).to_numpy(), MOST_BYTES)
    return Words(_bordered(summed), totals)


def _bordered(texts: Any) -> bytes:
    """0xFF behind each text, without a Python object for each."""
    _, offsets, data = texts.cast(pa.large_binary()).buffers()
    ends = np.frombuffer(offsets, np.int64)[texts.offset :][: len(texts) + 1]
    joined = np.full(ends[-1] - ends[0] + len(texts), 255, np.uint8)
    inside = np.ones(len(joined), bool)
    inside[ends[1:] - ends[0] + np.arange(len(texts))] = False
    joined[inside] = np.frombuffer(data, np.uint8)[ends[0] : ends[-1]]
    return joined.tobytes()
