"""Runs that are disturbed: started as forks of a nursery, watched from outside, hit at a chosen moment."""

import contextlib
import json
import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from helpers import HOME
from runs import run_folder, weights

from narae.chain import free_port
from narae.checkpoint import checkpoints

STEPS, WARMUP, SAVE, EVALUATE = 60, 16, 5, 8
OPTIONS = (
    f"--batch_rows 4 --per_device_train_batch_size 2 --max_steps {STEPS} --warmup_steps {WARMUP} "
    f"--learning_rate 0.002 --save_steps {SAVE} --eval_steps {EVALUATE} --logging_steps 1"
)
ZERO = ["--deepspeed", "configs/ds/zero2.json"]
KINDS: dict[str, tuple[int, list[str]]] = {"plain": (1, []), "ddp": (2, []), "zero2": (2, ZERO)}
START = {"plain": 0.5, "ddp": 1.2, "zero2": 1.6}  # seconds until the first step, about
PLACES = ("start-up", "warm-up", "training", "evaluation", "saving", "renaming", "renamed")
LAUNCHER = 10.0  # seconds until a launcher ends the other ranks
PATIENCE = 120.0  # seconds until something that should have happened is a failure; nothing else depends on it


class Nursery:
    def __init__(self, folder: Path):
        words = [sys.executable, str(Path(__file__).with_name("nursery.py"))]
        self.errors = (folder / "nursery.log").open("w")
        self.process = subprocess.Popen(
            words, cwd=folder, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.errors
        )
        assert self._answer() == "ready"

    def start(self, words: list[str], environment: dict[str, str], output: Path) -> int:
        return int(self._ask(words=words, environment=environment, output=str(output)))

    def ended(self, child: int) -> int | None:
        """Its exit code, as subprocess gives it: of one killed by a signal, that signal's negative."""
        code = self._ask(ended=child)
        return None if code is None else int(code)

    def close(self) -> None:
        self.process.communicate()  # its input ends, and with it all that it started
        self.errors.close()

    def _ask(self, **words: Any) -> Any:
        assert self.process.stdin is not None
        print(json.dumps(words), file=self.process.stdin, flush=True)
        return self._answer()

    def _answer(self) -> Any:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, Path(self.errors.name).read_text()
        return json.loads(line)


@dataclass
class World:
    """Where runs are made: tests/runs.py's small world with a model whose dropout draws random numbers."""

    folder: Path
    nursery: Nursery
    undisturbed: dict[str, dict[str, torch.Tensor]] = field(default_factory=dict)

    def expected(self, kind: str) -> dict[str, torch.Tensor]:
        """The weights of a run that nothing befell."""
        if kind not in self.undisturbed:
            name = f"undisturbed-{kind}"
            with attempt(self, kind, name) as one:
                one.finish(0)
            self.undisturbed[kind] = weights(name)
        return self.undisturbed[kind]


