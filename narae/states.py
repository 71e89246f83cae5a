"""What a training run has learned, by parameter name: fp32 weights and what the optimizer keeps for each of them.

Plain training and DDP hold whole parameters, ZeRO holds flat vectors that cut through them. Written down by name and
place they are the same thing, so a run goes on under any other number of ranks or ZeRO stage than it was saved under.
Each rank writes the pieces that it holds; a piece is `parameter|kind|first element`.
"""

import itertools
import math
from collections import defaultdict
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import nn

from narae.log import Mistake

WEIGHT = "weight"
MOMENTUM = "momentum_buffer"  # DeepSpeed's name for Muon's
WHOLE = "whole"  # in place of the first element: what does not run along with the parameter's elements


@dataclass
class Part:
    """So many elements of a parameter, from `start` on, lie in a vector from `offset` on."""

    name: str
    start: int
    offset: int
    count: int


@dataclass
class Holding:
    """A vector that the optimizer steps on: one parameter, or under ZeRO this rank's share of many."""

    vector: torch.Tensor
    parts: list[Part] = field(default_factory=list)
    # Under stages 1 and 2 each rank keeps Muon's momentum of whole matrices, those that a share ends in as well: where
    # in its buffer they lie
    matrices: dict[str, slice] = field(default_factory=dict)

    def lies(self, part: Part, kind: str) -> slice:
        """Where a part's elements of a kind are."""
        first = part.offset
        if kind == MOMENTUM and self.matrices:
            first = self.matrices[part.name].start + part.start
        return slice(first, first + part.count)


def bottom(optimizer: Any) -> torch.optim.Optimizer:
    """The optimizer that makes the step, below what accelerate and DeepSpeed put around it."""
    while not isinstance(optimizer, torch.optim.Optimizer) or hasattr(optimizer, "optimizer"):
        optimizer = optimizer.optimizer
    return optimizer


def zero_optimizer(optimizer: Any) -> Any:
    """DeepSpeed's own, directly around the bottom one, or nothing."""
    while hasattr(optimizer, "optimizer"):
        if type(optimizer).__module__.startswith("deepspeed."):
            return optimizer
        optimizer = optimizer.optimizer
    return None


def holdings(model: nn.Module, optimizer: Any) -> list[Holding]:
    """Of this rank. Frozen parameters are left out: they come from where they came from."""
    names = {id(weights): name for name, weights in model.named_parameters() if weights.requires_grad}
    zero, base = zero_optimizer(optimizer), bottom(optimizer)
    if hasattr(zero, "fp32_partitioned_groups_flat"):
        return list(_of_stage_3(zero, names))
    if any(hasattr(weights, "_hp_mapping") for weights in model.parameters()):
        return _of_stages_1_and_2(model, zero, base, names)
    if zero is not None:  # stage 0 in 16 bits: a master beside each parameter
        pairs = zip(
            itertools.chain.from_iterable(zero.fp32_groups),
            itertools.chain.from_iterable(zero.fp16_groups),
            strict=True,
        )
        return [Holding(master, [Part(names[id(weights)], 0, 0, master.numel())]) for master, weights in pairs]
    params = [weights for group in base.param_groups for weights in group["params"]]
    return [Holding(weights, [Part(names[id(weights)], 0, 0, weights.numel())]) for weights in params]


def _of_stages_1_and_2(
    model: nn.Module, zero: Any, base: torch.optim.Optimizer, names: dict[int, str]
) -> list[Holding]:
    found = [Holding(group["params"][0]) for group in base.param_groups]
    whole = getattr(zero, "params_in_partition", None)  # stage 1 in bf16 is another class, and gathers them
    for held, group, inside in zip(found, base.param_groups, whole or [], strict=bool(whole)):
        ends = itertools.accumulate((weights.numel() for weights in inside), initial=0)
        if group.get("use_muon"):
            places = itertools.starmap(slice, itertools.pairwise(ends))
            held.matrices = dict(zip((names[id(weights)] for weights in inside), places, strict=True))
    for weights in model.parameters():
        mapping: Any = getattr(weights, "_hp_mapping", None)
        if mapping is not None:
            low, high = mapping.lp_fragment_address, mapping.hp_fragment_address
            part = Part(names[id(weights)], low.start, high.start, high.numel)
            found[mapping.param_group_index].parts.append(part)
    return found


