"""Judging a model on held-out rows: its loss, bits per byte and accuracy, of all rows and of each source.

    judge = Judge(held_out, tokenizer, args, boundaries)
    judge.figures(model)        # on all ranks: each row counts once, on whichever rank it lies
    judge.samples(model)        # [(prompt, what the model goes on with)]

Bits per byte, the figure that compares across tokenizers, is the loss of all tokens over the bytes that they stand for.
A row's first token is not predicted: it is counted at the mean loss of the others. First tokens of documents are
predicted, whatever --document_loss says, so that models are comparable; the loss without them stands beside.
"""

import json
import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F  # noqa: N812

from narae.encoder import token_bytes
from narae.log import Mistake
from narae.mixture import Mixture
from narae.packed import IGNORED
from narae.pulse import beat
from pretrain.batches import Boundaries, tensors
from pretrain.loss import LossHead, judged
from pretrain.samples import beginnings, continued, encoded, undisturbed
from pretrain.scores import NEXT_TOKEN, Accuracy, Other, load_metrics

LOGITS = 1 << 27  # of a model that gives them all at once: half a gigabyte of fp32
BLOCK = 1 << 20  # predictions that are counted and handed to the metrics at a time
HEED = 8  # forward passes between two looks for a signal, for which ranks wait for each other
DIGITS = 6
COLUMNS = TOKENS, BYTES, PREDICTED, LOSS, RIGHT, INSIDE, LOSS_INSIDE = range(7)  # what is summed of each source
READ = LABELS, SOURCES, FIRST, BEGINS = range(4)  # what is known of each token


class BrokenOff(Exception):  # noqa: N818
    """A signal ended an evaluation, on all ranks at the same place."""


