"""A small tokenizer of each engine, as a folder."""

import re
import unicodedata
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import helpers
import pytest

from narae.artifact import open_artifact
from tokenizer import pieces, train

NAMES = ["bpe", "sentencepiece"]


def words(texts: Sequence[str]) -> list[tuple[str, int]]:
    counts: Counter[str] = Counter()
    for text in texts:
        counts.update(re.findall(pieces.WORD, unicodedata.normalize("NFC", text)))
    return list(counts.items())


def folder(engine: str, at: Path, entries: int = 384) -> Path:
    if engine == "sentencepiece":
        train.save(pieces.train_pieces(words(helpers.SENTENCES), entries, train.SPECIAL), at, 512)
        return at
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NARAE_ARTIFACTS", str(at))
        helpers.corpus()
        helpers.call(train.main, "--vocab_size", str(entries))
        return open_artifact("tokenizer", "sample").path
