"""Byte-pair merges from words and how often each occurs: the trainer of byte-level BPE, in numpy.

The merges are those that `tokenizers`' BpeTrainer finds, to the last one, in a tenth of its time. Three observations
carry it. A pair's count can only fall after the merge that made its younger half: so counts are never kept up to date,
the pair with the largest known count is looked at again when its turn comes. A pair that begins below the count with
which the last merge will be made never matters: so rare pairs are not indexed, and when the frequent ones are used up
the index is made again with a lower bar. And what happens to one occurrence of a pair happens to all of them: so they
lie in one array, and a merge is a few array operations.
"""

import heapq
from collections.abc import Callable

import numpy as np

Array = np.ndarray
Pair = tuple[int, int]

MERGED, EDGE = -2, -1  # what is no symbol: swallowed by the one before it, and the border between two words
SHIFT = 24  # a pair is one number: left id << SHIFT | right id
RARE, STEP = 2000, 16  # the first index holds pairs that make up this share of all words; each later one a sixteenth


def merges_of(text: "Text", wanted: int, least: int = 2, tell: Callable[[int], None] = lambda _: None) -> list[Pair]:
    """The pairs to merge, in order; the result of each is a new symbol, numbered on from the newest.

    Of pairs that are equally frequent the one with the smaller numbers comes first. It ends early when no pair occurs
    `least` times.
    """
    merges: list[Pair] = []
    bar = max(text.words // RARE, least) * STEP
    while len(merges) < wanted and bar != least:
        bar = max(least, bar // STEP)
        where, heap = text.index(bar)
        heapq.heapify(heap)
        while heap and len(merges) < wanted:
            known, pair = heapq.heappop(heap)
            left, right = pair >> SHIFT, pair & (1 << SHIFT) - 1
            places = text.still(where.pop(pair), left, right)
            count = text.count(places)
            if count != -known:  # since it was counted, some occurrences went into other merges
                if count >= bar:
                    where[pair] = places
                    heapq.heappush(heap, (-count, pair))
                continue
            merges.append((left, right))
            for made, count, those in text.merge(places, left, right, bar):
                where[made] = those
                heapq.heappush(heap, (-count, made))
            if len(merges) % 500 == 0:
                tell(len(merges))
    return merges


class Text:
    """All symbols of all words, one after another, and for each the places of the next and of the one before."""

    def __init__(self, symbols: Array, weights: Array, newest: int):
        """Before, between and behind words stands EDGE. `weights` says for each symbol how often its word occurs."""
        self.symbols, self.weights, self.newest = symbols, weights, newest
        self.words = int(weights[symbols == EDGE].sum(dtype=np.int64))
        self.codes: Array | None = None  # while all symbols are bytes: these, and their numbers
        self.ids = np.empty(0, np.int64)

    @classmethod
    def of_bytes(cls, words: bytes, counts: Array, ids: Array) -> "Text":
        """Words with 0xFF behind each, which no UTF-8 has; `ids` numbers the 256 bytes."""
        codes = np.frombuffer(b"\xff" + words, np.uint8)
        numbers = ids.astype(np.int32)
        numbers[255] = EDGE
        # A count that overflows would give a tokenizer that looks sound
        dtype = np.int32 if int(counts.max(initial=0)) < 2**31 else np.int64
        weights = np.repeat(counts.astype(dtype), np.diff(np.flatnonzero(codes == 255)))
        text = cls(numbers.take(codes), np.append(dtype(0), weights), int(ids.max()))
        text.codes, text.ids = codes, ids
        return text

    def index(self, bar: int) -> tuple[dict[int, Array], list[tuple[int, int]]]:
        """The places of each pair that occurs so often, and (-count, pair) of each."""
        if self.codes is None:
            return self._pairs(bar)
        self._link()
        return self._byte_pairs(bar)

    def _link(self) -> None:
        self.after = np.arange(1, len(self.symbols) + 1, dtype=np.int32)
        self.before = self.after - 2

    def _byte_pairs(self, bar: int) -> tuple[dict[int, Array], list[tuple[int, int]]]:
        """The first index, over single bytes: a pair is a number of 16 bits, which sorts in linear time."""
        assert self.codes is not None
        pairs = self.codes[:-1].astype(np.uint16) << 8 | self.codes[1:]
        totals = np.bincount(pairs, self.weights[:-1], 1 << 16)
        totals.reshape(256, 256)[255] = totals.reshape(256, 256)[:, 255] = 0
        sizes = np.bincount(pairs, minlength=1 << 16)
        ends = np.cumsum(sizes)
        free = ends - sizes  # where the next place of each pair goes
        places = np.empty(len(pairs), np.int32)
        for begin in range(0, len(pairs), 1 << 21):  # in blocks: an argsort takes eight bytes per element
            block = pairs[begin : begin + (1 << 21)]
            order = block.argsort(kind="stable")
            sorted_pairs = block.take(order)
            mine = np.bincount(block, minlength=1 << 16)
            shift = free - (np.cumsum(mine) - mine)
            places[shift.take(sorted_pairs) + np.arange(len(block))] = order + begin
            free += mine
        self.codes = None
        where, heap = {}, []
        for pair in np.flatnonzero(totals >= bar).tolist():
            key = int(self.ids[pair >> 8]) << SHIFT | int(self.ids[pair & 255])
            where[key] = places[ends[pair] - sizes[pair] : ends[pair]]
            heap.append((-int(totals[pair]), key))
        return where, heap

    def _pairs(self, bar: int) -> tuple[dict[int, Array], list[tuple[int, int]]]:
        """The index again, of what is left: words that became one symbol are no longer there."""
        left = self.symbols != MERGED
        self.symbols, self.weights = self.symbols[left], self.weights[left]
        real = self.symbols >= 0
        alone = np.flatnonzero(real[1:-1] & ~real[:-2] & ~real[2:]) + 1
        left = np.ones(len(real), bool)
        left[alone] = left[alone + 1] = False
        self.symbols, self.weights = self.symbols[left], self.weights[left]
        self._link()
        places = np.flatnonzero((self.symbols[:-1] >= 0) & (self.symbols[1:] >= 0)).astype(np.int32)
        lefts, rights = self.symbols.take(places), self.symbols.take(places + 1)
        order = self._order(rights)
        order = order.take(self._order(lefts.take(order)))
        lefts, rights, places = lefts.take(order), rights.take(order), places.take(order)
        begins = _begins((lefts[1:] != lefts[:-1]) | (rights[1:] != rights[:-1]))
        where, heap = {}, []
        if len(places):
            totals = np.add.reduceat(self.weights.take(places), begins, dtype=np.int64)
            ends = np.append(begins[1:], len(places))
            for one in np.flatnonzero(totals >= bar).tolist():
                begin = begins[one]
                key = int(lefts[begin]) << SHIFT | int(rights[begin])
                where[key] = places[begin : ends[one]].copy()
                heap.append((-int(totals[one]), key))
        return where, heap

    def _order(self, symbols: Array) -> Array:
        """numpy sorts numbers of 16 bits in linear time."""
        return (symbols.astype(np.uint16) if self.newest < 1 << 16 else symbols).argsort(kind="stable")

    def still(self, places: Array, left: int, right: int) -> Array:
        """Those places where the pair has not gone into other merges."""
        there = (self.symbols.take(places) == left) & (self.symbols.take(self.after.take(places)) == right)
        return places.compress(there)

    def count(self, places: Array) -> int:
        return int(self.weights.take(places).sum(dtype=np.int64))

    def merge(self, places: Array, left: int, right: int, bar: int) -> list[tuple[int, int, Array]]:
        """Put the new symbol everywhere; the pairs that it makes with its neighbours, their counts and places."""
        if left == right:
            places = self._apart(places)
        self.newest = new = self.newest + 1
        swallowed = self.after.take(places)
        following = self.after.take(swallowed)
        self.symbols[swallowed] = MERGED
        self.symbols[places] = new
        self.after[places] = following
        self.before[following] = places
        weights = self.weights.take(places)
        preceding = self.before.take(places)
        found = []
        neighbours = self.symbols.take(preceding)
        for neighbour, count, those in self._grouped(neighbours, neighbours >= 0, preceding, weights, bar):
            found.append((neighbour << SHIFT | new, count, those))
        neighbours = self.symbols.take(following)
        # Two new symbols beside one another were found from the right one already
        those_right = (neighbours >= 0) & (neighbours != new)
        for neighbour, count, those in self._grouped(neighbours, those_right, places, weights, bar):
            found.append((new << SHIFT | neighbour, count, those))
        return found

    def _apart(self, places: Array) -> Array:
        """Of aaa only the first two are one pair: every second place of a run."""
        places = np.sort(places)
        number = np.arange(len(places))
        chained = np.append(False, self.after.take(places[:-1]) == places[1:])
        begins = np.maximum.accumulate(np.where(chained, 0, number))
        return places[(number - begins) % 2 == 0]

    def _grouped(
        self, neighbours: Array, which: Array, places: Array, weights: Array, bar: int
    ) -> list[tuple[int, int, Array]]:
        """By neighbour: the weight in all, where it reaches the bar, and the places."""
        neighbours, places, weights = neighbours.compress(which), places.compress(which), weights.compress(which)
        if len(neighbours) > 4096:  # most neighbours are rare, and sorting costs more than counting
            frequent = (np.bincount(neighbours, weights) >= bar).take(neighbours)
            neighbours, places, weights = (one.compress(frequent) for one in (neighbours, places, weights))
        if not len(neighbours):
            return []
        order = self._order(neighbours)
        neighbours = neighbours.take(order)
        begins = _begins(neighbours[1:] != neighbours[:-1])
        totals = np.add.reduceat(weights.take(order), begins, dtype=np.int64)
        ends = np.append(begins[1:], len(order))
        return [
            (int(neighbours[begins[one]]), int(totals[one]), places.take(order[begins[one] : ends[one]]))
            for one in np.flatnonzero(totals >= bar).tolist()
        ]


def _begins(differs: Array) -> Array:
    """Where groups begin in a sorted array, from where neighbours differ."""
    return np.concatenate([np.zeros(1, np.int64), np.flatnonzero(differs) + 1])
