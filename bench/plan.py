"""python bench/plan.py [--quick] [--only "ZeRO-2"]

Is pretrain/plan.py right about memory? Small models of four shapes train for a few steps with pretrain/run.py, plainly
and with DeepSpeed, on one and two ranks. The largest memory of a rank, less that of the same process with a model of
next to nothing, stands beside what narae/footprint.py says. For Linux, on a CPU.
"""

import argparse
import contextlib
import json
import os
import random
import socket
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from bench.machine import keep, kept, short
from narae import artifact
from narae.config import HOME
from narae.devices import matmul_rate
from narae.documents import Document, ShardWriter
from narae.footprint import SHARE, Footprint, Way, footprint, shape_of
from narae.log import read_metrics, say
from narae.model import from_values

ENTRIES, BUCKET = 8192, 50_000_000  # configs/ds
LENGTH, FIRST, LAST = 512, 1, 3  # steps between which memory is watched: the moments exist, nothing is saved yet
# Large blocks go straight from and to the system, as on a GPU they do from and to the cache: what is resident is alive
ALLOCATOR = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536", "MALLOC_ARENA_MAX": "1"}


def phi(layers: int, width: int) -> dict[str, Any]:
    return {
        "model_type": "phi",
        "hidden_act": "gelu_pytorch_tanh",
        "num_hidden_layers": layers,
        "hidden_size": width,
        "intermediate_size": 4 * width,
        "num_attention_heads": width // 64,
    }


def llama(layers: int, width: int) -> dict[str, Any]:
    return phi(layers, width) | {
        "model_type": "llama",
        "hidden_act": "silu",
        "intermediate_size": 11 * width // 4,
        "num_key_value_heads": width // 128,
    }


SHAPES = {
    "phi 12 × 512": phi(12, 512),
    "phi 12 × 768": phi(12, 768),
    "phi 4 × 1536": phi(4, 1536),
    "llama 8 × 1024": llama(8, 1024),
    "nothing": phi(1, 64) | {"hidden_size": 8, "num_attention_heads": 1, "intermediate_size": 8},
}


@dataclass
class Case:
    shape: str
    stage: int | None = None  # of ZeRO; None is the Trainer alone
    ranks: int = 1
    micro: int = 2
    pieces: int = 1  # micro-batches in a step
    checkpointing: bool = False

    def __str__(self) -> str:
        way = "plain" if self.stage is None else f"ZeRO-{self.stage}"
        words = [self.shape, way, f"{self.ranks} × {self.micro} × {self.pieces} rows"]
        return ", ".join(words + ["gradient checkpointing"] * self.checkpointing)


CASES = [
    Case("phi 12 × 512", None),
    Case("phi 12 × 768", 2, micro=4),
    Case("phi 4 × 1536", 3),
    Case("llama 8 × 1024", 1),
    Case("phi 12 × 512", 2, ranks=2, micro=4),
    Case("phi 12 × 768", 0),
    Case("llama 8 × 1024", None, micro=4, checkpointing=True),
    Case("phi 12 × 512", 3, ranks=2),
    Case("phi 4 × 1536", None, pieces=2),
    Case("phi 12 × 768", 2, ranks=2, pieces=2),
    Case("phi 12 × 512", 1, ranks=2),
    Case("llama 8 × 1024", 2, micro=8, checkpointing=True),
    Case("phi 12 × 512", None, ranks=2),
]
QUICK = 4
LIMIT = 0.1


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="four cases, one of each shape")
    parser.add_argument("--only", default="", help="cases whose name contains this; the others keep their results")
    asked = parser.parse_args()
    cases = [case for case in CASES[: QUICK if asked.quick else None] if asked.only in str(case)]
    with tempfile.TemporaryDirectory() as folder:
        os.environ.update({"NARAE_ARTIFACTS": folder, "OMP_NUM_THREADS": "1", **ALLOCATOR})
        prepare()
        processes: dict[tuple[int | None, int], float] = {}
        found: dict[str, Any] = json.loads(kept("plan").read_text())["cases"] if kept("plan").exists() else {}
        for case in cases:
            if (case.stage, case.ranks) not in processes:
                empty = Case("nothing", case.stage, case.ranks, micro=1)
                least = foretold(empty).model  # the loss head's chunk of logits, most of it
                processes[case.stage, case.ranks] = max(watched(empty, Path(folder))[0]) - least
            peaks, seconds = watched(case, Path(folder))
            found[str(case)] = compared(case, max(peaks) - processes[case.stage, case.ranks], seconds)
            say(f"{case}: {found[str(case)]}")
            keep("plan", {"cases": found}, ("torch", "transformers", "deepspeed"))
    wrong = {name: one["ratio"] for name, one in found.items() if abs(one["ratio"] - 1) > LIMIT}
    for name, one in found.items():
        print(f"{name:60} {one['measured_mb']:6,} MB measured {one['predicted_mb']:6,} foretold {one['ratio']:6.3f}")
    for name, ratio in wrong.items():
        print(f"off by more than {LIMIT:.0%}: {name}, {ratio:.3f} of what was measured")
    print(json.dumps({name: one["ratio"] for name, one in found.items()}, ensure_ascii=False))


