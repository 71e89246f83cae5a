"""The sample's closed world: who lives in it and what is true there. The same seed gives the same world.

Facts are dealt evenly: each of the 20 towns, jobs, foods and animals belongs to as many people as any other, so
that a guess is right about once in twenty times. A quarter of the (person, attribute) pairs is never asked.
"""

import functools
import random
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from corpus import grammar, josa

LEXICON = Path(__file__).parent / "lexicon"
ATTRIBUTES = ("town", "job", "food", "animal")
WORLD_ATTRIBUTES = ("specialty", "landmark", "day", "price")
_COUNTS = ("한 마리", "두 마리", "세 마리", "네 마리")


@dataclass(frozen=True)
class Fact:
    id: str
    entity: str
    attribute: str
    value: str
    asked: bool
    answer: str


@dataclass(frozen=True)
class Person:
    number: int
    full: str
    given: str
    town: str
    job: str
    food: str
    animal: str
    count: str

    @property
    def short(self) -> str:
        return josa.familiar(self.given)


@functools.cache
def lexicon(name: str) -> Any:
    with (LEXICON / f"{name}.yaml").open(encoding="utf-8") as file:
        return yaml.load(file, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))


@functools.cache
def adjectives() -> frozenset[str]:
    return frozenset(lexicon("verbs")["adjectives"].split())


@functools.cache
def compiled(frame: str, style: str) -> grammar.Parts:
    return grammar.compile_frame(frame, style, adjectives())


@dataclass
class World:
    seed: int
    people: list[Person] = field(default_factory=list)
    facts: list[Fact] = field(default_factory=list)
    unasked: set[tuple[int, str]] = field(default_factory=set)
    towns: dict[str, dict[str, str]] = field(default_factory=dict)
    foods: dict[str, dict[str, str]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        rng = random.Random(f"world {self.seed}")
        names = {key: value.split() for key, value in lexicon("people").items()}
        given = names["given"]
        assert len(given) == len(set(given)), "two people of one given name"
        surnames = _deal(names["surnames"], len(given), rng)
        while clashes := [
            i for i, name in enumerate(given) if (surnames[i] + name)[:2] in given or surnames[i] == name[0]
        ]:  # 서 + 연서, 서 + 서윤
            one, other = clashes[0], rng.randrange(len(given))
            surnames[one], surnames[other] = surnames[other], surnames[one]
        columns = [_deal(names[key], len(given), rng) for key in ("towns", "jobs", "foods", "animals")]
        counts = _deal(list(_COUNTS), len(given), rng)
        for number, name in enumerate(given):
            town, job, food, animal = (column[number] for column in columns)
            self.people.append(Person(number, surnames[number] + name, name, town, job, food, animal, counts[number]))
        pairs = [(number, attribute) for number in range(len(given)) for attribute in ATTRIBUTES]
        self.unasked = set(rng.sample(pairs, len(pairs) // 4))
        for key in ("specialties", "landmarks"):
            rng.shuffle(names[key])
        days = _deal(names["days"], len(names["towns"]), rng)
        for number, town in enumerate(names["towns"]):
            self.towns[town] = {
                "specialty": names["specialties"][number],
                "landmark": names["landmarks"][number],
                "day": days[number],
            }
        prices = rng.sample(range(30, 130, 5), len(names["foods"]))
        for food, price in zip(names["foods"], prices, strict=True):
            self.foods[food] = {"price": f"{price * 100:,}원"}
        for number, attribute in pairs:
            person = self.people[number]
            asked = (number, attribute) not in self.unasked
            answer = self.say(lexicon("tellings")[attribute][0], "해요", person)
            self.facts.append(
                Fact(f"{person.full}/{attribute}", person.full, attribute, getattr(person, attribute), asked, answer)
            )
        for table in (self.towns, self.foods):
            for entity, values in table.items():
                for attribute, value in values.items():
                    frame = lexicon("questions")[attribute]["answer"]
                    answer = grammar.render(compiled(frame, "해요"), self.words_of(entity), rng)
                    self.facts.append(Fact(f"{entity}/{attribute}", entity, attribute, value, True, answer))

    @functools.cached_property
    def by_name(self) -> dict[str, Person]:
        return {person.full: person for person in self.people}

    @functools.cached_property
    def topics(self) -> list[tuple[str, str]]:
        """The world's further facts, of towns and dishes."""
        return [(fact.entity, fact.attribute) for fact in self.facts if fact.entity not in self.by_name]

    def words_of(self, entity: str) -> Any:
        """What {t}, {f}, {t.day} … mean when the talk is of this town or food."""
        table = self.towns.get(entity) or self.foods[entity]
        return lambda name: entity if "." not in name else table[name.partition(".")[2]]

    def say(self, frame: str, style: str, person: Person, full: bool = True) -> str:
        def word(name: str) -> str:
            if name in ("p", "P"):
                return person.full if full or name == "P" else person.short
            return str(getattr(person, name.partition(".")[2]))

        return grammar.render(compiled(frame, style), word, random.Random(0))


def _deal(values: list[str], count: int, rng: random.Random) -> list[str]:
    """Every value as often as any other, in a random order."""
    dealt = (values * (count // len(values) + 1))[:count]
    rng.shuffle(dealt)
    return dealt
