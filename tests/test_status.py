"""How slurm/status.sh judges a chain, where a few lines of shell answer for Slurm."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from helpers import HOME

STAGES = "corpus", "tokenizer", "pack", "pretrain"


def status(folder: Path, states: list[str], accounting: str = "") -> tuple[int, list[str]]:
    """The stages are jobs 1, 2 …; accounting answers alike for all."""
    answers = {
        "scontrol": f'sed -n "$3s|.*|JobState=& StdErr={folder}/log|p" {folder}/states',
        "sacct": accounting or "exit 1",
    }
    for name, lines in answers.items():
        file = folder / name
        file.write_text(f'#!/usr/bin/env bash\n[ "$2" != config ] || exit 0\n{lines}\n')
        file.chmod(0o755)
    (folder / "states").write_text("".join(f"{state}\n" for state in states))
    (folder / "log").write_text("its last line\n")
    chain = [f"{name} {job} {folder}/log\n" for job, name in enumerate(STAGES, start=1)]
    (folder / ".chain").write_text("".join(chain))
    words = {"NARAE_ARTIFACTS": str(folder), "NARAE_PYTHON": sys.executable, "PATH": f"{folder}:{os.environ['PATH']}"}
    done = subprocess.run(
        ["bash", "slurm/status.sh", "--wait"], cwd=HOME, env=os.environ | words, capture_output=True, text=True
    )
    assert not done.stderr
    return done.returncode, [line for line in done.stdout.splitlines() if line]


def test_a_chain_that_came_to_its_end(tmp_path: Path) -> None:
    code, said = status(tmp_path, ["COMPLETED"] * 4)
    assert code == 0 and [line.split()[2] for line in said] == ["COMPLETED"] * 4


@pytest.mark.parametrize(
    ("accounting", "by"),
    [("", ""), ("echo 'CANCELLED by 0'", " by root"), ("echo 'CANCELLED by 987654'", " by user 987654")],
    ids=["no accounting", "a user", "a user without a name here"],
)
def test_a_cancelled_stage_is_no_success(tmp_path: Path, accounting: str, by: str) -> None:
    code, said = status(tmp_path, ["COMPLETED", "COMPLETED", "CANCELLED", "CANCELLED"], accounting)
    assert code == 1 and len(said) == 5
    assert said[-1].startswith(f"pack was cancelled{by} (job 3), and what waits for it does not start.")


def test_a_failed_stage_is_the_reason_for_what_was_cancelled(tmp_path: Path) -> None:
    code, said = status(tmp_path, ["COMPLETED", "FAILED", "CANCELLED", "CANCELLED"])
    assert code == 1 and said[-2].startswith("tokenizer failed (FAILED, job 2)") and said[-1] == "its last line"
