"""Before a run: does it fit, how long does it take, what does it cost. And is this node fit for it.

    python pretrain/plan.py --size 1.3b --gpus 8 --nodes 2 --gpu h100 --train_tokens 100B
    python pretrain/plan.py --size 350m --gpus 1 --gpu this --language ko         # this machine, its speed measured
    python pretrain/plan.py --size 1.3b --gpus 4 --gpu a100-40 --deepspeed configs/ds/zero3-offload.json
    python pretrain/plan.py --doctor                                              # what would make a run fail here

It says of each figure whether it is measured, computed or assumed. Nothing is allocated, and no data is needed.
"""

import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from narae.config import HOME, option, parse
from narae.log import Mistake
from narae.model import SIZES, from_values, new_config, read_json, recipe

LANGUAGES = ("en", "ko")


@dataclass
class Config:
    size: str = option("1.3b", "the model's shape, from the table in narae/model.py")
    model_config: str | None = option(None, "config.json of another causal LM instead")
    vocab_size: int = option(32_768, "entries of the tokenizer")
    sequence_length: int = option(512, "tokens in a row")
    gpu: str = option("h100", "h100, h200, a100-80, a100-40, l40s, rtx4090; this or cpu: what is here, measured")
    gpus: int = option(8, "in one node")
    nodes: int = option(1, "of so many GPUs each")
    train_tokens: str | None = option(None, "how long: 100B, 500M (default: 20 for each parameter)")
    batch_rows: int | None = option(None, "rows in one step, over all ranks and accumulation (default: by size)")
    micro: int = option(0, "rows of one rank in one pass; 0 is the largest that fits")
    deepspeed: str | None = option(None, "only this way, e.g. configs/ds/zero2.json; its bucket sizes count")
    optimizer: str = option("adamw", "adamw, or muon")
    gradient_checkpointing: bool = option(False, "compute activations again in the backward pass")
    document_attention: bool = option(True, "no token sees another document, which takes a mask")
    save_total_limit: int = option(2, "checkpoints that are kept")
    mtbf_hours: float = option(6000.0, "hours between failures of one node")
    disk_gb_per_s: float = option(2.0, "what all ranks together write to the disk")
    mfu: float | None = option(None, "the share of the card's rate that training reaches, as measured (default: 0.4)")
    bus_gb_per_s: float | None = option(
        None, "of an all-reduce over all ranks, as --doctor measures it (default: links)"
    )
    doctor: bool = option(False, "examine this node instead")
    language: str | None = option(None, "en or ko (default: by LANG)")


def main() -> None:
    config = parse(Config, about=__doc__)
    language = config.language or language_of(os.environ)
    if language not in LANGUAGES:
        raise Mistake(f"--language {language}: the languages are {', '.join(LANGUAGES)}")
    if config.doctor:
        from pretrain.doctor import main_of

        sys.exit(main_of(language))
    check(config)
    print("\n".join(page(config, language)))


def language_of(environment: Any) -> str:
    """As programs of the system decide: the first of these that is set."""
    found = next((environment[name] for name in ("LC_ALL", "LC_MESSAGES", "LANG") if environment.get(name)), "")
    return "ko" if found.startswith("ko") else "en"


