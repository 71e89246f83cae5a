"""A run's pulse: a rank that hangs or loses a peer says where, and ends, so that the job can go on elsewhere.

    with together(run, timeout):            # around all of a training command that takes time
        beat("step 4: micro-batch 1 of 2", step=4)
        with long("writing 20 GB", 400):    # where no beat can come for so long
            ...

`beat` is called from the main thread wherever a rank gets further: 1 µs. A small process beside each rank reads it
(narae/warden.py); after `timeout` seconds without one the rank's stacks are written and it ends with code 85. Peers
wait in a collective meanwhile, without a beat of their own, so they do the same; or the collective fails, which says
that a peer went away, and that ends a rank with 85, too. An error of a rank's own ends it with its traceback and code
1, and its peers with 1 as well: to try again would not help.
"""

import contextlib
import faulthandler
import json
import mmap
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

from narae import peers, warden
from narae.log import Mistake, rank, say, stage
from narae.peers import FAILED, first_line, lost, ranks, tell, told
from narae.restarts import SIGNALS as ENDING
from narae.restarts import check_start_up
from narae.warden import BYTES, CLOSED, DUMP, FIRED, LEFT, PULSE, STARTED, STOPPED

TIMEOUT = 600.0
INTERRUPTED = 130
STARTING = 120.0  # seconds until the first step is done that count for nothing, however short the timeout
IMPORTING = 600.0  # seconds to import the libraries, where a thousand ranks read them from one file system
SLOWEST = 50e6  # bytes per second, of a file system that many jobs write to
SIGNALS = signal.SIGTERM, signal.SIGUSR1  # what asks a run to end; later narae/follow.py's Stopper takes them


