"""What all ranks do together, besides training. Alone, each of these does nothing but its own part."""

import sys
from collections.abc import Callable
from typing import Any, TypeVar

from narae.log import Mistake, rank

T = TypeVar("T")


def connected() -> bool:
    if "torch" not in sys.modules:  # a command that looks at checkpoints need not wait for its import
        return False
    import torch

    return torch.distributed.is_available() and torch.distributed.is_initialized()


def barrier() -> None:
    if connected():
        import torch

        torch.distributed.barrier()


def gathered(value: T) -> list[T]:
    """Of every rank."""
    if not connected():
        return [value]
    import torch

    found: list[Any] = [None] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(found, value)
    return found


def first_says(find: Callable[[], T]) -> T:
    """What rank 0 finds, for all of them: its mistakes, too."""
    if not connected():
        return find()
    import torch

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
        import torch

        barrier()
        torch.distributed.destroy_process_group()


def world() -> int:
    """How many there are."""
    if not connected():
        return 1
    import torch

    return torch.distributed.get_world_size()
