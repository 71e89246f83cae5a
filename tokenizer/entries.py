"""The state of a vocabulary: what its entries are, and which of them the training text hardly uses."""

import itertools
import json
import re
from collections.abc import Iterable
from typing import Any

import numpy as np

from tokenizer.fertility import batches
from tokenizer.peers import Peer

LISTED = 40
SHOWN = str.maketrans({" ": "␣", "\n": "↵", "\t": "⇥", "\r": "␍"})
# In this order, the first that holds for the whole entry, its space in front aside.
KINDS = (
    ("several words", re.compile(r"(?s).*\S\s+\S.*")),
    ("Hangul after a space", re.compile("\\s+[가-힣ㄱ-ㆎ\u1100-\u11ff]+")),
    ("Hangul", re.compile("[가-힣ㄱ-ㆎ\u1100-\u11ff]+")),
    ("Hangul with others", re.compile("(?s).*[가-힣ㄱ-ㆎ\u1100-\u11ff].*")),
    ("digits", re.compile(r"\s?[0-9]+")),
    ("Latin letters", re.compile(r"\s?[A-Za-zÀ-ɏ]+")),
    ("Hanja", re.compile("\\s?[㐀-鿿豈-\ufaff]+")),
    ("signs and spaces", re.compile(r"[\W_]+")),
)
SPECIAL, PART, OTHERS = "special", "part of a character", "others"
ORDER = [*(name for name, _ in KINDS), PART, OTHERS, SPECIAL]
# Up to how many occurrences; the last one has no end.
STEPS = (0, 9, 99, 999, 9_999, 99_999, 999_999)


def kind(spelling: bytes, special: bool = False) -> str:
    if special:
        return SPECIAL
    try:
        word = spelling.decode()
    except UnicodeDecodeError:
        return PART
    return next((name for name, pattern in KINDS if pattern.fullmatch(word)), OTHERS)


def occurrences(peer: Peer, texts: Iterable[str]) -> tuple["np.ndarray", int, int]:
    """How often each entry occurs in the encoded texts; and the documents and bytes that were encoded."""
    counts = np.zeros(max(peer.tokenizer.get_vocab().values()) + 1, np.int64)
    documents = size = 0
    for batch in batches(texts):
        encodings = peer.tokenizer.encode_batch_fast(batch, add_special_tokens=False)
        numbers = itertools.chain.from_iterable(encoding.ids for encoding in encodings)
        counts += np.bincount(np.fromiter(numbers, np.int64), minlength=len(counts))
        documents += len(batch)
        size += sum(len(text.encode()) for text in batch)
    return counts, documents, size


def state(peer: Peer, counts: "np.ndarray | None", rare: int) -> dict[str, Any]:
    """Everything about the entries; without counts what they are only."""
    numbers = sorted(peer.tokenizer.get_vocab().values())
    spellings = {number: peer.spelling(number) for number in numbers}
    kinds = {number: kind(spellings[number], number in peer.special) for number in numbers}
    told: dict[str, Any] = {
        "entries": len(numbers),
        "after_a_space": sum(one.startswith(b" ") for one in spellings.values()),
        "kinds": {name: {"entries": _of(kinds, name)} for name in ORDER if _of(kinds, name)},
        "lengths": _lengths(spellings, kinds),
        "longest": [shown(spellings[number]) for number in _longest(spellings, kinds)],
    }
    if counts is None:
        return told
    ordinary = [number for number in numbers if kinds[number] != SPECIAL]
    never = [number for number in ordinary if not counts[number]]
    seldom = [number for number in ordinary if counts[number] < rare]
    parts = _parts(peer)
    steps = [number for number in seldom if number in parts]
    for name, row in told["kinds"].items():
        row["never"] = sum(kinds[number] == name for number in never)
        row["rare"] = sum(kinds[number] == name for number in seldom)
        row["tokens"] = int(sum(counts[number] for number in numbers if kinds[number] == name))
    told |= {
        "rare_below": rare,
        "never": len(never),
        "rare": len(seldom),
        "steps": len(steps),
        "tokens": int(counts.sum()),
        "occurrences": _steps(counts[ordinary]),
        "never_shown": [shown(spellings[number]) for number in never[:LISTED]],
        "steps_shown": [shown(spellings[number]) for number in steps[:LISTED]],
    }
    return told


def _of(kinds: dict[int, str], name: str) -> int:
    return sum(one == name for one in kinds.values())


def _lengths(spellings: dict[int, bytes], kinds: dict[int, str]) -> dict[str, int]:
    """Entries by characters, those that are a part of one under 0; 12 and more together."""
    lengths: dict[int, int] = {}
    for number, spelling in spellings.items():
        if kinds[number] != SPECIAL:
            length = 0 if kinds[number] == PART else min(len(spelling.decode()), 12)
            lengths[length] = lengths.get(length, 0) + 1
    return {str(length): lengths.get(length, 0) for length in range(max(lengths, default=0) + 1)}


def _longest(spellings: dict[int, bytes], kinds: dict[int, str]) -> list[int]:
    """By characters; runs of a single character (spaces, dashes) tell nothing and are left out."""
    words = {
        number: spelling.decode()
        for number, spelling in spellings.items()
        if kinds[number] not in (SPECIAL, PART) and len(set(spelling.decode().strip())) > 1
    }
    return sorted(words, key=lambda number: (-len(words[number]), number))[:LISTED]


def _parts(peer: Peer) -> set[int]:
    """Entries of which merges make longer ones."""
    model = json.loads(peer.tokenizer.model.__getstate__())
    vocabulary = peer.tokenizer.get_vocab()
    pairs = (merge.split(" ") if isinstance(merge, str) else merge for merge in model.get("merges") or [])
    return {vocabulary[part] for pair in pairs for part in pair if part in vocabulary}


def _steps(counts: "np.ndarray") -> list[dict[str, int]]:
    """How many entries occur so often."""
    rows = []
    for place, most in enumerate(STEPS):
        least = STEPS[place - 1] + 1 if place else 0
        last = place == len(STEPS) - 1
        inside = (counts >= least) & (counts <= most) if not last else counts >= least
        rows.append({"from": least, "to": -1 if last else most, "entries": int(inside.sum())})
    return rows


def shown(spelling: bytes) -> str:
    """An entry as a word: spaces visible, bytes that are no character in hex."""
    return "".join(piece for piece, _ in pieces(spelling))


def pieces(spelling: bytes) -> list[tuple[str, bool]]:
    """Stretches of characters (True), and of bytes in hex (False): no whole character, or an invisible one."""
    laid: list[tuple[str, bool]] = []
    # A byte that is part of no character becomes half a surrogate pair, which is not printable either.
    for known, stretch in itertools.groupby(spelling.decode("utf-8", "surrogateescape"), _visible):
        word = "".join(stretch)
        bytes_of = word.encode("utf-8", "surrogateescape")
        laid.append((word.translate(SHOWN), True) if known else (bytes_of.hex(" ").upper(), False))
    return laid


def _visible(character: str) -> bool:
    return character.isprintable() or ord(character) in SHOWN
