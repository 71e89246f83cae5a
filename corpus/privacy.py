"""Personal data in Korean text, masked with placeholders that say what stood there: str -> str, pure, line by line.

Every pattern is anchored, because digits are mostly something else: dates, prices, ISBNs, article numbers. A resident
number and a card must pass their check digits, a landline needs its separators, an account or a passport the word that
says what it is. What stays, and why: 1588-1234 and 080 numbers belong to companies, and 1592-1598 is a war; of
192.168.0.1 and 1.2.3.4 nobody can say which is a version; a domain without a path is a name.
"""

import re
from datetime import date

RESIDENT, PHONE, EMAIL, CARD, ACCOUNT, LINK, PASSPORT, LICENCE = (
    f"<{name}>"
    for name in ("주민등록번호", "전화번호", "전자우편", "카드번호", "계좌번호", "링크", "여권번호", "운전면허번호")
)
PLACEHOLDERS = (RESIDENT, PHONE, EMAIL, CARD, ACCOUNT, LINK, PASSPORT, LICENCE)

# Each pattern begins with the character that it looks for, and what must not stand before it comes second: re then
# skips to such characters, which is five times as fast.

# Printable ASCII without quotes and < >: Korean words and brackets stand right behind an address.
_REST = r"[!#-&(-;=?-~]+"
_SCHEME = re.compile(rf"[HhFf](?:(?<=[Hh])[Tt][Tt][Pp][Ss]?|(?<=[Ff])[Tt][Pp])://{_REST}")
_WWW = re.compile(rf"[Ww](?<![\w@./-].)[Ww][Ww]\.[A-Za-z0-9-]{{1,63}}\.{_REST}", re.ASCII)
# Without http:// and www. an address is sure only with a path behind it: and/or, 2.5/3 are none.
_DOMAIN = re.compile(
    rf"[A-Za-z0-9](?<![\w@./:-].)[A-Za-z0-9-]{{0,62}}\.(?:[A-Za-z0-9-]{{1,63}}\.){{0,3}}"
    rf"(?:com|net|org|kr|io|me|tv|gl|ly|be)/{_REST}",
    re.ASCII,
)
EMAIL_FORM = r"[\w.+%-]{0,63}@(?:[A-Za-z0-9-]{1,63}\.){1,4}[A-Za-z]{2,18}(?![A-Za-z0-9@])"
_EMAIL = re.compile(rf"[A-Za-z0-9](?<![\w.+%-].){EMAIL_FORM}", re.ASCII)

# No number has fewer digits, or more between them; a date has eight. Most lines end here.
DIGITS, GAP = 9, 3
_DASH = "[-‐‑–−]"
BETWEEN = "-‐‑–−. ()"
_DIGITS = re.compile(rf"[0-9](?:[{BETWEEN}]{{0,{GAP}}}[0-9]){{{DIGITS - 1}}}")
_ALONE = r"(?<![0-9.-].)"
_END = r"(?![0-9]|[.-][0-9])"

_RESIDENT = re.compile(rf"([0-9]{_ALONE}[0-9]{{5}})( ?{_DASH} ?| )?([1-8][0-9]{{6}}){_END}")
_COMPANY = re.compile(r"법인[^0-9\n]{0,12}$")  # 법인등록번호 has the same form
_WEIGHTS = (2, 3, 4, 5, 6, 7, 8, 9, 2, 3, 4, 5)
_CARD = re.compile(
    r"[3-69](?<![0-9A-Za-z.-].)(?:[0-9]{3}( ?[-‐‑–−] ?| ?)[0-9]{4}\1[0-9]{4}\1[0-9]{4}"
    rf"|(?<=3)[47][0-9]{{2}}([ -]?)[0-9]{{6}}\2[0-9]{{5}}){_END}"
)
_AREA = r"(?:2|[3-6][1-5]|70|50[2-8])"
_MARK = rf" ?(?:{_DASH}|\.) ?"
_SEP = rf"(?:{_MARK}| )"
_LAST = rf"[0-9]{{3,4}}{_SEP}[0-9]{{4}}"
_PHONE = re.compile(
    r"[0+(8](?:(?<![0-9A-Za-z-].)(?<![0-9][.,].)|(?<=[Tt][Ee][Ll].)|(?<=[Ff][Aa][Xx].)|(?<=[HM]P.))(?:"
    rf"(?:(?<=\+)|(?<=0)0 ?)82{_SEP}?(?:\(0\)|0)?{_SEP}?(?:1[016-9]|{_AREA}){_SEP}?[0-9]{{3,4}}{_SEP}?[0-9]{{4}}"
    rf"|(?<=8)2{_SEP}10{_SEP}[0-9]{{4}}{_SEP}[0-9]{{4}}"
    rf"|(?<=0)1(?:0\)?{_SEP}?[0-9]{{4}}{_SEP}?|[016-9](?:\) ?|{_SEP})[0-9]{{3,4}}{_SEP}|[16-9][0-9]{{3,4}})[0-9]{{4}}"
    # Of three numbers with spaces alone nobody knows.
    rf"|(?<=0){_AREA}(?:(?:\) ?|{_MARK}){_LAST}| [0-9]{{3,4}}{_MARK}[0-9]{{4}})|(?<=\()0(?:1[016-9]|{_AREA})\) ?{_LAST}"
    r")(?![0-9A-Za-z]|[.-][0-9])"
)
_LICENCE = re.compile(rf"[12]{_ALONE}[0-9]-[0-9]{{2}}-[0-9]{{6}}-[0-9]{{2}}{_END}")
_PASSPORT = re.compile(r"(여권[^A-Za-z0-9\n]{0,12})(?:[A-Z]{1,2}[0-9]{7,8}|[A-Z][0-9]{3}[A-Z][0-9]{4})(?![0-9A-Za-z])")

