"""Compiles sentence frames once, and renders them fast.

A frame is a sentence with holes: "{p:은} (아침마다|저녁마다) {p.animal:을} <돌보다>."
  {slot}        a word from the scope
  {slot:은}     the same with its particle; 이다, 이었다 and 입니까 follow the speech style
  <보다>        a verb in the style of the text; <보다+> past, <보다~> -겠-, <보다?> question
  <이다>        is, with the noun before it; <이다+> was
  (a|b|)        one of these, at random
"""

import random
import re
from collections.abc import Callable

from corpus import josa, verbs

Part = str | tuple[str, str] | list["Parts"]
Parts = list[Part]
_COPULA = {
    "이다": {"한다": "이다", "해요": "이에요", "합니다": "입니다", "해": "이야"},
    "이었다": {"한다": "이었다", "해요": "이었어요", "합니다": "이었습니다", "해": "이었어"},
    "이까": {"한다": "이다", "해요": "이에요", "합니다": "입니까", "해": "이야"},
}
_TENSE = {"+": "past", "~": "will", "?": "ask"}
_TOKEN = re.compile(r"\{([^{}]+)\}|<([^<>]+)>|([(|)])|([^{}<>(|)]+)")


class FrameError(ValueError):
    pass


def compile_frame(frame: str, style: str, adjectives: frozenset[str]) -> Parts:
    stack: list[list[Parts]] = [[[]]]
    for slot, verb, bracket, literal in _TOKEN.findall(frame):
        parts = stack[-1][-1]
        if literal:
            parts.append(literal)
        elif slot:
            name, _, kind = slot.partition(":")
            kind = _COPULA.get(kind, {}).get(style, kind)
            if kind and kind not in josa.PARTICLES:
                raise FrameError(f"{frame!r} asks for the particle {kind!r}; josa.py knows {', '.join(josa.PARTICLES)}")
            parts.append((name, kind))
        elif verb:
            tense = _TENSE.get(verb[-1], "present")
            lemma = verb.rstrip("+~?")
            if not lemma.endswith("다"):
                raise FrameError(f"{frame!r}: {lemma!r} is no dictionary form")
            if lemma == "이다":
                key = {"past": "이었다", "ask": "이까"}.get(tense, "이다")
                if not parts:
                    raise FrameError(f"{frame!r}: <이다> has no noun before it")
                parts.append(("", _COPULA[key][style]))
            else:
                main = lemma.split()[-1]
                lead = lemma[: len(lemma) - len(main)]
                parts.append(lead + verbs.conjugate(main, style, tense, main in adjectives))
        elif bracket == "(":
            stack.append([[]])
        elif bracket == "|":
            if len(stack) == 1:
                raise FrameError(f"{frame!r}: | outside of brackets")
            stack[-1].append([])
        else:
            options = stack.pop()
            if not stack:
                raise FrameError(f"{frame!r}: a bracket is closed that was not opened")
            stack[-1][-1].append([_merge(option) for option in options])
    if len(stack) != 1:
        raise FrameError(f"{frame!r}: a bracket is not closed")
    return _merge(stack[0][0])


def _merge(parts: Parts) -> Parts:
    merged: Parts = []
    for part in parts:
        if isinstance(part, str) and merged and isinstance(merged[-1], str):
            merged[-1] += part
        else:
            merged.append(part)
    return merged


def render(parts: Parts, word: Callable[[str], str], rng: random.Random) -> str:
    out = []
    for part in parts:
        if isinstance(part, str):
            out.append(part)
        elif isinstance(part, tuple):
            name, kind = part
            if not name:
                out.append(josa.particle("".join(out), kind))
                continue
            text = word(name)
            out.append(josa.attach(text, kind) if kind else text)
        else:
            out.append(render(part[int(rng.random() * len(part))], word, rng))
    return "".join(out)
