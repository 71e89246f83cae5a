"""What a pretraining run is told, and what follows before torch is imported: its rows, its course, its identity."""

import math
import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from narae.artifact import Artifact, find, plain
from narae.config import deciding, option
from narae.log import Mistake
from narae.mixture import open_sets
from narae.model import Size, read_json, recipe
from narae.order import Mixing, whole_weights
from pretrain.segments import Course, Turn, count_of, turns_of

LENGTHS = "train_tokens", "max_steps", "num_train_epochs"
RECIPE = "learning_rate", "warmup_steps"


@dataclass
class Config:
    name: str = option("sample", "the run; its folder is artifacts/runs/<name>")
    overwrite: bool = option(False, "replace a run of another config under this name")
    packed: str = option("sample", "the packed rows to read; several as books:0.7,news:0.3, mixed by these weights")
    phases: list[str] = option([], "another mixture from a point on: START=MIXTURE, START as 8B tokens or 80 percent")
    size: str = option("tiny", "the model's shape and recipe, from the table in narae/model.py")
    model_config: str | None = option(None, "config.json of another causal LM to start from random weights")
    scaled_init: bool = option(True, "weights that write into the residual stream begin smaller, by depth")
    attn_implementation: str | None = option(None, "eager, sdpa, flash_attention_2 … (default: transformers' choice)")
    train_tokens: str | None = option(None, "how long: 10B, 500M; may grow on the way. Or --max_steps, or epochs")
    batch_rows: int | None = option(None, "rows in one step, over all ranks and accumulation (default: by size)")
    batch_tokens: str | None = option(None, "the same in tokens: 524_288")
    batch_ramp: list[str] = option([], "other rows in a step from a point on: START=ROWS …")
    optimizer: str = option("adamw", "adamw; or muon for the blocks' matrices with adamw for the rest")
    muon_learning_rate: float = option(0.02, "of muon's matrices; the schedule scales it as it does learning_rate")
    muon_momentum: float = option(0.95, "of muon's matrices")
    decay: float = option(0.2, "share of the run in which warmup_stable_decay lowers the learning rate")
    document_attention: bool = option(True, "no token sees another document, and positions begin again in each")
    document_loss: str = option("all", "inside leaves out a document's first token after the end of another; or all")
    eval_rows: int = option(0, "held-out rows to judge by, evenly spaced; 0 is all")
    metric: str | None = option(None, "a metric file for the evaluate library, beside ours: predictions, references")
    prompts: list[str] = option([], "what the model goes on from after each evaluation (default: held-out beginnings)")
    max_skips: int = option(3, "bad steps in a row whose update is left out, before going back to a checkpoint")
    spike_sigmas: float = option(6.0, "a loss so many standard deviations above the mean is a spike; 0 looks for none")
    spike_window: int = option(128, "mean and deviation are those of so many good steps before it")
    profile_steps: str | None = option(None, "FIRST:LAST: a trace of these steps, into the run's folder")


CHOICES = {"document_loss": ("all", "inside"), "optimizer": ("adamw", "muon")}


def check(config: Config, asked: dict[str, Any]) -> None:
    """What is wrong in itself, whatever lies on the disk."""
    for name, choices in CHOICES.items():
        if getattr(config, name) not in choices:
            raise Mistake(f"--{name} {getattr(config, name)}: it is {' or '.join(choices)}")
    if "device_map" in asked:
        raise Mistake(
            "--device_map spreads one model over devices in one process; here each rank has its own: leave it"
        )
    if config.optimizer == "muon" and "optim" in asked:
        raise Mistake(f"--optimizer muon and --optim {asked['optim']}: leave one out")
    if not 0 < config.decay <= 1:
        raise Mistake(f"--decay {config.decay}: it is a share of the run, above 0 and at most 1")
    if config.metric and not Path(config.metric).exists():
        raise Mistake(f"--metric {config.metric}: there is no such file")
    if config.max_skips < 0 or config.spike_sigmas < 0:
        raise Mistake(f"--max_skips {config.max_skips} --spike_sigmas {config.spike_sigmas}: neither is below 0")
    if config.spike_window < 16:
        raise Mistake(f"--spike_window {config.spike_window}: fewer than 16 losses say too little about their spread")
    if config.profile_steps:
        profiled(config.profile_steps)


def profiled(words: str) -> tuple[int, int]:
    """--profile_steps FIRST:LAST, both included."""
    found = re.fullmatch(r"(\d+):(\d+)", words)
    first, last = (int(found[1]), int(found[2])) if found else (0, 0)
    if not 1 <= first <= last:
        raise Mistake(f"--profile_steps {words}: FIRST:LAST is needed, such as 20:24, counted from 1")
    return first, last


def advice(config: Config) -> Size:
    """How a model of this size is trained where nothing else is said."""
    return recipe(config.size, read_json(Path(config.model_config)) if config.model_config else None)


def sets_of(config: Config) -> list[Artifact]:
    """The packed sets of all phases, each once."""
    found = [packed for packed, _ in open_sets(config.packed)]
    for word in " ".join(config.phases).split():
        found += [one for one, _ in open_sets(word.partition("=")[2]) if one.path not in {old.path for old in found}]
    return found


