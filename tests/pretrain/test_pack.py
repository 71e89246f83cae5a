"""Packing loses no token, takes every text for text, and every count can be checked by hand."""

import unicodedata
from collections import Counter
from pathlib import Path
from typing import Any

import helpers
import numpy as np
import pytest
from helpers import call
from tokenizers import Tokenizer

from narae import artifact
from narae.artifact import open_artifact
from narae.documents import Document, ShardWriter, draw
from narae.log import Mistake
from narae.packed import PackedRows
from pretrain import pack
from tokenizer import train

pytestmark = pytest.mark.usefixtures("made")
NFD = unicodedata.normalize("NFD", "한글은 풀어쓰면 길다.")
TEXTS = [
    *helpers.SENTENCES[:20],
    "",
    NFD,
    "글 속의 <|endoftext|>와 <|pad|>는 글이다.",
    " ",
    "\n\n",
    "긴 글. " * 300,
    "끝",
]


@pytest.fixture
def made(artifacts: Path) -> Tokenizer:
    """A corpus with all that is odd, and a tokenizer from another one."""
    helpers.corpus(name="sentences")
    call(train.main, "--corpus", "sentences", "--vocab_size", "384")
    helpers.corpus(TEXTS, ["", "하나", NFD], shard_bytes=500)
    tokenizer = Tokenizer.from_file(str(artifacts / "tokenizer/sample/tokenizer.json"))
    tokenizer.encode_special_tokens = True
    return tokenizer


def stream(rows: PackedRows) -> list[int]:
    return [int(number) for row in range(len(rows)) for number in rows[row]][: rows.tokens]


