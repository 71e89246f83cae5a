"""Verdicts: every measure against a sum done by hand or in plain Python, and no document judged by its neighbours."""

import dataclasses
import random
import re
from pathlib import Path

import numpy as np
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from corpus import damage
from corpus.clean import clean
from corpus.measures import MEASURES, NGRAM, UNIT, Batch, stood_before
from corpus.quality import BY_CHARACTERS, BY_WORDS, PRESETS, Limits, judge, load, measure, verdict
from narae.config import HOME
from narae.log import Mistake

PROSE = "어느 봄날 아침에 나래는 장터로 갔다. 장터에는 사과와 배가 가득 쌓여 있었다. 나래는 사과 세 개를 샀다."
SHIPPED = ["books", "chat", "news", "sample", "web"]
CASES = yaml.safe_load((HOME / "bench" / "cases" / "verdicts.yaml").read_text(encoding="utf-8"))


@pytest.mark.parametrize(
    ("text", "name", "value"),
    [
        ("가나다 ab!", "chars", 7),
        (" \n  ", "chars", 0),
        ("가나다 ab!", "hangul", 3 / 6),
        ("가ㅋ뷁 12", "hangul", 3 / 5),
        ("<전화번호>로 <링크>", "hangul", 1.0),
        ("가나다\ufffd", "undecodable", 1 / 4),
        ("가나" + "뷁" * 11, "rare", 11 / 13),
        ("가나" + "뷁" * 10, "rare", 0),
        ("하하" + "ㅋ" * 11, "jamo", 11 / 13),
        ("ㆍ" * 11 + "가", "jamo", 0),  # the middle dot of newspapers
        ("가" + "★" * 11, "symbols", 11 / 12),
        ("가" + "★" * 10, "symbols", 0),
        ("가" + "❤\ufe0f" * 11, "symbols", 11 / 23),
        ("“가”…「나」·《다》―" * 5, "symbols", 0),
        ("#가 " * 11, "symbols", 11 / 22),
        ("# 가 " * 11, "symbols", 0),
        ("{}[]<>=" * 2, "code", 1.0),
        ("a;\n" * 11, "code", 11 / 22),
        ("a; b " * 11, "code", 0),
        ("a() b::c d->e ab_cd {};", "code", (2 + 2 + 1 + 1 + 3 + 2 + 1) / 19),
        ("$\\alpha$ ^_^ _ | * / #" * 9, "code", 0),
        ("x_(y) " * 20, "code", 0),
        ("x_y " * 4, "code", 1.0),
        ("<링크> <전화번호> " * 20 + "가", "code", 0),
        ("x = 1\n가나다라마바사", "code_lines", 0),  # Hangul enough to be prose
        ("가나다라마바사};\n가나다라마바사", "code_lines", 0),
        ("x = 1\n가나다", "code_lines", 1 / 2),
        ("12:30:01 시작\n12:30 시작", "code_lines", 1 / 2),
        ("나래 가람", "eojeol", 2.0),
        ("• 가\n- 나\n-다\n라 마", "bullets", 2 / 4),
        ("• 가\n- 나\n- 다", "bullets", 0),  # three lines are few
        ("가...\n나…\n다··· 12\n라.", "ellipsis", 3 / 4),
        ("가..\n나 12\n다!\n라.", "ellipsis", 0),
        ("가나다라 마바사아자\n" * 4, "repeated_lines", 3 / 4),
        ("가나다라 마바사아\n" * 4, "repeated_lines", 0),  # nine characters are few
        ("가나다라 마바사아자\n" * 3, "repeated_lines", 0),
    ],
)
def test_measure_by_hand(text: str, name: str, value: float) -> None:
    assert measure(text)[name] == pytest.approx(value)


def test_a_long_text_ends_a_sentence_somewhere() -> None:
    nouns = "장터 사과 나무 하늘 "
    assert measure(nouns * 10)["lines_ending"] == 1  # 120 characters
    assert measure(nouns * 20)["lines_ending"] == 0
    assert measure(nouns * 20 + "끝.")["lines_ending"] == 1
    assert measure(nouns * 20 + "\n샀다\n")["lines_ending"] == 1 / 2
    # without full stops: one verb in 21 eojeol is a sentence, one in 81 is none
    assert measure((nouns * 5 + "가져갑니다 ") * 4 + "사과")["lines_ending"] == 1
    assert measure(nouns * 20 + "가져갑니다 사과")["lines_ending"] == 0
    assert measure(nouns * 20 + "필요 개요 중요 나라 사과")["lines_ending"] == 0


