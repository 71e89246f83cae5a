"""The batch scripts on a real Slurm cluster of two nodes, each with its own host name, address and /dev/shm."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

HOME = Path(__file__).resolve().parents[2]
CLUSTER = Path(__file__).with_name("cluster.sh")
STATE = "/var/tmp/narae-slurm"
SETTINGS = {"SLURMLAB_DIR": STATE, "SLURMLAB_NAME": "narae", "SLURM_CONF": f"{STATE}/etc/slurm.conf"}


@pytest.fixture(scope="module", autouse=True)
def cluster() -> Iterator[None]:
    environment = os.environ | SETTINGS
    subprocess.run(["bash", str(CLUSTER), "up", "2"], env=environment, check=True)
    yield
    subprocess.run(["bash", str(CLUSTER), "down", "--purge"], env=environment, check=True)


@pytest.fixture
def shell(tmp_path: Path, artifacts: Path) -> dict[str, str]:
    """What a user's shell on the login node holds."""
    # The nodes have the cores of one machine: a thread for each rank
    words = {"NARAE_ARTIFACTS": str(artifacts), "NARAE_PYTHON": sys.executable, "OMP_NUM_THREADS": "1"}
    return os.environ | SETTINGS | words | {"SBATCH_OUTPUT": f"{tmp_path}/%x.out"}


def call(shell: dict[str, str], *words: str) -> str:
    done = subprocess.run(words, cwd=HOME, env=shell, capture_output=True, text=True)
    assert done.returncode == 0, f"{words}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def wait(shell: dict[str, str], jobs: list[str], seconds: float = 400) -> None:
    deadline = time.monotonic() + seconds
    while set(call(shell, "squeue", "--noheader", "--format=%i").split()) & set(jobs):
        assert time.monotonic() < deadline, call(shell, "squeue", "--long")
        time.sleep(1)


def logs(tmp_path: Path) -> str:
    return "\n".join(f"== {file.name}\n{file.read_text()}" for file in sorted(tmp_path.glob("narae-*.out")))


def test_the_pipeline_trains_over_two_nodes(shell: dict[str, str], tmp_path: Path, artifacts: Path) -> None:
    small = ("--megabytes", "0.5", "--chat_examples", "64")
    call(shell, sys.executable, "corpus/sample.py", *small)
    config = tmp_path / "short.yaml"
    config.write_text("packed: sample\nsize: tiny\nbatch_rows: 8\nmax_steps: 6\nlogging_steps: 1\nsave_steps: 3\n")
    more = {"CONFIG": str(config), "PRETRAIN": "--nodes=2"}
    stages = dict(line.split() for line in call(shell | more, "bash", "slurm/pipeline.sh").splitlines()[:-1])
    assert list(stages) == ["corpus", "tokenizer", "pack", "pretrain", "finetune"]
    shown = call(shell, "scontrol", "show", "job", stages["finetune"])
    assert f"Dependency=afterok:{stages['pretrain']}" in shown
    wait(shell, list(stages.values()))
    for model in ("sample", "sample-chat"):
        assert (artifacts / "runs" / model / "final" / "manifest.json").is_file(), logs(tmp_path)
    records = [json.loads(line) for line in (artifacts / "runs/sample/metrics.jsonl").read_text().splitlines()]
    assert next(record for record in records if record["kind"] == "start")["world"] == 2
    losses = [record["loss"] for record in records if record["kind"] == "train"]
    assert len(losses) == 6 and losses[-1] < losses[0]
    job = call(shell, "scontrol", "show", "job", stages["pretrain"])
    assert "NumNodes=2" in job and "JobState=COMPLETED" in job


def test_what_waits_for_a_failed_stage_is_cancelled(shell: dict[str, str], tmp_path: Path, artifacts: Path) -> None:
    shown = call(shell, "bash", "slurm/pipeline.sh", "mine", str(tmp_path / "nowhere"))
    stages = dict(line.split() for line in shown.splitlines()[:-1])
    assert list(stages) == ["corpus", "tokenizer", "pack", "pretrain"]
    wait(shell, list(stages.values()), seconds=120)
    assert "nowhere" in (tmp_path / "narae-corpus.out").read_text()
    assert not list(artifacts.glob("*/mine/manifest.json"))


def test_a_job_without_its_artifact_names_the_command(shell: dict[str, str], tmp_path: Path) -> None:
    job = call(shell, "sbatch", "--parsable", "slurm/pretrain.sh").strip()
    wait(shell, [job], seconds=120)
    assert "`python pretrain/pack.py` makes it" in (tmp_path / "narae-pretrain.out").read_text()