def check(config: Config) -> None:
    from pretrain.cost import DEVICES

    if config.size not in SIZES and not config.model_config:
        raise Mistake(f"--size {config.size}: the sizes are {', '.join(SIZES)}")
    if config.gpu not in (*DEVICES, "this", "cpu"):
        raise Mistake(f"--gpu {config.gpu}: known are {', '.join(DEVICES)}; this and cpu measure what is here")
    if config.optimizer not in ("adamw", "muon"):
        raise Mistake(f"--optimizer {config.optimizer}: it is adamw or muon")
    for name in ("vocab_size", "sequence_length", "gpus", "nodes", "mtbf_hours", "disk_gb_per_s"):
        if getattr(config, name) <= 0:
            raise Mistake(f"--{name} {getattr(config, name)}: it must be above 0")
    if config.mfu is not None and not 0 < config.mfu <= 1:
        raise Mistake(f"--mfu {config.mfu}: it is a share such as 0.43, above 0 and at most 1")
    if config.bus_gb_per_s is not None and config.bus_gb_per_s <= 0:
        raise Mistake(f"--bus_gb_per_s {config.bus_gb_per_s}: it must be above 0")
    rows, ranks = rows_of(config), config.gpus * config.nodes
    if rows <= 0 or rows % ranks:
        near = max(1, round(rows / ranks)) * ranks
        raise Mistake(f"--batch_rows {rows} cannot be shared evenly by {ranks} ranks: {near} can")
    if config.micro < 0 or (config.micro and rows // ranks % config.micro):
        raise Mistake(f"--micro {config.micro} does not divide the {rows // ranks} rows that each of {ranks} ranks has")


def rows_of(config: Config) -> int:
    if config.batch_rows is not None:
        return config.batch_rows
    values = read_json(Path(config.model_config)) if config.model_config else None
    return recipe(config.size, values).batch_rows


def page(config: Config, language: str) -> Iterator[str]:
    from narae.footprint import SHARE, shape_of
    from pretrain.cost import DEVICES, Job, this_machine
    from pretrain.quote import Texts, conclusion, memory_table, sources, time_table

    texts = Texts(language)
    values = read_json(Path(config.model_config)) if config.model_config else None
    entries, length = config.vocab_size, config.sequence_length
    shape = shape_of(
        from_values(values, entries, length) if values else new_config(config.size, entries, length), length
    )
    device = DEVICES.get(config.gpu) or this_machine(cpu=config.gpu == "cpu", ranks=config.gpus)
    bus = config.bus_gb_per_s * 1e9 if config.bus_gb_per_s else None
    job = Job(shape, device, config.gpus, config.nodes, rows_of(config), config.mfu or SHARE, bus)
    ways = ways_of(config)
    note = ""
    if not config.gradient_checkpointing and not any(job.largest(way) for way in ways.values()):
        again = {name: replace(way, checkpointing=True) for name, way in ways.items()}
        if any(job.largest(way) for way in again.values()):
            ways, note = again, texts("words", "checkpointed")
    yield texts(
        "words",
        "title",
        model=config.size if not values else values["model_type"],
        parameters=f"{shape.parameters / 1e6:,.1f}",
        entries=f"{entries:,}",
        length=length,
        nodes=config.nodes,
        gpus=config.gpus,
        device=device.name,
        rows=f"{job.batch_rows:,}",
    )
    yield from [note] * bool(note)
    yield from ["", *memory_table(config, job, ways, texts)]
    yield from ["", *time_table(config, job, ways, texts)]
    yield from ["", *conclusion(config, job, ways, texts)]
    yield from ["", *sources(config, job, texts)]


def ways_of(config: Config) -> dict[str, Any]:
    """By the name of its DeepSpeed file; the Trainer alone has none."""
    from narae.footprint import Way

    found: dict[str, Any] = {}
    files = [config.deepspeed] if config.deepspeed else ["", *FILES]
    for file in files:
        stage, offload, bucket = told(file) if file else (None, False, Way.bucket)
        found[file] = Way(
            stage=stage,
            offload=offload,
            bucket=bucket,
            muon=config.optimizer == "muon",
            checkpointing=config.gradient_checkpointing,
            documents=config.document_attention,
        )
    return found


FILES = [f"configs/ds/{name}.json" for name in ("zero0", "zero1", "zero2", "zero3", "zero3-offload")]


def told(file: str) -> tuple[int, bool, int]:
    """A DeepSpeed config's stage, whether it puts optimizer states into the host's memory, and its bucket."""
    from narae.zero import read

    path = Path(file) if Path(file).is_file() else HOME / file
    if not path.is_file():
        raise Mistake(f"--deepspeed {file}: no such file; shipped are {', '.join(FILES)}")
    zero = read(path).get("zero_optimization", {})
    bucket = zero.get("reduce_bucket_size", 500_000_000)
    offload = zero.get("offload_optimizer", {}).get("device", "none") != "none"
    return int(zero.get("stage", 0)), offload, 50_000_000 if bucket == "auto" else int(bucket)


if __name__ == "__main__":
    main()
