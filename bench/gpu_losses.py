"""python bench/gpu_losses.py --loss ours: one of bench/loss.py's contenders over 1.3b's head, at a pass of 32 rows."""

import argparse
import functools
import json
import statistics
import sys

import torch

from bench.gpu_plan import ABSENT
from bench.loss import CONTENDERS, DTYPES, inputs, most_taken, timed

ROUNDS = 10


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--loss", default="ours", choices=CONTENDERS)
    parser.add_argument("--dry_run", action="store_true")
    asked = parser.parse_args()
    tokens, width, entries = (256, 64, 512) if asked.dry_run else (32 * 512, 2048, 32_768)
    device, one = "cuda" if torch.cuda.is_available() else "cpu", CONTENDERS[asked.loss]
    if lacking := one.why_not(argparse.Namespace(device=device, dtype="bf16")):
        print(lacking, file=sys.stderr)
        raise SystemExit(ABSENT)
    head = one.fed(inputs(tokens, width, entries, device), DTYPES["bf16"])
    memory, value = most_taken(functools.partial(one.run, head), device)  # the first one chooses kernels, too
    took = []
    for _ in range(ROUNDS):
        for part in head[:3]:
            part.grad = None
        took.append(timed(one, head)[0])
    seconds = statistics.median(took)
    figures = {"ms": seconds * 1e3, "peak_mb": round(memory / 1e6), "value": round(float(value), 4)}
    print(json.dumps(figures | {"flop_per_s": 6.0 * tokens * width * entries / seconds}))


if __name__ == "__main__":
    main()
