"""Characters that look like others, or like nothing, and what stands for them: str -> str, pure.

Compatibility forms are mended where nothing but room is lost. Full-width letters, half-width jamo and the squeezed
units of old code pages (㎏, ㎡, ㈜) have a plain spelling that Korean uses side by side; ㎡ keeps its power, which NFKC
loses (m2). What says something that its letters do not stays: circled marks, which are names in examinations (㉠, ①,
㉮), superscripts (²), Roman numerals (Ⅳ), fractions (½), signs (℃, №, ™), the ￣ of faces such as ￣ㅅ￣.
"""

import functools
import re
import unicodedata

# Control characters, zero-width ones, direction marks, soft hyphen, fillers, BOM, private use (HWP's bullets), variants
# of Hanja, tags (which can carry a text that nobody sees), what is no character, lone surrogates.
_GONE = (
    "\x00-\x08\x0e-\x1f\x7f-\x84\x86-\x9f\xad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180e\u200b\u200c\u200e\u200f"
    "\u202a-\u202e\u2060-\u206f\ud800-\udfff\ue000-\uf8ff\ufdd0-\ufdef\ufeff\ufff9-\ufffc\ufffe\uffff"
)
# U+3164 and U+FFA0 are letters without ink, U+2800 a Braille cell without dots: people write them for a space.
_SPACES = "\t\xa0\u1680\u2000-\u200a\u202f\u205f\u2800\u3000\u3164\uffa0"
# A page of a PDF ends with a form feed, a line of a slide with a vertical tab.
_BREAKS = "\x0b\x0c\x85\u2028\u2029"


def _spelt() -> dict[str, str]:
    spelt = {}
    for first, last in (
        (0x2F00, 0x2FD5),  # radicals, which PDFs hold for the Hanja: ⼈ for 人
        (0x3200, 0x321E),  # ㈎ ㈜ ㈞
        (0x3371, 0x337A),
        (0x3380, 0x33DF),  # ㎏ ㎡ ㏄
        (0xFB00, 0xFB04),  # ﬁ
        (0xFF01, 0xFFE6),  # Ａ ﾡ ￦
    ):
        for sign in map(chr, range(first, last + 1)):
            kind, _, letters = unicodedata.decomposition(sign).partition(" ")
            if 0x3200 <= ord(sign) <= 0x320D:  # ㈀; in these and the next NFKC has jamo that are to be composed
                letter = unicodedata.name(sign).replace("PARENTHESIZED HANGUL", "HANGUL LETTER")
                spelt[sign] = f"({unicodedata.lookup(letter)})"
            elif kind in ("<wide>", "<narrow>"):
                spelt[sign] = chr(int(letters, 16))
            elif kind:
                spelt[sign] = unicodedata.normalize("NFKC", sign).replace("\u2044", "/").replace("\u2215", "/")
            if 0x3371 <= ord(sign) <= 0x33DF:
                spelt[sign] = re.sub("[23]$", lambda power: "²³"[int(power[0]) - 2], spelt[sign])
    del spelt["￣"], spelt["\uffa0"]
    return spelt


SPELT = _spelt()
_MENDED = (
    SPELT
    | dict.fromkeys(re.findall(f"[{_SPACES}]", "".join(map(chr, range(0x10000)))), " ")
    | dict.fromkeys(_BREAKS, "\n")
)
_ODD = re.compile(f"[{_GONE}{''.join(_MENDED)}]")
_BEYOND = re.compile("[\U000e0000-\U0010ffff]")  # one class with both is three times as slow
# A joiner between pictures makes one of two: 👨‍👩‍👧.
_PICTURE = "\u2190-\u21ff\u2600-\u27bf\u2b00-\u2bff\U0001f000-\U0001faff"
_JOINER = re.compile(f"(?<![{_PICTURE}\ufe0f])\u200d|\u200d(?![{_PICTURE}])")

_LEADS, _VOWELS, _TAILS = "\u1100-\u115e\ua960-\ua97c", "\u1161-\u11a7\ud7b0-\ud7c6", "\u11a8-\u11ff\ud7cb-\ud7fb"
_OPEN = "".join(map(chr, range(0xAC00, 0xD7A4, 28)))  # syllables without a final consonant
_CONJOINING = "[\u1100-\u11ff\ua960-\ua97c\ud7b0-\ud7fb]"
_JAMO = re.compile(_CONJOINING)
_SYLLABLE = re.compile(f"([{_LEADS}][{_VOWELS}][{_TAILS}]?|(?<=[{_OPEN}])[{_TAILS}])|{_CONJOINING}")


# What endless rows are made of, as a class of re: jamo, _, punctuation, signs; beyond U+FFFF only pictures. Neither #
# and `, of which headings and fences are made, nor brackets and backslashes, which program code counts.
_SIGNS = "".join(map(chr, [*range(0x21, 0xFFFF), ord("x"), *range(0x1F000, 0x1FB00)]))
REPEATABLE = "".join(
    f"{re.escape(row[0])}-{re.escape(row[-1])}" for row in re.findall(r"[^\w\s#`()\[\]{}\\]+|[ㄱ-ㆎ]+|_", _SIGNS)
)


def characters(text: str) -> str:
    if "\r" in text:
        text = text.replace("\r\n", "\n").replace("\r", "\n")
    text = _BEYOND.sub("", _ODD.sub(lambda found: _MENDED.get(found[0], ""), text))
    if "\u200d" in text:
        text = _JOINER.sub("", text)
    if not unicodedata.is_normalized("NFC", text):
        text = unicodedata.normalize("NFC", _piled().sub(r"\1", text))
    if _JAMO.search(text):
        # What NFC left are letters of old Hangul and of Jeju (ᄒᆞᆫ), which stay as syllables; single jamo go.
        text = unicodedata.normalize("NFC", _SYLLABLE.sub(r"\1", text))
    return text


@functools.cache
def _piled() -> re.Pattern[str]:
    """More marks on a letter than any script has. Normalising sorts them in quadratic time: 80,000 take 5 s."""
    marks = "".join(chr(code) for code in range(0x300, 0x1F000) if unicodedata.combining(chr(code)))
    return re.compile(f"([{marks}]{{8}})[{marks}]+")


def plain() -> list[int]:
    """Code points that this step neither changes nor needs to see: with nothing but these a text is in order."""
    whole = ((0x3400, 0x9FFF), (0xAC00, 0xD7A3), (0x1F000, 0x1FAFF), (0x20000, 0x2F7FF))
    picked = (
        (0x20, 0x2FF), (0x370, 0x482), (0x48A, 0x52F), (0x2010, 0x20CF), (0x2100, 0x2BFF), (0x2E80, 0x33FF),
        (0xFE00, 0xFE0F), (0xFE30, 0xFFFD),
    )  # fmt: skip
    codes = [code for first, last in whole for code in range(first, last + 1)]
    for first, last in picked:
        for code in range(first, last + 1):
            sign = chr(code)
            if not unicodedata.combining(sign) and unicodedata.is_normalized("NFC", sign) and not _ODD.match(sign):
                codes.append(code)
    return [ord("\n"), *codes]
