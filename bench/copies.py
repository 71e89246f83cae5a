"""Copies of documents, changed in known ways: what near-duplicate search has to find, or to let pass."""

import random
import re
from collections.abc import Callable

PARTICLES = {"은": "이", "는": "가", "이": "은", "가": "는", "을": "도", "를": "도", "에": "로", "의": "도"}


def copies(rng: random.Random, originals: list[str]) -> tuple[list[str], dict[str, list[tuple[int, int]]]]:
    """All documents in an order of their own, and the places of each original and its copy."""
    made = [(number, "", text) for number, text in enumerate(originals)]
    for number, text in enumerate(originals):
        made += [(number, name, change(rng, text, originals[number - 1])) for name, change in CHANGES.items()]
    rng.shuffle(made)
    first = {number: place for place, (number, name, _) in enumerate(made) if not name}
    planted: dict[str, list[tuple[int, int]]] = {name: [] for name in CHANGES}
    for place, (number, name, _) in enumerate(made):
        if name:
            planted[name].append((first[number], place))
    return [text for _, _, text in made], planted


def words_changed(rng: random.Random, text: str, share: float, change: Callable[[str], str]) -> str:
    words = text.split(" ")
    for place in rng.sample(range(len(words)), max(1, round(len(words) * share))):
        words[place] = change(words[place])
    return " ".join(word for word in words if word)


def swapped(rng: random.Random, text: str, other: str, share: float) -> str:
    return words_changed(rng, text, share, lambda _: rng.choice(other.split()))


def put_in(rng: random.Random, text: str, other: str, share: float) -> str:
    return words_changed(rng, text, share, lambda word: f"{word} {rng.choice(other.split())}")


def particles(rng: random.Random, text: str, share: float) -> str:
    """The last syllable of words that end in a particle, or look so."""
    ends = r"(?<=\w\w)[은는이가을를에의](?= )"
    return re.sub(ends, lambda end: PARTICLES[end[0]] if rng.random() < share else end[0], text)


def spaced(rng: random.Random, text: str, share: float) -> str:
    """Spaces lost, and some put between syllables, as careless writers have it."""
    text = re.sub(" ", lambda _: "" if rng.random() < share else " ", text)
    return re.sub(r"(?<=[가-힣])(?=[가-힣]{2})", lambda _: " " if rng.random() < share / 4 else "", text)


def reordered(rng: random.Random, text: str) -> str:
    sentences = re.split(r"(?<=[.?!])\s", text)
    return " ".join(rng.sample(sentences, len(sentences)))


def quoting(text: str, other: str, share: float) -> str:
    middle = len(text) // 2
    return f"{text[:middle]} {other[: int(len(text) * share)]} {text[middle:]}"


CHANGES: dict[str, Callable[[random.Random, str, str], str]] = {
    "2 % of words swapped": lambda rng, text, other: swapped(rng, text, other, 0.02),
    "5 % of words swapped": lambda rng, text, other: swapped(rng, text, other, 0.05),
    "10 % of words swapped": lambda rng, text, other: swapped(rng, text, other, 0.1),
    "5 % of words left out": lambda rng, text, other: words_changed(rng, text, 0.05, lambda word: ""),
    "5 % of words put in": lambda rng, text, other: put_in(rng, text, other, 0.05),
    "a fifth of particles swapped": lambda rng, text, other: particles(rng, text, 0.2),
    "a fifth of spaces lost": lambda rng, text, other: spaced(rng, text, 0.2),
    "sentences in another order": lambda rng, text, other: reordered(rng, text),
    "the last 15 % cut off": lambda rng, text, other: text[: int(len(text) * 0.85)],
    "a passage of 15 % quoted": lambda rng, text, other: quoting(text, other, 0.15),
}
