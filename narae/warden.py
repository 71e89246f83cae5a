"""The small process beside a rank that sees it hang, writes down where, and ends it.

    python narae/warden.py TOLD    # started by narae/pulse.py, never by hand

A thread could not do it: one that holds Python's lock in C, or a process that was stopped, lets no thread run. Here
only the standard library is imported, so it costs 10 MB and starts in a few hundredths of a second.

Time is counted in the turns of its own loop, each at most twice what a turn should take. So what stops all processes
alike (Ctrl-Z, `scontrol suspend`, a frozen or paused machine) stops the count, and on a machine so slow that this loop
hardly runs the count is slow, too. A rank that is stopped alone is a hang to its peers, and so it is one here.
"""

import json
import mmap
import os
import re
import select
import signal
import socket
import struct
import sys
import threading
import time
from pathlib import Path
from typing import Any

STOPPED = 85  # exit code: run the same command again to go on
DUMP = getattr(signal, "SIGRTMIN", signal.SIGUSR2) + (5 if hasattr(signal, "SIGRTMIN") else 0)
BYTES = 4096
PULSE = struct.Struct("<Qdq?400s")  # beats, seconds allowed beyond the timeout, step, whether the run is open, what
FIRED = BYTES - 1  # where the warden says that it has judged
CLOSED = BYTES - 2  # where the rank says that it ends by itself
STARTED = BYTES - 3  # where it says that a step is behind it, and so all connections are there, whose end is noticed
LEFT = ".left"  # in the run's folder: the rank that was ended before its first step, in which world, and by what
FRAME = re.compile(r'^  File "(.+)", line (\d+) in (\S+)', re.M)
STATES = {
    "R": "running",
    "S": "waiting",
    "D": "waiting in the kernel, which no signal ends",
    "T": "stopped by a signal",
}


def main() -> None:
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2, signal.SIGQUIT):
        signal.signal(number, signal.SIG_IGN)  # sent to the whole group: the rank saves, and is watched while it does
    Warden(**json.loads(sys.argv[1])).watch()


class Warden:
    def __init__(
        self,
        pid: int,
        page: int,
        stacks: int,
        alive: int,
        order: int,
        timeout: float,
        run: str,
        stage: str,
        rank: int,
        ranks: int,
    ):
        """`page`, `stacks`, `alive` and `order` are files that the rank opened: its pulse, where it writes its stacks,
        what closes when it ends, and what tells it to end.
        """
        self.pid, self.stacks, self.alive, self.order = pid, stacks, alive, order
        self.page = mmap.mmap(page, BYTES)
        self.timeout, self.run, self.stage, self.rank, self.ranks = timeout, Path(run), stage, rank, ranks
        self.tick = min(1.0, timeout / 20)
        self.grace = grace(timeout)
        self.began = time.time()

    def watch(self) -> None:
        beats, silent, before = -1, 0.0, time.monotonic()
        born = born_at(self.pid)
        while not self.gone(self.tick):
            now = time.monotonic()
            silent, before = silent + min(now - before, 2 * self.tick), now
            count, extra, step, opened, what = PULSE.unpack_from(self.page)
            if (
                self.ranks > 1
                and not self.page[STARTED]
                and (who := left(self.run, born))
                and who != f"rank {self.rank}"
            ):
                speak(self.stage, f"{who} was ended by a signal before the first step, and so is rank {self.rank}")
                self.end()
            if count != beats:
                beats, silent = count, 0.0
            elif silent >= self.timeout + extra and not traced(self.pid):
                self.page[FIRED] = 1
                self.fire(silent, step, opened, what.rstrip(b"\0").decode(errors="replace"))
                return
        if self.ranks > 1 and not self.page[CLOSED] and not self.page[STARTED]:
            tell_left(self.run, self.rank, "killed")

    def gone(self, seconds: float) -> bool:
        """Whether the rank has ended, or has sent the warden home. Waits so long at most."""
        return bool(select.select([self.alive], [], [], seconds)[0]) or os.getppid() != self.pid

    def fire(self, silent: float, step: int, opened: bool, what: str) -> None:
        state = process_state(self.pid)
        found = self.dumped()
        # On a file system that hangs, or into a pipe that nobody empties, no word must keep the end from coming
        teller = threading.Thread(target=self.tell, args=(silent, step, opened, what, state, found), daemon=True)
        teller.start()
        teller.join(self.grace)
        self.gone(self.grace)  # peers, who fell silent a little later, write down theirs
        self.end()

    def end(self) -> None:
        if not self.gone(0):
            os.write(self.order, b"!")
            if not self.gone(2) and os.getppid() == self.pid:
                os.kill(self.pid, signal.SIGKILL)
        os._exit(0)

    def dumped(self) -> str:
        """The rank's stacks. A handler in C writes them, whoever holds Python's lock."""
        os.kill(self.pid, DUMP)
        os.kill(self.pid, signal.SIGCONT)  # a stopped process takes no other signal
        size, until = 0, time.monotonic() + 2
        while time.monotonic() < until and not (size and size == os.fstat(self.stacks).st_size):
            size = os.fstat(self.stacks).st_size
            time.sleep(0.1)
        return os.pread(self.stacks, 1 << 20, 0).decode(errors="replace")

    def tell(self, silent: float, step: int, opened: bool, what: str, state: str, found: str) -> None:
        file = self.run / "stacks" / f"rank-{self.rank}.txt"
        where = innermost(found)
        head = f"hang: {silent:.0f} s after '{what}' (step {step}), process {self.pid} is {state}"
        try:
            leave(file, self.rank, head, found or "It wrote no stacks within 2 s.\n")
            written = f"stacks in {file}"
        except OSError as error:
            written = f"no stacks could be written: {error}"
        stopped = ", it had been stopped by a signal" if state.startswith("stopped") else ""
        speak(self.stage, f"rank {self.rank} hangs: {silent:.0f} s after '{what}', in {where}{stopped}; {written}")
        if self.rank == 0:
            hang = {"step": step, "waited": round(silent + self.grace, 3), "where": what, "in": where}
            note(self.run, "hang", step, None if opened else self.began, hang)
            speak(self.stage, f"the run ends with code {STOPPED}: the same command goes on from its newest checkpoint")


