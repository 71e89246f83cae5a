"""Processes that share one stream of work, and give it back in order: the same result for any number of them."""

import multiprocessing
import os
import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import TypeVar

from narae.log import Mistake

In = TypeVar("In")
Out = TypeVar("Out")


def in_order(work: Callable[[In], Out], items: Iterable[In], workers: int) -> Iterator[tuple[In, Out]]:
    """The items with what the workers made of them, in their order; a few are under way at a time."""
    workers = workers or len(os.sched_getaffinity(0))
    if workers == 1:
        for item in items:
            yield item, work(item)
        return
    context = multiprocessing.get_context("fork")
    with ProcessPoolExecutor(workers, context, attend, (os.getpid(),)) as pool:
        waiting: deque[tuple[In, Future[Out]]] = deque()
        try:
            for item in items:
                waiting.append((item, pool.submit(work, item)))
                if len(waiting) > 2 * workers:
                    item, result = waiting.popleft()
                    yield item, result.result()
            while waiting:
                item, result = waiting.popleft()
                yield item, result.result()
        except BrokenProcessPool:
            raise Mistake(
                f"one of {workers} workers was killed, most likely for memory: take fewer --workers"
            ) from None


def attend(parent: int) -> None:
    """A worker leaves Ctrl-C to its parent, and follows it: an orphan would hold the lock of the artifact for ever."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.2)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