@pytest.mark.parametrize(("sequence_length", "shard_rows"), [(16, 3), (16, 1000), (7, 1), (512, 2)])
def test_no_token_is_lost(made: Tokenizer, sequence_length: int, shard_rows: int) -> None:
    call(pack.main, "--sequence_length", str(sequence_length), "--shard_rows", str(shard_rows))
    rows = PackedRows(open_artifact("packed", "sample", verify=True))
    expected = [number for text in TEXTS if text for number in [*made.encode(text).ids, 0]]
    assert stream(rows) == expected
    assert stream(rows).count(0) == len(TEXTS) - 1  # one end per document, and no other
    assert 1 not in expected
    texts = made.decode(expected, skip_special_tokens=False)
    assert texts == "".join(unicodedata.normalize("NFC", text) + "<|endoftext|>" for text in TEXTS if text)
    assert all(len(rows[row]) == sequence_length for row in range(len(rows)))
    assert len(list(rows.artifact.path.glob("train-*.bin"))) == -(-len(rows) // shard_rows)


def test_counts(made: Tokenizer) -> None:
    call(pack.main, "--sequence_length", "64")
    counts = open_artifact("packed", "sample").counts
    assert {key: counts[key] for key in ("dtype", "sequence_length", "entries", "eos", "pad")} == {
        "dtype": "uint16", "sequence_length": 64, "entries": 384, "eos": 0, "pad": 1,
    }  # fmt: skip
    tokens = sum(len(made.encode(text).ids) + 1 for text in TEXTS if text)
    train_counts = counts["train"]
    assert sum(train_counts.pop("corpus_shards")) == len(TEXTS)
    assert train_counts == {
        "rows": -(-tokens // 64),
        "tokens": tokens,
        "documents": len(TEXTS) - 1,
        "padding": -tokens % 64,
        "bytes": helpers.nfc_bytes(TEXTS),
        "empty": 1,
    }
    assert len(NFD.encode()) > helpers.nfc_bytes([NFD])
    assert counts["val"]["bytes"] == helpers.nfc_bytes(["하나", NFD])
    assert (counts["val"]["documents"], counts["val"]["empty"]) == (2, 1)


def test_every_token_is_traced_to_its_document(made: Tokenizer) -> None:
    call(pack.main, "--sequence_length", "16", "--shard_rows", "3")
    for split, texts in (("train", TEXTS), ("val", ["", "하나", NFD])):
        rows = PackedRows(open_artifact("packed", "sample"), split)
        for row in range(len(rows)):
            for part in rows.origin(row):
                ids = [*made.encode(texts[int(part.document.removeprefix(f"{split}#"))]).ids, 0]
                count = part.stop - part.start
                assert rows[row][part.start : part.stop].tolist() == ids[part.offset : part.offset + count]


def test_same_bytes_twice_and_whatever_the_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    call(pack.main, "--shard_rows", "2", "--sequence_length", "32")
    monkeypatch.setattr(pack, "BATCH_BYTES", 100)
    call(pack.main, "--shard_rows", "2", "--sequence_length", "32", "--name", "again")
    first, again = (open_artifact("packed", name).manifest for name in ("sample", "again"))
    assert first["files"] == again["files"]
    assert first["counts"] == again["counts"]


def test_up_to_date_and_refused(capsys: pytest.CaptureFixture[str]) -> None:
    call(pack.main)
    call(pack.main)
    assert "packed 'sample' is up to date" in capsys.readouterr().err
    with pytest.raises(Mistake, match="sequence_length = 512 instead of 256"):
        call(pack.main, "--sequence_length", "256")
    call(pack.main, "--sequence_length", "256", "--overwrite")
    assert open_artifact("packed", "sample").counts["sequence_length"] == 256


def test_another_corpus_under_the_same_name_is_noticed() -> None:
    call(pack.main)
    helpers.corpus(["다른 글"], [])
    with pytest.raises(Mistake, match=r"was made from corpus 'sample' .*run `python pretrain/pack.py --overwrite`"):
        open_artifact("packed", "sample")


@pytest.mark.parametrize("texts", [[], ["", ""]])
def test_nothing_to_pack(artifacts: Path, texts: list[str]) -> None:
    helpers.corpus(texts, ["글"])
    with pytest.raises(Mistake, match="corpus 'sample' has no text in train: there is nothing to pack"):
        call(pack.main)
    assert not (artifacts / "packed/sample").exists()


def test_no_val_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    helpers.corpus(["글"], [])
    call(pack.main)
    assert "warning: corpus 'sample' has no text in val" in capsys.readouterr().err
    assert len(PackedRows(open_artifact("packed", "sample"), "val")) == 0


@pytest.mark.parametrize("flags", [("--sequence_length", "1"), ("--shard_rows", "0")])
def test_rows_that_cannot_be(flags: tuple[str, str]) -> None:
    with pytest.raises(Mistake, match=" ".join(flags)):
        call(pack.main, *flags)


def test_as_commands(made: Tokenizer, run: Any) -> None:
    said = run("pretrain/pack.py", "--sequence_length", "64").stderr
    rows = PackedRows(open_artifact("packed", "sample"))
    assert f"packed 'sample': {len(rows):,} rows of 64 for train and 1 for val" in said
    shown = run("narae/packed.py", "--row", "0", "--split", "val").stdout
    one = len(made.encode("하나").ids) + 1
    two = len(made.encode(NFD).ids) + 1
    assert f"[0:{one}]  val#1  tokens 0:{one}\n하나<|endoftext|>" in shown
    assert f"[{one}:{one + two}]  val#2  tokens 0:{two}\n한글은 풀어쓰면 길다.<|endoftext|>" in shown
    assert shown.endswith(f"[{one + two}:64]  padding\n")
    beyond = run("narae/packed.py", "--row", "1", "--split", "val", check=False)
    assert beyond.returncode == 1
    assert "narae/packed: --row 1: " in beyond.stderr
    assert "has 1 rows, from 0 on" in beyond.stderr


def test_above_65536_entries_ids_take_four_bytes(artifacts: Path) -> None:
    folder = artifacts / "tokenizer/sample"
    wide = Tokenizer.from_file(str(folder / "tokenizer.json"))
    wide.add_tokens([f"낱말{number:06d}" for number in range(65_536)])
    from narae import artifact

    draft = artifact.begin("tokenizer", "wide", {})
    assert draft is not None
    with draft:
        wide.save(str(draft.path / "tokenizer.json"))
    helpers.corpus(["낱말065535"], [])
    call(pack.main, "--tokenizer", "wide")
    rows = PackedRows(open_artifact("packed", "sample"))
    assert rows.counts["tokens"] == 2
    assert rows[0][:2].tolist() == [384 + 65_535, 0]
    assert np.fromfile(rows.artifact.path / "train-00000.bin", "<u4")[0] == 384 + 65_535


def test_a_weight_is_how_often_a_source_is_read(artifacts: Path) -> None:
    once, twice, half = helpers.SENTENCES[:6], helpers.SENTENCES[10:14], helpers.SENTENCES[20:220]
    weights = {"once": 1.0, "twice": 2.0, "half": 0.5}
    draft = artifact.begin("corpus", "mixed", {})
    assert draft is not None
    with draft:
        for split in ("train", "val"):
            with ShardWriter(draft.path, split) as writer:
                for source, texts in (("once", once), ("twice", twice), ("half", half)):
                    for number, text in enumerate(texts):
                        writer.write(Document(f"{source}#{number}", text, source))
            draft.counts[split] = {"documents": writer.documents, "bytes": writer.bytes}
        draft.counts["sources"] = {
            name: {"weight": weight, "train": {"documents": 1, "bytes": 1}} for name, weight in weights.items()
        }
    call(pack.main, "--corpus", "mixed", "--name", "mixed", "--sequence_length", "16")
    rows = PackedRows(open_artifact("packed", "mixed"))
    ids = [part.document for row in range(len(rows)) for part in rows.origin(row) if not part.offset]
    found = Counter(ids)
    assert {found[f"once#{number}"] for number in range(6)} == {1}
    assert {found[f"twice#{number}"] for number in range(4)} == {2}
    halves = [name for name in found if name.startswith("half")]
    assert halves == [f"half#{number}" for number in range(200) if draw(f"half#{number}") < 0.5]
    assert ids[-4:] == [f"twice#{number}" for number in range(4)]  # in a round of their own, behind all others
    assert rows.artifact.counts["val"]["documents"] == 210  # what is measured on is not weighted
