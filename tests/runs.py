"""What tests of training look at: a run's end, its folder, its losses and its weights."""

import os
import subprocess
from pathlib import Path

import torch
from safetensors.torch import load_file

from narae.log import read_metrics


def finish(process: subprocess.Popen[str], code: int = 0) -> str:
    output = process.communicate(timeout=300)[0]
    assert process.returncode == code, output
    return output


def run_folder(name: str) -> Path:
    return Path(os.environ["NARAE_ARTIFACTS"]) / "runs" / name


def weights(name: str) -> dict[str, torch.Tensor]:
    return load_file(run_folder(name) / "final/model.safetensors")


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


def losses(name: str) -> dict[int, float]:
    records = read_metrics(run_folder(name) / "metrics.jsonl")
    return {one["step"]: one["loss"] for one in records if one["kind"] == "train"}
