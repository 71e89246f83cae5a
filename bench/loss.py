"""python bench/loss.py [--entries 8192 32768] [--tokens 4096] [--width 512] [--dtype bf16] [--device cpu] [--quick]

What the head costs: its product, the loss, and the gradients of hidden states, weights and bias, forward and backward.
In turn in one run: the stock loss of transformers in this type and under autocast with fp32 weights (bf16 in the
Trainer), torch's linear_cross_entropy and Liger's where they are there, and ours. Memory is what each takes at most
beside what goes in, gradients included: exact, as torch's allocators count it. Errors are norms of the difference from
fp64, relative to the norm.
"""

import argparse
import contextlib
import functools
import importlib.metadata
import importlib.util
import inspect
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import torch
from torch.nn import functional as F  # noqa: N812

from bench.machine import keep, short, spread
from narae.log import Mistake, say
from pretrain.loss import IGNORED, HeadLoss

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}
IGNORED_EVERY = 16
STOCK_BYTES = 12  # for each logit, at the worst moment of the stock loss's backward: three of them in fp32
Loss = Callable[[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--entries", type=int, nargs="+", default=[8192, 32_768, 131_072], help="of the vocabulary")
    parser.add_argument("--tokens", type=int, default=4096)
    parser.add_argument("--width", type=int, default=512)
    parser.add_argument("--dtype", choices=list(DTYPES), default="bf16")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--threads", type=int, default=0, help="0 is all cores")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", nargs="+", choices=list(CONTENDERS))
    parser.add_argument("--quick", action="store_true", help="256 tokens, one round; nothing is kept")
    asked = parser.parse_args()
    if asked.quick:
        asked.tokens, asked.rounds = 256, 1
    if asked.threads:
        torch.set_num_threads(asked.threads)
    names = those_that_run(asked)
    known = {"tokens": asked.tokens, "width": asked.width, "dtype": asked.dtype, "threads": torch.get_num_threads()}
    known |= {"rounds": asked.rounds, "memory": "MB at most, beside what goes in", "errors": "relative, against fp64"}
    packages = ("torch", "transformers", *(["liger-kernel"] if "liger" in names else []))
    found: dict[str, Any] = {}
    ratios: dict[str, Any] = {}
    for entries in asked.entries:
        found[f"{entries} entries"] = compared(names, asked, entries)
        ratios[str(entries)] = against_stock(found[f"{entries} entries"])
        if not asked.quick:
            kind = f"loss-{asked.dtype}" + ("-cuda" if asked.device == "cuda" else "")
            say(f"{keep(kind, known | {'ours_vs_stock': ratios} | found, packages)}")
    print(json.dumps(ratios))


def those_that_run(asked: argparse.Namespace) -> list[str]:
    names = []
    for name in asked.only or CONTENDERS:
        why = CONTENDERS[name].why_not(asked)
        if why:
            say(f"{name} is left out: {why}")
        else:
            names.append(name)
    if not names:
        raise Mistake(f"nothing is left to measure of {', '.join(asked.only)}: --only takes any of the others")
    need = asked.tokens * max(asked.entries) * STOCK_BYTES
    room = psutil.virtual_memory().available if asked.device == "cpu" else torch.cuda.mem_get_info()[0]
    whole = [name for name in names if name.startswith("stock")]
    if whole and need > room:
        raise Mistake(
            f"{asked.tokens} tokens of {max(asked.entries)} entries take {whole[0]} about {need / 1e9:.1f} GB, and "
            f"{room / 1e9:.1f} GB are free: ask for fewer --tokens, or name the others with --only"
        )
    return names


def compared(names: list[str], asked: argparse.Namespace, entries: int) -> dict[str, Any]:
    values = inputs(asked.tokens, asked.width, entries, asked.device)
    exact = in_fp64(*values)
    table: dict[str, Any] = {}
    rounds: dict[str, list[tuple[float, float]]] = {name: [] for name in names}
    for name in names:  # also the warm-up
        head = CONTENDERS[name].fed(values, DTYPES[asked.dtype])
        memory, loss = most_taken(functools.partial(CONTENDERS[name].run, head), asked.device)
        results = (loss, *(part.grad for part in head[:3] if part.grad is not None))
        errors = {what: short(apart(one, other)) for what, one, other in zip(WHAT, results, exact, strict=True)}
        table[name] = {"memory": short(memory / 1e6), "errors": errors}
    del exact
    for _ in range(asked.rounds):
        for name in names:
            rounds[name].append(timed(CONTENDERS[name], CONTENDERS[name].fed(values, DTYPES[asked.dtype])))
    print(f"{entries} entries, {asked.tokens} tokens × {asked.width}, {asked.dtype} on {asked.device}")
    print(f"{'':15} {'seconds':>26} {'CPU s':>8} {'MB':>8}   errors: {'  '.join(f'{what:>8}' for what in WHAT)}")
    for name in names:
        one = table[name]
        one["seconds"], one["cpu_seconds"] = (spread(list(part)) for part in zip(*rounds[name], strict=True))
        took = f"{one['seconds']['median']} ({one['seconds']['least']} to {one['seconds']['most']})"
        shown = "  ".join(f"{value:8.1e}" for value in one["errors"].values())
        print(f"{name:15} {took:>26} {one['cpu_seconds']['median']:8} {one['memory']:8.0f}           {shown}")
    for ours, stock in PAIRS:
        if ours in rounds and stock in rounds:
            pairs = zip(rounds[ours], rounds[stock], strict=True)
            table[ours]["times_as_fast_as_stock"] = short(statistics.median(b[0] / a[0] for a, b in pairs))
    return table


def against_stock(table: dict[str, Any]) -> dict[str, Any]:
    return {
        ours: {
            "times_as_fast": table[ours]["times_as_fast_as_stock"],
            "memory": short(table[ours]["memory"] / table[stock]["memory"]),
        }
        for ours, stock in PAIRS
        if ours in table and stock in table
    }


def inputs(tokens: int, width: int, entries: int, device: str) -> tuple[torch.Tensor, ...]:
    """Logits that vary by 2, and values that bf16 and fp16 hold exactly: one fp64 result is right for every type."""
    draw = torch.Generator().manual_seed(1)
    hidden = torch.randn(tokens, width, generator=draw)
    weight = torch.randn(entries, width, generator=draw) * 2 / width**0.5
    bias = torch.randn(entries, generator=draw) / 10
    labels = torch.randint(0, entries, (tokens,), generator=draw)
    labels[::IGNORED_EVERY] = IGNORED
    exact = (part.bfloat16().half().float().to(device) for part in (hidden, weight, bias))
    return *exact, labels.to(device)


def in_fp64(
    hidden: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, labels: torch.Tensor
) -> tuple[torch.Tensor, ...]:
    """Loss and gradients by autograd of plain cross entropy, 64 MB of logits at a time."""
    parts = [part.double().requires_grad_() for part in (hidden, weight, bias)]
    total = torch.zeros((), dtype=torch.float64, device=hidden.device)
    targets = (labels != IGNORED).sum()
    step = max(1, (1 << 23) // len(weight))
    for begin in range(0, len(hidden), step):
        rows = slice(begin, begin + step)
        logits = F.linear(parts[0][rows], parts[1], parts[2])
        loss = F.cross_entropy(logits, labels[rows], ignore_index=IGNORED, reduction="sum") / targets
        loss.backward()
        total += loss.detach()
    return total, *(part.grad for part in parts if part.grad is not None)


def apart(found: torch.Tensor, exact: torch.Tensor) -> float:
    return float((found.detach().double() - exact).norm() / exact.norm())


def most_taken(work: Callable[[], torch.Tensor], device: str) -> tuple[float, torch.Tensor]:
    """Bytes, with what the work returns. On a CPU every allocation of torch and oneDNN is in the profiler's log."""
    if device == "cuda":
        torch.cuda.synchronize()
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        found = work()
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated() - before, found
    from torch.profiler import ProfilerActivity, profile

    with quiet(), profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen:
        found = work()
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "events.json"
        seen.export_chrome_trace(str(file))
        events = json.loads(file.read_text())["traceEvents"]
    taken = [event["args"] for event in events if event["name"] == "[memory]" and event["args"]["Device Type"] == 0]
    before = taken[0]["Total Allocated"] - taken[0]["Bytes"]
    return max(one["Total Allocated"] for one in taken) - before, found


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """The profiler's library greets on stderr, past Python."""
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


def timed(contender: "Contender", head: list[torch.Tensor]) -> tuple[float, float]:
    """Seconds by the clock, and of all cores."""
    waits = torch.cuda.synchronize if head[0].is_cuda else lambda: None
    waits()
    began, used = time.perf_counter(), time.process_time()
    contender.run(head)
    waits()
    return time.perf_counter() - began, time.process_time() - used


@dataclass(frozen=True)
class Contender:
    loss: Loss
    autocast: bool = False  # to bf16, with all that goes in fp32
    why_not: Callable[[argparse.Namespace], str] = lambda asked: ""

    def fed(self, values: tuple[torch.Tensor, ...], dtype: torch.dtype) -> list[torch.Tensor]:
        kind = torch.float32 if self.autocast else dtype
        return [*(part.to(kind, copy=True).requires_grad_() for part in values[:3]), values[3]]

    def run(self, head: list[torch.Tensor]) -> torch.Tensor:
        with torch.autocast(head[0].device.type, torch.bfloat16, enabled=self.autocast):
            loss = self.loss(*head)
        loss.backward()
        return loss.detach()


def stock(hidden: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """What PhiForCausalLM makes of the last hidden states."""
    from transformers.loss.loss_utils import ForCausalLMLoss

    logits = F.linear(hidden.unsqueeze(0), weight, bias)
    return ForCausalLMLoss(logits, None, vocab_size=len(weight), shift_labels=labels.unsqueeze(0))


def ours(hidden: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    found: torch.Tensor = HeadLoss.apply(hidden, weight, bias, labels)
    return found


def torchs(chunked: bool) -> Loss:
    def loss(hidden: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        options: dict[str, Any] = {}
        if chunked:
            # Left to itself it takes 2 of 256 tokens at a time for 32,768 entries: 8.5 CPU seconds, with 64 tokens 0.9
            rows = None if hidden.is_cuda else 256
            options = {"options": torch.nn.LinearCrossEntropyOptions(batch_chunk_size=rows)}
        return F.linear_cross_entropy(hidden, weight, labels, linear_bias=bias, ignore_index=IGNORED, **options)

    return loss


def ligers(wide: bool) -> Loss:
    """Sums in the type of the weights, as it has them by itself, or in fp32."""

    def loss(hidden: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        from liger_kernel.transformers import LigerFusedLinearCrossEntropyLoss

        options: dict[str, Any] = {"accum_dtype": torch.float32} if wide else {}
        return LigerFusedLinearCrossEntropyLoss(ignore_index=IGNORED, **options)(weight, hidden, labels, bias)

    return loss


def no_autocast(asked: argparse.Namespace) -> str:
    return "" if asked.dtype == "bf16" else f"it computes in bf16, and {asked.dtype} is asked for"


def no_torchs(_: argparse.Namespace) -> str:
    return "" if hasattr(F, "linear_cross_entropy") else f"torch {torch.__version__} has no linear_cross_entropy"


def no_torchs_chunks(_: argparse.Namespace) -> str:
    if hasattr(torch.nn, "LinearCrossEntropyOptions"):
        return ""
    return f"torch {torch.__version__} has no chunks for linear_cross_entropy"


def no_liger(asked: argparse.Namespace) -> str:
    if asked.device == "cpu":
        return "its kernels need a GPU"
    absent = [name for name in ("liger_kernel", "triton") if not importlib.util.find_spec(name)]
    return f"{absent[0]} is not installed" if absent else ""


def no_wide_liger(asked: argparse.Namespace) -> str:
    why = no_liger(asked)
    if why or asked.dtype == "fp32":
        return why or "fp32 sums are its own in fp32"
    from liger_kernel.transformers import LigerFusedLinearCrossEntropyLoss

    if "accum_dtype" in inspect.signature(LigerFusedLinearCrossEntropyLoss).parameters:
        return ""
    return f"liger-kernel {importlib.metadata.version('liger-kernel')} has no accum_dtype"


WHAT = ("loss", "hidden", "weight", "bias")
CONTENDERS = {
    "stock": Contender(stock),
    "torch": Contender(torchs(chunked=False), why_not=no_torchs),
    "torch-chunked": Contender(torchs(chunked=True), why_not=no_torchs_chunks),
    "liger": Contender(ligers(wide=False), why_not=no_liger),
    "liger-fp32-sums": Contender(ligers(wide=True), why_not=no_wide_liger),
    "ours": Contender(ours),
    "stock-autocast": Contender(stock, autocast=True, why_not=no_autocast),
    "ours-autocast": Contender(ours, autocast=True, why_not=no_autocast),
}
PAIRS = [("ours", "stock"), ("ours-autocast", "stock-autocast")]


if __name__ == "__main__":
    main()