def _of_stage_3(zero: Any, names: dict[int, str]) -> Iterator[Holding]:
    for vector, group in zip(zero.fp32_partitioned_groups_flat, zero.fp16_groups, strict=True):
        held = Holding(vector)
        for weights in group:
            _, offset, share = zero.grad_position[zero.get_param_id(weights)]
            start = torch.distributed.get_rank(weights.ds_process_group) * share
            count = min(share, weights.ds_numel - start)  # the last rank's share is padded
            if count > 0:
                held.parts.append(Part(names[id(weights)], start, offset, count))
        yield held


def replicated(optimizer: Any) -> bool:
    """Whether every rank holds the same."""
    zero = zero_optimizer(optimizer)
    return zero is None or hasattr(zero, "fp32_groups")


def pieces(
    model: nn.Module, optimizer: Any, rank: int, ranks: int, weights_only: bool = False
) -> dict[str, torch.Tensor]:
    """What this rank writes: views of the live tensors, not copies. Replicated states are shared out among ranks."""
    found: dict[str, torch.Tensor] = {}
    state, mine = bottom(optimizer).state, holdings(model, optimizer)
    for held in mine[rank::ranks] if replicated(optimizer) else mine:
        kept = {} if weights_only else state.get(held.vector, {})
        kinds = {WEIGHT: held.vector, **{kind: as_tensor(value, kind) for kind, value in kept.items()}}
        for part in held.parts:
            for kind, value in kinds.items():
                if value.shape == held.vector.shape or (kind == MOMENTUM and held.matrices):
                    found[f"{part.name}|{kind}|{part.start}"] = value.detach().reshape(-1)[held.lies(part, kind)]
                else:
                    found[f"{part.name}|{kind}|{WHOLE}"] = value.detach()
    if rank == 0:
        # What is no parameter and still part of the model
        persistent = model.state_dict(keep_vars=True)
        for name, value in model.named_buffers():
            if name in persistent:
                found[f"{name}|{WEIGHT}|{WHOLE}"] = value.detach()
    return found


def as_tensor(value: Any, kind: str) -> torch.Tensor:
    if isinstance(value, torch.Tensor):
        return value
    if isinstance(value, bool | int | float):
        return torch.tensor(value)
    raise Mistake(f"--optim keeps a {type(value).__name__} as its {kind}, which no checkpoint here can hold")


class Stored:
    """The pieces of all ranks in a checkpoint, to be read at any place. A context, which keeps the files open."""

    def __init__(self, checkpoint: Path):
        self.checkpoint = checkpoint

    def __enter__(self) -> "Stored":
        self._files = ExitStack()
        self._places: dict[tuple[str, str], list[tuple[int, int, Any, str]]] = defaultdict(list)
        self._whole: dict[tuple[str, str], tuple[Any, str]] = {}
        for path in sorted(self.checkpoint.glob("states-*.safetensors")):
            try:
                file: Any = self._files.enter_context(safe_open(str(path), "pt"))
            except (OSError, SafetensorError) as error:
                raise Mistake(f"{path} cannot be read: {error}") from None
            for key in file.keys():  # noqa: SIM118  # no mapping
                name, kind, start = key.split("|")
                if start == WHOLE:
                    self._whole[name, kind] = file, key
                else:
                    count = file.get_slice(key).get_shape()[0]
                    self._places[name, kind].append((int(start), count, file, key))
        for places in self._places.values():
            places.sort(key=lambda place: place[0])
        if not self._places:
            raise Mistake(f"{self.checkpoint} holds no states-*.safetensors: it is of an older version or not whole")
        return self

    def __exit__(self, *_: Any) -> None:
        self._files.close()

    def names(self) -> list[str]:
        """Of all parameters and buffers."""
        return [name for name, kind in [*self._places, *self._whole] if kind == WEIGHT]

    def kinds(self, name: str) -> list[str]:
        """What there is of a parameter along with its elements, besides its weights."""
        return [kind for one, kind in self._places if one == name and kind != WEIGHT]

    def whole(self, name: str) -> dict[str, torch.Tensor]:
        """What there is of a parameter or buffer that does not run along with its elements."""
        return {kind: file.get_tensor(key) for (one, kind), (file, key) in self._whole.items() if one == name}

    def read(self, name: str, kind: str, start: int, count: int) -> torch.Tensor:
        found = []
        for first, length, file, key in self._places.get((name, kind), ()):
            low, high = max(first, start), min(first + length, start + count)
            if low < high:
                found.append(file.get_slice(key)[low - first : high - first])
        there = sum(len(piece) for piece in found)
        if there != count:
            raise Mistake(
                f"{self.checkpoint} has {there:,} of {count:,} elements of {name} ({kind}): it is of another model"
            )
        return found[0] if len(found) == 1 else torch.cat(found)


