"""The batch scripts on a real Slurm cluster of two nodes, each with its own host name, address and /dev/shm."""

import json
import subprocess
import sys
from pathlib import Path

from jobs import HOME, call, wait


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
    (tmp_path / "junk.txt").write_text("1쪽\n\n2쪽\n")
    shown = call(shell, "bash", "slurm/pipeline.sh", "mine", str(tmp_path / "junk.txt"))
    stages = dict(line.split() for line in shown.splitlines()[:-1])
    assert list(stages) == ["corpus", "tokenizer", "pack", "pretrain"]
    wait(shell, list(stages.values()), seconds=120)
    [told] = (artifacts / "corpus/.work-mine/stages/publish/slurm_logs").iterdir()
    assert "nothing is left to train on: 2 documents read, rejected: too short 2" in told.read_text()
    assert not list(artifacts.glob("*/mine/manifest.json"))


def test_what_is_not_there_is_said_before_a_job_is_submitted(shell: dict[str, str], tmp_path: Path) -> None:
    words = ["bash", "slurm/pipeline.sh", "mine", str(tmp_path / "nowhere")]
    done = subprocess.run(words, cwd=HOME, env=shell, capture_output=True, text=True)
    assert done.returncode == 1 and "nowhere: no such file or folder" in done.stderr
    assert not call(shell, "squeue", "--noheader")


def test_a_job_without_its_artifact_names_the_command(shell: dict[str, str], tmp_path: Path) -> None:
    job = call(shell, "sbatch", "--parsable", "slurm/pretrain.sh").strip()
    wait(shell, [job], seconds=120)
    assert "`python pretrain/pack.py` makes it" in (tmp_path / "narae-pretrain.out").read_text()
