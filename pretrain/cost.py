"""What a run costs in time and disk, by arithmetic on narae/footprint.py's shape and memory: for pretrain/plan.py."""

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace

from narae.footprint import BF16, FLAT, FP32, LIVE, PREFETCH, SHARE, Shape, Way, footprint, moment_bytes

# Assumed, each of them
NETWORK = 0.7  # of a link's nominal rate is what a collective operation reaches
STREAM = 0.8  # of a device's nominal memory rate is what AdamW reaches
FRAGMENTS = 0.92  # of a device's memory can be used: the allocator's gaps take the rest
HOST_LINK = 25e9  # bytes per second between host and GPU: PCIe 4 x16 in practice
HOST_MEMORY = 20e9  # bytes per second of one rank's share of host memory, for AdamW on the CPU
MTBF_HOURS = 6000.0  # of a node: 419 failures in 54 days of 2,048 nodes (Llama 3, arXiv 2407.21783, section 3.3.4)
# Seconds that a collective operation takes to start, and each hop of a ring over NVLink, over PCIe and out of a node:
# what NCCL itself reckons with (src/graph/tuning.cc, rings, protocol Simple)
START, NVLINK_HOP, PCIE_HOP, HOP_OUT = 8.4e-6, 3.4e-6, 5.7e-6, 14e-6
DDP_BUCKET = 25 * 2**20 // FP32  # parameters; DistributedDataParallel's bucket_cap_mb is 25


@dataclass(frozen=True)
class Device:
    name: str
    memory: float  # bytes
    rate: float  # FLOP/s of a dense bf16 product
    within: float  # bytes per second and direction, between the devices of one node
    between: float  # bytes per second and direction, out of a node
    stream: float  # bytes per second of its memory
    adapters: int = 1  # of a node, each with its share of the rate out of it, and with its devices
    hop: float = NVLINK_HOP  # seconds, within a node
    hop_out: float = HOP_OUT
    kind: str = "cuda"
    measured: bool = False
    bf16: bool = True
    guessed: bool = False  # the rate out of a node


# Memory and its rate, products and links within a node are the vendor's: NVIDIA's data sheets of H100 SXM (989.4
# TFLOP/s without sparsity, NVLink 900 GB/s in both directions), H200 SXM (the same with 141 GB), A100 SXM (312, 600
# GB/s), L40S (362, PCIe 4 x16 64 GB/s), and the Ada whitepaper for RTX 4090 (165.2 with fp32 sums, PCIe 4 x16).
# Between nodes: a DGX H100's eight 400 Gb/s adapters and a DGX A100's eight of 200 Gb/s, by their data sheets; for the
# PCIe cards, which come in no such system, one of 200 Gb/s and one of 10 Gb/s are assumed.
DEVICES = {
    "h100": Device("H100 SXM", 80e9, 989.4e12, 450e9, 400e9, 3350e9, adapters=8),
    "h200": Device("H200 SXM", 141e9, 989.4e12, 450e9, 400e9, 4800e9, adapters=8),
    "a100-80": Device("A100 SXM 80 GB", 80e9, 312e12, 300e9, 200e9, 2039e9, adapters=8),
    "a100-40": Device("A100 SXM 40 GB", 40e9, 312e12, 300e9, 200e9, 1555e9, adapters=8),
    "l40s": Device("L40S", 48e9, 362e12, 32e9, 25e9, 864e9, hop=PCIE_HOP, guessed=True),
    "rtx4090": Device("RTX 4090", 24e9, 165.2e12, 32e9, 1.25e9, 1008e9, hop=PCIE_HOP, guessed=True),
}
LOOPBACK, ETHERNET = 2e9, 1.25e9  # assumed for ranks that share a CPU, and for 10 Gb/s between nodes


@dataclass(frozen=True)
class Job:
    shape: Shape
    device: Device
    gpus: int
    nodes: int
    batch_rows: int
    mfu: float = SHARE
    bus: float | None = None  # measured bytes per second on a ring over all ranks

    @property
    def ranks(self) -> int:
        return self.gpus * self.nodes

    @property
    def share(self) -> int:
        """Rows of one rank in one step."""
        return self.batch_rows // self.ranks

    @property
    def link(self) -> float:
        """Bytes per second on a ring over all ranks: the slowest of its links, of which one leaves each node. NCCL lays
        as many rings as a node has adapters, so a node's rate counts as a whole."""
        if self.bus is not None:
            return self.bus
        out = self.device.between * min(1.0, self.gpus / self.device.adapters)
        links = [self.device.within] * (self.gpus > 1) + [out] * (self.nodes > 1)
        return min(links, default=math.inf) * NETWORK

    def hops(self, turns: int) -> float:
        """Seconds until the first byte has been so often round the ring. Of an all-reduce, which NCCL also does up and
        down a tree of nodes where that is sooner: the tree's."""
        ring = turns * ((self.ranks - self.nodes) * self.device.hop + (self.nodes - 1) * self.device.hop_out)
        levels = math.ceil(math.log2(self.nodes))
        tree = 2 * ((self.gpus - 1) * self.device.hop + levels * self.device.hop_out)
        return min(ring, tree) if turns == 2 else ring

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
class Exchange:
    """Collective operations that send all parameters or gradients, a bucket at a time."""

    phase: str  # beside which part of a step's compute they can go on; "after" has none
    turns: int  # round the ring: an all-reduce is a scatter and a gather
    width: int  # bytes of a parameter
    times: int  # in one step
    bucket: int  # parameters in one operation


