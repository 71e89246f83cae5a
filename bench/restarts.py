"""python bench/restarts.py [--packed books] [--size 14m] [--train_tokens 3M] [--name restarts]

A training run on two ranks under ZeRO-2. One rank is killed after a third of the steps, all are told to stop after two
thirds; each time the same command goes on. What it learned, and where its time went, from its own records.
A run that is finished under this name is only read.
"""

import argparse
import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil

from bench.machine import keep, short
from narae.artifact import find, open_artifact, root
from narae.chain import free_port
from narae.config import HOME
from narae.ledger import CAUSES, read
from narae.log import Mistake, read_metrics, say


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--packed", default="sample")
    parser.add_argument("--size", default="tiny")
    parser.add_argument("--train_tokens", default="400k")
    parser.add_argument("--name", default="restarts")
    asked = parser.parse_args()
    run = root() / "runs" / asked.name
    if find("model", asked.name) is None:
        words = ["--packed", asked.packed, "--size", asked.size, "--train_tokens", asked.train_tokens]
        words += ["--name", asked.name, "--lr_scheduler_type", "warmup_stable_decay", "--eval_rows", "200"]
        words += ["--eval_steps", "150", "--save_steps", "75", "--logging_steps", "5", "--max_steps", "-1"]
        disturbed(words, run)
    result = found(asked.name, run)
    say(f"{keep('restarts', result, ('torch', 'transformers', 'deepspeed'))}")
    for key in ("bits_per_byte", "goodput", "minutes", "attempts"):
        print(f"{key:16} {result[key]}")
    print(json.dumps({"goodput": result["goodput"], "bits_per_byte": result["bits_per_byte"]}))


def disturbed(words: list[str], run: Path) -> None:
    process = start(words)
    steps = wait_for(run, 1 / 3, process)
    say(f"killing rank 1 after step {steps}")
    os.kill(ranks(process)[1], signal.SIGKILL)
    process.wait()
    process = start(words)
    steps = wait_for(run, 2 / 3, process)
    say(f"telling all ranks to stop after step {steps}")
    for number in ranks(process):
        os.kill(number, signal.SIGUSR1)
    process.wait()
    if start(words).wait():
        raise Mistake("the run did not go on to its end: its last lines say why")


def start(words: list[str]) -> subprocess.Popen[bytes]:
    launcher = ["-m", "deepspeed.launcher.runner", "--quiet", "--master_port", str(free_port()), "--num_gpus", "2"]
    command = [*launcher, "pretrain/run.py", "--deepspeed", "configs/ds/zero2.json", *words]
    environment = os.environ | {"OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1")}
    return subprocess.Popen([sys.executable, *command], cwd=HOME, env=environment)


def ranks(process: subprocess.Popen[bytes]) -> list[int]:
    """The processes that train, in the order of their ranks."""
    mine: dict[str, int] = {}
    for one in psutil.Process(process.pid).children(recursive=True):
        with contextlib.suppress(psutil.Error):  # a page that was just written leaves a process without words
            mine |= {word: one.pid for word in one.cmdline() if word.startswith("--local_rank=")}
    return [mine[word] for word in sorted(mine)]


def wait_for(run: Path, share: float, process: subprocess.Popen[bytes]) -> int:
    while process.poll() is None:
        steps = [one for one in read_metrics(run / "metrics.jsonl") if one["kind"] == "train"]
        if steps and steps[-1]["step"] >= share * steps[-1]["total_steps"]:
            return int(steps[-1]["step"])
        time.sleep(1)
    raise Mistake(f"the run ended with code {process.returncode} before it could be disturbed")


def found(name: str, run: Path) -> dict[str, Any]:
    model, ledger = open_artifact("model", name), read(run)
    assert ledger is not None and ledger.goodput is not None
    records = read_metrics(run / "metrics.jsonl")
    judged = [one for one in records if one["kind"] == "eval"]
    speeds = sorted(one["tokens_per_s"] for one in records if one["kind"] == "train")
    return {
        "config": {key: value for key, value in model.manifest["config"].items() if key != "model_config"},
        "counts": model.counts,
        "bits_per_byte": short(model.counts["bits_per_byte"]),
        "evaluations": [{key: one[key] for key in ("step", "bits_per_byte", "accuracy", "seconds")} for one in judged],
        "sources": {key: one["bits_per_byte"] for key, one in judged[-1]["sources"].items()},
        "tokens_per_s": short(speeds[len(speeds) // 2]),
        "goodput": short(ledger.goodput),
        "minutes": short(ledger.allocated / 60_000),
        "spent_seconds": {CAUSES[cause]: short(amount / 1000) for cause, amount in ledger.spent.items() if amount},
        "attempts": [f"{one.first} to {one.last}, {one.end}" for one in ledger.attempts],
    }


if __name__ == "__main__":
    main()
