"""Metrics of the evaluate library, out of files: ours, and one that --metric names. Rank 0 computes them."""

import contextlib
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from narae.artifact import root
from narae.config import HOME
from narae.log import Mistake, say
from narae.packed import IGNORED

NEXT_TOKEN = HOME / "pretrain/metrics/next_token.py"


def load_metrics(files: Sequence[Path]) -> list[Any]:
    """Without a network, and without anything in the user's home.

    The library copies a file into a package of its own to import it; the copy is gone when the import is done.
    """
    import evaluate
    from evaluate import config

    root().mkdir(parents=True, exist_ok=True)
    home = config.HF_MODULES_CACHE
    found = []
    with tempfile.TemporaryDirectory(prefix=".metrics-", dir=root()) as folder:
        config.HF_MODULES_CACHE = folder
        try:
            for file in files:
                found.append(evaluate.load(str(file.absolute()), cache_dir=folder, keep_in_memory=True))
        except Exception as error:
            raise Mistake(f"--metric {file} cannot be loaded: {first_line(error)}", every_rank=True) from None
        finally:
            config.HF_MODULES_CACHE = home
            for name in [name for name in sys.modules if name.partition(".")[0] == "evaluate_modules"]:
                del sys.modules[name]
    return found


def first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


class Accuracy:
    """Our own metric, block by block: the library makes Python's numbers of a block, 80 bytes of each token."""

    def __init__(self, metric: Any):
        self.metric = metric
        self.right, self.tokens = 0.0, 0

    def add(self, predictions: np.ndarray, labels: np.ndarray) -> None:
        found = self.metric.compute(predictions=predictions.tolist(), references=labels.tolist())
        self.right += found["accuracy"] * found["tokens"]
        self.tokens += found["tokens"]

    def result(self) -> float:
        found = self.right / max(self.tokens, 1)
        self.right, self.tokens = 0.0, 0
        return found


class Other:
    """Any metric with predictions and references: it sees all rows at once, and what comes of that is its own matter.

    One that wants single numbers, as accuracy or f1 do, is given each predicted token beside the one that came.
    """

    def __init__(self, metric: Any, file: Path):
        self.metric, self.file = metric, file
        self.wrong = ""  # what it stumbled over: other ranks wait, so that this is told at the end
        features = metric.features[0] if isinstance(metric.features, list) else metric.features
        if not {"predictions", "references"} <= set(features):
            raise Mistake(f"--metric {file} wants {', '.join(features)}, not predictions and references")
        self.single = type(features["predictions"]).__name__ == "Value"

    def add(self, predictions: np.ndarray, labels: np.ndarray) -> None:
        if self.single:
            counted = labels[:, 1:] != IGNORED
            predictions, labels = predictions[:, :-1][counted], labels[:, 1:][counted]
        if len(predictions) and not self.wrong:
            with self._telling():
                self.metric.add_batch(predictions=predictions.tolist(), references=labels.tolist())

    def result(self) -> tuple[dict[str, float], str]:
        """Its figures by their names; and what went wrong."""
        found: dict[str, Any] = {}
        if not self.wrong:
            with self._telling():
                found = self.metric.compute() or {}
        words = [
            key for key, value in found.items() if np.ndim(value) or not isinstance(value, (int, float, np.number))
        ]
        if words:
            say(f"--metric {self.file}: {', '.join(words)}: no single numbers, left out")
        return {key: float(value) for key, value in found.items() if key not in words}, self.wrong

    @contextlib.contextmanager
    def _telling(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            self.wrong = f"--metric {self.file} cannot judge these rows: {first_line(error)}"
