"""What every training command shares: its options, its precision, and DeepSpeed without a compiler."""

import contextlib
import dataclasses
import datetime
import importlib.util
import logging
import math
import os
import sys
import warnings
from pathlib import Path
from typing import Any

import torch
from transformers import TrainingArguments
from transformers.utils import logging as hf_logging

from narae import pulse, warden, zero
from narae.artifact import root
from narae.chain import free_port
from narae.config import HOME, option
from narae.log import Mistake, say
from narae.memory import keep_memory
from narae.peers import ranks

# Where trackers write, unless told otherwise
PLACES = {"TENSORBOARD_LOGGING_DIR": "tensorboard", "WANDB_DIR": "", "TRACKIO_DIR": "trackio"}


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
    save_async: bool = option(False, "write checkpoints while the next steps run, from a copy in memory")
    keep_every: int = option(0, "checkpoints at multiples of so many steps are never removed; 0 is none")
    if_disk_full: str = option("go_on", "what a run does that cannot save: go_on or stop")
    hang_timeout: float = option(pulse.TIMEOUT, "seconds without progress after which ranks end with 85; 0: never")
    max_restarts: int = option(3, "refuse a start after so many in a row that came to no new checkpoint; 0: never")
    log_level_replica: str = "passive"  # as quiet as rank 0: no notice of an elastic resume's other micro-batch
    disable_tqdm: bool | None = True
    ignore_data_skip: bool = True
    remove_unused_columns: bool = False

    def __post_init__(self) -> None:
        if self.if_disk_full not in ("go_on", "stop"):
            raise Mistake(f"--if_disk_full {self.if_disk_full}: it is go_on or stop")
        if self.keep_every < 0:
            raise Mistake(f"--keep_every {self.keep_every}: give a number of steps, or 0 to keep the last ones alone")
        if isinstance(self.report_to, str):
            self.report_to = self.report_to.split(",")  # the parser takes one word
        if self.deepspeed:
            if not importlib.util.find_spec("deepspeed"):
                raise Mistake("--deepspeed needs the package deepspeed, which is not installed (it is made for Linux)")
            if isinstance(self.deepspeed, str) and not Path(self.deepspeed).is_file():
                here = HOME / self.deepspeed  # configs/ds/… is found from any folder
                if not here.is_file():
                    raise Mistake(
                        f"--deepspeed {self.deepspeed}: no such file; configs/ds has zero0 to zero3 and zero3-offload"
                    )
                self.deepspeed = str(here)
            before_deepspeed()
            if "RANK" not in os.environ:  # no launcher: one rank, or DeepSpeed would look for MPI
                alone = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1"}
                os.environ.update(alone | {"MASTER_PORT": str(free_port())})
        self.use_cpu = self.use_cpu or not (torch.cuda.is_available() or torch.backends.mps.is_available())
        if self.use_cpu:
            keep_memory()
        set_precision(self)
        if self.deepspeed:
            zero.check(self.deepspeed, self)
        if self.hang_timeout and self.ddp_timeout == TrainingArguments.ddp_timeout:
            # A collective's own limit says less, and nothing in one line: it comes second, unless it is asked for
            self.ddp_timeout = max(self.ddp_timeout, math.ceil(2 * self.hang_timeout))
        with pulse.long(f"waiting for {ranks()} ranks at {warden.here()}", self.hang_timeout):
            pulse.meet(self.hang_timeout)
            super().__post_init__()
        if torch.distributed.is_available() and torch.distributed.is_initialized():  # on a CPU transformers forgets it
            library: Any = torch.distributed.distributed_c10d
            library._set_pg_timeout(datetime.timedelta(seconds=self.ddp_timeout))
        if self.n_gpu > 1:  # Trainer would split each batch over them in one process
            self._n_gpu = 1
            say(f"{torch.cuda.device_count()} GPUs and one process: using the first; torchrun or deepspeed use all")

    def place(self, name: str) -> None:
        """The run's folder holds all that it writes, what trackers keep included."""
        self.output_dir = str(root() / "runs" / name)
        self.run_name = self.run_name or name
        self.project = "narae" if self.project == "huggingface" else self.project
        for package in self.report_to or []:
            if not importlib.util.find_spec(package):
                raise Mistake(f"--report_to {package} needs the package {package}: pip install {package}")
            Path(self.output_dir).mkdir(parents=True, exist_ok=True)
        for variable, place in PLACES.items():
            os.environ.setdefault(variable, str(Path(self.output_dir, place)))
        os.environ.setdefault("WANDB_PROJECT", self.project)


def quiet() -> None:
    """The libraries' own progress lines and notices, which speak once per rank, make room for ours."""
    if not torch.cuda.is_available():
        os.environ.setdefault("DS_ACCELERATOR", "cpu")  # else DeepSpeed looks for one, and warns that there is none
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
    with contextlib.suppress(ImportError):
        with contextlib.redirect_stdout(sys.stderr):
            import deepspeed
            import deepspeed.runtime.bf16_optimizer as bf16_optimizer
        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
        bf16_optimizer.see_memory_usage = lambda *_, **__: None  # it prints, whatever the log level
