"""python bench/gpu_ours.py --size 1.3b --name ours [--kind whole] [--stage 2] [--micro 32] [-- RUN'S OPTIONS]

Our training as users start it, pretrain/run.py by DeepSpeed's launcher (where the package is; else plainly), on the
rows of bench/gpu_rows.py. It is ended when its records have reached the last step that counts: the rate is theirs.
"""

import argparse
import dataclasses
import importlib.util
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from bench.gpu_plan import BATCHES, Steps, batch, steps
from bench.gpu_process import end
from bench.gpu_rows import NAME
from bench.gpu_steps import Mark, figures
from bench.gpu_trace import summary
from narae.artifact import root
from narae.config import HOME
from narae.log import Mistake, read_metrics

CONFIG = "configs/pretrain/books-1.3b.yaml"
PATIENCE = 40.0  # seconds for a checkpoint that is written beside the training


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", default="1.3b", choices=BATCHES)
    parser.add_argument("--name", default="ours", help="of the run")
    parser.add_argument("--kind", default="short", choices=("whole", "short"), help="how many steps")
    parser.add_argument(
        "--stage", default="2", choices=("none", "0", "1", "2", "3"), help="of ZeRO; none: no DeepSpeed"
    )
    parser.add_argument("--micro", type=int, default=0, help="rows in a pass")
    parser.add_argument("--save", action="store_true", help="with one checkpoint")
    parser.add_argument("--profile", action="store_true", help="with a trace of two steps")
    parser.add_argument("--dry_run", action="store_true")
    parser.add_argument("words", nargs="*", help="the run's options, behind --")
    asked = parser.parse_args()
    stage = asked.stage if importlib.util.find_spec("deepspeed") else "none"
    look, size = steps(asked.kind, asked.dry_run), batch(asked.size, asked.dry_run)
    size = dataclasses.replace(size, micro=asked.micro or size.micro)
    options: dict[str, Any] = {
        "config": CONFIG,
        "packed": NAME,
        "name": asked.name,
        "batch_rows": size.rows,
        "per_device_train_batch_size": size.micro,
        "max_steps": 100 * look.last,
        "logging_steps": look.every,
        "eval_strategy": "no",
    }
    options |= {"model_config": root() / f"{asked.size}.json"} if asked.dry_run else {"size": asked.size}
    options |= {"save_steps": look.save} if asked.save else {"save_strategy": "no"}
    run = root() / "runs" / asked.name
    if asked.profile:
        options["profile_steps"] = f"{look.first + 1}:{look.first + 2}"
        look = dataclasses.replace(look, first=look.first + look.every)  # what is traced takes longer
    words = [str(word) for name, value in options.items() for word in (f"--{name}", value)]
    began = time.time()
    wait_for(run, look, [*start(stage), *words, *asked.words], asked.save, asked.profile)
    records = read_metrics(run / "metrics.jsonl")
    train = [one for one in records if one["kind"] == "train"]
    marks = [Mark(one["step"], one["time"], one["tokens"]) for one in train]
    found: dict[str, Any] = figures(marks, look, asked.save)
    found |= {"stage": stage, "micro": size.micro, "batch_rows": size.rows, "memory_mb": train[-1]["memory_mb"]}
    found |= {"loss": train[-1]["loss"], "start_s": round(ready(records) - began, 1)}
    found |= next(({"whole_s": one["whole"]} for one in records if one["kind"] == "save"), {})
    if asked.profile:
        found |= summary(next(run.glob("profile/*.json.gz")), 2, found["step_s"])
    print(json.dumps(found))


def start(stage: str) -> list[str]:
    if stage == "none":
        return [sys.executable, "pretrain/run.py"]
    launcher = [sys.executable, "-m", "deepspeed.launcher.runner", "--num_gpus", "1"]  # the command deepspeed
    return [*launcher, "pretrain/run.py", "--deepspeed", f"configs/ds/zero{stage}.json"]


def ready(records: list[dict[str, Any]]) -> float:
    return float(next(one["time"] for one in records if one["kind"] == "ready"))


def wait_for(run: Path, look: Steps, command: list[str], save: bool, profile: bool) -> None:
    """Until the last record that is looked at; then the run is ended, as nobody wants its model."""
    process = subprocess.Popen(command, cwd=HOME, stdout=sys.stderr)
    try:
        reached = 0.0
        while not (reached and all_there(run, save and time.time() < reached + PATIENCE, profile)):
            code = process.poll()
            if code is not None:
                raise Mistake(f"the run ended with {code} before step {look.last}: its last lines say why")
            time.sleep(0.2)
            steps = [one["step"] for one in read_metrics(run / "metrics.jsonl") if one["kind"] == "train"]
            reached = reached or time.time() * (max(steps, default=0) >= look.last)
    finally:
        end(process)


def all_there(run: Path, save: bool, profile: bool) -> bool:
    saved = any(one["kind"] == "save" for one in read_metrics(run / "metrics.jsonl"))
    return (saved or not save) and (any(run.glob("profile/*.txt")) or not profile)


if __name__ == "__main__":
    main()
