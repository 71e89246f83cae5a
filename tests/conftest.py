"""Every test has its own artifacts folder, no network and no GPU."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from helpers import HOME

os.environ.update(HF_HUB_OFFLINE="1", TOKENIZERS_PARALLELISM="false", CUDA_VISIBLE_DEVICES="")


@pytest.fixture
def artifacts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "artifacts"
    monkeypatch.setenv("NARAE_ARTIFACTS", str(folder))
    return folder


@pytest.fixture
def run(tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run a command as a user would, from a folder that is not the repository's."""

    def call(*words: str, check: bool = True, **options: Any) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, str(HOME / words[0]), *words[1:]]
        done: subprocess.CompletedProcess[str] = subprocess.run(
            command, cwd=tmp_path, capture_output=True, text=True, **options
        )
        if check and done.returncode != 0:
            raise AssertionError(f"{' '.join(words)} exited {done.returncode}\n{done.stdout}\n{done.stderr}")
        return done

    return call
