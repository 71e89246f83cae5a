"""What `make run` will do with a person's text, and what that asks of the disk, the memory and the clock.

Figures are estimates from the size of the text, from narae/footprint.py and from a matrix product timed here.
"""

import math
import re
import shlex
import shutil
import unicodedata
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from narae.artifact import root
from narae.chain import Stage, launcher_options
from narae.config import HOME
from narae.devices import hardware
from narae.footprint import SHARE, Way, checkpoint_bytes, final_bytes, footprint, shape_of
from narae.log import Mistake, duration
from narae.model import SIZES, new_config, parameters

LENGTH = 512
BYTES_PER_TOKEN = 4.5  # Korean, 32,768 entries
# Entries that a text of so many bytes can fill; more would hardly be seen in training.
VOCABULARIES = ((5e6, 4096), (50e6, 8192), (500e6, 16_384), (math.inf, 32_768))
PACKED_ARCHIVE = {".gz": 3.5, ".bz2": 4.5, ".xz": 4.5, ".zst": 3.5}  # text bytes per byte of file
PREPARE_BYTES_PER_S = 2e6  # collecting, tokenizing and packing together, two cores


@dataclass
class Project:
    stages: list[Stage]
    lines: list[str]


def plan(data: str, size: str, name: str, chat: str, entries: int, overwrite: bool) -> Project:
    if size not in SIZES:
        raise Mistake(f"--size {size}: the sizes are {', '.join(SIZES)}")
    source = Path(data).expanduser().absolute()
    if not source.exists():
        raise Mistake(f"--data {data}: there is no such folder or file")
    if chat and not Path(chat).expanduser().is_file():
        raise Mistake(f"--chat {chat}: there is no such file; it is jsonl with questions and answers")
    text_bytes = sum(measure(file) for file in files(source))
    if not text_bytes:
        raise Mistake(
            f"--data {data}: no text in it; AIHub archives (zip), txt, jsonl and their .gz, .xz, .zst are read"
        )
    name = name or name_of(source)
    vocabulary = entries or next(fits for limit, fits in VOCABULARIES if text_bytes < limit)
    preset = preset_of(size)
    tokens = text_bytes / BYTES_PER_TOKEN
    count = parameters(SIZES[size], vocabulary)
    # 20 tokens per parameter is what a model of this size can use; a text repeats up to four times at little loss
    epochs = max(1, min(4, round(20 * count / tokens)))
    rows = tokens * epochs / LENGTH
    batch_rows = int(preset.values.get("batch_rows") or SIZES[size].batch_rows)
    while batch_rows > 8 and rows / batch_rows < 1000:
        batch_rows //= 2
    again = ["--overwrite"] if overwrite else []
    model = f"{name}-{size}"
    training = ["--config", preset.file, "--packed", name, "--size", size, "--batch_rows", str(batch_rows)]
    training += ["--max_steps", "-1", "--num_train_epochs", str(epochs), "--warmup_steps", "0.05"]
    # 200 MB teach a vocabulary as well as all of a larger text, within 5 GB of memory
    learn = ["--vocab_size", str(vocabulary), "--max_bytes", "200_000_000"]
    teach = ["--model", model, "--examples", name, "--name", f"{model}-chat"]
    stages = [
        Stage(
            "collect",
            "reads, cleans, deduplicates, splits",
            ["corpus/collect.py", "--sources", str(source), "--name", name, *again],
            ("corpus", name),
        ),
        Stage(
            "tokenizer",
            f"learns {vocabulary:,} entries",
            ["tokenizer/train.py", "--corpus", name, *learn, "--name", name, *again],
            ("tokenizer", name),
        ),
        Stage(
            "pack",
            f"turns text into rows of {LENGTH} tokens",
            ["pretrain/pack.py", "--corpus", name, "--tokenizer", name, "--name", name, *again],
            ("packed", name),
        ),
        Stage(
            "pretrain",
            f"trains {size} from random weights",
            ["pretrain/run.py", *launcher_options(), *training, "--name", model, *again],
            ("model", model),
            launch=True,
        ),
    ]
    if chat:
        stages += [
            Stage(
                "prepare",
                "makes examples of questions",
                ["finetune/prepare.py", "--source", str(Path(chat).expanduser().absolute()), "--name", name, *again],
                ("examples", name),
            ),
            Stage(
                "fine-tune",
                "teaches the model to answer",
                ["finetune/sft.py", *launcher_options(), *teach, *again],
                ("model", f"{model}-chat"),
                launch=True,
            ),
        ]
        model += "-chat"
    stages += [
        Stage("generate", "writes a few lines", ["infer/generate.py", "--model", model, "--prompt", "오늘은"]),
        Stage("report", "draws the page", ["infer/report.py", "--run", model]),
    ]
    lines = estimate(source, text_bytes, tokens * epochs, epochs, size, vocabulary, batch_rows, preset, chat)
    return Project(stages, [*lines, *(f"  {stage.typed}" for stage in stages)])


