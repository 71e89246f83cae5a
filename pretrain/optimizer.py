"""AdamW, or Muon with AdamW beside it, for one device, DDP and every ZeRO stage.

Muon's rule is that of DeepSpeed, so that a learning rate means the same with and without ZeRO: Nesterov momentum of the
gradient, made orthogonal by five Newton-Schulz steps, times sqrt(max(1, rows / columns)); decay is decoupled.
"""

import os
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from narae.log import Mistake, say
from narae.training import cpu_has_bf16

NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)  # Jordan's: the slope at zero is largest, singular values end near 1


def create(
    model: nn.Module,
    args: Any,
    kind: str = "adamw",
    muon_learning_rate: float = 0.02,
    muon_momentum: float = 0.95,
    stage: int | None = None,
) -> torch.optim.Optimizer:
    """By TrainingArguments' learning rate, betas, epsilon and weight decay; `stage` is DeepSpeed's, if it is there."""
    settings = {"lr": args.learning_rate, "betas": (args.adam_beta1, args.adam_beta2), "eps": args.adam_epsilon}
    if kind == "adamw":
        optimizer: torch.optim.Optimizer = adamw(groups(model, args.weight_decay), settings)
    elif kind == "muon":
        hidden = {id(weights) for weights in hidden_matrices(model)}
        own = {"lr": muon_learning_rate, "momentum": muon_momentum, "weight_decay": args.weight_decay}
        adam = [
            {**group, "params": [one for one in group["params"] if id(one) not in hidden], **settings}
            for group in groups(model, args.weight_decay)
        ]
        # AdamW's groups stand first: their learning rate is the one that the Trainer logs
        parts = [{**group, "use_muon": False} for group in adam if group["params"]]
        parts.append({"params": hidden_matrices(model), **own, "use_muon": True})
        optimizer = deepspeed_muon(model, parts) if stage else Muon(parts)
    else:
        raise Mistake(f"--optimizer {kind}: it is adamw or muon")
    if stage == 0:
        without_trial_step(optimizer)
    return optimizer


def groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Matrices decay; norms, biases and every other vector do not. A tied matrix stands here once."""
    weights = [one for one in model.parameters() if one.requires_grad]
    matrices = [one for one in weights if len(shape(one)) >= 2]
    vectors = [one for one in weights if len(shape(one)) < 2]
    parts = [{"params": matrices, "weight_decay": weight_decay}, {"params": vectors, "weight_decay": 0.0}]
    return [part for part in parts if part["params"]]


def hidden_matrices(model: nn.Module) -> list[nn.Parameter]:
    """The blocks' matrices: neither what reads the vocabulary nor what writes it."""
    ends = [module for module in model.modules() if isinstance(module, nn.Embedding)]
    head = getattr(model, "get_output_embeddings", lambda: None)()
    ends += [head] if head is not None else []
    outer = {id(weights) for module in ends for weights in module.parameters()}
    found = [one for one in model.parameters() if len(shape(one)) == 2 and id(one) not in outer and one.requires_grad]
    if not found:
        raise Mistake("--optimizer muon finds no matrix between embeddings and head in this model: --optimizer adamw")
    return found


def shape(weights: nn.Parameter) -> torch.Size:
    """What the layer sees; ZeRO-3 leaves an empty vector in a partitioned parameter's place."""
    return getattr(weights, "ds_shape", weights.shape)


def adamw(parts: list[dict[str, Any]], settings: dict[str, Any]) -> torch.optim.AdamW:
    """Fused: on a CPU 8 times as fast as the loop over tensors, and as fast as DeepSpeed's compiled CPU Adam."""
    try:
        return torch.optim.AdamW(parts, fused=True, **settings)
    except RuntimeError as error:
        say(f"AdamW is not fused on this device: {str(error).splitlines()[0]}")
        return torch.optim.AdamW(parts, **settings)


