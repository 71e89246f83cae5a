"""What training a causal language model takes: operations, memory by part, disk.

Memory is that of the worst moment of a step, part by part, as transformers' Trainer and DeepSpeed 0.19 allocate it.
"""

from dataclasses import dataclass
from typing import Any

from narae.model import kind_of

BF16, FP32 = 2, 4  # bytes
CHUNK = 1 << 27  # logits at a time in pretrain/loss.py: 256 MB in bf16; more of them would sum their gradients oftener
PIECES = {"cpu": 1 << 19, "cuda": 1 << 26}  # of these at a time in fp32: 2 MB, which a core's cache holds, and 256 MB
# Assumed: CUDA's context, cuBLAS and NCCL take about so much of a GPU; Python with torch and transformers of a host
CONTEXT = {"cuda": 1.2e9, "cpu": 0.6e9}
SHARE = 0.4  # assumed: of the rate of a bare matrix product is what training reaches
FLAT = 500_000_000  # parameters whose gradients stages 0 and 1 flatten into one to reduce them
PREFETCH = 50_000_000  # parameters that ZeRO-3 gathers at once, DeepSpeed's default and that of configs/ds
LIVE = 1_000_000_000  # parameters that ZeRO-3 gathers and keeps at a time, DeepSpeed's default


Parts = dict[str, float]


@dataclass(frozen=True)
class Shape:
    """What memory and speed depend on, of a transformers config's model."""

    config: Any
    parameters: int
    embedding: int  # parameters that are only looked up: none where the head shares them
    head: int  # of the output layer
    largest: int  # of the largest matrix
    matrices: int  # of the blocks' matrices: those that muon updates
    length: int

    @property
    def flops_per_token(self) -> float:
        """Forward and backward: two operations per parameter and four, the input embedding being a look-up; and those
        of attention's scores as if every token saw the whole row, though half of it is masked: the usual convention."""
        layers, width = self.config.num_hidden_layers, self.config.hidden_size
        return 6.0 * (self.parameters - self.embedding) + 12.0 * layers * width * self.length


def shape_of(config: Any, length: int) -> Shape:
    import torch

    with torch.device("meta"):
        model = kind_of(config)(config)  # the class itself: from_config would partition the model under ZeRO-3
    weights = list(model.parameters())
    embedding, head = model.get_input_embeddings().weight, model.get_output_embeddings()
    ends = {id(embedding), id(head.weight)}
    return Shape(
        config,
        parameters=sum(one.numel() for one in weights),
        embedding=0 if head.weight is embedding else embedding.numel(),
        head=sum(one.numel() for one in head.parameters()),
        largest=max(one.numel() for one in weights),
        matrices=sum(one.numel() for one in weights if one.ndim == 2 and id(one) not in ends),
        length=length,
    )


def flops_per_token(config: Any, length: int) -> float:
    return shape_of(config, length).flops_per_token


@dataclass(frozen=True)
class Way:
    """How it is trained."""

    stage: int | None = None  # of ZeRO; None is the Trainer alone, which keeps fp32 weights and casts as it goes
    ranks: int = 1
    micro: int = 8  # rows in one pass
    pieces: int = 1  # passes in one step
    offload: bool = False
    muon: bool = False
    checkpointing: bool = False
    precision: str = "bf16"
    documents: bool = True  # attention within documents, which needs a mask
    bucket: int = 50_000_000  # parameters; DeepSpeed's reduce_bucket_size
    device: str = "cuda"


@dataclass(frozen=True)
class Footprint:
    """Bytes on one device at the worst moment of a step; and in the host's memory per rank where states lie there."""

    parts: dict[str, float]
    moment: str
    host: float = 0.0

    @property
    def total(self) -> float:
        return sum(self.parts.values())

    @property
    def model(self) -> float:
        """Without what a process takes that trains nothing."""
        return self.total - self.parts["process"]


PARTS = "weights gathered gradients masters moments accumulation buckets activations head process".split()


def footprint(shape: Shape, way: Way) -> Footprint:
    moments = moments_of(shape, way)
    worst = max(moments, key=lambda name: sum(moments[name].values()))
    process = {"process": CONTEXT[way.device]}
    parts = {name: (moments[worst] | process).get(name, 0.0) for name in PARTS}
    if not way.offload:
        return Footprint(parts, worst)
    own = shape.parameters / way.ranks
    # bf16 weights, fp32 masters and gradients, and the moments
    return Footprint(parts, worst, host=own * (BF16 + 2 * FP32) + moment_bytes(shape, way))


def moment_bytes(shape: Shape, way: Way) -> float:
    """AdamW has two fp32 figures per parameter; Muon one for each of the blocks' matrices."""
    sharers = way.ranks if way.stage else 1
    return FP32 * (2 * shape.parameters - (shape.matrices if way.muon else 0)) / sharers


