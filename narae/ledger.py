"""Where a run's time went: the share of the time on its machines that became training which stayed.

    python narae/ledger.py --run sample

Each attempt's time is split into causes, to the millisecond and without remainder. Training is lost where a later
attempt goes back to a checkpoint before it. The pauses between attempts belong to nobody, and stand beside.
"""

import argparse
import itertools
import math
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from narae.artifact import root
from narae.log import Mistake, duration, number, stream_metrics

CAUSES = {
    "training": "training",
    "again": "training done again",
    "waiting": "waiting for the job's start",
    "starting": "starting",
    "evaluation": "evaluation",
    "samples": "samples",
    "saving": "saving",
    "hanging": "waiting in a hang",
    "dying": "unrecorded before a kill",
    "unlogged": "since the last record",
    "other": "other",
}
UNASKED = {"hang", "lost a peer"}  # as after a kill, nothing since the last record stayed
SAYS_SECONDS = {"eval": "evaluation", "samples": "samples", "save": "saving"}
# A run shows itself at every step and every few seconds between them; a network's file system may be a minute late.
SILENCE = 120_000
# Runs that kept no sign of life have only their records, which may be minutes apart.
SILENCE_OF_RECORDS = 900_000


def milliseconds(record: dict[str, Any], key: str) -> int | None:
    """Whole numbers, so that the parts make up the sum exactly."""
    found = number(record.get(key))
    return round(found * 1000) if found is not None and 0 <= found < 1e11 else None


@dataclass
class Attempt:
    """From a job's nodes, or a process's first moment, to its end. Times are in milliseconds."""

    began: int
    ended: int  # so far
    first: int | None = None  # the step that it started from
    last: int = 0
    end: str = ""  # finished, SIGTERM, SIGUSR1, killed, running, unknown
    pause: int = 0  # since the attempt before
    ready: bool = False  # the first step's forward pass has begun
    started: bool = False
    told: bool = True  # it says when it began; runs of older versions did not
    spent: Counter[str] = field(default_factory=Counter)
    trained: list[tuple[int, int, int]] = field(default_factory=list)  # of each train record: steps from, to; time
    _passed: int = 0  # gone by, and no record has said yet what with

    @property
    def allocated(self) -> int:
        return sum(self.spent.values())

    @property
    def reached(self) -> int:
        """The last step that a train record tells of."""
        return self.trained[-1][1] if self.trained else self.first or 0

    def start(self, record: dict[str, Any], free: int) -> None:
        """What the start's record says about the time before it; `free` is the end of the attempt before."""
        began, allocated, step = (milliseconds(record, "began"), milliseconds(record, "allocated"), record.get("step"))
        self.first = None if number(step) is None else int(number(step) or 0)
        self.started, self.told = True, began is not None
        if began is None:
            self.ready = True  # an older version wrote this record when training began
        else:
            self.began = self.ended = began
        if allocated and allocated < self.began:
            # Several attempts within one allocation: each waits since the one before
            self.began = max(allocated, free) if free <= self.began else allocated
            self.spent["waiting"] = self.ended - self.began
        self._reach(milliseconds(record, "time"))
        self._spend("starting", self._passed)

    def take(self, record: dict[str, Any]) -> None:
        kind, said, step = record.get("kind"), milliseconds(record, "seconds"), int(number(record.get("step")) or 0)
        since = self._reach(milliseconds(record, "time"))
        self.last, self.started = max(self.last, step), True
        if kind == "ready":
            self._settle()
            self.ready = True
        elif kind == "train":
            training = self._passed if said is None else min(said, self._passed)
            self.trained.append((self.reached, step, training))
            self._passed -= training
            if not self.ready:
                self._settle()
                self.ready = True
        elif kind in SAYS_SECONDS:
            self._spend(SAYS_SECONDS[kind], since if said is None else said)
        elif kind == "hang":
            self._spend("hanging", milliseconds(record, "waited") or 0)
        elif kind == "stop":
            self.end = str(record.get("cause") or "a signal")[:40]
            if self.ready and self.end in UNASKED:
                self._spend("dying", self._passed)
        elif kind == "end":
            self.end = "finished"

    def close(self, sign: int | None, now: int | None = None) -> None:
        """`sign` is the last sign of life; `now` is given to the last attempt only, which may be running."""
        if not self.end:
            silence = SILENCE_OF_RECORDS if sign is None else SILENCE
            seen = max(self.ended, sign or 0)
            running = now is not None and now - seen < silence
            self.end = "running" if running else "killed" if self.told else "unknown"
            self._settle()
            self._reach(max(seen, now or 0) if running else seen)
            if self.ready:
                self._spend("unlogged" if running else "dying", self._passed)
        self._settle()

    def keep(self, bound: float) -> None:
        """Training up to the step `bound` stayed; a later attempt went back to it."""
        for before, step, training in self.trained:
            stayed = training
            if step > bound:
                stayed = training * (int(bound) - before) // (step - before) if before < bound else 0
            self.spent["training"] += stayed
            self.spent["again"] += training - stayed

    def _reach(self, moment: int | None) -> int:
        """Time goes on, except where a clock was put back."""
        since = max((moment or self.ended) - self.ended, 0)
        self._passed += since
        self.ended = moment or self.ended
        return since

    def _spend(self, cause: str, amount: int) -> None:
        amount = min(amount, self._passed)
        self.spent[cause] += amount
        self._passed -= amount

    def _settle(self) -> None:
        self._spend("other" if self.ready else "starting", self._passed)


