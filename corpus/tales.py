"""Tells the sample world: document n is a pure function of the seed and n, so any length needs the same memory."""

import functools
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from corpus import grammar
from corpus.world import ATTRIBUTES, Person, World, compiled, lexicon

# The kinds of documents, how often of a hundred, and the shelves (KDC classes) where they stand.
KINDS: dict[str, tuple[int, tuple[str, ...]]] = {
    "animal": (4, ("490",)),
    "plant": (3, ("480",)),
    "cooking": (4, ("590",)),
    "craft": (3, ("500", "580")),
    "story": (28, ("813", "810", "816", "380")),
    "dialogue": (25, ("814", "370", "700")),
    "letter": (13, ("816",)),
    "person": (8, ("990", "300", "810")),
    "town": (6, ("910", "980", "690")),
    "notice": (6, ("000", "070", "100")),
}
SEASONS = ("봄", "여름", "가을", "겨울")
LEVELS = {"요?": "해요", "요.": "해요", "까?": "합니다", "오.": "합니다"}


def level(question: str) -> str:
    return LEVELS.get(question[-2:], "해")


@functools.cache
def words(kind: str, season: str) -> list[str]:
    seasonal = lexicon("seasons").get(kind)
    return list((seasonal[season] if seasonal else lexicon("words")[kind]).split())


@dataclass
class Document:
    number: int
    kind: str
    shelf: str
    style: str
    sentences: list[str]
    told: list[tuple[str, str]] = field(default_factory=list)
    asked: list[tuple[str, str]] = field(default_factory=list)

    @property
    def text(self) -> str:
        return " ".join(self.sentences)


class Teller:
    """One document's memory: which words were chosen, who has been named in full, what has been told."""

    def __init__(self, world: World, rng: random.Random, people: Sequence[Person], style: str):
        self.world, self.rng, self.style = world, rng, style
        self.cast = dict(zip("pqr", people, strict=False))
        self.named: set[int] = set()
        self.season = SEASONS[int(rng.random() * 4)]
        self.bound = {"season": self.season}
        self.told: list[tuple[str, str]] = []
        self.asked: list[tuple[str, str]] = []
        self.used: set[str] = set()
        self.kind, self.topic = "", ("", "")
        self.sentences: list[str] = []

    def pick(self, values: Sequence[Any]) -> Any:
        return values[int(self.rng.random() * len(values))]

    def word(self, name: str) -> str:
        if name in self.bound:
            return self.bound[name]
        head, _, attribute = name.partition(".")
        if head in self.cast:
            person = self.cast[head]
            if attribute:
                return str(getattr(person, attribute))
            if person.number in self.named and self.rng.random() < 0.65:
                return person.short
            self.named.add(person.number)
            return person.full
        if head == "P":
            return self.cast["p"].full
        if head == "money":
            text = f"{self.rng.randrange(50, 190) * 100:,}원"
        else:
            kind = head.rstrip("123")
            text = self.pick(words(kind, self.season))
            while text in self.bound.values():
                text = self.pick(words(kind, self.season))
        self.bound[name] = text
        return text

    def say(self, frame: str, style: str = "") -> str:
        return grammar.render(compiled(frame, style or self.style), self.word, self.rng)

    def add(self, frames: Sequence[str], count: int = 1) -> None:
        fresh = [frame for frame in frames if frame not in self.used]
        for frame in self.rng.sample(fresh, min(count, len(fresh))):
            self.used.add(frame)
            self.sentences.append(self.say(frame))

    def tell(self, role: str, attributes: Sequence[str], style: str = "") -> list[str]:
        """Tells these facts of one person, two in one sentence now and then."""
        told = lexicon("tellings")
        swapped, self.cast["p"] = self.cast["p"], self.cast[role]
        rest, sentences = list(attributes), []
        while rest:
            pair = next((k for k in (f"{rest[0]} {b}" for b in rest[1:]) if k in told), "") if len(rest) > 1 else ""
            if not pair and len(rest) > 1:
                pair = next((k for k in (f"{b} {rest[0]}" for b in rest[1:]) if k in told), "")
            if pair and self.rng.random() < 0.3:
                frames, done = told[pair], pair.split()
            else:
                done = [rest[0]]
                frames = told[rest[0]]
                if self.rng.random() < 0.2:
                    frames = frames[:1]
            sentences.append(self.say(self.pick(frames), style))
            person = self.cast["p"]
            self.told += [(person.full, attribute) for attribute in done]
            self.named.add(person.number)
            rest = [attribute for attribute in rest if attribute not in done]
        self.cast["p"] = swapped
        return sentences

    def about(self, entity: str, attribute: str, style: str = "") -> str:
        words = self.world.words_of(entity)
        frame = self.pick(lexicon("tellings")[attribute])
        self.told.append((entity, attribute))
        return grammar.render(compiled(frame, style or self.style), words, self.rng)


