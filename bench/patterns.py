"""python bench/patterns.py --data natural.jsonl.zst --held_out val.jsonl.zst [--only llama3 gpt2]

Where byte-level BPE may not merge across, judged by what counts: the bits per byte of a small model on held-out text.
For each way of splitting, a vocabulary of 8,192 entries is trained on the same documents, and on them, once through, a
small Phi. Beside that: bytes per token and the speed of encoding, and for the patterns that a tokenizer.json can hold
the bytes per token at 32,768 entries.

    gpt2, llama3, qwen2, o200k   what gigatoken and llama.cpp know by name
    eojeols    digits apart, else only at spaces: 했다. is one piece
    jamo       llama3's, and ㅋㅋㅋ is a piece of its own
    particles  llama3's, and 은/는/이/가/에서 … is cut off the end of a word
    superwords llama3's for seven eighths of the entries, then merges across spaces
    morphemes  llama3's within the morphemes that Kiwi finds (the text has to be analysed before it is encoded)
"""

import argparse
import json
import math
import time
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import regex

from bench.machine import keep, kept, short
from narae.documents import draw, read_lines
from narae.log import say
from tokenizer.merging import EDGE, Text, merges_of
from tokenizer.train import PATTERNS, around, tokenizer_of
from tokenizer.words import Words

ENTRIES, TEXT, PER_SOURCE, HELD_OUT = 8192, 6_000_000, 400_000, 25_000
LAYERS, WIDTH, LENGTH, ROWS, RATE = 3, 192, 256, 16, 3e-3
CUT = "\ue000"  # where morphemes meet, in text that goes into the tokenizer

OURS = {
    "eojeols": r"\p{N}{1,3}| ?[^\s\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
    "jamo": r"[^\r\n\p{L}\p{N}]?[ㄱ-ㆎ]+|[^\r\n\p{L}\p{N}]?(?:(?![ㄱ-ㆎ])\p{L})+|" + PATTERNS["llama3"],
}
ACROSS = r"[^\r\n\p{L}\p{N}]?\p{L}+(?: \p{L}+)*|" + PATTERNS["llama3"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--held_out", type=Path, required=True)
    parser.add_argument("--only", nargs="*", default=[])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    texts, held_out = even(asked.data, PER_SOURCE, TEXT), even(asked.held_out, HELD_OUT, 10**9)
    say(f"{size(texts):,} bytes to train on, {size(held_out):,} held out")
    found: dict[str, Any] = {}
    for name, make in WAYS.items():
        if asked.only and name not in asked.only:
            continue
        prepare = morphemes if name == "morphemes" else lambda texts: texts
        tokenizer = make(prepare(texts), name)
        began = time.process_time()
        rows = tokenizer.encode_batch(prepare(texts), add_special_tokens=False)
        speed = size(texts) / 1e6 / (time.process_time() - began)
        judged = tokenizer.encode_batch(prepare(held_out), add_special_tokens=False)
        tokens = sum(len(one.ids) for one in judged)
        curve = learn([one.ids for one in rows], [one.ids for one in judged], size(held_out), asked.threads, asked.seed)
        found[f"{name}, seed {asked.seed}"] = {
            "bytes_per_token": short(size(held_out) / tokens),
            "bits_per_byte": curve[-1][1],
            "tokens": curve[-1][0],
            "curve": curve,
            "mb_per_cpu_second": short(speed),
        }
        say(
            f"{name}: "
            + json.dumps({key: value for key, value in found[f"{name}, seed {asked.seed}"].items() if key != "curve"})
        )
        before = json.loads(kept("patterns").read_text())["ways"] if kept("patterns").exists() else {}
        keep("patterns", {"ways": before | found}, ("torch", "transformers", "tokenizers", "kiwipiepy"))
    print(json.dumps({name: one["bits_per_byte"] for name, one in found.items()}))


def even(file: Path, most: int, whole: int) -> list[str]:
    """As much of each source, in an order that ids decide."""
    records = [json.loads(line) for line in read_lines(file)]
    records.sort(key=lambda record: draw(str(record["id"])))
    room: Counter[str] = Counter()
    texts, left = [], whole
    for record in records:
        length = len(record["text"].encode())
        if room[record["source"]] + length <= most and length <= left:
            room[record["source"]] += length
            left -= length
            texts.append(record["text"])
    return texts


def size(texts: Iterable[str]) -> int:
    return sum(len(text.encode()) for text in texts)


def plain(texts: list[str], name: str) -> Any:
    return trained(texts, (PATTERNS | OURS)[name])


def trained(texts: Iterable[str], pattern: str, entries: int = ENTRIES) -> Any:
    find = regex.compile(pattern).findall
    counts: Counter[str] = Counter()
    for text in texts:
        counts.update(find(text))
    return tokenizer_of(words_of(counts), pattern, entries)


def words_of(counts: Counter[str]) -> Words:
    return Words(b"".join(word.encode() + b"\xff" for word in counts), np.array([*counts.values()], np.int64))


def superwords(texts: list[str], _: str) -> Any:
    from tokenizers import Tokenizer, models

    within = ENTRIES * 7 // 8
    first = trained(texts, PATTERNS["llama3"], within)
    around(first, ACROSS)
    find = regex.compile(ACROSS).findall
    counts: Counter[str] = Counter()
    for text in texts:
        counts.update(find(text))
    symbols, weights = [EDGE], [0]
    for phrase, encoded in zip(counts, first.encode_batch(list(counts), add_special_tokens=False), strict=True):
        symbols += [*encoded.ids, EDGE]
        weights += [counts[phrase]] * (len(encoded.ids) + 1)
    phrases = Text(np.array(symbols, np.int32), np.array(weights, np.int64), within - 1)
    model = json.loads(first.to_str())["model"]
    entries, merges = [*model["vocab"]], [tuple(pair) for pair in model["merges"]]
    for left, right in merges_of(phrases, ENTRIES - within):
        merges.append((entries[left], entries[right]))
        entries.append(entries[left] + entries[right])
    return around(Tokenizer(models.BPE({entry: number for number, entry in enumerate(entries)}, merges)), ACROSS)


def morphemes(texts: list[str]) -> list[str]:
    """The texts with a mark where one morpheme ends and another begins within a word."""
    from kiwipiepy import Kiwi

    kiwi = Kiwi(num_workers=1)
    marked = []
    for text, found in zip(texts, kiwi.tokenize(texts), strict=True):
        cuts = sorted({token.start for token in found if token.start and not text[token.start - 1].isspace()})
        marked.append(CUT.join(text[begin:end] for begin, end in zip([0, *cuts], [*cuts, len(text)], strict=True)))
    return marked


def of_morphemes(texts: list[str], _: str) -> Any:
    from tokenizers import pre_tokenizers

    find = regex.compile(PATTERNS["llama3"]).findall
    counts: Counter[str] = Counter()
    for text in texts:
        for piece in text.split(CUT):
            counts.update(find(piece))
    tokenizer = tokenizer_of(words_of(counts), PATTERNS["llama3"], ENTRIES)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Split(CUT, "removed"), tokenizer.pre_tokenizer])
    return tokenizer


