"""In bulk, a text has the ids that the saved tokenizer gives it, whatever the text and whatever encodes it."""

import json
import sys
import unicodedata
from pathlib import Path
from typing import Any

import helpers
import numpy as np
import pyarrow as pa
import pytest
from helpers import call
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

from narae.encoder import Encoder
from tokenizer import train

TEXTS = [
    "",
    "나래는 도서관에서 책을 읽었다.",
    "<|pad|> 글 <|endoftext|>",
    unicodedata.normalize("NFD", "한글"),
    "\0",
    "끝",
    "",
]


@pytest.fixture
def folder(artifacts: Path) -> Path:
    helpers.corpus()
    call(train.main, "--vocab_size", "384")
    return artifacts / "tokenizer/sample"


def ids(folder: Path, texts: list[str]) -> list[list[int]]:
    saved = Tokenizer.from_file(str(folder / "tokenizer.json"))
    saved.encode_special_tokens = True
    return [saved.encode(text, add_special_tokens=False).ids for text in texts]


def rows(found: tuple[np.ndarray, np.ndarray]) -> list[list[int]]:
    return [part.tolist() for part in np.split(found[0], np.cumsum(found[1])[:-1])]


def test_as_the_saved_tokenizer(folder: Path) -> None:
    encoder = Encoder(folder)
    assert (encoder.engine, encoder.reason, encoder.entries, encoder.eos, encoder.pad) == ("gigatoken", "", 384, 0, 1)
    expected = ids(folder, TEXTS)
    assert not {0, 1} & {number for text in expected for number in text}
    for texts in (TEXTS, pa.array(TEXTS, pa.large_string()), pa.array(["x", *TEXTS, "x"], pa.large_string())[1:-1]):
        assert rows(encoder.encode(texts)) == expected
        assert rows(encoder.encode(texts, exactly=True)) == expected
        assert encoder.check(texts)
    assert [part.size for part in encoder.encode([])] == [0, 0]
    assert rows(encoder.encode(pa.array(["", ""], pa.large_string()))) == [[], []]


# Jamo that compose, letters with marks, emoji, blanks and controls: what a split pattern or NFC could see otherwise.
LETTERS = st.characters(exclude_categories=["Cs"]) | st.sampled_from(
    "\u1100\u1161\u11a8가각e\u0301\u0344ſ'sS \n\r\t\u3000१1🙂\u200d"
)


def test_any_text(folder: Path) -> None:
    encoder = Encoder(folder)
    saved = Tokenizer.from_file(str(folder / "tokenizer.json"))
    saved.encode_special_tokens = True

    @settings(deadline=None, max_examples=300, suppress_health_check=[HealthCheck.too_slow])
    @given(st.lists(st.text(LETTERS), min_size=1, max_size=4))
    def alike(texts: list[str]) -> None:
        found, lengths = encoder.encode(texts)
        expected = [saved.encode(text, add_special_tokens=False).ids for text in texts]
        assert rows((found, lengths)) == expected
        assert encoder.bytes_of(found, len(texts)) == helpers.nfc_bytes(texts)

    alike()


def change(folder: Path, **parts: Any) -> None:
    file = folder / "tokenizer.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | parts))


def test_what_gigatoken_does_not_know_is_left_to_tokenizers(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    change(folder, pre_tokenizer={"type": "Sequence", "pretokenizers": [
        {"type": "Split", "pattern": {"Regex": r"\\S+|\\s+"}, "behavior": "Isolated", "invert": False},
        {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False},
    ]})  # fmt: skip
    encoder = Encoder(folder)
    assert encoder.engine == "tokenizers"
    assert rows(encoder.encode(pa.array(TEXTS, pa.large_string()))) == ids(folder, TEXTS)
    assert encoder.check(TEXTS)
    encoder.tell()
    [said] = capsys.readouterr().err.splitlines()
    assert "`tokenizers` encodes" in said and "no fast pretokenizer" in said


def test_without_gigatoken(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gigatoken.gigatoken_rs", None)
    encoder = Encoder(folder)
    assert encoder.engine == "tokenizers" and "gigatoken" in encoder.reason
    assert rows(encoder.encode(TEXTS)) == ids(folder, TEXTS)


def test_added_entries_are_looked_for_by_tokenizers(folder: Path) -> None:
    saved = Tokenizer.from_file(str(folder / "tokenizer.json"))
    saved.add_tokens(["도서관"])
    saved.save(str(folder / "tokenizer.json"))
    encoder = Encoder(folder)
    assert (encoder.engine, encoder.entries) == ("tokenizers", 385)
    found, _ = encoder.encode(["도서관"])
    assert found.tolist() == [384]
    assert encoder.bytes_of(found, 1) == 9


def test_other_ids_are_seen(folder: Path) -> None:
    encoder = Encoder(folder)
    sample = helpers.SENTENCES
    assert encoder.check(sample)
    change(folder, added_tokens=[])
    described = json.loads((folder / "tokenizer.json").read_text())
    described["model"]["merges"] = described["model"]["merges"][:-40]
    encoder._described = json.dumps(described)
    encoder._load()
    assert not encoder.check(sample)


def test_its_memory_is_bounded(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = Encoder(folder)
    loaded = []
    load = Encoder._load

    def counted(self: Encoder) -> None:
        loaded.append(1)
        load(self)

    monkeypatch.setattr(Encoder, "_load", counted)
    encoder.encode(TEXTS)
    assert not loaded
    monkeypatch.setattr("narae.encoder.MEMORY", -(10**12))
    assert rows(encoder.encode(TEXTS)) == ids(folder, TEXTS)
    assert loaded


def test_bytes_of_a_vocabulary_with_byte_fallback(folder: Path) -> None:
    words = ["<unk>", "<|endoftext|>", "<|pad|>", *(f"<0x{byte:02X}>" for byte in range(256)), "▁", "글", "▁글"]
    model = {"type": "BPE", "vocab": {word: number for number, word in enumerate(words)}, "merges": [["▁", "글"]]}
    model |= {"dropout": None, "unk_token": "<unk>", "continuing_subword_prefix": None, "end_of_word_suffix": None}
    special = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    change(
        folder,
        model=model | {"fuse_unk": True, "byte_fallback": True, "ignore_merges": False},
        added_tokens=[{"id": number, "content": words[number]} | special for number in (1, 2)],
        normalizer={"type": "Sequence", "normalizers": [
            {"type": "Prepend", "prepend": "▁"}, {"type": "Replace", "pattern": {"String": " "}, "content": "▁"},
        ]},
        pre_tokenizer=None,
        decoder=None,
    )  # fmt: skip
    encoder = Encoder(folder)
    assert encoder.entry_bytes[[1, 2, 3, 258, 259, 260, 261]].tolist() == [0, 0, 1, 1, 1, 3, 4]
    texts = ["글", "글 글", "각"]
    found, lengths = encoder.encode(texts)
    assert rows((found, lengths)) == ids(folder, texts)
    assert lengths.tolist() == [1, 2, 4]
    assert encoder.bytes_of(found, 3) == 3 + 7 + 3
