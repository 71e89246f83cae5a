"""One log format for every stage: a time, the stage, what happened. Under a launcher only rank 0 speaks."""

import contextlib
import errno
import json
import math
import os
import sys
import threading
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, TypeVar

T = TypeVar("T")


def rank() -> int:
    """The rank that the launcher gave; srun, which is no launcher, gives SLURM_PROCID."""
    return int(os.environ.get("RANK", os.environ.get("SLURM_PROCID", "0")))


class Mistake(SystemExit):
    """A user's mistake, or bad input: one message that names what disagrees and the way on.

    It derives from SystemExit, so that uncaught it prints the message instead of a traceback, with exit code 1.
    """

    def __init__(self, message: str, every_rank: bool = False):
        """What only one rank may meet is said by `every_rank`; all else would be said once per rank."""
        super().__init__(f"{stage()}: {message}" if every_rank or rank() == 0 else 1)
        self.message, self.every_rank = message, every_rank

    def __str__(self) -> str:
        return self.message

    def __reduce__(self) -> tuple[type["Mistake"], tuple[str, bool]]:
        return Mistake, (self.message, self.every_rank)  # from a worker's process, without its prefix


def stage() -> str:
    """The command that runs: `tokenizer/train.py` is `tokenizer/train`."""
    script = Path(sys.argv[0] or "narae")
    return f"{script.parent.name}/{script.stem}" if script.suffix == ".py" else script.name


def say(message: str) -> None:
    if rank() == 0:
        print(f"{time.strftime('%H:%M:%S')}  {stage()}  {message}", file=sys.stderr, flush=True)


def differs(key: str, before: Any, now: Any) -> str:
    """How a message names a setting that is not what it was."""
    words = ["unset" if value is None else f"= {value!r}" for value in (before, now)]
    return f"{key} {words[0]} instead of {words[1].removeprefix('= ')}"


def duration(seconds: float) -> str:
    """45 s, 12 min, 3.5 h, 2.0 days."""
    for limit, unit, name in ((90, 1, "s"), (5400, 60, "min"), (172_800, 3600, "h")):
        if seconds < limit:
            return f"{seconds / unit:.0f} {name}" if unit < 3600 else f"{seconds / unit:.1f} {name}"
    return f"{seconds / 86400:.1f} days"


class Progress:
    """A line with an ETA: rewritten in place on a terminal, else at most one in `every` seconds."""

    def __init__(self, what: str, total: float, unit: str = "", every: float = 10.0):
        self.what, self.total, self.unit = what, total, unit
        self.terminal = sys.stderr.isatty()
        self.every = 0.2 if self.terminal else every
        self.began = self.shown = time.monotonic()

    def update(self, done: float, note: str = "") -> None:
        now = time.monotonic()
        if rank() != 0 or now - self.shown < self.every:
            return
        self.shown = now
        share = min(done / self.total, 1.0) if self.total else 0.0
        left = (now - self.began) * (1 / share - 1) if share else 0.0
        line = f"{self.what}  {share:4.0%}  {done:,.0f}/{self.total:,.0f} {self.unit}".rstrip()
        line += f"  {duration(left)} left  {note}".rstrip()
        if self.terminal:
            print(f"\r\033[K{line}", end="", file=sys.stderr, flush=True)
        else:
            say(line)

    def close(self) -> None:
        if self.terminal and rank() == 0:
            print("\r\033[K", end="", file=sys.stderr, flush=True)


def progress(items: Iterable[T], what: str, total: float, unit: str = "") -> Iterator[T]:
    """Count items as they pass."""
    bar = Progress(what, total, unit)
    with contextlib.closing(bar):
        for done, item in enumerate(items, start=1):
            yield item
            bar.update(done)


class Metrics:
    """metrics.jsonl of a run: one JSON object per line, flushed as it happens, so that a page can follow it."""

    def __init__(self, path: Path):
        self.path = path
        self._kept: list[str] = []  # lines for which the disk had no room
        self._one = threading.RLock()

    def write(self, kind: str, **values: Any) -> None:
        if rank() == 0:
            line = json.dumps({"kind": kind, "time": round(time.time(), 3), **values}, ensure_ascii=False)
            with self._one:
                self._append([*self._kept, line + "\n"])

    def _append(self, lines: list[str]) -> None:
        """A full disk must not end what is only followed here: its lines are written when there is room."""
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("ab", buffering=0) as file:
                size = file.tell()
                content = "".join(lines).encode()
                if file.write(content) < len(content):  # as much as there was room for
                    file.truncate(size)
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError as error:
            if error.errno not in {errno.ENOSPC, errno.EDQUOT}:
                raise
            if not self._kept:
                say(f"{self.path} has no room for more ({error.strerror}): its lines are kept until there is")
            self._kept = lines
        else:
            self._kept = []


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """What a run wrote so far. A last line that was cut off by a kill is left out."""
    return list(stream_metrics(path))


def stream_metrics(path: Path) -> Iterator[dict[str, Any]]:
    """The same, one after the other, whatever else the file holds."""
    if not path.is_file():
        return
    with path.open(encoding="utf-8", errors="replace") as file:
        for line in file:
            # After a line that was cut off the next attempt's first record stands in the same line
            for begin in dict.fromkeys((0, max(line.rfind('{"kind"'), 0))):
                with contextlib.suppress(ValueError, RecursionError):
                    record = json.loads(line[begin:])
                    if isinstance(record, dict):
                        yield record
                    break


def number(value: Any) -> float | None:
    """A finite number, or None for whatever else a file may hold."""
    try:
        return float(value) if type(value) in (int, float) and math.isfinite(value) else None
    except OverflowError:  # a whole number of more than 308 digits
        return None
