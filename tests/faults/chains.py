"""One run, started again and again, and hit at each start: what must hold after each, and at its end."""

import signal
import time
from collections import Counter
from dataclasses import dataclass, replace

from counting import FULL
from harness import SAVE, Attempt, World, attempt
from runs import run_folder, same, weights

from narae.checkpoint import checkpoints, damage
from narae.follow import STOPPED


@dataclass(frozen=True)
class Fault:
    place: str
    after: int = 1
    delay: float = 0.0  # seconds
    signals: tuple[str, ...] = ("SIGKILL",)
    whom: str = "all"


@dataclass(frozen=True)
class Chain:
    name: str
    kind: str
    faults: tuple[Fault, ...]
    words: tuple[str, ...] = ()


def brief(chain: Chain) -> Chain:
    """But in the full count: two ranks take long to start."""
    return chain if FULL else replace(chain, faults=chain.faults[: 3 if chain.kind == "plain" else 1])


def endure(world: World, chain: Chain) -> Counter[str]:
    """The run in all its attempts. Returns what the faults fell into."""
    expected, fell = world.expected(chain.kind), Counter[str]()
    # What is written while training goes on is not there yet where a kill falls into it
    interval = 2 * SAVE if "--save_async" in chain.words else SAVE
    last, bound, told = 0, 0, ""
    for fault in [*chain.faults, None]:
        with attempt(world, chain.kind, chain.name, *chain.words) as one:
            if fault is None:
                one.finish(0)
            else:
                fell[f"{'+'.join(fault.signals)} in {strike(one, fault)}"] += 1
            told += f"\n--- {fault}\n{one.output()}"
            for record in one.of("start"):  # none where it ended before it had read its checkpoint
                lost = last - record["step"]
                assert 0 <= lost <= bound, f"began at step {record['step']} after step {last} had been done{told}"
                last = max(one.last_step(), last)
            stops = [record["step"] for record in one.of("stop") if record.get("step", -1) >= 0]
            if fault is not None and "SIGKILL" in fault.signals:
                bound = interval
            elif fault is not None and (fault.place != "start-up" or stops):
                bound = 0
                newest = checkpoints(run_folder(chain.name))
                assert newest and not damage(newest[0]), f"{newest}: {damage(newest[0]) if newest else 'none'}{told}"
                assert newest[0].name == f"checkpoint-{last}", f"{newest} after step {last}{told}"
                assert stops == [last], f"{stops} after step {last}{told}"
    assert same(weights(chain.name), expected), f"other weights than those of an undisturbed run{told}"
    return fell


def strike(one: Attempt, fault: Fault) -> str:
    one.wait_for(fault.place, fault.after)
    deadline = time.monotonic() + fault.delay
    while time.monotonic() < deadline:
        time.sleep(0.0002)
    fell = ""
    for name in fault.signals:
        found = one.hit(signal.Signals[name], fault.whom)
        fell = fell or found
    if "SIGKILL" not in fault.signals:
        # Before the command has begun to listen, a signal does what it does to any process
        early = [-signal.Signals[name] for name in fault.signals] if fault.place == "start-up" else []
        one.finish(STOPPED, *early, *[-signal.SIGKILL] * bool(early), launched=bool(early))
    elif fault.whom == "all":
        one.finish(-signal.SIGKILL)
    else:  # its peers end by themselves
        one.finish(STOPPED, -signal.SIGKILL, launched=fell == "start-up")
        assert -signal.SIGKILL in one.codes(), one.output()
    return fell