def exchanges(shape: Shape, way: Way, live: int = LIVE) -> list[Exchange]:
    """What is sent in one step. DeepSpeed 0.19.8 does so to the byte (bench/collectives.py)."""
    own, passes, bucket = FP32 if way.precision == "fp32" else BF16, way.pieces, way.bucket
    if way.stage is None:
        return [Exchange("last backward", 2, FP32, 1, DDP_BUCKET)]
    if way.stage == 0:
        return [Exchange("after", 2, own, 1, FLAT)]
    weights = Exchange("after", 1, own, 1, shape.parameters)
    if way.stage == 1:
        return [Exchange("after", 2, own, 1, FLAT), weights]
    if way.stage == 2:  # each rank keeps its share of the gradients only, so no pass can wait for the next
        return [Exchange("backward", 2, own, passes, bucket), weights]
    gathers = [Exchange("forward", 1, own, passes, PREFETCH), Exchange("backward", 1, own, passes, PREFETCH)]
    # Where all weights may stay, forward's are still there for backward
    return [*gathers[: 1 if shape.parameters <= live else 2], Exchange("backward", 1, own, passes, bucket)]


def sent(shape: Shape, way: Way, one: Exchange) -> float:
    """Bytes that each rank of a ring sends in one step."""
    return one.times * one.turns * one.width * shape.parameters * (way.ranks - 1) / way.ranks


@dataclass(frozen=True)
class Time:
    compute: float  # seconds of a step
    hidden: float  # of communication that goes on beside it
    exposed: float  # of communication and work that it waits for

    @property
    def step(self) -> float:
        return self.compute + self.exposed


def time_of(job: Job, way: Way) -> Time:
    shape, count, ranks = job.shape, job.shape.parameters, job.ranks
    # Checkpointing runs the blocks' forward pass once more: a third of forward and backward
    repeated = 4 / 3 if way.checkpointing else 1.0
    compute = shape.flops_per_token * shape.length * job.share * repeated / (job.device.rate * job.mfu)
    forward = compute / 3 / repeated
    backward = compute - forward
    rooms = {"forward": forward, "backward": backward, "last backward": backward / way.pieces, "after": 0.0}
    sending, found = exchanges(shape, way) if ranks > 1 else [], []
    for phase, room in rooms.items():
        able = whole = 0.0
        for one in (one for one in sending if one.phase == phase):
            calls = one.times * math.ceil(count / one.bucket)
            seconds = sent(shape, way, one) / job.link + calls * (START + job.hops(one.turns))
            whole += seconds
            # What is gathered first and reduced last has nothing to go on beside: a bucket, or the embedding
            able += seconds * (1 - min(1.0, max(one.bucket, shape.largest) / count))
        found.append((min(able, room), whole - min(able, room)))
    own = count / ranks if way.stage else count
    if way.offload:
        passed = (2 if count <= LIVE else 3) * BF16 * own * way.pieces / HOST_LINK
        found.append((min(passed, compute), passed - min(passed, compute)))
    # AdamW reads gradients, masters and moments, and writes all but the first
    rate = HOST_MEMORY if way.offload else job.device.stream * STREAM
    update = (FP32 * own * 3 + 2 * moment_bytes(shape, way)) / rate
    hidden, exposed = (sum(part) for part in zip(*found, strict=True))
    return Time(compute, hidden, exposed + update)


def interval(save: float, mtbf_hours: float, nodes: int) -> float:
    """Seconds between saves at which the time of saving and the time of repeating what was lost are together least:
    the square root of twice a save's seconds times the seconds between failures (Young 1974, Daly 2006)."""
    return math.sqrt(2 * save * mtbf_hours * 3600 / nodes)


def lost(save: float, mtbf_hours: float, nodes: int) -> float:
    """The share of the time that saving and repeating take at that interval."""
    every = interval(save, mtbf_hours, nodes)
    return save / every + every / 2 / (mtbf_hours * 3600 / nodes)


def this_machine(cpu: bool, ranks: int) -> Device:
    """The device here, its rates measured. Ranks on a CPU share its memory and its cores."""
    import psutil
    import torch

    from narae.devices import device_name, hardware, matmul_rate
    from narae.training import cpu_has_bf16
    from pretrain.speeds import copy_rate  # what a copy reaches, so nothing is taken off

    if torch.cuda.is_available() and not cpu:
        found, here = hardware(), torch.device("cuda")
        memory = float(torch.cuda.get_device_properties(0).total_memory)
        stream = copy_rate(here) / STREAM
        return Device(device_name(here), memory, found.rate, DEVICES["l40s"].within, ETHERNET, stream, measured=True)
    here, memory, bf16 = torch.device("cpu"), float(psutil.virtual_memory().total), cpu_has_bf16()
    rate, stream = (
        matmul_rate(here, torch.bfloat16 if bf16 else torch.float32) / ranks,
        copy_rate(here) / STREAM / ranks,
    )
    return Device(
        device_name(here), memory / ranks, rate, LOOPBACK, ETHERNET, stream, kind="cpu", measured=True, bf16=bf16
    )


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
