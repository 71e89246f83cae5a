"""A user's shell on the login node of the cluster."""

import subprocess
import time
from pathlib import Path

HOME = Path(__file__).resolve().parents[2]
CLUSTER = Path(__file__).with_name("cluster.sh")
STATE = "/var/tmp/narae-slurm"
SETTINGS = {"SLURMLAB_DIR": STATE, "SLURMLAB_NAME": "narae", "SLURM_CONF": f"{STATE}/etc/slurm.conf"}


def call(shell: dict[str, str], *words: str) -> str:
    done = subprocess.run(words, cwd=HOME, env=shell, capture_output=True, text=True)
    assert done.returncode == 0, f"{words}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def wait(shell: dict[str, str], jobs: list[str], seconds: float = 400) -> None:
    deadline = time.monotonic() + seconds
    while set(call(shell, "squeue", "--noheader", "--format=%F").split()) & set(jobs):
        assert time.monotonic() < deadline, call(shell, "squeue", "--long")
        time.sleep(1)
