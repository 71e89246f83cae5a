"""Cleaning, case by case, each result written by hand; and the damage that others did, which must not come back."""

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from corpus.clean import Limits, clean, verdict

SAME = None
CASES: list[tuple[str, str | None]] = [
    # Normal form, invisible characters
    (unicodedata.normalize("NFD", "한글 자모"), "한글 자모"),
    ("\u1112\u1161\u11ab글", "한글"),
    ("말\u1100\u1100끝", "말끝"),  # conjoining jamo that nothing composes
    ("가\u200b나\u200d다\ufeff라", "가나다라"),
    ("\ufeff처음", "처음"),
    ("붙\xad임표", "붙임표"),
    ("제어\x00문자\x07와\x7f끝", "제어문자와끝"),
    ("방향\u202e표시\u202c", "방향표시"),
    ("채움\u3164글자", "채움글자"),
    ("한글\uf06c 글머리", "한글 글머리"),  # private use: HWP's bullets
    ("ＡＢＣ１２３！？", "ABC123!?"),
    ("（주）나래", "(주)나래"),
    ("漢字와 かな", SAME),
    ("이모지 😀도 남는다", SAME),
    # Line ends and spaces
    ("한 줄\r\n두 줄\r세 줄", "한 줄\n두 줄\n세 줄"),
    ("문단\n\n\n\n문단", SAME),
    ("칸이   여럿", "칸이 여럿"),
    ("탭\t하나", "탭 하나"),
    ("전각\u3000칸과\xa0칸", "전각 칸과 칸"),
    ("줄 끝   \n다음 줄", "줄 끝\n다음 줄"),
    ("목록\n    * 들여쓰기", SAME),
    ("  앞뒤 칸  \n", "앞뒤 칸"),
    ("줄\u2028나눔\x85표", "줄\n나눔\n표"),
    # HTML
    ("&lt;제목&gt; &amp; 부제", "<제목> & 부제"),
    ("따옴표 &quot;하나&quot; &#44032;&#xB098;", '따옴표 "하나" 가나'),
    ("&amp;quot;두 번&amp;quot;", '"두 번"'),
    ("AT&T와 R&D;", SAME),
    ("<b>굵게</b> <i>기울여</i>", "굵게 기울여"),
    ("한 줄<br/>두 줄<BR>세 줄", "한 줄\n두 줄\n세 줄"),
    ('<a href="https://example.com/a">여기</a>를 보라', "여기를 보라"),
    ("<p class='x'>문단</p>", "문단"),
    ("앞<!-- 숨은\n말 -->뒤", "앞뒤"),
    ("<script>var a = 1;</script>본문", "본문"),
    ("부등식 a<b and c>d 이다", SAME),
    ("책 <토지>와 <b집>", SAME),
    ("3 < 5 이고 7 > 2", SAME),
    # Repeats
    ("ㅋㅋㅋㅋㅋㅋㅋㅋ", "ㅋㅋㅋ"),
    ("재밌다ㅋㅋㅋ", SAME),
    ("슬퍼ㅠㅠㅠㅠㅠ", "슬퍼ㅠㅠㅠ"),
    ("정말!!!!!!!!", "정말!!!"),
    ("글쎄......", "글쎄..."),
    ("그래~~~~~요?????", "그래~~~요???"),
    ("――――――", "―――"),
    ("#### 제목 넷", SAME),
    ("````\n코드\n````", SAME),
    # What others broke
    ("1000000원", SAME),
    ("값은 10000000000원이다", SAME),
    ("좋아요ㅋㅋㅋ", SAME),
    ("네ㅎ", SAME),
    ("네ㅎㅎㅎㅎㅎ", "네ㅎㅎㅎ"),
    ("아아아아아아 살려", SAME),
    ("하하하하하하", SAME),
    ("2024-01-15", SAME),
    ("2019-03-11 10:20:30.123456", SAME),
    ("ISBN 978-89-01-12345-6", SAME),
    ("ISBN 9788901123456", SAME),
    ("국민은행에서 2019-03-11에", SAME),
    ("우리은행 책 978-89-01-12345-6", SAME),
    ("우리은행이 1000000000원을", SAME),
    ("번호 1234567890", SAME),
    ("0212345678", SAME),
    ("제2010-1234-5678호", SAME),
    ("3.141592653589793", SAME),
    ("192.168.100.200", SAME),
    ("1609459200000", SAME),
    # Personal data
    ("제 번호는 010-1234-5678입니다", "제 번호는 <전화번호>입니다"),
    ("01012345678로 전화", "<전화번호>로 전화"),
    ("010 1234 5678", "<전화번호>"),
    ("011-123-4567", "<전화번호>"),
    ("(02) 123-4567", "<전화번호>"),
    ("전화: 031-123-4567.", "전화: <전화번호>."),
    ("+82-10-1234-5678", "<전화번호>"),
    ("메일은 hong.gil-dong@example.co.kr입니다", "메일은 <전자우편>입니다"),
    ("@나래 님", SAME),
    ("자세히는 https://example.com/a?b=c#d.", "자세히는 <링크>."),
    ("(http://example.com/a)를 보라", "(<링크>)를 보라"),
    ("www.example.com에서", "<링크>에서"),
    # 8 2 0 1 0 1 1 2 3 4 5 6 with weights 2…9, 2…5: 16+6+0+5+0+7+8+18+6+12+20+30 = 128; 11 - 128 % 11 = 4
    ("820101-1234564", "<주민등록번호>"),
    ("8201011234564", "<주민등록번호>"),
    ("820101-1234565", SAME),  # wrong check digit
    ("821301-1234567", SAME),  # no such month
    ("210101-3123456", "<주민등록번호>"),  # born after October 2020: no check digit
    # Luhn: 4+1+1+1+…: 4→8, fourteen 1s, of which seven double: 8+7+14 = 29 → 1
    ("4111-1111-1111-1111", "<카드번호>"),
    ("4111111111111111", "<카드번호>"),
    ("4111-1111-1111-1112", SAME),
    ("국민은행 123456-04-567890으로", "국민은행 <계좌번호>으로"),
    ("계좌는 123-456-789012 (신한은행)", "계좌는 <계좌번호> (신한은행)"),
    ("농협 계좌 301-1234-5678-91", "농협 계좌 <계좌번호>"),
    ("품번 123456-04-567890", SAME),
]


