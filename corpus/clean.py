"""Korean text made clean: pure functions, str -> str and str -> verdict.

What is mended: normal form, invisible and full-width characters, HTML, spaces, endless ㅋㅋㅋㅋㅋ and !!!!!,
personal data.
What is never touched: digits, syllables, line breaks. Cleaning twice gives the same as cleaning once.
"""

import html
import re
import unicodedata
from dataclasses import dataclass

from corpus.privacy import PLACEHOLDERS, mask
from narae.config import option

# Control characters, zero-width ones, direction marks, soft hyphen, fillers, BOM, private use (HWP's bullets).
_DELETED = [
    *range(0x00, 0x09),
    *range(0x0E, 0x20),
    *range(0x7F, 0x85),
    *range(0x86, 0xA0),
    0xAD,
    0x034F,
    0x115F,
    0x1160,
]
_DELETED += [*range(0x200B, 0x2010), *range(0x202A, 0x202F), *range(0x2060, 0x2070), 0x3164, 0xFEFF, 0xFFA0]
_DELETED += [*range(0xE000, 0xF900), *range(0xFFF9, 0xFFFD), *range(0xD800, 0xE000)]
_SPACES = [0x09, 0x0B, 0x0C, 0xA0, 0x1680, *range(0x2000, 0x200B), 0x202F, 0x205F, 0x3000]
_BREAKS = [0x85, 0x2028, 0x2029]
_TABLE: dict[int, str | None] = dict.fromkeys(_DELETED)
_TABLE |= dict.fromkeys(_SPACES, " ") | dict.fromkeys(_BREAKS, "\n")
_TABLE |= {code: chr(code - 0xFEE0) for code in range(0xFF01, 0xFF5F)}
_ODD = re.compile("[" + "".join(map(re.escape, map(chr, sorted(_TABLE)))) + "]")
_CONJOINING = re.compile("[\u1100-\u11ff\ua960-\ua97f\ud7b0-\ud7ff]+")

_ENTITY = re.compile(r"&(?:#[0-9]{1,7}|#[xX][0-9a-fA-F]{1,6}|[A-Za-z][A-Za-z0-9]{1,30});")
_NAMES = (
    "a|abbr|article|aside|b|blockquote|body|br|caption|center|cite|code|col|dd|del|div|dl|dt|em|figcaption|figure|font|footer|form|"
    "h[1-6]|head|header|hr|html|i|iframe|img|input|ins|label|li|link|main|meta|nav|ol|option|p|pre|q|s|script|section|select|small|"
    "span|strike|strong|style|sub|sup|table|tbody|td|tfoot|th|thead|title|tr|tt|u|ul"
)
_HIDDEN = re.compile(r"<!--.*?-->|<(script|style)\b[^<>]*>.*?</\1\s*>", re.DOTALL | re.IGNORECASE)
_ATTRIBUTE = r"""\s+[A-Za-z][\w:-]*\s*=\s*(?:"[^"<>]*"|'[^'<>]*'|[^\s"'<>]+)"""
_TAG = re.compile(rf"</?({_NAMES})(?:{_ATTRIBUTE})*\s*/?>|<!doctype[^<>]*>", re.IGNORECASE)
_LINE_TAGS = re.compile(r"br|p|div|li|tr|h[1-6]|hr|dt|dd|blockquote|pre|section|article", re.IGNORECASE)

REPEATS = 3
# Not # and `: four of them are a heading or a fence.
_REPEATED = re.compile(rf"([ㄱ-ㆎ_]|[^\w\s#`])\1{{{REPEATS},}}")


def clean(text: str) -> str:
    for _ in range(4):  # a mended piece may lay another one open: `&amp;lt;`, `<<b>b>`
        before = text
        text = _collapse(mask(_spaces(_markup(_characters(text)))))
        if text == before:
            break
    return text


def _characters(text: str) -> str:
    if "\r" in text:
        text = text.replace("\r\n", "\n").replace("\r", "\n")
    if _ODD.search(text):
        text = text.translate(_TABLE)
    if not unicodedata.is_normalized("NFC", text):
        text = unicodedata.normalize("NFC", text)
    if _CONJOINING.search(text):  # what NFC could not put together
        text = unicodedata.normalize("NFC", _CONJOINING.sub("", text))
    return text


