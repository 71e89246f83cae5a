"""python bench/train.py --packed books [--shape 8x512] [--steps 200] [--ways stock,ours,…] [--rounds 0]

Training from the same weights on the same rows in the same order: ours as users start it, transformers' Trainer with
its own Phi, and the recipe that Korean tutorials teach. All of them are started; then they take turns of so many steps,
the others stopped, so that what disturbs the machine disturbs all alike. Loss-bearing tokens per second are the median
of the turns; the losses are compared over the last quarter of the steps.
"""

import argparse
import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from bench.machine import keep, short
from narae.artifact import open_artifact, root
from narae.config import HOME
from narae.devices import matmul_rate
from narae.footprint import flops_per_token
from narae.log import Mistake, read_metrics, say
from narae.model import from_values, new_model

NAME = "bench-train"
RATE, WARMUP = 6e-4, 20
ZERO = ["--deepspeed", "configs/ds/zero2.json"]
# The same training as the stock one, step by step; and as a run is by default, where no token sees another document
SAME = ["--document_attention", "false"]
WAYS: dict[str, list[str]] = {
    "stock": [],
    "ours": SAME,
    "ours, documents apart": [],
    "ours, ZeRO-2": [*SAME, *ZERO],
    "tutorial": ["--sentences"],
}


@dataclass
class Contender:
    name: str
    command: list[str]
    file: Path  # where it writes its records
    turns: list[dict[str, float]] = field(default_factory=list)

    def start(self, log: Path, threads: int) -> None:
        words = {"OMP_NUM_THREADS": str(threads)} if threads else {}
        with log.open("w") as out:
            self.process = subprocess.Popen(
                self.command, cwd=HOME, env=os.environ | words, stdout=out, stderr=out, start_new_session=True
            )
        self.log = log

    def records(self) -> list[dict[str, Any]]:
        return [one for one in read_metrics(self.file) if one["kind"] == "train"]

    def turn(self) -> None:
        """Until the next record."""
        before = self.records()
        busy, began = self.cpu(), time.perf_counter()
        os.killpg(self.process.pid, signal.SIGCONT)
        while len(found := self.records()) == len(before):
            if self.process.poll() is not None:
                raise Mistake(f"{self.name} ended with {self.process.returncode}: see {self.log}")
            time.sleep(0.005)
        took, spent = time.perf_counter() - began, self.cpu() - busy
        os.killpg(self.process.pid, signal.SIGSTOP)
        if before:  # the first goes into starting and warming up
            tokens = found[-1]["tokens"] - before[-1]["tokens"]
            steps = found[-1]["step"] - before[-1]["step"]
            self.turns.append({"tokens": tokens, "steps": steps, "seconds": took, "cpu": spent})

    def cpu(self) -> float:
        times = [one.cpu_times() for one in (psutil.Process(self.process.pid), *self.children())]
        return sum(one.user + one.system for one in times)

    def children(self) -> list[psutil.Process]:
        return psutil.Process(self.process.pid).children(recursive=True)

    def memory(self) -> float:
        sizes = [one.memory_info().rss for one in (psutil.Process(self.process.pid), *self.children())]
        return sum(sizes) / 1e9

    def end(self) -> None:
        for number in (signal.SIGKILL, signal.SIGCONT):
            try:
                os.killpg(self.process.pid, number)
            except ProcessLookupError:
                break
        self.process.wait()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--packed", default="sample")
    parser.add_argument("--shape", default="8x512", help="layers x width")
    parser.add_argument("--rows", type=int, default=8, help="in a step, of 512 tokens")
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--every", type=int, default=10, help="steps in a turn")
    parser.add_argument("--ways", default=",".join(name for name in WAYS if "," not in name))
    parser.add_argument("--threads", type=int, default=0, help="0 takes all cores")
    asked = parser.parse_args()
    ways = [name.strip() for name in asked.ways.replace("ours, ", "ours+").split(",")]
    ways = [name.replace("ours+", "ours, ") for name in ways]
    if unknown := set(ways) - set(WAYS):
        raise Mistake(f"--ways {', '.join(unknown)}: known are {'; '.join(WAYS)}")
    packed, folder = open_artifact("packed", asked.packed), root() / NAME
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    shape = write_shape(folder, asked.shape, packed.counts)
    contenders = [contender(name, asked, folder) for name in ways]
    try:
        for one in contenders:
            say(f"{one.name} starts")
            one.start(folder / f"{one.name}.log", asked.threads)
            one.turn()
        for _ in range(asked.steps // asked.every - 1):
            for one in contenders:
                one.turn()
        found = {one.name: figures(one) for one in contenders}
    finally:
        for one in contenders:
            if hasattr(one, "process"):
                one.end()
    report(asked, shape, found)


def write_shape(folder: Path, shape: str, counts: dict[str, Any]) -> Any:
    """The configs of both, which differ in the name of one and the same function, and the weights to begin with."""
    layers, width = (int(one) for one in shape.split("x"))
    values = {
        "model_type": "phi",
        "hidden_size": width,
        "intermediate_size": 4 * width,
        "num_hidden_layers": layers,
        "num_attention_heads": width // 64,
    }
    (folder / "ours.json").write_text(json.dumps(values | {"hidden_act": "gelu_pytorch_tanh"}))
    config = from_values(values, counts["entries"], counts["sequence_length"])
    new_model(config, 42).save_pretrained(folder / "initial")
    return config


def contender(name: str, asked: argparse.Namespace, folder: Path) -> Contender:
    same = ["--learning_rate", str(RATE), "--warmup_steps", str(WARMUP), "--packed", asked.packed]
    if not name.startswith("ours"):
        out = folder / name
        out.mkdir()
        words = ["--initial", folder / "initial", "--out", out, "--rows", asked.rows, "--steps", asked.steps]
        command = ["bench/train_stock.py", *words, "--every", asked.every, *same, *WAYS[name]]
        return Contender(name, [sys.executable, *map(str, command)], out / "records.jsonl")
    run = f"{NAME}-{list(WAYS).index(name)}"
    shutil.rmtree(root() / "runs" / run, ignore_errors=True)
    options = {
        "name": run,
        "model_config": folder / "ours.json",
        "batch_rows": asked.rows,
        "per_device_train_batch_size": asked.rows,
        "max_steps": asked.steps,
        "logging_steps": asked.every,
        "lr_scheduler_type": "linear",
        "weight_decay": 0.0,
        "adam_beta2": 0.999,
        "eval_strategy": "no",
        "save_strategy": "no",
        "seed": 42,
    }
    words = [str(word) for key, value in options.items() for word in (f"--{key}", value)]
    command = ["pretrain/run.py", "--overwrite", *words, *same, *WAYS[name]]
    return Contender(name, [sys.executable, *command], root() / "runs" / run / "metrics.jsonl")


def figures(one: Contender) -> dict[str, Any]:
    last = one.records()
    rates = [turn["tokens"] / turn["seconds"] for turn in one.turns]
    quarter = last[-max(1, len(last) // 4) :]
    return {
        "tokens_per_s": short(statistics.median(rates)),
        "tokens_per_s_of_best_turn": short(max(rates)),
        "step_s": short(statistics.median(turn["seconds"] / turn["steps"] for turn in one.turns)),
        "cpu_s_per_1000_tokens": short(statistics.median(1000 * turn["cpu"] / turn["tokens"] for turn in one.turns)),
        "memory_gb": short(one.memory()),
        "loss_of_last_quarter": round(statistics.fmean(record["loss"] for record in quarter), 5),
        "useful": last[-1].get("useful", 1.0),
    }


def report(asked: argparse.Namespace, config: Any, found: dict[str, dict[str, Any]]) -> None:
    import torch

    rate = matmul_rate(torch.device("cpu"), torch.bfloat16)
    per_token = flops_per_token(config, 512)
    result: dict[str, Any] = {"shape": asked.shape, "rows": asked.rows, "entries": config.vocab_size}
    result |= {"steps": asked.steps, "matmul_gflop_per_s": short(rate / 1e9), "ways": found}
    base = found.get("stock")
    for name, one in found.items():
        if base and name != "stock":
            one["times_stock"] = short(one["tokens_per_s"] / base["tokens_per_s"])
            one["times_stock_cpu"] = short(base["cpu_s_per_1000_tokens"] / one["cpu_s_per_1000_tokens"])
            one["loss_beside_stock"] = short(one["loss_of_last_quarter"] / base["loss_of_last_quarter"] - 1)
        if tutorial := found.get("tutorial"):
            one["times_tutorial"] = short(one["tokens_per_s"] / tutorial["tokens_per_s"])
            one["times_tutorial_cpu"] = short(tutorial["cpu_s_per_1000_tokens"] / one["cpu_s_per_1000_tokens"])
        one["share_of_matmul"] = short(one["tokens_per_s"] * per_token / rate)
    for name, one in found.items():
        print(name)
        for key, value in one.items():
            print(f"  {key:28}{value:>12}")
    say(f"{keep(f'train-{asked.shape}', result, ('torch', 'transformers', 'deepspeed'))}")


if __name__ == "__main__":
    main()