def tell_left(run: Path, rank: int, by: str) -> None:
    try:
        run.mkdir(parents=True, exist_ok=True)
        (run / LEFT).write_text(f"{here()}\nrank {rank}\n{by}", encoding="utf-8")
    except OSError:
        pass


def here() -> str:
    """Where the ranks of this attempt meet."""
    return f"{os.environ.get('MASTER_ADDR', '')}:{os.environ.get('MASTER_PORT', '')}"


def left(run: Path, since: float) -> str:
    """The rank that will not come, or is gone again. Libraries that wait for it hear no signal and have no limit of
    ours: whoever still has no step behind it is told from here.
    """
    try:
        where, who, _ = (run / LEFT).read_text(encoding="utf-8").split("\n", 2)
        return who if where == here() and (run / LEFT).stat().st_mtime > since else ""
    except (OSError, ValueError):
        return ""


def born_at(pid: int) -> float:
    """When a process began: what an attempt before it left behind is older. A little later, as clocks are coarse."""
    try:
        ticks = int(Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[19])
        age = float(Path("/proc/uptime").read_text().split()[0]) - ticks / os.sysconf("SC_CLK_TCK")
    except (OSError, ValueError, IndexError):
        age = 0.0
    return time.time() - age + 0.05


def grace(timeout: float) -> float:
    """Seconds between a rank's stacks and its end, for those that wait for it to fall silent, too."""
    return min(10.0, max(1.0, timeout / 10))


def speak(stage: str, message: str) -> None:
    """Every rank."""
    print(f"{time.strftime('%H:%M:%S')}  {stage}  {message}", file=sys.stderr, flush=True)


def leave(file: Path, rank: int, head: str, text: str) -> None:
    """Behind what an earlier attempt left: its stacks are still to be read."""
    file.parent.mkdir(parents=True, exist_ok=True)
    when = time.strftime("%Y-%m-%d %H:%M:%S")
    with file.open("a", encoding="utf-8") as out:
        out.write(f"== {when}  {socket.gethostname()}  rank {rank}\n== {head}\n\n{text.rstrip()}\n\n")


def note(run: Path, cause: str, step: int, began: float | None, hang: dict[str, Any] | None = None) -> None:
    """The end of an attempt, into metrics.jsonl; with `began`, of one that ended before it opened the run's folder."""
    now = round(time.time(), 3)
    records: list[dict[str, Any]] = [{"kind": "open", "time": round(began, 3)}] if began else []
    records += [{"kind": "hang", "time": now, **hang}] if hang else []
    records.append({"kind": "stop", "time": now, **({"step": step} if step >= 0 else {}), "cause": cause})
    run.mkdir(parents=True, exist_ok=True)
    with (run / "metrics.jsonl").open("a", encoding="utf-8") as out:
        out.write("".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records))


def innermost(stacks: str) -> str:
    """Where the main thread is: faulthandler names it last."""
    frames = FRAME.findall(stacks.rsplit("hread 0x", 1)[-1])
    if not frames:
        return "an unknown place"
    file, line, function = frames[0]
    return f"{function} ({'/'.join(Path(file).parts[-2:])}:{line})"


def process_state(pid: int) -> str:
    try:
        letter = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except (OSError, IndexError):
        return "in an unknown state"
    return STATES.get(letter.upper(), letter)


def traced(pid: int) -> bool:
    """A debugger holds it: nothing that it does or leaves undone is a hang."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False
    return bool(re.search(r"^TracerPid:\s*[1-9]", status, re.M))


if __name__ == "__main__":
    main()
