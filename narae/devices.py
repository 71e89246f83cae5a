"""What the machine's devices are, and how fast they multiply matrices."""

import math
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

EDGES = {"cuda": 4096, "cpu": 512}  # a product of this edge takes a fraction of a second at most
SECONDS = 0.4


@dataclass(frozen=True)
class Hardware:
    kind: str  # cuda or cpu
    devices: int
    rate: float  # FLOP/s of a matrix product on one device
    free: float  # bytes on one device


def matmul_rate(device: "torch.device", dtype: "torch.dtype") -> float:
    """FLOP/s of a bare matrix product on one device: the best of several after a warm-up."""
    import torch

    edge = EDGES.get(device.type, 1024)
    left, right = (torch.randn(edge, edge, device=device).to(dtype) for _ in range(2))
    best, until = math.inf, time.perf_counter() + SECONDS
    for turn in range(50):
        began = time.perf_counter()
        product = left @ right
        float(product[0, 0])  # waits for the device
        ended = time.perf_counter()
        if turn > 1:  # the first ones choose kernels and warm up
            best = min(best, ended - began)
            if ended > until:
                break
    return 2 * edge**3 / best


def device_name(device: "torch.device") -> str:
    import torch

    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    from narae.watch import processor

    return processor()


def hardware() -> Hardware:
    """This machine's devices, as one process sees them."""
    import psutil
    import torch

    if torch.cuda.is_available():
        dtype = torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16
        rate = matmul_rate(torch.device("cuda"), dtype)
        return Hardware("cuda", torch.cuda.device_count(), rate, float(torch.cuda.mem_get_info()[0]))
    rate = matmul_rate(torch.device("cpu"), torch.float32)
    return Hardware("cpu", 1, rate, float(psutil.virtual_memory().available))
