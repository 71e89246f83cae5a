"""What a trace of torch's profiler says: which kernels take the time, and how long the device waits."""

import gzip
import json
import re
from collections import defaultdict
from pathlib import Path
from typing import Any

DEVICE = {"kernel", "gpu_memcpy", "gpu_memset"}
TOP = 25
# The first that a name holds. Names are those of torch 2.11's kernels on an H200 and of cuBLAS, cuDNN and Triton.
KINDS = {
    "attention": "flash|fmha|attention|sdpa|flex",
    "optimizer": "multi_tensor|adam|lamb",
    "matrix product": "gemm|nvjet|cutlass|xmma|cublas|matmul|addmm|::mm|::bmm",
    "layer norm": "layer_norm|layernorm|gammabeta",
    "softmax and loss": "softmax|nll|cross_entropy|scatter|gather",
    "copies": "memcpy|copy|memset|fill|::to",
    "compiled": "triton",
    "reductions": "reduce|::sum|norm",
    "elementwise": "elementwise|vectorized|::add|::mul|gelu",
}


def summary(file: Path, steps: int, step_s: float) -> dict[str, Any]:
    """`step_s`: of a step that is not traced. A trace slows what feeds the device, not what the device does."""
    with gzip.open(file, "rt", encoding="utf-8", errors="replace") as opened:
        events = [one for one in json.load(opened)["traceEvents"] if one.get("ph") == "X" and "dur" in one]
    found = [one for one in events if one.get("cat") in DEVICE]
    busy = union([(one["ts"], one["ts"] + one["dur"]) for one in found]) / 1e6 / steps
    result: dict[str, Any] = {"busy_s": round(busy, 4), "kernels_per_step": round(len(found) / steps)}
    if found:
        result["idle_share"] = round(max(0.0, 1 - busy / step_s), 4)
    else:  # a processor's operators hold one another: their times are not to be added up
        result["idle_share"] = "no card: the operators below are the processor's, each with those inside it"
        found = [one for one in events if one.get("cat") == "cpu_op"]
    names: dict[str, list[float]] = defaultdict(list)
    for one in found:
        names[one["name"]].append(one["dur"] / 1e3)
    whole = sum(map(sum, names.values()))
    kinds: dict[str, float] = defaultdict(float)
    for name, took in names.items():
        kinds[kind_of(name)] += sum(took) / whole
    top = sorted(names.items(), key=lambda one: -sum(one[1]))[:TOP]
    result["kinds"] = {kind: round(share, 4) for kind, share in sorted(kinds.items(), key=lambda one: -one[1])}
    result["kernels"] = [
        {
            "share": round(sum(took) / whole, 4),
            "ms_per_step": round(sum(took) / steps, 3),
            "calls_per_step": round(len(took) / steps, 1),
            "name": name[:120],
        }
        for name, took in top
    ]
    return result


def union(spans: list[tuple[float, float]]) -> float:
    """How long at least one of them lasts."""
    covered, until = 0.0, float("-inf")
    for begin, end in sorted(spans):
        covered += max(0.0, end - max(begin, until))
        until = max(until, end)
    return covered


def kind_of(name: str) -> str:
    return next((kind for kind, words in KINDS.items() if re.search(words, name, re.IGNORECASE)), "other")
