"""SIGTERM and SIGUSR1 at any moment: a whole checkpoint, exit code 85, and the weights at the end to the bit."""

import random
from collections.abc import Callable
from typing import Any

import pytest
from chains import Chain, Fault, brief, endure
from counting import some
from harness import START, World

SIGNALS = [
    ("SIGTERM",),
    ("SIGUSR1",),
    ("SIGTERM", "SIGTERM"),
    ("SIGUSR1", "SIGUSR1"),
    ("SIGUSR1", "SIGTERM"),
    ("SIGTERM", "SIGUSR1"),
]


def chain(kind: str, number: int) -> Chain:
    """Signals in warm-up, training, evaluation and saving, to all ranks as Slurm sends them, or to one."""
    draw = random.Random(f"{kind} {number}")
    later = [("training", draw.randint(16, 20), 0.02), ("evaluation", 1, 0.015), ("saving", 1, 0.01)]
    first = [("start-up", 1, START[kind])] if number % 3 == 1 else []
    faults = []
    for place, after, most in [*first, ("warm-up", draw.randint(1, 4), 0.02), *draw.sample(later, 3)]:
        signals, whom = draw.choice(SIGNALS), draw.choice(("all", "all", "group", "first", "last"))
        faults.append(Fault(place, after, draw.uniform(0, most), signals, whom))
    words = [("--dataloader_num_workers", "2"), ("--save_async",), (), ()][number % 4]
    return Chain(f"signalled-{kind}-{number}", kind, tuple(faults), words)


CHAINS = [brief(chain(kind, n)) for kind, count in (("plain", 30), ("zero2", 12), ("ddp", 8)) for n in range(count)]


@pytest.mark.parametrize("chain", some(CHAINS, 1, 30), ids=lambda one: one.name)
def test_a_signal_leaves_a_checkpoint_and_the_run_goes_on(world: World, chain: Chain, tell: Callable[..., Any]) -> None:
    tell(endure(world, chain))
