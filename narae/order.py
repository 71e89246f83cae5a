"""The order in which training reads rows: a pure function of the position, for one set of rows or several mixed.

Positions number the rows that a run reads, from 0 on without end. Nothing is shuffled in memory and nothing is passed
over: the first batch at any depth costs what the first batch of all costs, on any rank.
"""

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np

from narae.log import Mistake

WEIGHTS = 2_000_000_000  # the sum of whole-number weights; a product of two such numbers stays inside 63 bits


@dataclass(frozen=True)
class Mixing:
    """How sets of rows are mixed: how many rows each has, its weight as a whole number, and the run's seed.

    The sets' rows are numbered through, one set after another. With one set this is `order` and nothing else. A set of
    weight 0 has no turn. `begun`: the rows that were read of each set before, in an earlier phase of the run.
    """

    rows: tuple[int, ...]
    weights: tuple[int, ...]
    seed: int
    begun: tuple[int, ...] = ()

    def __call__(self, positions: np.ndarray) -> np.ndarray:
        """The row at each position: of a set's own draws the k-th is its k-th row in `order`."""
        found = np.empty(len(positions), np.int64)
        sets, draws = self.split(positions)
        for number, first in enumerate(itertools.accumulate(self.rows[:-1], initial=0)):
            mine = sets == number
            if mine.any():
                turns = draws[mine] + (self.begun[number] if self.begun else 0)
                found[mine] = first + order(turns, self.rows[number], self.seed + number)
        return found

    def split(self, positions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The set whose turn each position is, and how many turns that set had before.

        The first set of weight w out of W has its turn wherever floor(position × w / W) grows; what is left over is
        numbered anew and split among the others in the same way. So after any number of positions each set had its
        share of them, give or take less than one turn with two sets, and less than n - 1 with n.
        """
        sets = np.full(len(positions), len(self.rows) - 1)
        draws = np.array(positions, np.int64)
        open_ = np.arange(len(positions))
        total = sum(self.weights)
        for number, weight in enumerate(self.weights[:-1]):
            before = _share(draws[open_], weight, total)
            turn = _share(draws[open_] + 1, weight, total) > before
            sets[open_[turn]] = number
            draws[open_] = np.where(turn, before, draws[open_] - before)
            open_ = open_[~turn]
            total -= weight
        return sets, draws

    def progress(self, position: int) -> list[tuple[int, int]]:
        """Before this position: of each set the epoch that it is in, and the rows that it has read of it."""
        return [divmod(read, rows) for read, rows in zip(self.read(position), self.rows, strict=True)]

    def read(self, position: int) -> tuple[int, ...]:
        """Before this position: the rows that were read of each set."""
        left, total = np.array([position]), sum(self.weights)
        found = []
        for number, weight in enumerate(self.weights):
            drawn = _share(left, weight, total) if weight else np.zeros(1, np.int64)
            found.append(int(drawn[0]) + (self.begun[number] if self.begun else 0))
            left, total = left - drawn, total - weight
        return tuple(found)


def _share(count: np.ndarray, weight: int, total: int) -> np.ndarray:
    """floor(count × weight / total), where the product itself might not fit."""
    whole, rest = np.divmod(count, total)
    return whole * weight + rest * weight // total


def whole_weights(weights: Sequence[str]) -> tuple[int, ...]:
    """Weights as they were written, in their exact ratio."""
    found = []
    for word in weights:
        try:
            found.append(Fraction(word))
        except (ValueError, ZeroDivisionError):
            raise Mistake(f"a weight of {word!r}: weights are numbers such as 0.7 or 3") from None
        if found[-1] <= 0:
            raise Mistake(f"a weight of {word}: it must be above 0; leave the set out instead")
    scale = math.lcm(*(one.denominator for one in found))
    numbers = [int(one * scale) for one in found]
    common = math.gcd(*numbers)
    if sum(numbers) // common > WEIGHTS:
        raise Mistake(f"weights {', '.join(weights)}: their exact ratio needs numbers above {WEIGHTS:,}; round them")
    return tuple(number // common for number in numbers)


@dataclass(frozen=True)
class Cursor:
    """Where a run is: the next position, and the positions that it leaves out, as (first, stop) in order.

    Positions are left out, not rows: a loss that runs away comes from certain batches met by certain weights. Going
    back and leaving those batches out means positions; their rows come again in the next epoch. And where the n-th
    position lies that is not left out is a search in a short list, for any depth and any rank.
    """

    position: int = 0
    skipped: tuple[tuple[int, int], ...] = ()

    @classmethod
    def of(cls, values: dict[str, Any]) -> "Cursor":
        """From what `dataclasses.asdict` gave, through JSON or not."""
        return cls(values["position"], tuple((first, stop) for first, stop in values["skipped"]))

    def positions(self, begin: int, count: int) -> np.ndarray:
        """The next positions from here on, without those left out: numbers begin to begin + count of them."""
        ahead = [(max(first, self.position), stop) for first, stop in self.skipped if stop > self.position]
        firsts, stops = np.array(ahead, np.int64).reshape(-1, 2).T
        gone = np.append(0, np.cumsum(stops - firsts))
        wanted = np.arange(begin, begin + count) + self.position
        return wanted + gone[np.searchsorted(firsts - gone[:-1], wanted, side="right")]

    def after(self, count: int) -> "Cursor":
        """Where a run is that has read so many more."""
        return Cursor(int(self.positions(count, 1)[0]) if count else self.position, self.skipped)

    def without(self, first: int, stop: int) -> "Cursor":
        """Leave out positions first to stop, too."""
        merged: list[tuple[int, int]] = []
        for low, high in sorted([*self.skipped, (first, stop)]):
            if low >= high:
                continue
            if merged and low <= merged[-1][1]:
                merged[-1] = (merged[-1][0], max(high, merged[-1][1]))
            else:
                merged.append((low, high))
        return Cursor(self.position, tuple(merged))


def batch(
    mixing: Mixing, step: int, global_batch: int, rank: int = 0, ranks: int = 1, start: Cursor | None = None
) -> np.ndarray:
    """The rows of one rank in one step, counted from where the run started.

    Rank after rank they are the global batch, however many ranks there are. Steps go through one epoch after another;
    a batch may hold the end of one and the beginning of the next.
    """
    first, count = share(global_batch, rank, ranks)
    return mixing((start or Cursor()).positions(step * global_batch + first, count))


def share(global_batch: int, rank: int, ranks: int) -> tuple[int, int]:
    """A rank's rows of a batch: the first, and how many. Some ranks have one more where it cannot be shared evenly."""
    if global_batch < ranks:
        raise Mistake(f"a batch of {global_batch} rows leaves some of {ranks} ranks without any: --batch_rows {ranks}")
    each, more = divmod(global_batch, ranks)
    return rank * each + min(rank, more), each + (rank < more)


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
