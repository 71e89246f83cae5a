"""Personal data: check digits by hand, every form, and the numbers that are something else.

No number is anybody's: resident numbers of people born after 2080, telephone exchanges that are not given out, cards
that begin like the companies' test numbers."""

import pytest

from corpus.privacy import PLACEHOLDERS, is_resident_number, mask


def test_a_resident_number_needs_its_check_digit() -> None:
    # 8 3 0 4 1 2 3 1 2 3 4 5 with weights 2…9, 2…5: 16+9+0+20+6+14+24+9+4+9+16+25 = 152; 11 - 152 % 11 = 2
    for digit in "0123456789":
        assert is_resident_number("830412312345" + digit) == (digit == "2")
        assert mask(f"번호 830412-312345{digit}.") == (
            "번호 <주민등록번호>." if digit == "2" else f"번호 830412-312345{digit}."
        )


def test_that_of_a_foreigner_is_two_more() -> None:
    # The same with a 7 for the 3: 4 × 8 more = 184; 11 - 184 % 11 = 3, and 2
    assert [digit for digit in "0123456789" if is_resident_number("830412712345" + digit)] == ["5"]


@pytest.mark.parametrize(
    ("text", "masked"),
    [
        ("8304123123452", True),
        ("830412 - 3123452", True),
        ("830412–3123452", True),
        ("830412 3123452", True),
        ("홍가람(830412-3123452)", True),
        ("831312-3123452", False),  # no such month
        ("830230-3123453", False),  # no such day, though 16+9+0+10+18+0+24+9+4+9+16+25 = 140; 11 - 140 % 11 = 3
        ("490301-4567890", True),  # born after October 2020, its digits are random
        ("490301 4567890", False),  # but then only the hyphen says what it is
        ("4903014567890", False),
        ("1830412-3123452", False),
        ("830412-31234521", False),
        ("830412-3123452-1", False),
    ],
)
def test_forms_of_a_resident_number(text: str, masked: bool) -> None:
    assert ("<주민등록번호>" in mask(text)) == masked
    assert masked or mask(text) == text


def test_barcodes_and_companies_have_the_same_form() -> None:
    # Of 880104-300008…: 16+24+0+5+0+28+24+0+0+0+0+40 = 137, 11 - 137 % 11 = 6. As a barcode 8+0+0+3+0+0 and three
    # times 8+1+4+0+0+8: 11 + 63 = 74, and 6 makes it 80.
    assert mask("8801043000086") == "8801043000086"
    assert mask("880104-3000086") == mask("8801043000018") == "<주민등록번호>"
    assert mask("주민번호 8801043000086") == "주민번호 <주민등록번호>"
    assert mask("법인등록번호 830412-3123452") == "법인등록번호 830412-3123452"


def test_a_card_needs_its_check_digit() -> None:
    # Every other digit doubled from the 4 on: 8, seven 0, 2+2+6+4+(10-9)+6+(14-9); that is 34, and 6 makes it 40.
    for digit in "0123456789":
        text = f"4000-0000-1234-567{digit}"
        assert mask(text) == ("<카드번호>" if digit == "6" else text)
    for text in (
        "4000000012345676",
        "4000 0000 1234 5676",
        "4000–0000–1234–5676",
        "3714-496353-98431",
        "371449635398431",
    ):
        assert mask(f"카드({text})") == "카드(<카드번호>)"
    for text in ("4000-0000 1234-5676", "4000.0000.1234.5676", "14000000012345676", "a4000000012345676"):
        assert mask(text) == text


