"""The ranks beside this one: whether they have come, and whether an error means that one is gone."""

import contextlib
import datetime
import os
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from narae.log import Mistake, rank
from narae.warden import here

FAILED = ".failed"  # in the run's folder: which rank ended with an error of its own, in which world, and why
ATTEMPT = 2.0  # seconds to look for rank 0 at a time: the library heeds no signal meanwhile
# A library's words for a peer that is no longer there, or does not answer
GONE = re.compile(
    r"connection (closed|reset|refused|was likely closed)|broken pipe|timed out|timeout|no route to host|"
    r"network is unreachable|ncclRemoteError|ncclSystemError|was aborted|failed to recv|failed to send|connectFullMesh",
    re.I,
)
LIBRARY = re.compile(r"gloo|nccl|TCPStore|socket", re.I)
TAKEN = re.compile(r"EADDRINUSE|address already in use", re.I)

_store: Any = None


class PeerError(RuntimeError):
    """A peer is not there."""


def ranks() -> int:
    alone = os.environ.get("SLURM_NTASKS", "1") if "SLURM_PROCID" in os.environ else "1"
    return int(os.environ.get("WORLD_SIZE", alone))


def meet(timeout: float, left: Callable[[], str] = str) -> None:
    """All ranks, before the libraries wait for each other without a word about how many came. `left` tells of one that
    will not come."""
    global _store
    host, _, port = here().rpartition(":")
    if ranks() == 1 or not (host and port) or not timeout:
        return
    name, until, pause = here(), time.monotonic() + timeout, 0.01
    while (_store := _reach(host, int(port), min(ATTEMPT, timeout))) is None:
        if time.monotonic() > until:
            raise PeerError(f"rank 0 is not at {name} after {timeout:.0f} s")
        _stay(left)
    key = f"narae/{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}"
    come = _store.add(key, 1)
    while come < ranks():
        if time.monotonic() > until:
            raise PeerError(f"{come} of {ranks()} ranks have come to {name} within {timeout:.0f} s")
        time.sleep(pause)
        _stay(left)
        pause = min(2 * pause, 1.0)
        come = _store.add(key, 0)


def _reach(host: str, port: int, timeout: float) -> Any:
    """The store that rank 0 keeps; nothing while rank 0 is not there. The libraries' own, in the same process, shares
    this one's server, which lives as long as this one."""
    import torch.distributed

    library: Any = torch.distributed
    hosted = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"  # torchrun has one, which outlives its restarts
    serves = rank() == 0 and not hosted
    limit = datetime.timedelta(seconds=timeout)
    try:
        return library.TCPStore(host, port, ranks(), serves, timeout=limit, wait_for_workers=False, multi_tenant=True)
    except RuntimeError as error:
        if TAKEN.search(str(error)):
            raise Mistake(f"port {port} of {host} is taken: give another MASTER_PORT") from None
        if serves:
            raise
        return None


def _stay(left: Callable[[], str]) -> None:
    if gone := left():
        raise PeerError(gone)


def lost(error: BaseException) -> str:
    """Why this error means that a peer is gone; nothing where it means something else."""
    told = str(error)
    if isinstance(error, PeerError):
        return told
    if ranks() == 1 or not isinstance(error, RuntimeError) or TAKEN.search(told) or not GONE.search(told):
        return ""
    return first_line(error) if type(error).__name__.startswith("Dist") or LIBRARY.search(told) else ""


def first_line(error: BaseException) -> str:
    """A library's reason: one sentence, without its place in the source, and not longer than a line."""
    told = re.sub(r"^\s*\[[^\]]*\.\w+:\d+\]\s*", "", str(error)).strip()
    line = told.splitlines()[0].split(". ", 1)[0] if told else type(error).__name__
    return line[:157] + "…" if len(line) > 158 else line


def tell(run: Path, file: str, why: str) -> None:
    """Before this rank's end cuts the others off: that they need not wait, or that to try again is no use."""
    if ranks() > 1:
        with contextlib.suppress(OSError):
            (run / file).write_text("\n".join([here(), f"rank {rank()}", why]), encoding="utf-8")


def told(run: Path, file: str, since: float) -> tuple[str, str] | None:
    """The rank that ended so, and why."""
    with contextlib.suppress(OSError, ValueError):
        where, who, why = (run / file).read_text(encoding="utf-8").split("\n", 2)
        if where == here() and (run / file).stat().st_mtime >= since:
            return who, why
    return None
