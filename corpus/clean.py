"""Korean text made clean: pure functions, str -> str, named in STEPS in the order in which they are taken.

What is mended: normal form, invisible and full-width characters, HTML, lines of boilerplate, spaces, personal data,
endless ㅋㅋㅋㅋㅋ and !!!!!. What is never touched: digits, syllables, line breaks within the text. Cleaning twice gives
the same as cleaning once. `clean_all` gives for many documents at once what `clean` gives for each.
"""

import html
import re
from collections.abc import Callable
from html.entities import html5

import numpy as np

from corpus.boilerplate import rule_of, without_boilerplate
from corpus.characters import REPEATABLE, characters
from corpus.privacy import mask_data
from corpus.sieve import Sieve

# Escaped again and again, by one program after another: &amp;amp;lt;
_ENTITY = re.compile(
    r"&(?:amp;|#38;|#x26;)*(?:(#[0-9]{1,7}|#[xX][0-9a-fA-F]{1,6}|[A-Za-z][A-Za-z0-9]{1,30});"
    r"|(nbsp|lt|gt|amp|quot)(?![A-Za-z0-9;=]))"
)
_NAMES = (
    "a|abbr|article|aside|b|blockquote|body|br|button|caption|center|cite|code|col|dd|del|div|dl|dt|em|figcaption|figure|"
    "font|footer|form|h[1-6]|head|header|hr|html|i|iframe|img|input|ins|label|li|link|main|meta|nav|ol|option|p|pre|q|s|"
    "script|section|select|small|span|strike|strong|style|sub|sup|table|tbody|td|textarea|tfoot|th|thead|title|tr|tt|u|ul"
)
_ATTRIBUTE = (
    r"""\s++(?:(?:async|checked|defer|disabled|hidden|noshade|nowrap|readonly|required|selected)(?![\w:=-])"""
    r"""|[A-Za-z][\w:-]*+\s*+=\s*+(?:"[^"<>]*+"|'[^'<>]*+'|[^\s"'<>]++))"""
)
_TAG = (
    r"<(?:!--(?:[^<-]++|-(?!->)|<(?!!--))*+-->|!doctype[^<>]*+>"
    r"|(?P<script>script|style)\b[^<>]*+>(?:[^<]++|<(?!/?(?:script|style)\b))*+</(?P=script)\s*+>"
    # A tag before 태그 is a word of the text.
    rf"|(?P<end>/)?+(?P<name>{_NAMES})(?:{_ATTRIBUTE})*+\s*+/?+>(?(end)|(?! (?:태그|요소|엘리먼트))))"
)
# So is one in code: between backticks, or between fences.
_CODE = r"^(?P<fence>```|~~~)[^\n]*+\n(?:(?!(?P=fence))[^\n]*+\n)*+(?P=fence)|`[^`\n]{1,200}+`"
_FLAGS = re.IGNORECASE | re.ASCII | re.MULTILINE
_TAGS, _TAGS_AND_CODE = re.compile(_TAG, _FLAGS), re.compile(f"{_CODE}|{_TAG}", _FLAGS)
_LINE_TAGS = re.compile(r"br|p|div|li|tr|h[1-6]|hr|dt|dd|blockquote|pre|section|article", re.IGNORECASE)

_RUN = re.compile(r"  (?<=[^ \n]..) *+")  # not at the front of a line: there they are an indent
_ENDS = re.compile(r" (?<!  ) *+\n")

REPEATS = 3
# Jamo, punctuation and pictures, not # and `: four of them are a heading or a fence. U+FE0F makes ❤ a picture.
_REPEATED = re.compile(rf"([{REPEATABLE}]\ufe0f?)\1{{{REPEATS},}}")


def markup(text: str) -> str:
    if "&" in text:
        text = _ENTITY.sub(_entity, text)
    if "<" in text:
        text = (_TAGS_AND_CODE if "`" in text or "~~~" in text else _TAGS).sub(_tag, text)
    return text