WRITTEN = st.text(alphabet=st.sampled_from("가나다 \n.…아자차★ㅋa_{;}#-• \t\ud800"), max_size=60)


def test_what_stood_before() -> None:
    assert stood_before(np.array([5, 7, 5, 5, 7], np.uint64)).tolist() == [False, False, True, True, True]
    keys = [random.Random(number).getrandbits(64) for number in range(3000)] + list(range(3000))
    keys += random.Random(1).sample(keys, 4000)
    assert stood_before(np.array(keys, np.uint64)).tolist() == [False] * 6000 + [True] * 4000
    assert stood_before(np.array(keys[::-1], np.uint64)).sum() == 4000


def repeated_ngrams(text: str) -> float:
    words, seen, covered = text.split(), set(), set()
    for first in range(len(words) - NGRAM + 1):
        gram = tuple(words[first : first + NGRAM])
        covered |= set(range(first, first + NGRAM)) if gram in seen else set()
        seen.add(gram)
    return sum(len(words[place]) for place in covered) / max(sum(map(len, words)), 1)


def repeated_lines(text: str) -> float:
    units = [unit.strip() for line in text.split("\n") for unit in re.split(r"(?<=[.!?。])\s+", line)]
    units = [unit for unit in units if len(unit) >= UNIT]
    if len(units) < 4:
        return 0.0
    return 1 - sum(map(len, set(units))) / sum(map(len, units))


@given(
    st.lists(st.sampled_from(["가 나 다", " ", "\n", "라마.", "바사아 자차 ", "가", "나 다 라마바사. "]), max_size=60)
)
def test_repeats_are_those_of_plain_python(pieces: list[str]) -> None:
    text = "".join(pieces)
    assert measure(text)["repeated_ngrams"] == pytest.approx(repeated_ngrams(text))
    assert measure(text)["repeated_lines"] == pytest.approx(repeated_lines(text))


@given(st.lists(st.one_of(WRITTEN, st.sampled_from([PROSE, PROSE * 3, "가 " * 20, "x = 1;\n" * 4])), max_size=9))
def test_a_document_is_measured_apart_from_its_neighbours(texts: list[str]) -> None:
    together = {name: function(Batch(texts)).tolist() for name, function in MEASURES.items()} if texts else {}
    for number, text in enumerate(texts):
        assert {name: values[number] for name, values in together.items()} == measure(text)


STRICT = Limits(min_chars=2, min_hangul=0.5, max_eojeol=6, max_bullets=0.4, max_symbols=0.2, max_repeated_ngrams=0.2)


@given(st.lists(st.one_of(WRITTEN, st.sampled_from([PROSE, PROSE * 3, "★ " * 20])), max_size=9), st.integers(0, 9))
def test_any_batches_give_the_same_verdicts(texts: list[str], cut: int) -> None:
    one_by_one = [verdict(text, STRICT) for text in texts]
    assert judge(texts, STRICT) == one_by_one
    assert judge(texts[:cut], STRICT) + judge(texts[cut:], STRICT) == one_by_one
    assert judge(texts[::-1], STRICT) == one_by_one[::-1]


def test_the_first_limit_broken_is_the_reason() -> None:
    limits = Limits(min_chars=20, max_chars=len(PROSE), max_symbols=0.1)
    texts = [PROSE, PROSE + "!", "네.", "★" * 30, "x" * 30, PROSE[:-1] + "\ufffd", ""]
    reasons = ["", "too long", "too short", "symbols", "little Hangul", "undecodable characters", "too short"]
    assert judge(texts, limits) == reasons
    assert judge([], limits) == []
    assert judge(["가" * 2_000_001], load("sample")) == ["too long"]


