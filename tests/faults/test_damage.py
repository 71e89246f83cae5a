"""Whatever happened to the newest checkpoint: named, passed over, and the run ends in the same weights."""

import json
import random
import shutil
import signal
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from counting import some
from harness import World, attempt
from runs import run_folder, same, weights

from narae.checkpoint import checkpoints

NAME = "damaged"
Spoil = Callable[[Path, Path, random.Random], str]


@pytest.fixture(scope="module")
def kept(world: World) -> tuple[Path, Path]:
    """A run that was killed after its checkpoints 24 and 25, and checkpoint 25 of one with another seed."""
    found = []
    for name, seed in ((NAME, "42"), ("foreign", "7")):
        with attempt(world, "plain", name, "--save_total_limit", "4", "--seed", seed) as one:
            one.wait_for("training", 26)
            one.hit(signal.SIGKILL, "all")
            one.finish(-signal.SIGKILL)
        found.append(world.folder / f"kept-{name}")
        shutil.copytree(run_folder(name), found[-1])
    newest = [checkpoint.name for checkpoint in checkpoints(found[0])]
    assert newest[:2] == ["checkpoint-25", "checkpoint-24"], newest
    return found[0], found[1] / "checkpoint-25"


def files_of(checkpoint: Path) -> list[Path]:
    names = json.loads((checkpoint / "manifest.json").read_text())["files"]
    return [checkpoint / name for name in sorted(names)]


def cut(file: Path, foreign: Path, draw: random.Random) -> None:
    with file.open("r+b") as opened:
        opened.truncate(draw.randrange(file.stat().st_size))


def flip(file: Path, foreign: Path, draw: random.Random) -> None:
    content = bytearray(file.read_bytes())
    content[draw.randrange(len(content))] ^= 1 << draw.randrange(8)
    file.write_bytes(content)


def lose(file: Path, foreign: Path, draw: random.Random) -> None:
    file.unlink()


def swap(file: Path, foreign: Path, draw: random.Random) -> None:
    """For the same file of another run, where that is another."""
    if foreign.read_bytes() == file.read_bytes():
        flip(file, foreign, draw)
    else:
        shutil.copy(foreign, file)


WAYS = (cut, flip, lose, swap)


@pytest.mark.parametrize(("number", "way"), some([(number, way) for number in range(12) for way in WAYS], 3))
def test_a_damaged_file_is_named(
    world: World, kept: tuple[Path, Path], way: Callable[..., None], number: int, tell: Callable[..., Any]
) -> None:
    """Each of the files, the largest ones more than once."""
    checkpoint, draw = restored(kept), random.Random(f"{way.__name__} {number}")
    files = files_of(checkpoint)
    largest = max(files, key=lambda one: one.stat().st_size)
    file = files[number] if 0 < number < len(files) else largest
    way(file, kept[1] / file.name, draw)
    output = goes_on(world, 24)
    assert f"checkpoint-25 is damaged ({file.name} " in output, output
    tell(Counter({f"{way.__name__} {file.name}": 1}))


def change(checkpoint: Path, **words: Any) -> None:
    file = checkpoint / "manifest.json"
    known = json.loads(file.read_text()) | words
    file.write_text(json.dumps({key: value for key, value in known.items() if value is not None}))


def half(checkpoint: Path) -> None:
    file = checkpoint / "manifest.json"
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def emptied(checkpoint: Path) -> None:
    shutil.rmtree(checkpoint)
    checkpoint.mkdir()


def folder_of_another(checkpoint: Path, foreign: Path) -> None:
    shutil.rmtree(checkpoint)
    shutil.copytree(foreign, checkpoint)


def under_another_name(checkpoint: Path) -> None:
    shutil.rmtree(checkpoint)
    shutil.copytree(checkpoint.with_name("checkpoint-20"), checkpoint)


def foreign_part(checkpoint: Path, foreign: Path) -> None:
    """Under a name by which it would be read with the others."""
    largest = max(files_of(foreign), key=lambda one: one.stat().st_size)
    shutil.copy(largest, checkpoint / "states-00001-of-00002.safetensors")


