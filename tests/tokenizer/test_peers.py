"""Every kind of file that a tokenizer is published as gives the ids that its own program gives, or one clear error."""

import io
import json
import re
from pathlib import Path

import pytest
import sentencepiece
import zstandard
from helpers import SENTENCES
from tiny import ranks, saved, tekken, tiktoken_lines
from tokenizers import Tokenizer

from narae.log import Mistake
from tokenizer import peers
from tokenizer.peers import Peer, from_ranks, load, merges, read
from tokenizer.train import PATTERNS

WORDPIECE = ["[PAD]", "[UNK]", "[CLS]", "A", "나래", "##는", "##a", "는", "."]


def ids(peer: Peer, text: str) -> list[int]:
    return peer.tokenizer.encode(text, add_special_tokens=False).ids


def test_ranks(tmp_path: Path) -> None:
    file = tmp_path / "r50k_tiny.tiktoken"
    file.write_bytes(tiktoken_lines(["ab", "abc", " a"]))
    peer = read(file)
    assert (peer.name, peer.entries, peer.unknown) == ("r50k_tiny", 259, None)
    # gpt2's split: "abc", " ab". In the second, ab (256) comes before a space and a (258).
    assert ids(peer, "abc ab") == [257, 32, 256]
    assert peer.tokenizer.decode(ids(peer, "abc 가")) == "abc 가"


def test_ranks_merge_what_makes_the_best_entry_whatever_its_halves() -> None:
    # abc was made of ab and c, but bc is better than ab: a and bc make abc all the same.
    assert merges({"a": 0, "b": 1, "c": 2, "bc": 3, "ab": 4, "abc": 5}) == [
        ("b", "c"), ("a", "b"), ("a", "bc"), ("ab", "c"),
    ]  # fmt: skip
    tokenizer = from_ranks(ranks(["bc", "ab", "abc"]), PATTERNS["gpt2"])
    assert tokenizer.encode("xabcx").ids == [ord("x"), 258, ord("x")]


def test_a_piece_that_is_an_entry_is_one_token_even_if_no_merge_leads_there() -> None:
    tokenizer = from_ranks(ranks(["abcd"]), PATTERNS["gpt2"])
    assert tokenizer.encode("abcd abcd").ids == [256, 32, *b"abcd"]


SPLITS = {
    "r50k gpt2_x": ["It", "'s", "Ċ", "20241"],
    "cl100k_base llama3": ["It", "'s", "Ċ", "202", "41"],
    "o200k_base llama4": ["It's", "Ċ", "202", "41"],
    "qwen2.5": ["It", "'s", "Ċ", "2", "0", "2", "4", "1"],
}


@pytest.mark.parametrize(("names", "pieces"), SPLITS.items())
def test_the_name_of_a_rank_file_tells_its_split(tmp_path: Path, names: str, pieces: list[str]) -> None:
    for name in names.split():
        file = tmp_path / f"{name}.tiktoken"
        file.write_bytes(tiktoken_lines([]))
        splitter = read(file).tokenizer.pre_tokenizer
        assert splitter is not None
        assert [piece for piece, _ in splitter.pre_tokenize_str("It's\n20241")] == pieces


def test_zst_is_read_as_the_plain_file(tmp_path: Path) -> None:
    plain, packed = tmp_path / "qwen.tiktoken", tmp_path / "qwen.tiktoken.zst"
    plain.write_bytes(tiktoken_lines(["ab"]))
    packed.write_bytes(zstandard.compress(plain.read_bytes()))
    assert read(packed).name == "qwen"
    assert ids(read(packed), "abab") == ids(read(plain), "abab") == [256, 256]


def test_tekken_has_entries_beyond_those_in_use(tmp_path: Path) -> None:
    file = tmp_path / "tekken_240911.json"
    file.write_bytes(tekken(["ab"]))
    peer = read(file)
    assert (peer.name, peer.entries) == ("tekken_240911", 257)
    assert ids(peer, "abzz") == [256, ord("z"), ord("z")]


