"""The page as a test reads it: checked to be well formed, its words and tags at hand."""

import re
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest

from infer import report

VOID = {"meta", "br", "rect", "path", "polyline"}


class Page(HTMLParser):
    """Checks that the page is well formed, and keeps its words and tags."""

    def __init__(self, file: Path):
        super().__init__()
        self.source = file.read_text(encoding="utf-8")
        self.words, self.tags, self.open = "", [], []
        self.feed(self.source)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if not self.open or self.open[-1] not in ("style", "script"):
            self.words += data.replace("\u202f", " ") + " "

    def section(self, key: str) -> str:
        found = re.search(rf'<section id="{key}".*?</section>', self.source, re.S)
        assert found is not None
        return found[0].replace("\u202f", " ")


def page(monkeypatch: pytest.MonkeyPatch, artifacts: Path, *words: str) -> Page:
    monkeypatch.setattr(sys, "argv", ["infer/report.py", *words])
    report.main()
    return Page(artifacts / "report.html")
