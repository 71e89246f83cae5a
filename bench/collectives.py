"""python bench/collectives.py [--only zero2]

Does DeepSpeed send what pretrain/cost.py counts? Two ranks train a small Phi over gloo, two passes in each step, with
the Trainer alone and with each configs/ds/zero*.json. Every collective operation of one step is counted at torch's
dispatcher, where gloo and NCCL are asked alike: its kind, type and size. Bytes are those that one rank of a ring sends.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections import Counter
from importlib.metadata import version
from pathlib import Path
from typing import Any

from torch.utils._python_dispatch import TorchDispatchMode

from narae.config import HOME
from narae.footprint import Way, shape_of
from narae.model import from_values
from pretrain.cost import exchanges, sent

RESULT = HOME / "bench/results/collectives.json"  # bytes are the same on every machine
RANKS, PASSES, ROWS, LENGTH, ENTRIES = 2, 2, 1, 64, 2048
STEP = 3  # counted: ZeRO-3 learns the order of the layers in the first
# Matrices above 100,000 elements, below which ZeRO-3 keeps weights on every rank
SHAPE = {
    "model_type": "phi",
    "hidden_act": "gelu_pytorch_tanh",
    "num_hidden_layers": 4,
    "hidden_size": 384,
    "intermediate_size": 1536,
    "num_attention_heads": 6,
}
# As a large model has it: what forward gathered is gone when backward comes
LIVE = {"stage3_max_live_parameters": 1_000_000, "stage3_max_reuse_distance": 1_000_000}
CASES: dict[str, dict[str, Any]] = {
    "ddp": {},
    **{f"zero{stage}": {"config": f"configs/ds/zero{stage}.json"} for stage in range(4)},
    "zero3, gathered twice": {"config": "configs/ds/zero3.json", "zero": LIVE},
}
# Of an operation's own bytes, how often a rank of a ring sends its (n - 1) / n
TURNS = {"all-reduce": 2, "reduce-scatter": 1, "all-gather": 1}
KINDS = {"allreduce": "all-reduce", "allgather": "all-gather", "reduce_scatter": "reduce-scatter"}
SMALL = 4096  # bytes: norms, losses and counts of tokens, which are no traffic


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="cases whose name contains this; the others keep their results")
    asked = parser.parse_args()
    found = json.loads(RESULT.read_text(encoding="utf-8"))["cases"] if RESULT.exists() else {}
    shape = shape_of(from_values(SHAPE, ENTRIES, LENGTH), LENGTH)
    for name in CASES:
        if asked.only in name:
            found[name] = compared(name, counted(name), shape)
            versions = {package: version(package) for package in ("torch", "transformers", "deepspeed")}
            about = {"parameters": shape.parameters, "ranks": RANKS, "passes": PASSES, "versions": versions}
            RESULT.write_text(json.dumps({"cases": found} | about, indent=1) + "\n", encoding="utf-8")
    for name, one in found.items():
        print(f"{name:22} {one['sent']:12,} bytes sent {one['foretold']:12,} foretold {one['ratio']:6.3f}")
        for kind, size in one["operations"].items():
            print(f"  {kind}: {size['calls']} calls, {size['bytes']:,} bytes")
    print(json.dumps({name: one["ratio"] for name, one in found.items()}))


def way_of(name: str) -> Way:
    stage = None if name == "ddp" else int(name.removeprefix("zero")[0])
    return Way(stage, RANKS, ROWS, PASSES, device="cpu")


def compared(name: str, operations: dict[str, dict[str, int]], shape: Any) -> dict[str, Any]:
    moved = sum(TURNS[kind.split()[0]] * one["bytes"] for kind, one in operations.items()) * (RANKS - 1) / RANKS
    way = way_of(name)
    live = LIVE["stage3_max_live_parameters"] if "twice" in name else None
    foretold = sum(sent(shape, way, one) for one in exchanges(shape, way, *([live] if live else [])))
    return {
        "sent": round(moved),
        "foretold": round(foretold),
        "ratio": round(foretold / moved, 3),
        "operations": operations,
    }


def counted(name: str) -> dict[str, dict[str, int]]:
    """By kind and type, the calls and bytes of one step on rank 0."""
    with tempfile.TemporaryDirectory() as folder:
        answer = Path(folder, "found.json")
        start = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={RANKS}"]
        environment = os.environ | {"OMP_NUM_THREADS": "1", "NARAE_ARTIFACTS": folder}
        ended = subprocess.run(
            [*start, str(HOME / "bench/collectives.py"), name, folder],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        if not answer.exists():
            raise SystemExit(f"{name}: {ended.stdout[-3000:]}")
        return dict(json.loads(answer.read_text()))


class Counting(TorchDispatchMode):
    """Notes every collective operation while it is on."""

    def __init__(self) -> None:
        super().__init__()
        self.on, self.calls, self.bytes = False, Counter[str](), Counter[str]()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if self.on and func.namespace == "c10d":
            self.note(func.name().split("::")[1].split(".")[0].strip("_"), args)
        return func(*args, **(kwargs or {}))

    def note(self, name: str, args: Any) -> None:
        kind = next((kind for part, kind in KINDS.items() if part in name), name)
        # The larger side is the one that a ring carries: what goes into a reduction, what comes out of a gathering
        sides = [list(tensors(one)) for one in args[:2]]
        largest = max(sides, key=lambda side: sum(one.nbytes for one in side))
        size = sum(one.nbytes for one in largest)
        if size > SMALL:
            label = f"{kind} {str(largest[0].dtype).removeprefix('torch.')}"
            self.calls[label] += 1
            self.bytes[label] += size


def tensors(value: Any) -> Any:
    import torch

    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, (list, tuple)):
        for one in value:
            yield from tensors(one)


def rank(name: str, folder: Path) -> None:
    import torch
    from transformers import Trainer, TrainerCallback

    from narae.model import kind_of
    from narae.training import TrainingOptions, quiet

    quiet()
    counting = Counting()

    class Steps(TrainerCallback):
        def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            counting.on = state.global_step == STEP - 1

        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            counting.on = False

    options: dict[str, Any] = {}
    if "config" in CASES[name]:
        config = json.loads((HOME / CASES[name]["config"]).read_text())
        config["zero_optimization"] |= CASES[name].get("zero", {})
        options["deepspeed"] = str(folder / f"{os.environ['RANK']}.json")
        Path(options["deepspeed"]).write_text(json.dumps(config))
    args = TrainingOptions(
        output_dir=str(folder / "run"),
        per_device_train_batch_size=ROWS,
        gradient_accumulation_steps=PASSES,
        max_steps=STEP,
        eval_strategy="no",
        save_strategy="no",
        report_to="none",
        use_cpu=True,
        **options,
    )
    values = from_values(SHAPE, ENTRIES, LENGTH)
    model = kind_of(values)(values)
    row = torch.arange(LENGTH)
    rows = [{"input_ids": row, "labels": row}] * (RANKS * PASSES * ROWS * STEP)
    with counting:
        Trainer(model, args, train_dataset=rows, callbacks=[Steps()]).train()
    if os.environ["RANK"] == "0":
        found = {kind: {"calls": calls, "bytes": counting.bytes[kind]} for kind, calls in counting.calls.items()}
        (folder / "found.json").write_text(json.dumps(found))


if __name__ == "__main__":
    if "RANK" in os.environ:
        rank(sys.argv[1], Path(sys.argv[2]))
    else:
        main()
