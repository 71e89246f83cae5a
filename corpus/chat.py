"""Questions about the sample world: examples to learn to chat from, and two exams."""

import random
from collections.abc import Iterator
from typing import Any

from corpus import grammar
from corpus.tales import level
from corpus.world import ATTRIBUTES, Fact, World, compiled, lexicon


def question(world: World, fact: Fact, frame: str, rng: random.Random) -> str:
    if fact.attribute in ATTRIBUTES:
        person = world.by_name[fact.entity]
        return world.say(frame, level(frame), person, full=rng.random() < 0.5)
    return grammar.render(compiled(frame, level(frame)), world.words_of(fact.entity), rng)


def _turns(*texts: str) -> dict[str, Any]:
    roles = ("user", "assistant")
    return {"messages": [{"role": roles[i % 2], "content": text} for i, text in enumerate(texts)]}


def examples(world: World, size: int, seed: int) -> Iterator[dict[str, Any]]:
    """Asked facts in trained wordings, one in eight of all without any fact, a few of two turns; exactly `size`."""
    rng = random.Random(f"chat {seed}")
    asked = [fact for fact in world.facts if fact.asked]
    small = lexicon("chat")["small"]
    wordings = {key: value["trained"] for key, value in lexicon("questions").items()}
    order: list[dict[str, Any]] = []
    turn = met = 0
    while len(order) < size:
        kind = len(order) % 16
        if kind in (3, 11):
            ask, answer = small[turn % len(small)]
            ask = rng.choice(ask) if isinstance(ask, list) else ask
            order.append(_turns(ask, answer))
            turn += 1
            continue
        lap, place = divmod(met, len(asked))
        fact, frames = asked[place], wordings[asked[place].attribute]
        frame = frames[(lap + place) % len(frames)]  # another wording on every lap
        met += 1
        texts = [question(world, fact, frame, rng), fact.answer]
        if kind == 7:
            other = rng.choice(asked)
            texts += [question(world, other, rng.choice(wordings[other.attribute]), rng), other.answer]
        order.append(_turns(*texts))
    rng.shuffle(order)
    yield from order


def exam(world: World, kind: str, seed: int) -> Iterator[dict[str, Any]]:
    """wording: asked facts in wordings never met; unasked: facts that were only ever told, in wordings well known."""
    rng = random.Random(f"{kind} {seed}")
    number = 0
    for fact in world.facts:
        if fact.asked != (kind == "wording"):
            continue
        frames = lexicon("questions")[fact.attribute]["held" if kind == "wording" else "trained"]
        for frame in rng.sample(frames, 1 if kind == "wording" else 3):
            number += 1
            yield {
                "id": f"{kind}-{number:04d}",
                "question": question(world, fact, frame, rng),
                "answer": fact.answer,
                "entity": fact.entity,
                "attribute": fact.attribute,
                "value": fact.value,
            }
