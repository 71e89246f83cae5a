"""A corpus packed by an array of jobs on two nodes: the same bytes as one worker's, whatever is killed on the way."""

import json
import subprocess
import sys
import time
from pathlib import Path

import helpers
import pytest
from jobs import CLUSTER, HOME, call, wait

PACKINGS = ("stream", "best_fit")


@pytest.fixture
def world(shell: dict[str, str]) -> None:
    """Some 900 parts, and what one worker makes of them."""
    texts = [" ".join(helpers.SENTENCES[number % 300 :][:40]) for number in range(1200)]
    helpers.corpus(texts, ["끝"], shard_bytes=4_000)
    call(shell, sys.executable, "tokenizer/train.py", "--vocab_size", "384")
    for packing in PACKINGS:
        pack = ("pretrain/pack.py", "--name", f"here-{packing}", "--packing", packing, "--workers", "1")
        call(shell, sys.executable, *pack)


def manifest(artifacts: Path, name: str) -> dict[str, object]:
    file = artifacts / "packed" / name / "manifest.json"
    assert file.is_file(), [log.read_text() for log in (artifacts / "packed").rglob("*.out")]
    found = json.loads(file.read_text())
    return {key: found[key] for key in ("files", "counts", "parents")}


def submit(shell: dict[str, str], packing: str) -> str:
    words = ("--name", f"there-{packing}", "--packing", packing, "--jobs", "2")
    return call(shell, "bash", "slurm/pack.sh", *words).strip()


@pytest.mark.usefixtures("world")
def test_arrays_give_the_same_bytes_as_one_worker(shell: dict[str, str], artifacts: Path) -> None:
    wait(shell, [submit(shell, packing) for packing in PACKINGS])
    for packing in PACKINGS:
        assert manifest(artifacts, f"there-{packing}") == manifest(artifacts, f"here-{packing}")
        assert not (artifacts / f"packed/.work-there-{packing}").exists()
    assert submit(shell, "stream") == ""  # nothing to do


@pytest.mark.usefixtures("world")
def test_a_node_is_killed_midway_and_jobs_are_cancelled(shell: dict[str, str], artifacts: Path) -> None:
    submit(shell, "stream")
    marks = artifacts / "packed/.work-there-stream/stages/pack/completions"
    deadline = time.monotonic() + 120
    while not any(marks.glob("*")):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    again = ["bash", "slurm/pack.sh", "--name", "there-stream"]
    beside = subprocess.run(again, cwd=HOME, env=shell, capture_output=True, text=True)
    assert beside.returncode == 1 and "are at work on packed 'there-stream'" in beside.stderr
    call(shell, "bash", "-c", "scancel $(squeue -h -o %A | sort -u)")
    time.sleep(2)
    last = submit(shell, "stream")
    subprocess.run(["bash", str(CLUSTER), "kill-node", "2", "--wait"], env=shell, check=True)
    wait(shell, [last])
    subprocess.run(["bash", str(CLUSTER), "revive-node", "2"], env=shell, check=True)
    assert manifest(artifacts, "there-stream") == manifest(artifacts, "here-stream")


def test_what_is_not_there_is_said_before_a_job_is_submitted(shell: dict[str, str]) -> None:
    done = subprocess.run(["bash", "slurm/pack.sh"], cwd=HOME, env=shell, capture_output=True, text=True)
    assert done.returncode == 1 and "`python corpus/collect.py` makes it" in done.stderr
    assert not call(shell, "squeue", "--noheader")
