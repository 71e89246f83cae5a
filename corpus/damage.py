"""What real archives carry and nobody wants: the sample plants it on purpose, so that tests can ask what became of it.

No number here is anybody's: the resident numbers are of people born after 2080, the phone exchange 0000 is not
given out, example.com belongs to nobody, and the card numbers begin like the card companies' own test numbers.
"""

import random

from corpus import josa
from corpus.tales import Document

_LATIN = (
    "the server returned an empty response while reading the next block of records from disk and the job was retried"
).split()
_SAME = (
    ("그날 밤", "그날 저녁"),
    ("아침 일찍", "이른 아침에"),
    ("무척", "몹시"),
    ("아주", "매우"),
    ("가장", "제일"),
    ("지금", "요즘"),
)


def resident_number(rng: random.Random) -> str:
    """A 주민등록번호 whose check digit is right."""
    digits = f"{rng.randrange(81, 99)}{rng.randrange(1, 13):02d}{rng.randrange(1, 29):02d}{rng.randrange(3, 5)}"
    digits += f"{rng.randrange(100_000):05d}"
    check = (11 - sum(int(d) * w for d, w in zip(digits, (2, 3, 4, 5, 6, 7, 8, 9, 2, 3, 4, 5), strict=True)) % 11) % 10
    return f"{digits[:6]}-{digits[6:]}{check}"


def card_number(rng: random.Random) -> str:
    """Sixteen digits that pass Luhn's test."""
    digits = f"40000000{rng.randrange(10**7):07d}"
    total = sum(int(d) if i % 2 else int(d) * 2 - 9 * (int(d) > 4) for i, d in enumerate(digits))
    digits += str(-total % 10)
    return "-".join(digits[i : i + 4] for i in range(0, 16, 4))


def personal(document: Document, rng: random.Random) -> tuple[str, str, list[str]]:
    """The document with a private detail in its midst: which kind, the piece, the sentences."""
    kind = rng.choice(("resident_number", "phone", "email", "card"))
    subject, piece = {
        "resident_number": ("주민등록번호는", resident_number(rng)),
        "phone": ("전화번호는", f"010-0000-{rng.randrange(10_000):04d}"),
        "email": ("전자우편 주소는", f"{rng.choice(_LATIN)}{rng.randrange(100)}@example.com"),
        "card": ("카드 번호는", card_number(rng)),
    }[kind]
    ending = {"한다": "이다", "해요": "이에요", "합니다": "입니다"}[document.style]
    place = rng.randrange(1, len(document.sentences))
    lead = document.sentences[place].split(": ")[0] + ": " if document.kind == "dialogue" else ""
    sentence = f"{lead}{subject} {josa.attach(piece, ending)}."
    return kind, piece, [*document.sentences[:place], sentence, *document.sentences[place:]]


def near(document: Document, rng: random.Random) -> list[str] | None:
    """The document with a word or two changed and nothing else; None where it is too short for that."""
    if document.kind == "dialogue" or len(document.text.split()) < 60:
        return None
    sentences = list(document.sentences)
    place = rng.randrange(1, len(sentences) - 1)
    sentences[place] = rng.choice(("그리고 ", "사실 ", "참고로 ")) + sentences[place]
    for number, sentence in enumerate(sentences):
        for old, new in _SAME:
            if number != place and old + " " in sentence:
                sentences[number] = sentence.replace(old, new, 1)
                return sentences
    return sentences


def junk(rng: random.Random) -> tuple[str, list[str]]:
    """A document that no corpus should hold: which kind, the sentences."""
    kind = rng.choice(("symbols", "english", "code", "advert", "short"))
    if kind == "symbols":
        return kind, [rng.choice("=-*#~_·■▶") * rng.randrange(20, 60) for _ in range(rng.randrange(3, 9))]
    if kind == "english":
        words = [rng.choice(_LATIN) for _ in range(rng.randrange(60, 120))]
        return kind, [" ".join(words[i : i + 12]).capitalize() + "." for i in range(0, len(words), 12)]
    if kind == "code":
        names = [rng.choice(_LATIN) for _ in range(8)]
        return kind, [
            f"{rng.randrange(24):02d}:{rng.randrange(60):02d}:07 ERROR [{name}-{rng.randrange(99)}] "
            f"{name}.py line {rng.randrange(900)}: NullPointerException at 0x{rng.randrange(16**8):08x}; 오류"
            for name in names
        ]
    if kind == "advert":
        shop = f"www.shop{rng.randrange(1000)}.example.com"
        return kind, [
            f"★☆ 오늘만 {rng.randrange(5, 9)}0% 할인!! 지금 클릭 ▶▶ http://{shop}/{rng.randrange(10**6)} ☆★"
            for _ in range(rng.randrange(4, 9))
        ]
    return kind, [rng.choice(("네.", "끝.", "다음", "목록", "1쪽", "없음", "ㅋㅋ"))]
