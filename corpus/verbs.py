"""Conjugates dictionary forms into sentence endings: conjugate("돕다", "해요", "past") == "도왔어요".

Styles: 한다 (narration), 해요 (polite), 합니다 (formal), 해 (intimate). Tenses: present, past, will (-겠-)
and ask (a question in the present).
"""

import functools

STYLES = ("한다", "해요", "합니다", "해")
_VOWELS = "ㅏㅐㅑㅒㅓㅔㅕㅖㅗㅘㅙㅚㅛㅜㅝㅞㅟㅠㅡㅢㅣ"
_FINALS = ["", *"ㄱㄲㄳㄴㄵㄶㄷㄹㄺㄻㄼㄽㄾㄿㅀㅁㅂㅄㅅㅆㅇㅈㅊㅋㅌㅍㅎ"]
_REGULAR_B = {
    "입",
    "잡",
    "뽑",
    "씹",
    "접",
    "집",
    "업",
    "좁",
    "꼽",
    "뒤집",
    "붙잡",
    "갈아입",
    "손꼽",
    "수줍",
    "꼬집",
    "사로잡",
    "바로잡",
}
_BRIGHT_B = {"돕", "곱"}
_IRREGULAR_D = {"걷", "듣", "묻", "싣", "깨닫", "긷", "엿듣", "일컫"}
_IRREGULAR_S = {"짓", "낫", "붓", "잇", "젓", "긋", "퍼붓"}
_PLAIN_REU = {"따르", "치르", "들르", "다다르", "우러르", "잇따르"}
_UNMERGED = {"피", "비", "띠"}  # 피었다 and 비었다 read better than 폈다 and 볐다
_REO = {"푸르", "이르"}
_COLOUR_H = {"빨갛", "노랗", "하얗", "파랗", "까맣", "커다랗", "동그랗", "그렇", "이렇", "어떻", "높다랗", "조그맣"}


def _split(syllable: str) -> tuple[int, int, int]:
    code = ord(syllable) - 0xAC00
    return code // 588, code % 588 // 28, code % 28


def _join(first: int, vowel: int, last: int = 0) -> str:
    return chr(0xAC00 + first * 588 + vowel * 28 + last)


def _with_final(text: str, consonant: str) -> str:
    first, vowel, _ = _split(text[-1])
    return text[:-1] + _join(first, vowel, _FINALS.index(consonant))


def _bright(syllable: str) -> bool:
    return _VOWELS[_split(syllable)[1]] in "ㅏㅑㅗ"


def infinitive(lemma: str) -> str:
    """The form before -요 and -서: 살아, 해, 도와, 불러, 써."""
    stem = lemma.removesuffix("다")
    head, last = stem[:-1], stem[-1]
    first, vowel, end = _split(last)
    if last == "하":
        return head + "해"
    if stem in _REO:
        return stem + "러"
    if last == "르" and stem not in _PLAIN_REU:
        return _with_final(head, "ㄹ") + ("라" if _bright(head[-1]) else "러")
    if stem in _COLOUR_H:
        return head + _join(first, _VOWELS.index("ㅒ" if _VOWELS[vowel] == "ㅑ" else "ㅖ" if last == "옇" else "ㅐ"))
    if _FINALS[end] == "ㅂ" and stem not in _REGULAR_B:
        return head + _join(first, vowel) + ("와" if last in _BRIGHT_B else "워")
    if stem in _IRREGULAR_D:
        return _with_final(stem, "ㄹ") + ("아" if _bright(last) else "어")
    if stem in _IRREGULAR_S:
        return head + _join(first, vowel) + ("아" if _bright(last) else "어")
    if end:
        return stem + ("아" if _bright(last) else "어")
    if stem in _UNMERGED:
        return stem + "어"
    sound = _VOWELS[vowel]
    if sound == "ㅡ":
        return head + _join(first, _VOWELS.index("ㅏ" if head and _bright(head[-1]) else "ㅓ"))
    merged = {
        "ㅏ": "ㅏ",
        "ㅓ": "ㅓ",
        "ㅐ": "ㅐ",
        "ㅔ": "ㅔ",
        "ㅕ": "ㅕ",
        "ㅗ": "ㅘ",
        "ㅜ": "ㅝ",
        "ㅣ": "ㅕ",
        "ㅚ": "ㅙ",
    }.get(sound)
    return head + _join(first, _VOWELS.index(merged)) if merged else stem + "어"


@functools.cache
def conjugate(lemma: str, style: str, tense: str = "present", adjective: bool = False) -> str:
    stem = lemma.removesuffix("다")
    end = _FINALS[_split(stem[-1])[2]]
    if lemma == "아니다" and tense in ("present", "ask"):
        return {"한다": "아니다", "해요": "아니에요", "합니다": "아닙니다", "해": "아니야"}[style].replace(
            "니다" if tense == "ask" and style == "합니다" else "\0", "니까"
        )
    if tense == "past":
        base = _with_final(infinitive(lemma) if lemma != "아니다" else "아니어", "ㅆ")
    elif tense == "will":
        base = stem + "겠"
    else:
        base = ""
    if base:
        return base + {"한다": "다", "해요": "어요", "합니다": "습니다", "해": "어"}[style]
    if style == "해요":
        return infinitive(lemma) + "요"
    if style == "해":
        return infinitive(lemma)
    if style == "합니다":
        closing = "니까" if tense == "ask" else "니다"
        return _with_final(stem, "ㅂ") + closing if end in ("", "ㄹ") else stem + "습" + closing
    if adjective or stem[-1] in "있없":
        return lemma
    return _with_final(stem, "ㄴ") + "다" if end in ("", "ㄹ") else stem + "는다"
