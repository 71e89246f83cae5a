"""What bench/prep.py measures on: documents, as a corpus artifact and as lines of JSON, and their tokenizer."""

import json
import random
import subprocess
import sys
import unicodedata
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

from narae import artifact
from narae.config import HOME
from narae.documents import Document, ShardWriter, read_lines, shards
from narae.log import Mistake

ENTRIES = 32_768, 16_384, 8_192, 4_096  # as many as the text yields
CHANGED = 0.1  # of the syllables, in each copy


def documents(data: Path | None, size: float) -> tuple[str, list[str]]:
    """What the data is called, and documents at random that make about `size` bytes.

    In NFC, for tiktoken knows nothing else; none is empty or spells a special token, which the peers read differently.
    """
    if data and not data.is_file():
        raise Mistake(f"--data {data}: no such file")
    paths = [data] if data else shards(artifact.open_artifact("corpus", "sample").path, "train")
    texts = (unicodedata.normalize("NFC", json.loads(line)["text"]) for path in paths for line in read_lines(path))
    every = [text for text in texts if text.strip() and "<|" not in text]
    random.Random(653).shuffle(every)
    chosen, room = [], size
    for text in every:
        if room <= 0:
            break
        chosen.append(text)
        room -= len(text.encode())
    if len(chosen) < 2:
        raise Mistake(f"{', '.join(map(str, paths))}: {len(chosen)} documents with text, and it takes 2 at least")
    return data.name if data else "the sample world", chosen


def size_of(texts: Iterable[str]) -> int:
    return sum(len(text.encode()) for text in texts)


def prepared(texts: list[str], folder: Path, workers: int) -> int:
    """The corpus, its tokenizer and the lines of JSON; how many entries there are."""
    corpus_of("bench", texts)
    lines = [json.dumps({"text": text}, ensure_ascii=False).encode() + b"\n" for text in texts]
    (folder / "text.jsonl").write_bytes(b"".join(lines))
    ends = np.cumsum([len(line) for line in lines])
    cuts = [0, *np.searchsorted(ends, [ends[-1] * part // workers for part in range(1, workers)]), len(lines)]
    for number in range(workers):
        (folder / f"text_{number}.jsonl").write_bytes(b"".join(lines[cuts[number] : cuts[number + 1]]))
    train = [sys.executable, str(HOME / "tokenizer" / "train.py"), "--corpus=bench", "--name=bench"]
    for entries in ENTRIES:
        done = subprocess.run([*train, f"--vocab_size={entries}"], stderr=subprocess.PIPE, text=True)
        if not done.returncode:
            return entries
    raise Mistake(f"tokenizer/train.py stopped with {done.returncode}:\n{done.stderr[-2000:]}")


def corpus_of(name: str, texts: Iterable[str]) -> artifact.Artifact:
    draft = artifact.begin("corpus", name, {})
    assert draft is not None
    with draft:
        for split in ("train", "val"):
            with ShardWriter(draft.path, split) as writer:
                for number, text in enumerate(texts if split == "train" else ()):
                    writer.write(Document(f"{name}#{number}", text))
            draft.counts[split] = {"documents": writer.documents, "bytes": writer.bytes}
    return artifact.open_artifact("corpus", name)


def varied(texts: list[str], size: float) -> Iterator[str]:
    """The texts again and again until they make `size` bytes. In each further copy some syllables change places with
    each other, so that it has words which no other copy has."""
    syllables = sorted({character for text in texts for character in text if "가" <= character <= "힣"})
    turn = 0
    while True:
        rng = random.Random(f"copy {turn}")
        some = rng.sample(syllables, round(len(syllables) * CHANGED)) if turn else []
        table = str.maketrans(dict(zip(some, [*some[1:], *some[:1]], strict=True)))
        for text in texts:
            yield text.translate(table)
            size -= len(text.encode())
            if size <= 0:
                return
        turn += 1