@pytest.mark.parametrize("kind", ["bpe", "unigram"])
@pytest.mark.parametrize("options", [{}, {"byte_fallback": True, "add_dummy_prefix": False}])
def test_sentencepiece_ids_are_its_own(tmp_path: Path, kind: str, options: dict[str, bool]) -> None:
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(SENTENCES), model_writer=model, vocab_size=90 + 256 * bool(options), model_type=kind,
        hard_vocab_limit=False, minloglevel=2, **options,
    )  # fmt: skip
    file = tmp_path / "small.model"
    file.write_bytes(model.getvalue())
    theirs = sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())
    peer = read(file)
    assert (peer.name, peer.entries, peer.unknown) == ("small", theirs.get_piece_size(), theirs.unk_id())
    texts = [*SENTENCES[::40], "  두 칸  띄고 ", "ＡＢ① ㈜ 漢字 뷁", "나래는나래는", "x"]
    for text in texts:
        assert ids(peer, text) == theirs.encode(text), text
        assert peer.tokenizer.decode(ids(peer, text), skip_special_tokens=False).replace(
            "<unk>", " ⁇ "
        ) == theirs.decode(theirs.encode(text))


def test_a_model_for_mecab_morphemes_says_so(tmp_path: Path) -> None:
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(text.replace(" ", " ▃ ") for text in SENTENCES), model_writer=model, vocab_size=90,
        hard_vocab_limit=False, minloglevel=2, model_type="bpe",
    )  # fmt: skip
    (tmp_path / "m.model").write_bytes(model.getvalue())
    assert read(tmp_path / "m.model").note == "made for MeCab morphemes, measured here on plain text"


def test_wordpiece(tmp_path: Path) -> None:
    file = tmp_path / "kcbert_vocab.txt"
    file.write_text("\n".join(WORDPIECE), encoding="utf-8")
    peer = read(file)
    assert (peer.name, peer.entries, peer.unknown) == ("kcbert", 9, 1)
    assert ids(peer, "나래는 Aa.  없다 는") == [4, 5, 3, 6, 8, 1, 7]  # capitals are entries, so they are kept
    assert [peer.spelling(number) for number in (4, 5)] == ["나래".encode(), "##는".encode()]
    file.write_text("\n".join(WORDPIECE).replace("A", "a"), encoding="utf-8")
    assert ids(read(file), "A") == [3]  # no capitals: they are lowered


