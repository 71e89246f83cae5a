"""How fast the devices and the network between the ranks are; pretrain/doctor.py asks, each time a process of its own.

python pretrain/speeds.py devices                        # every GPU, or the CPU
python pretrain/speeds.py between 1 2 n1 29500 gloo 0    # rank 1 of 2, by the store on n1:29500, local rank 0
"""

import os
import sys
import time
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from pretrain.probes import answer

if TYPE_CHECKING:
    import torch

REDUCED = 64 * 10**6  # bytes of the all-reduce
MEET = timedelta(seconds=60)  # for all ranks to have imported torch
ENOUGH = 3.0  # seconds of all-reduce


def devices(local: int | None = None) -> list[dict[str, Any]]:
    """Matrix products and copies: on this rank's GPU, on every GPU for a process that is alone, else on the CPU."""
    import torch

    from narae.devices import device_name, matmul_rate

    if torch.cuda.is_available():
        count = torch.cuda.device_count()
        found = [torch.device("cuda", n) for n in (range(count) if local is None else [local % count])]
    else:
        found = [torch.device("cpu")]
    return [
        {
            "device": str(one),
            "name": device_name(one),
            "bf16": matmul_rate(one, torch.bfloat16),
            "fp32": matmul_rate(one, torch.float32),
            "copy": copy_rate(one),
        }
        for one in found
    ]


def copy_rate(device: "torch.device") -> float:
    """Bytes per second that memory reads and writes: the best of several copies of what no cache holds."""
    import torch

    source = torch.ones((2**30 if device.type == "cuda" else 2**27) // 4, device=device)
    target, best = torch.empty_like(source), 1e9
    for turn in range(10):
        began = time.perf_counter()
        target.copy_(source)
        float(target[0])  # waits for the device
        if turn > 1:
            best = min(best, time.perf_counter() - began)
    return 2 * 4 * source.numel() / best


def between(rank: int, world: int, host: str, port: int, backend: str, local: int) -> dict[str, float]:
    """Bus bandwidth of an all-reduce: what each link carries, whatever the number of ranks."""
    import torch
    import torch.distributed as ranks
    from torch._C._distributed_c10d import PrefixStore, TCPStore

    device = torch.device("cpu")
    if backend == "nccl":
        device = torch.device("cuda", local % torch.cuda.device_count())
        torch.cuda.set_device(device)
    store = PrefixStore("between", TCPStore(host, port, is_master=False, timeout=MEET))
    ranks.init_process_group(backend, store=store, rank=rank, world_size=world, timeout=MEET)
    data = torch.ones(REDUCED // 4, device=device)
    slowest = torch.zeros(1, device=device)
    best, turns = 1e9, 2
    while turns:
        began = time.perf_counter()
        ranks.all_reduce(data)
        float(data[0])
        # the ranks agree on the time, and with it on the number of turns
        slowest[0] = time.perf_counter() - began
        ranks.all_reduce(slowest, op=ranks.ReduceOp.MAX)
        seconds, data[:] = float(slowest), 1.0
        turns = turns - 1 if best < 1e9 else max(1, min(10, int(ENOUGH / seconds)))
        best = min(best, seconds)
    return {"seconds": best, "bus": 2 * (world - 1) / world * REDUCED / best}


if __name__ == "__main__":
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "FATAL")  # what fails is told once, by the doctor
    command, *words = sys.argv[1:]
    if command == "devices":
        answer(lambda: devices(*map(int, words)))
    rank, world, host, port, backend, local = words
    answer(lambda: between(int(rank), int(world), host, int(port), backend, int(local)))