TELEPHONES = """
010-0000-1234, 01000001234, 010 0000 1234, 010.0000.1234, 010 - 0000 - 1234, 010–0000–1234, (010)0000-1234,
011-000-1234, 0110001234, 02-000-1234, (02) 000-1234, (02)000 1234, 02 000-1234, 031-0000-1234, 070-0000-1234,
0505-000-1234, +82-10-0000-1234, +82 10 0000 1234, +821000001234, +82-2-000-1234, +82 (0)10-0000-1234,
0082-10-0000-1234, 82-10-0000-1234"""
OTHERS = """
1588-0000, 080-000-1234, 1592-1598, 2024-03-15, 0212345678, 02 000 1234, 031 245 1234 5678, 제2010-1234-5678호,
KS-010-0000-1234, 010-0000-1234A, 1.02.123.4567, 0.010-0000-1234, 010-0000-1234-5, 3010-0000-1234, 978-89-01-12345-6,
37.5665 126.9780, 192.168.100.200, 1234567890, 20240315123456"""


@pytest.mark.parametrize("number", [*map(str.strip, TELEPHONES.split(","))])
def test_telephones(number: str) -> None:
    for frame in ("{}", "전화 {}입니다", "({})", "Tel.{}", "☎{},", "{}."):
        assert mask(frame.format(number)) == frame.format("<전화번호>"), frame


def test_brackets_go_with_a_telephone_in_pairs() -> None:
    assert mask("02)000-1234, 010)0000-1234") == "<전화번호>, <전화번호>"
    assert mask("(전화 02)000-1234") == "(전화 <전화번호>"
    assert mask("(010-0000-1234)") == "(<전화번호>)"


@pytest.mark.parametrize("text", [*map(str.strip, OTHERS.split(","))])
def test_no_telephones(text: str) -> None:
    assert mask(text) == text


@pytest.mark.parametrize(
    ("text", "after"),
    [
        ("국민은행 123456-04-567890으로", "국민은행 <계좌번호>으로"),
        ("KB은행 123456-04-567890", "KB은행 <계좌번호>"),
        ("110-123-456789 (신한은행)", "<계좌번호> (신한은행)"),
        ("농협 계좌 301-1234-5678-91", "농협 계좌 <계좌번호>"),
        ("새마을금고 9002-1234-5678-9", "새마을금고 <계좌번호>"),
        ("우리은행 1002345678901", "우리은행 <계좌번호>"),
        ("계좌번호: 123-456789-01-234", "계좌번호: <계좌번호>"),
        ("신한 110-123-456789", "신한 <계좌번호>"),
        ("국민은행 02-000-1234", "국민은행 <전화번호>"),
        ("품번 123456-04-567890", None),
        ("은행 123456-04-567890", None),
        ("우리 1002345678901", None),
        ("우리은행이 1000000000원을", None),
        ("국민은행 1234567890달러", None),
        ("농협 사업자등록번호 123-45-67890", None),
        ("우체국 등기 1234567890123", None),
        ("우리은행 책 978-89-01-12345-6", None),
        ("산업은행 2024-03-15-001", None),
        ("국민은행\n123456-04-567890", None),
        ("국민은행 123-45-678", None),
        ("여권번호: M12345678", "여권번호: <여권번호>"),
        ("여권(M123A4567)", "여권(<여권번호>)"),
        ("모델 M12345678", None),
        ("여권 발급 12345678건", None),
        ("면허 11-22-000000-78", "면허 <운전면허번호>"),
        ("부품 31-22-000000-78", None),
        ("메일은 hong.ga-ram@mail.example.co.kr입니다", "메일은 <전자우편>입니다"),
        ("<narae@example.com>", "<<전자우편>>"),
        ("@나래 님 user@localhost", None),
        ("https://example.com/a?b=c#d.", "<링크>."),
        ("(http://example.com/a)를 보라", "(<링크>)를 보라"),
        ("www.example.com에서", "<링크>에서"),
        ("WWW.EXAMPLE.COM에서", "<링크>에서"),
        ("blog.example.com/narae 참고", "<링크> 참고"),
        ("example.com과 and/or, 2.5/3", None),
        ("https://user@example.com/010-0000-1234", "<링크>"),
    ],
)
def test_other_data(text: str, after: str | None) -> None:
    assert mask(text) == (text if after is None else after)


def test_placeholders_stay() -> None:
    text = " ".join(PLACEHOLDERS)
    assert mask(text) == text and len(set(PLACEHOLDERS)) == 8
