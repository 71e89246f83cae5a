"""A tokenizer gives every text back, loads without our code, and is the same twice."""

import unicodedata
from pathlib import Path
from typing import Any

import helpers
import pytest
from helpers import call
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Regex, Tokenizer
from tokenizers.pre_tokenizers import Split

from narae import artifact
from narae.artifact import open_artifact
from narae.documents import Document, ShardWriter, draw, read_documents, shards
from narae.log import Mistake
from tokenizer import train

pytestmark = pytest.mark.usefixtures("artifacts")
SMALL = ("--vocab_size", "384")


@pytest.fixture(scope="module", params=train.PATTERNS)
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NARAE_ARTIFACTS", str(tmp_path_factory.mktemp("artifacts")))
        helpers.corpus()
        call(train.main, *SMALL, "--pattern", request.param)
        return Tokenizer.from_file(str(open_artifact("tokenizer", "sample").path / "tokenizer.json"))


# Characters that Python's Unicode tables know: newer ones may compose differently in the tokenizer's.
TEXT = st.text(st.characters(exclude_categories=["Cs", "Cn"]))
KOREAN = st.text(st.characters(min_codepoint=0x1100, max_codepoint=0x11FF) | st.sampled_from("가각힣ㄱㅎ \n'\u3000"))


@settings(deadline=None, max_examples=200)
@given(parts=st.lists(TEXT | KOREAN | st.sampled_from(train.SPECIAL), max_size=5))
def test_every_text_comes_back_in_nfc(made: Tokenizer, parts: list[str]) -> None:
    text = "".join(parts)
    for special_as_text in (False, True):
        made.encode_special_tokens = special_as_text
        ids = made.encode(text).ids
        assert made.decode(ids, skip_special_tokens=False) == unicodedata.normalize("NFC", text)
        assert not special_as_text or all(number >= 16 for number in ids)


def test_vocabulary(made: Tokenizer) -> None:
    by_id = [made.id_to_token(number) for number in range(384)]
    assert by_id[:7] == [
        "<|endoftext|>", "<|pad|>", "<|prompt|>", "<|assistant|>", "<|endofanswer|>", "<|mask|>", "<|system|>",
    ]  # fmt: skip
    assert by_id[7:16] == [f"<|reserved_{number}|>" for number in range(9)]
    assert sorted(map(len, by_id[16:272])) == [1] * 256  # the bytes
    assert made.get_vocab_size() == 384


@pytest.mark.parametrize(
    ("pattern", "pieces"),
    [
        ("gpt2", ["나래는", " ", " 2024", "년에", " It", "'s", "\n", "끝", "."]),
        ("llama3", ["나래는", " ", " ", "202", "4", "년에", " It", "'s", "\n", "끝", "."]),
        ("qwen2", ["나래는", " ", " ", "2", "0", "2", "4", "년에", " It", "'s", "\n", "끝", "."]),
        ("o200k", ["나래는", " ", " ", "202", "4", "년에", " It's", "\n", "끝", "."]),
        ("particles", ["나래", "는", " ", " ", "202", "4", "년", "에", " It", "'s", "\n", "끝", "."]),
    ],
)
def test_where_patterns_split(pattern: str, pieces: list[str]) -> None:
    split = Split(Regex(train.PATTERNS[pattern]), "isolated")
    assert [piece for piece, _ in split.pre_tokenize_str("나래는  2024년에 It's\n끝.")] == pieces


def test_auto_tokenizer_loads_it(artifacts: Path) -> None:
    from transformers import AutoTokenizer

    helpers.corpus()
    call(train.main, *SMALL, "--model_max_length", "256")
    loaded: Any = AutoTokenizer.from_pretrained(artifacts / "tokenizer/sample")
    assert (loaded.eos_token_id, loaded.bos_token_id, loaded.pad_token_id, loaded.mask_token_id) == (0, 0, 1, 5)
    assert (len(loaded), loaded.model_max_length) == (384, 256)
    text = helpers.SENTENCES[0] + " ,  띄어쓰기 ' 그대로 !"
    ids = loaded(text)["input_ids"]
    assert loaded.decode(ids) == text
    assert ids == Tokenizer.from_file(str(artifacts / "tokenizer/sample/tokenizer.json")).encode(text).ids
    assert loaded.decode(loaded("가<|endofanswer|>")["input_ids"], skip_special_tokens=True) == "가"


