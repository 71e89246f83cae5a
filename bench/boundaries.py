"""python bench/boundaries.py --data natural.jsonl.zst --held_out val.jsonl.zst [--megabytes 4] [--only stream]

What document boundaries are worth: the same small model, by pretrain/run.py, on the same documents, with rows cut from
one stream or filled by best fit, with and without attention across documents, and with and without the loss of a
document's first token. Held-out bits per byte over all predicted tokens, CPU seconds and steps.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from bench.machine import keep, kept, short
from bench.patterns import even, size
from narae import artifact
from narae.config import HOME
from narae.documents import Document, ShardWriter
from narae.log import say

ENTRIES, PER_SOURCE, HELD_OUT = 8192, 300_000, 25_000
APART, TOGETHER = ("--document_attention", "true"), ("--document_attention", "false")
WAYS = {
    "stream": ("stream", *TOGETHER),
    "stream, attention within documents": ("stream", *APART),
    "stream, loss within documents": ("stream", *TOGETHER, "--document_loss", "inside"),
    "stream, both within documents": ("stream", *APART, "--document_loss", "inside"),
    "best fit": ("best_fit", *TOGETHER),
    "best fit, attention within documents": ("best_fit", *APART),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--held_out", type=Path, required=True)
    parser.add_argument("--megabytes", type=float, default=4)
    parser.add_argument("--row", type=int, default=512)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", nargs="*", default=[])
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        os.environ["NARAE_ARTIFACTS"] = folder
        texts = {
            "train": even(asked.data, PER_SOURCE, int(asked.megabytes * 1e6)),
            "val": even(asked.held_out, HELD_OUT, 10**9),
        }
        corpus(texts)
        run("tokenizer/train.py", "--corpus", "sample", "--vocab_size", str(ENTRIES), "--max_bytes", "1000000000")
        for packing in ("stream", "best_fit"):
            run("pretrain/pack.py", "--packing", packing, "--name", packing, "--sequence_length", str(asked.row))
        found: dict[str, Any] = {}
        for number, (name, (packing, *words)) in enumerate(WAYS.items()):
            if asked.only and name not in asked.only:
                continue
            rows = artifact.open_artifact("packed", packing).counts["train"]["rows"]
            used = resource.getrusage(resource.RUSAGE_CHILDREN)
            options = {
                "--packed": packing,
                "--name": f"way-{number}",
                "--batch_rows": "8",
                "--per_device_train_batch_size": "8",
                "--max_steps": str(rows // 8),
                "--seed": str(asked.seed),
                "--eval_strategy": "no",
                "--save_strategy": "no",
                "--warmup_steps": "50",
                "--learning_rate": "2e-3",
            }
            run("pretrain/run.py", *(word for pair in options.items() for word in pair), *words)
            after = resource.getrusage(resource.RUSAGE_CHILDREN)
            counts = artifact.open_artifact("model", f"way-{number}").counts
            seconds = after.ru_utime + after.ru_stime - used.ru_utime - used.ru_stime
            found[name] = {
                "bits_per_byte": round(counts["bits_per_byte"], 4),
                "cpu_seconds": short(seconds),
                "steps": counts["steps"],
            }
            say(f"{name}: {found[name]}")
            about = {"bytes": size(texts["train"]), "held_out": size(texts["val"]), "row": asked.row}
            result = f"boundaries-seed-{asked.seed}"
            before = json.loads(kept(result).read_text())["ways"] if kept(result).exists() else {}
            keep(result, about | {"ways": before | found}, ("torch", "transformers"))
        print(json.dumps({name: one["bits_per_byte"] for name, one in found.items()}))


def corpus(texts: dict[str, list[str]]) -> None:
    draft = artifact.begin("corpus", "sample", {})
    assert draft is not None
    with draft:
        for split, some in texts.items():
            with ShardWriter(draft.path, split) as writer:
                for number, text in enumerate(some):
                    writer.write(Document(f"{split}#{number}", text))
            draft.counts[split] = {"documents": writer.documents, "bytes": writer.bytes}


def run(command: str, *words: str) -> None:
    subprocess.run([sys.executable, str(HOME / command), *words], check=True)


if __name__ == "__main__":
    main()
