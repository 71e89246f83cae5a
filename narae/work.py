"""Work cut into tasks that any number of workers can take: its plan, its stages, and the folder that they share.

The plan and all that the stages leave lie in a work folder beside the artifact, artifacts/KIND/.work-NAME. The same
command after a kill finds it there and goes on; with other settings, other input or another version it starts over.
"""

import contextlib
import json
import os
import pickle
import shutil
import subprocess
import traceback
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar

from narae import artifact
from narae.artifact import Artifact, Draft
from narae.log import Mistake, say


@dataclass
class Plan:
    """What is to be done, decided once, before anything is read. Each kind of artifact adds what its tasks need."""

    kind: ClassVar[str]
    name: str
    overwrite: bool
    command: str
    settings: dict[str, Any]  # with inputs and parents, the identity of what comes out
    inputs: dict[str, Any]
    parents: list[Artifact]

    def begin(self) -> Draft | None:
        """To publish from a job of its own, in the name of the command that submitted it."""
        draft = artifact.begin(self.kind, self.name, self.settings, self.parents, self.inputs, self.overwrite)
        if draft is not None:
            draft.command = self.command
        return draft


@dataclass(frozen=True)
class Stage:
    """A step as datatrove calls it; subclasses say what its tasks are."""

    work: Path

    def __call__(self, data: Any, rank: int, world_size: int) -> None:
        try:
            with refusals_told(self.work):
                self.do(plan_of(self.work), rank)
        except Exception as error:
            # datatrove's log would print the values of all variables, texts and all.
            traceback.print_exc()
            raise Mistake(f"task {rank} of {type(self).__name__.lower()} failed, see above: {error}") from error

    def tasks(self, plan: Any) -> int:
        return 1

    def do(self, plan: Any, task: int) -> None:
        raise NotImplementedError


def work_folder(kind: str, name: str) -> Path:
    place = artifact.place(kind, name)
    return place.with_name(f".work-{place.name}")


def prepare(plan: Plan) -> Path:
    """The work folder with this plan in it, and what an earlier start of the same has left."""
    work = work_folder(plan.kind, plan.name)
    _stop_beside_jobs(plan, work)
    parents = [parent.fingerprint for parent in plan.parents]
    by = {"commit": artifact.commit(), "settings": plan.settings, "inputs": plan.inputs, "parents": parents}
    identity = artifact.plain(by)
    mark = work / "identity.json"
    if mark.exists() and json.loads(mark.read_text(encoding="utf-8")) == identity:
        if any(work.glob("stages/*/completions/*")):
            say(f"going on with what an earlier start left in {work}")
    else:
        if work.exists():
            say(f"the unfinished work in {work} was of another version, other settings or input: starting over")
            shutil.rmtree(work)
        work.mkdir(parents=True)
    write_whole(work / "plan", pickle.dumps(plan))
    plan_of.cache_clear()
    write_whole(mark, json.dumps(identity, ensure_ascii=False).encode())
    return work


def _stop_beside_jobs(plan: Plan, work: Path) -> None:
    """Two runs in one work folder would write the same pieces."""
    if not (work / "jobs").exists() or not shutil.which("squeue"):
        return
    jobs = (work / "jobs").read_text().split()
    asked = subprocess.run(["squeue", "-h", "-o", "%A", "-j", ",".join(jobs)], capture_output=True, text=True)
    alive = sorted(set(asked.stdout.split()))
    if alive:
        raise Mistake(
            f"jobs {', '.join(alive)} are at work on {plan.kind} '{plan.name}': wait for them, or "
            f"scancel {' '.join(alive)}"
        )


@contextlib.contextmanager
def refusals_told(work: Path) -> Iterator[None]:
    """What the disk refuses, because it is full or belongs to another, in one line."""
    try:
        yield
    except OSError as error:
        raise Mistake(
            f"{error.filename or work}: {error.strerror or error}; once that is mended, the same command goes on from "
            f"here (removing {work} gives up)"
        ) from None


@lru_cache(maxsize=1)
def plan_of(work: Path) -> Any:
    return pickle.loads((work / "plan").read_bytes())


def write_whole(path: Path, data: bytes) -> None:
    """There whole or not at all."""
    beside = path.with_name(f".{path.name}")
    with beside.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    beside.rename(path)


@contextlib.contextmanager
def whole_folder(place: Path, flush: bool = True) -> Iterator[Path]:
    """A folder to fill, that is at its place whole or not at all. What an earlier attempt left there is replaced.

    Without `flush` that holds for a process that is killed, not for a machine that loses its power.
    """
    beside = place.with_name(f".{place.name}")
    for leftover in (beside, place):
        shutil.rmtree(leftover, ignore_errors=True)
    beside.mkdir(parents=True)
    try:
        yield beside
        for path in (*beside.rglob("*"), beside) if flush else ():
            artifact.sync(path)
        beside.rename(place)
        if flush:
            artifact.sync(place.parent)
    finally:
        shutil.rmtree(beside, ignore_errors=True)
