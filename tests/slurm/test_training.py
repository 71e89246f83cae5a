"""Real training by the unmodified slurm/pretrain.sh: as it should be, and as if nothing had happened."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import oracle
import pytest
import torch
from jobs import call, cluster, field, login, sbatch, until, wait
from runs import PHI, losses, run_folder, same, small_world, weights

from narae.log import read_metrics

FOUR, TWO = ("--nodes=2", "--ntasks-per-node=2"), ("--nodes=2", "--ntasks-per-node=1")
COURSE = "--batch_rows 8 --warmup_steps 10 --learning_rate 0.002 --eval_strategy no --logging_steps 1 --no_bf16"
# Long enough to be met on its way
LONG = "--max_steps 300 --save_steps 20 --save_total_limit 2"

MOMENTS = ["mid-step", "mid-save"]
if os.environ.get("NARAE_TEST_FULL"):
    MOMENTS += ["the script's own node"]


@dataclass
class World:
    shell: dict[str, str]
    folder: Path

    def sbatch(self, name: str, words: str, *flags: str) -> str:
        shape = str(self.folder / "phi.json")
        script = ["slurm/pretrain.sh", "--name", name, "--model_config", shape, *COURSE.split(), *words.split()]
        return sbatch(self.shell, f"--output={self.folder}/{name}.out", *flags, *script)

    def log(self, name: str) -> str:
        file = self.folder / f"{name}.out"
        return file.read_text() if file.is_file() else ""

    def reaches(self, name: str, step: int) -> None:
        """Waits until the run has done this step."""
        until(lambda: max(losses(name), default=0) >= step, lambda: self.log(name), seconds=400)

    def ends(self, name: str, job: str) -> None:
        wait(self.shell, [job], seconds=600)
        assert field(self.shell, job, "JobState") == "COMPLETED", self.log(name)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with small_world(tmp_path_factory.mktemp("training")) as folder:
        yield World(login(folder / "artifacts", folder), folder)


@pytest.fixture(scope="module")
def undisturbed(world: World) -> dict[str, torch.Tensor]:
    world.ends("undisturbed", world.sbatch("undisturbed", LONG, *TWO))
    return weights("undisturbed")


def test_four_ranks_on_two_nodes_follow_the_plain_loop(world: World) -> None:
    """As tests/pretrain/test_oracle.py says of one machine, and within the same bounds."""
    job = world.sbatch("four", "--max_steps 50 --per_device_train_batch_size 2 --save_strategy no", *FOUR)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    expected = oracle.steps(PHI)
    torch.set_num_threads(threads)
    world.ends("four", job)
    records = [one for one in read_metrics(run_folder("four") / "metrics.jsonl") if one["kind"] == "train"]
    assert [one["loss"] for one in records] == pytest.approx([one.loss for one in expected], rel=1e-5)
    assert [one["grad_norm"] for one in records] == pytest.approx([one.grad_norm for one in expected], rel=5e-4)
    starts = [one for one in read_metrics(run_folder("four") / "metrics.jsonl") if one["kind"] == "start"]
    assert [one["world"] for one in starts] == [4]


def test_pushed_back_again_and_again(world: World, undisturbed: dict[str, torch.Tensor]) -> None:
    """By the signal of a time limit, by SIGTERM to the script, and by work that is more urgent."""
    job = world.sbatch("pushed", LONG, "-p", "low", *TWO)
    for step, push in enumerate(("USR1", "TERM", "urgent"), start=1):
        world.reaches("pushed", 40 * step)
        if push == "urgent":
            sbatch(world.shell, "-p", push, "--nodes=2", "--exclusive", "--output=/dev/null", "--wrap", "true")
        else:
            call(world.shell, "scancel", "--batch", f"--signal={push}", job)
        until(lambda step=step: field(world.shell, job, "Restarts") == str(step), lambda: world.log("pushed"))
    world.ends("pushed", job)
    assert same(weights("pushed"), undisturbed)
    assert losses("pushed") == losses("undisturbed")
    log = world.log("pushed")
    assert log.count("goes back into the queue") == 3 and log.count("goes on from checkpoint-") == 3, log


@pytest.mark.parametrize("moment", MOMENTS)
def test_a_node_is_killed(moment: str, world: World, undisturbed: dict[str, torch.Tensor]) -> None:
    name = moment.replace(" ", "-").replace("'", "")
    job = world.sbatch(name, LONG, *TWO)
    world.reaches(name, 30)
    if moment == "mid-save":
        until(lambda: list(run_folder(name).glob(".staging/*/*")), lambda: world.log(name))
    # with --crash peers hear of it at once, else never
    crash = ["--crash"] if moment == "mid-step" else []
    node = "1" if moment.startswith("the") else "2"
    cluster(world.shell, "kill-node", node, *crash)
    until(lambda: field(world.shell, job, "JobState") == "PENDING", lambda: world.log(name))
    cluster(world.shell, "revive-node", node)
    world.ends(name, job)
    assert field(world.shell, job, "Restarts") == "1"
    assert same(weights(name), undisturbed)
    starts = [one["step"] for one in read_metrics(run_folder(name) / "metrics.jsonl") if one["kind"] == "start"]
    assert starts[0] == 0 and starts[-1] >= 20, world.log(name)


@pytest.mark.usefixtures("undisturbed")
def test_on_the_node_that_is_left(world: World) -> None:
    """Four ranks, then two: the same rows in the same order, and nothing is typed. The script's own node has died."""
    job = world.sbatch("fewer", LONG, "--nodes=1-2", "--gpus-per-node=2", "--exclusive")
    world.reaches("fewer", 30)
    cluster(world.shell, "kill-node", "1")
    try:
        world.ends("fewer", job)
    finally:
        cluster(world.shell, "revive-node", "1")
    assert field(world.shell, job, "NodeList") == "n2", world.log("fewer")
    records = read_metrics(run_folder("fewer") / "metrics.jsonl")
    assert [one["world"] for one in records if one["kind"] == "start"] == [4, 2]
    assert losses("fewer") == pytest.approx(losses("undisturbed"), rel=1e-3)
    rows, as_before = ({one["step"]: one["rows_hash"] for one in read_metrics(run_folder(name) / "metrics.jsonl")
                        if one["kind"] == "train"} for name in ("fewer", "undisturbed"))  # fmt: skip
    assert rows == as_before


@pytest.mark.skipif(not os.environ.get("NARAE_TEST_FULL"), reason="a minute and more: the least that a limit may be")
def test_a_real_time_limit(world: World) -> None:
    job = world.sbatch("limited", "--max_steps 100000 --save_steps 1000", "--time=1", "--signal=B:USR1@20", *TWO)
    until(lambda: "goes on from checkpoint-" in world.log("limited"), lambda: world.log("limited"), seconds=400)
    call(world.shell, "scancel", job)
    wait(world.shell, [job], seconds=120)
    assert f"job {job} goes back into the queue: it got USR1. It will go on from checkpoint-" in world.log("limited")
