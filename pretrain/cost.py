"""What a run costs in time and disk, by arithmetic on narae/footprint.py's shape and memory: for pretrain/plan.py."""

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace

from narae.footprint import BF16, FP32, LIVE, SHARE, Shape, Way, footprint, moment_bytes

# Assumed, each of them
NETWORK = 0.7  # of a link's nominal rate is what a collective operation reaches
FRAGMENTS = 0.92  # of a device's memory can be used: the allocator's gaps take the rest
HOST_LINK = 25e9  # bytes per second between host and GPU: PCIe 4 x16 in practice
HOST_MEMORY = 20e9  # bytes per second of one rank's share of host memory, for AdamW on the CPU
MTBF_HOURS = 6000.0  # of a node: 419 failures in 54 days of 2,048 nodes (Llama 3, arXiv 2407.21783, section 3.3.4)


@dataclass(frozen=True)
class Device:
    name: str
    memory: float  # bytes
    rate: float  # FLOP/s of a dense bf16 product
    within: float  # bytes per second and direction, between the devices of one node
    between: float  # bytes per second and direction, out of a node
    kind: str = "cuda"
    measured: bool = False
    bf16: bool = True
    guessed: bool = False  # the last of the rates above


# Memory, rate and links within a node are the vendor's: NVIDIA's data sheets of H100 SXM (989.4 TFLOP/s without
# sparsity, NVLink 900 GB/s in both directions), H200 SXM (the same with 141 GB), A100 SXM (312, 600 GB/s), L40S (362,
# PCIe 4 x16 64 GB/s), and the Ada whitepaper for RTX 4090 (165.2 with fp32 sums, PCIe 4 x16). Between nodes: a DGX
# H100's eight 400 Gb/s adapters and a DGX A100's eight of 200 Gb/s, by their data sheets; for the PCIe cards, which
# come in no such system, one of 200 Gb/s and one of 10 Gb/s are assumed.
DEVICES = {
    "h100": Device("H100 SXM", 80e9, 989.4e12, 450e9, 400e9),
    "h200": Device("H200 SXM", 141e9, 989.4e12, 450e9, 400e9),
    "a100-80": Device("A100 SXM 80 GB", 80e9, 312e12, 300e9, 200e9),
    "a100-40": Device("A100 SXM 40 GB", 40e9, 312e12, 300e9, 200e9),
    "l40s": Device("L40S", 48e9, 362e12, 32e9, 25e9, guessed=True),
    "rtx4090": Device("RTX 4090", 24e9, 165.2e12, 32e9, 1.25e9, guessed=True),
}
LOOPBACK, ETHERNET = 2e9, 1.25e9  # assumed for ranks that share a CPU, and for 10 Gb/s between nodes


