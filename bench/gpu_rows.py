"""python bench/gpu_rows.py: rows of random tokens and their tokenizer, published as `gpu`. No corpus is needed.

What a row says does not change how long a step takes; where its documents end does, so their lengths are drawn as in
natural text: a median of 300 tokens, some of thousands.
"""

import argparse
import json
from typing import Any

import numpy as np

from bench.gpu_plan import DRY_ENTRIES, DRY_LENGTH, DRY_SHAPES, ENTRIES, LENGTH
from narae.artifact import Artifact, begin, open_artifact, root
from narae.model import from_values, new_config
from narae.packed import PackedWriter, dtype_for

NAME = "gpu"
ROWS = {"train": (8192, 96), "val": (64, 8)}  # of a visit, and of a dry run
EOS, PAD = 0, 1
SPECIAL = ["<|endoftext|>", "<|pad|>"]
MEDIAN, SPREAD = 300, 1.2  # tokens of a document, log-normal


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dry_run", action="store_true")
    asked = parser.parse_args()
    entries, length = (DRY_ENTRIES, DRY_LENGTH) if asked.dry_run else (ENTRIES, LENGTH)
    if asked.dry_run:
        for size in DRY_SHAPES:
            (root() / f"{size}.json").write_text(json.dumps(tiny(size)))
    packed = publish(entries, length, {split: counts[asked.dry_run] for split, counts in ROWS.items()})
    print(json.dumps({"rows": packed.counts["train"]["rows"], "documents": packed.counts["train"]["documents"]}))


def tiny(size: str) -> dict[str, Any]:
    """What stands for a size in a dry run."""
    return {"model_type": "phi", "hidden_act": "gelu_pytorch_tanh", **DRY_SHAPES[size]}


def model_config(size: str, dry: bool) -> Any:
    return from_values(tiny(size), DRY_ENTRIES, DRY_LENGTH) if dry else new_config(size, ENTRIES, LENGTH)


def publish(entries: int, length: int, rows: dict[str, int]) -> Artifact:
    tokenizer = tokenizer_of(entries, length)
    draft = begin("packed", NAME, {"entries": entries, "sequence_length": length, **rows}, [tokenizer])
    assert draft is not None, "the folder is new"
    with draft:
        kind = dtype_for(entries)
        draft.counts |= {"sequence_length": length, "dtype": kind.str, "entries": entries, "eos": EOS, "pad": PAD}
        for seed, (split, count) in enumerate(rows.items()):
            ids, starts = stream(count * length, entries, length, seed)
            with PackedWriter(draft.path, split, kind, length, 1 << 18, PAD) as writer:
                writer.write(ids, starts, np.arange(starts.size))
            more = {"bytes": 3 * ids.size, "corpus_shards": [starts.size]}
            if split == "val":
                writer.write_sources(np.zeros(starts.size))
                more["sources"] = {"random": {"documents": starts.size, "tokens": ids.size, "bytes": 3 * ids.size}}
            draft.counts[split] = writer.counts | more
    return open_artifact("packed", NAME)


def stream(tokens: int, entries: int, length: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Ids, frequent ones as frequent as words are, each document with its end; and where documents begin."""
    chance = np.random.default_rng(seed)
    ids = (len(SPECIAL) + (entries - len(SPECIAL)) ** chance.random(tokens) - 1).astype(np.int64)
    # Of a row of 512; shorter rows have shorter documents
    drawn = chance.lognormal(np.log(MEDIAN * length / LENGTH), SPREAD, 4 * tokens * LENGTH // (MEDIAN * length) + 8)
    ends = np.cumsum(np.maximum(drawn.astype(np.int64), 2))
    ends = ends[ends < tokens]
    ids[ends - 1] = EOS
    ids[-1] = EOS
    return ids, np.concatenate([[0], ends])


def tokenizer_of(entries: int, length: int) -> Artifact:
    """Bytes, and entries that no text is encoded to: a model asks for their number only."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    draft = begin("tokenizer", NAME, {"entries": entries})
    assert draft is not None, "the folder is new"
    with draft:
        known = [*SPECIAL, *sorted(pre_tokenizers.ByteLevel.alphabet())]
        known += [f"entry{number}" for number in range(entries - len(known))]
        tokenizer = Tokenizer(models.BPE({entry: number for number, entry in enumerate(known)}, []))
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.decoder = decoders.ByteLevel()
        tokenizer.add_special_tokens(SPECIAL)
        end, pad = SPECIAL
        whole = PreTrainedTokenizerFast(
            tokenizer_object=tokenizer, bos_token=end, eos_token=end, pad_token=pad, model_max_length=length
        )
        whole.save_pretrained(str(draft.path))
        draft.counts["entries"] = entries
    return open_artifact("tokenizer", NAME)


if __name__ == "__main__":
    main()
