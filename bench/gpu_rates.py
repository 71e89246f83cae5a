"""python bench/gpu_rates.py: how fast this machine multiplies bf16 matrices and copies memory, and what a token takes.

The product's rate is the median of many, of the best of several large sizes; random numbers, as zeros run faster.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch

from bench.gpu_plan import BATCHES
from bench.gpu_rows import model_config
from narae.devices import device_name
from narae.footprint import flops_per_token

SECONDS = 1.5  # for each size
PEAKS = {"H200": 989.4e12, "H100": 989.4e12, "A100": 312e12}  # makers' dense bf16 rates, FLOP/s


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dry_run", action="store_true")
    asked = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    shapes = {size: model_config(size, asked.dry_run) for size in BATCHES}
    flops = {size: flops_per_token(one, one.max_position_embeddings) for size, one in shapes.items()}
    name = device_name(device)
    peak = next((rate for card, rate in PEAKS.items() if card in name), None)
    print(json.dumps({"device": name, "peak_per_s": peak, "flops_per_token": flops}))
    edges = [128, 256] if asked.dry_run else [4096, 8192, 12288, 16384]
    rates = {str(edge): product(edge, device) for edge in edges}
    print(json.dumps({"matmul_per_s": max(rates.values()), "matmul_by_edge": rates}), flush=True)
    # 1.3b's own products, forward: a pass of 32 rows through a block's wide matrix, and through the head
    own = [(256, 64, 128)] if asked.dry_run else [(16384, 2048, 8192), (16384, 8192, 2048), (16384, 2048, 32768)]
    by_shape = {" × ".join(map(str, shape)): product_of(*shape, device) for shape in own}
    print(json.dumps({"matmul_by_shape": by_shape}), flush=True)
    print(json.dumps({"copy_bytes_per_s": copied(1 << 20 if asked.dry_run else 1 << 33, device)}))


def product(edge: int, device: torch.device) -> float:
    return product_of(edge, edge, edge, device)


def product_of(rows: int, inner: int, columns: int, device: torch.device) -> float:
    """FLOP/s."""
    left, right = (torch.randn(shape, device=device).bfloat16() for shape in ((rows, inner), (inner, columns)))
    return 2.0 * rows * inner * columns / median(lambda: left @ right, device)


def copied(size: int, device: torch.device) -> float:
    """Bytes read and written in a second."""
    source = torch.randint(0, 255, (size,), dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    return 2.0 * size / median(lambda: target.copy_(source), device)


def median(work: Callable[[], Any], device: torch.device) -> float:
    """Seconds of one call, by the card's own clock where there is a card."""
    for _ in range(3):
        work()
    found: list[float] = []
    until = time.perf_counter() + SECONDS
    while len(found) < 5 or (time.perf_counter() < until and len(found) < 200):
        if device.type == "cuda":
            begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            begin.record()
            work()
            end.record()
            end.synchronize()
            found.append(begin.elapsed_time(end) / 1e3)
        else:
            began = time.perf_counter()
            work()
            found.append(time.perf_counter() - began)
        if len(found) >= 20 and device.type == "cpu":
            break
    return statistics.median(found)


if __name__ == "__main__":
    main()
