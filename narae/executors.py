"""One stage over all its tasks, by datatrove: on the cores of this machine, or as an array of jobs on a Slurm cluster.

datatrove marks each task that is complete, so that a second start goes on behind what was done.
"""

import contextlib
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Generator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

from datatrove.executor.base import DistributedEnvVars, PipelineExecutor
from datatrove.executor.slurm import SlurmPipelineExecutor
from datatrove.utils.logging import logger
from datatrove.utils.stats import PipelineStats

from narae.config import HOME
from narae.log import Mistake, Progress, say
from narae.work import Plan, Stage


def run_here(stages: dict[str, Stage], plan: Plan, work: Path, workers: int, sizes: list[int]) -> None:
    """Every stage over all its tasks, on this machine's cores. `sizes`: bytes of each task, to say how far it is."""
    for name, stage in stages.items():
        local = Local(stage, stage.tasks(plan), work / "stages" / name, workers)
        weights = sizes if local.tasks == len(sizes) else [1] * local.tasks
        bar = Progress(name, sum(weights) / 1e6, "MB")
        done = sum(weights) - sum(weights[task] for task in local.get_incomplete_ranks())
        with contextlib.closing(bar), contextlib.closing(local.run()) as ended:
            for task in ended:
                done += weights[task]
                bar.update(done / 1e6)


def may_submit() -> None:
    if "SLURM_JOB_ID" in os.environ:
        raise Mistake("--jobs submits jobs, and is for the login node; inside a job leave it out")
    if not shutil.which("sbatch"):
        raise Mistake("--jobs: there is no sbatch here, this is for the login node of a Slurm cluster; leave it out")


def submit(stages: dict[str, Stage], plan: Plan, work: Path, jobs: int) -> None:
    """Every stage as an array of jobs behind the one before; the last one publishes, and its id is printed."""
    environment = f". {HOME}/slurm/site.env\nexport PATH={Path(sys.executable).parent}:$PATH"
    before = None
    submitted = []
    for name, stage in stages.items():
        tasks = stage.tasks(plan)
        last = str(work) if name == list(stages)[-1] else ""
        before = Slurm(stage, name, tasks, work / "stages" / name, jobs, before, environment, last)
        before.run()
        if before.job_id != -1:
            submitted.append(before.job_id)
            say(f"{name}: job {before.job_id}, {tasks:,} tasks; its output is in {before.slurm_logs_folder}")
    (work / "jobs").write_text(" ".join(submitted))
    print(submitted[-1])


class Local(PipelineExecutor):
    """datatrove's own local executor waits for ever when a worker is killed for its memory; this one says so."""

    def __init__(self, stage: Stage, tasks: int, folder: Path, workers: int):
        super().__init__([stage], str(folder))
        self.tasks = tasks
        self.workers = workers or len(os.sched_getaffinity(0))

    @property
    def world_size(self) -> int:
        return self.tasks

    def get_distributed_env(self, node_rank: int = -1) -> DistributedEnvVars:
        return DistributedEnvVars(
            datatrove_node_ips="localhost",
            datatrove_cpus_per_task="1",
            datatrove_mem_per_cpu="0",
            datatrove_gpus_on_node="0",
            datatrove_executor="LOCAL",
        )

    def run(self) -> Generator[int, None, None]:  # type: ignore[override]
        """The tasks that are not done yet, each as it ends."""
        logger.disable("datatrove")  # on a full disk its log would be what fails, with a traceback of its own
        ranks = self.get_incomplete_ranks()
        if min(self.workers, len(ranks)) <= 1:
            for rank in ranks:
                self._one(rank)
                yield rank
            return
        context = multiprocessing.get_context("fork")
        pool = ProcessPoolExecutor(min(self.workers, len(ranks)), context, attend, (os.getpid(),))
        running: set[Future[int]] = set()
        try:
            running = {pool.submit(self._one, rank) for rank in ranks}
            while running:
                ended, running = wait(running, return_when=FIRST_COMPLETED)
                for future in ended:
                    yield future.result()
        except BrokenProcessPool:
            raise Mistake(
                f"one of {self.workers} workers was killed, most likely for memory: the same command with fewer "
                "--workers goes on from here"
            ) from None
        finally:
            pool.shutdown(wait=True, cancel_futures=True)

    def _one(self, rank: int) -> int:
        once(self, rank)
        return rank


class Slurm(SlurmPipelineExecutor):
    """An array of `jobs` jobs with one core each; every job does its share of the tasks, one after another."""

    def __init__(
        self,
        stage: Stage,
        name: str,
        tasks: int,
        folder: Path,
        jobs: int,
        after: "Slurm | None",
        env: str,
        last: str = "",
    ):
        self.last = last  # the folder that nobody needs when the task is done
        super().__init__(
            [stage],
            tasks,
            time="24:00:00",
            partition="",
            qos="",
            mem_per_cpu_gb=2,
            job_name=f"narae-{name}",
            tasks_per_job=-(-tasks // jobs),
            env_command=env,
            depends=after,
            logging_dir=str(folder),
            sbatch_args={"kill-on-invalid-dep": "yes", "chdir": str(HOME)},
            with_srun=False,
        )

    def get_sbatch_args(self, max_array: int = 1) -> dict[str, Any]:
        """Partition and account are the site's: SBATCH_PARTITION and SBATCH_ACCOUNT say them to every sbatch."""
        return {key: value for key, value in super().get_sbatch_args(max_array).items() if value or key == "requeue"}

    def _run_for_rank(self, rank: int, local_rank: int = 0, node_rank: int = -1) -> PipelineStats:
        once(self, rank)
        if self.last:  # published: the marker that was just written goes as well
            shutil.rmtree(self.last, ignore_errors=True)
        return PipelineStats()

    def run(self) -> None:
        logger.remove()  # what is launched is said by who launches it
        try:
            super().run()
        except subprocess.CalledProcessError:
            raise Mistake(
                "sbatch refused the jobs, see above; flags go in as variables: SBATCH_PARTITION=cpu"
            ) from None

    def launch_merge_stats(self) -> None:
        """The counts are ours; no job for datatrove's own."""


def once(executor: PipelineExecutor, rank: int) -> None:
    """A task, if it is not done yet. datatrove's own way takes 45 ms more, for a log of each task."""
    if not executor.is_rank_completed(rank):
        executor.pipeline[0](None, rank, executor.world_size)
        executor.mark_rank_as_completed(rank)


def attend(parent: int) -> None:
    """A worker leaves Ctrl-C to its parent, and follows it: an orphan would hold the lock of the artifact for ever."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.2)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
