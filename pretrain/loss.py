"""The next-token loss without a tokens × vocabulary matrix in fp32.

The head's product, the softmax and their gradients are computed chunk by chunk in the forward pass, while a chunk's
logits are still in the cache; backward only scales what is there. Sums are fp32: a bf16 log-softmax is off by 1 %.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812
from transformers.modeling_outputs import CausalLMOutputWithPast

IGNORED = -100
CHUNK_ELEMENTS = 1 << 22  # logits at a time: 16 MB of fp32
GPU_ELEMENTS = 1 << 25  # where nothing is trained: a product with fewer rows than some hundred is bound by the weights


class HeadLoss(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, labels: torch.Tensor
    ) -> torch.Tensor:
        """hidden: tokens × width, already at the positions whose next token `labels` holds. Returns the mean loss."""
        targets = (labels != IGNORED).sum().clamp(min=1)
        grad_hidden = torch.empty_like(hidden)
        grad_weight = torch.zeros_like(weight, dtype=torch.float32)
        grad_bias = torch.zeros_like(bias, dtype=torch.float32) if bias is not None else None
        loss = hidden.new_zeros((), dtype=torch.float32)
        step = max(1, CHUNK_ELEMENTS // weight.shape[0])
        for begin in range(0, hidden.shape[0], step):
            rows, wanted = hidden[begin : begin + step], labels[begin : begin + step]
            uncounted = (wanted == IGNORED).nonzero().squeeze(1)
            index = wanted.clamp(min=0).unsqueeze(1)
            logs = torch.log_softmax(F.linear(rows, weight, bias), dim=-1, dtype=torch.float32)
            loss -= logs.gather(1, index).squeeze(1).index_fill(0, uncounted, 0.0).sum()
            # The gradient of the logits is softmax minus one-hot. It takes the place of the logarithms; the division
            # by the number of targets waits for the small matrices.
            gradient = logs.exp_().scatter_add_(1, index, logs.new_full((1, 1), -1.0).expand_as(index))
            gradient = gradient.index_fill_(0, uncounted, 0.0).to(hidden.dtype)
            torch.mm(gradient, weight, out=grad_hidden[begin : begin + step])
            grad_weight += gradient.T @ rows
            if grad_bias is not None:
                grad_bias += gradient.sum(dim=0, dtype=torch.float32)
        ctx.save_for_backward(grad_hidden.div_(targets), grad_weight.div_(targets).to(weight.dtype))
        ctx.grad_bias = None if grad_bias is None or bias is None else grad_bias.div_(targets).to(bias.dtype)
        return loss / targets

    @staticmethod
    def backward(ctx: Any, *outputs: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        grad_hidden, grad_weight = ctx.saved_tensors
        scale = outputs[0]
        bias = None if ctx.grad_bias is None else ctx.grad_bias * scale.to(ctx.grad_bias.dtype)
        return grad_hidden * scale.to(grad_hidden.dtype), grad_weight * scale.to(grad_weight.dtype), bias, None


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
    step = max(1, (CHUNK_ELEMENTS if rows.device.type == "cpu" else GPU_ELEMENTS) // entries)
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
