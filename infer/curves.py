"""What a run wrote about itself: metrics.jsonl read as a stream into thin curves, however many lines it has."""

import json
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from narae.artifact import Artifact

LIMIT = 600  # points of a curve: more than a screen has columns for
PROMPTS = 12


class Curve:
    """Bucket means of a stream of unknown length: where the buckets run out, neighbours merge."""

    def __init__(self) -> None:
        self.width = 1
        self._buckets: list[list[float]] = []  # first step, values, sum of x, sum of y

    def add(self, step: float, x: float, y: float) -> None:
        buckets = self._buckets
        while buckets and buckets[-1][0] >= step:  # a resumed run repeats the steps after its checkpoint
            buckets.pop()
        if buckets and buckets[-1][1] < self.width:
            last = buckets[-1]
            last[1] += 1
            last[2] += x
            last[3] += y
            return
        buckets.append([step, 1, x, y])
        if len(buckets) > LIMIT:
            pairs = [buckets[place : place + 2] for place in range(0, len(buckets), 2)]
            self._buckets = [[pair[0][0], *(sum(part) for part in list(zip(*pair, strict=True))[1:])] for pair in pairs]
            self.width *= 2

    @property
    def points(self) -> list[tuple[float, float]]:
        return [(x / count, y / count) for _, count, x, y in self._buckets]


@dataclass
class Run:
    """One folder of runs/: what it was told to do, how far it came, and its curves."""

    name: str
    folder: Path
    artifact: Artifact | None = None
    config: dict[str, Any] = field(default_factory=dict)
    loss: Curve = field(default_factory=Curve)
    held_out: Curve = field(default_factory=Curve)
    learning_rate: Curve = field(default_factory=Curve)
    speed: Curve = field(default_factory=Curve)
    first: dict[str, tuple[int, str]] = field(default_factory=dict)  # prompt -> step, text
    last: dict[str, tuple[int, str]] = field(default_factory=dict)
    step: int = 0
    total_steps: int = 0
    tokens: float = 0.0
    seconds: float = 0.0
    memory_mb: float = 0.0
    bits_per_byte: float | None = None
    held_out_loss: float | None = None
    exact: float | None = None  # share of held-out answers, of a chat run
    not_numbers: int = 0
    ended: bool = True

    @property
    def finished(self) -> bool:
        return self.artifact is not None


def number(value: Any) -> float | None:
    """A finite number, or None for whatever else a file may hold."""
    try:
        return float(value) if type(value) in (int, float) and math.isfinite(value) else None
    except OverflowError:  # a whole number of more than 308 digits
        return None


def read_json(path: Path) -> dict[str, Any]:
    """An object, or nothing where the file is missing or damaged: the page then says what is missing."""
    try:
        found = json.loads(path.read_text(encoding="utf-8", errors="replace"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def read_run(name: str, folder: Path, published: Artifact | None) -> Run:
    run = Run(name, folder, published)
    try:
        config = yaml.safe_load((folder / "config.yaml").read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError):
        config = None
    if isinstance(config, dict):
        run.config = config
    metrics = folder / "metrics.jsonl"
    if not metrics.is_file():
        return run
    before: float | None = None
    with metrics.open(encoding="utf-8", errors="replace") as file:
        for line in file:
            try:
                record = json.loads(line)
            except ValueError:  # cut off by a kill
                continue
            if not isinstance(record, dict):
                continue
            kind, now = record.get("kind"), number(record.get("time"))
            if now is not None:
                # From the end of one attempt to the start of the next nobody trained.
                if before is not None and kind != "start":
                    run.seconds += max(now - before, 0.0)
                before = now
            run.memory_mb = max(run.memory_mb, number(record.get("memory_mb")) or 0.0)
            if kind == "train":
                _train(run, record)
            elif kind == "eval":
                _eval(run, record)
            elif kind == "sample":
                _sample(run, record)
            elif kind in ("start", "end"):
                run.ended = kind == "end"
    if not run.ended:  # what lies in final/ is of a run before this one
        run.artifact = None
    return run


def _train(run: Run, record: dict[str, Any]) -> None:
    step = number(record.get("step")) or 0.0
    run.step, run.total_steps = int(step), int(number(record.get("total_steps")) or run.total_steps)
    run.tokens = number(record.get("tokens")) or run.tokens
    loss, rate, speed = (number(record.get(key)) for key in ("loss", "learning_rate", "tokens_per_s"))
    if loss is not None:
        run.loss.add(step, run.tokens, loss)
    elif "loss" in record:
        run.not_numbers += 1
    if rate is not None:
        run.learning_rate.add(step, run.tokens, rate)
    if speed is not None:
        run.speed.add(step, run.seconds / 60, speed)


def _eval(run: Run, record: dict[str, Any]) -> None:
    loss = number(record.get("loss"))
    run.held_out_loss = loss if loss is not None else run.held_out_loss
    exact, bits = number(record.get("exact")), number(record.get("bits_per_byte"))
    run.exact = exact if exact is not None else run.exact
    run.bits_per_byte = bits if bits is not None else run.bits_per_byte
    if loss is not None:
        tokens = number(record.get("tokens"))
        run.held_out.add(number(record.get("step")) or 0.0, run.tokens if tokens is None else tokens, loss)


def _sample(run: Run, record: dict[str, Any]) -> None:
    prompt, text = str(record.get("prompt", "")), str(record.get("text", ""))
    if prompt not in run.first and len(run.first) >= PROMPTS:
        return
    found = (int(number(record.get("step")) or 0), text)
    run.first.setdefault(prompt, found)
    run.last[prompt] = found
