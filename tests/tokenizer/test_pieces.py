"""SentencePiece's pieces in a tokenizer that is not SentencePiece: the same ids, and nothing lost."""

import json
import os
import random
import subprocess
import sys
import unicodedata
from pathlib import Path
from typing import Any

import engines
import helpers
import pytest
from helpers import HOME
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

from narae.log import Mistake
from tokenizer import pieces, train
from tokenizer.train import SPECIAL

FIRST = 16 + 256
# What tempts a tokenizer: runs that merge in several ways, names of entries, and SentencePiece's own marks
TEMPTING = [
    "ㅋ",
    "ㅋㅋㅋ",
    "하하",
    "..",
    " ",
    "    ",
    "\n",
    "\n\n",
    "\t",
    "\0",
    "1",
    "<0x0A>",
    "<unk>",
    "漢",
    "😀",
    "ᄒᆞᆫ",
    "나래는",
]
TEXT = st.lists(st.sampled_from([*TEMPTING, *helpers.SENTENCES[:40]]), max_size=12).map("".join)
WORDS = engines.words([*helpers.SENTENCES, "ㅋㅋㅋㅋㅋㅋ 하하하하!!!!    ....\n\n\n1111 " * 20])


def new_entries(made: Tokenizer) -> list[str]:
    found = sorted(made.get_vocab().items(), key=lambda entry: entry[1])
    assert [number for _, number in found] == list(range(len(found)))
    assert [entry for entry, _ in found[:FIRST]] == SPECIAL + [f"<0x{byte:02X}>" for byte in range(256)]
    return [entry for entry, _ in found[FIRST:]]


@pytest.fixture(scope="module")
def made() -> Tokenizer:
    return pieces.train_pieces(WORDS, 512, SPECIAL)


