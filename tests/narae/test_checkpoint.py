"""A checkpoint is whole or is passed over, and what is wrong with it is named."""

import shutil
from pathlib import Path

import pytest

from narae.checkpoint import checkpoints, damage, last_good, publish, rotate
from narae.log import Mistake


@pytest.fixture
def run_folder(tmp_path: Path) -> Path:
    for step in (5, 10, 100):
        staged = tmp_path / ".staging" / f"checkpoint-{step}"
        (staged / "inner").mkdir(parents=True)
        (staged / "weights").write_bytes(bytes(range(100)))
        (staged / "inner/state").write_text(f"state of {step}")
        publish(staged, tmp_path / staged.name, {"step": step, "run": "mine"})
    return tmp_path


def steps(folder: Path) -> list[str]:
    return [path.name for path in checkpoints(folder)]


def test_the_newest_is_taken_by_number(run_folder: Path) -> None:
    assert steps(run_folder) == ["checkpoint-100", "checkpoint-10", "checkpoint-5"]
    assert last_good(run_folder) == run_folder / "checkpoint-100"


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda one: (one / "weights").unlink(), "weights is missing"),
        (lambda one: (one / "weights").write_bytes(b"short"), "weights has 5 bytes instead of 100"),
        (lambda one: (one / "inner/state").write_text("state of 900"[:12]), "inner/state does not have the hash"),
        (lambda one: (one / "manifest.json").unlink(), "its manifest is missing"),
        (lambda one: (one / "manifest.json").write_text("{"), "its manifest is missing or unreadable"),
    ],
)
def test_a_damaged_one_is_named_and_passed_over(
    run_folder: Path, spoil: object, says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    spoil(run_folder / "checkpoint-100")  # type: ignore[operator]
    assert says in damage(run_folder / "checkpoint-100")
    assert last_good(run_folder) == run_folder / "checkpoint-10"
    assert says in capsys.readouterr().err


def test_no_good_one_is_a_clear_end(run_folder: Path) -> None:
    for one in checkpoints(run_folder):
        (one / "weights").unlink()
    with pytest.raises(Mistake, match=r"none of the 3 checkpoints in .* is whole: remove them"):
        last_good(run_folder)


def test_a_run_without_any_starts(tmp_path: Path) -> None:
    assert last_good(tmp_path) is None


def test_the_oldest_go_and_the_best_stays(run_folder: Path) -> None:
    rotate(run_folder, 1, {"checkpoint-5"})
    assert steps(run_folder) == ["checkpoint-100", "checkpoint-5"]
    rotate(run_folder, None)
    assert steps(run_folder) == ["checkpoint-100", "checkpoint-5"]


def test_multiples_stay(run_folder: Path) -> None:
    rotate(run_folder, 1, every=10)
    assert steps(run_folder) == ["checkpoint-100", "checkpoint-10"]


def test_one_of_another_run_is_passed_over(run_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert damage(run_folder / "checkpoint-100", "mine") == ""
    assert damage(run_folder / "checkpoint-100", "yours") == "it is of a run with another configuration"
    shutil.rmtree(run_folder / "checkpoint-100")
    (run_folder / "checkpoint-10").rename(run_folder / "checkpoint-100")
    assert last_good(run_folder, "mine") == run_folder / "checkpoint-5"
    assert "it is that of step 10 under another name" in capsys.readouterr().err


def test_only_so_far(run_folder: Path) -> None:
    assert last_good(run_folder, before=50) == run_folder / "checkpoint-10"
    assert last_good(run_folder, before=4) is None


def test_ranks_share_the_reading(run_folder: Path) -> None:
    (run_folder / "checkpoint-100/weights").write_bytes(bytes(100))
    wrong = [damage(run_folder / "checkpoint-100", among=(rank, 2)) for rank in range(2)]
    assert wrong == ["", "weights does not have the hash that was written down"]


def test_what_is_staged_is_no_checkpoint(run_folder: Path) -> None:
    (run_folder / ".staging/checkpoint-200").mkdir()
    assert steps(run_folder)[0] == "checkpoint-100"
