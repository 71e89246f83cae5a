"""python bench/bpe.py [--data FILE.jsonl.zst] [--megabytes 100] [--rounds 5] [--quick]

Training byte-level BPE of 32,768 entries (4,096 on the sample world): ours and tokenizers' BpeTrainer in turn, on the
same documents, with the same pattern, each in a process of its own that streams them from the same shards. gigatoken's
trainer and rustbpe as well, where they are installed; neither knows weights or bounds its memory, and gigatoken splits
as gpt2 does. CPU seconds and peak memory are those of the whole process, start included; bytes per token are counted on
one document in a hundred that nobody trained on.
"""

import argparse
import importlib.util
import json
import random
import resource
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bench.machine import keep, short, spread
from narae.artifact import open_artifact
from narae.config import HOME
from narae.documents import Document, ShardWriter, parts, read_documents, read_lines, shards
from narae.log import say

HELD_OUT = 100


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="jsonl.zst with a text in each line; the sample world by default")
    parser.add_argument("--megabytes", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="2 rounds without those that are there for interest")
    parser.add_argument("--train", nargs=3, metavar=("WHO", "FOLDER", "ENTRIES"), help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.train:
        who, folder, entries = asked.train
        TRAINERS[who](Path(folder), int(entries))
        used = resource.getrusage(resource.RUSAGE_SELF)
        print(json.dumps({"cpu_seconds": used.ru_utime + used.ru_stime, "memory_mb": used.ru_maxrss / 1e3}))
        return
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        size = prepare(folder, asked.data, asked.megabytes * 10**6)
        entries = 32_768 if asked.data else 4096
        names = [name for name in TRAINERS if not asked.quick or name in ("ours", "tokenizers")]
        names = [name for name in names if name in ("ours", "tokenizers") or importlib.util.find_spec(name)]
        found: dict[str, list[dict[str, float]]] = {name: [] for name in names}
        for number in range(-1, 2 if asked.quick else asked.rounds):
            for name in names:
                one = measured(name, folder, entries)
                say(f"{'warm-up' if number < 0 else f'round {number + 1}'}: {name} {one}")
                if number >= 0:
                    found[name].append(one)
        tell(found, folder, size, entries)


def prepare(folder: Path, data: Path | None, most: int) -> int:
    """Shards to train on, and shards held out, of documents from all over."""
    paths = [data] if data else shards(open_artifact("corpus", "sample").path, "train")
    texts = [json.loads(line)["text"] for path in paths for line in read_lines(path)]
    random.Random(1).shuffle(texts)
    with ShardWriter(folder, "train") as train, ShardWriter(folder, "val") as val:
        for number, text in enumerate(texts):
            (train if number % HELD_OUT else val).write(Document(str(number), text))
            if train.bytes >= most:
                break
    return train.bytes


def measured(who: str, folder: Path, entries: int) -> dict[str, float]:
    words = [sys.executable, __file__, "--train", who, str(folder), str(entries)]
    done = subprocess.run(words, capture_output=True, text=True, cwd=HOME)
    if done.returncode:
        raise SystemExit(f"{who} failed:\n{done.stderr}")
    one: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return {key: short(value) for key, value in one.items()}


def texts_of(folder: Path) -> Iterator[str]:
    for document in read_documents(shards(folder, "train")):
        yield document.text


def ours(folder: Path, entries: int) -> None:
    from tokenizer.train import PATTERNS, tokenizer_of
    from tokenizer.words import count_words

    words = count_words(parts(shards(folder, "train")), PATTERNS["llama3"], {})
    tokenizer_of(words, PATTERNS["llama3"], entries).save(str(folder / "ours.json"))


def tokenizers(folder: Path, entries: int) -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    from tokenizer.train import PATTERNS, SPECIAL, around

    tokenizer = around(Tokenizer(models.BPE()), PATTERNS["llama3"])
    trainer = trainers.BpeTrainer(
        vocab_size=entries,
        special_tokens=SPECIAL,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        min_frequency=2,
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts_of(folder), trainer)
    tokenizer.save(str(folder / "tokenizers.json"))


def gigatoken(folder: Path, entries: int) -> None:
    """It reads a file of text."""
    from gigatoken.gigatoken_rs import train_bpe

    whole = folder / "whole.txt"
    with whole.open("w", encoding="utf-8") as file:
        file.writelines(text + "\n" for text in texts_of(folder))
    train_bpe(whole, entries - 16, [])


def rustbpe(folder: Path, entries: int) -> None:
    import rustbpe

    from tokenizer.train import PATTERNS

    rustbpe.Tokenizer().train_from_iterator(texts_of(folder), entries - 16, pattern=PATTERNS["llama3"])


TRAINERS = {"ours": ours, "tokenizers": tokenizers, "gigatoken": gigatoken, "rustbpe": rustbpe}


def tell(found: dict[str, list[dict[str, float]]], folder: Path, size: int, entries: int) -> None:
    from tokenizers import Tokenizer

    held_out = [document.text for document in read_documents(shards(folder, "val"))]
    bytes_held_out = sum(len(text.encode()) for text in held_out)
    fertility = {}
    for name in ("ours", "tokenizers"):
        encoded = Tokenizer.from_file(str(folder / f"{name}.json")).encode_batch_fast(held_out)
        fertility[name] = bytes_held_out / sum(len(one.ids) for one in encoded)
    table: dict[str, Any] = {}
    for name, rounds in found.items():
        table[name] = {key: spread([one[key] for one in rounds]) for key in rounds[0]}
        line = "  ".join(
            f"{key} {value['median']:>8} ({value['least']} to {value['most']})" for key, value in table[name].items()
        )
        print(f"{name:12} {line}  bytes per token {fertility.get(name, float('nan')):.4f}")
    ratios = {
        f"{what}_vs_tokenizers": short(
            statistics.median(b[key] / a[key] for a, b in zip(found["ours"], found["tokenizers"], strict=True))
        )
        for what, key in (("cpu", "cpu_seconds"), ("memory", "memory_mb"))
    }
    ratios["fertility_vs_tokenizers"] = round(fertility["ours"] / fertility["tokenizers"], 5)
    merges = [json.loads((folder / f"{name}.json").read_text())["model"]["merges"] for name in ("ours", "tokenizers")]
    packages = ("numpy", "pyarrow", "tokenizers", *(name for name in ("gigatoken", "rustbpe") if name in found))
    known = {"megabytes": short(size / 1e6), "entries": entries, "same_merges": merges[0] == merges[1]}
    keep("bpe", {"ratios": ratios, **known, "fertility": fertility, "trainers": table}, packages)
    print(json.dumps(ratios))


if __name__ == "__main__":
    main()
