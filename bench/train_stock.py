"""python bench/train_stock.py --initial FOLDER --rows 8 --steps 200 [--sentences]: transformers' Trainer as it comes.

Trainer(bf16=True) and PhiForCausalLM on the packed rows that our run reads, in its order. With --sentences the recipe
that Korean tutorials teach: a sentence per row, padded to the longest of its batch, four rows and four such batches in
a step. Started by bench/train.py, which reads `records.jsonl` in --out.
"""

import argparse
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import Dataset, SequentialSampler
from transformers import (
    AutoTokenizer,
    DataCollatorForLanguageModeling,
    PhiForCausalLM,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)

from narae.artifact import open_artifact
from narae.log import Metrics
from narae.order import Mixing, batch
from narae.packed import PackedRows, parent

SENTENCE = re.compile(r"[^.!?\n]+[.!?]*")
MICRO, PIECES = 4, 4  # the tutorials' batch


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--initial", required=True, help="folder of the weights to begin with")
    parser.add_argument("--packed", required=True)
    parser.add_argument("--out", required=True)
    parser.add_argument("--rows", type=int, default=8)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--every", type=int, default=10)
    parser.add_argument("--learning_rate", type=float, default=6e-4)
    parser.add_argument("--warmup_steps", type=int, default=20)
    parser.add_argument("--sentences", action="store_true")
    asked = parser.parse_args()
    packed = open_artifact("packed", asked.packed)
    micro, pieces = (MICRO, PIECES) if asked.sentences else (asked.rows, 1)
    args = TrainingArguments(
        output_dir=asked.out,
        bf16=True,
        use_cpu=True,
        per_device_train_batch_size=micro,
        gradient_accumulation_steps=pieces,
        max_steps=asked.steps,
        learning_rate=asked.learning_rate,
        warmup_steps=asked.warmup_steps,
        logging_steps=asked.every,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
    )
    rows = PackedRows(packed)
    tokenizer = AutoTokenizer.from_pretrained(parent(packed, "tokenizer").path)
    data: Any = Rows(rows, asked)
    if asked.sentences:
        data = Sentences(data, tokenizer, asked.steps * micro * pieces)
    collator = DataCollatorForLanguageModeling(tokenizer, mlm=False) if asked.sentences else None
    counted = Counted(collator)
    model = PhiForCausalLM.from_pretrained(asked.initial)
    InOrder(
        model=model,
        args=args,
        train_dataset=data,
        data_collator=counted if asked.sentences else None,
        callbacks=[Records(Metrics(Path(asked.out) / "records.jsonl"), counted, asked)],
    ).train()


class Rows(Dataset[dict[str, Any]]):
    """Packed rows as our run comes to them."""

    def __init__(self, rows: PackedRows, asked: argparse.Namespace):
        mixing = Mixing((len(rows),), (1,), 42)
        self.rows = rows
        self.numbers = [number for step in range(asked.steps) for number in batch(mixing, step, asked.rows).tolist()]

    def __len__(self) -> int:
        return len(self.numbers)

    def __getitem__(self, place: int) -> dict[str, Any]:
        ids = self.rows[self.numbers[place]]
        return {"input_ids": ids, "labels": ids}


class Sentences(Dataset[dict[str, Any]]):
    """The same rows' text, cut where sentences and documents end."""

    def __init__(self, rows: Rows, tokenizer: Any, count: int):
        self.tokenizer = tokenizer
        cut = self.cut(rows)
        self.sentences = [next(cut) for _ in range(count)]

    def cut(self, rows: Rows) -> Iterator[str]:
        for place in range(len(rows)):
            text = self.tokenizer.decode(rows[place]["input_ids"]).replace(self.tokenizer.eos_token, "\n")
            yield from (one.strip() for one in SENTENCE.findall(text) if one.strip())

    def __len__(self) -> int:
        return len(self.sentences)

    def __getitem__(self, place: int) -> dict[str, Any]:
        cut = self.tokenizer(self.sentences[place], truncation=True, max_length=512)
        return {"input_ids": cut["input_ids"], "attention_mask": cut["attention_mask"]}


class Counted:
    """The tutorials' collator, and how many tokens of its batches are predicted."""

    def __init__(self, collator: Any):
        self.collator, self.tokens, self.cells = collator, 0, 0

    def __call__(self, examples: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        found: dict[str, torch.Tensor] = self.collator(examples)
        self.tokens += int((found["labels"][:, 1:] != -100).sum())
        self.cells += found["labels"].numel()
        return found


class InOrder(Trainer):
    def _get_train_sampler(self, *_: Any, **__: Any) -> Any:
        data: Any = self.train_dataset
        return SequentialSampler(data)


class Records(TrainerCallback):
    def __init__(self, metrics: Metrics, counted: Counted, asked: argparse.Namespace):
        self.metrics, self.counted, self.asked = metrics, counted, asked

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
        del args, control
        if "loss" not in logs:
            return
        tokens = self.counted.tokens if self.asked.sentences else state.global_step * self.asked.rows * 511
        useful = tokens / self.counted.cells if self.asked.sentences else 1.0
        self.metrics.write("train", step=state.global_step, loss=logs["loss"], tokens=tokens, useful=round(useful, 3))


if __name__ == "__main__":
    print(json.dumps({"torch": torch.__version__}))
    main()