def load(checkpoint: Path, model: nn.Module, optimizer: Any, weights_only: bool = False) -> None:
    """Put a checkpoint's states into what training holds now, whoever saved it. All ranks."""
    base = bottom(optimizer)
    with Stored(checkpoint) as stored:
        fill_model(stored, model)
        whole = defaultdict(dict) if weights_only else {part.name: stored.whole(part.name) for part in parts_of(model)}
        for held in holdings(model, optimizer):
            vector, state = held.vector.detach(), base.state
            for part in held.parts:
                vector.view(-1)[held.lies(part, WEIGHT)].copy_(stored.read(part.name, WEIGHT, part.start, part.count))
                if weights_only:
                    continue
                for kind in stored.kinds(part.name):
                    if kind == MOMENTUM and held.matrices:
                        continue
                    value = stored.read(part.name, kind, part.start, part.count)
                    if kind not in state[held.vector]:
                        # DeepSpeed keeps Muon's in the gradients' type
                        dtype = vector.dtype if kind == MOMENTUM else value.dtype
                        state[held.vector][kind] = torch.zeros_like(vector, dtype=dtype)
                    state[held.vector][kind].view(-1)[held.lies(part, kind)].copy_(value)
                for kind, value in whole[part.name].items():
                    state[held.vector][kind] = like(value, state[held.vector].get(kind), vector, base)
            if held.matrices and not weights_only and all(MOMENTUM in stored.kinds(name) for name in held.matrices):
                read = [stored.read(name, MOMENTUM, 0, at.stop - at.start) for name, at in held.matrices.items()]
                state[held.vector][MOMENTUM] = torch.cat(read).to(vector.device)


def parts_of(model: nn.Module) -> Iterator[Part]:
    for name, weights in model.named_parameters():
        if weights.requires_grad:
            yield Part(name, 0, 0, getattr(weights, "ds_numel", weights.numel()))


def like(value: torch.Tensor, before: Any, vector: torch.Tensor, base: torch.optim.Optimizer) -> Any:
    """As the optimizer keeps it: a number, or a tensor that lies where it looks for it."""
    if isinstance(before, bool | int | float):
        return type(before)(value.item())
    if isinstance(before, torch.Tensor):
        return value.to(before.device, before.dtype)
    together = value.dim() > 0 or any(group.get("fused") or group.get("capturable") for group in base.param_groups)
    return value.to(vector.device) if together else value


def fill_model(stored: Stored, model: nn.Module) -> None:
    """The weights that the forward pass reads; under ZeRO they are rounded copies of the masters."""
    with torch.no_grad():
        for part in parts_of(model):
            weights: Any = model.get_parameter(part.name)
            value = stored.read(part.name, WEIGHT, 0, part.count)
            if hasattr(weights, "ds_tensor"):
                share = weights.ds_tensor
                first = torch.distributed.get_rank(weights.ds_process_group) * share.ds_numel
                mine = value[first : first + share.ds_numel]
                share.view(-1)[: len(mine)].copy_(mine)
            if weights.numel() == part.count:  # ZeRO-3 keeps small ones whole beside their shares
                weights.copy_(value.view(weights.shape))
        for name, buffer in model.named_buffers():
            if kept := stored.whole(name):
                buffer.copy_(kept[WEIGHT])


def weights_of(checkpoint: Path, model: nn.Module) -> dict[str, torch.Tensor]:
    """Whole fp32 weights for a model of that shape, which may be empty."""
    shapes = {name: value.shape for name, value in model.state_dict(keep_vars=True).items()}
    found = {}
    with Stored(checkpoint) as stored:
        for name in stored.names():
            if name not in shapes:
                raise Mistake(f"{checkpoint} has {name}, which the model does not: it is of another model")
            kept = stored.whole(name).get(WEIGHT)
            found[name] = kept if kept is not None else stored.read(name, WEIGHT, 0, math.prod(shapes[name]))
            found[name] = found[name].view(shapes[name])
    return found
