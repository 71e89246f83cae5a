"""Whatever the text, it comes back in NFC; whatever the ids, they are a text. For both engines, as saved."""

import unicodedata
from pathlib import Path
from typing import Any

import engines
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

from tokenizer.train import SPECIAL


@pytest.fixture(scope="module", params=engines.NAMES)
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return engines.folder(request.param, tmp_path_factory.mktemp(request.param))


@pytest.fixture(scope="module")
def made(folder: Path) -> Tokenizer:
    return Tokenizer.from_file(str(folder / "tokenizer.json"))


@pytest.fixture(scope="module")
def loaded(folder: Path) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(folder)


def nfc(text: str) -> str:
    return unicodedata.normalize("NFC", text)


def between(*borders: int) -> st.SearchStrategy[str]:
    """Runs of characters from these ranges. Without those that Python's Unicode does not know: newer tables than its
    own may compose them."""
    ranges = zip(borders[::2], borders[1::2], strict=True)
    letters = [
        st.characters(min_codepoint=first, max_codepoint=last, exclude_categories=["Cs", "Cn"])
        for first, last in ranges
    ]
    return st.text(st.one_of(letters), min_size=1, max_size=6)


SYLLABLES = between(0xAC00, 0xD7A3)
JAMO = between(0x1100, 0x11FF, 0xA960, 0xA97C, 0xD7B0, 0xD7FB)
COMPATIBILITY_JAMO = between(0x3131, 0x318E, 0xFFA1, 0xFFDC)
HANJA = between(0x4E00, 0x9FFF, 0xF900, 0xFAFF, 0x2F800, 0x2FA1D, 0x20000, 0x2A6DF)
CONTROLS = between(
    0x00, 0x1F, 0x7F, 0xA0, 0x2000, 0x200F, 0x2028, 0x202F, 0x2060, 0x206F, 0xFEFF, 0xFEFF, 0x2580, 0x2590
)
MARKS = between(0x300, 0x36F, 0xFE00, 0xFE0F, 0x61, 0x7A)
PEOPLE = ["👩\u200d👩\u200d👧\u200d👦", "👍🏿", "🇰🇷", "❤\ufe0f\u200d🔥", "🧑🏽\u200d💻", "1\ufe0f\u20e3"]
SPACES = st.builds(
    lambda character, times: character * times, st.sampled_from(" \n\t\r\u3000\u2581"), st.integers(1, 99)
)
SPELT = ["<|endoftext", "<0x0A>", "<0xEA>", "<s>", "<unk>", "Ġ", "▁", "##", "</w>", "\ufffd", "\uffff", "\U0010ffff"]
DECOMPOSED = SYLLABLES.map(lambda text: unicodedata.normalize("NFD", text))
LETTERS = [SYLLABLES, DECOMPOSED, JAMO, COMPATIBILITY_JAMO, HANJA, MARKS, between(0x20, 0x7E)]
OTHERS = [CONTROLS, st.sampled_from(PEOPLE), SPACES, st.sampled_from(SPELT), between(0, 0x10FFFF)]
PARTS = st.one_of(LETTERS + OTHERS)
TEXT = st.lists(PARTS, max_size=6).map("".join)
WITH_SPECIAL = st.lists(PARTS | st.sampled_from(SPECIAL), max_size=6).map("".join)


@settings(deadline=None, max_examples=400)
@given(text=WITH_SPECIAL)
def test_every_text_comes_back(made: Tokenizer, text: str) -> None:
    for as_text in (False, True):
        made.encode_special_tokens = as_text
        ids = made.encode(text).ids
        assert made.decode(ids, skip_special_tokens=False) == nfc(text)
        assert not as_text or all(number >= len(SPECIAL) for number in ids)


@settings(deadline=None, max_examples=400)
@given(text=WITH_SPECIAL)
def test_every_text_comes_back_from_transformers(made: Tokenizer, loaded: Any, text: str) -> None:
    for as_text in (False, True):
        made.encode_special_tokens = as_text
        ids = loaded(text, split_special_tokens=as_text)["input_ids"]
        assert ids == made.encode(text).ids
        assert loaded.decode(ids, skip_special_tokens=False) == nfc(text)


@pytest.mark.parametrize("special", SPECIAL)
def test_special_tokens_are_one_id_each_or_text(made: Tokenizer, special: str) -> None:
    made.encode_special_tokens = False
    inside = made.encode(f"가{special}나")
    assert inside.ids.count(SPECIAL.index(special)) == 1
    assert made.decode(inside.ids, skip_special_tokens=True) == "가나"
    assert made.decode(inside.ids, skip_special_tokens=False) == f"가{special}나"
    made.encode_special_tokens = True
    spelt = made.encode(f"가{special}나").ids
    assert made.decode(spelt, skip_special_tokens=True) == f"가{special}나"


def byte_ids(made: Tokenizer) -> list[int]:
    """The entry of every byte, by the names that both engines' users know."""
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = iter(range(256, 512))
    letters = [chr(byte if byte in printable else next(others)) for byte in range(256)]
    vocabulary = made.get_vocab()
    if "<0x00>" in vocabulary:
        return [vocabulary[f"<0x{byte:02X}>"] for byte in range(256)]
    return [vocabulary[letter] for letter in letters]


def test_every_byte_has_an_entry(made: Tokenizer) -> None:
    ids = byte_ids(made)
    assert sorted(ids) == list(range(16, 272))
    for character in ("가", "뷁", "漢", "😀", "\0", "\x7f", "\u2581", " ", "a"):
        assert made.decode([ids[byte] for byte in character.encode()]) == character
    assert made.decode([ids[0xEA]]) == made.decode([ids[0x80]]) == made.decode([ids[0xFF]]) == "\ufffd"


@settings(deadline=None, max_examples=400)
@given(data=st.data())
def test_any_ids_are_a_text(made: Tokenizer, loaded: Any, data: st.DataObject) -> None:
    size = made.get_vocab_size()
    lone = st.sampled_from(byte_ids(made))
    ids = data.draw(st.lists(st.integers(0, size - 1) | lone | lone, max_size=40))
    made.encode_special_tokens = False
    text = made.decode(ids, skip_special_tokens=False)
    assert loaded.decode(ids, skip_special_tokens=False) == text
    again = made.encode(text).ids
    assert made.decode(again, skip_special_tokens=False) == nfc(text)
    assert made.encode(nfc(text)).ids == again
