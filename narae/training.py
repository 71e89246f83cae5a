"""What every training command shares: precision, DeepSpeed without a compiler, run folder, metrics, progress."""

import contextlib
import dataclasses
import fcntl
import importlib.util
import logging
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
import warnings
from pathlib import Path
from typing import Any

import torch
import yaml
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.utils import logging as hf_logging

from narae.artifact import plain, root
from narae.config import HOME
from narae.log import Metrics, Mistake, differs, duration, rank, say

STOPPED = 85  # exit code: a signal came, a checkpoint was written, run the same command again to go on


@dataclasses.dataclass
class TrainingOptions(TrainingArguments):
    """TrainingArguments whose defaults suit a run here. Every field keeps its name and its meaning."""

    output_dir: str = ""  # the run's folder; --name sets it
    bf16: bool = True
    per_device_train_batch_size: int = 8
    per_device_eval_batch_size: int = 8
    logging_strategy: str = "steps"
    logging_steps: float = 10
    eval_strategy: str = "steps"
    eval_steps: float | None = 500
    save_steps: float = 500
    save_total_limit: int | None = 2
    lr_scheduler_type: str = "cosine"
    weight_decay: float = 0.1
    adam_beta2: float = 0.95
    disable_tqdm: bool | None = True
    ignore_data_skip: bool = True
    remove_unused_columns: bool = False

    def __post_init__(self) -> None:
        if self.deepspeed:
            if not importlib.util.find_spec("deepspeed"):
                raise Mistake("--deepspeed needs the package deepspeed, which is not installed (it is made for Linux)")
            if isinstance(self.deepspeed, str) and not Path(self.deepspeed).is_file():
                here = HOME / self.deepspeed  # configs/ds/… is found from any folder
                if not here.is_file():
                    raise Mistake(
                        f"--deepspeed {self.deepspeed}: no such file; shipped are configs/ds/zero1.json to zero3.json"
                    )
                self.deepspeed = str(here)
            before_deepspeed()
        self.use_cpu = self.use_cpu or not (torch.cuda.is_available() or torch.backends.mps.is_available())
        set_precision(self)
        super().__post_init__()
        if self.n_gpu > 1:  # Trainer would split each batch over them in one process
            self._n_gpu = 1
            say(f"{torch.cuda.device_count()} GPUs and one process: using the first; torchrun or deepspeed use all")

    def place(self, name: str) -> None:
        self.output_dir = str(root() / "runs" / name)


def quiet() -> None:
    """The libraries' own progress lines and notices, which speak once per rank, make room for ours."""
    hf_logging.set_verbosity_error()
    hf_logging.disable_progress_bar()
    warnings.filterwarnings("ignore", module=r"(torch|deepspeed|transformers|accelerate|multiprocessing)\b.*")
    for name in ("DeepSpeed", "accelerate", "torch.distributed"):
        logging.getLogger(name).setLevel(logging.ERROR)


def set_precision(args: TrainingArguments) -> None:
    """bf16 where the hardware has it; else fp16 with loss scaling on a GPU, fp32 on a CPU. Said in one line."""
    if not args.bf16:
        return
    if torch.cuda.is_available():
        if torch.cuda.is_bf16_supported(including_emulation=False):
            return
        args.bf16, args.fp16 = False, True
        say(f"{torch.cuda.get_device_name()} has no native bf16: training in fp16 with loss scaling")
    elif not cpu_has_bf16():
        args.bf16 = False
        say("this CPU has no native bf16: training in fp32")


def cpu_has_bf16() -> bool:
    if sys.platform != "linux":
        return False
    flags = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    return "amx_bf16" in flags or "avx512_bf16" in flags or "bf16" in flags.split("Features", 1)[-1].split("\n")[0]


def before_deepspeed() -> None:
    """DeepSpeed compiles a C++ op for gloo on first use: a minute, and a lock that outlives a kill. Not here."""
    if not torch.cuda.is_available():
        os.environ.setdefault("DS_ACCELERATOR", "cpu")  # else it looks for one, and warns that there is none
    with contextlib.suppress(ImportError):
        with contextlib.redirect_stdout(sys.stderr):
            import deepspeed
        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False


def world() -> int:
    return int(os.environ.get("WORLD_SIZE", "1"))


