"""Training checkpoints that are whole or not there: a folder, renamed into its place when its manifest is written.

A run continues from the newest checkpoint whose hashes are right.
"""

import json
import shutil
from collections.abc import Collection
from pathlib import Path
from typing import Any

from narae.artifact import hash_file, sync
from narae.log import Mistake, rank, say
from narae.ranks import first_says, gathered, world

FORMAT = 2
STATES = "states.json"


def publish(staged: Path, final: Path, about: dict[str, Any], hashed: dict[str, Any] | None = None) -> None:
    """`hashed`: files whose hashes are known, and which are on the disk."""
    files = dict(hashed or {})
    for file in sorted(path for path in staged.rglob("*") if path.is_file()):
        name = str(file.relative_to(staged))
        if name not in files:
            files[name] = {"bytes": file.stat().st_size, "sha256": hash_file(file)}
            sync(file)
    manifest = staged / "manifest.json"
    known = {"kind": "checkpoint", "format": FORMAT, **about, "files": files}
    manifest.write_text(json.dumps(known, indent=1), encoding="utf-8")
    sync(manifest)
    sync(staged)
    if final.exists():  # a damaged one that the run came past again
        shutil.rmtree(final)
    staged.rename(final)
    sync(final.parent)


def step_of(checkpoint: Path) -> int:
    return int(checkpoint.name.removeprefix("checkpoint-"))


def checkpoints(run: Path) -> list[Path]:
    """Newest first."""
    found = [path for path in run.glob("checkpoint-*") if path.name.removeprefix("checkpoint-").isdecimal()]
    return sorted(found, key=lambda path: -step_of(path))


def rotate(run: Path, keep: int | None, spared: Collection[str] = (), every: int = 0) -> None:
    """Keep the newest, those that are spared, and those at multiples of `every`."""
    for old in checkpoints(run)[keep or None :] if keep else []:
        if old.name not in spared and not (every and step_of(old) % every == 0):
            shutil.rmtree(old)


def read_states(checkpoint: Path) -> dict[str, Any]:
    file = checkpoint / STATES
    if not file.is_file():
        raise Mistake(f"{checkpoint} has no {STATES}, so it is of an older version: --overwrite starts the run anew")
    return json.loads(file.read_text(encoding="utf-8"))  # type: ignore[no-any-return]


def damage(checkpoint: Path, mark: str = "", among: tuple[int, int] = (0, 1)) -> str:
    """What is wrong with it, or nothing. `among`: this rank out of how many, which share the reading."""
    try:
        manifest = json.loads((checkpoint / "manifest.json").read_text(encoding="utf-8"))
        files, step, run = manifest["files"], manifest.get("step"), manifest.get("run", "")
        listed = sorted((name, int(known["bytes"]), known["sha256"]) for name, known in files.items())
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return "its manifest is missing or unreadable"
    if manifest.get("kind") != "checkpoint" or manifest.get("format") != FORMAT:
        return f"its manifest is of format {manifest.get('format')}, this version reads {FORMAT}"
    if step != step_of(checkpoint):
        return f"it is that of step {step} under another name"
    if mark and run != mark:
        return "it is of a run with another configuration"
    for name, size, digest in listed[among[0] :: among[1]]:
        file = checkpoint / name
        if not file.is_file():
            return f"{name} is missing"
        if file.stat().st_size != size:
            return f"{name} has {file.stat().st_size:,} bytes instead of {size:,}"
        if hash_file(file) != digest:
            return f"{name} does not have the hash that was written down"
    foreign = sorted({file.name for file in checkpoint.glob("states-*")} - files.keys())
    if foreign:  # which would be read as a part of it
        return f"{foreign[0]} does not belong to it"
    return ""


def last_good(run: Path, mark: str = "", before: int | None = None) -> Path | None:
    """The checkpoint to continue from: the newest that is whole, of a step up to `before`. All ranks take part.

    A damaged one is named and passed over.
    """
    found = first_says(lambda: checkpoints(run))
    found = [one for one in found if before is None or step_of(one) <= before]
    ranks = world()
    for checkpoint in found:
        wrong = next(filter(None, gathered(damage(checkpoint, mark, (rank() % ranks, ranks)))), "")
        if not wrong:
            return checkpoint
        say(f"{checkpoint} is damaged ({wrong}): going back to the one before")
    if found and before is None:
        raise Mistake(f"none of the {len(found)} checkpoints in {run} is whole: remove them to start from step 0")
    return None