def foretold(case: Case) -> Footprint:
    way = Way(
        case.stage, case.ranks, case.micro, case.pieces, checkpointing=case.checkpointing, bucket=BUCKET, device="cpu"
    )
    return footprint(shape_of(from_values(SHAPES[case.shape], ENTRIES, LENGTH), LENGTH), way)


def compared(case: Case, measured: float, seconds: float) -> dict[str, Any]:
    guess = foretold(case)
    shape, tokens = (
        shape_of(from_values(SHAPES[case.shape], ENTRIES, LENGTH), LENGTH),
        case.micro * case.pieces * LENGTH,
    )
    rate = matmul_rate(torch.device("cpu"), torch.bfloat16)
    computing = shape.flops_per_token * tokens * (4 / 3 if case.checkpointing else 1) / (rate * SHARE)
    return {
        "measured_mb": round(measured / 1e6),
        "predicted_mb": round(guess.model / 1e6),
        "ratio": round(guess.model / measured, 3),
        "moment": guess.moment,
        "parts_mb": {name: round(size / 1e6) for name, size in guess.parts.items() if size and name != "process"},
        "seconds_per_step": short(seconds),
        "predicted_seconds": short(computing),  # on cores of its own; of ranks, each on half of two cores
    }


def prepare() -> None:
    """Rows of made-up words: the memory does not depend on what they say."""
    chance = random.Random(1)
    syllables = [chr(0xAC00 + number) for number in chance.sample(range(11_172), 2000)]
    words = ["".join(chance.choices(syllables, k=chance.randint(2, 4))) for _ in range(ENTRIES)]
    draft = artifact.begin("corpus", "sample", {})
    assert draft is not None
    with draft:
        for split, count in (("train", 1500), ("val", 20)):
            with ShardWriter(draft.path, split) as writer:
                for number in range(count):
                    writer.write(Document(f"{split}#{number}", " ".join(chance.choices(words, k=200)) + "."))
            draft.counts[split] = {"documents": writer.documents, "bytes": writer.bytes}
    for command, *more in (("tokenizer/train.py", "--vocab_size", str(ENTRIES)), ("pretrain/pack.py",)):
        subprocess.run([sys.executable, str(HOME / command), *more], check=True, stderr=subprocess.DEVNULL)


def watched(case: Case, folder: Path) -> tuple[list[int], float]:
    """The largest memory of each rank between two steps, and the seconds of one. Then the run is ended."""
    name = f"run-{time.time_ns()}"
    values = folder / f"{name}.json"
    values.write_text(json.dumps(SHAPES[case.shape]))
    options: dict[str, Any] = {
        "name": name,
        "model_config": values,
        "batch_rows": case.ranks * case.micro * case.pieces,
        "per_device_train_batch_size": case.micro,
        "max_steps": 50,
        "logging_steps": 1,
        "eval_strategy": "no",
        "save_strategy": "no",
        "gradient_checkpointing": str(case.checkpointing).lower(),
    }
    if case.stage is not None:
        options["deepspeed"] = HOME / f"configs/ds/zero{case.stage}.json"
    words = [str(word) for name, value in options.items() for word in (f"--{name}", value)]
    metrics, ranks = folder / "runs" / name / "metrics.jsonl", []
    meeting = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "WORLD_SIZE": str(case.ranks)}
    with (folder / f"{name}.log").open("w") as log, contextlib.ExitStack() as ends:
        for number in range(case.ranks):
            place = meeting | {"RANK": str(number), "LOCAL_RANK": str(number)}
            alone = case.stage is None and case.ranks == 1  # a lone rank without a launcher has no DDP
            environment = os.environ | ({} if alone else place)
            command = [sys.executable, str(HOME / "pretrain/run.py"), *words]
            ranks.append(subprocess.Popen(command, env=environment, stdout=log, stderr=log))
            ends.callback(ranks[-1].wait)
            ends.callback(ranks[-1].kill)

        def reached(step: int) -> None:
            while not any(one["kind"] == "train" and one["step"] >= step for one in records(metrics)):
                if any(one.poll() is not None for one in ranks):
                    raise SystemExit(f"{case}: {(folder / f'{name}.log').read_text()[-2000:]}")
                time.sleep(0.05)

        reached(FIRST)
        for one in ranks:
            Path(f"/proc/{one.pid}/clear_refs").write_text("5")  # the peak begins again
        began = time.perf_counter()
        reached(LAST)
        seconds = (time.perf_counter() - began) / (LAST - FIRST)
        return [peak(one.pid) for one in ranks], seconds


def records(file: Path) -> list[dict[str, Any]]:
    return read_metrics(file) if file.exists() else []


def peak(pid: int) -> int:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


if __name__ == "__main__":
    main()
