"""python bench/gpu_stock.py --size 1.3b: the stock Trainer with the stock model on the rows of bench/gpu_rows.py.

`Trainer(bf16=True)` and PhiForCausalLM as transformers ships them: input_ids are the labels, no document ends.
"""

import argparse
import json
import time
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import Dataset
from transformers import PhiConfig, PhiForCausalLM, Trainer, TrainerCallback, TrainingArguments, set_seed

from bench.gpu_plan import BATCHES, Batch, Steps, batch, steps
from bench.gpu_rows import NAME, model_config
from bench.gpu_steps import Mark, figures
from narae.artifact import open_artifact, root
from narae.follow import memory_mb
from narae.packed import PackedRows
from narae.training import quiet, set_precision


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", default="1.3b", choices=BATCHES)
    parser.add_argument("--dry_run", action="store_true")
    asked = parser.parse_args()
    quiet()
    began = time.time()
    rows, shape = PackedRows(open_artifact("packed", NAME)), stock_config(asked.size, asked.dry_run)
    set_seed(42)
    look = steps("whole", asked.dry_run)
    marks, loss = train(PhiForCausalLM(shape), rows, batch(asked.size, asked.dry_run), look, root() / "runs" / "stock")
    start = marks[0].time - began
    found = figures(marks, look, saved=True)
    print(json.dumps(found | {"memory_mb": memory_mb(), "loss": loss, "start_s": round(start, 1)}))


def stock_config(size: str, dry: bool) -> PhiConfig:
    """Of our size, and all else as the library has it."""
    own = model_config(size, dry)
    same = "hidden_size intermediate_size num_hidden_layers num_attention_heads vocab_size max_position_embeddings"
    return PhiConfig(**{key: getattr(own, key) for key in same.split()})


class Examples(Dataset[dict[str, Any]]):
    def __init__(self, rows: PackedRows):
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, number: int) -> dict[str, Any]:
        ids = self.rows[number]
        return {"input_ids": ids, "labels": ids}


class Marks(TrainerCallback):
    """When each record came; and the end after the last step that is looked at, whatever the course is."""

    def __init__(self, tokens_per_step: int, last: int):
        self.tokens_per_step, self.last = tokens_per_step, last
        self.marks: list[Mark] = []
        self.loss = 0.0

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
        del args, control
        if "loss" in logs:
            self.loss = float(logs["loss"])
            self.marks.append(Mark(state.global_step, time.time(), state.global_step * self.tokens_per_step))

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        del args
        control.should_training_stop |= state.global_step >= self.last


def train(model: Any, rows: PackedRows, size: Batch, look: Steps, folder: Path) -> tuple[list[Mark], float]:
    """With the one checkpoint and a record each few steps. A row of n tokens predicts n - 1."""
    args = TrainingArguments(
        output_dir=str(folder),
        bf16=True,
        use_cpu=not torch.cuda.is_available(),
        per_device_train_batch_size=size.micro,
        gradient_accumulation_steps=size.rows // size.micro,
        max_steps=100 * look.last,
        logging_steps=look.every,
        save_steps=look.save,
        report_to="none",
        disable_tqdm=True,
    )
    set_precision(args)
    marks = Marks(size.rows * (rows.sequence_length - 1), look.last)
    Trainer(model=model, args=args, train_dataset=Examples(rows), callbacks=[marks]).train()
    return marks.marks, marks.loss


if __name__ == "__main__":
    main()