@dataclass
class Ledger:
    attempts: list[Attempt]

    @property
    def spent(self) -> dict[str, int]:
        """Milliseconds of each cause, of all attempts."""
        return {cause: sum(attempt.spent[cause] for attempt in self.attempts) for cause in CAUSES}

    @property
    def allocated(self) -> int:
        return sum(self.spent.values())

    @property
    def pauses(self) -> int:
        return sum(attempt.pause for attempt in self.attempts)

    @property
    def goodput(self) -> float | None:
        return self.spent["training"] / self.allocated if self.allocated else None

    @property
    def complete(self) -> bool:
        """Whether the time before each first step is known."""
        return all(attempt.told for attempt in self.attempts)

    def summary(self) -> str:
        if self.goodput is None:
            return "goodput: nothing is measured yet"
        losses = sorted(((amount, cause) for cause, amount in self.spent.items() if cause != "training"), reverse=True)
        shares = [(amount / self.allocated, CAUSES[cause]) for amount, cause in losses]
        parts = ", ".join(f"{name} {share:.1%}".replace("%", " %") for share, name in shares if share >= 0.0005)
        line = f"goodput {100 * self.goodput:.1f} % of {duration(self.allocated / 1000)}"
        return f"{line}: {parts}" if parts else line

    def lines(self) -> list[str]:
        """The summary, the causes, the attempts."""
        found = [self.summary(), ""]
        for cause, amount in ((cause, amount) for cause, amount in self.spent.items() if amount):
            share = amount / self.allocated if self.allocated else 0.0
            found.append(f"{CAUSES[cause]:<28} {duration(amount / 1000):>9} {100 * share:6.1f} %")
        found.append(f"{'allocated':<28} {duration(self.allocated / 1000):>9}")
        found.append(f"{'between the attempts':<28} {duration(self.pauses / 1000):>9}  not allocated")
        heads = ("attempt", "began", "steps", "took", "training", "ended")
        rows = [heads]
        for place, attempt in enumerate(self.attempts, start=1):
            rows.append(
                (
                    str(place),
                    time.strftime("%Y-%m-%d %H:%M", time.localtime(attempt.began / 1000)),
                    f"{attempt.first:,} to {attempt.last:,}",
                    duration(attempt.allocated / 1000),
                    duration(attempt.spent["training"] / 1000),
                    attempt.end,
                )
            )
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        table = ("  ".join(word.ljust(width) for word, width in zip(row, widths, strict=True)) for row in rows)
        return [*found, "", *(row.rstrip() for row in table)]


def read(folder: Path, now: float | None = None) -> Ledger | None:
    """The ledger of a folder of runs/, or None where nothing was tried."""
    attempts: list[Attempt] = []
    for record in stream_metrics(folder / "metrics.jsonl"):
        moment, kind = milliseconds(record, "time"), record.get("kind")
        if moment is None:
            continue
        current = attempts[-1] if attempts else None
        if kind == "open" or (kind == "start" and (current is None or current.started or current.end)):
            _add(attempts, moment, milliseconds(record, "last_alive"))
        if kind == "start":
            attempts[-1].start(record, attempts[-2].ended if len(attempts) > 1 else 0)
        elif kind == "train":
            step = int(number(record.get("step")) or 0)
            if current is None or current.end or (current.trained and step <= current.reached):
                # The line that announced it was lost; that it trained is all that is known of its beginning
                began = max(moment - (milliseconds(record, "seconds") or 0), current.ended if current else 0)
                _add(attempts, min(began, moment), None)
                attempts[-1].ready, attempts[-1].told = True, False
            if attempts[-1].first is None:
                attempts[-1].first = _went_back_to(attempts[:-1], step)
            attempts[-1].take(record)
        elif kind != "open" and current is not None:
            current.take(record)
    if not attempts:
        return None
    try:
        sign = round((folder / ".alive").stat().st_mtime * 1000)
    except OSError:
        sign = None
    attempts[-1].close(sign, round((time.time() if now is None else now) * 1000))
    _settle(attempts)
    return Ledger(attempts)


def _add(attempts: list[Attempt], began: int, sign: int | None) -> None:
    if attempts:
        attempts[-1].close(sign)
    attempts.append(Attempt(began, began))


def _went_back_to(attempts: list[Attempt], step: int) -> int:
    """The last step before this one that is known."""
    return max((to for attempt in attempts for _, to, _ in attempt.trained if to < step), default=0)


def _settle(attempts: list[Attempt]) -> None:
    """What stayed is known in the end only: any later attempt may have gone back."""
    before, bound = 0, math.inf
    for attempt in attempts:
        if attempt.first is None:  # it came to no step
            attempt.first = before
        attempt.last = before = max(attempt.last, attempt.first)
    for attempt in reversed(attempts):
        attempt.keep(bound)
        bound = min(bound, attempt.first or 0)
    for earlier, later in itertools.pairwise(attempts):
        later.pause = max(later.began - earlier.ended, 0)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--run", default="sample", help="a folder of artifacts/runs (sample)")
    folder = root() / "runs" / parser.parse_args().run
    ledger = read(folder)
    if ledger is None:
        raise Mistake(f"{folder / 'metrics.jsonl'} tells of no attempt: --run names a folder of {folder.parent}")
    print("\n".join(ledger.lines()))


if __name__ == "__main__":
    main()