@pytest.fixture(scope="module")
def theirs() -> Any:
    """SentencePiece's own encoder, of the same model."""
    return pieces.learn(WORDS, pieces.characters(WORDS, (512 - FIRST) // 2), 512, SPECIAL)


def test_special_tokens_bytes_and_pieces(made: Tokenizer) -> None:
    found = new_entries(made)
    assert len(found) == 512 - FIRST
    assert "나래는" in found
    assert " 읽었다." in found  # the space is a space, and punctuation may belong to a word
    assert "    " in found
    assert not any(" " in entry.lstrip(" ") for entry in found)  # so nothing merges across WORD's cuts


def test_merges_by_hand() -> None:
    # ab 11 times; then " ab" 6 and cab 5; then SentencePiece takes pairs that were frequent once, now in other pieces.
    # The characters are last, by how often: a and b 11, the space 6, c 5.
    made = pieces.train_pieces([(" ab", 6), ("cab", 5)], 384, SPECIAL)
    found = new_entries(made)
    assert (found[:3], set(found[3:-4]), found[-4:]) == (["ab", " ab", "cab"], {"ca", " a"}, ["a", "b", " ", "c"])
    assert made.encode("cab ab  ab b").tokens == ["cab", " ab", " ", " ab", " ", "b"]


@settings(deadline=None, max_examples=300)
@given(text=TEXT)
def test_ids_are_sentencepieces_own(made: Tokenizer, theirs: Any, text: str) -> None:
    text = unicodedata.normalize("NFC", text)
    assert made.encode(text).ids == theirs.encode(text)


@settings(deadline=None, max_examples=300)
@given(text=TEXT)
def test_cutting_before_spaces_changes_no_id(made: Tokenizer, text: str) -> None:
    whole = json.loads(made.to_str())
    whole["pre_tokenizer"] = None
    assert made.encode(text).ids == Tokenizer.from_str(json.dumps(whole)).encode(text).ids


def test_a_document_is_encoded_word_by_word(made: Tokenizer) -> None:
    assert made.pre_tokenizer
    cut = [piece for piece, _ in made.pre_tokenizer.pre_tokenize_str("  나래는\n학교에  갔다 ")]
    assert cut == ["  나래는\n학교에", "  갔다", " "]


def test_rare_characters_are_bytes() -> None:
    often = [("가나", 5000), ("다", 5)]  # 가 and 나 are 10,000 of 10,005: 99.95 percent
    assert new_entries(pieces.train_pieces(often, 384, SPECIAL)) == ["가나", "가", "나"]
    made = pieces.train_pieces([("가나", 5000), ("다", 6)], 384, SPECIAL)
    assert sorted(new_entries(made)) == ["가", "가나", "나", "다"]
    assert made.encode("라").tokens == ["<0xEB>", "<0x9D>", "<0xBC>"]


def test_characters_take_at_most_half_of_the_entries() -> None:
    many = [(chr(0xAC00 + number) + chr(0xAC00 + number), 200 - number) for number in range(200)]
    found = new_entries(pieces.train_pieces(many, 384, SPECIAL))
    assert found[56:] == [chr(0xAC00 + number) for number in range(56)]
    assert found[:56] == [2 * chr(0xAC00 + number) for number in range(56)]


@pytest.mark.parametrize("mark", ["\u2581", "\u2585", "\t", "\0"])
def test_sentencepieces_own_marks_are_text(mark: str) -> None:
    made = pieces.train_pieces([(f"가나{mark}다라", 50), (f" {mark}", 9)], 384, SPECIAL)
    assert sorted(new_entries(made)) == [" ", "가", "가나", "나", "다", "다라", "라"]
    text = f"가나{mark}다라 {mark}{mark}"
    assert made.decode(made.encode(text).ids) == text


def test_names_of_entries_are_text() -> None:
    made = pieces.train_pieces([("<0x0A>", 50), ("<|pad|>", 50), ("ab<|pad|>", 9)], 384, SPECIAL)
    assert "ab" in new_entries(made)
    made.encode_special_tokens = True
    ids = made.encode("<0x0A><|pad|>\n").ids
    assert 1 not in ids
    assert ids.count(16 + 10) == 1
    assert made.decode(ids) == "<0x0A><|pad|>\n"


def test_no_length_is_too_long() -> None:
    # 210,000 bytes: SentencePiece by itself skips what is longer than 4,192
    made = pieces.train_pieces([("가나" * 35_000, 1)], 384, SPECIAL)
    assert "가나" * 8 in new_entries(made)


@pytest.mark.parametrize("words", [[], [("\t\0\u2581", 3)]])
def test_no_text_yields_no_pieces(words: list[tuple[str, int]]) -> None:
    assert new_entries(pieces.train_pieces(words, 384, SPECIAL)) == []


def test_counts_that_would_overflow() -> None:
    assert "가나" in new_entries(pieces.train_pieces([("가나", 2**61)], 384, SPECIAL))
    with pytest.raises(
        Mistake, match=r"counts to 2\^63, not to 9,223,372,036,854,775,808 characters: lower the weights"
    ):
        pieces.train_pieces([("가나다라", 2**61)], 384, SPECIAL)


def test_the_same_bytes_in_any_order_thread_and_process(made: Tokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    shuffled = random.Random(3).sample(WORDS, len(WORDS))
    monkeypatch.setitem(pieces.OPTIONS, "num_threads", 7)
    assert pieces.train_pieces(shuffled, 512, SPECIAL).to_str() == made.to_str()
    code = (
        "import sys, json; from tokenizer import pieces, train\n"
        "print(pieces.train_pieces(json.load(sys.stdin), 512, train.SPECIAL).to_str())"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        input=json.dumps(WORDS),
        capture_output=True,
        text=True,
        cwd=HOME,
        env=os.environ | {"PYTHONHASHSEED": "11"},
        check=True,
    )
    assert done.stdout.rstrip("\n") == made.to_str()
    assert done.stderr == ""  # nothing of SentencePiece's log


def test_equal_counts_give_the_same_pieces_in_every_process() -> None:
    draw = random.Random(5)
    words = [("".join(draw.choices("가나다라마바사아자차카타파하", k=6)), 1) for _ in range(3000)]
    code = (
        "import sys, json; from tokenizer import pieces, train\n"
        "print(pieces.train_pieces(json.load(sys.stdin), 2048, train.SPECIAL).to_str())"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], input=json.dumps(words), capture_output=True, text=True, cwd=HOME, check=True
    )
    assert done.stdout.rstrip("\n") == pieces.train_pieces(words, 2048, SPECIAL).to_str()


def test_auto_tokenizer_adds_nothing(made: Tokenizer, tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    train.save(made, tmp_path, 512)
    loaded: Any = AutoTokenizer.from_pretrained(tmp_path)
    assert len(loaded) == 512
    for text in ("나래는", " 나래는", "  나래는", "\n나래는 ", "\u2581나래는", "<|prompt|> 나래는", "<|prompt|>나래는"):
        ids = loaded(text)["input_ids"]
        assert ids == made.encode(text).ids
        assert loaded.decode(ids) == text
    assert loaded.tokenize("나래는") == ["나래는"]


def test_gigatoken_gives_the_same_ids(made: Tokenizer) -> None:
    """It takes neither NFC nor the cut, which changes no id: so it is for text that is NFC."""
    gigatoken = pytest.importorskip("gigatoken.gigatoken_rs")
    bare = json.loads(made.to_str()) | {"normalizer": None, "pre_tokenizer": None, "added_tokens": []}
    draw = random.Random(7)
    texts = ["".join(draw.choices([*TEMPTING, *SPECIAL, "\u2581", *helpers.SENTENCES], k=8)) for _ in range(500)]
    texts = [unicodedata.normalize("NFC", text) for text in texts]
    plain = Tokenizer.from_str(made.to_str())
    plain.encode_special_tokens = True
    found = gigatoken.load_hf_json(json.dumps(bare)).encode_batch(texts)
    assert [list(ids) for ids in found] == [plain.encode(text).ids for text in texts]
