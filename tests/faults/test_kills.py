"""SIGKILL at any moment: at most one save interval is lost, and the weights at the end are those to the bit."""

import random
from collections.abc import Callable
from typing import Any

import pytest
from chains import Chain, Fault, brief, endure
from counting import some
from harness import START, World


def chain(kind: str, number: int) -> Chain:
    """Four kills. Each second one comes after a checkpoint: a run that never comes further gives itself up."""
    draw = random.Random(f"{kind} {number}")
    far = [("saving", 2, 0.02), ("renamed", 1, 0.005), ("training", 7, 0.02), ("evaluation", 6, 0.03)]
    near = [
        ("start-up", 1, START[kind]),
        ("saving", 1, 0.02),
        ("renaming", 1, 0.002),
        ("training", draw.randint(1, 4), 0.02),
    ]
    faults = []
    for turn in range(4):
        place, after, most = draw.choices(near if turn % 2 else far, weights=[1, 3 - 2 * (turn % 2), 2, 1])[0]
        whom = draw.choice(("all", "first", "last")) if kind != "plain" and turn == number % 4 else "all"
        faults.append(Fault(place, after, draw.uniform(0, most), whom=whom))
    # A rank that waits for one which never came ends after twice this
    words = ["--hang_timeout", "25", *(["--save_async"] if number % 2 else [])]
    return Chain(f"killed-{kind}-{number}", kind, tuple(faults), tuple(words))


CHAINS = [brief(chain(kind, number)) for kind in ("plain", "zero2") for number in range(5)]


@pytest.mark.parametrize("chain", some(CHAINS, 2, 5), ids=lambda one: one.name)
def test_a_killed_run_ends_as_if_undisturbed(world: World, chain: Chain, tell: Callable[..., Any]) -> None:
    tell(endure(world, chain))