def weights_of(words: str, sets: list[Artifact]) -> tuple[int, ...]:
    """Of each set in this mixture; 0 for one that is not in it."""
    mixed = open_sets(words)
    weights = dict(zip((one.path for one, _ in mixed), whole_weights([one for _, one in mixed]), strict=True))
    return tuple(weights.get(one.path, 0) for one in sets)


def course_of(config: Config, asked: dict[str, Any], sets: list[Artifact]) -> Course:
    """How many rows in which steps out of which mixture."""
    counts = tuple(int(one.counts["train"]["rows"]) for one in sets)
    length = int(sets[0].counts["sequence_length"])
    batch_rows = batch_of(config, length)
    given = lengths_given(config, asked)
    if "max_steps" in given:
        if config.batch_ramp:
            raise Mistake("--batch_ramp with --max_steps: say the length in tokens, --train_tokens")
        rows = int(given["max_steps"]) * batch_rows
    elif "train_tokens" in given:
        rows = math.ceil(count_of(str(given["train_tokens"]), "--train_tokens") / length)
    else:
        weights = weights_of(config.packed, sets)
        once = sum(count for count, weight in zip(counts, weights, strict=True) if weight)
        rows = math.ceil(float(given.get("num_train_epochs", 1)) * once)
    turns = []
    for position, word in turns_of(config.batch_ramp, "--batch_ramp", rows, length):
        if not word.isdigit() or int(word) < 1:
            raise Mistake(f"--batch_ramp …={word}: a number of rows is needed")
        turns.append(Turn(position, batch_rows=int(word)))
    for position, word in turns_of(config.phases, "--phases", rows, length):
        turns.append(Turn(position, weights=weights_of(word, sets)))
    mixing = Mixing(counts, weights_of(config.packed, sets), int(asked.get("seed", 42)))
    return Course.of(mixing, max(rows, batch_rows), batch_rows, turns)


def batch_of(config: Config, length: int) -> int:
    if config.batch_tokens is None:
        rows = config.batch_rows if config.batch_rows is not None else advice(config).batch_rows
    else:
        tokens = count_of(config.batch_tokens, "--batch_tokens")
        rows, rest = divmod(tokens, length)
        if rest or not rows:
            near = max(1, 1 << round(math.log2(max(tokens / length, 1))))
            raise Mistake(
                f"--batch_tokens {config.batch_tokens} is no whole number of rows of {length} tokens: "
                f"{near * length:_} is {near:,} rows"
            )
    if rows < 1:
        raise Mistake(f"--batch_rows {rows}: at least one row is needed in a step")
    return rows


def lengths_given(config: Config, asked: dict[str, Any]) -> dict[str, Any]:
    """Which of the ways to say how long; what stands on the command line goes before what a file says."""
    given = {name: asked[name] for name in LENGTHS if asked.get(name) is not None and float(asked[name]) > 0}
    if config.train_tokens is not None:
        given["train_tokens"] = config.train_tokens
    typed = {word.partition("=")[0].lstrip("-").replace("-", "_") for word in sys.argv[1:] if word.startswith("--")}
    first = {name: value for name, value in given.items() if name in typed} or given
    if len(first) > 1:
        one, other = list(first)[:2]
        raise Mistake(f"--{one} {first[one]} and --{other} {first[other]} both say how long the run is: leave one out")
    return first


def identity_of(config: Config, asked: dict[str, Any], course: Course, sets: list[Artifact]) -> dict[str, Any]:
    """What decides the weights that come out."""
    identity: dict[str, Any] = {
        "model": read_json(Path(config.model_config)) if config.model_config else config.size,
        "train_tokens": course.rows * int(sets[0].counts["sequence_length"]),
        "batch_rows": course.segments[0].batch_rows,
        "scaled_init": config.scaled_init,
        "optimizer": config.optimizer,
        "document_attention": config.document_attention,
        "document_loss": config.document_loss,
        "max_skips": config.max_skips,
        "spike_sigmas": config.spike_sigmas,
        "spike_window": config.spike_window,
    }
    identity |= {name: getattr(advice(config), name) for name in RECIPE}
    if config.optimizer == "muon":
        identity |= {"muon_learning_rate": config.muon_learning_rate, "muon_momentum": config.muon_momentum}
    if asked.get("lr_scheduler_type") == "warmup_stable_decay":
        identity["decay"] = config.decay
    if len(sets) > 1:
        weights = course.segments[0].mixing.weights
        identity["mixture"] = ", ".join(f"{one.name}:{share}" for one, share in zip(sets, weights, strict=True))
    if config.batch_ramp:
        identity["batch_ramp"] = " ".join(config.batch_ramp)
    if config.phases:
        identity["phases"] = " ".join(config.phases)
    return identity | deciding(asked, "per_device_train", "gradient_accumulation", "metric_for", *LENGTHS)


def grows(config: Config, identity: dict[str, Any]) -> bool:
    """Whether a finished run is to become longer: nothing else about it changed."""
    found = find("model", config.name)
    if found is None or config.overwrite:
        return False
    was, now = found.manifest["config"], plain(identity)
    return was | {"train_tokens": 0} == now | {"train_tokens": 0} and was["train_tokens"] < now["train_tokens"]
