"""Precision falls back by what the hardware has."""

from dataclasses import dataclass

import pytest
import torch

from narae import training


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
