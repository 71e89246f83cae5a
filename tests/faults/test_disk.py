"""A disk without room for another checkpoint: a small tmpfs under the runs' folder."""

import contextlib
import os
import subprocess
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from counting import some
from harness import STEPS, World, attempt
from runs import run_folder, same
from safetensors.torch import load_file

from narae.checkpoint import checkpoints, damage

LATE = ["--save_steps", "20", "--eval_steps", "1000", "--save_total_limit", "9"]


@contextlib.contextmanager
def disk(world: World, at: Path, size: int) -> Iterator[Path]:
    """Artifacts with the world's rows, and with runs on a disk of this many bytes."""
    (at / "disk").mkdir(parents=True)
    for name in ("corpus", "tokenizer", "packed"):
        (at / name).symlink_to(world.folder / "artifacts" / name)
    words = ["mount", "-t", "tmpfs", "-o", f"size={size}", "narae", str(at / "disk")]
    mounted = subprocess.run(words, capture_output=True, text=True)
    if mounted.returncode:
        pytest.skip(f"a disk of a given size needs the right to mount one: {mounted.stderr.strip()}")
    try:
        (at / "runs").symlink_to(at / "disk")
        yield at
    finally:
        subprocess.run(["umount", "--lazy", str(at / "disk")], check=True)


KINDS = ["plain", "zero2"]


@pytest.fixture(scope="module")
def size(world: World) -> int:
    """Of one checkpoint."""
    world.expected("plain")
    newest = checkpoints(run_folder("undisturbed-plain"))[0]
    return sum(-(-file.stat().st_size // 4096) * 4096 for file in newest.rglob("*") if file.is_file())


def fill(folder: Path, leave: int) -> Path:
    """A file that takes the room there is, but for this many bytes."""
    file = folder / "ballast"
    with contextlib.suppress(OSError), file.open("wb", buffering=0) as opened:
        while opened.write(bytes(4096)):
            pass
    os.truncate(file, max(file.stat().st_size - leave, 0))
    return file


def resumes(world: World, artifacts: Path, name: str, kind: str, words: Sequence[str], ballast: Path) -> None:
    """With room the same command goes on from the checkpoint that was spared."""
    ballast.unlink()
    with attempt(world, kind, name, *words, artifacts=artifacts) as again:
        output = again.finish(0)
    assert [record["step"] for record in again.of("start")] == [20], output
    assert same(load_file(again.run / "final/model.safetensors"), world.expected(kind)), output


# Room that is left, as a share of a checkpoint: which of its files does not fit differs
CASES = [(kind, words, room) for kind in KINDS for words in ("", "--save_async") for room in (0, 0.02, 0.15, 0.35, 0.9)]


@pytest.mark.parametrize(("kind", "words", "room"), some(CASES, 2))
def test_a_full_disk_is_said_and_training_goes_on(
    world: World, tmp_path: Path, size: int, kind: str, words: str, room: float, tell: Callable[..., Any]
) -> None:
    """A second checkpoint is given up, and so is what comes after it."""
    with disk(world, tmp_path / "small", size * 4) as artifacts:
        with attempt(world, kind, "full", *LATE, *words.split(), artifacts=artifacts) as one:
            one.wait_for("renamed")
            ballast = fill(artifacts / "disk", int(size * room))
            output = one.finish(0, 1)
        saved = [checkpoint.name for checkpoint in checkpoints(one.run)]
        assert saved == ["checkpoint-20"], f"{saved}\n{output}"
        assert not damage(one.run / "checkpoint-20"), output
        assert output.count("step 40 could not be saved (") == 1, output
        assert "checkpoint-20 and older ones are whole: training goes on without it" in output, output
        assert "Traceback" not in output, output
        if (one.run / "final").exists():  # for which there was room
            assert set(one.codes()) == {0}, output
            assert same(load_file(one.run / "final/model.safetensors"), world.expected(kind)), output
        else:
            assert set(one.codes()) == {1} and "final/ could not be written (" in output, output
            resumes(world, artifacts, "full", kind, LATE, ballast)
    tell(Counter({f"full disk, {kind} {words} with room for {room:.0%}": 1}))


@pytest.mark.parametrize(("kind", "words", "room"), some(CASES[::5], 1))
def test_room_that_comes_back_is_used(
    world: World, tmp_path: Path, size: int, kind: str, words: str, room: float, tell: Callable[..., Any]
) -> None:
    with disk(world, tmp_path / "small", size * 4) as artifacts:
        with attempt(world, kind, "freed", *LATE, *words.split(), artifacts=artifacts) as one:
            one.wait_for("renamed")
            ballast = fill(artifacts / "disk", int(size * room))
            one.wait_for("step 40 could not be saved")
            ballast.unlink()
            output = one.finish(0)
        assert output.count("could not be saved (") == 1, output
        assert output.count(" has no room for more (") == 1, output
        assert [checkpoint.name for checkpoint in checkpoints(one.run)] == ["checkpoint-60", "checkpoint-20"], output
        assert not any(damage(checkpoint) for checkpoint in checkpoints(one.run)), output
        assert [record["step"] for record in one.of("train")] == list(range(1, STEPS + 1)), output
        assert same(load_file(one.run / "final/model.safetensors"), world.expected(kind)), output
    tell(Counter({f"full disk for a while, {kind} {words}": 1}))


@pytest.mark.parametrize(("kind", "words", "room"), some(CASES, 7))
def test_a_full_disk_ends_the_run_by_choice(
    world: World, tmp_path: Path, size: int, kind: str, words: str, room: float, tell: Callable[..., Any]
) -> None:
    with disk(world, tmp_path / "small", size * 4) as artifacts:
        more = [*LATE, *words.split(), "--if_disk_full", "stop"]
        with attempt(world, kind, "stops", *more, artifacts=artifacts) as one:
            one.wait_for("renamed")
            ballast = fill(artifacts / "disk", int(size * room))
            output = one.finish(1)
        assert [checkpoint.name for checkpoint in checkpoints(one.run)] == ["checkpoint-20"], output
        assert not damage(one.run / "checkpoint-20"), output
        assert output.count("step 40 could not be saved (") == 1 and "make room" in output, output
        assert "Traceback" not in output, output
        resumes(world, artifacts, "stops", kind, more, ballast)
    tell(Counter({f"full disk, {kind} {words} with room for {room:.0%}, stop": 1}))