def _markup(text: str) -> str:
    if "&" in text:
        text = _ENTITY.sub(lambda found: html.unescape(found[0]), text)
    if "<" in text:
        text = _HIDDEN.sub("", text)
        text = _TAG.sub(lambda found: "\n" if _LINE_TAGS.fullmatch(found[1] or "") else "", text)
    return text


_RUN = re.compile(r"(?<=[^ \n])  +")  # not at the front of a line: there they are an indent
_ENDS = re.compile(r" +\n")


def _spaces(text: str) -> str:
    if "  " in text:
        text = _RUN.sub(" ", text)
    if " \n" in text:
        text = _ENDS.sub("\n", text)
    return text.strip()


def _collapse(text: str) -> str:
    return _REPEATED.sub(lambda found: found[1] * REPEATS, text)


@dataclass
class Limits:
    min_chars: int = option(20, "a shorter document is rejected")
    max_chars: int = option(2_000_000, "a longer document is rejected")
    min_hangul: float = option(0.3, "least share of Hangul among the characters that are no spaces")
    max_symbols: float = option(0.1, "largest share of symbols such as ★ and ▶, usual punctuation not counted")
    max_code: float = option(0.15, "largest share of the signs of program code")
    max_repeated: float = option(0.3, "largest share of text in lines or sentences that stood there before")


_HANGUL = re.compile("[가-힣ㄱ-ㆎ]+")
# ASCII is left to the rule for code: Markdown would suffer.
_SYMBOLS = re.compile(r"[^\w\s!-~…·‘’“”「」『』《》〈〉]+")
# No ; ^ _ * | / # alone: those are emoticons, tables, lists and fractions as well.
_CODE = re.compile(r"[{}\[\]<>=\\$]+|;$|[-=]>|\(\)|::|\w_\w", re.MULTILINE)
_LOG = re.compile(
    r"\b(?:ERROR|WARN(?:ING)?|INFO|DEBUG|FATAL|TRACE|Traceback|[A-Z]\w*(?:Exception|Error)|0x[0-9a-fA-F]{4,})\b"
)
_UNITS = re.compile(r"\n+|(?<=[.!?。])\s+")
LOG_SIGNS = 3
# Three hearts in a short review are no reason.
FEW_SIGNS = 10


def verdict(text: str, limits: Limits) -> str:
    """Why the document is rejected, or "" for a good one. Cheap checks first."""
    if len(text) < limits.min_chars:
        return "too short"
    if len(text) > limits.max_chars:
        return "too long"
    if "\ufffd" in text:
        return "undecodable characters"
    if "<" in text:
        for placeholder in PLACEHOLDERS:  # ours, no sign of code
            text = text.replace(placeholder, "")
    solid = len(text) - text.count(" ") - text.count("\n")
    if not solid:
        return "too short"
    hangul = _length(_HANGUL, text) / solid
    # Good prose is over .85 and needs no closer look (news .882, novels .934): code hides where Hangul is rare.
    if hangul < 0.85:
        if _length(_CODE, text) > max(FEW_SIGNS, limits.max_code * solid) or _is_log(text):
            return "code or log"
        if _length(_SYMBOLS, text) > max(FEW_SIGNS, limits.max_symbols * solid):
            return "symbols"
        if hangul < limits.min_hangul:
            return "little Hangul"
    return "repeated lines" if _repeated(text) > limits.max_repeated else ""


def _length(pattern: re.Pattern[str], text: str) -> int:
    return sum(map(len, pattern.findall(text)))


def _is_log(text: str) -> bool:
    signs = len(_LOG.findall(text))
    return signs >= LOG_SIGNS and signs * 200 > len(text)


def _repeated(text: str) -> float:
    """The share of the text in lines and sentences that stood there before; short ones (`네.`) repeat in any talk."""
    units = [unit for unit in _UNITS.split(text) if len(unit) >= 10]
    if len(units) < 4 or len(set(units)) == len(units):
        return 0.0
    return 1 - sum(map(len, set(units))) / sum(map(len, units))
