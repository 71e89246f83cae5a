"""What a visit to a card measures: in order of priority, with what each part is expected to take on an H200.

A model of 1.3b starts in about 30 seconds, most of them for drawing its weights; so a visit of eight minutes holds the
figures that matter and a few of the sweep, and the next one goes on with --after.
"""

from dataclasses import dataclass, replace
from typing import Any

LENGTH, ENTRIES = 512, 32_768
ABSENT = 77  # a program's exit code: what it needs is not there


@dataclass(frozen=True)
class Batch:
    rows: int  # in a step
    micro: int  # in a pass


@dataclass(frozen=True)
class Steps:
    """Which steps are looked at. A record each `every` steps; what is after `first` counts, `last` is the end."""

    every: int
    first: int
    last: int
    save: int  # the step of the one checkpoint: not the last record's, and more than half of `last`


# A step of 1.3b is to take about half a second, one of 125m a quarter
BATCHES = {"1.3b": Batch(64, 32), "125m": Batch(256, 128)}
STEPS = {"whole": Steps(4, 4, 20, 12), "short": Steps(4, 4, 12, 8)}
# The same programs where nothing is measured: bytes instead of gigabytes
DRY_LENGTH, DRY_ENTRIES = 64, 512
DRY_BATCHES = {"1.3b": Batch(4, 2), "125m": Batch(8, 8)}
DRY_STEPS = {"whole": Steps(2, 2, 8, 5), "short": Steps(2, 2, 6, 5)}
DRY_SHAPES: dict[str, dict[str, Any]] = {
    "1.3b": {"num_hidden_layers": 2, "hidden_size": 64, "num_attention_heads": 2, "intermediate_size": 256},
    "125m": {"num_hidden_layers": 1, "hidden_size": 32, "num_attention_heads": 2, "intermediate_size": 128},
}


@dataclass(frozen=True)
class Measurement:
    name: str
    program: list[str]  # after Python
    seconds: float  # expected on an H200
    needs: tuple[str, ...] = ()  # packages
    gpu: bool = False  # cannot run without a card
    group: str = ""  # of those that take the same time: the last one's tells what the next will take
    size: str = ""
    after: tuple[str, ...] = ()  # what must have been measured
    dry: tuple[str, ...] = ()  # words more in a dry run


def batch(size: str, dry: bool) -> Batch:
    return (DRY_BATCHES if dry else BATCHES)[size]


def steps(kind: str, dry: bool) -> Steps:
    return (DRY_STEPS if dry else STEPS)[kind]


def ours(size: str, what: str, *words: str, seconds: float, **more: Any) -> Measurement:
    """pretrain/run.py for a few steps; `words` before `--` are bench/gpu_ours.py's, those behind it the run's."""
    name = f"{size} {what}"
    run = name.replace(" ", "-").replace("=", "-")
    program = ["bench/gpu_ours.py", "--size", size, "--name", run, *words]
    return Measurement(name, program, seconds, size=size, after=("rows",), **more)


def plan(dry: bool) -> list[Measurement]:
    """In a dry run of several values of one option there is one: the others go the same way."""
    large, small = sweep("1.3b", 42), sweep("125m", 24)
    found = [
        Measurement("rates", ["bench/gpu_rates.py"], 20),
        Measurement("rows", ["bench/gpu_rows.py"], 15),
        *beside("1.3b", 85),
        *beside("125m", 40),
        ours("1.3b", "profile", "--profile", seconds=60),
        *(loss(name) for name in ("ours", "stock", "liger", "torch")),
        # What can change a decision soonest
        large.pop("document_attention=false"),
        large.pop("torch_compile"),
        Measurement("1.3b generation", ["bench/gpu_generate.py"], 45, size="1.3b", after=("rows",)),
        large.pop("micro=64"),
    ]
    first = [one for what, one in large.items() if what not in OTHER_VALUES]
    first += [loss(name) for name in ("ours-autocast", "stock-autocast", "liger-fp32-sums", "torch-chunked")]
    if dry:
        return [with_dry(one) for one in [*found, *first]]
    rest = [one for what, one in large.items() if what in OTHER_VALUES]
    return [*found, *first, ours("125m", "profile", "--profile", seconds=40), *small.values(), *rest]


OTHER_VALUES = {"micro=8", "micro=16", "zero=0", "workers=4"}


def loss(name: str) -> Measurement:
    """bench/loss.py knows what each needs."""
    return Measurement(f"loss {name}", ["bench/gpu_losses.py", "--loss", name], 18, group="loss")


def beside(size: str, takes: float) -> list[Measurement]:
    """Our run, and the stock Trainer on the same rows."""
    stock = ["bench/gpu_stock.py", "--size", size]
    return [
        ours(size, "ours", "--kind", "whole", "--save", seconds=takes),
        Measurement(f"{size} stock Trainer", stock, takes, size=size, after=("rows",)),
    ]


def sweep(size: str, takes: float) -> dict[str, Measurement]:
    """One thing changed against the run that stands beside the stock Trainer."""
    found: dict[str, Measurement] = {}

    def add(what: str, *words: str, extra: tuple[str, ...] = (), factor: float = 1, **more: Any) -> None:
        between = (*extra, *(("--", *words) if words else ()))
        group = f"{size} sweep" if factor == 1 else ""
        found[what] = ours(size, what, *between, seconds=factor * takes, group=group, **more)

    add("document_attention=false", "--document_attention", "false")
    # A processor's kernels are compiled by g++ for minutes, and bf16 ones not at all by torch 2.13
    add("torch_compile", "--torch_compile", "true", factor=2.5, dry=("--torch_compile_backend", "aot_eager"))
    for rows in (64, 16, 8) if size == "1.3b" else (256, 64):
        add(f"micro={rows}", extra=("--micro", str(rows)))
    add("attention=eager", "--attn_implementation", "eager")
    add("attention=flex_attention", "--attn_implementation", "flex_attention", factor=2, gpu=True)
    add("attention=flash_attention_2", "--attn_implementation", "flash_attention_2", needs=("flash_attn",))
    for stage in (1, 0):
        add(f"zero={stage}", extra=("--stage", str(stage)), needs=("deepspeed",))
    add("plain Trainer", extra=("--stage", "none"), needs=("deepspeed",))  # without it all are plain
    add("save_async", "--save_async", "true", extra=("--kind", "whole", "--save"), factor=1.7)
    for count in (2, 4):
        add(f"workers={count}", "--dataloader_num_workers", str(count))
    return found


def with_dry(one: Measurement) -> Measurement:
    place = one.program.index("--") if "--" in one.program else len(one.program)  # behind it stand the run's own words
    return replace(one, program=[*one.program[:place], "--dry_run", *one.program[place:], *one.dry], seconds=120)
