"""Single characters: what becomes of them, and which a batch need not look at."""

import unicodedata

import pytest

from corpus.characters import SPELT, characters, plain


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("㎏㎡㎥㏄", "kgm²m³cc"),
        ("㎧㎨", "m/sm/s²"),
        ("㈜㈎㈞", "(주)(가)(오후)"),
        ("㉠㉮①⑴ⅣⅠ½²℃№￣", None),
        ("Ａ～（）￦￡", "A~()₩£"),
        ("ﾡￂￜ㈀", "ㄱㅏㅣ(ㄱ)"),  # as they are typed: half-width letters are no syllables
        ("ｶﾞ", "ガ"),
        ("ﬁﬄ", "fiffl"),
        ("⼈⾦", "人金"),
        ("가\u3164나\uffa0다\u2800라\u3000마\xa0바\t사", "가 나 다 라 마 바 사"),
        ("가\r\n나\r다\x0b라\x0c마\x85바\u2028사\u2029아", "가\n나\n다\n라\n마\n바\n사\n아"),
        ("가\x00\x1b\x7f\x9f\xad\u200b\u200e\u2060\ufeff\ufff9\ue000\U000f0000\U000e0041\ufdd0\ud800나", "가나"),
        ("\ufffd", None),
        ("👨\u200d👩\u200d👧 🏳\ufe0f\u200d🌈", None),
        ("가\u200d나 👨\u200d가 가\u200d👨", "가나 👨가 가👨"),
        # Jamo: composed, kept where they are a syllable of old Hangul, dropped where they are alone.
        ("\u1112\u1161\u11ab\u1100\u1173\u11af", "한글"),
        ("하\u11ab", "한"),
        ("말\u1100\u1100끝", "말끝"),
        ("\u1100\u1100\u1161", "가"),
        ("\u1161\u11a8", ""),
        ("\u1112\u119e\u11ab저 옵서", None),
        ("가\u11eb", None),
        ("각\u11eb", "각"),
        ("ㅋㅋㅋ ㅏ ㆍ", None),
        ("e\u0301", "é"),
        ("\uf907 \u212b \u2126", "龜 Å Ω"),
    ],
)
def test_characters(before: str, after: str | None) -> None:
    assert characters(before) == (before if after is None else after)


def test_marks_piled_on_a_letter_end() -> None:
    assert characters("a" + "\u0323\u0301" * 40_000) == unicodedata.normalize("NFC", "a" + "\u0323\u0301" * 4)


def test_what_is_spelt_out_keeps_no_odd_character() -> None:
    assert len(SPELT) > 500
    for sign, letters in SPELT.items():
        assert characters(sign) == unicodedata.normalize("NFC", letters) == characters(letters), sign


def test_what_a_batch_need_not_look_at() -> None:
    """No character of it is changed, and none of it changes beside another: none is a mark, or the second part of a
    letter that is composed."""
    codes = set(plain())
    seconds = {
        ord(parts[1])
        for sign in map(chr, range(0x110000))
        if unicodedata.decomposition(sign)[:1] not in ("", "<")
        and len(parts := unicodedata.normalize("NFD", sign)) > 1
        and not 0xAC00 <= ord(sign) <= 0xD7A3
    }
    assert not seconds & codes
    assert not any(unicodedata.combining(chr(code)) for code in codes)
    for code in codes:
        assert characters(chr(code)) == chr(code), hex(code)
    assert set(map(ord, "가힣ㅋㅎ漢か09azAZ !?.,…“”‘’·—★▶😀\n")) <= codes
    assert not codes & set(map(ord, "\r\t\xa0\u200b\u200d\u1100\u0301\u3164㎏㈜Ａﾡ\ud800"))