def test_chat_template(artifacts: Path) -> None:
    from transformers import AutoTokenizer

    helpers.corpus()
    call(train.main, *SMALL)
    loaded: Any = AutoTokenizer.from_pretrained(artifacts / "tokenizer/sample")
    turns = [
        {"role": "system", "content": "S"},
        {"role": "user", "content": " a\n"},
        {"role": "assistant", "content": "b "},
        {"role": "user", "content": "c"},
    ]
    asked = loaded.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
    assert asked == "<|system|> S<|prompt|>  a\n<|assistant|> b <|endofanswer|><|prompt|> c<|assistant|>"
    encoded = loaded.apply_chat_template(turns, return_dict=True, return_assistant_tokens_mask=True)
    trained = [number for number, on in zip(encoded["input_ids"], encoded["assistant_masks"], strict=True) if on]
    assert loaded.decode(trained) == " b <|endofanswer|>"
    with pytest.raises(Exception, match="the role of a message is system, user or assistant, not tool"):
        loaded.apply_chat_template([{"role": "tool", "content": ""}], tokenize=False)


def test_same_bytes_twice_and_nothing_to_do_the_third_time(capsys: pytest.CaptureFixture[str]) -> None:
    helpers.corpus()
    call(train.main, *SMALL)
    first = open_artifact("tokenizer", "sample").manifest["files"]
    call(train.main, *SMALL, "--name", "again")
    assert open_artifact("tokenizer", "again").manifest["files"] == first
    assert set(first) == {"tokenizer.json", "tokenizer_config.json", "chat_template.jinja"}
    call(train.main, *SMALL)
    assert "tokenizer 'sample' is up to date" in capsys.readouterr().err


def test_counts() -> None:
    # No training text has a Q or a Z, so that no merge has one: a token is a byte, 5 and 3 of them in 3 eojeols.
    helpers.corpus(val=["QZ QZ", "QQZ"])
    call(train.main, *SMALL)
    counts = open_artifact("tokenizer", "sample").counts
    assert counts["entries"] == 384
    assert counts["documents"] == len(helpers.SENTENCES)
    assert counts["bytes"] == helpers.nfc_bytes(helpers.SENTENCES)
    assert (counts["measured_on"], counts["bytes_per_token"]) == ("val", 1.0)
    assert counts["tokens_per_eojeol"] == round(8 / 3, 3)


def test_measured_on_train_where_there_is_no_val() -> None:
    helpers.corpus(val=[])
    call(train.main, *SMALL)
    counts = open_artifact("tokenizer", "sample").counts
    assert counts["measured_on"] == "train"
    assert counts["bytes_per_token"] > 3


def test_max_bytes_takes_documents_by_their_ids() -> None:
    made = helpers.corpus(train=[f"{number:04d}" for number in range(1000)] + helpers.SENTENCES)
    share = 10_000 / made.counts["train"]["bytes"]
    chosen = sum(draw(document.id) < share for document in read_documents(shards(made.path, "train")))
    call(train.main, *SMALL, "--max_bytes", "10000")
    counts = open_artifact("tokenizer", "sample").counts
    assert counts["documents"] == chosen
    assert 7_000 < counts["bytes"] < 13_000


def with_sources() -> None:
    """Two sources of the same size: one of it in Hangul, one in Latin letters; the second has a weight of a half."""
    latin = ["".join(chr(97 + ord(letter) % 26) for letter in text) for text in helpers.SENTENCES]
    draft = artifact.begin("corpus", "sample", {}, overwrite=True)
    assert draft is not None
    with draft:
        counts = {}
        with ShardWriter(draft.path, "train") as writer:
            for source, texts in (("hangul", helpers.SENTENCES), ("latin", latin)):
                for number, text in enumerate(texts):
                    writer.write(Document(f"{source}#{number}", text, source))
                size = {"documents": len(texts), "bytes": sum(len(text.encode()) for text in texts)}
                counts[source] = {"weight": 1 if source == "hangul" else 0.5, "train": size}
        draft.counts |= {"sources": counts, "val": {"documents": 0, "bytes": 0}}
        draft.counts["train"] = {"documents": writer.documents, "bytes": writer.bytes}