_WHEN = {"snow": "겨울", "storm": "여름", "garden": ("봄", "여름"), "harvest": ("여름", "가을"), "birdnest": "봄"}


def story(t: Teller, attributes: list[list[str]]) -> None:
    scenes = lexicon("scenes")
    t.add(scenes["openings"])
    t.sentences += t.tell("p", attributes[0])
    plots = [name for name in scenes["scenes"] if name not in _WHEN or t.season in _WHEN[name]]
    scene = scenes["scenes"][t.pick(plots)]
    cut = t.rng.randrange(2, len(scene))
    for number, step in enumerate(scene):
        if number == cut:
            t.add(scenes["meetings"])
            t.sentences += t.tell("q", attributes[1])
        if not step.startswith("?") or t.rng.random() < 0.6:
            t.sentences.append(t.say(step.lstrip("?")))
    t.add(scenes["closings"])


def dialogue(t: Teller, attributes: list[list[str]]) -> None:
    lines, questions = lexicon("dialogues"), lexicon("questions")
    asker, answerer, style = t.pick(lines["roles"])
    asked: list[tuple[str, str]] = []

    def line(speaker: str, text: str) -> None:
        if t.sentences and t.sentences[-1].startswith(speaker + ":"):
            t.sentences[-1] += " " + text
        else:
            t.sentences.append(f"{speaker}: {text}")

    def a(frame: str) -> None:
        line(asker, t.say(frame, style))

    def b(frame: str) -> None:
        line(answerer, t.say(frame, "해요"))

    a(t.pick(lines["greetings"][style]))
    b(t.pick(lines["replies"][style]))
    for role, wanted in zip("pqr", attributes, strict=False):
        person = t.cast[role]
        for attribute in wanted:
            if (person.number, attribute) in t.world.unasked:
                b(t.pick(lines["more"]))
                line(answerer, t.tell(role, [attribute], "해요")[0])
                continue
            swapped, t.cast["p"] = t.cast["p"], person
            a(t.pick([q for q in questions[attribute]["trained"] if level(q) == style]))
            t.named.add(person.number)
            b(lexicon("tellings")[attribute][0])
            t.cast["p"] = swapped
            t.told.append((person.full, attribute))
            asked.append((person.full, attribute))
            if t.rng.random() < 0.5:
                a(t.pick(lines["reactions"][style]))
    if t.rng.random() < 0.6:
        entity, attribute = t.topic
        question = t.pick([q for q in questions[attribute]["trained"] if level(q) == style])
        known = t.world.words_of(entity)
        line(asker, grammar.render(compiled(question, style), known, t.rng))
        line(answerer, grammar.render(compiled(questions[attribute]["answer"], "해요"), known, t.rng))
        t.told.append((entity, attribute))
        asked.append((entity, attribute))
    if style == "해요" and t.rng.random() < 0.5:
        for speak, frame in zip((a, b), t.pick(lines["smalltalk"]), strict=True):
            speak(frame)
    a(t.pick(lines["farewells"][style]))
    b(t.pick(lines["ends"][style]))
    t.asked = asked


def letter(t: Teller, attributes: list[list[str]]) -> None:
    lines = lexicon("letters")
    t.add(lines["heads"])
    t.add(lines["openings"], 2)
    t.add(lines["bodies"], 2)
    t.add(lines["turns"])
    for role, wanted in zip("pqr", attributes, strict=False):
        t.sentences += t.tell(role, wanted)
    t.add(lines["bodies"])
    t.sentences.append(t.about(*t.topic))
    t.add(lines["closings"], 2)
    t.add(lines["ends"])


def person(t: Teller, attributes: list[list[str]]) -> None:
    lines = lexicon("entries")
    for role, wanted in zip("pq", attributes, strict=False):
        swapped, t.cast["p"] = t.cast["p"], t.cast[role]
        told = t.tell("p", wanted)
        t.sentences += told[:1]
        t.add(lines["who"], 2)
        t.sentences += told[1:]
        t.add(lines["who"], 1)
        t.cast["p"] = swapped
        t.bound = {"season": t.season}


