"""A user's shell on the login node of the cluster."""

import os
import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

HOME = Path(__file__).resolve().parents[2]
CLUSTER = Path(__file__).with_name("cluster.sh")
STATE = "/var/tmp/narae-slurm"
SCRATCH = Path("/var/tmp/narae-scratch")  # another file system, which all nodes see
# Jobs in `urgent` push those in `low` back into the queue, 20 s after a SIGTERM
PARTITIONS = """PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
PartitionName=low Nodes=ALL PriorityTier=1 GraceTime=20
PartitionName=urgent Nodes=ALL PriorityTier=9 PreemptMode=OFF"""
SETTINGS = {
    "SLURMLAB_DIR": STATE,
    "SLURMLAB_NAME": "narae",
    "SLURMLAB_GPUS": "2",
    "SLURMLAB_CONF_EXTRA": PARTITIONS,
    "SLURM_CONF": f"{STATE}/etc/slurm.conf",
}


def login(artifacts: Path, logs: Path) -> dict[str, str]:
    """What a user's shell on the login node holds."""
    # The nodes have the cores of one machine: a thread for each rank
    words = {"NARAE_ARTIFACTS": str(artifacts), "NARAE_PYTHON": sys.executable, "OMP_NUM_THREADS": "1"}
    return os.environ | SETTINGS | words | {"SBATCH_OUTPUT": f"{logs}/%x.out"}


def call(shell: dict[str, str], *words: str, code: int = 0) -> str:
    done = subprocess.run(words, cwd=HOME, env=shell, capture_output=True, text=True)
    assert done.returncode == code, f"{words}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def cluster(shell: dict[str, str], *words: str) -> None:
    subprocess.run(["bash", str(CLUSTER), *words], env=shell, check=True)


def sbatch(shell: dict[str, str], *words: str) -> str:
    return call(shell, "sbatch", "--parsable", *words).strip()


def wait(shell: dict[str, str], jobs: list[str], seconds: float = 400) -> None:
    deadline = time.monotonic() + seconds
    while set(call(shell, "squeue", "--noheader", "--format=%F").split()) & set(jobs):
        assert time.monotonic() < deadline, call(shell, "squeue", "--long")
        time.sleep(1)


def until(found: Callable[[], object], what: Callable[[], str], seconds: float = 240) -> None:
    deadline = time.monotonic() + seconds
    while not found():
        assert time.monotonic() < deadline, what()
        time.sleep(0.05)


def field(shell: dict[str, str], job: str, name: str) -> str:
    """What Slurm knows of a job, as in JobState=COMPLETED."""
    found = re.search(rf"\b{name}=(\S*)", call(shell, "scontrol", "show", "job", job))
    assert found, name
    return found[1]
