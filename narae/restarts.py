"""Whether another start is of any use: not where several in a row began at one step and none came further.

Batch scripts put a job back into the queue after a hang, a lost node, a kill or a signal, however often. This is what
ends it.
"""

import time
from dataclasses import dataclass
from pathlib import Path

from narae import warden
from narae.log import Mistake, number, stream_metrics

# Ends that say nothing of the machine: somebody asked for them, or an error's own words did, which ends a job for good
SIGNALS = {"SIGTERM", "SIGUSR1"}
ASKED = SIGNALS | {"SIGINT", "stopped", "mistake", "error", "rollback"}
EARLY = 10  # signals before the first step was done: a job may be preempted several times while it starts


@dataclass
class Start:
    step: int | None = None  # where it began; unknown where it came to no training
    seen: float = 0.0  # the last that was heard of it
    cause: str = "killed"
    stopped: int | None = None  # after which step, where it says so


def starts(metrics: Path) -> list[Start]:
    """Every attempt that metrics.jsonl tells of, this one's beginning included."""
    found: list[Start] = []
    begun = True
    for record in stream_metrics(metrics):
        kind, when = record.get("kind"), number(record.get("time")) or 0.0
        if kind == "open" or (kind == "start" and begun):
            if found and found[-1].cause == "killed":
                found[-1].seen = max(found[-1].seen, number(record.get("last_alive")) or 0.0)
            found.append(Start())
            begun = False
        if not found:
            continue
        one = found[-1]
        one.seen = max(one.seen, when)
        if kind == "start":
            begun, step = True, number(record.get("step"))
            one.step = None if step is None else int(step)
        elif kind == "stop":
            one.cause, step = str(record.get("cause") or "stopped"), number(record.get("step"))
            one.stopped = None if step is None else int(step)
        elif kind == "end":
            one.cause = "finished"
    return found


def futile(before: list[Start], step: int) -> list[Start]:
    """The last of them in a row that began at this step and came no further; those that were asked to end aside."""
    found: list[Start] = []
    for one in reversed(before):
        if one.cause in ASKED:
            continue
        if one.cause == "finished" or one.step not in (None, step):
            break
        found.append(one)
    return found[::-1]


def check_restarts(run: Path, step: int, most: int, *, opened: bool = True) -> None:
    """Rank 0, of a run that would start from `step`. Its own record of opening the folder is the last one."""
    if most < 0:
        raise Mistake(f"--max_restarts {most}: a number of attempts, or 0 for no limit")
    known = starts(run / "metrics.jsonl")
    found = futile(known[:-1] if opened else known, step)
    if most and len(found) >= most:
        told = ", ".join(f"{one.cause} {_when(one.seen)}" for one in found[-5:])
        stacks = f"{run / 'stacks'} and the logs say" if (run / "stacks").is_dir() else "the logs say"
        raise Mistake(
            f"the last {len(found)} attempts began at step {step:,} and none came further ({told}): "
            f"{stacks} why; then --max_restarts {len(found) + 1} tries once more, 0 without a limit"
        )


def check_start_up(run: Path) -> None:
    """Rank 0, before it does anything. The refusal is written down, and with it the count begins anew."""
    early: list[Start] = []
    for one in reversed(starts(run / "metrics.jsonl")):
        if one.cause not in SIGNALS or one.stopped != one.step:
            break
        early.append(one)
    if len(early) >= EARLY:
        warden.note(run, "mistake", -1, time.time())
        told = f"{early[0].cause} {_when(early[0].seen)}"
        raise Mistake(
            f"the last {len(early)} attempts were ended by a signal before their first step was done (last {told}): "
            "the time limit may be shorter than the start-up, so ask for more time (sbatch --time); "
            "the same command tries again"
        )


def _when(seen: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(seen)) if seen else "at an unknown time"
