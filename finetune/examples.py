"""Conversations as training batches: the chat template's tokens, and which of them the assistant wrote.

Chat examples are short: rows of one batch have about the same length, so that little is padded, and no row holds two
examples, so that none sees another.
"""

import json
import re
from collections.abc import Iterator, Sequence
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import torch

from narae.log import Mistake

GENERATION = re.compile(r"{%-?\s*generation\s*-?%}")
POOL = 50  # batches are sorted within so many, not over all: else every step would see one kind of question
Row = dict[str, list[int]]


def read_messages(file: Path) -> list[list[dict[str, str]]]:
    with file.open(encoding="utf-8") as lines:
        return [json.loads(line)["messages"] for line in lines]


def check_template(tokenizer: Any, where: str) -> None:
    template = tokenizer.chat_template
    if not template:
        raise Mistake(f"{where}: its tokenizer has no chat template; `python tokenizer/train.py` makes one that has")
    if not GENERATION.search(template):
        raise Mistake(
            f"{where}: its chat template has no {{% generation %}} marks around what the assistant says, "
            "so that the loss cannot know the answers"
        )


def encode(tokenizer: Any, conversations: Sequence[list[dict[str, str]]], context: int) -> tuple[list[Row], int]:
    """Token ids and the answers' mask of every conversation that fits the context; how many do not."""
    rows: list[Row] = []
    for begin in range(0, len(conversations), 1000):
        some = [list(conversation) for conversation in conversations[begin : begin + 1000]]
        whole = tokenizer.apply_chat_template(some, return_dict=True, return_assistant_tokens_mask=True)
        for ids, mask in zip(whole["input_ids"], whole["assistant_masks"], strict=True):
            rows.append({"input_ids": ids, "answer": mask})
    kept = [row for row in rows if len(row["input_ids"]) <= context]
    return kept, len(rows) - len(kept)


def collate(rows: Sequence[Row], pad: int) -> dict[str, torch.Tensor]:
    """Rows padded on the right. Logits are computed only at places where some row's next token is the assistant's."""
    longest = max(len(row["input_ids"]) for row in rows)
    ids = torch.full((len(rows), longest), pad)
    attention = torch.zeros((len(rows), longest), dtype=torch.long)
    labels = torch.full((len(rows), longest), -100)
    for n, row in enumerate(rows):
        length = len(row["input_ids"])
        ids[n, :length] = torch.tensor(row["input_ids"])
        attention[n, :length] = 1
        answer = torch.tensor(row["answer"], dtype=torch.bool)
        labels[n, :length][answer] = ids[n, :length][answer]
    labels[:, 0] = -100  # nothing stands before it that could predict it
    places = (labels[:, 1:] != -100).any(dim=0).nonzero()[:, 0]
    return {
        "input_ids": ids,
        "attention_mask": attention,
        "labels": labels,
        "logits_to_keep": places,
        "shift_labels": labels[:, places + 1],
    }


class ByLength(torch.utils.data.Sampler[int]):
    """An order in which every `batch` rows have similar lengths: each epoch its own, all known by the seed.

    The last batch is filled up with rows of the epoch, so that any number of ranks shares the same batches.
    """

    def __init__(self, lengths: Sequence[int], batch: int, seed: int):
        self.lengths, self.batch, self.seed, self.epoch = lengths, batch, seed, 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        return -(-len(self.lengths) // self.batch) * self.batch

    def __iter__(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + self.epoch)
        order = torch.randperm(len(self.lengths), generator=generator).tolist()
        order = list(islice(cycle(order), len(self)))
        batches: list[list[int]] = []
        for begin in range(0, len(order), self.batch * POOL):
            pool = sorted(order[begin : begin + self.batch * POOL], key=lambda row: self.lengths[row])
            batches += [pool[n : n + self.batch] for n in range(0, len(pool), self.batch)]
        for n in torch.randperm(len(batches), generator=generator).tolist():
            yield from batches[n]
