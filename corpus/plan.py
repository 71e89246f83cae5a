"""What is to be done, cut into pieces that any number of workers can take: decided once, before anything is read.

The plan and all that the stages leave lie in a work folder beside the corpus, artifacts/corpus/.work-NAME. The same
command after a kill finds it there and goes on; with other settings, other input or another version it starts over.
"""

import contextlib
import json
import os
import pickle
import shutil
import traceback
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from corpus.marks import Settings
from corpus.quality import Limits
from corpus.reader import Unit
from corpus.sources import File
from narae import artifact
from narae.artifact import Artifact
from narae.log import Mistake, say

# Text per piece: enough of them to share the work evenly, each large enough to be worth a process.
SMALLEST, PIECES = 4_000_000, 64


@dataclass
class Plan:
    name: str
    overwrite: bool
    command: str
    settings: dict[str, Any]  # with inputs and parents, the identity of the corpus
    inputs: dict[str, Any]
    parents: list[Artifact]
    files: list[File]
    pieces: list[list[Unit]]
    allowed: int  # unreadable members that are put up with
    broken_share: float  # the same of broken documents
    limits: dict[str, Limits]  # by source
    held_out: set[str]  # sources whose archives say what is for validation
    alike: Settings
    keep_near: bool
    val_fraction: float
    shard_bytes: int
    no_text: bool

    def size(self, piece: int) -> int:
        return sum(unit.bytes for unit in self.pieces[piece])

    @property
    def largest_first(self) -> list[int]:
        """So that no worker begins a large piece when the others have nothing left to do."""
        return sorted(range(len(self.pieces)), key=lambda piece: (-self.size(piece), piece))


def pieces_of(files: list[File], units: list[Unit], shard_bytes: int) -> list[list[Unit]]:
    """Neighbouring units of one source. A source with --max_documents is one piece: its first documents are wanted."""
    room = min(shard_bytes, max(SMALLEST, sum(unit.bytes for unit in units) // PIECES))
    pieces: list[list[Unit]] = []
    filled, before = 0, None
    for unit in units:
        source = files[unit.file].source
        full = filled + unit.bytes > room and not source.max_documents
        if source is not before or (full and filled):
            pieces.append([])
            filled = 0
        pieces[-1].append(unit)
        filled += unit.bytes
        before = source
    return pieces


def work_folder(name: str) -> Path:
    place = artifact.place("corpus", name)
    return place.with_name(f".work-{place.name}")


def prepare(plan: Plan) -> Path:
    """The work folder with this plan in it, and what an earlier start of the same has left."""
    work = work_folder(plan.name)
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


def write_whole(path: Path, data: bytes) -> None:
    """There whole or not at all."""
    beside = path.with_name(f".{path.name}")
    with beside.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    beside.rename(path)


@lru_cache(maxsize=1)
def plan_of(work: Path) -> Plan:
    return pickle.loads((work / "plan").read_bytes())


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

    def tasks(self, plan: Plan) -> int:
        return len(plan.pieces)

    def do(self, plan: Plan, task: int) -> None:
        raise NotImplementedError
