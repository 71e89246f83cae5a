"""These tests start a cluster, so they run where they are asked for: make test-slurm."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from jobs import CLUSTER, SCRATCH, SETTINGS

collect_ignore_glob = [] if os.environ.get("NARAE_TEST_SLURM") else ["test_*.py"]


@pytest.fixture(scope="session", autouse=True)
def cluster() -> Iterator[None]:
    environment = os.environ | SETTINGS
    SCRATCH.mkdir(exist_ok=True)
    # before the nodes start: each has its own view of what is mounted
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", str(SCRATCH)], check=True)
    subprocess.run(["bash", str(CLUSTER), "up", "2"], env=environment, check=True)
    yield
    subprocess.run(["bash", str(CLUSTER), "down", "--purge"], env=environment, check=True)
    subprocess.run(["umount", str(SCRATCH)], check=True)
    SCRATCH.rmdir()


def login(artifacts: Path, logs: Path) -> dict[str, str]:
    """What a user's shell on the login node holds."""
    # The nodes have the cores of one machine: a thread for each rank
    words = {"NARAE_ARTIFACTS": str(artifacts), "NARAE_PYTHON": sys.executable, "OMP_NUM_THREADS": "1"}
    return os.environ | SETTINGS | words | {"SBATCH_OUTPUT": f"{logs}/%x.out"}


@pytest.fixture
def shell(tmp_path: Path, artifacts: Path) -> dict[str, str]:
    return login(artifacts, tmp_path)
