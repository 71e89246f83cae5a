"""The planner's page: tables, conclusion and where each figure comes from, in the words of pretrain/plan.yaml."""

import math
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import yaml

from narae.footprint import CONTEXT, PARTS, Way, checkpoint_bytes, final_bytes, footprint
from pretrain.cost import (
    FRAGMENTS,
    HOST_LINK,
    HOST_MEMORY,
    NETWORK,
    START,
    STREAM,
    Job,
    interval,
    lost,
    quickest,
    time_of,
)
from pretrain.findings import padded, width
from pretrain.segments import count_of


class Texts:
    """Everything that the planner says, in one language."""

    def __init__(self, language: str):
        self.language = language
        self.content = yaml.safe_load(Path(__file__).with_name("plan.yaml").read_text(encoding="utf-8"))

    def __call__(self, part: str, name: str, **values: Any) -> str:
        return str(self.content[part][name][self.language]).format(**values)

    def way(self, way: Way) -> str:
        kind = "plain" if way.stage is None else "offload" if way.offload else "zero"
        return self("ways", kind, stage=way.stage)


def memory_table(config: Any, job: Job, ways: dict[str, Way], texts: Texts) -> Iterator[str]:
    micro = config.micro or max(one for one in job.micros() if one <= 8)
    sized = {file: job.sized(way, micro) for file, way in ways.items()}
    found = {file: footprint(job.shape, way) for file, way in sized.items()}
    again = texts("words", "again") if any(way.checkpointing for way in ways.values()) else ""
    yield texts("words", "memory", micro=micro, again=again)
    rows = [["", *(texts.way(way) for way in ways.values())]]
    for part in PARTS:
        sizes = [one.parts[part] for one in found.values()]
        if any(sizes):
            rows.append([texts("parts", part), *(gigabytes(size) if size else "·" for size in sizes)])
    rows.append([texts("words", "total"), *(gigabytes(one.total) for one in found.values())])
    verdicts = [texts("words", "fits" if job.fits(way) else "too_large") for way in sized.values()]
    rows.append([texts("words", "verdict", memory=gigabytes(job.device.memory)), *verdicts])
    rows.append([texts("words", "moment"), *(texts("points", one.moment) for one in found.values())])
    if any(one.host for one in found.values()):
        hosts = [gigabytes(one.host) if one.host else "·" for one in found.values()]
        rows.append([texts("words", "host"), *hosts])
    yield from table(rows)


def time_table(config: Any, job: Job, ways: dict[str, Way], texts: Texts) -> Iterator[str]:
    tokens = tokens_of(config, job)
    yield texts("words", "time" if config.micro else "time_largest")
    columns: list[list[str]] = []
    for way in ways.values():
        largest = job.largest(way)
        micro = config.micro or largest
        if not micro or not job.fits(job.sized(way, micro)):
            columns.append([texts.way(way), str(largest or "·"), *["·"] * 8])
            continue
        time = time_of(job, job.sized(way, micro))
        per_second = job.batch_rows * job.shape.length / time.step
        days = tokens / per_second / 86400
        figures = [figure(one) for one in (time.compute, time.hidden, time.exposed, time.step)]
        columns.append(
            [
                texts.way(way),
                str(largest),
                *figures,
                f"{per_second / job.ranks:,.0f}",
                figure(per_second * 86400 / 1e9),
                figure(days),
                f"{days * 24 * job.ranks:,.0f}",
            ]
        )
    names = ["largest", "compute", "hidden", "exposed", "step", "per_second", "per_day", "days", "hours"]
    first = ["", *(texts("words", name, tokens=short(tokens)) for name in names)]
    yield from table([list(row) for row in zip(first, *columns, strict=True)])


def conclusion(config: Any, job: Job, ways: dict[str, Way], texts: Texts) -> Iterator[str]:
    # On several devices DeepSpeed is meant: slurm/pretrain.sh starts nothing else, and the Trainer alone shares nothing
    found = quickest(job, [way for way in ways.values() if way.stage is not None or job.ranks == 1], config.micro)
    if not found:
        yield texts("words", "none")
        return
    best, time = found
    one = checkpoint_bytes(job.shape, best.stage, best.muon)
    kept = config.save_total_limit
    yield texts(
        "words",
        "disk",
        one=gigabytes(one),
        kept=kept,
        all=gigabytes(one * (kept + 1)),
        final=gigabytes(final_bytes(job.shape, best.stage)),
    )
    seconds = one / (config.disk_gb_per_s * 1e9)
    every = interval(seconds, config.mtbf_hours, config.nodes)
    steps = max(1, round(every / time.step))
    yield texts(
        "words",
        "save",
        seconds=figure(seconds),
        speed=f"{config.disk_gb_per_s:g}",
        mtbf=f"{config.mtbf_hours:,.0f}",
        any=f"{config.mtbf_hours / config.nodes:,.0f}",
        nodes=config.nodes,
        minutes=figure(every / 60),
        steps=f"{steps:,}",
        lost=figure(100 * lost(seconds, config.mtbf_hours, config.nodes)),
    )
    tenth = math.ceil(tokens_of(config, job) / (10 * job.batch_rows * job.shape.length))
    if steps > tenth:
        steps = tenth
        yield texts("words", "often", steps=f"{steps:,}")
    file = next(name for name, way in ways.items() if (way.stage, way.offload) == (best.stage, best.offload))
    yield texts("words", "best", way=texts.way(best), micro=best.micro, pieces=best.pieces)
    yield texts("words", "type")
    yield "  " + command(config, job, best, file, steps)


