"""What a run should come to, said as plainly as it can be: one process, fp32, torch and transformers' own parts.

No Trainer, accelerate or DeepSpeed, and nothing of the project's but its initial weights, its rows and their order:
masks, loss, optimizer, schedule, clipping and accumulation are written out here from what the options promise.
"""

import math
from typing import Any, NamedTuple

import torch
from torch.nn import functional as F  # noqa: N812

from narae.artifact import open_artifact
from narae.model import from_values, new_model
from narae.order import Mixing, batch
from narae.packed import PackedRows


class Step(NamedTuple):
    loss: float
    grad_norm: float


def steps(
    values: dict[str, Any],  # of a config.json
    packed: str = "sample",
    max_steps: int = 50,
    batch_rows: int = 8,
    micro_rows: int = 2,
    learning_rate: float = 2e-3,
    warmup_steps: int = 10,
    weight_decay: float = 0.1,
    max_grad_norm: float = 1.0,
    seed: int = 42,
    apart: bool = True,  # --document_attention
    inside: bool = False,  # --document_loss inside
    scaled: bool = True,  # --scaled_init
) -> list[Step]:
    """Each step's loss before its update, and its gradient's norm before clipping."""
    rows = PackedRows(open_artifact("packed", packed))
    order = Mixing((len(rows),), (1,), seed)
    model = new_model(from_values(values, rows.artifact.counts["entries"], rows.sequence_length), seed, scaled)
    matrices = [weights for weights in model.parameters() if weights.dim() > 1]
    norms_and_biases = [weights for weights in model.parameters() if weights.dim() == 1]
    optimizer = torch.optim.AdamW(
        [{"params": matrices, "weight_decay": weight_decay}, {"params": norms_and_biases, "weight_decay": 0.0}],
        lr=learning_rate,
        betas=(0.9, 0.95),
        eps=1e-8,
    )
    found = []
    for step in range(max_steps):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate * share(step, warmup_steps, max_steps)
        numbers = batch(order, step, batch_rows).tolist()
        ids = torch.stack([torch.from_numpy(rows[number]) for number in numbers])
        labels = labels_of(ids, rows.pad, rows.eos, inside)
        targets = (labels[:, 1:] != -100).sum()
        loss = 0.0
        for begin in range(0, batch_rows, micro_rows):
            part = slice(begin, begin + micro_rows)
            sums = sum_of_losses(model, ids[part], labels[part], rows.eos, apart) / targets
            sums.backward()
            loss += sums.item()
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), max_grad_norm)
        optimizer.step()
        optimizer.zero_grad()
        found.append(Step(loss, norm.item()))
    return found


def share(step: int, warmup: int, steps: int) -> float:
    """Of the learning rate: up in a straight line, down as half a cosine. Step 0 is the first, and learns nothing."""
    if step < warmup:
        return step / warmup
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / (steps - warmup)))


def labels_of(ids: torch.Tensor, pad: int, eos: int, inside: bool) -> torch.Tensor:
    labels = ids.masked_fill(ids == pad, -100)
    if inside:
        labels[:, 1:][ids[:, :-1] == eos] = -100
    return labels


def sum_of_losses(model: Any, ids: torch.Tensor, labels: torch.Tensor, eos: int, apart: bool) -> torch.Tensor:
    """Over the next tokens, from the logits. An end token begins the document that follows it."""
    words: dict[str, Any] = {}
    if apart:
        places = torch.arange(ids.shape[1])
        document = (ids == eos).cumsum(dim=1)
        together = document.unsqueeze(1) == document.unsqueeze(2)
        words["attention_mask"] = (together & (places <= places.unsqueeze(1))).unsqueeze(1)  # rows × 1 × asks × sees
        words["position_ids"] = places - together.int().argmax(dim=2)  # from the first of the same document
    logits = model(input_ids=ids, use_cache=False, **words).logits
    return F.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten(), ignore_index=-100, reduction="sum")
