"""Counting words by chunks gives what the pattern finds in the whole text."""

import unicodedata
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import regex
from hypothesis import given, settings
from hypothesis import strategies as st

from narae.documents import Document, LineWriter, Part, copies, line_of, parts
from narae.log import Mistake
from tokenizer import words as counting
from tokenizer.pieces import WORD
from tokenizer.train import PATTERNS
from tokenizer.words import Words, count_words

ALL = {**PATTERNS, "sentencepiece": WORD}
TEXT = st.text(
    st.sampled_from("가나하ㅋaZ'sé 漢12٣.,!?~ \n\r\t\u00a0\u3000\x85\u1100\u1161\u0301😀\x00_")
    | st.characters(exclude_categories=["Cs", "Cn"]),  # of unassigned characters each library has its own opinion
    max_size=40,
)


def written(folder: Path, documents: list[Document], a_frame: int = 200) -> list[Part]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("narae.documents.FRAME", a_frame)
        with LineWriter(folder / "train-00000.jsonl.zst") as writer:
            for document in documents:
                writer.write(line_of(document))
    return parts([folder / "train-00000.jsonl.zst"], least=1)


def found(words: Words) -> dict[str, int]:
    result = dict(words)
    assert len(result) == len(words.counts)
    return result


@settings(deadline=None, max_examples=50)
@given(texts=st.lists(TEXT, min_size=1, max_size=12), pattern=st.sampled_from(sorted(ALL)))
def test_as_the_pattern_finds_them(tmp_path_factory: pytest.TempPathFactory, texts: list[str], pattern: str) -> None:
    pieces = written(tmp_path_factory.mktemp("corpus"), [Document(str(n), text) for n, text in enumerate(texts)])
    find = regex.compile(ALL[pattern]).findall
    wanted = Counter(piece for text in texts for piece in find(unicodedata.normalize("NFC", text)))
    assert found(count_words(pieces, ALL[pattern], {})) == wanted


def test_nfd_counts_as_nfc(tmp_path: Path) -> None:
    pieces = written(tmp_path, [Document("1", unicodedata.normalize("NFD", "가방 가방 é"))])
    assert found(count_words(pieces, PATTERNS["llama3"], {})) == {"가방": 1, " 가방": 1, " é": 1}


def test_any_number_of_threads(tmp_path: Path) -> None:
    pieces = written(tmp_path, [Document(str(n), f"가나 다라{n % 7} 마바{n}") for n in range(300)])
    assert len(pieces) > 30
    one = count_words(pieces, PATTERNS["llama3"], {}, threads=1)
    four = count_words(pieces, PATTERNS["llama3"], {}, threads=4)
    assert one.text == four.text
    assert one.counts.tolist() == four.counts.tolist()


def test_weights_and_shares(tmp_path: Path) -> None:
    documents = [Document(f"{source}#{n}", f"{source}{n}", source) for source in "ab" for n in range(50)]
    pieces = written(tmp_path, documents)
    heavy = count_words(pieces, r"\w+", {"a": 2.5, "b": 0.5})
    wanted = {one.text: copies(one.id, 2.5 if one.source == "a" else 0.5) for one in documents}
    assert found(heavy) == {word: times for word, times in wanted.items() if times}
    assert {times for word, times in wanted.items() if word[0] == "a"} == {2, 3}
    assert heavy.sources["a"]["documents"] == sum(times for word, times in wanted.items() if word[0] == "a")
    assert heavy.sources["b"]["bytes"] == sum(len(word) * times for word, times in wanted.items() if word[0] == "b")
    part = count_words(pieces, r"\w+", {"b": 0}, share=0.3)
    assert found(part) == {one.text: 1 for one in documents if one.source == "a" and copies(one.id, 0.3)}


def test_half_a_surrogate_pair_is_no_reason_to_stop(tmp_path: Path) -> None:
    line = b'{"id":"x","text":"\xea\xb0\x80 \\ud800","source":"","licence":"","meta":{}}\n'
    with LineWriter(tmp_path / "train-00000.jsonl.zst") as writer:
        writer.write(line)
        writer.write(line_of(Document("y", "가")))
    pieces = parts([tmp_path / "train-00000.jsonl.zst"])
    assert found(count_words(pieces, PATTERNS["gpt2"], {})) == {"가": 2, " ?": 1}


def test_no_documents_no_words() -> None:
    assert found(count_words([], PATTERNS["gpt2"], {})) == {}


def test_memory_is_bounded_and_what_counts_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    documents = [Document(str(n), f"자주 {chr(0xBC00 + n)} 늘") for n in range(1000)]
    pieces = written(tmp_path, documents, a_frame=2000)
    whole = count_words(pieces, PATTERNS["llama3"], {})
    assert len(whole.counts) == 1002
    monkeypatch.setattr(counting, "MOST_CHUNKS", 300)
    few = count_words(pieces, PATTERNS["llama3"], {})
    assert len(few.counts) <= 301
    assert found(few)[" 늘"] == found(few)["자주"] == 1000
    # The rare words that stay stand for all of them, but for less than one of them
    assert 3000 - 16 < few.counts.sum() <= 3000


def test_thinned_keeps_the_sum_and_the_frequent() -> None:
    texts = pa.array([str(number) for number in range(1000)])
    counts = np.where(np.arange(1000) % 10 == 0, 50, 1 + np.arange(1000) % 3)
    kept, numbers = counting._thinned(texts, counts, np.ones(1000, np.int64), 400)
    assert len(kept) <= 400
    assert set(texts.filter(pa.array(counts == 50)).to_pylist()) <= set(kept.to_pylist())
    assert abs(int(numbers.sum()) - int(counts.sum())) < 8


def test_counts_that_would_overflow(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(counting, "MOST", 100)
    pieces = written(tmp_path, [Document(str(n), "가") for n in range(60)])
    assert found(count_words(pieces, r"\w+", {})) == {"가": 60}
    with pytest.raises(Mistake, match=r"a word occurs 120 times; up to 100 can be counted: lower the weights"):
        count_words(pieces, r"\w+", {"": 2})
