"""A command from its start to its end: time, memory and what it wrote, its child processes included."""

import contextlib
import os
import subprocess
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

from bench.scale import MEMORY, children, look
from narae.log import Mistake
from narae.watch import Watch

EVERY = 0.1  # seconds between looks at the memory


def watched(command: list[str], environment: dict[str, str] | None = None) -> dict[str, Any]:
    """Also what it said on stderr. `worker_mb` is the resident memory of the largest process but the first."""
    with tempfile.TemporaryFile() as said:
        cpu, wrote, began = children(), written(), time.monotonic()
        process = subprocess.Popen(command, stdout=said, stderr=said, env={**os.environ, **(environment or {})})
        together, apart = Watch(process.pid, EVERY), _Peaks(process.pid)
        try:
            process.wait()
            wall = time.monotonic() - began
        finally:
            process.kill()
            together.stop()
            apart.stop()
        said.seek(0)
        text = said.read().decode(errors="replace")
    if process.returncode:
        raise Mistake(f"{' '.join(command[:2])} stopped with {process.returncode}:\n{text[-2000:]}")
    memory = {who: used / 1e6 for who, used in apart.peaks.items()}
    spent = {"wall_s": wall, "cpu_s": children() - cpu, "written_mb": (written() - wrote) / 1e6}
    return {**spent, **memory, "all_mb": together.peak / 1e6, "said": text}


class _Peaks(threading.Thread):
    """The largest resident memory of the first process, and of the largest other one."""

    def __init__(self, pid: int):
        super().__init__(daemon=True)
        self.pid, self.peaks = pid, dict.fromkeys(MEMORY, 0)
        self._done = threading.Event()
        self.start()

    def run(self) -> None:
        while not self._done.wait(EVERY):
            for who, used in look(self.pid)[0].items():
                self.peaks[who] = max(self.peaks[who], used)

    def stop(self) -> None:
        self._done.set()
        self.join()


def written() -> int:
    """Bytes to disk by this process and all of its children that have ended; 0 where the system does not count."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/io").read_text().splitlines():
            if line.startswith("write_bytes"):
                return int(line.split()[1])
    return 0
