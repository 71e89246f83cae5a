"""What all ranks do together, besides training. Alone, each of these does nothing but its own part."""

from collections.abc import Callable
from typing import Any, TypeVar

import torch

from narae.log import Mistake, rank

T = TypeVar("T")


def connected() -> bool:
    return torch.distributed.is_available() and torch.distributed.is_initialized()


def barrier() -> None:
    if connected():
        torch.distributed.barrier()


def gathered(value: T) -> list[T]:
    """Of every rank."""
    if not connected():
        return [value]
    found: list[Any] = [None] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(found, value)
    return found


def first_says(find: Callable[[], T]) -> T:
    """What rank 0 finds, for all of them: its mistakes, too."""
    if not connected():
        return find()
    box: list[Any] = [None]
    if rank() == 0:
        try:
            box = [find()]
        except Mistake as mistake:
            box = [mistake]
    torch.distributed.broadcast_object_list(box)
    if isinstance(box[0], Mistake):
        raise Mistake(box[0].message)
    return box[0]  # type: ignore[no-any-return]


def part() -> None:
    """The end of a run: ranks wait for each other, and close what connects them.

    Left to the interpreter's end, threads of gloo are now and then destroyed while they run: SIGABRT after a good run.
    """
    if connected():
        barrier()
        torch.distributed.destroy_process_group()


def world() -> int:
    """How many there are."""
    return torch.distributed.get_world_size() if connected() else 1
