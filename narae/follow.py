"""A run's folder, and what is written down while it trains: metrics.jsonl, progress lines, signals, signs of life."""

import contextlib
import fcntl
import hashlib
import json
import math
import os
import resource
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import torch
import yaml
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from narae.artifact import plain, root
from narae.config import HOME
from narae.log import Metrics, Mistake, differs, duration, rank, read_metrics, say
from narae.pulse import beat, long, opened, started
from narae.ranks import part
from narae.warden import STOPPED as STOPPED

SKIPPED = "skipped.jsonl"  # beside metrics.jsonl: which steps made no update, and which rows are left out
COMPILING = 3600.0  # seconds for torch.compile, with its search for the fastest kernels
CHANGEABLE = "the length where it grows, ranks, ZeRO stage, precision, micro-batches, evaluation, logging and saving"


def world() -> int:
    return int(os.environ.get("WORLD_SIZE", "1"))


class RunFolder:
    """artifacts/runs/<name>: config.yaml says what the run is, and one process at a time works in it."""

    def __init__(self, name: str, identity: dict[str, Any], overwrite: bool, growing: str = ""):
        """`growing` names the setting that may become larger while the run goes on."""
        self.path = root() / "runs" / name
        decided = {key: value for key, value in plain(identity).items() if key != growing}
        self.mark = hashlib.sha256(json.dumps(decided, sort_keys=True).encode()).hexdigest()[:16]
        self.metrics = Metrics(self.path / "metrics.jsonl")
        if rank() != 0:
            return
        seen: dict[str, float] = {}
        self.path.mkdir(parents=True, exist_ok=True)
        self._lock = (self.path / ".lock").open("w")
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Mistake(f"another process trains in {self.path}: wait for it, or choose another --name") from None
        self._claim(plain(identity), overwrite, growing)
        # When the attempt before showed itself last, which this one's own signs of life will hide
        with contextlib.suppress(OSError):
            seen["last_alive"] = round((self.path / ".alive").stat().st_mtime, 3)
        self.metrics.write("open", **seen)
        opened()
        threading.Thread(target=live, args=(self.path / ".alive",), daemon=True).start()

    def _claim(self, identity: dict[str, Any], overwrite: bool, growing: str) -> None:
        file = self.path / "config.yaml"
        if file.exists():
            was = yaml.safe_load(file.read_text(encoding="utf-8"))
            changed = sorted(key for key in was.keys() | identity.keys() if was.get(key) != identity.get(key))
            grown = changed == [growing] and was.get(growing, 0) < identity[growing]
            finished = (self.path / "final").exists()
            if changed and not grown and not overwrite:
                key = changed[0]
                raise Mistake(
                    f"{self.path} is an unfinished run with {differs(key, was.get(key), identity.get(key))}: "
                    f"--name starts another run, --overwrite starts this one anew; what may change is {CHANGEABLE}"
                )
            if (changed or finished) and not grown:
                for old in [*self.path.glob("checkpoint-*"), self.path / ".staging"]:
                    shutil.rmtree(old, ignore_errors=True)
                for old in (file, self.metrics.path, self.path / SKIPPED):
                    old.unlink(missing_ok=True)
        file.write_text(yaml.safe_dump(identity, allow_unicode=True, sort_keys=False), encoding="utf-8")


def live(file: Path) -> None:
    """A sign of life each second: after a kill its time says when that was."""
    while True:
        with contextlib.suppress(OSError):
            file.touch()
        time.sleep(1)


class Stopper:
    """SIGTERM and SIGUSR1 ask for a checkpoint and an end with code 85. All ranks agree before they act."""

    def __init__(self) -> None:
        self.asked = 0
        for number in (signal.SIGTERM, signal.SIGUSR1):
            signal.signal(number, self._ask)

    def _ask(self, number: int, frame: Any) -> None:
        del frame
        self.asked = number

    def agreed(self, device: torch.device) -> bool:
        found = self.asked
        if torch.distributed.is_initialized() and torch.distributed.get_world_size() > 1:
            flag = torch.tensor([float(found)], device=device)
            torch.distributed.all_reduce(flag, op=torch.distributed.ReduceOp.MAX)
            found = int(flag.item())
        if found:  # else a signal may have come meanwhile, which the next time will be heard of
            self.asked = found
        return found > 0


