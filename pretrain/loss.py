"""The next-token loss without a tokens × vocabulary matrix in fp32.

The head's product, the softmax and their gradients are computed in the forward pass, some thousand tokens at a time:
logits are held for these alone, in the model's type, and their gradient takes their place. Softmax and sums are fp32,
in pieces that the cache holds: a bf16 log-softmax is off by 1 %. Backward only scales what is there.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812
from transformers.modeling_outputs import CausalLMOutputWithPast

from narae.footprint import CHUNK as CHUNK_ELEMENTS
from narae.footprint import PIECES

IGNORED = -100
JUDGED_ELEMENTS = 1 << 22  # logits at a time where nothing is trained: 16 MB of fp32
GPU_ELEMENTS = 1 << 25  # the same on a GPU: a product with fewer rows than some hundred is bound by the weights


class HeadLoss(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, labels: torch.Tensor
    ) -> torch.Tensor:
        """hidden: tokens × width, already at the positions whose next token `labels` holds. Returns the mean loss."""
        kind = hidden.device.type
        dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else hidden.dtype
        ctx.types = hidden.dtype, weight.dtype, None if bias is None else bias.dtype
        with torch.autocast(kind, enabled=False):
            hidden, weight, bias = hidden.to(dtype), weight.to(dtype), None if bias is None else bias.to(dtype)
            counted = labels != IGNORED
            ctx.targets = counted.sum().clamp(min=1)
            grad_hidden = torch.empty_like(hidden)
            grad_weight = grad_bias = None
            loss = hidden.new_zeros((), dtype=torch.float32)
            step = max(1, CHUNK_ELEMENTS // weight.shape[0])
            for rows, wanted, mask, found in zip(
                hidden.split(step), labels.split(step), counted.split(step), grad_hidden.split(step), strict=True
            ):
                logits = F.linear(rows, weight, bias)
                loss += losses_and_gradient(logits, wanted)
                torch.mm(logits, weight, out=found)
                # Where nothing is wanted there is a gradient of the logits, too: it meets zeros
                share = mask.to(dtype).unsqueeze(0)
                grad_weight = summed(grad_weight, logits.T @ rows.mul(share.T))
                if bias is not None:
                    grad_bias = summed(grad_bias, (share @ logits).squeeze(0))
            grad_hidden *= counted.unsqueeze(1)
        ctx.gradients = grad_hidden, grad_weight, grad_bias
        return loss / ctx.targets

    @staticmethod
    def backward(ctx: Any, *outputs: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        if ctx.gradients is None:
            raise RuntimeError("the loss goes backward once: its gradients were scaled where they lay")
        scale, gradients = outputs[0] / ctx.targets, ctx.gradients
        ctx.gradients = None
        scaled = (
            None if gradient is None else gradient.mul_(scale).to(dtype)
            for gradient, dtype in zip(gradients, ctx.types, strict=True)
        )
        return *scaled, None


def losses_and_gradient(logits: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
    """The sum of the losses; softmax minus one-hot, the gradient, takes the logits' place."""
    loss = logits.new_zeros((), dtype=torch.float32)
    step = max(1, PIECES.get(logits.device.type, PIECES["cuda"]) // logits.shape[1])
    for piece, labels in zip(logits.split(step), wanted.split(step), strict=True):
        index = labels.clamp(min=0).unsqueeze(1)
        share = torch.softmax(piece, dim=-1, dtype=torch.float32)
        # The logarithm of the whole, by way of the likeliest entry, whose share is far from zero
        whole = piece.amax(dim=-1, keepdim=True).float() - share.amax(dim=-1, keepdim=True).log()
        found = (whole - piece.gather(1, index).float()).squeeze(1)
        loss += torch.where(labels != IGNORED, found, 0.0).sum()
        piece.copy_(share.scatter_add_(1, index, share.new_full((1, 1), -1.0).expand_as(index)))
    return loss


def summed(before: torch.Tensor | None, product: torch.Tensor) -> torch.Tensor:
    """In fp32, as soon as there is more than one."""
    return product if before is None else before.float().add_(product)


class LossHead(nn.Linear):
    """The model's output layer, which returns the loss where it is given labels.

    Being the layer itself, it finds its weights gathered under ZeRO-3.
    """

    def forward(  # type: ignore[override]
        self, hidden: torch.Tensor, labels: torch.Tensor | None = None, apiece: bool = False
    ) -> Any:
        if labels is None:
            return F.linear(hidden, self.weight, self.bias)
        if apiece:
            return judged(hidden, labels, self.weight.shape[0], lambda rows: F.linear(rows, self.weight, self.bias))
        if not torch.is_grad_enabled():
            losses, _ = self.forward(hidden, labels, apiece=True)
            return losses.sum() / (labels != IGNORED).sum()
        return HeadLoss.apply(hidden, self.weight, self.bias, labels)


def judged(
    rows: torch.Tensor, wanted: torch.Tensor, entries: int, head: Callable[[torch.Tensor], torch.Tensor]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Of each position its loss, 0 where nothing is wanted, and the token that is expected most. No gradients."""
    step = max(1, (JUDGED_ELEMENTS if rows.device.type == "cpu" else GPU_ELEMENTS) // entries)
    losses, expected = [], []
    for part, labels in zip(rows.split(step), wanted.split(step), strict=True):
        logits = head(part)
        losses.append(F.cross_entropy(logits.float(), labels, ignore_index=IGNORED, reduction="none"))
        expected.append(logits.argmax(-1).int())
    return torch.cat(losses), torch.cat(expected)


def use_loss_head(model: Any) -> bool:
    """Let `model(input_ids, labels)` compute its loss in the head. Only where forward is body, head, loss: Phi's is."""
    if type(model).__name__ not in {"PhiForCausalLM", "LlamaForCausalLM"}:
        return False
    model.lm_head.__class__ = LossHead
    stock = type(model).forward

    def forward(
        input_ids: torch.Tensor, labels: torch.Tensor | None = None, apiece: bool = False, **inputs: Any
    ) -> Any:
        """With `apiece` no mean comes out, but the loss of each position, and in place of logits what it expects."""
        if labels is None or inputs.get("logits_to_keep"):
            return stock(model, input_ids=input_ids, labels=labels, **inputs)
        inputs = {key: value for key, value in inputs.items() if key != "num_items_in_batch"} | {"use_cache": False}
        hidden = model.model(input_ids=input_ids, **inputs).last_hidden_state
        if apiece:
            shifted = F.pad(labels[:, 1:], (0, 1), value=IGNORED)
            found = model.lm_head(hidden.flatten(0, 1), shifted.flatten(), apiece=True)
            losses, expected = (part.view_as(labels) for part in found)
            return CausalLMOutputWithPast(loss=losses, logits=expected)
        hidden = hidden[:, :-1].reshape(-1, hidden.shape[-1])
        return CausalLMOutputWithPast(loss=model.lm_head(hidden, labels[:, 1:].reshape(-1)))

    model.forward = forward
    return True
