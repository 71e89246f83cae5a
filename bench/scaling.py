"""python bench/scaling.py [--gpu a100-80] [--mfu 0.43] [--write]

The tables of docs/scaling.md: what pretrain/cost.py foretells for 1 to 64 GPUs. --write puts them between the marks in
both languages; another card or another measured share is only printed.
"""

import argparse
import functools
import json
import re
from collections.abc import Iterator
from dataclasses import replace

from bench.collectives import CASES, RESULT
from narae.config import HOME
from narae.footprint import SHARE, Shape, Way, checkpoint_bytes, shape_of
from narae.model import SIZES, new_config
from pretrain.cost import DEVICES, MTBF_HOURS, Device, Job, Time, interval, lost, time_of
from pretrain.plan import told
from pretrain.quote import figure

MODELS, GPUS, NODE = ("125m", "1.3b"), (1, 2, 4, 8, 16, 32, 64), 8
ENTRIES, LENGTH, DISK = 32_768, 512, 2e9  # the planner's defaults
WAYS: dict[str, Way] = {"DDP": Way()}
WAYS |= {f"ZeRO-{stage}": Way(stage, bucket=told(f"configs/ds/zero{stage}.json")[2]) for stage in (1, 2, 3)}
# Bytes per second out of a node of eight
NETWORKS = {"8 × 400 Gb/s": 400e9, "400 Gb/s": 50e9, "100 Gb/s": 12.5e9, "10 Gb/s": 1.25e9}
PAYS = 1.5  # times the tokens/s, for twice the GPUs
PAGES = {"en": "docs/scaling.md", "ko": "docs/scaling.ko.md"}
NONE = "·"
Table = list[list[str]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gpu", default="h100", choices=DEVICES)
    parser.add_argument("--mfu", type=float, default=SHARE, help="the share of the card's rate that was measured")
    parser.add_argument("--write", action="store_true", help="into docs/scaling.md and docs/scaling.ko.md")
    asked = parser.parse_args()
    if asked.write and (asked.gpu, asked.mfu) != ("h100", SHARE):
        parser.error("the documents hold the tables of an h100 at the assumed share: leave --gpu and --mfu out")
    for language, page in PAGES.items():
        made = dict(tables(DEVICES[asked.gpu], asked.mfu, language))
        if asked.write:
            text = (HOME / page).read_text(encoding="utf-8")
            (HOME / page).write_text(filled(text, made), encoding="utf-8")
        elif language == "en":
            print("\n\n".join(f"{name}\n{markdown(table)}" for name, table in made.items()))


def filled(text: str, made: dict[str, Table]) -> str:
    """The page with each table between its marks."""
    for name, table in made.items():
        mark = re.compile(rf"(<!-- {re.escape(name)} -->\n).*?(<!-- end -->)", flags=re.DOTALL)
        assert len(mark.findall(text)) == 1, name
        text = mark.sub(lambda found, table=table: f"{found[1]}{markdown(table)}\n{found[2]}", text)  # type: ignore[misc]
    return text


def markdown(table: Table) -> str:
    lines = ["| " + " | ".join(row) + " |" for row in table]
    return "\n".join([lines[0], "|---" * len(table[0]) + "|", *lines[1:]])


HEADS = {
    "gpus": ("GPUs", "GPU"),
    "rows": ("rows per rank", "랭크당 행"),
    "network": ("out of a node", "노드 밖 네트워크"),
    "share": ("share reached", "도달하는 몫"),
    "one": ("1 GPU", "GPU 1장"),
    "assumption": ("assumption", "가정"),
    "rate": ("training reaches {} %", "학습 속도 {} %"),
    "links": ("links reach 35 %", "링크 속도의 35 %"),
    "hops": ("hops three times as long", "한 걸음이 세 배"),
    "alone": ("nothing overlaps", "겹치는 통신 없음"),
    "stream": ("AdamW at half the rate", "AdamW 속도 절반"),
    "way": ("way", "방식"),
    "moved": ("sent in a step", "한 스텝에 보낸 것"),
    "counted": ("counted, MB", "센 값, MB"),
    "foretold": ("foretold, MB", "예측, MB"),
    "ratio": ("foretold / counted", "예측 / 센 값"),
    "nodes": ("nodes", "노드"),
    "apart": ("hours between failures", "고장 간격, 시간"),
    "every": ("minutes between saves", "저장 간격, 분"),
    "lost": ("of the time", "잃는 시간"),
}


def tables(device: Device, mfu: float, language: str) -> Iterator[tuple[str, Table]]:
    def head(name: str, *values: str) -> str:
        return HEADS[name][list(PAGES).index(language)].format(*values)

    for model in MODELS:
        jobs = [job_of(model, count, device, mfu) for count in GPUS]
        for name, cell in (("rate", rate), ("hours", hours), ("waiting", waiting)):
            rows = [[str(job.ranks), str(job.share), *(cell(job, way) for way in WAYS.values())] for job in jobs]
            yield f"{name} {model}", [[head("gpus"), head("rows"), *WAYS], *rows]
    for model in MODELS:
        far = {name: replace(device, between=out) for name, out in NETWORKS.items()}
        rows = [[name, *(paying(model, way, one, mfu) for way in WAYS.values())] for name, one in far.items()]
        yield f"networks {model}", [[head("network"), *WAYS], *rows]
    counts = [f"{model}: {count}" for model in MODELS for count in (head("one"), "8", "64")]
    yield "share", [[head("share"), *counts], *shares(device, mfu)]
    names = [f"{model} {way}" for model in MODELS for way in WAYS]
    rows = [[head(name, *words), *cells] for name, words, cells in changes(device, mfu)]
    yield "assumptions", [[head("assumption"), *names], *rows]
    yield "counted", [[head(name) for name in ("way", "moved", "counted", "foretold", "ratio")], *collectives()]
    yield "saving", [[head(name) for name in ("nodes", "apart", "every", "lost")], *saving()]


@functools.cache
def shape(model: str) -> Shape:
    return shape_of(new_config(model, ENTRIES, LENGTH), LENGTH)


def job_of(model: str, count: int, device: Device, mfu: float) -> Job:
    return Job(shape(model), device, min(count, NODE), max(1, count // NODE), SIZES[model].batch_rows, mfu)


@functools.cache
def micro(parameters: int, memory: float, count: int, way: Way) -> int:
    """The largest micro-batch that fits, which no rate changes."""
    name = next(name for name in MODELS if shape(name).parameters == parameters)
    return job_of(name, count, Device("", memory, 1, 1, 1, 1), SHARE).largest(way)


def time(job: Job, way: Way) -> Time:
    return time_of(job, job.sized(way, micro(job.shape.parameters, job.device.memory, job.ranks, way)))


def per_second(job: Job, way: Way) -> float:
    return job.batch_rows * LENGTH / time(job, way).step


def fits(job: Job, way: Way) -> bool:
    return micro(job.shape.parameters, job.device.memory, job.ranks, way) > 0


def rate(job: Job, way: Way) -> str:
    """Thousand tokens per second, and what share that is of as many single cards."""
    if not fits(job, way):
        return NONE
    one = replace(job, gpus=1, nodes=1)
    if not fits(one, way):
        return f"{per_second(job, way) / 1000:,.0f}k"
    share = per_second(job, way) / job.ranks / per_second(one, way)
    return f"{per_second(job, way) / 1000:,.0f}k ({100 * share:.0f} %)"


def hours(job: Job, way: Way) -> str:
    return figure(20 * job.shape.parameters / per_second(job, way) / 3600) if fits(job, way) else NONE


def waiting(job: Job, way: Way) -> str:
    """Milliseconds of a step that it waits, of those of communication and AdamW together."""
    if not fits(job, way):
        return NONE
    found = time(job, way)
    return f"{figure(1000 * found.exposed)} / {figure(1000 * (found.exposed + found.hidden))}"


def paying(model: str, way: Way, device: Device, mfu: float) -> str:
    """The most GPUs up to which each doubling pays, and what 64 bring beside one node."""
    found = {count: per_second(job_of(model, count, device, mfu), way) for count in GPUS if count >= NODE}
    last = NODE
    while 2 * last in found and found[2 * last] >= PAYS * found[last]:
        last *= 2
    return f"{last} ({found[GPUS[-1]] / found[NODE]:.2g}×)"


def shares(device: Device, mfu: float) -> Iterator[list[str]]:
    for share in sorted({0.3, mfu, 0.5, 0.6}):
        jobs = [job_of(model, count, device, share) for model in MODELS for count in (1, NODE, GPUS[-1])]
        yield [f"{100 * share:g} %", *(rate(job, WAYS["ZeRO-2"]) for job in jobs)]


def changes(device: Device, mfu: float) -> Iterator[tuple[str, tuple[str, ...], list[str]]]:
    """What becomes of the tokens/s on 64 GPUs where an assumption turns out otherwise."""
    slower = replace(device, within=device.within / 2, between=device.between / 2)
    others: list[tuple[str, tuple[str, ...], Device, float]] = [
        ("rate", ("30",), device, 0.3),
        ("rate", ("50",), device, 0.5),
        ("links", (), slower, mfu),
        ("hops", (), replace(device, hop=3 * device.hop, hop_out=3 * device.hop_out), mfu),
        ("stream", (), replace(device, stream=device.stream / 2), mfu),
    ]
    ways = [(model, way) for model in MODELS for way in WAYS.values()]
    before = [time(job_of(model, GPUS[-1], device, mfu), way) for model, way in ways]
    for name, words, other, share in others:
        after = [time(job_of(model, GPUS[-1], other, share), way).step for model, way in ways]
        yield name, words, [change(one.step, new) for one, new in zip(before, after, strict=True)]
    yield "alone", (), [change(one.step, one.step + one.hidden) for one in before]


def change(before: float, after: float) -> str:
    percent = round(100 * (before / after - 1))
    return f"{percent:+d} %" if percent else "0 %"


def collectives() -> Iterator[list[str]]:
    """What bench/collectives.py counted, as it was kept."""
    cases = json.loads(RESULT.read_text(encoding="utf-8"))["cases"]
    for name, one in ((name, cases[name]) for name in CASES):
        moved = ", ".join(f"{size['calls']} {kind}" for kind, size in one["operations"].items())
        yield [name, moved, f"{one['sent'] / 1e6:.1f}", f"{one['foretold'] / 1e6:.1f}", f"{one['ratio']:.3f}"]


def saving() -> Iterator[list[str]]:
    seconds = checkpoint_bytes(shape("1.3b"), 2) / DISK
    for nodes in (1, 2, 4, 8):
        every, share = (function(seconds, MTBF_HOURS, nodes) for function in (interval, lost))
        yield [str(nodes), f"{MTBF_HOURS / nodes:,.0f}", figure(every / 60), f"{100 * share:.2f} %"]


if __name__ == "__main__":
    main()
