"""One document's way through the corpus, told on a terminal: what each step of cleaning changed, as a diff, what was
measured against which limit, and where the document ended. `python corpus/collect.py --explain ID` prints it.
"""

import difflib
import os
import re
import sys
import unicodedata
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import groupby
from typing import Any, NamedTuple

from corpus.clean import ROUNDS

Step = tuple[str, Callable[[str], str]]
Pieces = list[tuple[str, str]]  # stretches of two texts side by side; equal ones are the same twice

UNSETTLED = "unsettled"  # after the last round, what cleaning does with a text that still changes
CONTEXT = 20  # characters beside a change
HUNKS = 12  # of a step, before the rest is only counted
LONGEST = 80  # characters of one change that are shown
WINDOW = 64  # words or sentences behind a difference that are compared
SURE = 4  # words or sentences in common after which two texts are side by side again
FINE = 400  # characters of a change that are compared one by one
RED, GREEN, BOLD, PLAIN = "\x1b[31m", "\x1b[32m", "\x1b[1m", "\x1b[0m"

_SENTENCE = re.compile(r"[^\n.!?。]*[\n.!?。]+\s*|[^\n.!?。]+")
_WORD = re.compile(r"\s+|\w+|[^\w\s]+")
# Jamo that NFC puts together look the same before and after, combining marks hide in the letter before them.
_UNSEEN = re.compile("[\u0300-\u036f\u1100-\u11ff\u3164\ua960-\ua97f\ud7b0-\ud7ff\ufe00-\ufe0f\uffa0]")


class Change(NamedTuple):
    round: int
    step: str
    before: str
    after: str


def trace(text: str, steps: Sequence[Step], rounds: int = ROUNDS) -> list[Change]:
    """What cleaning does, step by step, those that change nothing included: the last result is the clean text."""
    passed = []
    for number in range(1, rounds + 1):
        start = text
        for name, function in steps:
            passed.append(Change(number, name, text, function(text)))
            text = passed[-1].after
        if text == start:
            return passed
    return [*passed, Change(rounds, UNSETTLED, text, "")]


def differences(before: str, after: str, fine: bool = False) -> Pieces:
    """Two texts cut into what they share and what they do not: by sentences, by words, and if `fine` by characters."""
    pieces = list(_compared(before, after, [_SENTENCE, _WORD], fine))
    for _ in range(2):  # what went beside what came may be the same after all
        grouped = groupby((pair for pair in pieces if any(pair)), key=lambda pair: pair[0] == pair[1])
        stretches = (zip(*pairs, strict=True) for _, pairs in grouped)
        pieces = [("".join(old), "".join(new)) for old, new in stretches]
    return pieces


def _compared(before: str, after: str, levels: Sequence[re.Pattern[str]], fine: bool) -> Iterator[tuple[str, str]]:
    if before == after or not before or not after:
        yield before, after
    elif levels:
        old, new = levels[0].findall(before), levels[0].findall(after)
        for i, j, k, m in _aligned(old, new):
            one, other = old[i:j], new[k:m]
            # As many sentences before as after: each was mended where it stands.
            if len(one) != len(other) or one == other:
                one, other = ["".join(one)], ["".join(other)]
            for pair in zip(one, other, strict=True):
                yield from _compared(*pair, levels[1:], fine)
    elif fine:
        yield from _by_characters(before, after)
    else:
        yield before, after


def _by_characters(before: str, after: str) -> Iterator[tuple[str, str]]:
    front = _shared(before, after)
    back = _shared(before[front:][::-1], after[front:][::-1])
    yield before[:front], after[:front]
    old, new = before[front : len(before) - back], after[front : len(after) - back]
    matcher = difflib.SequenceMatcher(None, old, new, autojunk=False)
    # Below that, letters agree by chance: 나래는 has become 마을을.
    if len(old) + len(new) <= FINE and matcher.ratio() >= 0.5:
        yield from ((old[i:j], new[k:m]) for _, i, j, k, m in matcher.get_opcodes())
    else:
        yield old, new
    yield before[len(before) - back :], after[len(after) - back :]


def _aligned(old: list[str], new: list[str]) -> Iterator[tuple[int, int, int, int]]:
    """Which stretch of the one stands for which of the other: from, to, from, to.

    difflib looks at a window behind each difference: it takes the square of the length, or leaves out what is frequent,
    and in a text of repeated lines that is everything.
    """
    i, k, room = 0, 0, WINDOW
    while i < len(old) or k < len(new):
        if same := _shared(old, new, i, k):
            yield i, i + same, k, k + same
            i, k = i + same, k + same
            continue
        matcher = difflib.SequenceMatcher(None, old[i : i + room], new[k : k + room])
        found = matcher.get_opcodes()
        if i + room < len(old) or k + room < len(new):
            while found and (found[-1][0] != "equal" or found[-1][2] - found[-1][1] < SURE):
                found.pop()
        if found:
            yield from ((i + a, i + b, k + c, k + d) for _, a, b, c, d in found)
            i, k, room = i + found[-1][2], k + found[-1][4], WINDOW
        else:
            room *= 2


def _shared(one: Sequence[str], other: Sequence[str], i: int = 0, k: int = 0) -> int:
    """How many from here on are the same."""
    start = i
    while i < len(one) and k < len(other) and one[i] == other[k]:
        i, k = i + 1, k + 1
    return i - start


