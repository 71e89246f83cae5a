"""SentencePiece's model files: protocol buffers, of which four kinds of fields are enough to read."""

import struct
from collections.abc import Iterator
from typing import Any

UNIGRAM, BPE = 1, 2
NORMAL, UNKNOWN = 1, 2  # kinds of entries


def sentencepiece(data: bytes) -> dict[str, Any]:
    """Entries with their scores and kinds, and how text is prepared for them. Field numbers as in its model.proto."""
    pieces, kinds = [], []
    trainer: dict[int, Any] = {}
    normalizer: dict[int, Any] = {}
    for number, value in fields(data):
        if number == 1:
            piece = dict(fields(value))
            pieces.append((piece[1].decode(), struct.unpack("<f", piece[2])[0] if 2 in piece else 0.0))
            kinds.append(piece.get(3, NORMAL))
        elif number == 2:
            trainer = dict(fields(value))
        elif number == 3:
            normalizer = dict(fields(value))
    kind = trainer.get(3, UNIGRAM)
    if not pieces or UNKNOWN not in kinds:
        raise ValueError("no SentencePiece model: it has no entries or none for what is unknown")
    if kind not in (UNIGRAM, BPE):
        raise ValueError(f"SentencePiece model type {kind}, which is neither unigram (1) nor BPE (2)")
    return {
        "pieces": pieces,
        "kinds": kinds,
        "unknown": kinds.index(UNKNOWN),
        "unigram": kind == UNIGRAM,
        "byte_fallback": bool(trainer.get(35, 0)),
        "charsmap": normalizer.get(2, b""),
        "prefix": bool(normalizer.get(3, 1)),
        "strip": bool(normalizer.get(4, 1)),
    }


def fields(data: bytes) -> Iterator[tuple[int, Any]]:
    """Number and value of each field: a whole number, or bytes."""
    place = 0
    while place < len(data):
        key, place = _number(data, place)
        kind = key & 7
        if kind == 0:
            value, place = _number(data, place)
            yield key >> 3, value
            continue
        if kind == 2:
            size, place = _number(data, place)
        elif kind in (1, 5):
            size = 8 if kind == 1 else 4
        else:
            raise ValueError(f"no protocol buffer: a field of kind {kind} at byte {place - 1:,}")
        if place + size > len(data):
            raise ValueError(f"a field at byte {place - 1:,} ends {place + size - len(data):,} bytes after the file")
        yield key >> 3, data[place : place + size]
        place += size


def _number(data: bytes, place: int) -> tuple[int, int]:
    """Seven bits in each byte, the lowest first; the eighth says that another follows."""
    value = shift = 0
    while True:
        if place >= len(data) or shift > 63:
            raise ValueError(f"a number at byte {place:,} has no end")
        byte = data[place]
        value |= (byte & 127) << shift
        place, shift = place + 1, shift + 7
        if byte < 128:
            return value, place