@pytest.mark.parametrize(("before", "after"), CASES)
def test_case(before: str, after: str | None) -> None:
    assert clean(before) == (before if after is SAME else after)


def test_there_are_enough_cases() -> None:
    assert len(CASES) >= 60


@given(
    st.text(alphabet=st.sampled_from("가각ㅋㅎ ᄀ ᅡᆨ\u0301e\u200b\n\r\t<b>/a&;amp#lt!.0189-@:w국민은행<>＜"), max_size=60)
)
def test_twice_is_once(text: str) -> None:
    once = clean(text)
    assert clean(once) == once


@given(st.text(alphabet="가나다0123456789\n 원", max_size=60))
def test_digits_syllables_and_lines_stay(text: str) -> None:
    wanted = "\n".join(line.rstrip(" ") for line in text.split("\n")).strip()
    assert clean(text).replace(" ", "") == wanted.replace(" ", "") or "<" in clean(text)


PROSE = "어느 봄날 아침에 나래는 장터로 갔다. 장터에는 사과와 배가 가득 쌓여 있었다. 나래는 사과 세 개를 샀다."


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (PROSE, ""),
        ("네.", "too short"),
        ("\ufffd" + PROSE, "undecodable characters"),
        ("The server returned an empty response while reading the next block of records.", "little Hangul"),
        ("★☆★ 할인 ▶▶▶ 클릭 ★☆★ 할인 ▶▶▶ 클릭 ★☆★ 할인", "symbols"),
        ("for (int i = 0; i < n; i++) { a[i] = b[i]; } // 배열을 채운다\nreturn {a: a[0]};", "code or log"),
        ("ERROR 오류 NullPointerException at 0x0045ab12; 오류 ERROR 다시 시도했다 실패했다", "code or log"),
        ("오늘의 특가를 만나 보세요.\n" * 6, "repeated lines"),
        ("오늘의 특가를 만나 보세요. " * 6, "repeated lines"),
        ("네.\n네.\n네.\n네.\n" + PROSE, ""),
        ("완전 재밌게 보고 있어요 ♡♡♡ 강추 강추 강추합니다 ^^ >_<", ""),
        ("## 제목\n\n* **굵게** 쓴 목록이다\n* `코드`를 조금 넣었다\n\n| 약재 | 용량 |\n| 감초 | 두 돈 |", ""),
        ("ㅋㅋㅋ 웃겨서 눈물이 난다 ㅠㅠㅠ ㅎㅎㅎ ㅋㅋㅋ", ""),
    ],
)
def test_verdict(text: str, reason: str) -> None:
    assert verdict(clean(text), Limits()) == reason


def test_too_long() -> None:
    assert verdict(PROSE, Limits(max_chars=len(PROSE))) == ""
    assert verdict(PROSE, Limits(max_chars=len(PROSE) - 1)) == "too long"