WAYS: dict[str, Callable[[list[str], str], Any]] = {
    **dict.fromkeys(("llama3", "eojeols"), plain),
    "morphemes": of_morphemes,
    "superwords": superwords,
    **dict.fromkeys(("particles", "jamo", "gpt2", "qwen2", "o200k"), plain),
}


def learn(
    documents: list[list[int]], held_out: list[list[int]], size: int, threads: int, seed: int
) -> list[list[float]]:
    """A small model, once through the documents: [tokens read, bits per byte held out] on the way."""
    import torch
    from transformers import PhiConfig, PhiForCausalLM

    from pretrain.loss import use_loss_head

    torch.set_num_threads(threads)
    torch.manual_seed(seed)
    shape = PhiConfig(
        vocab_size=ENTRIES,
        hidden_size=WIDTH,
        intermediate_size=4 * WIDTH,
        num_hidden_layers=LAYERS,
        num_attention_heads=4,
        max_position_embeddings=LENGTH,
        hidden_act="gelu_pytorch_tanh",
    )
    model: Any = PhiForCausalLM(shape)
    use_loss_head(model)
    rows, judged = packed(documents), packed(held_out)
    order = torch.randperm(len(rows))
    steps = len(rows) // ROWS
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE, betas=(0.9, 0.95), weight_decay=0.1)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer,
        lambda step: min(1, (step + 1) / 50) * (0.1 + 0.9 * (1 + math.cos(math.pi * min(1, step / steps))) / 2),
    )
    curve = []
    for step in range(steps):
        ids = rows[order[step * ROWS : (step + 1) * ROWS]]
        with torch.autocast("cpu", torch.bfloat16):
            loss = model(input_ids=ids, labels=ids).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        if (step + 1) % max(1, steps // 8) == 0 or step + 1 == steps:
            curve.append([(step + 1) * ROWS * LENGTH, round(bits(model, judged, size), 4)])
            say(f"step {step + 1} of {steps}: {curve[-1]}")
    return curve


def packed(documents: list[list[int]]) -> Any:
    import torch

    stream = torch.tensor([token for document in documents for token in [*document, 0]])
    return stream[: len(stream) // LENGTH * LENGTH].view(-1, LENGTH)


def bits(model: Any, rows: Any, size: int) -> float:
    """A row's first token is not predicted: it counts as the others do. So does what the last row leaves out."""
    import torch

    model.eval()
    losses = []
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        for begin in range(0, len(rows), ROWS):
            ids = rows[begin : begin + ROWS]
            losses += [float(model(input_ids=ids, labels=ids).loss)] * len(ids)
    model.train()
    return sum(losses) / len(losses) / math.log(2) * rows.numel() / size


if __name__ == "__main__":
    main()
