"""The batch scripts on a real Slurm cluster of two nodes, each with its own host name, address and /dev/shm."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from jobs import HOME, call, field, sbatch, until, wait
from runs import losses


def logs(tmp_path: Path) -> str:
    return "\n".join(f"== {file.name}\n{file.read_text()}" for file in sorted(tmp_path.glob("narae-*.out")))


def test_the_pipeline_trains_over_two_nodes(shell: dict[str, str], tmp_path: Path, artifacts: Path) -> None:
    small = ("--megabytes", "0.5", "--chat_examples", "64")
    call(shell, sys.executable, "corpus/sample.py", *small)
    config = tmp_path / "short.yaml"
    config.write_text("packed: sample\nsize: tiny\nbatch_rows: 8\nmax_steps: 12\nlogging_steps: 1\nsave_steps: 6\n")
    more = {"CONFIG": str(config), "PRETRAIN": "--nodes=2"}
    stages = dict(line.split() for line in call(shell | more, "bash", "slurm/pipeline.sh").splitlines()[:-1])
    assert list(stages) == ["corpus", "tokenizer", "pack", "pretrain", "finetune"]
    shown = call(shell, "scontrol", "show", "job", stages["finetune"])
    assert f"Dependency=afterok:{stages['pretrain']}" in shown
    # Pushed back once: what waits goes on waiting
    until(lambda: losses("sample"), lambda: logs(tmp_path))
    call(shell, "scancel", "--batch", "--signal=USR1", stages["pretrain"])
    until(lambda: field(shell, stages["pretrain"], "Restarts") == "1", lambda: logs(tmp_path))
    assert field(shell, stages["finetune"], "JobState") == "PENDING"
    assert "pretrain" in call(shell, "bash", "slurm/status.sh")
    followed = call(shell | {"EVERY": "2"}, "bash", "slurm/status.sh", "--wait").splitlines()
    ended = {line.split()[0]: line.split()[2] for line in followed if line}  # the last look of several
    assert ended == dict.fromkeys(stages, "COMPLETED")
    assert not call(shell, "squeue", "--noheader")
    for model in ("sample", "sample-chat"):
        assert (artifacts / "runs" / model / "final" / "manifest.json").is_file(), logs(tmp_path)
    records = [json.loads(line) for line in (artifacts / "runs/sample/metrics.jsonl").read_text().splitlines()]
    assert next(record for record in records if record["kind"] == "start")["world"] == 2
    found = [record["loss"] for record in records if record["kind"] == "train"]
    assert len(found) == 12 and found[-1] < found[0]
    job = call(shell, "scontrol", "show", "job", stages["pretrain"])
    assert "NumNodes=2" in job and "JobState=COMPLETED" in job


def test_what_waits_for_a_failed_stage_is_cancelled(shell: dict[str, str], tmp_path: Path, artifacts: Path) -> None:
    (tmp_path / "junk.txt").write_text("1쪽\n\n2쪽\n")
    shown = call(shell, "bash", "slurm/pipeline.sh", "mine", str(tmp_path / "junk.txt"))
    stages = dict(line.split() for line in shown.splitlines()[:-1])
    assert list(stages) == ["corpus", "tokenizer", "pack", "pretrain"]
    wait(shell, list(stages.values()), seconds=120)
    [told] = (artifacts / "corpus/.work-mine/stages/publish/slurm_logs").iterdir()
    assert "nothing is left to train on: 2 documents read, rejected: too short 2" in told.read_text()
    assert not list(artifacts.glob("*/mine/manifest.json"))
    assert not call(shell, "squeue", "--noheader")
    said = call(shell, "bash", "slurm/status.sh", "--wait", code=1)
    assert "nothing is left to train on" in said and "corpus failed (FAILED, job " in said
    assert [line.split()[2] for line in said.splitlines() if line.startswith("pretrain ")] == ["CANCELLED"]


def test_a_job_that_slurm_has_forgotten(shell: dict[str, str], tmp_path: Path, artifacts: Path) -> None:
    (tmp_path / "old.out").write_text("one\nand another\n")
    artifacts.mkdir()
    (artifacts / ".chain").write_text(f"pretrain 99999 {tmp_path}/old.out\n")
    assert call(shell, "bash", "slurm/status.sh", "--wait").split() == "pretrain 99999 unknown and another".split()


def test_a_later_stage_fails_and_says_why(shell: dict[str, str], tmp_path: Path) -> None:
    call(shell, sys.executable, "corpus/sample.py", "--megabytes", "0.2", "--chat_examples", "64")
    config = tmp_path / "wrong.yaml"
    config.write_text("packed: sample\nsize: huge\n")
    shown = call(shell | {"CONFIG": str(config)}, "bash", "slurm/pipeline.sh")
    said = call(shell | {"EVERY": "1"}, "bash", "slurm/status.sh", "--wait", code=1)
    assert "pretrain failed (FAILED" in said and "huge" in said.split("pretrain failed")[1], shown + said
    assert not call(shell, "squeue", "--noheader")


def test_what_is_not_there_is_said_before_a_job_is_submitted(shell: dict[str, str], tmp_path: Path) -> None:
    words = ["bash", "slurm/pipeline.sh", "mine", str(tmp_path / "nowhere")]
    done = subprocess.run(words, cwd=HOME, env=shell, capture_output=True, text=True)
    assert done.returncode == 1 and "nowhere: no such file or folder" in done.stderr
    assert not call(shell, "squeue", "--noheader")


def test_a_job_without_its_artifact_names_the_command(shell: dict[str, str], tmp_path: Path) -> None:
    job = call(shell, "sbatch", "--parsable", "slurm/pretrain.sh").strip()
    wait(shell, [job], seconds=120)
    assert "`python pretrain/pack.py` makes it" in (tmp_path / "narae-pretrain.out").read_text()


@pytest.mark.skipif(not os.environ.get("NARAE_TEST_FULL"), reason="the whole demo: six minutes on two cores")
def test_the_demo_is_a_job(shell: dict[str, str], tmp_path: Path, artifacts: Path) -> None:
    job = sbatch(shell, "--cpus-per-task=2", "slurm/demo.sh")
    wait(shell, [job], seconds=2400)
    assert field(shell, job, "JobState") == "COMPLETED", logs(tmp_path)
    assert (artifacts / "runs/sample-chat/final/manifest.json").is_file() and (artifacts / "report.html").is_file()
    assert "Questions that were never trained on" in logs(tmp_path)