def _entity(found: re.Match[str]) -> str:
    name = found[1] or found[2]
    if name.startswith("#"):
        return html.unescape(f"&{name};").replace("\ufffd", "")  # of a number that is no character
    return html5.get(f"{name};", f"&{name};")


def _tag(found: re.Match[str]) -> str:
    if not found[0].startswith("<"):
        return found[0]
    return "\n" if _LINE_TAGS.fullmatch(found["name"] or "") else ""


def spaces(text: str) -> str:
    return _inner_spaces(text + "\n").strip(" \n")


def _inner_spaces(text: str) -> str:
    if "  " in text:
        text = _RUN.sub(" ", text)
    if " \n" in text:
        text = _ENDS.sub("\n", text)
    return text


def repeats(text: str) -> str:
    return _REPEATED.sub(lambda found: found[1] * REPEATS, text)


STEPS: tuple[tuple[str, Callable[[str], str]], ...] = (
    ("characters", characters),
    ("markup", markup),
    ("boilerplate", without_boilerplate),
    ("spaces", spaces),
    ("personal data", mask_data),
    ("repeats", repeats),
)
# A mended piece may lay another one open: `&lt;b&gt;`, `<<b>b>`. What real pages hold is settled after three.
ROUNDS = 4


def clean(text: str, boilerplate: bool = True, mask: bool = True) -> str:
    """All steps, until nothing changes. What four rounds do not settle was made to mock them: nothing is left of it."""
    steps = [
        step for name, step in STEPS if (boilerplate or name != "boilerplate") and (mask or name != "personal data")
    ]
    for _ in range(ROUNDS):
        before = text
        for step in steps:
            text = step(text)
        if text == before:
            return text
    return ""


def clean_all(texts: list[str], boilerplate: bool = True, mask: bool = True) -> list[str]:
    """[clean(text) for text in texts]; only what the sieve names meets a step."""
    texts, open_ones = list(texts), list(range(len(texts)))
    for _ in range(ROUNDS):
        before = [texts[number] for number in open_ones]
        after = _round(before, boilerplate, mask)
        changed = [place for place, text in enumerate(before) if text is not after[place] and text != after[place]]
        for place in changed:
            texts[open_ones[place]] = after[place]
        open_ones = [open_ones[place] for place in changed]
        if not open_ones:
            break
    for number in open_ones:
        texts[number] = ""
    return texts


def _round(texts: list[str], boilerplate: bool, mask: bool) -> list[str]:
    """Every step once: those that may make or join lines for documents, the others for lines."""
    texts = list(texts)
    sieve = Sieve(texts)
    rough = {}
    for number in sieve.rough().tolist():
        text = markup(characters(texts[number]))
        if text != texts[number]:
            rough[number] = text
    for number, text in _by_lines(sieve, boilerplate, mask).items():
        texts[number] = text
    if rough:  # their lines are others now
        mended = list(rough.values())
        again = _by_lines(Sieve(mended), boilerplate, mask)
        for place, number in enumerate(rough):
            texts[number] = again.get(place, mended[place])
    return texts


def _by_lines(sieve: Sieve, boilerplate: bool, mask: bool) -> dict[int, str]:
    """Documents that the steps from boilerplate on change. None of these steps looks across a line break."""
    changed: dict[int, str] = {}
    gone = set[int]()
    if boilerplate:
        which = sieve.boilerplate()
        gone = {number for number, line in zip(which.tolist(), sieve.lines(which), strict=True) if rule_of(line)}
    found = [(_inner_spaces, sieve.spaces())]
    if mask:
        found.append((mask_data, sieve.private()))
    for step, places in [*found, (repeats, sieve.repeats())]:
        which = np.array(sorted({*places.tolist(), *changed} - gone), np.int64)
        before = [changed.get(number, line) for number, line in zip(which.tolist(), sieve.lines(which), strict=True)]
        after = step("\n".join([*before, ""])).split("\n")
        for number, old, new in zip(which.tolist(), before, after, strict=False):
            if old != new:
                changed[number] = new
    return sieve.rebuilt(changed, gone)
