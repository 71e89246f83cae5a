"""How a tokenizer cuts held-out text: counts for each source, and the figures that follow from them."""

import itertools
import re
import time
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np

from narae.documents import Document, Part, read_documents
from tokenizer.peers import Peer

HANGUL_RATIO = 0.7  # above it a source counts as Korean
UNNAMED = "(no source)"
BATCH = 1_000_000  # characters that are encoded at a time
TIMED = 1_000_000  # bytes of text whose encoding is timed
ROUNDS = 3
# Syllables, and jamo in all their blocks: those of old Korean, and those that stand alone as in ㅋㅋ.
SYLLABLES = re.compile("[가-힣]+")
JAMO = re.compile("[\u1100-\u11ff\u3131-\u318e\ua960-\ua97c\ud7b0-\ud7fb]+")
WORD = re.compile(r"\S+")


@dataclass
class Source:
    """Held-out texts of one source, and what can be counted before any tokenizer sees them. Sizes are those in NFC."""

    name: str
    texts: list[str] = field(default_factory=list)
    documents: int = 0
    bytes: int = 0
    characters: int = 0
    eojeols: int = 0
    syllables: int = 0
    hangul: int = 0  # syllables and jamo
    visible: int = 0  # characters that are no space

    def add(self, text: str) -> None:
        composed = unicodedata.normalize("NFC", text)
        self.texts.append(text)
        self.documents += 1
        self.bytes += len(composed.encode())
        self.characters += len(composed)
        words = WORD.findall(composed)
        syllables = sum(map(len, SYLLABLES.findall(composed)))
        self.eojeols += len(words)
        self.syllables += syllables
        self.hangul += syllables + sum(map(len, JAMO.findall(composed)))
        self.visible += sum(map(len, words))

    @property
    def hangul_ratio(self) -> float:
        return self.hangul / self.visible if self.visible else 0.0


@dataclass
class Count:
    """What a tokenizer made of some texts."""

    tokens: int = 0
    whole: int = 0  # eojeols that are not cut
    exact: int = 0  # documents that come back
    unknown: int = 0

    def __add__(self, other: "Count") -> "Count":
        return Count(*(getattr(self, one.name) + getattr(other, one.name) for one in fields(Count)))


def evenly(paths: Sequence[Path | Part], most: int, total: int = 0) -> Iterator[Document]:
    """Documents spread evenly over all, with `most` bytes of text at most. `total` bytes are there, if known."""
    total = total or sum(size_of(document) for document in read_documents(paths))
    seen = taken = 0
    for document in read_documents(paths):
        size = size_of(document)
        seen += size
        if total <= most or taken + size <= seen * most // total:
            taken += size
            yield document


def size_of(document: Document) -> int:
    return len(document.text.encode("utf-8", "surrogatepass"))


def by_source(documents: Iterable[Document]) -> list[Source]:
    sources: dict[str, Source] = {}
    for document in documents:
        name = document.source or UNNAMED
        # What is no Unicode text (half of a surrogate pair) is what no tokenizer takes.
        sources.setdefault(name, Source(name)).add(document.text.encode("utf-8", "replace").decode())
    return [sources[name] for name in sorted(sources)]


def count(peer: Peer, texts: Sequence[str]) -> Count:
    found = Count()
    for batch in batches(texts):
        encodings = peer.tokenizer.encode_batch(batch, add_special_tokens=False)
        ids = [encoding.ids for encoding in encodings]
        found.tokens += sum(map(len, ids))
        if peer.unknown is not None:
            found.unknown += sum(one.count(peer.unknown) for one in ids)
        back = peer.tokenizer.decode_batch(ids, skip_special_tokens=False)
        found.exact += sum(
            same in (text, unicodedata.normalize("NFC", text)) for same, text in zip(back, batch, strict=True)
        )
        found.whole += _whole(batch, [encoding.offsets for encoding in encodings])
    return found


def batches(texts: Iterable[str], characters: int = BATCH) -> Iterator[list[str]]:
    batch: list[str] = []
    length = 0
    for text in texts:
        batch.append(text)
        length += len(text)
        if length >= characters:
            yield batch
            batch, length = [], 0
    if batch:
        yield batch


def _whole(texts: list[str], offsets: list[list[tuple[int, int]]]) -> int:
    """Eojeols over which one token lies and no other; its space before, and its neighbours, may be in that token."""
    starts = np.cumsum([0, *(len(text) + 1 for text in texts)])[:-1]  # of texts, when they stand behind each other
    sizes = [len(one) for one in offsets]
    flat = np.fromiter(itertools.chain.from_iterable(itertools.chain.from_iterable(offsets)), np.int64)
    tokens = flat.reshape(-1, 2) + np.repeat(starts, sizes)[:, None]
    # A character that is in several tokens belongs to each: then two have the same place. Never does a place recede.
    begins, ends = np.maximum.accumulate(tokens[:, 0]), np.maximum.accumulate(tokens[:, 1])
    words = [match.span() for match in WORD.finditer("\n".join(texts))]
    if not words or not len(tokens):
        return 0
    spans = np.array(words)
    first = np.searchsorted(ends, spans[:, 0], side="right")
    last = np.searchsorted(begins, spans[:, 1], side="left") - 1
    return int((first == last).sum())


def figures(source: Source, found: Count) -> dict[str, Any]:
    def per(value: float, of: float, places: int = 4) -> float | None:
        return round(value / of, places) if of else None

    return {
        "tokens": found.tokens,
        "bytes_per_token": per(source.bytes, found.tokens),
        "characters_per_token": per(source.characters, found.tokens),
        "tokens_per_eojeol": per(found.tokens, source.eojeols),
        "tokens_per_syllable": per(found.tokens, source.syllables),
        "whole_eojeols": per(found.whole, source.eojeols),
        "exact": per(found.exact, source.documents, 6),
        "unknown": per(found.unknown, found.tokens, 6),
    }


def joined(name: str, sources: Iterable[Source]) -> Source:
    """The sums of several sources, without their texts."""
    total = Source(name)
    for source in sources:
        for one in fields(Source)[2:]:
            setattr(total, one.name, getattr(total, one.name) + getattr(source, one.name))
    return total


def timed(sources: Sequence[Source]) -> list[str]:
    """Whole documents, evenly from all sources, for measuring speed."""
    total = sum(source.bytes for source in sources)
    chosen, seen, taken = [], 0, 0
    for text in itertools.chain.from_iterable(source.texts for source in sources):
        size = len(text.encode())
        seen += size
        if total <= TIMED or taken + size <= seen * TIMED // total:
            chosen.append(text)
            taken += size
    return chosen


def speed(encode: Callable[[list[str]], Any], texts: list[str], times: int = ROUNDS) -> float:
    """MB of text per CPU-second, the best round: the others were disturbed."""
    size = sum(len(text.encode()) for text in texts)
    rounds = []
    for _ in range(times):
        began = time.process_time()
        encode(texts)
        rounds.append(time.process_time() - began)
    return round(size / 1e6 / max(min(rounds), 1e-9), 2)