class RunFolder:
    """artifacts/runs/<name>: config.yaml says what the run is, and one process at a time works in it."""

    def __init__(self, name: str, identity: dict[str, Any], overwrite: bool):
        self.path = root() / "runs" / name
        self.metrics = Metrics(self.path / "metrics.jsonl")
        if rank() != 0:
            return
        self.path.mkdir(parents=True, exist_ok=True)
        self._lock = (self.path / ".lock").open("w")
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Mistake(f"another process trains in {self.path}: wait for it, or choose another --name") from None
        self._claim(plain(identity), overwrite)

    def _claim(self, identity: dict[str, Any], overwrite: bool) -> None:
        file = self.path / "config.yaml"
        if file.exists():
            was = yaml.safe_load(file.read_text(encoding="utf-8"))
            changed = sorted(key for key in was.keys() | identity.keys() if was.get(key) != identity.get(key))
            finished = (self.path / "final").exists()
            if changed and not overwrite:
                key = changed[0]
                raise Mistake(
                    f"{self.path} is an unfinished run with {differs(key, was.get(key), identity.get(key))}: "
                    "--name starts another run, --overwrite starts this one anew"
                )
            if changed or finished:
                for old in [*self.path.glob("checkpoint-*"), self.path / ".staging"]:
                    shutil.rmtree(old, ignore_errors=True)
                for old in (file, self.metrics.path):
                    old.unlink(missing_ok=True)
        file.write_text(yaml.safe_dump(identity, allow_unicode=True, sort_keys=False), encoding="utf-8")


class Stopper:
    """SIGTERM and SIGUSR1 ask for a checkpoint and an end with code 85. All ranks agree before they act."""

    def __init__(self) -> None:
        self.asked = False
        for number in (signal.SIGTERM, signal.SIGUSR1):
            signal.signal(number, self._ask)

    def _ask(self, number: int, frame: Any) -> None:
        del number, frame
        self.asked = True

    def agreed(self, device: torch.device) -> bool:
        if not torch.distributed.is_initialized() or torch.distributed.get_world_size() == 1:
            return self.asked
        flag = torch.tensor([float(self.asked)], device=device)
        torch.distributed.all_reduce(flag, op=torch.distributed.ReduceOp.MAX)
        return bool(flag.item())


class Follow(TrainerCallback):
    """metrics.jsonl, a progress line with an ETA, the report page after each evaluation, and signals."""

    def __init__(self, folder: RunFolder, name: str, tokens_per_step: float, every: float = 10.0):
        self.folder, self.name, self.tokens_per_step, self.every = folder, name, tokens_per_step, every
        self.stopper = Stopper()
        self.began = self.shown = time.monotonic()
        self.first_step = self.last_step = 0
        self.last_time = self.began
        self._report: subprocess.Popen[bytes] | None = None

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        self.began = self.last_time = time.monotonic()
        self.first_step = self.last_step = state.global_step
        self.folder.metrics.write("start", step=state.global_step, total_steps=state.max_steps, world=world())

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        if self.stopper.agreed(args.device):
            control.should_save = control.should_training_stop = True

    def on_log(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **words: Any) -> None:
        logs = words["logs"]
        if "loss" not in logs:
            return
        now, steps = time.monotonic(), state.global_step - self.last_step
        speed = steps * self.tokens_per_step / max(now - self.last_time, 1e-9)
        self.last_time, self.last_step = now, state.global_step
        self.folder.metrics.write(
            "train",
            step=state.global_step,
            total_steps=state.max_steps,
            tokens=round(state.global_step * self.tokens_per_step),
            loss=round(logs["loss"], 5),
            learning_rate=logs["learning_rate"],
            grad_norm=round(float(logs.get("grad_norm", 0.0)), 4),
            tokens_per_s=round(speed, 1),
            memory_mb=memory_mb(),
        )
        if now - self.shown >= self.every or state.global_step >= state.max_steps:
            self.shown = now
            left = (
                (now - self.began) / max(state.global_step - self.first_step, 1) * (state.max_steps - state.global_step)
            )
            say(
                f"step {state.global_step:,}/{state.max_steps:,}  loss {logs['loss']:.3f}  "
                f"{speed:,.0f} tokens/s  {duration(left)} left"
            )

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


def memory_mb() -> int:
    """The peak: of the GPU where there is one, else of the process."""
    if torch.cuda.is_available():
        return round(torch.cuda.max_memory_allocated() / 1e6)
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1e6 if sys.platform == "darwin" else 1e3))