class Follow(TrainerCallback):
    """metrics.jsonl, a progress line with an ETA, the report page after each evaluation, and signals."""

    def __init__(
        self,
        folder: RunFolder,
        name: str,
        tokens_per_step: float = 0.0,
        every: float = 10.0,
        about: dict[str, Any] | None = None,
    ):
        """`tokens_per_step` where the trainer does not count them; `about` goes into the start's record."""
        self.folder, self.name, self.tokens_per_step, self.every = folder, name, tokens_per_step, every
        self.about = about or {}
        self.details: dict[str, Any] = {}  # what the trainer adds to a record that is no number
        self.stopper = Stopper()
        self.began = self.shown = self._lap = time.monotonic()
        self.first_step = self.last_step = 0
        self._aside = 0.0
        self._ready = False
        self._report: subprocess.Popen[bytes] | None = None
        self._first = contextlib.ExitStack()  # what the first step may take beyond all others

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        beat("training begins", state.global_step)
        if args.torch_compile:
            self._first.enter_context(long("compiling the first step", COMPILING))
        self.began = time.monotonic()
        self.first_step = self.last_step = state.global_step
        attempts = [record for record in read_metrics(self.folder.metrics.path) if record.get("kind") == "start"]
        words: dict[str, Any] = {"world": world(), "began": round(psutil.Process().create_time(), 3)}
        if os.environ.get("SLURM_JOB_START_TIME", "").isdigit():
            words["allocated"] = int(os.environ["SLURM_JOB_START_TIME"])
        words |= {"attempt": len(attempts) + 1, **self.about}
        self.folder.metrics.write("start", step=state.global_step, total_steps=state.max_steps, **words)

    def on_step_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        beat(f"step {state.global_step + 1} begins", state.global_step)
        if not self._ready:
            self._ready = True
            self._lap, self._aside = time.monotonic(), 0.0
            self.folder.metrics.write("ready", step=state.global_step)

    def on_substep_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        beat(f"step {state.global_step + 1}: a micro-batch is done", state.global_step)

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        self._first.close()
        started()
        beat(f"step {state.global_step} is done", state.global_step)
        if self.stopper.agreed(args.device):
            control.should_log = control.should_save = control.should_training_stop = True
        control.should_log |= state.global_step >= state.max_steps

    @contextlib.contextmanager
    def aside(self) -> Iterator[dict[str, float]]:
        """What happens in here is no training; leaves its seconds."""
        began, found = time.monotonic(), {"seconds": 0.0}
        try:
            yield found
        finally:
            found["seconds"] = time.monotonic() - began
            self._aside += found["seconds"]

    def lap(self) -> float:
        """Seconds of training since the last call."""
        now = time.monotonic()
        seconds = max(now - self._lap - self._aside, 1e-9)
        self._lap, self._aside = now, 0.0
        return seconds

    def on_log(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **words: Any) -> None:
        logs = words["logs"]
        if "loss" not in logs:
            return
        steps, self.last_step = state.global_step - self.last_step, state.global_step
        record = {
            "loss": finite(logs["loss"], 5),
            "learning_rate": logs["learning_rate"],
            "grad_norm": finite(float(logs.get("grad_norm", 0.0)), 4),
        }
        if "tokens_per_s" in logs:
            record |= {key: value for key, value in logs.items() if key not in record and key != "epoch"}
        else:
            seconds = self.lap()
            record |= {
                "tokens": round(state.global_step * self.tokens_per_step),
                "tokens_per_s": round(steps * self.tokens_per_step / seconds, 1),
                "memory_mb": memory_mb(),
                "seconds": round(seconds, 3),
            }
        self.folder.metrics.write(
            "train", step=state.global_step, total_steps=state.max_steps, **record, **self.details
        )
        now = time.monotonic()
        if now - self.shown >= self.every or state.global_step >= state.max_steps:
            self.shown = now
            done = max(state.global_step - self.first_step, 1)
            left = (now - self.began) / done * (state.max_steps - state.global_step)
            busy = f"  {record['mfu']:.0%} MFU" if "mfu" in record else ""
            say(
                f"step {state.global_step:,}/{state.max_steps:,}  loss {logs['loss']:.3f}  "
                f"{record['tokens_per_s']:,.0f} tokens/s{busy}  {duration(left)} left"
            )

    def stopped(self, step: int, cause: str = "") -> None:
        """Say that a signal ended the run, or another cause after which the same command goes on, and end."""
        said = f"stopped after step {step:,} ({cause}); the same command goes on"
        if not cause:
            cause = signal.Signals(self.stopper.asked).name if self.stopper.asked else "stopped"
            said = f"stopped by a signal after step {step:,}; the same command goes on from there"
        self.folder.metrics.write("stop", step=step, cause=cause)
        self.close()
        say(said)
        part()
        sys.exit(STOPPED)

    def refresh_report(self) -> None:
        """Rewrite the page that an open browser follows; a command of its own, so that training does not wait."""
        if rank() == 0 and (self._report is None or self._report.poll() is not None):
            words = [sys.executable, str(HOME / "infer" / "report.py"), "--run", self.name]
            environment = {key: value for key, value in os.environ.items() if key not in {"RANK", "WORLD_SIZE"}}
            self._report = subprocess.Popen(
                words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment
            )

    def close(self) -> None:
        if self._report is not None:
            self._report.wait()


def finite(value: float, digits: int) -> float | None:
    """JSON knows no other numbers."""
    return round(value, digits) if math.isfinite(value) else None


def memory_mb() -> int:
    """The peak: of the GPU where there is one, else of the process."""
    if torch.cuda.is_available():
        return round(torch.cuda.max_memory_allocated() / 1e6)
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1e6 if sys.platform == "darwin" else 1e3))