class Muon(torch.optim.Optimizer):
    """Groups with use_muon by Muon, the others by AdamW: one optimizer, so that one schedule scales both.

    Under DDP each rank computes the whole update from the same averaged gradients, and comes to the same weights.
    """

    def __init__(self, parts: list[dict[str, Any]]):
        self._adam = adamw([part for part in parts if not part["use_muon"]], {})
        super().__init__([*self._adam.param_groups, *(part for part in parts if part["use_muon"])], {})

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        # Loading a checkpoint replaces both
        self._adam.param_groups = [group for group in self.param_groups if not group["use_muon"]]
        self._adam.state = self.state
        self._adam.step()
        for group in self.param_groups:
            if group["use_muon"]:
                for weights in group["params"]:
                    if weights.grad is not None:
                        self._step(weights, weights.grad, group)
        return loss

    def _step(self, weights: torch.Tensor, gradient: torch.Tensor, group: dict[str, Any]) -> None:
        state = self.state[weights]
        if "momentum_buffer" not in state:
            state["momentum_buffer"] = torch.zeros_like(weights)
        momentum = state["momentum_buffer"]
        momentum.lerp_(gradient, 1 - group["momentum"])
        update = orthogonal(gradient.lerp(momentum, group["momentum"]))
        rows, columns = weights.shape
        weights.mul_(1 - group["lr"] * group["weight_decay"])
        weights.add_(update.to(weights.dtype), alpha=-group["lr"] * max(1.0, rows / columns) ** 0.5)


def orthogonal(matrix: torch.Tensor) -> torch.Tensor:
    """The nearest orthogonal matrix, roughly: every singular value comes between 0.7 and 1.2."""
    linear, cubic, quintic = NEWTON_SCHULZ
    wide = matrix.to(iteration_dtype(matrix.device))
    tall = wide.size(0) > wide.size(1)
    wide = wide.mT if tall else wide
    wide = wide / (wide.norm() + 1e-7)
    for _ in range(5):
        square = wide @ wide.mT
        wide = linear * wide + (cubic * square + quintic * square @ square) @ wide
    return wide.mT if tall else wide


def iteration_dtype(device: torch.device) -> torch.dtype:
    """bf16 where the hardware has it: half the time of fp32, on a CPU as well."""
    if device.type == "cuda":
        native = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        native = device.type == "cpu" and cpu_has_bf16()
    return torch.bfloat16 if native else torch.float32


def deepspeed_muon(model: nn.Module, parts: list[dict[str, Any]]) -> torch.optim.Optimizer:
    """DeepSpeed's, which gathers whole matrices out of the partitions before it makes them orthogonal."""
    if not torch.cuda.is_available():
        # Its step is compiled on first use, by a compiler that need not be there. Read when torch._dynamo is imported.
        os.environ["TORCHDYNAMO_DISABLE"] = "1"
        from torch import _dynamo

        _dynamo.config.disable = True
    from deepspeed.runtime.zero.muon.muon_optimizer import MuonWithAuxAdam

    hidden = {id(weights) for part in parts if part["use_muon"] for weights in part["params"]}
    for weights in model.parameters():
        weights.use_muon = id(weights) in hidden  # type: ignore[attr-defined]
    for part in parts:
        if part["use_muon"]:
            part["ns_method"] = "standard"  # the iteration above; the other one runs in fp16
    return MuonWithAuxAdam(parts, adam_optimizer=torch.optim.AdamW, adam_optimizer_kwargs={"fused": True})


def without_trial_step(optimizer: torch.optim.Optimizer) -> None:
    """In bf16 and fp16 DeepSpeed's stage 0 steps once on zeros before training, which would count as Adam's first."""
    rates: list[float] = []

    def before(optimizer: torch.optim.Optimizer, *_: Any) -> None:
        on_trial = not any(bool(gradient.any()) for gradient in gradients(optimizer))
        rates.extend(group["lr"] for group in optimizer.param_groups if on_trial)
        for group in optimizer.param_groups:
            group["lr"] = 0.0 if on_trial else group["lr"]

    def after(optimizer: torch.optim.Optimizer, *_: Any) -> None:
        if rates:
            optimizer.state.clear()
            for group, rate in zip(optimizer.param_groups, rates, strict=True):
                group["lr"] = rate
        for hook in hooks:
            hook.remove()

    hooks = [optimizer.register_step_pre_hook(before), optimizer.register_step_post_hook(after)]


def gradients(optimizer: torch.optim.Optimizer) -> Iterator[torch.Tensor]:
    for group in optimizer.param_groups:
        yield from (weights.grad for weights in group["params"] if weights.grad is not None)


def with_norm(engine: Any) -> None:
    """DeepSpeed's stage 0 clips gradients in fp32 and forgets their norm."""
    from deepspeed.runtime.utils import clip_grad_norm_

    def clip() -> None:
        engine._global_grad_norm = clip_grad_norm_(engine.module.parameters(), engine.gradient_clipping())

    engine.clip_fp32_gradients = clip