def command(config: Any, job: Job, way: Way, file: str, steps: int) -> str:
    """What starts the run, in a shell."""
    words = ["--model_config", config.model_config] if config.model_config else ["--size", config.size]
    words += ["--batch_rows", str(job.batch_rows), "--per_device_train_batch_size", str(way.micro)]
    words += ["--train_tokens", config.train_tokens or short(tokens_of(config, job))]
    words += ["--save_steps", str(steps), "--save_total_limit", str(config.save_total_limit)]
    words += ["--optimizer", "muon"] * way.muon + ["--gradient_checkpointing", "true"] * way.checkpointing
    words += ["--deepspeed", file] if file else []
    if config.nodes > 1:
        start = f"sbatch --nodes={config.nodes} --gpus-per-node={config.gpus} --ntasks-per-node={config.gpus}"
        return f"{start} slurm/pretrain.sh {' '.join(words)}"
    if config.gpus == 1 and not file:
        return f"python pretrain/run.py {' '.join(words)}"
    return f"torchrun --nproc-per-node={config.gpus} pretrain/run.py {' '.join(words)}"


def sources(config: Any, job: Job, texts: Texts) -> Iterator[str]:
    """Which figures are measured, which computed, which assumed."""
    device = job.device
    links = {name: figure(getattr(device, name) / 1e9) for name in ("within", "between", "stream")}
    rate, memory = figure(device.rate / 1e12), gigabytes(device.memory)
    hops = {"start": START, "hop": device.hop, "out": device.hop_out}
    copied = figure(device.stream * STREAM / 1e9)
    share = [("share", {"share": figure(100 * job.mfu)})]
    bus = [("bus", {"bus": figure(job.bus / 1e9)})] if job.bus else []
    here = [("rate", {"rate": rate}), ("memory", {"memory": memory, "stream": copied})] if device.measured else []
    sheet = "sheet_but_out" if device.guessed else "sheet"
    flops = figure(job.shape.flops_per_token / 1e9)
    lists: dict[str, list[tuple[str, dict[str, str]]]] = {
        "measured": [*here, *share * bool(config.mfu), *bus, ("bench", {})],
        "computed": [("memory", {}), ("flops", {"flops": flops}), ("step", {}), ("disk", {})],
        "assumed": [
            ("links", links) if device.measured else (sheet, {"rate": rate, "memory": memory, **links}),
            *share * (not config.mfu),
            ("network", {"network": figure(100 * NETWORK), "stream": figure(100 * STREAM)}),
            ("hops", {name: f"{1e6 * one:g}" for name, one in hops.items()}),
            ("context", {"context": f"{CONTEXT[device.kind] / 1e9:g}", "fragments": figure(100 * (1 - FRAGMENTS))}),
            ("host", {"link": f"{HOST_LINK / 1e9:g}", "memory": f"{HOST_MEMORY / 1e9:g}"}),
            ("failures", {"mtbf": f"{config.mtbf_hours:,.0f}", "speed": f"{config.disk_gb_per_s:g}"}),
            ("uncounted", {}),
        ],
    }
    for kind, lines in lists.items():
        yield texts("kinds", kind)
        yield from (f"  - {texts(kind, name, **values)}" for name, values in lines)


def tokens_of(config: Any, job: Job) -> int:
    return count_of(config.train_tokens, "--train_tokens") if config.train_tokens else 20 * job.shape.parameters


def gigabytes(size: float) -> str:
    return f"{size / 1e9:,.1f}" if size >= 1e8 else f"{size / 1e9:.2f}"


def figure(value: float) -> str:
    """Three digits that count, and never a power of ten."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}" if value >= 0.001 else "0"


def short(tokens: int) -> str:
    for unit, name in ((1e12, "T"), (1e9, "B"), (1e6, "M")):
        if tokens >= unit:
            return f"{tokens / unit:.3g}{name}"
    return str(tokens)


def table(rows: list[list[str]]) -> Iterable[str]:
    columns = [max(width(row[number]) for row in rows) for number in range(len(rows[0]))]
    for row in rows:
        first, *others = row
        cells = [" " * (columns[number] - width(cell)) + cell for number, cell in enumerate(others, 1)]
        yield "  " + "  ".join([padded(first, columns[0]), *cells]).rstrip()
