"""A measurement as a process: its limit, its end with all that it started, what it said, and why it came to nothing."""

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil

from bench.gpu_plan import ABSENT, Measurement
from narae.config import HOME

# An exception's line, of a rank or of the program; else what a command of ours says as it ends
TELLING = r"^(\[rank\d+\]: *)?([\w.]*(Error|Exception)\b.*|.*out of memory.*)$", r"^\w+/\w+: .*$"
LINES = 2000  # of a log's end; a compiler says much


def measure(one: Measurement, logs: Path, environment: dict[str, str], limit: float) -> dict[str, Any]:
    """Run a program to its end or its limit. What it said before a crash counts, too."""
    began = time.monotonic()
    stem = re.sub(r"[^\w.=-]", "-", one.name)
    log, said = logs / f"{stem}.log", logs / f"{stem}.out"
    with log.open("w") as errors, said.open("w") as lines:
        process = subprocess.Popen(
            [sys.executable, *one.program],
            cwd=HOME,
            env=os.environ | environment,
            stdout=lines,
            stderr=errors,
            start_new_session=True,
        )
        try:
            code: int | None = process.wait(timeout=limit)
        except subprocess.TimeoutExpired:
            code = None
        finally:
            end(process)
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, signal.SIGKILL)  # what its launcher left behind
    found: dict[str, Any] = {"status": "measured", "seconds": round(time.monotonic() - began, 1)}
    if code:
        found |= {"status": "absent" if code == ABSENT else "failed", "reason": reason(log, code)}
    elif code is None:
        found |= {"status": "failed", "reason": f"did not end within {limit:.0f} s; {reason(log, 0)}"}
    for line in said.read_text(encoding="utf-8", errors="replace").splitlines():
        with contextlib.suppress(ValueError):
            figures = json.loads(line)
            found |= figures if isinstance(figures, dict) else {}
    return found


def end(process: subprocess.Popen[bytes]) -> None:
    """It and what it started."""
    with contextlib.suppress(psutil.NoSuchProcess):
        for child in psutil.Process(process.pid).children(recursive=True):
            with contextlib.suppress(psutil.NoSuchProcess):
                child.kill()
    process.kill()
    process.wait()


def reason(log: Path, code: int) -> str:
    """The line that says most, of the last ones in the log."""
    text = log.read_text(encoding="utf-8", errors="replace")
    lines = [line.strip() for line in text.splitlines() if line.strip()][-LINES:]
    found = next((hits for words in TELLING if (hits := [line for line in lines if re.match(words, line)])), lines)
    line = re.sub(r"^\[rank\d+\]: *", "", found[-1])[:300] if found else "it said nothing"
    return f"{signal.Signals(-code).name}: {line}" if code < 0 else line
