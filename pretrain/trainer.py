"""The pretraining loop: transformers' Trainer, fed by computed positions and judged in bits per byte."""

import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F  # noqa: N812
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from narae.checkpoint import CheckpointTrainer
from narae.log import Mistake, rank, say
from narae.mixture import Mixture
from narae.order import Cursor, batch
from narae.packed import IGNORED
from narae.training import Follow


@dataclass(frozen=True)
class Boundaries:
    """What the ends of documents mean inside a row: to attention, and to the loss."""

    attention: bool = False  # no token sees another document; positions begin again
    inside: bool = False  # a document's first token is not predicted from the end of the one before


class Batches(IterableDataset[dict[str, Any]]):
    """This rank's micro-batches from a step on: computed, not skipped to. Workers take turns, so the order stays."""

    def __init__(
        self,
        rows: Mixture,
        args: Any,
        batch_rows: int,
        first_step: int,
        boundaries: Boundaries = Boundaries(),
        start: Cursor | None = None,
    ):
        self.rows, self.batch_rows, self.boundaries, self.start = rows, batch_rows, boundaries, start
        self.steps, self.micro = range(first_step, args.max_steps), args.per_device_train_batch_size
        self.rank, self.ranks = rank(), args.world_size

    def __iter__(self) -> Iterator[dict[str, Any]]:
        worker = get_worker_info()
        turn, workers = (worker.id, worker.num_workers) if worker else (0, 1)
        parts = range(0, self.batch_rows // self.ranks, self.micro)
        for number, step in enumerate(self.steps):
            mine = [begin for part, begin in enumerate(parts) if (number * len(parts) + part) % workers == turn]
            if mine:
                rows = batch(self.rows.mixing, step, self.batch_rows, self.rank, self.ranks, self.start)
            for begin in mine:
                yield self._read(rows[begin : begin + self.micro])

    def _read(self, rows: np.ndarray) -> dict[str, Any]:
        try:
            return tensors(self.rows, rows.tolist(), self.boundaries)
        except Mistake as mistake:
            if get_worker_info() is None:
                raise
            return {"mistake": mistake.message}  # a worker that ends by itself says nothing but that it has ended


class Pretrainer(CheckpointTrainer):
    def __init__(
        self,
        rows: Mixture,
        held_out: Mixture,
        batch_rows: int,
        first_step: int,
        follow: Follow,
        boundaries: Boundaries = Boundaries(),
        **words: Any,
    ):
        super().__init__(eval_dataset=held_out, callbacks=[follow], **words)
        self.held_out, self.boundaries = held_out, boundaries
        self.batches = Batches(rows, self.args, batch_rows, first_step, boundaries)
        self.follow = follow
        # A micro-batch's loss is its mean, and all are of one size but for padding
        self.model_accepts_loss_kwargs = False

    def get_train_dataloader(self) -> DataLoader[Any]:
        # Not prepared by accelerate, which would reach a resume position by reading everything before it
        workers = self.args.dataloader_num_workers
        return DataLoader(
            self.batches, batch_size=None, num_workers=workers, prefetch_factor=self.args.dataloader_prefetch_factor
        )

    def training_step(self, model: Any, inputs: dict[str, Any], *words: Any, **more: Any) -> torch.Tensor:
        if "mistake" in inputs:
            raise Mistake(inputs["mistake"], every_rank=True)
        return super().training_step(model, inputs, *words, **more)

    def evaluate(self, *_: Any, **__: Any) -> dict[str, float]:  # type: ignore[override]
        """Loss and bits per UTF-8 byte of the held-out rows; each counts once, on whichever rank it lies."""
        began = time.monotonic()
        loss, inside = self._held_out_loss(self.held_out)
        counts = self.held_out.counts
        # A row's first token is not predicted; it is counted at the mean loss of the others. First tokens of documents
        # are, whatever --document_loss says, so that models are comparable; the loss without them stands beside.
        bits = loss / math.log(2) * counts["tokens"] / counts["bytes"]
        metrics = {"eval_loss": loss, "eval_loss_inside": inside, "eval_bits_per_byte": bits}
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        self.follow.folder.metrics.write(
            "eval",
            step=self.state.global_step,
            loss=round(loss, 5),
            loss_inside=round(inside, 5),
            bits_per_byte=round(bits, 5),
            seconds=round(time.monotonic() - began, 2),
        )
        say(f"step {self.state.global_step:,}  held out: {bits:.3f} bits per byte")
        self.follow.refresh_report()
        return metrics

    def _held_out_loss(self, held_out: Mixture) -> tuple[float, float]:
        """The mean over all predicted tokens, and over those that do not begin a document."""
        model, ranks, size = self.model_wrapped, self.args.world_size, self.args.per_device_eval_batch_size
        model.eval()
        mine = list(range(rank(), len(held_out), ranks))
        total = torch.zeros(4, dtype=torch.float64, device=self.args.device)
        with torch.no_grad():
            # As many forward passes on every rank, with or without rows left: ZeRO-3 gathers weights in each
            for begin in range(0, math.ceil(len(held_out) / ranks), size):
                numbers = mine[begin : begin + size]
                inputs = tensors(held_out, numbers or [0], Boundaries(attention=self.boundaries.attention))
                first = np.stack([held_out.positions(number) for number in numbers or [0]]) == 0
                inputs["first"] = torch.from_numpy(first)
                inputs = self._prepare_inputs(inputs)
                labels, first = inputs.pop("labels"), inputs.pop("first")
                with self.compute_loss_context_manager():
                    logits = model(**inputs).logits
                if numbers:
                    wanted = F.pad(labels[:, 1:], (0, 1), value=IGNORED)
                    # Row by row: in fp32 a batch of logits is half a gigabyte
                    losses = torch.stack(
                        [
                            F.cross_entropy(row.float(), ids, reduction="none")
                            for row, ids in zip(logits, wanted, strict=True)
                        ]
                    )
                    counted = wanted != IGNORED
                    inside = counted & ~F.pad(first[:, 1:], (0, 1), value=True)
                    sums = [losses.sum(dtype=torch.float64), counted.sum()]
                    sums += [losses[inside].sum(dtype=torch.float64), inside.sum()]
                    total += torch.stack([one.double() for one in sums])
        model.train()
        if ranks > 1:
            torch.distributed.all_reduce(total)
        return float(total[0] / total[1]), float(total[2] / total[3])


def tensors(rows: Mixture, numbers: Sequence[int], boundaries: Boundaries) -> dict[str, Any]:
    ids = torch.from_numpy(np.stack([rows[number] for number in numbers]))
    labels = torch.from_numpy(np.stack([rows.labels(number) for number in numbers]))
    inputs: dict[str, Any] = {"input_ids": ids, "labels": labels, "use_cache": False}
    if boundaries.attention or boundaries.inside:
        first = torch.from_numpy(np.stack([rows.positions(number) for number in numbers])) == 0
        if boundaries.inside:
            labels[first] = IGNORED
        if boundaries.attention:
            # Where positions begin again transformers lets no token see another document, if there is neither an
            # attention_mask nor a cache
            inputs["position_ids"] = positions_apart(first)
    return inputs


def positions_apart(first: torch.Tensor) -> torch.Tensor:
    """Counted from the end token before each document: it begins the next one, as it does in front of a prompt."""
    begins = F.pad(first[:, 1:], (0, 1))
    begins[:, 0] = True
    places = torch.arange(first.shape[1])
    return places - torch.where(begins, places, 0).cummax(dim=1).values
