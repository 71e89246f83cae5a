"""What a node lets a process have, as plain data: disk, shared memory, memory, cores, files. For pretrain/probes.py."""

import contextlib
import errno
import fcntl
import os
import re
import resource
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from narae.artifact import root

Facts = dict[str, Any]

ASK = 15.0  # seconds for a tool of the system
WRITTEN = 64 * 2**20  # bytes of the write test, less where little is free
UNLIMITED = 2**60  # cgroup v1 says "no limit" with a number near 2**63


def storage(folder: Path | None = None) -> Facts:
    wanted = folder or root()
    there = next(one for one in (wanted, *wanted.parents) if one.is_dir())
    space = os.statvfs(there)
    facts: Facts = {
        "folder": str(wanted),
        "free": space.f_bavail * space.f_frsize,
        "inodes": space.f_favail if space.f_files else None,  # some file systems have no table of them
        "quota": [],
        **mount_of(there),
    }
    if shutil.which("quota"):
        with contextlib.suppress(subprocess.SubprocessError, OSError):
            # exit code 1 means: over a limit
            said = subprocess.run(["quota", "-w", "-p"], capture_output=True, text=True, timeout=ASK).stdout
            facts["quota"] = quotas(said, facts["source"])
    return facts | write_test(there, facts["free"])


def mount_of(folder: Path) -> Facts:
    path, best = os.path.realpath(folder), ("", "?", "?")
    for line in Path("/proc/self/mountinfo").read_text(encoding="utf-8").splitlines():
        before, _, after = line.partition(" - ")
        point = re.sub(r"\\(\d{3})", lambda code: chr(int(code[1], 8)), before.split()[4])
        if len(point) >= len(best[0]) and (path == point or path.startswith(point.rstrip("/") + "/")):
            kind, source = after.split()[:2]
            best = (point, kind, source)
    return {"mount": best[0], "kind": best[1], "source": best[2]}


def quotas(said: str, source: str) -> list[Facts]:
    """`quota -w -p`: file system, 1 KB blocks, soft and hard limit, grace, the same for files; 0 is no limit."""
    found = []
    for line in said.splitlines():
        name, *numbers = line.replace("*", "").split()[:9] or [""]
        if name != source or len(numbers) < 7 or not all(one.isdigit() for one in numbers):
            continue
        used, soft, hard, _, files, files_soft, files_hard = map(int, numbers[:7])
        limit, files_limit = hard or soft, files_hard or files_soft
        left = {
            "bytes": (limit - used) * 1024 if limit else None,
            "files": files_limit - files if files_limit else None,
        }
        found.append(left)
    return found


def write_test(folder: Path, free: int) -> Facts:
    """MB/s to the disk itself, and whether flock keeps a second holder out. The file has no name: nothing can stay."""
    amount = min(WRITTEN, max(free // 20, 4096))
    block = os.urandom(min(4 * 2**20, amount))
    try:
        with tempfile.TemporaryFile(dir=folder, buffering=0) as file:
            began, written = time.perf_counter(), 0
            while written < amount and time.perf_counter() - began < 5:
                written += file.write(block)
            os.fsync(file.fileno())
            seconds = time.perf_counter() - began
            facts: Facts = {"mb_per_s": written / seconds / 1e6 if written >= 8 * 2**20 else None}
            return facts | {"lock": _lock(file.fileno())}
    except OSError as error:
        return {"refused": error.strerror or str(error), "full": error.errno in (errno.ENOSPC, errno.EDQUOT)}


def _lock(number: int) -> str | None:
    """Why flock does not work here, or None."""
    try:
        fcntl.flock(number, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        return error.strerror or str(error)
    with contextlib.suppress(OSError), open(f"/proc/self/fd/{number}", "rb") as again:  # noqa: PTH123
        try:
            fcntl.flock(again, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return None
        return "two holders"
    return None


def shm(folder: Path = Path("/dev/shm")) -> Facts:
    if not folder.is_dir():
        return {"folder": str(folder), "size": 0, "free": 0}
    space = os.statvfs(folder)
    return {"folder": str(folder), "size": space.f_blocks * space.f_frsize, "free": space.f_bavail * space.f_frsize}


def limits(proc: Path = Path("/proc"), cgroups: Path = Path("/sys/fs/cgroup")) -> Facts:
    """Memory in bytes, cores, open files and locked memory that this process may have."""
    memory = re.findall(r"^(MemTotal|MemAvailable):\s+(\d+) kB", (proc / "meminfo").read_text(), re.M)
    machine = {name: int(value) * 1024 for name, value in memory}
    groups = list(_groups((proc / "self/cgroup").read_text(), cgroups))
    bounds = [_number(folder / name) for folder in groups for name in ("memory.max", "memory.limit_in_bytes")]
    shares = [share for folder in groups if (share := _share(folder))]
    omp = os.environ.get("OMP_NUM_THREADS", "")
    return {
        "memory": machine["MemTotal"],
        "available": machine["MemAvailable"],
        "bound": min((one for one in bounds if one and one < min(UNLIMITED, machine["MemTotal"])), default=None),
        "machine_cores": os.cpu_count(),
        "cores": len(os.sched_getaffinity(0)),
        "share": min(shares, default=None),
        "omp": int(omp) if omp.isdigit() else None,
        "ranks": int(os.environ.get("LOCAL_WORLD_SIZE") or _tasks() or 1),
        "files": resource.getrlimit(resource.RLIMIT_NOFILE)[0],
        "locked": resource.getrlimit(resource.RLIMIT_MEMLOCK)[0],
        "infiniband": any(Path("/sys/class/infiniband").glob("*")),
    }


def _tasks() -> int:
    """Processes of this srun step on this node: SLURM_STEP_TASKS_PER_NODE is `2(x3),1`, by node."""
    each = [
        int(count)
        for count, times in re.findall(r"(\d+)(?:\(x(\d+)\))?", os.environ.get("SLURM_STEP_TASKS_PER_NODE", ""))
        for _ in range(int(times or 1))
    ]
    number = int(os.environ.get("SLURM_NODEID", "0"))
    return each[number] if number < len(each) else 0


def _groups(said: str, cgroups: Path) -> Iterator[Path]:
    """The folders of this process's cgroups and of all above them: each may bind."""
    for line in said.splitlines():
        _, names, path = line.split(":", 2)
        top = cgroups / names if names else cgroups / "unified" if (cgroups / "unified").is_dir() else cgroups
        inside = top / path.lstrip("/").replace("../", "")
        yield from (one for one in (inside, *inside.parents) if one == top or top in one.parents)


def _number(file: Path) -> int | None:
    with contextlib.suppress(OSError, ValueError):
        return int(file.read_text())
    return None


def _share(folder: Path) -> float | None:
    """Cores' worth of time: v2 has quota and period in one file, v1 in two; -1 or max is no limit."""
    with contextlib.suppress(OSError, ValueError):
        quota, period = (folder / "cpu.max").read_text().split()
        return int(quota) / int(period)
    quota_us, period_us = _number(folder / "cpu.cfs_quota_us"), _number(folder / "cpu.cfs_period_us")
    return quota_us / period_us if quota_us and period_us and quota_us > 0 else None
