"""What tests of training look at: a run's end, its folder, its losses and its weights."""

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import helpers
import pytest
import torch
from helpers import HOME
from safetensors.torch import load_file

from narae.log import read_metrics
from pretrain import pack
from tokenizer import train


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


# A model of two layers, and how two ranks of it are started
PHI = {
    "model_type": "phi",
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 64,
}
TWO_RANKS = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]


@contextlib.contextmanager
def small_world(folder: Path) -> Iterator[Path]:
    """Artifacts in this folder: 144 packed rows of 32 tokens; beside them phi.json. One thread for each process."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NARAE_ARTIFACTS", str(folder / "artifacts"))
        patch.setenv("OMP_NUM_THREADS", "1")
        helpers.corpus()
        helpers.call(train.main, "--vocab_size", "384")
        helpers.call(pack.main, "--sequence_length", "32")
        (folder / "phi.json").write_text(json.dumps(PHI))
        yield folder


def pretrain(folder: Path, name: str, *words: str, start: Sequence[str] = (sys.executable,)) -> subprocess.Popen[str]:
    script = [*start, str(HOME / "pretrain/run.py"), "--name", name, "--model_config", str(folder / "phi.json"), *words]
    return subprocess.Popen(script, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