_BANK = "은행(?<=[가-힣A-Za-z]..)|농협|수협|신협|우체국|새마을금고|뱅크|계좌"
_SHORT = "국민|신한|우리|하나|카카오|토스"  # much else as well: only with the number right behind them
_GROUPS = r"-[0-9]{2,8}(?:-[0-9]{2,8})?-[0-9]{1,8}"
_UNITS = r" ?(?:[원만억조천개주명건좌년호회]|달러)"
_HELD = rf"[0-9](?:{_ALONE}(?:[0-9]{{1,5}}{_GROUPS}|[0-9]{{9,13}})){_END}(?!{_UNITS})"
_AFTER_BANK = re.compile(rf"(?:{_BANK})[^0-9\n]{{0,20}}{_HELD}")
_AFTER_SHORT = re.compile(rf"(?:{_SHORT})[ :]{{1,2}}(?=[0-9]+-){_HELD}")
_BEFORE_BANK = re.compile(
    rf"[0-9]{_ALONE}(?:[0-9]{{1,5}}{_GROUPS}|[0-9]{{9,13}}){_END}"
    r"(?=[ (,:]{1,3}(?:[가-힣A-Za-z]{1,6}은행|[농수신]협|우체국|새마을금고|[가-힣Kk]{1,3}뱅크))"
)
_BANKS = re.compile(r"은행|협|우체국|금고|뱅크|계좌|국민|신한|우리|하나|카카오|토스")
_NO_ACCOUNT = re.compile(r"97[89]|(?:19|20)[0-9]{2}-[01][0-9]-")  # of a book, or a day
# Between the bank's name and its number: then the number is another one.
_OTHER = re.compile(r"사업자|등록|등기|고유|허가|접수|주문|송장|운송|우편|문의|상담|전화|팩스|고객|ISBN|도서|책")


def mask(text: str) -> str:
    return mask_numbers(mask_addresses(text))


def mask_addresses(text: str) -> str:
    if "://" in text:
        text = _SCHEME.sub(_link, text)
    if "w." in text or "W." in text:
        text = _WWW.sub(_link, text)
    if "/" in text:
        text = _DOMAIN.sub(_link, text)
    if "@" in text:
        text = _EMAIL.sub(EMAIL, text)
    return text


def mask_numbers(text: str) -> str:
    if "여권" in text:
        text = _PASSPORT.sub(rf"\1{PASSPORT}", text)
    if _DIGITS.search(text):
        text = _RESIDENT.sub(_resident, text)
        text = _CARD.sub(_card, text)
        text = _PHONE.sub(PHONE, text)
        if _BANKS.search(text):
            for pattern in (_AFTER_BANK, _AFTER_SHORT, _BEFORE_BANK):
                text = pattern.sub(_account, text)
        text = _LICENCE.sub(LICENCE, text)
    return text


def _link(found: re.Match[str]) -> str:
    """The full stop or the bracket after an address belongs to the sentence."""
    return LINK + found[0][len(found[0].rstrip(".,;:!?)]}'\"")) :]


def _resident(found: re.Match[str]) -> str:
    digits = found[1] + found[3]
    if not is_resident_number(digits, checked=not (found[2] or "").strip()):
        return found[0]
    before = found.string[max(0, found.start() - 20) : found.start()]
    if _COMPANY.search(before) or (found[2] is None and _is_barcode(digits) and "번호" not in before):
        return found[0]
    return RESIDENT


def is_resident_number(digits: str, checked: bool = False) -> bool:
    """The birth date exists and the check digit is right. Numbers given out since October 2020 have none, so that they
    are known by their hyphen alone: `checked` asks for the digit of those as well."""
    century = {"1": 1900, "2": 1900, "5": 1900, "6": 1900}.get(digits[6], 2000)
    try:
        born = date(century + int(digits[:2]), int(digits[2:4]), int(digits[4:6]))
    except ValueError:
        return False
    total = sum(int(digit) * weight for digit, weight in zip(digits, _WEIGHTS, strict=False))
    offset = 2 if digits[6] in "5678" else 0  # of foreigners
    right = (11 - total % 11 + offset) % 10 == int(digits[12])
    return right or (not checked and date(2020, 10, 1) <= born < date(2050, 1, 1))


def _is_barcode(digits: str) -> bool:
    """EAN-13 of Korea or of a book: 8801043… is the 4th of January 1988 as well."""
    total = sum(map(int, digits[0::2])) + 3 * sum(map(int, digits[1::2]))
    return total % 10 == 0 and digits.startswith(("880", "978", "979"))


def _card(found: re.Match[str]) -> str:
    digits = [int(digit) for digit in found[0] if digit.isdigit()][::-1]
    total = sum(digits[0::2]) + sum(2 * digit - 9 * (digit > 4) for digit in digits[1::2])
    return CARD if total % 10 == 0 else found[0]


def _account(found: re.Match[str]) -> str:
    before = found[0].rstrip("0123456789-")
    number = found[0][len(before) :]
    if not 10 <= sum(map(str.isdigit, number)) <= 14 or _NO_ACCOUNT.match(number) or _OTHER.search(before):
        return found[0]
    return before + ACCOUNT
