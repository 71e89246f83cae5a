"""Precision falls back by what the hardware has, and one folder has one run."""

from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from narae import training
from narae.log import Mistake


@dataclass
class Args:
    bf16: bool = True
    fp16: bool = False


@pytest.mark.parametrize(
    ("gpu", "native", "bf16", "fp16", "says"),
    [
        (False, True, True, False, ""),
        (False, False, False, False, "this CPU has no native bf16: training in fp32"),
        (True, True, True, False, ""),
        (True, False, False, True, "has no native bf16: training in fp16 with loss scaling"),
    ],
)
def test_precision(
    gpu: bool, native: bool, bf16: bool, fp16: bool, says: str,
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: native)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "Tesla V100")
    monkeypatch.setattr(training, "cpu_has_bf16", lambda: native)
    args = Args()
    training.set_precision(args)  # type: ignore[arg-type]
    assert (args.bf16, args.fp16) == (bf16, fp16)
    said = capsys.readouterr().err
    assert says in said and said.count("\n") == bool(says)


def test_fp32_that_was_asked_for_stays(capsys: pytest.CaptureFixture[str]) -> None:
    args = Args(bf16=False)
    training.set_precision(args)  # type: ignore[arg-type]
    assert (args.bf16, args.fp16) == (False, False)
    assert not capsys.readouterr().err


def test_a_folder_belongs_to_one_process(artifacts: Path) -> None:
    first = training.RunFolder("one", {"seed": 1}, overwrite=False)
    with pytest.raises(Mistake, match="another process trains in"):
        training.RunFolder("one", {"seed": 1}, overwrite=False)
    del first


def test_an_unfinished_run_keeps_its_identity(artifacts: Path) -> None:
    first = training.RunFolder("one", {"seed": 1}, overwrite=False)
    first.metrics.write("train", step=1)
    (first.path / "checkpoint-5").mkdir()
    del first
    with pytest.raises(Mistake, match="seed = 1 instead of 2: --name starts another run, --overwrite") as refused:
        training.RunFolder("one", {"seed": 2}, overwrite=False)
    del refused
    again = training.RunFolder("one", {"seed": 1}, overwrite=False)
    assert (again.path / "checkpoint-5").exists()
    del again
    fresh = training.RunFolder("one", {"seed": 2}, overwrite=True)
    assert not (fresh.path / "checkpoint-5").exists()
    assert not fresh.metrics.path.exists()
