"""The merges are those of the definition, and those of the trainer that everybody uses."""

import itertools
import json
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers, trainers

from tokenizer import merging
from tokenizer.merging import Text, merges_of
from tokenizer.train import BYTES

IDS = np.argsort(
    np.argsort(BYTES)
)  # as BpeTrainer numbers the bytes: in the order of the characters that stand for them
RANKS = {byte: int(rank) for byte, rank in enumerate(IDS)}


def text_of(words: dict[str, int]) -> Text:
    joined = b"".join(word.encode() + b"\xff" for word in words)
    return Text.of_bytes(joined, np.array([*words.values()], np.int64), IDS)


def by_definition(words: dict[str, int], wanted: int, least: int = 2) -> list[tuple[int, int]]:
    """Count all pairs, merge the most frequent one everywhere from the left, and begin again."""
    spelt = [([RANKS[byte] for byte in word.encode()], count) for word, count in words.items()]
    merges: list[tuple[int, int]] = []
    while len(merges) < wanted:
        pairs: Counter[tuple[int, int]] = Counter()
        for symbols, count in spelt:
            for pair in itertools.pairwise(symbols):
                pairs[pair] += count
        best = min(pairs, key=lambda pair: (-pairs[pair], pair), default=None)
        if best is None or pairs[best] < least:
            break
        new = 256 + len(merges)
        merges.append(best)
        for symbols, _ in spelt:
            place = 0
            while place + 1 < len(symbols):
                if (symbols[place], symbols[place + 1]) == best:
                    symbols[place : place + 2] = [new]
                place += 1
    return merges


def by_tokenizers(words: dict[str, int], wanted: int) -> list[tuple[int, int]]:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    trainer = trainers.BpeTrainer(
        vocab_size=256 + wanted,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        min_frequency=2,
        show_progress=False,
        special_tokens=[],
    )
    tokenizer.train_from_iterator((" ".join([word] * count) for word, count in words.items()), trainer)
    entries = [tokenizer.id_to_token(number) for number in range(tokenizer.get_vocab_size())]
    pairs = json.loads(tokenizer.to_str())["model"]["merges"]
    numbers = {entry: number for number, entry in enumerate(entries)}
    return [(numbers[left], numbers[right]) for left, right in pairs]


WORDS = st.dictionaries(
    st.text(st.sampled_from("abㅋ하나"), min_size=1, max_size=12), st.integers(1, 9), min_size=1, max_size=30
)


@settings(deadline=None, max_examples=100)
@given(WORDS)
def test_as_defined(words: dict[str, int]) -> None:
    assert merges_of(text_of(words), 60) == by_definition(words, 60)


@settings(deadline=None, max_examples=30)
@given(WORDS)
def test_as_tokenizers_does(words: dict[str, int]) -> None:
    assert merges_of(text_of(words), 40) == by_tokenizers(words, 40)


@settings(deadline=None, max_examples=30)
@given(WORDS, st.sampled_from([(1, 2), (3, 3), (10**9, 16)]))
def test_where_the_index_begins_and_how_it_goes_on_changes_nothing(
    words: dict[str, int], setting: tuple[int, int]
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(merging, "RARE", setting[0])
        patch.setattr(merging, "STEP", setting[1])
        assert merges_of(text_of(words), 60) == by_definition(words, 60)


def test_a_run_is_merged_from_the_left() -> None:
    a = RANKS[ord("a")]
    # aaaaa -> (aa)(aa)a; both pairs occur five times, and a has the smaller number -> (aa)(aaa) -> (aaaaa)
    assert merges_of(text_of({"aaaaa": 5}), 9) == [(a, a), (256, a), (256, 257)]


def test_least_ends_it() -> None:
    words = {"ab": 5, "cd": 2, "ef": 1}
    assert len(merges_of(text_of(words), 9)) == 2
    assert len(merges_of(text_of(words), 9, least=1)) == 3
    assert len(merges_of(text_of(words), 9, least=3)) == 1
    assert merges_of(text_of({"a": 5}), 9) == []


def test_counts_above_four_bytes() -> None:
    a, b, c = (RANKS[ord(letter)] for letter in "abc")
    assert merges_of(text_of({"ab": 2**33, "cb": 2**33 + 1}), 1) == [(c, b)]
    assert merges_of(text_of({"ab": 2**31 - 1, "cab": 2**31 - 1, "cb": 2**31}), 1) == [(a, b)]


def test_more_than_65536_symbols() -> None:
    """Above 16 bits pairs are sorted another way."""
    words = {chr(0xAC00 + number) * 3: 2 for number in range(50)}
    small = merges_of(text_of(words), 200)
    shifted = text_of(words)
    shifted.symbols = np.where(shifted.symbols >= 0, shifted.symbols + 70_000, shifted.symbols).astype(np.int32)
    shifted.ids = shifted.ids + 70_000
    shifted.newest += 70_000
    assert merges_of(shifted, 200) == [(left + 70_000, right + 70_000) for left, right in small]
