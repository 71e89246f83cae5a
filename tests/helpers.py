"""Small things made by hand, for tests of any stage."""

import sys
import unicodedata
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from narae import artifact
from narae.artifact import Artifact, open_artifact
from narae.documents import Document, ShardWriter

HOME = Path(__file__).resolve().parents[1]
NAMES = ["나래", "마루", "보라", "시내", "하늘", "가람", "다온", "이든"]
PLACES = ["바닷가", "산마을", "도서관", "시장", "강둑", "언덕길", "학교 앞", "다리 밑"]
DEEDS = ["책을 읽었다", "노래를 불렀다", "사과를 샀다", "편지를 썼다", "그림을 그렸다", "연을 날렸다"]
# 384 sentences: enough for a tokenizer of a few hundred entries.
SENTENCES = [f"{name}는 {place}에서 {deed}." for name in NAMES for place in PLACES for deed in DEEDS]


def corpus(
    train: Sequence[str] = SENTENCES,
    val: Sequence[str] = SENTENCES[::37],
    name: str = "sample",
    shard_bytes: int = 10**6,
) -> Artifact:
    """A published corpus of these texts, with the ids train#0, train#1 …, val#0 …"""
    draft = artifact.begin("corpus", name, {"texts": [*train, *val]}, overwrite=True)
    if draft is not None:
        with draft:
            for split, texts in (("train", train), ("val", val)):
                with ShardWriter(draft.path, split, shard_bytes) as writer:
                    for number, text in enumerate(texts):
                        writer.write(Document(f"{split}#{number}", text))
                draft.counts[split] = {"documents": writer.documents, "bytes": writer.bytes}
    return open_artifact("corpus", name)


def call(main: Callable[[], None], *words: str) -> None:
    """Run a command's main in this process, as if these words had followed it on the command line."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", [main.__module__.replace(".", "/") + ".py", *words])
        main()


def nfc_bytes(texts: Sequence[str]) -> int:
    return sum(len(unicodedata.normalize("NFC", text).encode()) for text in texts)