class Attempt:
    """One start of a run: a process for each rank, as srun starts them."""

    def __init__(self, world: World, kind: str, name: str, words: Sequence[str] = (), artifacts: Path | None = None):
        ranks, more = KINDS[kind]
        self.nursery, self.run = world.nursery, run_folder(name) if artifacts is None else artifacts / "runs" / name
        self.known = {one.name for one in checkpoints(self.run)}
        self.metrics = self.run / "metrics.jsonl"
        self.read = self.metrics.stat().st_size if self.metrics.exists() else 0
        self.records: list[dict[str, Any]] = []
        self.staged = 0  # how many times a checkpoint was seen to be written
        self._staging = False
        command = [str(HOME / "pretrain/run.py"), "--name", name, "--model_config", str(world.folder / "phi.json")]
        command += [*OPTIONS.split(), *more, *words]
        environment = {} if artifacts is None else {"NARAE_ARTIFACTS": str(artifacts)}
        if ranks > 1:
            environment |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "WORLD_SIZE": str(ranks)}
        stem = f"{name}-{time.monotonic_ns()}"
        self.outputs = [world.folder / f"{stem}-{rank}.log" for rank in range(ranks)]
        self.processes = []
        for rank, output in enumerate(self.outputs):
            mine = {"RANK": str(rank), "LOCAL_RANK": str(rank)} if ranks > 1 else {}
            self.processes.append(self.nursery.start(command, environment | mine, output))

    def output(self) -> str:
        parts = [f"rank {rank}:\n{file.read_text()}" for rank, file in enumerate(self.outputs) if file.exists()]
        return f"{self.run}\n" + "\n".join(parts)

    def codes(self) -> list[int | None]:
        return [self.nursery.ended(process) for process in self.processes]

    def finish(self, *allowed: int, launched: bool = False) -> str:
        """All ranks end by themselves, with one of these codes where any are given. `launched`: or by what started
        them. A rank that goes with all its processes before it is connected leaves nobody who could tell the others.
        """
        until, ends = time.monotonic() + PATIENCE, math.inf
        while None in (codes := self.codes()):
            if launched and any(codes):
                ends = min(ends, time.monotonic() + LAUNCHER)
            if time.monotonic() > ends:
                self.end()
            assert time.monotonic() < until, f"codes {codes} after {PATIENCE:.0f} s\n{self.output()}"
            time.sleep(0.005)
        assert not allowed or set(codes) <= set(allowed), f"codes {codes} instead of {allowed}\n{self.output()}"
        self.look()
        return self.output()

    def look(self) -> None:
        """What the run wrote since the last look, and whether a checkpoint is being written."""
        if self.metrics.exists() and self.metrics.stat().st_size > self.read:
            with self.metrics.open("rb") as file:
                file.seek(self.read)
                lines = file.read().splitlines(keepends=True)
            for line in lines:
                if not line.endswith(b"\n"):
                    break
                self.read += len(line)
                # Behind a line that a kill cut off stands this attempt's first
                with contextlib.suppress(ValueError):
                    self.records.append(json.loads(line[max(line.rfind(b'{"kind"'), 0) :]))
        staging = (self.run / ".staging").exists()
        self.staged += staging and not self._staging
        self._staging = staging

    def of(self, kind: str) -> list[dict[str, Any]]:
        return [one for one in self.records if one["kind"] == kind]

    def last_step(self) -> int:
        return max((one["step"] for one in self.records if one["kind"] in {"start", "train"}), default=-1)

    def reached(self, place: str, after: int) -> bool:
        trained = self.of("train")
        if place not in PLACES:  # words that it says
            return place in self.output()
        if place == "start-up":
            return True
        if place == "saving":
            return self._staging and self.staged >= after
        if place == "renaming":
            return any((self.run / ".staging").rglob("manifest.json*"))
        if place == "renamed":
            return len({one.name for one in checkpoints(self.run)} - self.known) >= after
        if place == "evaluation":
            return len(trained) >= after and trained[-1]["step"] % EVALUATE == 0
        return len(trained) >= after  # warm-up or training

    def wait_for(self, place: str, after: int = 1) -> None:
        until = time.monotonic() + PATIENCE
        while not self.reached(place, after):
            late = f"{place} {after} was not reached"
            assert time.monotonic() < until, f"{late} in {PATIENCE:.0f} s\n{self.output()}"
            assert None in self.codes(), f"{late}: ended with {self.codes()}\n{self.output()}"
            time.sleep(0.0005)
            self.look()

    def hit(self, number: signal.Signals, whom: str) -> str:
        """Send it, and say what the run was doing."""
        targets = {"all": self.processes, "first": self.processes[:1], "last": self.processes[-1:]}
        staging = (self.run / ".staging").exists()
        for process in targets.get(whom, self.processes):
            with contextlib.suppress(ProcessLookupError):
                if whom == "group" or number == signal.SIGKILL:  # with workers that read, and the page's writer
                    os.killpg(process, number)
                else:
                    os.kill(process, number)
        when = time.time()
        self.look()
        before = [one for one in self.records if one["time"] <= when]
        if not any(one["kind"] == "ready" for one in before):
            return "start-up"
        if staging:
            return "saving"
        judged = [one for one in before if one["kind"] in {"train", "samples"}]
        if judged and judged[-1]["kind"] == "train" and judged[-1]["step"] % EVALUATE == 0:
            return "evaluation"
        return "warm-up" if self.last_step() < WARMUP else "training"

    def end(self) -> None:
        """Nothing of it stays, however a test ends."""
        for process in self.processes:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process, signal.SIGKILL)
        while None in self.codes():
            time.sleep(0.001)


@contextlib.contextmanager
def attempt(world: World, kind: str, name: str, *words: str, artifacts: Path | None = None) -> Iterator[Attempt]:
    one = Attempt(world, kind, name, words, artifacts)
    try:
        yield one
    finally:
        one.end()