def test_weights_of_sources_are_the_corpus_s_or_those_asked_for() -> None:
    with_sources()
    call(train.main, *SMALL)
    sources = open_artifact("tokenizer", "sample").counts["sources"]
    assert sources["hangul"]["documents"] == 384
    assert 150 < sources["latin"]["documents"] < 234
    call(train.main, *SMALL, "--name", "other", "--weights", "hangul:0,latin:2")
    other = open_artifact("tokenizer", "other")
    assert other.counts["sources"]["hangul"] == {"documents": 0, "bytes": 0}
    assert other.counts["sources"]["latin"]["documents"] == 768
    entries = Tokenizer.from_file(str(other.path / "tokenizer.json")).get_vocab()
    assert all(entry.isascii() or entry.startswith("Ġ") for entry, number in entries.items() if number >= 272)


@pytest.mark.parametrize(
    ("weights", "told"),
    [
        ("reviews:2", "corpus 'sample' has these sources: hangul, latin"),
        ("latin:much", "a weight is a number, as in latin:0.5"),
        ("latin:-1", "a weight lies between 0 and 1000"),
        ("latin", "corpus 'sample' has these sources"),
    ],
)
def test_weights_that_cannot_be(weights: str, told: str) -> None:
    with_sources()
    with pytest.raises(Mistake, match=f"--weights {weights}: {told}"):
        call(train.main, *SMALL, "--weights", weights)


def test_the_other_engine(artifacts: Path) -> None:
    helpers.corpus()
    call(train.main, "--vocab_size", "384", "--engine", "sentencepiece")
    made = Tokenizer.from_file(str(artifacts / "tokenizer/sample/tokenizer.json"))
    assert [made.id_to_token(number) for number in (0, 1, 15)] == ["<|endoftext|>", "<|pad|>", "<|reserved_8|>"]
    assert made.get_vocab_size() == 384
    text = "나래는  바닷가에서 ▁ 😀"
    assert made.decode(made.encode(text).ids) == text


@pytest.mark.parametrize(("size", "nearest"), [(1000, 1024), (50, 384), (256, 384), (32_000 + 60, 32_000)])
def test_vocab_size_must_suit_a_gpu(size: int, nearest: int) -> None:
    helpers.corpus()
    with pytest.raises(Mistake, match=f"--vocab_size {size} is not a multiple of 128 .* nearest is {nearest}"):
        call(train.main, "--vocab_size", str(size))


def test_too_little_text_for_that_many_entries(artifacts: Path) -> None:
    # 272 entries are there before the first merge; "abab…" and " ab" give few more.
    helpers.corpus(train=["ab ab"] * 3)
    with pytest.raises(Mistake, match=r"15 bytes of 'sample' yield 274 entries, not 384: .* train on more text"):
        call(train.main, *SMALL)
    assert not (artifacts / "tokenizer/sample").exists()


def test_unknown_pattern_and_engine() -> None:
    helpers.corpus()
    with pytest.raises(Mistake, match="--engine wordpiece is not one of bpe, sentencepiece"):
        call(train.main, *SMALL, "--engine", "wordpiece")
    with pytest.raises(Mistake, match="--pattern gpt5 is not one of gpt2, llama3, qwen2, o200k, particles"):
        call(train.main, *SMALL, "--pattern", "gpt5")


def test_as_a_command(run: Any) -> None:
    helpers.corpus()
    assert "tokenizer/train  tokenizer 'sample': 384 entries from" in run("tokenizer/train.py", *SMALL).stderr
    assert "is up to date" in run("tokenizer/train.py", *SMALL).stderr
    refused = run("tokenizer/train.py", "--vocab_size", "512", check=False)
    assert refused.returncode == 1
    assert "with vocab_size = 384 instead of 512: --name makes another one, --overwrite replaces it" in refused.stderr