UNREADABLE = "its manifest is missing or unreadable"
MANIFESTS: dict[str, tuple[Callable[[Path, Path], Any], str]] = {
    "manifest-cut": (lambda one, _: half(one), UNREADABLE),
    "manifest-empty": (lambda one, _: (one / "manifest.json").write_text(""), UNREADABLE),
    "manifest-missing": (lambda one, _: (one / "manifest.json").unlink(), UNREADABLE),
    "manifest-noise": (lambda one, _: (one / "manifest.json").write_bytes(bytes(range(256))), UNREADABLE),
    "manifest-a-list": (lambda one, _: (one / "manifest.json").write_text("[1]"), UNREADABLE),
    "manifest-without-files": (lambda one, _: change(one, files=None), UNREADABLE),
    "manifest-of-words": (
        lambda one, _: change(one, files={"config.json": {"bytes": "x", "sha256": 1}}),
        UNREADABLE,
    ),
    "manifest-of-another-version": (lambda one, _: change(one, format=99), "format"),
    "manifest-of-an-artifact": (lambda one, _: change(one, kind="model"), ""),
    "emptied": (lambda one, _: emptied(one), UNREADABLE),
    "with-a-foreign-part": (foreign_part, "states-00001-of-00002.safetensors does not belong to it"),
    "of-another-run": (folder_of_another, "another"),
    "of-another-step": (lambda one, _: under_another_name(one), "20"),
}


@pytest.mark.parametrize("case", some(list(MANIFESTS), 11))
def test_a_checkpoint_that_is_none_is_named(
    world: World, kept: tuple[Path, Path], case: str, tell: Callable[..., Any]
) -> None:
    spoil, says = MANIFESTS[case]
    spoil(restored(kept), kept[1])
    output = goes_on(world, 24)
    assert "checkpoint-25 is damaged (" in output and says in output, output
    tell(Counter({case: 1}))


ODD = "checkpoint-", "checkpoint-x", "checkpoint-25.bak", "checkpoint--9", "checkpoint-²", ".staging"
BESIDE = "notes.txt", "extra/optimizer.pt", ".nfs0001"


def test_odd_names_are_passed_over(world: World, kept: tuple[Path, Path], tell: Callable[..., Any]) -> None:
    """Beside checkpoints, and within one."""
    checkpoint = restored(kept)
    for name in ODD:
        shutil.copytree(checkpoint, checkpoint.with_name(name))
    checkpoint.with_name("checkpoint-30").write_text("a file")
    (checkpoint / "extra").mkdir()
    for name in BESIDE:
        (checkpoint / name).write_text("no part of it")
    goes_on(world, 25)
    tell(Counter({"odd names": len(ODD) + len(BESIDE) + 1}))


@pytest.mark.parametrize("count", some([2, 3], 1))
def test_several_damaged_ones_are_passed_over(
    world: World, kept: tuple[Path, Path], count: int, tell: Callable[..., Any]
) -> None:
    restored(kept)
    spoilt = checkpoints(run_folder(NAME))
    for number, one in enumerate(spoilt[:count]):
        flip(files_of(one)[0], one, random.Random(number))
    output = goes_on(world, int(spoilt[count].name.split("-")[1]))
    assert output.count(" is damaged (") == count, output
    tell(Counter({f"{count} at once": 1}))


def restored(kept: tuple[Path, Path]) -> Path:
    """The run as it was when it was killed; its newest checkpoint."""
    run = run_folder(NAME)
    shutil.rmtree(run, ignore_errors=True)
    shutil.copytree(kept[0], run)
    return run / "checkpoint-25"


def goes_on(world: World, step: int) -> str:
    with attempt(world, "plain", NAME, "--save_total_limit", "4", "--seed", "42") as one:
        output = one.finish(0)
    assert [record["step"] for record in one.of("start")] == [step], output
    assert f"goes on from checkpoint-{step}:" in output, output
    assert same(weights(NAME), world.expected("plain")), output
    return output
