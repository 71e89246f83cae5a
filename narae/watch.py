"""How much memory a command takes, and on which machine."""

import contextlib
import os
import platform
import subprocess
import threading
from pathlib import Path


class Watch(threading.Thread):
    """The largest sum of the memory of a process and its descendants, shared pages counted once."""

    def __init__(self, pid: int, every: float = 0.5):
        super().__init__(daemon=True)
        self.pid, self.every, self.peak = pid, every, 0
        self._done = threading.Event()
        self.start()

    def run(self) -> None:
        import psutil

        while not self._done.wait(self.every):
            total = 0
            with contextlib.suppress(psutil.Error):
                top = psutil.Process(self.pid)
                for process in [top, *top.children(recursive=True)]:
                    with contextlib.suppress(psutil.Error):
                        info = process.memory_full_info()
                        total += getattr(info, "pss", info.uss)
            self.peak = max(self.peak, total)

    def stop(self) -> None:
        self._done.set()
        self.join()


def processor() -> str:
    with contextlib.suppress(OSError, IndexError):
        return Path("/proc/cpuinfo").read_text().split("model name\t: ")[1].split("\n")[0]
    return platform.processor() or platform.machine()


def machine() -> str:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    found = f"{cores} cores, {processor()}"
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        words = ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]
        gpu = subprocess.run(words, capture_output=True, text=True, timeout=20, check=True).stdout.splitlines()
        found += f", {len(gpu)} × {gpu[0]}" if gpu else ""
    return f"{found}, {platform.system()}"
