"""Cleaning: the labelled cases, the damage that others did, and what holds for every text."""

import re
import unicodedata
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from corpus.clean import ROUNDS, STEPS, clean, clean_all
from corpus.privacy import PLACEHOLDERS
from narae.config import HOME

CASES: list[dict[str, Any]] = yaml.safe_load((HOME / "bench/cases/clean.yaml").read_text(encoding="utf-8"))
# Each asks for something that no rule does yet, or that no rule could know. What is mended leaves this list.
UNSOLVED = {
    "[b]굵은[/b] 글씨",
    "바다가 잔잔하다.\n홍가람 기자",
    "제1장 바다 15\n바다가 잔잔하다.",
    "- 3 -\n× 2 =",
    "https://example.com/wiki/나래 참고",
    "http://나래.example.kr/소개 에서",
    "narae(at)example.com 으로 주세요.",
    "narae @ example.com 띄어 쓴 주소",
    "주민번호는 830412 다시 3123452이다.",
    "공일공-0000-1234로 걸어",
    "tel 02·000·1234",
    "학번 02-0000-1234로 조회한다.",
    "기업 000-000000-00-000 홍가람",
    "000-00-0000000 국민 홍가람",
}


def test_labelled_cases() -> None:
    wrong = {case["text"]: clean(case["text"]) for case in CASES if clean(case["text"]) != case["want"]}
    assert set(wrong) == UNSOLVED, {text: wrong.get(text) for text in set(wrong) ^ UNSOLVED}


def test_there_are_enough_cases_of_both_kinds_for_every_rule() -> None:
    for rule in {case["rule"] for case in CASES}:
        changes = [case["text"] != case["want"] for case in CASES if case["rule"] == rule]
        assert 5 <= sum(changes) <= len(changes) - 5, rule
    assert len(CASES) >= 220 and len({case["text"] for case in CASES}) == len(CASES)


@pytest.mark.parametrize(
    "text",
    [
        "1000000원",
        "값은 10000000000원이다",
        "좋아요ㅋㅋㅋ",
        "네ㅎ",
        "아아아아아아 살려",
        "하하하하하하",
        "문단\n\n\n\n문단",
        "2024-01-15",
        "2019-03-11 10:20:30.123456",
        "ISBN 978-89-01-12345-6",
        "국민은행에서 2019-03-11에",
        "우리은행 책 978-89-01-12345-6",
        "번호 1234567890",
        "0212345678",
        "제2010-1234-5678호",
        "1609459200000",
    ],
)
def test_what_others_broke(text: str) -> None:
    assert clean(text) == text


def test_steps_in_turn() -> None:
    """A text for each step; what the other steps would do to it comes before or after."""
    text = "가\u200b나 &lt;b>다</b>\n로그인\n라  마 010-0000-1234!!!!!"
    passed = []
    for name, step in STEPS:
        text = step(text)
        passed.append((name, text))
    assert passed == [
        ("characters", "가나 &lt;b>다</b>\n로그인\n라  마 010-0000-1234!!!!!"),
        ("markup", "가나 다\n로그인\n라  마 010-0000-1234!!!!!"),
        ("boilerplate", "가나 다\n라  마 010-0000-1234!!!!!"),
        ("spaces", "가나 다\n라 마 010-0000-1234!!!!!"),
        ("personal data", "가나 다\n라 마 <전화번호>!!!!!"),
        ("repeats", "가나 다\n라 마 <전화번호>!!!"),
    ]


def test_steps_that_are_turned_off() -> None:
    text = "로그인\n메일은 narae@example.com  이다"
    assert clean(text) == "메일은 <전자우편> 이다"
    assert clean(text, boilerplate=False) == "로그인\n메일은 <전자우편> 이다"
    assert clean(text, mask=False) == "메일은 narae@example.com 이다"


def test_markup_within_markup() -> None:
    assert clean("&amp;amp;lt;br&amp;amp;gt;나래") == "나래"
    assert clean("<<em>em>나래</<em>em>") == "나래"
    assert clean("<" * ROUNDS + "em>" * ROUNDS + "나래") == ""  # one round less would have been enough
    assert clean("<" * (ROUNDS - 1) + "em>" * (ROUNDS - 1) + "나래") == "나래"