def moments_of(shape: Shape, way: Way) -> dict[str, Parts]:
    """What is alive when the head computes the loss, at points of the backward pass, and while the weights change."""
    from narae.activations import activations

    autocast, wide = way.stage is None and way.precision != "fp32", way.stage is None or way.precision == "fp32"
    own = FP32 if wide else BF16  # bytes of a weight in the model
    kind = "autocast" if autocast else "fp32" if wide else "bf16"
    blocks = activations(shape.config, way.micro, shape.length, kind, way.checkpointing, way.documents)
    local = max(blocks.most - blocks.kept, 0.0)  # what backward has open in one block
    # The head's gradient is a product in the type that is computed in, and an fp32 sum where the logits are not held
    # together; under autocast its weights are there in bf16, too. Softmax takes a piece of them to fp32. The hidden
    # states go in without each row's last one, and have a gradient.
    computed = FP32 if way.precision == "fp32" else BF16
    hidden = way.micro * shape.length * shape.config.hidden_size * own
    logits = way.micro * shape.length * shape.config.vocab_size
    several = FP32 if logits > CHUNK else 0
    copies = computed + several + (BF16 if autocast else 0)
    held = min(logits, CHUNK) * computed + min(logits, PIECES[way.device]) * 2 * FP32
    head = shape.head * copies + 3 * hidden + held
    scaled = shape.head * (max(computed, several) + (FP32 if autocast else 0)) + 2 * hidden
    always, backward, step = states(shape, way, own)
    before = backward["backward ends"][1] if way.pieces > 1 else {}  # the sums of the passes before are there already
    grown = {name: before.get(name, 0.0) for name in ("gradients", "accumulation")}
    grown["gathered"] = backward["backward begins"][1].get("gathered", 0.0)
    moments = {"head": merge(always, grown, {"activations": blocks.kept, "head": head})}
    for name, (left, there) in backward.items():
        there = there | {part: max(size, there.get(part, 0.0)) for part, size in grown.items()}
        alive = {"activations": left * blocks.kept + local, "head": scaled if left == 1 else 0.0}
        moments[name] = merge(always, there, alive)
    return moments | {"step": merge(always, step)}


def states(shape: Shape, way: Way, own: int) -> tuple[Parts, dict[str, tuple[float, Parts]], Parts]:
    """What lies there always; beside it at points of backward, with the share of activations that is left; and beside
    it while the weights change."""
    count, share = shape.parameters, shape.parameters / way.ranks
    full = way.device == "cuda"  # a buffer takes its whole size on a GPU; on a CPU, what was written to it
    bucket = float(way.bucket if full else min(way.bucket, count))
    always = {"weights": float(own * count), "moments": moment_bytes(shape, way)}
    begins, ends = {"gradients": float(own * shape.head)}, {"gradients": float(own * count)}
    if way.stage is None:
        # DistributedDataParallel's buckets hold every gradient once more
        always |= {"buckets": float(own * count if way.ranks > 1 else 0)}
        return always, {"backward begins": (1, begins), "backward ends": (0, ends)}, ends
    if own == FP32 and way.stage == 0:
        flat = {"buckets": float(own * min(count, FLAT))}
        return always, {"backward begins": (1, begins), "backward ends": (0, ends | flat)}, ends
    always["masters"] = FP32 * (share if way.stage else count)
    if way.stage == 0:
        flat = {"buckets": float(own * min(count, FLAT))}
        step = ends | {"accumulation": float(FP32 * count)}
        return always, {"backward begins": (1, begins), "backward ends": (0, ends | flat)}, step
    if way.stage == 1:
        # All gradients on each rank: those of a pass, and in fp32 their sum over the passes. They are reduced as one
        # bf16 copy, made of a flat fp32 one unless the matrices fill a buffer of their own.
        always |= ends | {"accumulation": float(FP32 * count)}
        flat = {"buckets": float((FP32 if count <= FLAT else 0) * count + own * count)}
        return always, {"backward begins": (1, {}), "backward ends": (0, flat)}, {}
    if way.stage == 2:
        # The fp32 sum of this rank's share appears when the first bucket is reduced, which takes a copy of the bucket
        summed = {"accumulation": FP32 * share}
        filled = min(1.0, max(0.0, bucket - shape.head) / max(1, count - shape.head - shape.embedding))
        first = own * (2 * bucket if full else shape.head)
        some = own * (3 * bucket if full else 2 * bucket)
        most = own * (3 * bucket if full else min(bucket, count) + max(bucket, min(bucket, count - bucket) + bucket))
        points = {
            "backward begins": (1.0, {"buckets": first}),
            "a bucket is reduced": (1 - filled, summed | {"buckets": some}),
            "backward ends": (0.0, summed | {"buckets": most}),
        }
        return always, points, summed
    always |= {"weights": own * share, "accumulation": FP32 * share, "buckets": own * bucket}
    step = {"gradients": FP32 * min(share, LIVE)}
    if way.offload:
        always, step = {"buckets": own * bucket}, {}
    # Gathered weights that are needed again within so many parameters stay: in a small model all of them
    # Several ranks' pieces arrive in one buffer and are put together beside it
    arriving = min(count, PREFETCH) if way.ranks > 1 else 0
    gathered = {"gathered": float(own * (min(count, LIVE) + arriving))}
    points = {"backward begins": (1.0, gathered), "backward ends": (0.0, gathered | {"buckets": own * bucket})}
    return always, points, step


def merge(*parts: Parts) -> Parts:
    return {name: sum(one.get(name, 0.0) for one in parts) for name in PARTS}


def checkpoint_bytes(shape: Shape, stage: int | None, muon: bool = False) -> float:
    """One checkpoint on the disk, all ranks together: weights, fp32 masters and moments.

    The Trainer alone writes fp32 weights. DeepSpeed's files have the masters and, but for stage 3, bf16 weights, which
    lie beside them once more as Hugging Face weights.
    """
    moments = FP32 * (2 * shape.parameters - (shape.matrices if muon else 0))
    per_weight = {None: FP32, 0: 2 * BF16 + FP32, 3: BF16 + FP32}.get(stage, 2 * BF16 + FP32)
    return per_weight * shape.parameters + moments


def final_bytes(shape: Shape, stage: int | None) -> float:
    return (FP32 if stage is None else BF16) * shape.parameters
