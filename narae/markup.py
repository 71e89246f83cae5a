"""Numbers, tables and the frame of a page as HTML: one file that opens anywhere, without scripts."""

import html
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from string import Template
from typing import Any

THIN = "\u202f"  # narrow no-break space: between groups of digits, and before a unit
NOTHING = "–"
# What a browser draws as boxes, is led astray by or cannot be written: controls, direction marks, lone surrogates.
_CONTROLS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ufeff\ud800-\udfff\ufffe\uffff]")
_HANGUL = re.compile("[가-힣ㄱ-ㆎ]")

# The policy: whatever the data brought into the page, nothing runs and nothing is loaded.
PAGE = Template("""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'">
<title>$what $name · Narae</title>
<style>
$css</style>
</head>
<body>
<header><h1>Narae <span lang="ko">나래</span> <small>$kind $name</small></h1>
$headline<p class="state">$state</p>
<nav aria-label="Sections">$links</nav></header>
<main>
$parts</main>
<footer>Written by <code>$command</code>. One file, nothing is loaded.</footer>
</body>
</html>
""")


def document(
    kind: str,
    name: str,
    numbers: Sequence[tuple[str, str, str]],
    state: str,
    parts: Sequence[tuple[str, str, str]],
    command: str,
    css: Path,
) -> str:
    """The whole file: a headline of numbers (label, value, note), then the parts (key, title, HTML)."""
    cells = ""
    for place, (label, value, note) in enumerate(numbers):
        main = ' class="main"' if place < 3 else ""
        cells += f"<div{main}><dt>{label}</dt><dd><b>{value}</b><small>{note}</small></dd></div>"
    sections = "".join(
        f'<section id="{key}" aria-labelledby="{key}-title"><h2 id="{key}-title">{title}</h2>\n{inner}</section>\n'
        for key, title, inner in parts
    )
    return PAGE.substitute(
        kind=kind,
        what=kind.capitalize(),
        name=text(name),
        css="".join(file.read_text(encoding="utf-8") for file in (Path(__file__).with_name("page.css"), css)),
        headline=f'<dl class="numbers">{cells}</dl>\n',
        state=state,
        links="".join(f'<a href="#{key}">{title}</a>' for key, title, _ in parts),
        parts=sections,
        command=command,
    )


def text(value: Any, limit: int = 0) -> str:
    """Anything, safe inside an element or an attribute; cut after `limit` characters."""
    words = str(value)
    if limit and len(words) > limit:
        words = words[: limit - 1] + "…"
    return html.escape(_CONTROLS.sub("\ufffd", words))


def named(value: Any) -> str:
    """A name from the data, which may be Korean: then a line does not break within its words."""
    return f'<span lang="ko">{text(value)}</span>' if _HANGUL.search(str(value)) else text(value)


def whole(value: float) -> str:
    return f"{value:,.0f}".replace(",", THIN)


def size(value: float) -> str:
    for limit, unit in ((1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if value >= limit:
            return f"{value / limit:.1f}{THIN}{unit}"
    return f"{value:.0f}{THIN}B"


def share(part: float, total: float) -> str:
    """One decimal; what is not nothing does not look like nothing, and what is not all not like all."""
    if not total:
        return NOTHING
    percent = 100 * part / total
    word = "<0.1" if 0 < percent < 0.05 else ">99.9" if 99.95 <= percent < 100 else f"{percent:.1f}"
    return html.escape(word) + THIN + "%"


def bar(stretches: Iterable[tuple[float, float, str]], total: float) -> str:
    """Stretches of a bar: start, length, style. What is there but tiny stays visible."""
    drawn = ""
    for start, length, style in stretches:
        width = max(length / total, 0.004) if length > 0 and total else 0.0
        left = min(start / total, 1 - width) if total else 0.0
        drawn += f'<rect class="{style}" x="{100 * left:.2f}%" width="{100 * width:.2f}%" height="100%"/>'
    return f'<svg class="bar" aria-hidden="true"><rect class="track" width="100%" height="100%"/>{drawn}</svg>'


def table(caption: str, heads: Sequence[str], rows: Iterable[Sequence[str]], columns: str, style: str = "") -> str:
    """`columns` has one letter for each: l text, r number, b bar, k key (the row's heading), w wide text, m mark."""
    head = "".join(f'<th scope="col" class="{kind}">{word}</th>' for word, kind in zip(heads, columns, strict=True))
    body = ""
    for row in rows:
        cells = ""
        for cell, kind in zip(row, columns, strict=True):
            tag, scope = ("th", ' scope="row"') if kind == "k" else ("td", "")
            cells += f'<{tag}{scope} class="{kind}">{cell}</{tag}>'
        body += f"<tr>{cells}</tr>\n"
    # A focusable region, so that the keyboard can scroll what is wider than the screen.
    return (
        f'<div class="scroll" role="region" tabindex="0" aria-label="{caption}"><table class="{style}">'
        f"<caption>{caption}</caption><thead><tr>{head}</tr></thead><tbody>\n{body}</tbody></table></div>\n"
    )