@pytest.mark.parametrize("text", ["가", "\n", " ", "나래 ", "★", "a_", "(", "나래.\n"])
def test_a_million_characters_of_the_same_are_judged_like_a_thousand(text: str) -> None:
    limits = Limits(min_chars=0)
    assert verdict(text * (1_000_000 // len(text)), limits) == verdict(text * 1000, limits) != ""


@pytest.mark.parametrize("case", CASES, ids=[f"{case['preset']}-{case['text'][:12]!r}" for case in CASES])
def test_labelled_case(case: dict[str, str]) -> None:
    right = (verdict(case["text"], load(case["preset"])) or "keep") == case["want"]
    # A list of addresses that is two characters shorter than a text in which a sentence must end.
    assert right != case["text"].startswith("새마을식당")


def test_every_reason_and_preset_has_its_cases() -> None:
    assert len(CASES) == len({case["text"] for case in CASES}) >= 120
    wanted = {"keep", *BY_CHARACTERS.values(), *BY_WORDS.values()}
    assert {case["want"] for case in CASES} == wanted
    assert {case["preset"] for case in CASES} == set(SHIPPED)


def test_every_limit_is_measured_and_every_preset_names_them_all() -> None:
    fields = {field.name for field in dataclasses.fields(Limits)}
    switches, limits = {"boilerplate", "mask"}, {*BY_CHARACTERS, *BY_WORDS, "max_chars"}
    assert fields == limits | switches
    assert {limit[4:] for limit in limits} == set(MEASURES) == set(measure(PROSE))
    assert sorted(path.stem for path in PRESETS.glob("*.yaml")) == SHIPPED
    for name in SHIPPED:
        assert yaml.safe_load((PRESETS / f"{name}.yaml").read_text(encoding="utf-8")) == dataclasses.asdict(load(name))
        assert verdict(PROSE + PROSE[::-1], load(name)) == ""
    assert load("sample").min_chars == 20


def test_the_sample_loses_its_junk() -> None:
    random_junk = random.Random(3)
    texts = [clean("\n".join(damage.junk(random_junk)[1])) for _ in range(300)]
    assert "" not in judge(texts, load("sample"))


def written(folder: Path, name: str, *lines: str) -> str:
    path = folder / name
    path.write_text("\n".join(lines), encoding="utf-8")
    return str(path)


def test_a_file_of_ones_own_builds_on_a_preset(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own = written(tmp_path, "own.yaml", "base: web", "min_chars: 7", "max_symbols: 0", "mask: false")
    assert load(own) == dataclasses.replace(load("web"), min_chars=7, max_symbols=0, mask=False)
    (tmp_path / "deeper").mkdir()
    deeper = written(tmp_path / "deeper", "more.yaml", "base: ../own.yaml", "min_chars: 8")
    assert load(deeper) == dataclasses.replace(load(own), min_chars=8)
    assert load(written(tmp_path, "bare.yaml", "# nothing")) == Limits()
    monkeypatch.chdir(tmp_path)
    assert load("own.yaml") == load(own)
    assert load("configs/corpus/quality/news.yaml") == load("news")


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["min_char: 3"], "unknown key min_char: did you mean min_chars?"),
        (["bass: web"], "unknown key bass: did you mean base?"),
        (["min_chars: 3.5"], "min_chars is a whole number, not 3.5"),
        (["min_chars: true"], "min_chars is a whole number, not True"),
        (["min_chars: -1"], "min_chars is a whole number, not -1"),
        (["max_symbols: 10"], "max_symbols is a share between 0 and 1, not 10"),
        (["max_symbols: much"], "max_symbols is a share between 0 and 1, not 'much'"),
        (["max_symbols: .nan"], "max_symbols is a share between 0 and 1, not nan"),
        (["max_eojeol: -2"], "max_eojeol is a number of characters, not -2"),
        (["mask: 1"], "mask is true or false, not 1"),
        (["min_chars: 9", "max_chars: 8"], "min_chars 9 is more than max_chars 8: nothing would be kept"),
        (["base: own.yaml"], "base own.yaml leads back to"),
        (["base: wep"], "base wep is neither a preset (books, chat, news, sample, web) nor a yaml file"),
        (["- web"], "must hold `key: value` lines, not a list"),
        (["a: b: c"], "is not yaml"),
    ],
)
def test_mistakes_in_a_file(tmp_path: Path, lines: list[str], message: str) -> None:
    own = written(tmp_path, "own.yaml", *lines)
    with pytest.raises(Mistake, match=re.escape(message)) as mistake:
        load(own)
    assert own in str(mistake.value) and "\n" not in str(mistake.value)


def test_an_unknown_preset_is_named() -> None:
    with pytest.raises(Mistake, match=r"quality wep is neither a preset \(books, .*web\) nor a yaml file"):
        load("wep")
