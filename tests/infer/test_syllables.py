"""What streams out is what the tokens decode to, by whole syllables, and one step costs the same after any length."""

from pathlib import Path
from typing import Any

import engines
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders

from infer.syllables import NEAR, Syllables

BROKEN = "\N{REPLACEMENT CHARACTER}"
MIDDLE = "ᄒᆞᆫ글"  # Middle Korean: its first syllable has no other form than three jamo


@pytest.fixture(scope="module", params=[*engines.NAMES, "leading space"])
def tokenizer(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Both engines, and SentencePiece's own habit: the first space of a text is none."""
    from transformers import AutoTokenizer

    name = request.param
    folder = tmp_path_factory.mktemp("tokenizer")
    found: Path = engines.folder("sentencepiece" if name == "leading space" else name, folder)
    if name == "leading space":
        made = Tokenizer.from_file(str(found / "tokenizer.json"))
        made.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)])
        made.save(str(found / "tokenizer.json"))
    return AutoTokenizer.from_pretrained(found)


def steps(tokenizer: Any, groups: list[list[int]], strip: bool = False) -> list[str]:
    """What comes out at each step; the last one is the end."""
    out: list[list[str]] = []
    streamer = Syllables(tokenizer, lambda piece: out[-1].append(piece), strip)
    streamer.put(torch.tensor([[2, 3]]))  # the prompt, which is nobody's answer
    for group in groups:
        out.append([])
        streamer.put(torch.tensor(group, dtype=torch.long))
    out.append([])
    streamer.end()
    assert streamer.text == "".join(piece for step in out for piece in step)
    assert all(piece for step in out for piece in step)
    return ["".join(step) for step in out]


def singly(ids: list[int]) -> list[list[int]]:
    return [[number] for number in ids]


WHOLE = [
    "나래는 ",
    "바닷가에서",
    "뷁",
    "漢字",
    "👩\u200d👩\u200d👧",
    MIDDLE,
    "각",
    BROKEN,
    "\n\n",
    "  ",
    "é",
    "\u2581",
    "각",
]


@settings(deadline=None, max_examples=400)
@given(data=st.data())
def test_all_that_comes_out_is_what_all_tokens_say(tokenizer: Any, data: st.DataObject) -> None:
    number = st.integers(0, len(tokenizer) - 1)
    lone = st.integers(16, 271)  # bytes
    text = st.sampled_from(WHOLE).map(lambda text: tokenizer(text)["input_ids"])
    some = (
        st.lists(lone, max_size=60)
        | st.lists(number, max_size=60)
        | text
        | text
        | st.integers(0, 15).map(lambda n: [n])
    )
    ids = [one for part in data.draw(st.lists(some, max_size=12)) for one in part]
    groups, begin = [], 0
    while begin < len(ids):
        size = data.draw(st.integers(1, 4))
        groups.append(ids[begin : begin + size])
        begin += size
    whole = tokenizer.decode(ids, skip_special_tokens=True)
    assert "".join(steps(tokenizer, groups)) == whole
    assert "".join(steps(tokenizer, groups, strip=True)) == whole.lstrip()


@settings(deadline=None, max_examples=200)
@given(parts=st.lists(st.sampled_from([part for part in WHOLE if part != BROKEN]), max_size=12))
def test_nothing_broken_comes_out_of_whole_text(tokenizer: Any, parts: list[str]) -> None:
    ids = tokenizer("".join(parts))["input_ids"]
    found = steps(tokenizer, singly(ids))
    assert not any(BROKEN in step for step in found)
    # The jamo of one syllable are never apart
    assert all(step.count("ᄒ") == step.count("ᆞ") == step.count("ᆫ") for step in found)


def test_a_syllable_of_three_bytes_arrives_once(tokenizer: Any) -> None:
    word, syllable = tokenizer("나래는")["input_ids"], tokenizer("뷁")["input_ids"]
    assert len(syllable) == 3
    found = steps(tokenizer, singly([*word, *syllable, *word]))
    assert "".join(found[: len(word)]) == "나래는"
    assert found[len(word)] == found[len(word) + 1] == ""
    # SentencePiece's bytes wait for the end of their row
    assert "".join(found[len(word) + 2 : len(word) + 4]).startswith("뷁")
    assert "".join(found[len(word) + 2 :]) == "뷁나래는"


def test_text_flows_between_broken_bytes(tokenizer: Any) -> None:
    word, broken = tokenizer("나래는")["input_ids"], tokenizer("뷁")["input_ids"][:2]
    found = steps(tokenizer, singly([*broken, *word, *broken, *word, *broken]))
    first, second = 2 + len(word), 2 * (2 + len(word))
    assert "".join(found[:first]).strip(BROKEN) == "나래는"
    assert "".join(found[first:second]).strip(BROKEN) == "나래는"
    assert set(found[-1]) == {BROKEN}


def test_special_tokens_part_nothing(tokenizer: Any) -> None:
    first, second, third = tokenizer("뷁")["input_ids"]
    assert "".join(steps(tokenizer, singly([0, first, 4, second, 1, third, 0]))) == "뷁"


def test_what_the_model_has_beyond_the_tokenizer_is_nothing(tokenizer: Any) -> None:
    """Embeddings may have more rows than there are entries."""
    first, second, third = tokenizer("뷁")["input_ids"]
    assert "".join(steps(tokenizer, singly([first, second, 99_999, third, 99_999]))) == "뷁"


@pytest.mark.parametrize("repeated", ["나래는 바닷가에서 ", BROKEN, "ᄒ", "뷁나래는", "뷁"])
@pytest.mark.parametrize("whole", [True, False])
def test_a_step_looks_at_the_last_tokens_only(
    tokenizer: Any, repeated: str, whole: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    part = tokenizer(repeated)["input_ids"]
    ids = (part if whole else part[1:]) * 300  # without its first byte a character never becomes one
    looked: list[int] = []
    decode = tokenizer.decode

    def counted(tokens: list[int], **options: Any) -> str:
        looked.append(len(tokens))
        return str(decode(tokens, **options))

    monkeypatch.setattr(tokenizer, "decode", counted)
    found = steps(tokenizer, singly(ids))
    assert "".join(found) == decode(ids, skip_special_tokens=True)
    assert sum(looked) <= 4 * NEAR * len(ids)
    if "나래는" in repeated or "<0x00>" not in tokenizer.get_vocab():  # else it is one row of bytes, out at its end
        assert sum(1 for step in found if step) > 250
