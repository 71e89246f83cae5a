"""These tests start a cluster, so they run where they are asked for: make test-slurm."""

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from jobs import CLUSTER, SCRATCH, SETTINGS, login

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


@pytest.fixture
def shell(tmp_path: Path, artifacts: Path) -> dict[str, str]:
    return login(artifacts, tmp_path)
