"""Turn a corpus into rows of token ids, ready for pretraining.

    python pretrain/pack.py                                    # the sample's
    python pretrain/pack.py --config configs/pack/books.yaml --sequence_length 1024

Documents follow each other, <|endoftext|> after each; the stream is cut into rows and no token is lost. The documents
of a source with weight 2 come twice in train, those of one with weight 0.5 by halves. The format is narae/packed.py's.
"""

import itertools
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from narae import artifact
from narae.artifact import Artifact, open_artifact
from narae.config import option, parse, resolved
from narae.documents import draw, read_documents, shards
from narae.log import Mistake, Progress, say
from narae.packed import PackedWriter, dtype_for

if TYPE_CHECKING:
    from tokenizers import Tokenizer

BATCH_BYTES = 1_000_000  # of text to encode at once: enough for every core, little beside the memory


@dataclass
class Config:
    name: str = option("sample", "the name of the packed artifact")
    overwrite: bool = option(False, "replace a packed artifact of that name")
    verify: bool = option(False, "hash corpus and tokenizer before reading them")
    corpus: str = option("sample", "the corpus to pack")
    tokenizer: str = option("sample", "the tokenizer to pack it with")
    sequence_length: int = option(512, "tokens in a row")
    shard_rows: int = option(262_144, "rows in a shard file")


def main() -> None:
    config = parse(Config, config="configs/pack/sample.yaml", about=__doc__)
    if config.sequence_length < 2 or config.shard_rows < 1:
        raise Mistake(
            f"--sequence_length {config.sequence_length} --shard_rows {config.shard_rows}: "
            "a row has at least 2 tokens, a shard at least 1 row"
        )
    corpus = open_artifact("corpus", config.corpus, verify=config.verify)
    saved = open_artifact("tokenizer", config.tokenizer, verify=config.verify)
    draft = artifact.begin("packed", config.name, resolved(config), [corpus, saved], overwrite=config.overwrite)
    if draft is None:
        return
    with draft:
        began = time.monotonic()
        tokenizer = load(saved)
        vocabulary = tokenizer.get_vocab()
        entries = max(vocabulary.values()) + 1
        dtype = dtype_for(entries)
        eos, pad = vocabulary["<|endoftext|>"], vocabulary["<|pad|>"]
        draft.counts.update(dtype=dtype.name, sequence_length=config.sequence_length, entries=entries, eos=eos, pad=pad)
        for split in ("train", "val"):
            writer = PackedWriter(draft.path, split, dtype, config.sequence_length, config.shard_rows, pad)
            draft.counts[split] = pack(corpus, split, tokenizer, eos, writer)
        train, val = draft.counts["train"], draft.counts["val"]
        if not train["rows"]:
            raise Mistake(f"corpus '{config.corpus}' has no text in train: there is nothing to pack")
        if not val["rows"]:
            say(f"warning: corpus '{config.corpus}' has no text in val: training on it cannot be evaluated")
    seconds = time.monotonic() - began
    say(
        f"packed '{config.name}': {train['rows']:,} rows of {config.sequence_length} for train and {val['rows']:,} for "
        f"val, {train['tokens']:,} tokens, {train['bytes'] / max(train['tokens'] - train['documents'], 1):.2f} bytes "
        f"per token, {(train['bytes'] + val['bytes']) / 1e6 / seconds:.1f} MB/s: {draft.target}"
    )


def load(saved: Artifact) -> "Tokenizer":
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(saved.path / "tokenizer.json"))
    # A document that spells a special token out is text, all of it: only this program ends documents.
    tokenizer.encode_special_tokens = True
    return tokenizer


def pack(corpus: Artifact, split: str, tokenizer: "Tokenizer", eos: int, writer: PackedWriter) -> dict[str, Any]:
    """Encode and write one split; its counts."""
    # In a byte-level vocabulary a character of an entry stands for a byte. So the bytes are counted after NFC, as read.
    entry_bytes = np.zeros(max(tokenizer.get_vocab().values()) + 1, np.int64)
    for entry, number in tokenizer.get_vocab().items():
        entry_bytes[number] = len(entry)
    entry_bytes[eos] = 0  # ends documents, and is nowhere else
    files = shards(corpus.path, split)
    in_shards = [0] * len(files)
    by_source = corpus.counts.get("sources", {}) if split == "train" else {}
    weights = {name: source["weight"] for name, source in by_source.items() if source["weight"] != 1}
    whole = sum(source["weight"] * source[split]["bytes"] for source in by_source.values())
    text_bytes = empty = 0
    bar = Progress(f"packing {split}", (whole or corpus.counts[split]["bytes"]) / 1e6, "MB")
    with writer:
        for batch in _batches(files, in_shards, weights):
            texts = [text for _, text in batch if text]
            ordinals = np.array([ordinal for ordinal, text in batch if text], np.int64)
            parts = [encoding.ids for encoding in tokenizer.encode_batch_fast(texts, add_special_tokens=False)]
            for part in parts:
                part.append(eos)
            lengths = np.fromiter(map(len, parts), np.int64, len(parts))
            ids = np.fromiter(itertools.chain.from_iterable(parts), np.int64, int(lengths.sum()))
            writer.write(ids, lengths, ordinals)
            text_bytes += int(entry_bytes[ids].sum())
            empty += len(batch) - len(texts)
            bar.update(text_bytes / 1e6)
    bar.close()
    return {**writer.counts, "bytes": text_bytes, "empty": empty, "corpus_shards": in_shards}


def _batches(files: list[Path], in_shards: list[int], weights: dict[str, float]) -> Iterator[list[tuple[int, str]]]:
    """Texts with their ordinals, about BATCH_BYTES at a time; counts the documents of every shard on the way.

    What comes more than once comes in another round, so that a document and its copy are not neighbours in a row.
    """
    batch: list[tuple[int, str]] = []
    size = 0
    for turn in range(math.ceil(max([1, *weights.values()]))):
        ordinal = 0
        for number, file in enumerate(files):
            for document in read_documents([file]):
                left = weights.get(document.source, 1) - turn
                if left >= 1 or (left > 0 and draw(document.id) < left):
                    batch.append((ordinal, document.text))
                    size += len(document.text.encode())
                in_shards[number] += not turn
                ordinal += 1
                if size >= BATCH_BYTES:
                    yield batch
                    batch, size = [], 0
    yield batch


if __name__ == "__main__":
    main()