class Pulse:
    """What a rank shares with its warden."""

    def __init__(self, run: Path, timeout: float):
        self._files = page, stacks = _scratch(), _scratch()
        os.ftruncate(page, BYTES)
        self.page = mmap.mmap(page, BYTES)
        self.main, self.beats, self.step, self.open = threading.get_ident(), 0, -1, False
        self.starting = self.extra = max(0.0, STARTING - timeout)
        self.beat("starting")
        ended, self.alive = os.pipe()
        self._order, order = os.pipe()
        faulthandler.register(DUMP, file=stacks, all_threads=True, chain=False)
        told: dict[str, Any] = {"pid": os.getpid(), "page": page, "stacks": stacks, "alive": ended, "order": order}
        told |= {"timeout": timeout, "run": str(run), "stage": stage(), "rank": rank(), "ranks": ranks()}
        self._warden = subprocess.Popen(
            [sys.executable, "-E", "-P", "-S", warden.__file__, json.dumps(told)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            pass_fds=(page, stacks, ended, order),
        )
        for file in (ended, order):
            os.close(file)
        threading.Thread(target=self._obey, name="pulse", daemon=True).start()

    def beat(self, what: str, step: int = -1) -> None:
        if threading.get_ident() != self.main:  # that another thread lives says nothing of the training
            return
        if self.fired:  # silent for so long, and now going on: too late, the others have been told
            time.sleep(3600)
        self.beats += 1
        self.what, self.at = what, time.monotonic()
        self.step = step if step >= 0 else self.step
        PULSE.pack_into(self.page, 0, self.beats, self.extra, self.step, self.open, what.encode()[:400])

    @property
    def fired(self) -> bool:
        return bool(self.page[FIRED])

    def _obey(self) -> None:
        if os.read(self._order, 1) or self.fired:
            os._exit(STOPPED)
        os.close(self._order)

    def close(self) -> None:
        if self.fired:
            time.sleep(3600)
        self.page[CLOSED] = 1
        os.close(self.alive)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._warden.wait(2)
        faulthandler.unregister(DUMP)
        for file in self._files:
            os.close(file)


def _scratch() -> int:
    """A file without a name, in memory where the system has that."""
    if hasattr(os, "memfd_create"):
        return os.memfd_create("pulse")
    with tempfile.TemporaryFile() as file:
        return os.dup(file.fileno())


_pulse: Pulse | None = None


def _forget() -> None:
    """In a forked worker: it is no rank, and must not keep the warden from seeing that the rank has ended."""
    global _pulse
    if _pulse is not None:
        os.close(_pulse.alive)
        _pulse = None
        for number in SIGNALS:
            if signal.getsignal(number) is _early:
                signal.signal(number, signal.SIG_DFL)


os.register_at_fork(after_in_child=_forget)


def beat(what: str, step: int = -1) -> None:
    """The rank got further; `what` it does from here on."""
    if _pulse is not None:
        _pulse.beat(what, step)


@contextlib.contextmanager
def long(what: str, seconds: float) -> Iterator[None]:
    """In here silence is no hang for so many seconds more. On all ranks, where some wait for others."""
    _extend(what, seconds)
    yield
    _extend(f"after {what}", -seconds)  # where it failed, that is where this rank still is


def seconds_for(*folders: Path) -> float:
    """To read or write what lies in there, where that goes slowly."""
    sizes = 0
    for folder in folders:
        for file in folder.rglob("*"):
            with contextlib.suppress(OSError):
                sizes += file.stat().st_size
    return sizes / SLOWEST


def _extend(what: str, seconds: float) -> None:
    if _pulse is not None:
        _pulse.extra += seconds
        _pulse.beat(what)


def opened() -> None:
    """metrics.jsonl knows of this attempt from here on."""
    if _pulse is not None:
        _pulse.open = True
        _pulse.beat(_pulse.what)


def started() -> None:
    """The first step is done."""
    if _pulse is not None:
        _pulse.extra -= _pulse.starting
        _pulse.starting, _pulse.page[STARTED] = 0.0, 1


@contextlib.contextmanager
def together(run: Path, timeout: Any = TIMEOUT) -> Iterator[None]:
    """Around what the ranks do together. `run` is the run's folder; `timeout` is --hang_timeout, 0 for no watch."""
    global _pulse, _run, _began
    if type(timeout) not in (int, float) or timeout < 0:
        raise Mistake(f"--hang_timeout {timeout}: a number of seconds, or 0 for no watch")
    _began, _run = time.time(), run
    for number in SIGNALS:
        if signal.getsignal(number) == signal.SIG_DFL:
            signal.signal(number, _early)
    if timeout and not debugged():
        _pulse = Pulse(run, float(timeout))
    if rank() == 0:
        (run / FAILED).unlink(missing_ok=True)
        if not warden.left(run, warden.born_at(os.getpid())):
            (run / LEFT).unlink(missing_ok=True)
    try:
        if rank() == 0:
            check_start_up(run)
        yield
    except KeyboardInterrupt:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        _note("SIGINT")
        say("interrupted: the same command goes on from the newest checkpoint, or from the start")
        _end(INTERRUPTED)
    except SystemExit as ending:
        if ending.code in (None, 0, STOPPED):
            raise
        tell(run, FAILED, "" if isinstance(ending, Mistake) else f"exit code {ending.code}")
        _note("mistake")
        if ranks() == 1:
            raise
        if isinstance(ending.code, str):
            print(ending.code, file=sys.stderr)
        _end(1)
    except Exception as error:
        if reason := lost(error):
            _lost(reason, error)
        tell(run, FAILED, f"{type(error).__name__}: {first_line(error)}")
        _note("error")
        if ranks() == 1:
            raise
        traceback.print_exception(error)
        _end(1)
    finally:
        for number in SIGNALS:
            if signal.getsignal(number) is _early:
                signal.signal(number, signal.SIG_DFL)
        if _pulse is not None:
            _pulse.close()
            _pulse = None


_run, _began = Path(), 0.0


def meet(timeout: float) -> None:
    """Waits for the other ranks; no longer, once one has said that it met an error of its own. A rank that a signal
    ended is the warden's to hear of: it sees what this rank does after the meeting, too.
    """

    def left() -> str:
        found = told(_run, FAILED, _began)
        return f"{found[0]} ended before all had come" if found else ""

    peers.meet(timeout, left)


def _early(number: int, frame: Any) -> None:
    """Before training begins there is nothing to save."""
    del frame
    if ranks() > 1:
        warden.tell_left(_run, rank(), signal.Signals(number).name)
    _note(signal.Signals(number).name)
    say("stopped by a signal before the first step; the same command goes on")
    _end(STOPPED)


def debugged() -> bool:
    monitoring = getattr(sys, "monitoring", None)
    return sys.gettrace() is not None or bool(monitoring and monitoring.get_tool(monitoring.DEBUGGER_ID))


def _lost(reason: str, error: Exception) -> NoReturn:
    """Say it, write down where, and end."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if _pulse is not None and _pulse.fired:
        _end(STOPPED)  # the warden says all there is to say
    what = _pulse.what if _pulse is not None else "training"
    failed, hung = told(_run, FAILED, _began - 5), _hung()
    if failed and not failed[1]:
        _end(1)  # a mistake is said once, by the rank that met it
    if failed:
        warden.speak(stage(), f"rank {rank()} lost a peer in '{what}': {failed[0]} ended with {failed[1]}")
        _note("error")
        _end(1)
    head = f"lost a peer in '{what}': {hung or reason}"
    with contextlib.suppress(OSError):
        warden.leave(_run / "stacks" / f"rank-{rank()}.txt", rank(), head, "".join(traceback.format_exception(error)))
    warden.speak(stage(), f"rank {rank()} {head}")
    _note("hang" if hung else "lost a peer", hung)
    say(f"the run ends with code {STOPPED}: the same command goes on from its newest checkpoint")
    _end(STOPPED)


def _hung() -> str:
    """Whether a peer went because it hung: it has just written down its stacks."""
    for file in sorted((_run / "stacks").glob("rank-*.txt")):
        with contextlib.suppress(OSError):
            heads = file.read_text(encoding="utf-8", errors="replace").rsplit("\n== ", 1)
            if heads[-1].startswith("hang: ") and time.time() - file.stat().st_mtime < 60:
                return f"{file.stem.replace('-', ' ')} hung {heads[-1].splitlines()[0].removeprefix('hang: ')}"
    return ""


def _note(cause: str, hung: str = "") -> None:
    """Rank 0. Before the run's folder is open only what may happen again and again is written down."""
    again = cause in ("hang", "lost a peer", *ENDING)
    if rank() != 0 or not (_pulse is None or _pulse.open or again):
        return
    step, began, hang = -1, None, None
    if _pulse is not None:
        step, began = _pulse.step, None if _pulse.open else time.time()
        hang = {"step": step, "waited": round(time.monotonic() - _pulse.at, 3), "where": _pulse.what, "in": hung}
    with contextlib.suppress(OSError):
        warden.note(_run, cause, step, began, hang if hung else None)


def _end(code: int) -> NoReturn:
    """Not by way of the interpreter's end, where threads of gloo and nccl wait for peers that are gone."""
    if _pulse is not None:
        _pulse.page[CLOSED] = 1
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    os._exit(code)
