"""A finding, and the table of all of them in the words of pretrain/doctor.yaml."""

import os
import sys
import unicodedata
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import yaml

GOOD, UNTESTED, WARNING, BAD = "good", "untested", "warning", "bad"
COLOURS = {GOOD: "\x1b[32m", UNTESTED: "\x1b[36m", WARNING: "\x1b[33m", BAD: "\x1b[1;31m"}
PLAIN = "\x1b[0m"
LANGUAGES = ("en", "ko")


class Finding(NamedTuple):
    level: str
    key: str  # topic.name
    values: tuple[tuple[str, str], ...] = ()
    node: str = ""

    @property
    def topic(self) -> str:
        return self.key.split(".")[0]


def good(key: str, **values: Any) -> Finding:
    return Finding(GOOD, key, tuple((name, str(value)) for name, value in values.items()))


def warning(key: str, **values: Any) -> Finding:
    return good(key, **values)._replace(level=WARNING)


def bad(key: str, **values: Any) -> Finding:
    return good(key, **values)._replace(level=BAD)


def untested(key: str, **values: Any) -> Finding:
    return good(key, **values)._replace(level=UNTESTED)


class Texts:
    """Everything that the doctor says, in one language."""

    def __init__(self, language: str):
        content = yaml.safe_load(Path(__file__).with_name("doctor.yaml").read_text(encoding="utf-8"))
        self.words, self.topics = (
            {key: one[language] for key, one in content[part].items()} for part in ("words", "topics")
        )
        self.findings: dict[str, list[str]] = {key: one[language] for key, one in content["findings"].items()}

    def told(self, finding: Finding) -> list[str]:
        """What was found and, unless all is well, what to do."""
        texts = [text.format(**dict(finding.values)) for text in self.findings[finding.key]]
        return texts[:1] if finding.level == GOOD else texts

    def table(self, findings: Sequence[Finding], nodes: Sequence[str], ranks: int) -> Iterator[str]:
        yield f"{self.words['title']}  ·  {', '.join(nodes)}  ·  {self.words['ranks']}: {ranks}"
        order = list(self.topics)
        rows = sorted(dict.fromkeys(one._replace(node="") for one in findings), key=lambda one: order.index(one.topic))
        places = {row: sorted({one.node for one in findings if one._replace(node="") == row} - {""}) for row in rows}
        several = len(nodes) > 1
        where = {
            row: self.words["all"] if len(found) == len(nodes) else ", ".join(found) for row, found in places.items()
        }
        marks = max(width(self.words[level]) for level in COLOURS)
        topics, wide = max(map(width, self.topics.values())), max(map(width, where.values()), default=0)
        for row in rows:
            found, *todo = self.told(row)
            mark = painted(padded(self.words[row.level], marks), row.level)
            yield "  ".join(
                [mark, padded(self.topics[row.topic], topics), *[padded(where[row], wide)] * several, found]
            )
            yield from (f"{' ' * marks}  → {line}" for line in todo)
        count = {level: sum(row.level == level for row in rows) for level in COLOURS}
        level = next((level for level in (BAD, WARNING) if count[level]), GOOD)
        end = {BAD: "failing", WARNING: "passable", GOOD: "fine"}[level]
        yield painted(self.words[end].format(**count), level)


def width(text: str) -> int:
    """Columns on a terminal: a Korean letter takes two."""
    return sum(1 + (unicodedata.east_asian_width(letter) in "WF") for letter in text)


def padded(text: str, columns: int) -> str:
    return text + " " * (columns - width(text))


def painted(text: str, level: str) -> str:
    return f"{COLOURS[level]}{text}{PLAIN}" if sys.stdout.isatty() and "NO_COLOR" not in os.environ else text
