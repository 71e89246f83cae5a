"""One folder has one run, and what was written down tells training from the rest."""

import signal
from pathlib import Path

import pytest
import torch

from narae.follow import Follow, RunFolder, Stopper
from narae.log import Mistake, read_metrics


def test_a_folder_belongs_to_one_process(artifacts: Path) -> None:
    first = RunFolder("one", {"seed": 1}, overwrite=False)
    with pytest.raises(Mistake, match="another process trains in"):
        RunFolder("one", {"seed": 1}, overwrite=False)
    del first


def test_an_unfinished_run_keeps_its_identity(artifacts: Path) -> None:
    first = RunFolder("one", {"seed": 1}, overwrite=False)
    first.metrics.write("train", step=1)
    (first.path / "checkpoint-5").mkdir()
    del first
    with pytest.raises(Mistake, match="seed = 1 instead of 2: --name starts another run, --overwrite") as refused:
        RunFolder("one", {"seed": 2}, overwrite=False)
    del refused
    again = RunFolder("one", {"seed": 1}, overwrite=False)
    assert (again.path / "checkpoint-5").exists()
    del again
    fresh = RunFolder("one", {"seed": 2}, overwrite=True)
    assert not (fresh.path / "checkpoint-5").exists()
    assert [record["kind"] for record in read_metrics(fresh.metrics.path)] == ["open"]


def test_a_run_may_grow_and_not_shrink(artifacts: Path) -> None:
    def claimed(tokens: int, **words: int) -> Path:
        return RunFolder(
            "one", {"seed": 1, "train_tokens": tokens} | words, overwrite=False, growing="train_tokens"
        ).path

    (claimed(100) / "checkpoint-5").mkdir()
    (claimed(200) / "final").mkdir()  # finished, and to become longer still
    assert (claimed(300) / "checkpoint-5").exists()
    with pytest.raises(Mistake, match="train_tokens = 300 instead of 200") as refused:
        claimed(200)
    assert "what may change is the length where it grows" in str(refused.value)
    del refused  # and with it the lock
    with pytest.raises(Mistake, match="seed = 1 instead of 2"):
        claimed(400, seed=2)


def test_a_signal_that_comes_while_ranks_agree_is_heard_the_next_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.distributed.is_initialized", lambda: True)
    monkeypatch.setattr("torch.distributed.get_world_size", lambda: 2)
    monkeypatch.setattr("torch.distributed.all_reduce", lambda *_, **__: signal.raise_signal(signal.SIGUSR1))
    before = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGUSR1)]
    try:
        stopper = Stopper()
        assert not stopper.agreed(torch.device("cpu"))  # of the other rank's answer nothing has become known
        assert stopper.agreed(torch.device("cpu")) and stopper.asked == signal.SIGUSR1
    finally:
        for number, handler in zip((signal.SIGTERM, signal.SIGUSR1), before, strict=True):
            signal.signal(number, handler)


def test_laps_leave_out_what_was_no_training(artifacts: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr("narae.follow.time.monotonic", lambda: now[0])
    watch = Follow(RunFolder("one", {}, overwrite=False), "one")

    def passes(seconds: float) -> None:
        now[0] += seconds

    passes(5)
    with watch.aside() as took:
        passes(3)
    passes(2)
    assert (took["seconds"], watch.lap()) == (3, 7)
    passes(4)
    assert watch.lap() == 4
