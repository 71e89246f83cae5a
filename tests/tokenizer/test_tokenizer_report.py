"""A tokenizer judged: figures by hand, sources apart, the vocabulary's state, and a page that holds all of it."""

import json
import re
import unicodedata
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import helpers
import pytest
from helpers import call
from tiny import WORDS, ranks, saved, tiktoken_lines
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from narae import artifact
from narae.documents import Document, ShardWriter, shards
from narae.log import Mistake
from tokenizer import entries, report
from tokenizer.fertility import Source, by_source, count, evenly, figures, joined, timed
from tokenizer.page import page
from tokenizer.peers import Peer, from_ranks
from tokenizer.train import PATTERNS

SECTIONS = {"sources", "tokenizers", "vocabulary", "examples"}


def peer() -> Peer:
    """나 256, 래 257, 나래 258, " 나래" 259, ab 260, abc 261, two thirds of " 나" 262."""
    return Peer("tiny", from_ranks(ranks(WORDS), PATTERNS["llama3"]))


def write(folder: Path, documents: list[tuple[str, str]]) -> Path:
    """A shard of (source, text)."""
    folder.mkdir(exist_ok=True)
    with ShardWriter(folder, "train") as writer:
        for number, (source, text) in enumerate(documents):
            writer.write(Document(f"{source}#{number}", text, source))
    return folder / "train-00000.jsonl.zst"


def test_figures_of_three_documents() -> None:
    (source,) = by_source([Document("1", "나래 나래"), Document("2", "abc x\n"), Document("3", "가")])
    assert (source.name, source.documents, source.eojeols) == ("(no source)", 3, 5)
    assert (source.bytes, source.characters, source.syllables) == (13 + 6 + 3, 5 + 6 + 1, 5)
    # "나래" " 나래", "abc" " " "x" "\n", and 가 in three bytes: 2 + 4 + 3 tokens. Four of five eojeols are whole.
    assert figures(source, count(peer(), source.texts)) == {
        "tokens": 9,
        "bytes_per_token": round(22 / 9, 4),
        "characters_per_token": round(12 / 9, 4),
        "tokens_per_eojeol": 1.8,
        "tokens_per_syllable": 1.8,
        "whole_eojeols": 0.8,
        "exact": 1.0,
        "unknown": 0.0,
    }


def test_an_eojeol_is_whole_where_no_token_ends_in_it() -> None:
    # In " 낙" the token of a space and two bytes reaches into the eojeol, as does the byte that completes it.
    for text, whole in [
        ("나래", 1),
        ("나래 나래", 2),
        ("나래나래", 0),
        (" 낙", 0),
        ("abc,", 0),
        ("  abc  ab", 2),
        (" \n", 0),
    ]:
        assert count(peer(), [text]).whole == whole, text
    assert count(peer(), ["나래", "나", "래 나래나", ""]).whole == 3  # several texts at once


def test_a_token_may_reach_over_several_eojeols() -> None:
    tokenizer = Tokenizer(models.BPE({"a": 0, " ": 1, "a ": 2, "a a": 3}, [("a", " "), ("a ", "a")]))
    assert count(Peer("x", tokenizer), ["a a"]).whole == 2


def test_a_document_is_exact_where_it_comes_back_in_nfc_or_as_it_was() -> None:
    apart = unicodedata.normalize("NFD", "나래")
    assert count(peer(), [apart, "나래"]).exact == 2  # nothing is composed, nothing is lost
    lossy = Tokenizer(models.WordLevel({"[UNK]": 0, "a": 1}, unk_token="[UNK]"))
    lossy.pre_tokenizer, lossy.decoder = pre_tokenizers.WhitespaceSplit(), decoders.WordPiece()
    found = count(Peer("lossy", lossy), ["a a", "a  a", "a b"])
    assert (found.exact, found.unknown, found.tokens) == (1, 1, 6)


def test_sizes_are_those_in_nfc_and_half_a_pair_is_no_text() -> None:
    (source,) = by_source([Document("1", unicodedata.normalize("NFD", "각")), Document("2", "\ud83d")])
    assert (source.bytes, source.characters, source.syllables) == (3 + 1, 2, 1)
    assert source.texts[1] == "?"


def test_hangul_ratio_counts_syllables_and_jamo_among_what_is_seen() -> None:
    (source,) = by_source([Document("1", "가나 ㅋㅋ ᄒᆞ ab\n12", "chat")])
    assert (source.hangul, source.visible) == (6, 10)
    assert source.hangul_ratio == 0.6
    assert Source("empty").hangul_ratio == 0


