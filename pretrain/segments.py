"""A run's course: which rows each step reads, and how many. Batch ramps and phases cut it into segments.

    --train_tokens 10B --batch_ramp 1%=256 5%=1024          # more rows in a step from there on
    --packed web:0.8,books:0.2 --phases 80%=books:0.7,web:0.3     # another mixture for the last fifth

Everything is computed from the position: how many rows the run has read. A phase goes on in each set where the phases
before it stopped.
"""

import itertools
import json
import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from narae.log import Mistake
from narae.order import Cursor, Mixing, batch

COURSE = "course.json"  # in each checkpoint: how far the run had come, and by which steps
UNITS = {"": 1, "k": 10**3, "m": 10**6, "b": 10**9, "t": 10**12}


@dataclass(frozen=True)
class Segment:
    """Steps of one size, out of one mixture."""

    step: int  # the first
    position: int  # the rows that the run has read before it
    batch_rows: int
    mixing: Mixing
    start: Cursor  # where in its phase it begins, and what the run leaves out of the phase
    phase: int = 0


@dataclass(frozen=True)
class Turn:
    """From this position on: so many rows in a step, or a mixture by these weights."""

    position: int
    batch_rows: int = 0
    weights: tuple[int, ...] = ()


# Positions first to stop of a phase, counted from its beginning, left-out ones included
Gap = tuple[int, int, int]  # phase, first, stop


class Course:
    made: tuple[Any, ...] = ()  # what `of` was given, but for the gaps
    gaps: tuple[Gap, ...] = ()

    def __init__(self, segments: Sequence[Segment], steps: int):
        self.segments, self.steps = list(segments), steps

    @classmethod
    def of(
        cls, mixing: Mixing, rows: int, batch_rows: int, turns: Sequence[Turn] = (), gaps: Iterable[Gap] = ()
    ) -> "Course":
        """At least so many rows. A turn is taken by the first step that begins at or behind its position.

        What is left out moves later rows forward: the number of steps and their sizes stay. A phase behind begins in
        each set where the one before stopped, so no row comes twice.
        """
        made, left = (mixing, rows, batch_rows, tuple(turns)), tuple(sorted(set(gaps)))
        segments: list[Segment] = []
        step = position = phase = number = 0
        ahead = sorted(turns, key=lambda turn: turn.position)
        while position < rows:
            while ahead and ahead[0].position <= position:
                turn = ahead.pop(0)
                batch_rows = turn.batch_rows or batch_rows
                if turn.weights:
                    stopped = beginning(left, number).after(position - phase).position
                    mixing = replace(mixing, weights=turn.weights, begun=mixing.read(stopped))
                    phase, number = position, number + 1
            start = beginning(left, number).after(position - phase)
            segments.append(Segment(step, position, batch_rows, mixing, start, number))
            steps = math.ceil((min(rows, ahead[0].position if ahead else rows) - position) / batch_rows)
            step, position = step + steps, position + steps * batch_rows
        course = cls(segments, step)
        course.made, course.gaps = made, left
        return course

    def without(self, gaps: Iterable[Gap]) -> "Course":
        """Leave these out, too."""
        mixing, rows, batch_rows, turns = self.made
        return Course.of(mixing, rows, batch_rows, turns, [*self.gaps, *gaps])

    def places(self, step: int, stop: int) -> list[Gap]:
        """Where the rows of the steps from one to before another lie: what to leave out to leave them out."""
        found: list[Gap] = []
        for number in range(step, stop):
            one = self.segment(number)
            places = one.start.positions((number - one.step) * one.batch_rows, one.batch_rows)
            for part in np.split(places, np.flatnonzero(np.diff(places) > 1) + 1):
                first, last = int(part[0]), int(part[-1])
                if found and found[-1][0] == one.phase and found[-1][2] == first:
                    found[-1] = (one.phase, found[-1][1], last + 1)
                else:
                    found.append((one.phase, first, last + 1))
        return found

    def segment(self, step: int) -> Segment:
        """That of a step; behind the end the last."""
        return next(one for one in reversed(self.segments) if one.step <= step)

    def position(self, step: int) -> int:
        """The rows that were read before a step."""
        one = self.segment(step)
        return one.position + (step - one.step) * one.batch_rows

    @property
    def rows(self) -> int:
        return self.position(self.steps)

    def batch(self, step: int, rank: int = 0, ranks: int = 1) -> np.ndarray:
        """The rows of one rank in one step."""
        one = self.segment(step)
        return batch(one.mixing, step - one.step, one.batch_rows, rank, ranks, one.start)

    def read(self, step: int) -> tuple[int, ...]:
        """Of each set, the rows that were read before a step, or left out before it."""
        one = self.segment(step)
        return one.mixing.read(one.start.after((step - one.step) * one.batch_rows).position)

    def history(self, step: int) -> list[dict[str, Any]]:
        """What decided the rows of the steps before this one. A checkpoint holds it; a run that goes on agrees."""
        found: list[dict[str, Any]] = []
        for one, after in itertools.zip_longest(self.segments, self.segments[1:]):
            if one.step < step:
                last = min(step, after.step if after else step)
                reached = int(one.start.positions((last - one.step) * one.batch_rows - 1, 1)[0])
                gaps = [list(gap) for gap in one.start.skipped if gap[0] < reached]
                words = {"step": one.step, "batch_rows": one.batch_rows, "weights": list(one.mixing.weights)}
                found.append(words | ({"skipped": gaps} if gaps else {}))
        return found


