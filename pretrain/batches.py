"""What a rank reads in each step: computed from the step, not skipped to."""

import signal
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F  # noqa: N812
from torch.utils.data import IterableDataset, get_worker_info

from narae.log import Mistake
from narae.mixture import Mixture
from narae.packed import IGNORED
from pretrain.segments import Course


@dataclass(frozen=True)
class Boundaries:
    """What the ends of documents mean inside a row: to attention, and to the loss."""

    attention: bool = False  # no token sees another document; positions begin again
    inside: bool = False  # a document's first token is not predicted from the end of the one before


class Batches(IterableDataset[dict[str, Any]]):
    """This rank's share of each step, as micro-batches, from a step on. Workers take turns, so the order stays."""

    def __init__(
        self,
        rows: Mixture,
        course: Course,
        micro: int,
        boundaries: Boundaries = Boundaries(),
        first_step: int = 0,
        rank: int = 0,
        ranks: int = 1,
    ):
        self.rows, self.course, self.micro, self.boundaries = rows, course, micro, boundaries
        self.first_step, self.rank, self.ranks = first_step, rank, ranks

    def __iter__(self) -> Iterator[dict[str, Any]]:
        worker = get_worker_info()
        turn, workers = (worker.id, worker.num_workers) if worker else (0, 1)
        for step in range(self.first_step + turn, self.course.steps, workers):
            yield self._share(step)

    def _share(self, step: int) -> dict[str, Any]:
        rows = self.course.batch(step, self.rank, self.ranks)
        most = -(-self.course.segment(step).batch_rows // self.ranks)
        try:
            parts = [
                tensors(self.rows, part.tolist(), self.boundaries)
                for part in np.array_split(rows, micro_batches(most, self.micro))
            ]
        except Mistake as mistake:
            if get_worker_info() is None:
                raise
            return {"mistake": mistake.message}  # a worker that ends by itself says nothing but that it has ended
        return {"micro": parts, "rows": torch.from_numpy(rows)}


def leave_signals_to_the_rank(worker: int) -> None:
    """In a worker that reads. Slurm signals all processes of a step; one that died of it would end the run."""
    del worker
    for number in (signal.SIGTERM, signal.SIGUSR1):
        signal.signal(number, signal.SIG_IGN)


def micro_batches(share: int, most: int) -> int:
    """In how many a rank goes through its share of a step: of one size, unless that would double them."""
    even = next(size for size in range(min(share, most), 0, -1) if share % size == 0)
    return share // even if 2 * even >= min(share, most) else -(-share // most)


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