def files(source: Path) -> Iterator[Path]:
    yield from (file for file in source.rglob("*") if file.is_file()) if source.is_dir() else [source]


def measure(file: Path) -> float:
    """Bytes of text in a file, about; AIHub's labels hold the text of its sources once more."""
    name = unicodedata.normalize("NFC", file.name).lower()
    if name.startswith("."):
        return 0
    if name.endswith((".zip", ".zip.part0")):
        try:
            with zipfile.ZipFile(file) as archive:
                return sum(member.file_size for member in archive.infolist())
        except (zipfile.BadZipFile, OSError):
            return file.stat().st_size * 3.0
    inner = Path(name).with_suffix("").suffix if file.suffix.lower() in PACKED_ARCHIVE else Path(name).suffix
    if inner not in {".txt", ".jsonl", ".json", ".tsv", ".csv", ".parquet"}:
        return 0
    return file.stat().st_size * PACKED_ARCHIVE.get(file.suffix.lower(), 1.0)


def name_of(source: Path) -> str:
    """A folder's or file's name, as one that a shell needs no quotes for."""
    stem = unicodedata.normalize("NFC", source.name).split(".")[0] if source.is_file() else source.name
    return re.sub(r"[^\w-]+", "-", unicodedata.normalize("NFC", stem)).strip("-") or "mine"


@dataclass
class Preset:
    file: str
    values: dict[str, Any]


def preset_of(size: str) -> Preset:
    """The shipped config of this size, or that of the nearest smaller one."""
    found: dict[str, Preset] = {}
    for file in sorted((HOME / "configs" / "pretrain").glob("*.yaml")):
        values = yaml.safe_load(file.read_text(encoding="utf-8"))
        found.setdefault(values.get("size", "tiny"), Preset(str(file.relative_to(HOME)), values))
    sizes = list(SIZES)
    return next(found[one] for one in reversed(sizes[: sizes.index(size) + 1]) if one in found)


def estimate(
    source: Path,
    text_bytes: float,
    tokens: float,
    epochs: int,
    size: str,
    vocabulary: int,
    batch_rows: int,
    preset: Preset,
    chat: str,
) -> list[str]:
    here = hardware()
    shape = shape_of(new_config(size, vocabulary, LENGTH), LENGTH)
    # As the preset trains: by ZeRO-2 where there is DeepSpeed
    stage, ranks = (2 if launcher_options() else None), here.devices
    micro = min(int(preset.values.get("per_device_train_batch_size", 8)), max(1, batch_rows // ranks))
    pieces = max(1, batch_rows // ranks // micro)
    memory = footprint(shape, Way(stage, ranks, micro, pieces, device=here.kind)).total
    # Two bytes a token, twice while the pieces are joined; two checkpoints, a third while it is written, and the model
    models = 3 * checkpoint_bytes(shape, stage) + 2 * final_bytes(shape, stage)
    disk = text_bytes * 0.35 + text_bytes / BYTES_PER_TOKEN * 4 + models * (2 if chat else 1)
    room = shutil.disk_usage(next(folder for folder in [root(), *root().parents] if folder.exists())).free
    training = shape.flops_per_token * tokens / (here.rate * ranks * SHARE)
    whole = training + text_bytes / PREPARE_BYTES_PER_S
    return [
        f"{source}: about {gigabytes(text_bytes)} of text, {tokens / epochs / 1e6:,.1f}M tokens, read {epochs} times; "
        f"{size} with {vocabulary:,} entries has {shape.parameters / 1e6:,.1f}M parameters",
        f"disk: about {gigabytes(disk)} below {shlex.quote(str(root()))}{lack(disk, room)}",
        f"memory: about {gigabytes(memory)} {'on each GPU' if here.kind == 'cuda' else ''}".rstrip()
        + lack(memory, here.free),
        f"time: about {duration(whole)} on {ranks} × {'GPU' if here.kind == 'cuda' else 'CPU'} of "
        f"{here.rate / 1e9:,.0f} GFLOP/s, {duration(training)} of it training"
        + ("; `--size tiny` is the one for a CPU" if here.kind == "cpu" and size != "tiny" else ""),
    ]


def gigabytes(amount: float) -> str:
    return f"{amount / 1e9:,.1f} GB" if amount >= 1e9 else f"{amount / 1e6:,.0f} MB"


def lack(needed: float, there: float) -> str:
    return f", {gigabytes(there)} free" + (": NOT ENOUGH" if needed > there else "")