def beginning(gaps: Iterable[Gap], phase: int) -> Cursor:
    """Of a phase, knowing what is left out of it."""
    cursor = Cursor()
    for _, first, stop in (gap for gap in gaps if gap[0] == phase):
        cursor = cursor.without(first, stop)
    return cursor


def read_course(checkpoint: Path) -> dict[str, Any]:
    file = checkpoint / COURSE
    if not file.is_file():
        raise Mistake(f"{checkpoint} has no {COURSE}, so it is of an older version: --overwrite starts the run anew")
    return json.loads(file.read_text(encoding="utf-8"))  # type: ignore[no-any-return]


def fingerprint(position: int, rows: np.ndarray) -> int:
    """A number for rows at the positions from here on: those of parts add up to that of the whole, in any order."""
    place = np.arange(position, position + len(rows), dtype=np.uint64)
    mixed = (place * np.uint64(0x9E3779B97F4A7C15)) ^ (rows.astype(np.uint64) * np.uint64(0xC2B2AE3D27D4EB4F))
    mixed = (mixed ^ (mixed >> np.uint64(29))) * np.uint64(0xBF58476D1CE4E5B9)
    return int((mixed >> np.uint64(32)).sum())  # 2^31 rows before it would not fit


def count_of(word: str, what: str) -> int:
    """10B, 2.5M, 300k, 1_000_000."""
    found = re.fullmatch(r"([\d_]*\.?\d+(?:e\d+)?)([kmbt]?)", str(word).strip().lower())
    if not found:
        raise Mistake(f"{what} {word}: a number of tokens is needed, such as 10B, 500M or 1_000_000")
    return round(float(found[1].replace("_", "")) * UNITS[found[2]])


def turns_of(words: Sequence[str], what: str, rows: int, row_tokens: int) -> list[tuple[int, str]]:
    """START=VALUE, as positions in rows. START is a number of tokens, or a share of the run."""
    found: list[tuple[int, str]] = []
    for word in itertools.chain.from_iterable(str(one).split() for one in words):
        start, equals, value = word.partition("=")
        if not equals or not value:
            raise Mistake(f"{what} {word}: START=VALUE is needed, START in tokens (1B) or as a share of the run (10%)")
        if start.endswith("%"):
            try:
                position = math.ceil(rows * float(start[:-1]) / 100)
            except ValueError:
                raise Mistake(f"{what} {word}: {start} is no share of the run, such as 10%") from None
        else:
            position = math.ceil(count_of(start, what) / row_tokens)
        if not 0 < position < rows:
            tokens = rows * row_tokens
            raise Mistake(f"{what} {word}: {start} does not lie inside the run, which has {tokens:,} tokens")
        if found and position <= found[-1][0]:
            raise Mistake(f"{what} {word}: it begins before the one in front of it")
        found.append((position, value))
    return found
