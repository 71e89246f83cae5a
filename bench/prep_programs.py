"""The programs that bench/prep.py compares: how each starts, how its tokens are read, and which they have to be."""

import json
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from bench.prep_peers import ROW
from narae import artifact
from narae.config import HOME

OURS, BARE, CLM = "ours", "bare encoder", "run_clm"
END_ID = 0  # <|endoftext|>, the first entry of every tokenizer of ours


@dataclass
class Program:
    command: Callable[[Path], list[str]]  # for the folder of its result
    tokens: Callable[[Path], np.ndarray]  # of that folder
    settings: list[list[str]] = field(default_factory=lambda: [[]])  # further words, of its environment too
    wanted: Callable[[np.ndarray, int, int], np.ndarray] = lambda right, *_: right  # of our tokens, what it has to have


def pack(out: Path, workers: int, corpus: str = "bench") -> list[str]:
    words = {"corpus": corpus, "tokenizer": "bench", "name": out.name, "sequence_length": ROW, "workers": workers}
    return [sys.executable, str(HOME / "pretrain" / "pack.py"), *(f"--{key}={words[key]}" for key in words)]


def programs(folder: Path, workers: int, megatron: Path | None) -> dict[str, Program]:
    tokenizer = artifact.open_artifact("tokenizer", "bench").path
    parts = [str(folder / f"text_{number}.jsonl") for number in range(workers)]

    def peer(name: str) -> Callable[[Path], list[str]]:
        words = [sys.executable, str(HOME / "bench" / "prep_peers.py"), name, "--jsonl", *parts]
        return lambda out: [*words, "--tokenizer", str(tokenizer), "--out", str(out)]

    def preprocess(script: str) -> Callable[[Path], list[str]]:
        words = [sys.executable, "-W", "ignore", str(megatron / "tools" / script) if megatron else "", "--append-eod"]
        words += ["--tokenizer-type", "HuggingFaceTokenizer", "--tokenizer-model", str(tokenizer)]
        return lambda out: [*words, "--input", str(folder / "text.jsonl"), "--output-prefix", str(out / "text")]

    serial = "TOKENIZERS_PARALLELISM=false"  # its processes have a core each already
    clm = [[serial], ["TOKENIZERS_PARALLELISM=true"], [serial, "--batch=10000"]]
    found = {
        OURS: Program(lambda out: pack(out, workers), packed),
        BARE: Program(peer("bare"), lambda out: np.load(out / "ids.npy"), wanted=texts_alone),
        CLM: Program(peer("run_clm"), arrow, clm, grouped),
        "nanoGPT-style": Program(peer("nanogpt"), raw),
        "nanoGPT-style, lean": Program(peer("lean"), raw),
    }
    if megatron:
        one = [f"--workers={workers}", "--log-interval=100000"]
        both, fast = [one, [*one, f"--partitions={workers}"]], ["--use-gigatoken"]
        slow = preprocess("preprocess_data.py")
        found |= {
            "Megatron-LM": Program(slow, raw, both),
            "Megatron-LM --use-gigatoken": Program(slow, raw, [fast + setting for setting in both]),
            "Megatron-LM, _data_fast": Program(preprocess("preprocess_data_fast.py"), raw, [fast]),
        }
    return found


def packed(out: Path) -> np.ndarray:
    made = artifact.open_artifact("packed", out.name)
    files = sorted(made.path.glob("train-*.bin"))
    ids = np.concatenate([np.fromfile(file, made.counts["dtype"]) for file in files])
    return ids[: made.counts["train"]["tokens"]]


def raw(out: Path) -> np.ndarray:
    """One file of two-byte ids; Megatron leaves those of its parts beside the whole."""
    return np.fromfile(
        next(file for file in sorted(out.glob("*.bin")) if not re.search(r"_\d+_", file.name)), np.uint16
    )


def arrow(out: Path) -> np.ndarray:
    import datasets

    files = json.loads((out / "rows.json").read_text(encoding="utf-8"))["files"]
    columns = [datasets.Dataset.from_file(file).data.column("input_ids").combine_chunks() for file in files]
    return np.concatenate([column.flatten().to_numpy(zero_copy_only=False) for column in columns])


def texts_alone(right: np.ndarray, *_: int) -> np.ndarray:
    return right[right != END_ID]


def grouped(right: np.ndarray, workers: int, batch: int) -> np.ndarray:
    """What run_clm keeps: of every batch of documents, with nothing between them, the whole rows."""
    ends = np.flatnonzero(right == END_ID) + 1
    texts = [part for whole in np.array_split(ends, workers) for part in cut(whole, batch)]
    kept, begin = [], 0
    for part in texts:
        ids = texts_alone(right[begin : part[-1]])
        kept.append(ids[: ids.size // ROW * ROW])
        begin = part[-1]
    return np.concatenate(kept)


def cut(values: np.ndarray, size: int) -> list[np.ndarray]:
    return [values[begin : begin + size] for begin in range(0, len(values), size)]
