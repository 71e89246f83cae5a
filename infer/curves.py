"""What a run wrote about itself: metrics.jsonl read as a stream into thin curves, however many lines it has."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from narae.artifact import Artifact
from narae.ledger import Ledger
from narae.ledger import read as read_ledger
from narae.log import number, stream_metrics

LIMIT = 600  # points of a curve: more than a screen has columns for
PROMPTS = 12
TEXTS = 64  # of a prompt; beyond that, every other one between the first and the last goes
BROKEN = 30  # places of losses that are no number


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
class Evaluation:
    """What one evaluation said of the held-out text, and of each source within it."""

    step: int
    tokens: float
    bits_per_byte: float | None
    accuracy: float | None
    sources: dict[str, dict[str, float]]


@dataclass
class Run:
    """One folder of runs/: what it was told to do, how far it came, and its curves."""

    name: str
    folder: Path
    artifact: Artifact | None = None
    config: dict[str, Any] = field(default_factory=dict)
    start: dict[str, Any] = field(default_factory=dict)  # the latest start's record: machine, precision, ranks
    ledger: Ledger | None = None
    loss: Curve = field(default_factory=Curve)
    held_out: Curve = field(default_factory=Curve)
    bits: Curve = field(default_factory=Curve)
    accuracies: Curve = field(default_factory=Curve)
    sources: dict[str, Curve] = field(default_factory=dict)  # bits per byte of each
    learning_rate: Curve = field(default_factory=Curve)
    gradient: Curve = field(default_factory=Curve)
    speed: Curve = field(default_factory=Curve)
    use: Curve = field(default_factory=Curve)  # of the matrix product's rate
    memory: Curve = field(default_factory=Curve)
    evaluations: list[Evaluation] = field(default_factory=list)
    texts: dict[str, list[tuple[int, str]]] = field(default_factory=dict)  # prompt -> step, text
    restarts: list[tuple[int, float]] = field(default_factory=list)  # step and tokens
    skipped: int = 0  # steps whose update was left out
    rollbacks: list[float] = field(default_factory=list)  # tokens where the run went back to a checkpoint
    broken: list[float] = field(default_factory=list)  # tokens where a loss was no number
    step: int = 0
    total_steps: int = 0
    tokens: float = 0.0
    tokens_per_step: float = 0.0
    rows: float | None = None
    epoch: Any = None  # a number, or one for each set
    seconds: float = 0.0
    memory_mb: float = 0.0
    bits_per_byte: float | None = None
    held_out_loss: float | None = None
    accuracy: float | None = None
    exact: float | None = None  # share of held-out answers, of a chat run
    not_numbers: int = 0
    kept_best: int | None = None  # step of the best checkpoint
    ended: bool = True

    @property
    def finished(self) -> bool:
        return self.artifact is not None

    @property
    def first(self) -> dict[str, tuple[int, str]]:
        return {prompt: found[0] for prompt, found in self.texts.items()}

    @property
    def last(self) -> dict[str, tuple[int, str]]:
        return {prompt: found[-1] for prompt, found in self.texts.items()}

    def tokens_at(self, step: float) -> float:
        """A little before or after the last record, by what a step reads there."""
        return max(self.tokens + (step - self.step) * self.tokens_per_step, 0.0)


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
    run.ledger = read_ledger(folder)
    before: float | None = None
    for record in stream_metrics(folder / "metrics.jsonl"):
        kind, now = record.get("kind"), number(record.get("time"))
        if now is not None:
            # From the end of one attempt to the start of the next nobody trained.
            if before is not None and kind not in ("open", "start"):
                run.seconds += max(now - before, 0.0)
            before = now
        run.memory_mb = max(run.memory_mb, number(record.get("memory_mb")) or 0.0)
        if kind == "train":
            _train(run, record)
        elif kind == "eval":
            _eval(run, record)
        elif kind == "sample":
            _sample(run, record)
        elif kind == "skip":
            run.skipped += 1
        elif kind == "rollback":
            run.rollbacks.append(run.tokens_at(int(number(record.get("to")) or 0)))
        elif kind == "save" and record.get("best") is True:
            run.kept_best = _step(record)
        elif kind == "start":
            run.start, step = record, _step(record)
            if step:
                run.restarts.append((step, run.tokens_at(step)))
        if kind in ("open", "start", "end"):
            run.ended = kind == "end"
    if not run.ended:  # what lies in final/ is of a run before this one
        run.artifact = None
    return run


def _step(record: dict[str, Any]) -> int:
    return int(number(record.get("step")) or 0)


def _train(run: Run, record: dict[str, Any]) -> None:
    step, tokens = _step(record), number(record.get("tokens")) or run.tokens
    if step > run.step and tokens > run.tokens:
        run.tokens_per_step = (tokens - run.tokens) / (step - run.step)
    run.step, run.total_steps = step, int(number(record.get("total_steps")) or run.total_steps)
    run.tokens = tokens
    rows = number(record.get("rows"))
    run.rows, run.epoch = run.rows if rows is None else rows, record.get("epoch", run.epoch)
    if number(record.get("loss")) is None and "loss" in record:
        run.not_numbers += 1
        run.broken = [*run.broken[1 - BROKEN :], tokens]
    drawn = {
        "loss": run.loss,
        "learning_rate": run.learning_rate,
        "grad_norm": run.gradient,
        "tokens_per_s": run.speed,
        "mfu": run.use,
        "memory_mb": run.memory,
    }
    for key, curve in drawn.items():
        value = number(record.get(key))
        if value is not None:
            curve.add(step, tokens, value)


def _eval(run: Run, record: dict[str, Any]) -> None:
    step, loss, exact = _step(record), number(record.get("loss")), number(record.get("exact"))
    run.held_out_loss = loss if loss is not None else run.held_out_loss
    run.exact = exact if exact is not None else run.exact
    bits, accuracy = number(record.get("bits_per_byte")), number(record.get("accuracy"))
    run.bits_per_byte = bits if bits is not None else run.bits_per_byte
    run.accuracy = accuracy if accuracy is not None else run.accuracy
    tokens = number(record.get("tokens"))
    tokens = run.tokens_at(step) if tokens is None else tokens
    told = record.get("sources")
    sources = {
        str(name): {key: found for key, value in figures.items() if (found := number(value)) is not None}
        for name, figures in (told.items() if isinstance(told, dict) else ())
        if isinstance(figures, dict)
    }
    for curve, value in ((run.held_out, loss), (run.bits, bits), (run.accuracies, accuracy)):
        if value is not None:
            curve.add(step, tokens, value)
    for name, figures in sources.items():
        if "bits_per_byte" in figures:
            run.sources.setdefault(name, Curve()).add(step, tokens, figures["bits_per_byte"])
    while run.evaluations and run.evaluations[-1].step >= step:  # said again after a restart
        run.evaluations.pop()
    run.evaluations.append(Evaluation(step, tokens, bits, accuracy, sources))


def _sample(run: Run, record: dict[str, Any]) -> None:
    prompt, step = str(record.get("prompt", "")), _step(record)
    if prompt not in run.texts and len(run.texts) >= PROMPTS:
        return
    found = run.texts.setdefault(prompt, [])
    while found and found[-1][0] >= step:
        found.pop()
    found.append((step, str(record.get("text", ""))))
    if len(found) > TEXTS:
        del found[1:-1:2]
