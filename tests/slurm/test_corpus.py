"""A corpus by arrays of jobs on two nodes: the same bytes as on one machine, whatever is killed on the way."""

import hashlib
import json
import subprocess
import sys
import time
from pathlib import Path

import pytest
from jobs import CLUSTER, HOME, call, wait

ARGUMENTS = ("--shard_megabytes", "1")


@pytest.fixture
def world(shell: dict[str, str], artifacts: Path) -> dict[str, str]:
    """The sample of 12 MB, and what one machine makes of it."""
    call(shell, sys.executable, "corpus/sample.py", "--megabytes", "12", "--chat_examples", "64")
    call(shell, sys.executable, "corpus/collect.py", "--name", "here", "--workers", "2", *ARGUMENTS)
    return hashes(artifacts / "corpus" / "here")


def hashes(folder: Path) -> dict[str, str]:
    assert (folder / "manifest.json").is_file(), sorted(folder.parent.rglob("*.out"))
    files = sorted(path for path in folder.iterdir() if path.name not in ("manifest.json", "corpus.html"))
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def cluster(shell: dict[str, str], *words: str) -> None:
    subprocess.run(["bash", str(CLUSTER), *words], env=shell, check=True)


def submit(shell: dict[str, str]) -> str:
    return call(shell, "bash", "slurm/corpus.sh", "--name", "there", "--jobs", "2", *ARGUMENTS).strip()


def done(artifacts: Path) -> list[str]:
    return sorted(path.name for path in (artifacts / "corpus/.work-there/stages/clean/completions").glob("*"))


def wait_for_some(artifacts: Path, pieces: int) -> None:
    deadline = time.monotonic() + 120
    while len(done(artifacts)) < pieces:
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_a_node_is_killed_midway(shell: dict[str, str], artifacts: Path, world: dict[str, str]) -> None:
    last = submit(shell)
    wait_for_some(artifacts, 2)
    cluster(shell, "kill-node", "2", "--wait")
    wait(shell, [last])
    cluster(shell, "revive-node", "2")
    assert hashes(artifacts / "corpus" / "there") == world
    here, there = (
        json.loads((artifacts / "corpus" / name / "manifest.json").read_text()) for name in ("here", "there")
    )
    assert here["counts"] == there["counts"]
    assert not (artifacts / "corpus/.work-there").exists()


def test_jobs_are_cancelled_and_the_same_command_goes_on(
    shell: dict[str, str], artifacts: Path, world: dict[str, str]
) -> None:
    submit(shell)
    wait_for_some(artifacts, 2)
    # While its jobs are there, nobody else writes in the same folder.
    again = subprocess.run(
        ["bash", "slurm/corpus.sh", "--name", "there", *ARGUMENTS], cwd=HOME, env=shell, capture_output=True, text=True
    )
    assert again.returncode == 1 and "are at work on corpus 'there'" in again.stderr
    call(shell, "bash", "-c", "scancel $(squeue -h -o %A | sort -u)")
    time.sleep(2)
    before = done(artifacts)
    last = submit(shell)
    wait(shell, [last])
    assert len(before) >= 2
    assert hashes(artifacts / "corpus" / "there") == world
