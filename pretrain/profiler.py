"""A trace of a few steps, for chrome://tracing or Perfetto, and a table of what took the time.

python pretrain/run.py --profile_steps 20:24        # artifacts/runs/<name>/profile/steps-20-24-rank0.json.gz
"""

from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from narae.follow import Follow
from narae.log import rank, say


class Profiler(TrainerCallback):
    def __init__(self, first: int, last: int, follow: Follow):
        self.first, self.last, self.follow = first, last, follow
        self._running: Any = None

    def on_step_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        if state.global_step + 1 == self.first:
            kinds = [ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * torch.cuda.is_available()
            self._running = profile(activities=kinds, record_shapes=True, profile_memory=True)
            self._running.__enter__()

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        if self._running is not None and state.global_step >= self.last:
            self._write()

    def on_train_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        if self._running is not None:  # the run ended inside the window
            self._write()
        elif state.global_step < self.first:
            say(f"--profile_steps begins at step {self.first}, the run ended at {state.global_step}: no trace")

    def _write(self) -> None:
        running, self._running = self._running, None
        running.__exit__(None, None, None)
        folder = self.follow.folder.path / "profile"
        stem = folder / f"steps-{self.first}-{self.last}-rank{rank()}"
        with self.follow.aside():
            folder.mkdir(parents=True, exist_ok=True)
            running.export_chrome_trace(f"{stem}.json.gz")
            by = "self_device_time_total" if torch.cuda.is_available() else "self_cpu_time_total"
            table = running.key_averages().table(sort_by=by, row_limit=40)
            Path(f"{stem}.txt").write_text(table, encoding="utf-8")
        say(f"the trace of steps {self.first} to {self.last}: {stem}.json.gz, a table beside it")
