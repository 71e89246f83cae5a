"""Personal data in Korean text, masked with placeholders that say what stood there: str -> str, pure.

Every pattern is anchored, because digits are mostly something else: dates, prices, ISBNs, article numbers. A resident
number and a card must pass their check digits, a landline needs its separators, an account the name of a bank nearby.
"""

import re
from datetime import date

RESIDENT, PHONE, EMAIL, CARD, ACCOUNT, LINK = (
    f"<{name}>" for name in ("주민등록번호", "전화번호", "전자우편", "카드번호", "계좌번호", "링크")
)
PLACEHOLDERS = (RESIDENT, PHONE, EMAIL, CARD, ACCOUNT, LINK)

_LINK = re.compile(
    # Printable ASCII without quotes and < >: Korean words and brackets stand right behind an address.
    r"(?:https?|ftp)://[!#-&(-;=?-~]+|(?<![\w@./-])www\.[A-Za-z0-9-]+\.[!#-&(-;=?-~]+",
    re.IGNORECASE,
)
_EMAIL = re.compile(
    r"(?<![\w.+%-])[A-Za-z0-9][\w.+%-]{0,63}@(?:[A-Za-z0-9-]{1,63}\.){1,4}[A-Za-z]{2,18}(?![A-Za-z0-9@])", re.A
)
# Fewer than eight digits are nobody's number; most documents end here.
_DIGITS = re.compile(r"[0-9](?:[-. ()]{0,2}[0-9]){7}")
_RESIDENT = re.compile(r"(?<![0-9.-])([0-9]{6})(?:-| - | )?([1-8][0-9]{6})(?![0-9]|[.-][0-9])")
_CARD = re.compile(
    r"(?<![0-9.-])(?:[3-69][0-9]{3}([ -]?)[0-9]{4}\1[0-9]{4}\1[0-9]{4}|3[47][0-9]{2}([ -]?)[0-9]{6}\2[0-9]{5})"
    r"(?![0-9]|[.-][0-9])"
)
_PHONE = re.compile(
    r"(?<![0-9A-Za-z.,-])(?:"
    r"\+82[-. ]?(?:\(0\)|0)?[-. ]?(?:1[016-9]|2|[3-6][1-5])[-. ]?[0-9]{3,4}[-. ]?[0-9]{4}"
    r"|01(?:0[-. ]?[0-9]{4}|[016-9][-. ][0-9]{3,4}|[16-9][0-9]{3,4})[-. ]?[0-9]{4}"
    r"|(?:\(0(?:2|[3-6][1-5]|70|50[2-8])\) ?|0(?:2|[3-6][1-5]|70|50[2-8])[-.) ] ?)[0-9]{3,4}[-. ][0-9]{4}"
    r")(?![0-9]|[.-][0-9])"
)
_BANK = r"(?:[가-힣]{1,6}은행|농협|수협|신협|우체국|새마을금고|(?:카카오|토스|케이|[Kk])뱅크)"
_NUMBER = r"[0-9]{2,6}(?:-[0-9]{2,8}){2,3}|[0-9]{10,14}"
_ACCOUNT = re.compile(
    rf"({_BANK}[^0-9\n]{{0,20}})(?<![0-9.-])({_NUMBER})(?![0-9]|[.-][0-9]| ?[원만억조천개])"
    rf"|(?<![0-9.-])({_NUMBER})(?![0-9]|[.-][0-9])(?=[ (,:]{{1,3}}{_BANK})"
)
_WEIGHTS = (2, 3, 4, 5, 6, 7, 8, 9, 2, 3, 4, 5)


def mask(text: str) -> str:
    if "://" in text or "www." in text or "WWW." in text:
        text = _LINK.sub(_link, text)
    if "@" in text:
        text = _EMAIL.sub(EMAIL, text)
    if _DIGITS.search(text):
        text = _RESIDENT.sub(_resident, text)
        text = _CARD.sub(_card, text)
        text = _PHONE.sub(PHONE, text)
        text = _ACCOUNT.sub(_account, text)
    return text


def _link(found: re.Match[str]) -> str:
    """The full stop or the bracket after an address belongs to the sentence."""
    return LINK + found[0][len(found[0].rstrip(".,;:!?)]}'\"")) :]


def _resident(found: re.Match[str]) -> str:
    return RESIDENT if is_resident_number(found[1] + found[2]) else found[0]


def is_resident_number(digits: str) -> bool:
    """The birth date exists and the check digit is right. Numbers given out since October 2020 have none."""
    century = {"1": 1900, "2": 1900, "5": 1900, "6": 1900}.get(digits[6], 2000)
    try:
        born = date(century + int(digits[:2]), int(digits[2:4]), int(digits[4:6]))
    except ValueError:
        return False
    total = sum(int(digit) * weight for digit, weight in zip(digits, _WEIGHTS, strict=False))
    offset = 2 if digits[6] in "5678" else 0  # of foreigners
    return (11 - total % 11 + offset) % 10 == int(digits[12]) or date(2020, 10, 1) <= born < date(2050, 1, 1)


def _card(found: re.Match[str]) -> str:
    digits = [int(digit) for digit in found[0] if digit.isdigit()][::-1]
    total = sum(digits[0::2]) + sum(2 * digit - 9 * (digit > 4) for digit in digits[1::2])
    return CARD if total % 10 == 0 else found[0]


def _account(found: re.Match[str]) -> str:
    number = found[2] or found[3]
    if not 10 <= sum(map(str.isdigit, number)) <= 14 or number.startswith(("978-", "979-")):
        return found[0]
    return (found[1] or "") + ACCOUNT