@dataclass(frozen=True)
class Job:
    shape: Shape
    device: Device
    gpus: int
    nodes: int
    batch_rows: int

    @property
    def ranks(self) -> int:
        return self.gpus * self.nodes

    @property
    def share(self) -> int:
        """Rows of one rank in one step."""
        return self.batch_rows // self.ranks

    @property
    def link(self) -> float:
        """Bytes per second on a ring over all ranks: the slowest of its links, of which one leaves each node."""
        links = [self.device.within] * (self.gpus > 1) + [self.device.between] * (self.nodes > 1)
        return min(links, default=math.inf) * NETWORK

    def sized(self, way: Way, micro: int) -> Way:
        precision = "bf16" if self.device.bf16 else "fp32"
        sized = replace(way, ranks=self.ranks, micro=micro, pieces=self.share // micro)
        return replace(sized, device=self.device.kind, precision=precision)

    def fits(self, way: Way) -> bool:
        return footprint(self.shape, way).total <= self.device.memory * FRAGMENTS

    def micros(self) -> list[int]:
        return [micro for micro in range(1, self.share + 1) if self.share % micro == 0]

    def largest(self, way: Way) -> int:
        """The largest micro-batch that fits, out of those that share a rank's rows evenly; 0 where not even one row."""
        # Memory grows with rows, though not from all of a rank's rows in one pass: then nothing is summed over passes
        return next((micro for micro in reversed(self.micros()) if self.fits(self.sized(way, micro))), 0)


@dataclass(frozen=True)
class Time:
    compute: float  # seconds of a step
    hidden: float  # of communication that goes on beside it
    exposed: float  # of communication and work that it waits for

    @property
    def step(self) -> float:
        return max(self.compute, self.hidden) + self.exposed


def time_of(job: Job, way: Way) -> Time:
    shape, count, ranks = job.shape, job.shape.parameters, job.ranks
    # Checkpointing runs the blocks' forward pass once more: a third of forward and backward
    repeated = 4 / 3 if way.checkpointing else 1.0
    compute = shape.flops_per_token * shape.length * job.share * repeated / (job.device.rate * SHARE)
    once = (ranks - 1) / ranks * count / job.link if ranks > 1 else 0.0  # seconds per byte of a parameter, gathered
    gathers = 1 if count <= LIVE else 2  # forward's weights are still there for backward
    hidden, exposed = {
        None: (2 * once * FP32, 0.0),  # an all-reduce in the last pass's backward
        0: (0.0, 2 * once * BF16),  # after it
        1: (0.0, 3 * once * BF16),  # and new weights
        2: (2 * once * BF16 * way.pieces, once * BF16),  # an all-reduce in each pass
        3: ((gathers + 1) * once * BF16 * way.pieces, 0.0),  # weights gathered, gradients scattered
    }[way.stage]
    if way.offload:
        own = count / ranks
        hidden += (gathers + 1) * BF16 * own * way.pieces / HOST_LINK
        # AdamW reads gradients, masters and moments, and writes all but the first
        exposed += (FP32 * own * 3 + 2 * moment_bytes(shape, way)) / HOST_MEMORY
    return Time(compute, hidden, exposed)


def interval(save: float, mtbf_hours: float, nodes: int) -> float:
    """Seconds between saves at which the time of saving and the time of repeating what was lost are together least:
    the square root of twice a save's seconds times the seconds between failures (Young 1974, Daly 2006)."""
    return math.sqrt(2 * save * mtbf_hours * 3600 / nodes)


def this_machine(cpu: bool, ranks: int) -> Device:
    """The device here, its rate measured. Ranks on a CPU share its memory and its cores."""
    import psutil
    import torch

    from narae.devices import device_name, hardware, matmul_rate
    from narae.training import cpu_has_bf16

    if torch.cuda.is_available() and not cpu:
        found = hardware()
        memory = float(torch.cuda.get_device_properties(0).total_memory)
        name = device_name(torch.device("cuda"))
        return Device(name, memory, found.rate, DEVICES["l40s"].within, ETHERNET, measured=True)
    here, memory, bf16 = torch.device("cpu"), float(psutil.virtual_memory().total), cpu_has_bf16()
    rate = matmul_rate(here, torch.bfloat16 if bf16 else torch.float32)
    return Device(device_name(here), memory / ranks, rate / ranks, LOOPBACK, ETHERNET, "cpu", measured=True, bf16=bf16)


# Among equals: ZeRO-2 sums gradients in fp32 and shares the sums, ZeRO-3 sends weights, ZeRO-0 sums in bf16
PREFERRED = (None, 2, 1, 3, 0)
EQUAL = 1.03  # times the quickest step: the estimate is no finer


def quickest(job: Job, ways: Iterable[Way], micro: int = 0) -> tuple[Way, Time] | None:
    """The way that fits and takes the shortest step, with its largest micro-batch or the given one."""
    sized = (job.sized(way, micro or job.largest(way) or 1) for way in ways)
    found = [(way, time_of(job, way)) for way in sized if job.fits(way)]
    if not found:
        return None
    limit = EQUAL * min(time.step for _, time in found)
    equals = [one for one in found if one[1].step <= limit]
    return min(equals, key=lambda one: (one[0].offload, PREFERRED.index(one[0].stage)))
