"""The pretraining loop: transformers' Trainer, fed by computed positions and judged in bits per byte."""

import math
import time
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, IterableDataset

from narae.checkpoint import CheckpointTrainer
from narae.log import rank, say
from narae.packed import PackedRows, batch
from narae.training import Follow


class Batches(IterableDataset[dict[str, torch.Tensor]]):
    """This rank's micro-batches from a step on: computed, not skipped to."""

    def __init__(self, rows: PackedRows, args: Any, batch_rows: int, first_step: int):
        self.rows, self.args, self.batch_rows, self.first_step = rows, args, batch_rows, first_step

    def __iter__(self) -> Iterator[dict[str, torch.Tensor]]:
        micro, seed = self.args.per_device_train_batch_size, self.args.seed
        for step in range(self.first_step, self.args.max_steps):
            mine = batch(step, self.batch_rows, rank(), self.args.world_size, rows=len(self.rows), seed=seed)
            for begin in range(0, len(mine), micro):
                yield tensors(self.rows, mine[begin : begin + micro].tolist())


class Pretrainer(CheckpointTrainer):
    def __init__(
        self, rows: PackedRows, held_out: PackedRows, batch_rows: int, first_step: int, follow: Follow, **words: Any
    ):
        super().__init__(eval_dataset=held_out, callbacks=[follow], **words)
        self.held_out = held_out
        self.batches = Batches(rows, self.args, batch_rows, first_step)
        self.follow = follow
        self.model_accepts_loss_kwargs = False  # a micro-batch's loss is its mean, and all are of one size

    def get_train_dataloader(self) -> DataLoader[Any]:
        # Not prepared by accelerate, which would reach a resume position by reading everything before it
        return DataLoader(self.batches, batch_size=None)

    def evaluate(self, *_: Any, **__: Any) -> dict[str, float]:  # type: ignore[override]
        """Loss and bits per UTF-8 byte of the held-out rows; each counts once, on whichever rank it lies."""
        began = time.monotonic()
        loss = self._held_out_loss(self.held_out)
        counts = self.held_out.counts
        # A row's first token is not predicted; it is counted at the mean loss of the others
        bits = loss / math.log(2) * counts["tokens"] / counts["bytes"]
        metrics = {"eval_loss": loss, "eval_bits_per_byte": bits}
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        self.follow.folder.metrics.write(
            "eval",
            step=self.state.global_step,
            loss=round(loss, 5),
            bits_per_byte=round(bits, 5),
            seconds=round(time.monotonic() - began, 2),
        )
        say(f"step {self.state.global_step:,}  held out: {bits:.3f} bits per byte")
        self.follow.refresh_report()
        return metrics

    def _held_out_loss(self, held_out: PackedRows) -> float:
        model, ranks, size = self.model_wrapped, self.args.world_size, self.args.per_device_eval_batch_size
        model.eval()
        mine = list(range(rank(), len(held_out), ranks))
        total = torch.zeros(2, dtype=torch.float64, device=self.args.device)
        with torch.no_grad():
            # As many forward passes on every rank, with or without rows left: ZeRO-3 gathers weights in each
            for begin in range(0, math.ceil(len(held_out) / ranks), size):
                numbers = mine[begin : begin + size]
                inputs = self._prepare_inputs(tensors(held_out, numbers or [0]))
                with self.compute_loss_context_manager():
                    loss = float(model(**inputs).loss)
                targets = int((inputs["labels"][:, 1:] >= 0).sum()) if numbers else 0
                total += torch.tensor([loss * targets, targets], dtype=torch.float64, device=self.args.device)
        model.train()
        if ranks > 1:
            torch.distributed.all_reduce(total)
        return float(total[0] / total[1])


def tensors(rows: PackedRows, numbers: Sequence[int]) -> dict[str, torch.Tensor]:
    ids = torch.from_numpy(np.stack([rows[number] for number in numbers]))
    labels = torch.from_numpy(np.stack([rows.labels(number) for number in numbers]))
    return {"input_ids": ids, "labels": labels}