@pytest.mark.usefixtures("artifacts")
def test_folders_files_and_tokenizers_of_ours(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "peers"
    (folder / "whole").mkdir(parents=True)
    (folder / "b.tokenizer.json").write_bytes((saved() / "tokenizer.json").read_bytes())
    (folder / "whole" / "tokenizer.json").write_bytes((saved() / "tokenizer.json").read_bytes())
    (folder / "llama3.tiktoken").write_bytes(tiktoken_lines([]))
    (folder / "SHA256SUMS").write_text("?")
    names = [peer.name for peer in load([str(folder), "tiny", str(folder / "whole"), str(folder / "llama3.tiktoken")])]
    assert names == ["b", "llama3", "whole", "tiny", "whole (2)", "llama3 (2)"]
    assert "left out, being no tokenizer by name: SHA256SUMS" in capsys.readouterr().err


def test_special_tokens_in_a_text_are_text(tmp_path: Path, artifacts: Path) -> None:
    peer = Peer("tiny", Tokenizer.from_file(str(saved() / "tokenizer.json")))
    assert ids(peer, "<|pad|>") == list(b"<|pad|>")


def test_spelling_of_pieces_that_fall_back_to_bytes(tmp_path: Path) -> None:
    from tokenizer.pieces import convert

    entries = ["<|pad|>", *(f"<0x{byte:02X}>" for byte in range(256)), " ", "▁", " 나"]
    peer = Peer("pieces", convert(entries, ["<|pad|>"]))
    assert [peer.spelling(number) for number in (0, 1 + 0xEA, 257, 259)] == [b"<|pad|>", b"\xea", b" ", " 나".encode()]


VALID = tiktoken_lines(["ab"])
WRONG = {
    "r50k.tiktoken": [
        (b"", "it is empty"),
        (VALID + b"!!! 300\n", "line 258 is not an entry in base64 and its rank"),
        (VALID.partition(b"\n")[2], "1 of the 256 bytes have no rank, the first of them 0"),
        (VALID + b"YWJj\n", "line 258 is not an entry"),
    ],
    "mine.tiktoken": [(VALID, "holds ranks but no split pattern: let its name begin with r50k, p50k")],
    "r50k.tiktoken.zst": [(zstandard.compress(VALID)[:-9], "("), (b"no zstd at all", "(")],
    "x.json": [
        (b"{", "Expecting property name"),
        (b"[1]", "JSON with neither a model nor a vocab"),
        (b'{"model": {"type": "BPE"}}', "("),
        (b'{"vocab": [], "config": {}}', "default_vocab_size"),
        (tekken([])[:-700], "("),
        (b"\xff\xfe", "("),
    ],
    "x.model": [
        (b"", "it is empty"),
        (b"plain words, no protocol buffer", "("),
        (b"\x0a\x7f", "ends 127 bytes after the file"),
        (b"\x0a\x05\x0a\x03abc", "it has no entries or none for what is unknown"),
    ],
    "vocab.txt": [(b"the\nof\n", "it has no [UNK] or no ## entries"), (b"\xff\n", "(")],
    "notes.md": [(b"hello", "its name has none of the endings")],
}


@pytest.mark.parametrize(
    ("name", "content", "cause"), [(name, *case) for name, cases in WRONG.items() for case in cases]
)
def test_a_wrong_file_is_one_clear_error(tmp_path: Path, name: str, content: bytes, cause: str) -> None:
    file = tmp_path / name
    file.write_bytes(content)
    with pytest.raises(Mistake, match=re.escape(cause)) as error:
        list(load([str(file)]))
    assert str(file) in str(error.value)
    if name != "mine.tiktoken":
        assert f"understood are {peers.UNDERSTOOD}" in str(error.value)
    assert "\n" not in str(error.value)


def test_what_is_not_there_and_a_folder_of_nothing(tmp_path: Path) -> None:
    with pytest.raises(Mistake, match=r"--peers ./nowhere.model: there is no such file or folder"):
        list(load(["./nowhere.model"]))
    (tmp_path / "notes.md").write_text("")
    with pytest.raises(Mistake, match=r"holds no tokenizer; understood are .tiktoken ranks"):
        list(load([str(tmp_path)]))


@pytest.mark.usefixtures("artifacts")
def test_a_name_that_is_no_tokenizer_of_ours() -> None:
    with pytest.raises(
        Mistake, match=r"there is no tokenizer in .*: `python tokenizer/train.py --name nobody` makes it"
    ):
        list(load(["nobody"]))


def test_a_file_larger_than_any_tokenizer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A small file may decompress without end."""
    monkeypatch.setattr(peers, "LARGEST", 1000)
    file = tmp_path / "x.json.zst"
    file.write_bytes(zstandard.compress(json.dumps("a" * 10**6).encode()))
    with pytest.raises(Mistake, match="more than 1,000 bytes"):
        read(file)


def test_the_tutorials_recipe_loses_spaces() -> None:
    peer = peers.tutorial(SENTENCES, 120)
    assert (peer.entries, peer.unknown) == (120, 1)
    assert ids(peer, "뷁") == [1]
    back = peer.tokenizer.decode(ids(peer, "나래는  책을 읽었다."))
    assert back == "나래는 책을 읽었다."  # one space of two came back
