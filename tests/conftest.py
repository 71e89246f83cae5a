"""Every test has its own artifacts folder, no network, and the folder of the repository to run commands in."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

HOME = Path(__file__).resolve().parents[1]
os.environ.update(HF_HUB_OFFLINE="1", TOKENIZERS_PARALLELISM="false", CUDA_VISIBLE_DEVICES="")


@pytest.fixture
def artifacts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "artifacts"
    monkeypatch.setenv("NARAE_ARTIFACTS", str(folder))
    return folder


@pytest.fixture
def run(tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run a command as a user would, from a folder that is not the repository's."""

    def call(*words: str, check: bool = True, **options: object) -> subprocess.CompletedProcess[str]:
        script = HOME / words[0]
        done = subprocess.run(
            [sys.executable, str(script), *words[1:]], cwd=tmp_path, capture_output=True, text=True, **options
        )  # type: ignore[call-overload]
        if check and done.returncode != 0:
            raise AssertionError(f"{' '.join(words)} exited {done.returncode}\n{done.stdout}\n{done.stderr}")
        return done

    return call