class Judge:
    def __init__(
        self,
        held_out: Mixture,
        tokenizer: Any,
        args: Any,
        boundaries: Boundaries,
        eval_rows: int = 0,
        metric: str | Path | None = None,
        prompts: Sequence[str] = (),
    ):
        """`eval_rows` rows, evenly spaced, or with 0 all. `metric` is a file for the evaluate library."""
        self.held_out, self.tokenizer, self.args = held_out, tokenizer, args
        self.boundaries = Boundaries(attention=boundaries.attention)
        self.rows = spread(len(held_out), eval_rows)
        described = json.loads(tokenizer.backend_tokenizer.to_str())
        self.sizes, self.front = token_bytes(tokenizer.backend_tokenizer, described)
        self.accuracy: Accuracy | None = None
        self.other: Other | None = None
        if args.process_index == 0 and len(held_out):
            ours, *others = load_metrics([NEXT_TOKEN, *([Path(metric)] if metric else [])])
            self.accuracy = Accuracy(ours)
            self.other = Other(others[0], Path(str(metric))) if others else None
        self.prompts = list(prompts) or (beginnings(held_out, tokenizer) if len(held_out) else [])
        self._prompts = encoded(self.prompts, tokenizer, held_out)

    def samples(self, model: Any) -> list[tuple[str, str]]:
        """Each prompt, and the likeliest text behind it. All ranks, and on all the same."""
        with undisturbed(model):
            texts = continued(inner(model), self.tokenizer, self._prompts, self.held_out, self.args.device)
        return list(zip(self.prompts, texts, strict=True))

    def figures(self, model: Any, stops: Callable[[], bool] | None = None) -> dict[str, Any]:
        """All ranks, and on all the same. `sources` has a source's figures by its name. Where `stops`, which is
        asked on all ranks now and then, says so, this raises BrokenOff.
        """
        sums = np.zeros((len(COLUMNS), len(self.held_out.source_names)))
        with undisturbed(model):
            for read, losses, expected in self._blocks(model, stops):
                count(sums, read, losses, expected, self.sizes, self.front)
                self._measure(expected, read)
        beat("evaluation: summing over the ranks")
        if self.args.world_size > 1:
            total = torch.from_numpy(sums).to(self.args.device)
            torch.distributed.all_reduce(total)
            sums = total.cpu().numpy()
        found = figures_of(sums.sum(axis=1))
        known = zip(self.held_out.source_names, sums.T, strict=True)
        sources = {name: figures_of(one) for name, one in known if one[PREDICTED] and one[BYTES]}
        keys = "loss", "bits_per_byte", "accuracy", "tokens", "bytes"
        return {
            **{key: found[key] for key in ("loss", "loss_inside", "bits_per_byte")},
            **self._measured(),
            "sources": {name: {key: one[key] for key in keys} for name, one in sources.items()},
        }

    def _blocks(
        self, model: Any, stops: Callable[[], bool] | None
    ) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """This rank's rows, some at a time: what was read of them, the losses, the tokens that were expected."""
        ranks, length = self.args.world_size, self.held_out.sequence_length
        mine, size = self.rows[self.args.process_index :: ranks], self._size(model)
        # As many forward passes on every rank, with or without rows left: ZeRO-3 gathers weights in each
        passes = math.ceil(math.ceil(len(self.rows) / ranks) / size)
        together = max(1, BLOCK // (size * length * ranks))
        for begin in range(0, passes, together):
            done = []
            for turn in range(begin, min(begin + together, passes)):
                if stops and (ranks == 1 or turn % HEED == 0) and stops():
                    raise BrokenOff
                done.append(self._pass(model, mine[turn * size : turn * size + size]))
            read, losses, expected = zip(*done, strict=True)
            yield np.concatenate(read), torch.cat(losses).cpu().numpy(), torch.cat(expected).cpu().numpy()

    def _size(self, model: Any) -> int:
        """Rows in a forward pass."""
        most = int(self.args.per_device_eval_batch_size)
        if in_head(model):
            return most
        entries = inner(model).config.get_text_config().vocab_size
        return min(most, max(1, LOGITS // (self.held_out.sequence_length * entries)))

    def _pass(self, model: Any, numbers: list[int]) -> tuple[np.ndarray, torch.Tensor, torch.Tensor]:
        beat(f"evaluation: row {numbers[0]:,} and {len(numbers) - 1} more" if numbers else "evaluation: no row left")
        inputs = tensors(self.held_out, numbers or self.rows[:1], self.boundaries)
        inputs = {key: value.to(self.args.device) if key != "use_cache" else value for key, value in inputs.items()}
        if in_head(model):
            found = model(**inputs, apiece=True)
            losses, expected = found.loss, found.logits
        else:
            labels = inputs.pop("labels")
            logits = model(**inputs).logits
            wanted = F.pad(labels[:, 1:], (0, 1), value=IGNORED).flatten()
            flat = judged(logits.flatten(0, 1), wanted, logits.shape[-1], lambda rows: rows)
            losses, expected = (part.view_as(labels) for part in flat)
        read = np.empty((len(numbers), len(READ), self.held_out.sequence_length), np.int32)
        for number, row in zip(numbers, read, strict=True):
            row[LABELS], row[SOURCES] = self.held_out.labels(number), self.held_out.sources(number)
            row[FIRST], row[BEGINS] = self.held_out.positions(number) == 0, self.held_out.begins(number)
        return read, losses[: len(numbers)], expected[: len(numbers)]

    def _measure(self, expected: np.ndarray, read: np.ndarray) -> None:
        """The metrics on rank 0 see the rows of all ranks, in order."""
        both = np.stack([expected, read[:, LABELS]], axis=1)
        if self.args.world_size > 1:
            both = self._gathered(both)
        for metric in (self.accuracy, self.other):
            if metric:
                metric.add(both[:, 0], both[:, 1])

    def _gathered(self, mine: np.ndarray) -> np.ndarray:
        ranks, device = self.args.world_size, self.args.device
        counts = [torch.zeros(1, dtype=torch.int64, device=device) for _ in range(ranks)]
        torch.distributed.all_gather(counts, torch.tensor([len(mine)], device=device))
        sizes = [int(one) for one in counts]  # of the first rank the most, of the last one less at most
        padded = torch.zeros((sizes[0], *mine.shape[1:]), dtype=torch.int32, device=device)
        padded[: len(mine)] = torch.from_numpy(mine)
        everyone = [torch.empty_like(padded) for _ in range(ranks)]
        torch.distributed.all_gather(everyone, padded)
        # Rank r has rows r, r + ranks …
        return torch.stack(everyone, dim=1).flatten(0, 1)[: sum(sizes)].cpu().numpy()

    def _measured(self) -> dict[str, float]:
        found: list[Any] = [None, ""]
        if self.accuracy:
            found[0] = {"accuracy": round(self.accuracy.result(), DIGITS)}
        if self.other:
            more, found[1] = self.other.result()
            ours = {"loss", "loss_inside", "bits_per_byte", "accuracy", "seconds", "step", "sources"}
            front = f"{self.other.file.stem}_"
            found[0] |= {front + key if key in ours else key: round(value, DIGITS) for key, value in more.items()}
        if self.args.world_size > 1:
            torch.distributed.broadcast_object_list(found, src=0, device=self.args.device)
        if found[1]:
            raise Mistake(found[1])
        return dict(found[0])


def spread(total: int, wanted: int) -> list[int]:
    """So many rows, evenly spaced: of each source its share."""
    if wanted < 0:
        raise Mistake(f"--eval_rows {wanted}: a number of rows, or 0 for all")
    return [number * total // wanted for number in range(wanted)] if 0 < wanted < total else list(range(total))


def inner(model: Any) -> Any:
    """The model in DDP's or DeepSpeed's wrapping. Accelerate's own way would import DeepSpeed to look."""
    return inner(model.module) if hasattr(model, "module") else model


def in_head(model: Any) -> bool:
    return isinstance(inner(model).get_output_embeddings(), LossHead)


def count(
    sums: np.ndarray, read: np.ndarray, losses: np.ndarray, expected: np.ndarray, sizes: np.ndarray, front: int
) -> None:
    """Add some rows to the sums of each source. A token's loss was computed at the place in front of it."""
    labels, sources = read[:, LABELS], read[:, SOURCES]
    predicted, there = sources[:, 1:], sources >= 0
    inside = np.where(read[:, FIRST, 1:], -1, predicted)

    def add(column: int, of: np.ndarray, values: np.ndarray) -> None:
        counted = of >= 0
        sums[column] += np.bincount(of[counted], values[counted], sums.shape[1])

    one = np.ones(labels.shape)
    add(TOKENS, sources, one)
    add(BYTES, sources, sizes[np.where(there, labels, 0)] - front * read[:, BEGINS])
    add(PREDICTED, predicted, one[:, 1:])
    add(LOSS, predicted, losses[:, :-1])
    add(RIGHT, predicted, expected[:, :-1] == labels[:, 1:])
    add(INSIDE, inside, one[:, 1:])
    add(LOSS_INSIDE, inside, losses[:, :-1])


def figures_of(sums: np.ndarray) -> dict[str, float]:
    loss = sums[LOSS] / max(sums[PREDICTED], 1)
    found = {
        "loss": loss,
        "loss_inside": sums[LOSS_INSIDE] / max(sums[INSIDE], 1),
        "bits_per_byte": loss / math.log(2) * sums[TOKENS] / max(sums[BYTES], 1),
        "accuracy": sums[RIGHT] / max(sums[PREDICTED], 1),
    }
    whole = {"tokens": int(sums[TOKENS]), "bytes": int(sums[BYTES])}
    return {key: round(float(value), DIGITS) for key, value in found.items()} | whole