def town(t: Teller, attributes: list[list[str]]) -> None:
    lines = lexicon("entries")
    name = t.bound["t"] = t.cast["p"].town
    t.sentences.append(t.say(lines["town"][0]))
    facts = list(t.world.towns[name])
    t.rng.shuffle(facts)
    for fact in facts:
        t.sentences.append(t.about(name, fact))
        t.add(lines["town"][1:])
    t.add(lines["people"])
    for role, wanted in zip("pqr", attributes, strict=False):
        t.sentences += t.tell(role, wanted)


def notice(t: Teller, attributes: list[list[str]]) -> None:
    lines = lexicon("entries")
    name = t.bound["t"] = t.cast["p"].town
    t.add(lines["notice_openings"])
    t.add(lines["notices"], 2)
    t.sentences.append(t.about(name, t.pick(list(t.world.towns[name]))))
    t.sentences.append(t.about(*t.topic))
    t.add(lines["notices"])
    for role, wanted in zip("pqr", attributes, strict=False):
        t.sentences += t.tell(role, wanted)


def entry(t: Teller, attributes: list[list[str]]) -> None:
    """An animal, a plant, a dish or a tool, and whom one meets there."""
    table = lexicon("things")[t.kind]
    name, *rest = t.pick(_rows(t.kind))
    t.bound["x"] = name
    for key, value in zip(("kind", "a", "b", "c"), rest, strict=True):
        t.bound[f"x.{key}"] = value
    t.add(table["frames"][:1])
    t.add(table["frames"][1:3], 2)
    t.add(table["frames"][3:], 3)
    t.add(lexicon("entries")["people"])
    for role, wanted in zip("pq", attributes, strict=False):
        t.sentences += t.tell(role, wanted)
    t.sentences.append(t.about(*t.topic))


@functools.cache
def _rows(kind: str) -> list[list[str]]:
    rows = [line.split("|") for line in lexicon("things")[kind]["rows"].splitlines()]
    if kind in ("animal", "plant"):
        return rows
    return [[row[0], row[2], row[1], *row[3:]] for row in rows]


TELL: dict[str, Callable[[Teller, list[list[str]]], None]] = {
    "story": story,
    "dialogue": dialogue,
    "letter": letter,
    "person": person,
    "town": town,
    "notice": notice,
    "animal": entry,
    "plant": entry,
    "cooking": entry,
    "craft": entry,
}
_KINDS = [kind for kind, (weight, _) in KINDS.items() for _ in range(weight)]
_STYLES = {"story": ("한다",), "dialogue": ("해요",), "letter": ("해요", "합니다"), "notice": ("합니다",)}
_STYLES |= dict.fromkeys(("animal", "plant", "cooking"), ("한다",))


@functools.lru_cache(maxsize=4)
def _round(world_seed: int, size: int, block: int) -> list[int]:
    """Each round of documents has every person once in each role."""
    order = list(range(size))
    random.Random(f"round {world_seed} {block}").shuffle(order)
    return order


def document(world: World, number: int) -> Document:
    rng = random.Random(world.seed * 1_000_003 + number)
    size = len(world.people)
    block, place = divmod(number, size)
    order = _round(world.seed, size, block)
    people = [world.people[order[(place + shift) % size]] for shift in (0, size // 3, 2 * size // 3)]
    turn = [ATTRIBUTES[(block + shift) % 4] for shift in range(4)]
    attributes = [
        turn[: 3 if rng.random() < 0.5 else 2],
        [turn[3], turn[0]][: 2 if rng.random() < 0.5 else 1],
        [turn[2]],
    ]
    for wanted in attributes:
        rng.shuffle(wanted)
    kind = _KINDS[int(rng.random() * len(_KINDS))]
    styles = _STYLES.get(kind, ("한다", "합니다"))
    teller = Teller(world, rng, people, styles[int(rng.random() * len(styles))])
    teller.kind, teller.topic = kind, world.topics[number % len(world.topics)]
    TELL[kind](teller, attributes)
    while sum(map(len, teller.sentences)) + len(teller.sentences) < 160:
        teller.sentences += teller.tell("r", [turn[rng.randrange(4)]])
    shelves = KINDS[kind][1]
    shelf = shelves[int(rng.random() * len(shelves))]
    return Document(number, kind, shelf, teller.style, teller.sentences, teller.told, teller.asked)