# Pieces that steps look for, and halves of them, so that mending one lays another one open.
PIECES = """
가 각 ㅋ ㅎ 국 원 한글 태그 &#32;태그 ! !!!! ★ ★★★★ _ ~ ( ((((  0 1 12 원 - -- . , : / ' " ` < > & ; = # @ w ww www.
&amp; amp; lt; &lt; &#38; &#x3c; &nbsp &#8203; <b> </b> <br> <br/> <p> <td> </p> <em> em> <a&#32;href= <!-- --> <script>
</script> <style> <링크> 010-0000-1234 01000001234 (02) 000-1234 +82 82 10 0000 1234 Tel. 830412-3123452 830412 3123452
4000-0000-1234-5676 400000001234 5676 371449635398431 국민은행 농협 계좌 신한 우체국 110-123-456789 1002345678901
여권 M12345678 11-22-000000-78 a a@ b.co narae@example.com http:// https://a.kr/b blog.a.com/ x.kr ftp:// 로그인
회원가입 | 댓글 3 조회수 공유 목록 신고 - 12 ― ▶ 구독하기 기자 홍가람 [ ] 무단 전재 금지 ⓒ © Copyright 2024 2024.03.15
입력 09:30 펴낸곳 발행 사진= 관련기사 페이지 다. 홈 >
""".split()
ODD = [
    " ",
    "  ",
    "\n",
    "\n\n",
    "\r",
    "\r\n",
    "\t",
    "\x00",
    "\x0c",
    "\u2028",
    "\xa0",
    "\xad",
    "\u200b",
    "\u200d",
    "\ufe0f",
]
ODD += ["\u1100", "\u1161", "\u11a8", "\u119e", "\u11eb", "\u0301", "\u0323", "\u3164", "\ufeff", "\ufffd", "\ue000"]
ODD += [
    "❤",
    "👨",
    "\ud83d",
    "\ude00",
    "\udc00",
    "㎡",
    "㈜",
    "ﾡ",
    "Ａ",
    "＜",
    "１",
    "－",
    "–",
    "ﬁ",
    "ſ",
    "K",
    "漢",
    "\U000e0041",
]
PIECES = [piece.replace("&#32;", " ") for piece in PIECES] + ODD
texts = st.lists(st.sampled_from(PIECES) | st.characters(), max_size=12).map("".join)


@settings(max_examples=400, deadline=None)
@given(texts)
def test_twice_is_once(text: str) -> None:
    once = clean(text)
    assert clean(once) == once
    assert unicodedata.is_normalized("NFC", once)


@settings(max_examples=600, deadline=None)
@given(st.lists(texts, max_size=5), st.booleans(), st.booleans())
def test_all_at_once_is_one_by_one(batch: list[str], boilerplate: bool, mask: bool) -> None:
    before = list(batch)
    assert clean_all(batch, boilerplate, mask) == [clean(text, boilerplate, mask) for text in batch]
    assert batch == before


def test_all_at_once_on_the_labelled_cases() -> None:
    """Whole, and cut in two: then halves of things lie at the edges of documents."""
    batch = [case["text"] for case in CASES]
    batch += [text[cut:] for text in batch for cut in (len(text) // 3, len(text) // 2)] + ["", "\n", " "]
    assert clean_all(batch) == [clean(text) for text in batch]
    assert clean_all(["".join(batch)]) == [clean("".join(batch))]
    assert clean_all([]) == []


@given(st.text(alphabet="가나다0123456789\n 원", max_size=60))
def test_digits_syllables_and_lines_stay(text: str) -> None:
    wanted = re.sub(" +$", "", text, flags=re.MULTILINE).strip().replace(" ", "")
    cleaned = clean(text)
    assert cleaned.replace(" ", "") == wanted or any(placeholder in cleaned for placeholder in PLACEHOLDERS)


ENDLESS = """
<!-- <script> <script_ </ <b <b> <<b> <td_nowrap_ &lt; &#38; amp; &amp; & ```¶ ``` ~~~ ` ( 0 01 010- +82 1234- 12_ 0)1
(0 4000-0000-1234-5676_ 830412-3123452 Tel 은행 국민은행1 계좌 여권 사업자 a. a.com/ a- http:// :// a:b/ @a. ⓒ -_1_-¶
로그인 댓글1, 무단 기자_ ▶ 발행 2024-01-01 저작권자 😀 ㎏ Ａ
""".split()
ENDLESS = [piece.replace("_", " ").replace("¶", "\n") for piece in ENDLESS] + ["_", "\\", " ", "\n ", "\r", "\xa0"]
ENDLESS += ["\u0301\u0323", "\u200d", "\u1100", "\u1161", "\u1112\u119e", "가\u11eb", "❤\ufe0f", "\ud83d"]


@pytest.mark.parametrize(
    ("piece", "size"),
    [(piece, 10**6) for piece in ("<", "a@", "1-", "&#", "www.", "ㅋ", "<a b='")]
    + [(piece, 10**5) for piece in ENDLESS],
)
def test_endless_rows(piece: str, size: int) -> None:
    """A step that took quadratic time would take hours."""
    text = "가<a " + piece * (size // len(piece))
    assert clean_all([text]) == [clean(text)]
