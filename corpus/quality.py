"""Verdicts on Korean documents: which one a corpus should not hold, and why.

What `measure` measures has the same name in the limits, there behind min_ or max_. The presets lie in
configs/corpus/quality: books, news, web, chat, sample. A file of one's own may say `base: web` and change some.
"""

import dataclasses
import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from corpus.measures import MEASURES, Batch
from corpus.privacy import PLACEHOLDERS
from narae.config import HOME, option, unknown
from narae.log import Mistake

PRESETS = HOME / "configs" / "corpus" / "quality"


@dataclasses.dataclass(frozen=True)
class Limits:
    """Shares are of the characters that are no spaces, where nothing else is said."""

    min_chars: int = option(20, "a shorter document is rejected")
    max_chars: int = option(2_000_000, "a longer document is rejected")
    max_undecodable: float = option(0.0, "largest share of U+FFFD, which stands where a character was lost")
    max_rare: float = option(0.05, "largest share of syllables that no Korean word has: decoded by the wrong table")
    max_code: float = option(0.15, "largest share of the signs of program code")
    max_code_lines: float = option(0.6, "largest share of lines that are program code, a log or a stack trace")
    max_symbols: float = option(0.1, "largest share of symbols such as ★ and ▶, usual punctuation not counted")
    min_hangul: float = option(0.3, "least share of Hangul")
    max_jamo: float = option(0.7, "largest share of jamo that stand alone, as in ㅋㅋ")
    min_eojeol: float = option(1.2, "least mean length of the eojeol, in characters")
    max_eojeol: float = option(40.0, "largest mean length of the eojeol, in characters")
    max_bullets: float = option(1.0, "largest share of lines that begin with a bullet")
    max_ellipsis: float = option(1.0, "largest share of lines that end in … or ..., with or without a page number")
    min_lines_ending: float = option(0.0, "least share of lines and sentences in which a sentence ends")
    max_repeated_lines: float = option(0.3, "largest share in lines and sentences that stood there before")
    max_repeated_ngrams: float = option(0.6, "largest share in five eojeol that stood there before in this order")
    boilerplate: bool = option(False, "cleaning takes out boilerplate lines, such as 무단 전재 및 재배포 금지")
    mask: bool = option(True, "cleaning puts placeholders for personal data and addresses")


# The first limit that a document breaks is its reason. What needs words and lines comes second: it costs more.
BY_CHARACTERS = {
    "min_chars": "too short",
    "max_undecodable": "undecodable characters",
    "max_rare": "wrong encoding",
    "max_code": "code or log",
    "max_code_lines": "code or log",
    "max_symbols": "symbols",
    "min_hangul": "little Hangul",
    "max_jamo": "single jamo",
}
BY_WORDS = {
    "min_eojeol": "eojeol length",
    "max_eojeol": "eojeol length",
    "max_bullets": "bullets",
    "max_ellipsis": "ellipses",
    "min_lines_ending": "unfinished lines",
    "max_repeated_lines": "repeated lines",
    "max_repeated_ngrams": "repeated n-grams",
}


_PLACEHOLDER = re.compile("|".join(map(re.escape, PLACEHOLDERS)))


def load(name_or_path: str) -> Limits:
    """The limits of a preset, or of a yaml file."""
    limits = Limits(**_read(name_or_path))
    for key in ("chars", "eojeol"):
        least, largest = getattr(limits, f"min_{key}"), getattr(limits, f"max_{key}")
        if least > largest:
            raise Mistake(f"{name_or_path}: min_{key} {least} is more than max_{key} {largest}: nothing would be kept")
    return limits


def _read(name_or_path: str, below: tuple[Path, ...] = ()) -> dict[str, Any]:
    path = _find(name_or_path, below)
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise Mistake(f"{path} is not yaml: {str(error).splitlines()[0]}") from None
    if not isinstance(values, dict):
        raise Mistake(f"{path} must hold `key: value` lines, not a {type(values).__name__}")
    base = values.pop("base", None)
    for key, value in values.items():
        _check(path, str(key), value)
    return values if base is None else _read(str(base), (*below, path)) | values


def _find(name_or_path: str, below: tuple[Path, ...]) -> Path:
    """A preset by its name; a file from where one stands, beside the file whose base it is, or among ours."""
    presets = sorted(path.stem for path in PRESETS.glob("*.yaml"))
    if name_or_path in presets:
        return PRESETS / f"{name_or_path}.yaml"
    for folder in (below[-1].parent if below else Path(), HOME):
        path = (folder / Path(name_or_path).expanduser()).resolve()
        if path in below:
            raise Mistake(f"{below[-1]}: base {name_or_path} leads back to {path}")
        if path.is_file():
            return path
    where = f"{below[-1]}: base {name_or_path}" if below else f"quality {name_or_path}"
    raise Mistake(f"{where} is neither a preset ({', '.join(presets)}) nor a yaml file")


def _check(path: Path, key: str, value: Any) -> None:
    known = {field.name: field for field in dataclasses.fields(Limits)}
    if key not in known:
        raise Mistake(f"{path}: " + unknown("key", key, {*known, "base"}))
    kind = known[key].type
    if kind is bool:
        right, wanted = isinstance(value, bool), "true or false"
    elif kind is int:
        right, wanted = type(value) is int and value >= 0, "a whole number"
    else:
        largest = math.inf if key.endswith("eojeol") else 1
        right = type(value) in (int, float) and 0 <= value <= largest
        wanted = "a number of characters" if key.endswith("eojeol") else "a share between 0 and 1"
    if not right:
        raise Mistake(f"{path}: {key} is {wanted}, not {value!r}")


def judge(texts: list[str], limits: Limits) -> list[str]:
    """Why each document is rejected, or "" for a good one. Fastest with about 250,000 characters at a time."""
    texts = [_PLACEHOLDER.sub("", text) if "<" in text else text for text in texts]  # ours, no sign of code
    reasons = ["too long" if len(text) > limits.max_chars else "" for text in texts]
    batch, left = None, []
    for checks in (BY_CHARACTERS, BY_WORDS):
        good = [number for number, reason in enumerate(reasons) if not reason]
        if not good:
            break
        if batch is None or 4 * len(good) < 3 * len(left):  # rather look at a few in vain than build it again
            batch, left = Batch([texts[number] for number in good]), good
        for field, reason in checks.items():
            measured = MEASURES[field[4:]](batch)
            limit = getattr(limits, field)
            for number in np.flatnonzero(measured < limit if field.startswith("min_") else measured > limit):
                reasons[left[number]] = reasons[left[number]] or reason
    return reasons


def verdict(text: str, limits: Limits) -> str:
    return judge([text], limits)[0]


def measure(text: str) -> dict[str, float]:
    """What the limits are compared with."""
    batch = Batch([_PLACEHOLDER.sub("", text)])
    return {name: float(function(batch)[0]) for name, function in MEASURES.items()}