def render(
    document_id: str,
    *,
    text: str,
    source: Mapping[str, Any],
    meta: Mapping[str, Any],
    passed: Sequence[Change],
    measured: Mapping[str, float],
    limits: object,
    reason: str,
    matches: Sequence[str],
    duplicate: Mapping[str, Any] | None,
    end: str,
    colour: bool | None = None,
) -> str:
    """`source`: its settings as they hold for the document. `reason`: why it was rejected. `matches`: benchmark entries
    that it holds a part of. `end`: the file that it lies in, or what became of it."""
    colour = coloured() if colour is None else colour
    cleaned = passed[-1].after if passed else text
    rows = [("document", visible(document_id))]
    rows += [(visible(key), visible(str(value))) for key, value in source.items() if value not in ("", None)]
    rows += [("metadata", ", ".join(f"{visible(str(key))} {visible(str(value))}" for key, value in meta.items()))]
    rows += [("as read", _length(text))]
    parts = [_columns([row for row in rows if row[1]]), _steps(passed, colour)]
    if measured:
        parts.append(_measures(measured, limits, colour))
    rows = [("cleaned", _length(cleaned))] if passed else []
    rows += [("verdict", f"rejected: {visible(reason)}" if reason else "good")]
    rows += [("benchmarks", "; ".join(map(visible, matches)) or "nothing of them")]
    if duplicate:
        alike = float(duplicate.get("similarity", 1.0))
        of = f"{'the same as' if alike == 1 else f'{100 * alike:.1f} % of'} {visible(str(duplicate['of']))}"
        rows += [("duplicate", of)]
    rows += [("end", _painted(visible(end), BOLD, colour))]
    return "\n\n".join([*parts, _columns(rows)]) + "\n"


def coloured() -> bool:
    return sys.stdout.isatty() and not os.environ.get("NO_COLOR")


def _steps(passed: Sequence[Change], colour: bool) -> str:
    if not passed:
        return "not cleaned: its source does not hold it as a document"
    lines = []
    for change in passed:
        if change.step == UNSETTLED:
            lines.append(f"round {change.round} was the last and still changed something: nothing is left of the text")
        elif change.before != change.after:
            pieces = differences(change.before, change.after, fine=True)
            count = sum(old != new for old, new in pieces)
            gain = len(change.after) - len(change.before)
            again = f", round {change.round}" if change.round > 1 else ""
            lines.append(f"{change.step}{again}: {_many(count, 'change')}, {_many(gain, 'character', '+,')}")
            hunks = list(_hunks(pieces, colour))
            lines += [f"    {hunk}" for hunk in hunks[:HUNKS]]
            if len(hunks) > HUNKS:
                lines.append(f"    and {len(hunks) - HUNKS:,} more places")
    changed = {change.step for change in passed if change.before != change.after}
    same = [step for step in dict.fromkeys(change.step for change in passed) if step not in {*changed, UNSETTLED}]
    if same:
        lines.append(f"nothing changed by: {', '.join(same)}")
    return "\n".join(lines)


def _many(count: int, word: str, form: str = ",") -> str:
    return f"{count:{form}} {word}{'s' * (abs(count) != 1)}"


def _hunks(pieces: Pieces, colour: bool) -> Iterator[str]:
    """Changes with a little of what stands around them; those that stand close together share a line."""
    line = ""
    for place, (old, new) in enumerate(pieces):
        if old != new:
            line += _painted(f"[-{_cut(old)}-]", RED, colour) if old else ""
            line += _painted(f"{{+{_cut(new)}+}}", GREEN, colour) if new else ""
            continue
        if place and (place == len(pieces) - 1 or len(old) > 2 * CONTEXT):
            yield line + visible(old[:CONTEXT]) + ("…" if len(old) > CONTEXT else "")
            line = ""
        if place < len(pieces) - 1:
            near = old[-CONTEXT:] if not line else old
            line += ("…" if len(near) < len(old) else "") + visible(near)
    if line:
        yield line


def _cut(words: str) -> str:
    if len(words) <= LONGEST:
        return visible(words)
    half = LONGEST // 2
    return f"{visible(words[:half])}…{len(words) - 2 * half:,} more…{visible(words[-half:])}"


def visible(words: str) -> str:
    """On one line, and with the code of what cannot be seen; no control character reaches the terminal."""
    return "".join(map(_shown, words))


def _shown(sign: str) -> str:
    if sign == "\n":
        return "⏎"
    hidden = unicodedata.category(sign)[0] in "CZ" and sign != " "
    return f"⟨U+{ord(sign):04X}⟩" if hidden or _UNSEEN.match(sign) else sign


def _measures(measured: Mapping[str, float], limits: object, colour: bool) -> str:
    """A measure `x` stands beside the limits `min_x` and `max_x`."""
    rows, wrong = [], []
    for name, value in measured.items():
        least, most = (getattr(limits, f"{side}_{name}", None) for side in ("min", "max"))
        bounds = [f"at least {least:,}"] if least is not None else []
        bounds += [f"at most {most:,}"] if most is not None else []
        failed = (least is not None and value < least) or (most is not None and value > most)
        rows.append((name, f"{value:,.4g}" if value < 1e4 else f"{value:,.0f}", ", ".join(bounds), "✗" * failed))
        wrong.append(failed)
    lines = _columns(rows).split("\n")
    return "\n".join(_painted(line, RED, colour and failed) for line, failed in zip(lines, wrong, strict=True))


def _columns(rows: Sequence[Sequence[str]]) -> str:
    """Columns by their longest cell; only ours, which are ASCII, stand before the last."""
    widths = [max(len(row[place]) for row in rows) for place in range(len(rows[0]))] if rows else []
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )


def _length(text: str) -> str:
    return f"{len(text):,} characters, {len(text.encode('utf-8', 'surrogatepass')):,} bytes"


def _painted(words: str, style: str, colour: bool) -> str:
    return f"{style}{words}{PLAIN}" if colour and words else words