def test_sums_over_sources() -> None:
    found = by_source([Document("1", "나래", "b"), Document("2", "abc ab", "a"), Document("3", "나", "b")])
    assert [source.name for source in found] == ["a", "b"]
    total = joined("all", found)
    assert (total.documents, total.bytes, total.eojeols, total.texts) == (3, 15, 4, [])


def test_no_text_gives_no_figures() -> None:
    assert set(figures(Source("x"), count(peer(), [])).values()) == {0, None}


def test_evenly_spaced_documents(tmp_path: Path) -> None:
    file = write(tmp_path / "d", [("s", f"{number:04d}") for number in range(100)])
    assert [int(one.text) for one in evenly([file], 40)] == [*range(9, 100, 10)]
    assert [int(one.text) for one in evenly([file], 40, total=400)] == [*range(9, 100, 10)]
    assert len(list(evenly([file], 400))) == len(list(evenly([file], 10**9))) == 100
    assert list(evenly([file], 3)) == []


def test_speed_is_measured_on_a_part_of_all_sources(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tokenizer.fertility.TIMED", 8)
    found = by_source(Document("1", f"{source}{n}", source) for source in "ab" for n in range(4))
    assert timed(found) == ["a1", "a3", "b1", "b3"]


def test_kinds_of_entries() -> None:
    kinds = {
        " 나래": "Hangul after a space", "나래": "Hangul", "ㅋㅋ": "Hangul", "다.": "Hangul with others",
        " 수 있": "several words", "12": "digits", " 2024": "digits", "It": "Latin letters", "大韓": "Hanja",
        "  ": "signs and spaces", "...": "signs and spaces", "\n": "signs and spaces", "x1": "others",
    }  # fmt: skip
    assert {word: entries.kind(word.encode()) for word in kinds} == kinds
    assert entries.kind(" 나".encode()[:3]) == entries.kind(b"\xea") == "part of a character"
    assert entries.kind(b"<|pad|>", special=True) == "special"


def test_state_of_a_vocabulary() -> None:
    own = peer()
    counts, documents, size = entries.occurrences(own, ["나래 나래", "abc", "나", "나래"] * 2)
    # Each twice: 나래 and " 나래", abc, 나, 나래.
    assert (documents, size) == (8, 2 * (13 + 3 + 3 + 6))
    assert {number: int(counts[number]) for number in counts.nonzero()[0]} == {256: 2, 258: 4, 259: 2, 261: 2}
    state = entries.state(own, counts, rare=3)
    assert (state["entries"], state["tokens"], state["never"], state["rare"]) == (263, 10, 263 - 4, 263 - 1)
    assert state["kinds"]["Hangul"] == {"entries": 3, "never": 1, "rare": 2, "tokens": 6}
    assert state["kinds"]["Hangul after a space"] == {"entries": 1, "never": 0, "rare": 1, "tokens": 2}
    assert state["kinds"]["part of a character"] == {"entries": 129, "never": 129, "rare": 129, "tokens": 0}
    assert state["after_a_space"] == 3  # the space itself, " 나래", and two thirds of " 나"
    assert state["occurrences"][:3] == [
        {"from": 0, "to": 0, "entries": 259}, {"from": 1, "to": 9, "entries": 4}, {"from": 10, "to": 99, "entries": 0},
    ]  # fmt: skip
    assert state["lengths"] == {"0": 129, "1": 128 + 2, "2": 2, "3": 2}
    assert state["longest"][:3] == ["␣나래", "abc", "나래"]
    # Hardly used, and merged into others. Not ab's like abc: nothing is made of that.
    assert {"래", "나", "ab"} <= set(state["steps_shown"])
    assert "abc" not in state["steps_shown"]


def test_the_last_step_of_occurrences_has_no_end() -> None:
    import numpy as np

    steps = entries._steps(np.array([0, 5, 99_999, 100_000, 5_000_000]))
    assert [step["entries"] for step in steps] == [1, 1, 0, 0, 0, 1, 2]
    assert steps[-1] == {"from": 100_000, "to": -1, "entries": 2}


def test_without_training_text_use_is_not_counted() -> None:
    state = entries.state(peer(), None, 100)
    assert "never" not in state and "never" not in state["kinds"]["Hangul"]


def test_pieces_show_spaces_and_bytes() -> None:
    assert entries.pieces(" 나".encode()[:3]) == [("␣", True), ("EB 82", False)]
    assert entries.pieces(b"\x98\xeb\x9e\x98\n") == [("98", False), ("래↵", True)]
    assert entries.pieces(b"\x00a") == [("00", False), ("a", True)]


class Page(HTMLParser):
    """Keeps the words, the tags and the cells, and checks that what is opened is closed."""

    def __init__(self, source: str):
        super().__init__()
        self.words, self.open = "", [""]
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.feed(source)
        assert self.open == [""]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in ("meta", "wbr"):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open[-1] != "style":
            self.words += data


@pytest.fixture
def made(artifacts: Path, tmp_path: Path) -> dict[str, Any]:
    """A report on two sources, of which the tokenizer was trained on one, with three peers."""
    saved(sources=["책"])
    held_out = write(tmp_path / "held", [("책", "나래 나래"), ("책", "나"), ("web<b>", "abc x")])
    training = write(tmp_path / "training", [("책", "나래 나래")] * 5)
    (tmp_path / "o200k<i>.tiktoken").write_bytes(tiktoken_lines(["abc"]))
    (tmp_path / "kcbert_vocab.txt").write_text("[UNK]\n나\n##래\na", encoding="utf-8")
    call(
        report.main, "--tokenizer", "tiny", "--data", str(held_out), "--training", str(training), "--tutorial",
        "--rare", "6", "--peers", str(tmp_path / "o200k<i>.tiktoken"), str(tmp_path / "kcbert_vocab.txt"),
    )  # fmt: skip
    found: dict[str, Any] = json.loads((artifacts / "reports/tokenizer-tiny/report.json").read_text(encoding="utf-8"))
    return found


def test_a_report(made: dict[str, Any]) -> None:
    assert [row["name"] for row in made["tokenizers"]] == ["tiny", "o200k<i>", "kcbert", "tutorial"]
    assert made["held_out"] == "train-00000.jsonl.zst"
    assert {name: source["trained_on"] for name, source in made["sources"].items()} == {"책": True, "web<b>": False}
    own, other = made["tokenizers"][:2]
    assert [own["sources"][name]["tokens"] for name in ("책", "web<b>")] == [3, 3]
    assert (own["all"]["tokens"], own["korean"]["tokens"], own["all"]["exact"]) == (6, 3, 1.0)
    assert own["korean"]["bytes_per_token"] == round(16 / 3, 4)  # 책 is Hangul alone, the other has none
    assert other["sources"]["책"]["tokens"] == 16  # bytes
    assert made["tokenizers"][2]["all"]["unknown"] > 0
    assert made["tokenizers"][3]["note"] == "trained here on the same corpus"
    assert all(row["mb_per_cpu_second"] > 0 for row in made["tokenizers"])
    # The training text has 나래 and " 나래", each five times.
    vocabulary = made["vocabulary"]
    assert vocabulary["training"] == {"label": "train-00000.jsonl.zst", "documents": 5, "bytes": 65}
    assert (vocabulary["tokens"], vocabulary["rare_below"]) == (10, 6)
    assert vocabulary["never"] == 256 + 7 - 2
    assert vocabulary["rare"] == 256 + 7


def test_example_sentences_are_cut_by_each(made: dict[str, Any]) -> None:
    assert len(made["examples"]) >= 12
    for example in made["examples"]:
        assert set(example["cuts"]) == {"tiny", "o200k<i>", "kcbert", "tutorial"}
        shown = "".join(word for token in example["cuts"]["tiny"] for word, known in token if known)
        assert len(example["cuts"]["tiny"]) <= len(example["text"].encode())
        assert [c for c in shown if c.isascii()] == [c for c in example["text"] if c.isascii() and c not in " \n"]


def test_the_page_holds_every_source_and_peer_and_no_code_of_theirs(made: dict[str, Any], artifacts: Path) -> None:
    source = (artifacts / "reports/tokenizer-tiny/report.html").read_text(encoding="utf-8")
    assert source == page(made)
    found = Page(source)
    for word in ("책", "web<b>", "tiny", "o200k<i>", "kcbert†", "tutorial†", "°"):
        assert word in found.words, word
    for row in made["tokenizers"]:
        for name in made["sources"]:
            assert f"{row['sources'][name]['bytes_per_token']:.2f}" in found.words
        for example in made["examples"]:
            assert str(len(example["cuts"][row["name"]])) in found.words
    assert {attributes["id"] for tag, attributes in found.tags if tag == "section"} == SECTIONS
    assert "i" in {tag for tag, _ in found.tags}  # bytes in hex
    assert not {"b<i>", "script", "img", "link", "iframe", "i>"} & {tag for tag, _ in found.tags}
    assert not re.search(r"""(src|href)=["'](?!#)|url\(|@import""", source)
    assert "On 1 of them, marked °, the tokenizer was not trained" in found.words
    assert any(tag == "meta" and "default-src 'none'" in (some.get("content") or "") for tag, some in found.tags)


def test_whatever_a_report_holds_nothing_of_it_is_code(made: dict[str, Any]) -> None:
    """Every word from outside becomes a tag and an attribute's end; the page has them as text."""
    attack = "<u>\"'&"

    def hostile(value: Any, key: str = "") -> Any:
        if isinstance(value, dict):
            return {
                attack + name if key in ("sources", "cuts") else name: hostile(one, name) for name, one in value.items()
            }
        if isinstance(value, list):
            return [hostile(one, key) for one in value]
        return attack + value if isinstance(value, str) else value

    found = Page(page(hostile(made)))
    assert "u" not in {tag for tag, _ in found.tags}
    assert not any(name.startswith(("u", "'", '"', "&")) for _, some in found.tags for name in some)
    assert found.words.count(attack) > 100


def test_the_page_of_a_tokenizer_alone(artifacts: Path, tmp_path: Path) -> None:
    """No peers, no training text, no Korean source, and a manifest that says nothing about sources."""
    saved()
    file = write(tmp_path / "d", [("code", "abc abc")])
    call(report.main, "--tokenizer", "tiny", "--data", str(file), "--out", str(tmp_path / "r.html"))
    found = Page((tmp_path / "r.html").read_text(encoding="utf-8"))
    assert "does not say which sources it was trained on" in found.words
    assert "No training text was at hand" in found.words
    assert json.loads((tmp_path / "r.json").read_text())["tokenizers"][0]["korean"] is None


def test_a_corpus_is_held_out_and_trained_on(artifacts: Path, capsys: pytest.CaptureFixture[str]) -> None:
    saved()
    helpers.corpus(train=["나래 나래", "abc"], val=["나래"])
    call(report.main, "--tokenizer", "tiny", "--corpus", "sample")
    made = json.loads((artifacts / "reports/tokenizer-tiny/report.json").read_text(encoding="utf-8"))
    assert made["held_out"] == "val of corpus 'sample'"
    assert made["vocabulary"]["training"] == {"label": "train of corpus 'sample'", "documents": 2, "bytes": 16}
    printed = capsys.readouterr()
    assert re.search(r"> tiny +\d+ +6\.000 +6\.000 +1\.000 +0\.500 +100\.0% +100\.0%", printed.out)
    assert "1 sources of val of corpus 'sample', 0 peers" in printed.err


def test_the_corpus_is_the_one_that_the_tokenizer_was_trained_on(artifacts: Path) -> None:
    books = helpers.corpus(val=["나래 나래"], name="books")
    folder = saved()
    draft = artifact.begin("tokenizer", "own", {}, [books])
    assert draft is not None
    with draft:
        (draft.path / "tokenizer.json").write_bytes((folder / "tokenizer.json").read_bytes())
    call(report.main, "--tokenizer", "own")
    made = json.loads((artifacts / "reports/tokenizer-own/report.json").read_text(encoding="utf-8"))
    assert made["held_out"] == "val of corpus 'books'"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--corpus", "none"], "there is no corpus in .*none: `python corpus/collect.py --name none` makes it"),
        (["--data", "nowhere.jsonl.zst"], "--data nowhere.jsonl.zst: there is no such file"),
        (["--training", "nowhere.jsonl.zst"], "--training nowhere.jsonl.zst: there is no such file"),
        (["--peers", "nowhere.model"], "--peers nowhere.model: there is no such file or folder"),
        (["--corpus", "empty"], "corpus 'empty' has no val documents: name held-out text with --data"),
        (["--held_out_bytes", "2"], "val of corpus 'sample' holds no text in documents of up to 2 bytes"),
        (["--out", "."], "--out . is a folder: name a file in it, such as report.html"),
        (["--out", "x.json"], "--out x.json is the page, not the figures"),
    ],
)
@pytest.mark.usefixtures("artifacts")
def test_what_cannot_be_done_is_said(words: list[str], message: str) -> None:
    saved()
    helpers.corpus()
    helpers.corpus(val=[], name="empty")
    with pytest.raises(Mistake, match=message):
        call(report.main, "--tokenizer", "tiny", *words)


@pytest.mark.usefixtures("artifacts")
def test_the_tutorial_needs_text(tmp_path: Path) -> None:
    saved()
    file = write(tmp_path / "d", [("a", "abc")])
    with pytest.raises(Mistake, match=r"--tutorial needs text to train on: --training FILE.jsonl.zst or --corpus NAME"):
        call(report.main, "--tokenizer", "tiny", "--data", str(file), "--tutorial")


def test_as_a_command(run: Any, artifacts: Path) -> None:
    saved("sample")
    helpers.corpus()
    done = run("tokenizer/report.py")
    assert "> sample" in done.stdout
    assert f"0 peers: {artifacts / 'reports/tokenizer-sample/report.html'}" in done.stderr
    assert len(shards(artifacts / "corpus/sample", "val")) == 1
