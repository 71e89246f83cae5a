"""Korean particles, chosen by the final sound of the word before them.

attach("솔내", "은") == "솔내는"; attach("3", "으로") == "3으로"; attach("서울", "으로") == "서울로".

What ends a word, when it is not Hangul:
- closing brackets and quotes are passed over: 「나래」는;
- a number is read out: 3 is 삼, 10 십, 100 백, 1,000 천, 20,000 이만, 10^12 조; a number with a decimal
  point or a leading zero is read digit by digit (0.10 ends in 영, 010 in 공);
- Latin letters are named (L, M, N, R end in a consonant), except in an all-lower-case word of two
  letters or more with a vowel, which is read as loan words usually are (see `_lower_case`).
"""

import functools
import re

# Written after a final consonant: (after a consonant, after a vowel).
PARTICLES = {
    "은": ("은", "는"),
    "이": ("이", "가"),
    "을": ("을", "를"),
    "과": ("과", "와"),
    "으로": ("으로", "로"),
    "으로서": ("으로서", "로서"),
    "이라면": ("이라면", "라면"),
    "이라": ("이라", "라"),
    "이라고": ("이라고", "라고"),
    "이라는": ("이라는", "라는"),
    "이라서": ("이라서", "라서"),
    "이에요": ("이에요", "예요"),
    "이야": ("이야", "야"),
    "이다": ("이다", "다"),
    "입니다": ("입니다", "입니다"),
    "입니까": ("입니까", "입니까"),
    "이었다": ("이었다", "였다"),
    "이었어요": ("이었어요", "였어요"),
    "이었습니다": ("이었습니다", "였습니다"),
    "이었어": ("이었어", "였어"),
    "이고": ("이고", "고"),
    "이며": ("이며", "며"),
    "이지만": ("이지만", "지만"),
    "이니": ("이니", "니"),
    "이죠": ("이죠", "죠"),
    "이지": ("이지", "지"),
    "인데": ("인데", "인데"),
    "아": ("아", "야"),
    "이나": ("이나", "나"),
    "이랑": ("이랑", "랑"),
    "이든": ("이든", "든"),
    "이여": ("이여", "여"),
}
_SKIPPED = "\"'”’)]}>」』》〉】〕"
_DIGIT = {"0": "ㅇ", "1": "ㄹ", "2": "", "3": "ㅁ", "4": "", "5": "", "6": "ㄱ", "7": "ㄹ", "8": "ㄹ", "9": ""}
_LETTER = {"l": "ㄹ", "m": "ㅁ", "n": "ㄴ", "r": "ㄹ"}
_FINALS = ["", *"ㄱㄲㄳㄴㄵㄶㄷㄹㄺㄻㄼㄽㄾㄿㅀㅁㅂㅄㅅㅆㅇㅈㅊㅋㅌㅍㅎ"]


def _number(text: str) -> str:
    plain = text.replace(",", "")
    if "." in plain or (plain[0] == "0" and len(plain) > 1):
        return _DIGIT[plain[-1]]
    zeros = len(plain) - len(plain.rstrip("0"))
    if zeros == 0 or plain == "0":
        return _DIGIT[plain[-1]]
    if zeros < 4:
        return ["ㅂ", "ㄱ", "ㄴ"][zeros - 1]
    return ["ㄴ", "ㄱ", "", "ㅇ"][min(zeros // 4, 4) - 1]  # 만, 억, 조, 경


def _lower_case(word: str) -> str:
    """game 게임, apple 애플, server 서버, test 테스트, web 웹, book 북, clock 클록, boat 보트."""
    stem = word[:-1] if re.search(r"[nml]e$", word) else word
    if stem.endswith("ng"):
        return "ㅇ"
    if stem[-1] in "lmn":
        return _LETTER[stem[-1]]
    if stem.endswith("ck"):
        return "ㄱ"
    stop = re.search(r"(?:^|[^aeiou])[aeiou]([ptkbc])$", stem) or re.search(r"oo(k)$", stem)
    if not stop:
        return ""
    return {"p": "ㅂ", "b": "ㅂ", "t": "ㅅ", "k": "ㄱ", "c": "ㄱ"}[stop[1]]


def final(word: str) -> str:
    """The final consonant that is heard, "" for a vowel (or for what nobody can read)."""
    word = word.rstrip(_SKIPPED)
    if not word:
        return ""
    last = word[-1]
    if "가" <= last <= "힣":
        return _FINALS[(ord(last) - 0xAC00) % 28]
    if last.isascii() and last.isdigit():
        found = re.search(r"[0-9][0-9,]*(?:\.[0-9]+)?$", word)
        assert found
        return _number(found[0])
    if last.isascii() and last.isalpha():
        found = re.search(r"[A-Za-z]+$", word)
        assert found
        latin = found[0]
        if len(latin) > 1 and latin.islower() and re.search("[aeiouy]", latin):
            return _lower_case(latin)
        return _LETTER.get(last.lower(), "")
    return ""


def particle(word: str, kind: str) -> str:
    sound = final(word)
    if kind.startswith("으로") and sound == "ㄹ":
        return kind[1:]
    return PARTICLES[kind][0 if sound else 1]


@functools.lru_cache(maxsize=65536)
def attach(word: str, kind: str) -> str:
    return word + particle(word, kind)


def familiar(given: str) -> str:
    """A given name as friends say it: 민준 is 민준이, 지아 stays 지아."""
    return given + "이" if final(given) else given
