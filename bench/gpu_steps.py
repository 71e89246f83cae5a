"""The rate of a training run from what it wrote down: when each record came, and how many tokens there were by then."""

import itertools
import statistics
from collections.abc import Sequence
from typing import Any, NamedTuple

from bench.gpu_plan import Steps

SAVES = 500  # steps between two checkpoints where nothing else is said


class Mark(NamedTuple):
    step: int
    time: float  # seconds
    tokens: int  # loss-bearing, since the run began


def figures(marks: Sequence[Mark], steps: Steps, saved: bool) -> dict[str, Any]:
    """`tokens_per_s` has everything in it: reading, logging, and the one checkpoint if there was one.

    The window is short, so the checkpoint weighs more in it than in a long run: `tokens_per_s_per_500_steps` is the
    rate where one comes in 500 steps, `tokens_per_s_of_steps` that of the median step.
    """
    window = [one for one in marks if steps.first <= one.step <= steps.last]
    begin, end = window[0], window[-1]
    per_step = (end.tokens - begin.tokens) / (end.step - begin.step)
    took = {
        after.step: (after.time - before.time) / (after.step - before.step)
        for before, after in itertools.pairwise(window)
    }
    # A step is written down before its checkpoint: the save falls into the interval in which or after which it is due
    beside = min((step for step in took if step > steps.save), default=0) if saved else 0
    step = statistics.median([seconds for at, seconds in took.items() if at != beside])
    found = {
        "tokens_per_s": (end.tokens - begin.tokens) / (end.time - begin.time),
        "tokens_per_s_of_steps": per_step / step,
        "step_s": step,
        "slowest_step_s": max(seconds for at, seconds in took.items() if at != beside),
        "tokens_per_step": per_step,
        "steps": end.step - begin.step,
    }
    if beside:
        stall = (took[beside] - step) * steps.every
        found |= {"stall_s": stall, "tokens_per_s_per_500_steps": SAVES * per_step / (SAVES * step + max(stall, 0.0))}
    return {key: round(value, 4) for key, value in found.items()}
