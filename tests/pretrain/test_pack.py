"""Packing loses no token, takes every text for text, and every count can be checked by hand."""

import contextlib
import functools
import json
import os
import re
import shutil
import subprocess
import sys
import time
import unicodedata
from collections import Counter
from pathlib import Path
from typing import Any

import helpers
import numpy as np
import pytest
import zstandard
from helpers import HOME, SENTENCES, call
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer

from narae import artifact
from narae.artifact import open_artifact
from narae.documents import Document, ShardWriter, draw, shards
from narae.encoder import Encoder
from narae.log import Mistake
from narae.packed import PackedRows
from pretrain import bestfit, pack
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
        "pieces": len(TEXTS) - 1,
        "bytes": helpers.nfc_bytes(TEXTS),
        "empty": 1,
        "cut": over_a_border([len(made.encode(text).ids) + 1 for text in TEXTS if text], 64),
        "differed": 0,
        "parts": {"gigatoken": 3},
    }
    assert len(NFD.encode()) > helpers.nfc_bytes([NFD])
    assert counts["val"]["bytes"] == helpers.nfc_bytes(["하나", NFD])
    assert (counts["val"]["documents"], counts["val"]["empty"]) == (2, 1)


def over_a_border(lengths: list[int], row: int) -> int:
    """Documents, one behind another, that lie in more than one row."""
    ends = np.cumsum(lengths)
    return sum(first // row != (end - 1) // row for first, end in zip(ends - lengths, ends, strict=True))


@pytest.mark.parametrize("packing", ["stream", "best_fit"])
def test_every_token_is_traced_to_its_document(made: Tokenizer, packing: str) -> None:
    call(pack.main, "--sequence_length", "16", "--shard_rows", "3", "--packing", packing)
    for split, texts in (("train", TEXTS), ("val", ["", "하나", NFD])):
        rows = PackedRows(open_artifact("packed", "sample"), split)
        for row in range(len(rows)):
            for part in rows.origin(row):
                ids = [*made.encode(texts[int(part.document.removeprefix(f"{split}#"))]).ids, 0]
                count = part.stop - part.start
                assert rows[row][part.start : part.stop].tolist() == ids[part.offset : part.offset + count]


def with_sources(val: dict[int, str]) -> None:
    """A corpus of TEXTS whose val has them as well; the number of each says its source."""
    draft = artifact.begin("corpus", "sample", {"sources": True}, overwrite=True)
    assert draft is not None
    with draft:
        for split in ("train", "val"):
            with ShardWriter(draft.path, split, 500) as writer:
                for number, text in enumerate(TEXTS):
                    writer.write(Document(f"{split}#{number}", text, val.get(number % 3, "")))
            draft.counts[split] = {"documents": writer.documents, "bytes": writer.bytes}


@pytest.mark.parametrize("packing", ["stream", "best_fit"])
def test_the_source_of_every_held_out_token(made: Tokenizer, packing: str) -> None:
    with_sources({0: "news", 1: "books"})
    call(pack.main, "--sequence_length", "16", "--shard_rows", "3", "--packing", packing)
    rows = PackedRows(open_artifact("packed", "sample"), "val")
    assert rows.source_names == ["books", "news", "other"]
    expected = {name: Counter[str]() for name in rows.source_names}
    for number, text in enumerate(TEXTS):
        one = expected[["news", "books", "other"][number % 3]]
        if text:
            tokens = len(made.encode(text).ids) + 1
            one.update({"documents": 1, "tokens": tokens, "bytes": helpers.nfc_bytes([text])})
    assert rows.counts["sources"] == expected
    found = Counter[int]()
    for row in range(len(rows)):
        sources = rows.sources(row)
        found.update(sources.tolist())
        for part in rows.origin(row):
            name = ["news", "books", "other"][int(part.document.removeprefix("val#")) % 3]
            assert set(sources[part.start : part.stop].tolist()) == {rows.source_names.index(name)}
    assert {name: found[number] for number, name in enumerate(rows.source_names)} == {
        name: one["tokens"] for name, one in expected.items()
    }
    assert found[-1] == rows.counts["padding"]
    assert "sources" not in rows.artifact.counts["train"]


@pytest.mark.parametrize("packing", ["stream", "best_fit"])
def test_the_same_bytes_for_any_number_of_workers(monkeypatch: pytest.MonkeyPatch, packing: str) -> None:
    with_sources({0: "news", 1: "books"})
    words = ("--shard_rows", "2", "--sequence_length", "32", "--packing", packing)
    call(pack.main, *words)
    monkeypatch.setattr(pack, "SMALL", 0)
    for workers in ("1", "8"):
        call(pack.main, *words, "--workers", workers, "--name", workers)
    found = [open_artifact("packed", name).manifest for name in ("sample", "1", "8")]
    assert found[0]["files"] == found[1]["files"] == found[2]["files"]
    assert found[0]["counts"] == found[1]["counts"] == found[2]["counts"]


def test_best_fit_cuts_only_what_is_longer_than_a_row(made: Tokenizer) -> None:
    call(pack.main, "--sequence_length", "16", "--packing", "best_fit")
    rows = PackedRows(open_artifact("packed", "sample"))
    lengths = {f"train#{number}": len(made.encode(text).ids) + 1 for number, text in enumerate(TEXTS) if text}
    found: dict[str, list[tuple[int, int]]] = {}
    for row in range(len(rows)):
        for part in rows.origin(row):
            found.setdefault(part.document, []).append((part.offset, part.stop - part.start))
    assert found.keys() == lengths.keys()
    for name, pieces in found.items():
        whole, rest = divmod(lengths[name], 16)
        # whole rows, and one remainder; each token once
        assert sorted(pieces) == [(16 * n, 16) for n in range(whole)] + [(16 * whole, rest)] * (rest > 0)
    counts = rows.artifact.counts["train"]
    assert counts["cut"] == sum(length > 16 for length in lengths.values())
    assert counts["tokens"] == sum(lengths.values())
    assert counts["padding"] == 16 * len(rows) - counts["tokens"]
    assert counts["documents"] == len(lengths)


def test_best_fit_by_hand() -> None:
    # The longest first: 7 in row 0, 6 in row 1, 4 and 4 in row 2. 3 finds 1 and 2 left, so it begins row 3. The 2 fits
    # in row 1, the fullest with room for it, and the 1 fills row 0.
    assert bestfit.fit(np.array([4, 2, 7, 1, 6, 4, 3]), 8).tolist() == [2, 1, 0, 0, 1, 2, 3]
    # 20 tokens are two whole rows and 4; they stand behind one another, the rest lies with the 3 in front of it.
    found = bestfit.arrange(np.array([3, 20, 8]), 8)
    assert found.rows == 4
    assert list(zip(*[part.tolist() for part in found[1:]], strict=True)) == [
        # from, to, tokens, document, whole rows before
        (0, 0, 3, 0, 0), (19, 3, 4, 1, 2), (3, 8, 16, 1, 0), (23, 24, 8, 2, 0),
    ]  # fmt: skip


@given(st.lists(st.integers(1, 50), max_size=60), st.integers(2, 17))
def test_best_fit_places_every_token_once(lengths: list[int], row: int) -> None:
    found = bestfit.arrange(np.array(lengths, np.int64), row)
    begins = np.cumsum(lengths) - lengths
    taken = np.zeros(found.rows * row, np.int64)
    seen = []
    for source, place, length, document, piece in zip(*found[1:], strict=True):
        assert source == begins[document] + piece * row
        assert length <= row - place % row or (place % row == 0 and length % row == 0)
        taken[place : place + length] += 1
        seen += range(source, source + length)
    assert sorted(seen) == list(range(sum(lengths)))
    assert taken.max(initial=0) <= 1
    assert (np.diff(found.places) > 0).all()
    # Beside best fit as it is defined, one document after another: the rows are filled alike.
    left: list[int] = []
    rests = sorted((length % row for length in lengths if length % row), reverse=True)
    for size in rests:
        room = min((room for room in left if room >= size), default=row)
        if room in left:
            left.remove(room)
        left.append(room - size)
    filled = np.bincount(bestfit.fit(np.array(rests, np.int64), row), weights=rests) if rests else np.empty(0)
    assert sorted(row - filled) == sorted(left)


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


@pytest.mark.parametrize(
    "flags", [("--sequence_length", "1"), ("--shard_rows", "0"), ("--packing", "tight"), ("--workers", "-1")]
)
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


def flip(path: Path, place: int) -> None:
    data = bytearray(path.read_bytes())
    data[place] ^= 1
    path.write_bytes(data)


def test_a_flipped_byte_in_a_shard_stops(artifacts: Path) -> None:
    helpers.corpus([" ".join(SENTENCES[number : number + 7]) for number in range(300)], ["끝"])
    [shard] = shards(artifacts / "corpus/sample", "train")
    said = set()
    for place in range(30, shard.stat().st_size, shard.stat().st_size // 9):
        flip(shard, place)
        with pytest.raises(Mistake, match=r"train-00000.jsonl.zst.*damaged") as mistake:
            call(pack.main)
        said.add(str(mistake.value))
        flip(shard, place)
        assert not (artifacts / "packed/sample").exists()
    assert all("\n" not in line for line in said)
    call(pack.main)
    assert open_artifact("packed", "sample").counts["train"]["documents"] == 300


@pytest.mark.parametrize(
    ("line", "text"),
    [
        (b'{"text":"\\uae00\\n","id":"train#0","source":"","licence":"","meta":{"text":"x"}}', "글\n"),
        (b'{"id": "train#0", "text": "\\ud800\xea\xb8\x80\\ud83d\\ude00"}', "?글😀"),
        (b'{"id":"train#0","text":"\\u0000","meta":{}}', "\0"),
        (b'{"id":"train#0","text":"a","text":"b"}', "b"),
        (b'{"id":"train#0","text":"a"} {"id":"train#0","text":"b"}', None),
        (b'{"id":"train#0","text":null}', None),
        (b'{"id":"train#0"}', None),
        (b'{"id":"train#0","text":"\xff\xff"}', None),
        (b"", None),
    ],
)
def test_a_line_is_the_document_that_json_says_or_a_mistake(
    made: Tokenizer, artifacts: Path, line: bytes, text: str | None
) -> None:
    before = open_artifact("corpus", "sample")
    for path in shards(before.path, "train"):
        path.unlink()
    packed = zstandard.compress(line + b"\n" + b'{"id":"train#1","text":"\xeb\x81\x9d"}\n')
    (before.path / "train-00000.jsonl.zst").write_bytes(packed)
    manifest = json.loads((before.path / "manifest.json").read_text())
    manifest["files"] = {}
    (before.path / "manifest.json").write_text(json.dumps(manifest))
    if text is None:
        with pytest.raises(Mistake, match="line 1: not a document"):
            call(pack.main)
    else:
        call(pack.main)
        expected = [*made.encode(text).ids, 0, *made.encode("끝").ids, 0]
        assert stream(PackedRows(open_artifact("packed", "sample"))) == expected


def test_where_ids_differ_the_saved_tokenizer_encodes(
    made: Tokenizer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    load = Encoder._load

    def forgetful(self: Encoder) -> None:
        described = json.loads(self._described)
        described["model"]["merges"] = described["model"]["merges"][:10]
        self._described = json.dumps(described)
        load(self)

    monkeypatch.setattr(Encoder, "_load", forgetful)
    monkeypatch.setattr(pack, "parts", functools.partial(pack.parts, least=1))
    # Two frames; the second has nothing that would show it, and is of the same shard.
    long = " ".join(SENTENCES * 240)
    helpers.corpus([long, "끝"], ["끝"], shard_bytes=10**8)
    call(pack.main)
    packed = open_artifact("packed", "sample")
    assert stream(PackedRows(packed)) == [*made.encode(long).ids, 0, *made.encode("끝").ids, 0]
    assert packed.counts["train"]["parts"] == {"tokenizers": 2} and packed.counts["train"]["differed"] == 1
    assert packed.counts["val"]["parts"] == {"gigatoken": 1}
    assert "gigatoken gives other ids than the tokenizer in" in capsys.readouterr().err


# In a name space of its own, so that the small disk is gone with the process, whatever becomes of it.
SMALL_DISK = """
import json, os, subprocess, sys
from pathlib import Path
small, sizes = Path(sys.argv[1]), json.loads(sys.argv[2])
from pretrain import pack
packed = Path(os.environ["NARAE_ARTIFACTS"]) / "packed"
packed.mkdir(exist_ok=True)
pack.SMALL = 0
sys.argv = ["pretrain/pack.py", "--workers", "1"]
for size in sizes:
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}k", "tmpfs", packed], check=True)
    ends = []
    for _ in range(2):
        try:
            pack.main()
            ends.append("")
        except SystemExit as mistake:
            ends.append(str(mistake))
        subprocess.run(["mount", "-o", "remount,size=64m", packed], check=True)
    files = json.loads((packed / "sample" / "manifest.json").read_text())["files"]
    print(json.dumps([ends, files, sorted(path.name for path in packed.iterdir())]))
    subprocess.run(["umount", "-l", packed], check=True)
"""


def test_a_full_disk(artifacts: Path, tmp_path: Path) -> None:
    """At any moment: while pieces are written, and when they are joined."""
    if os.geteuid() or not shutil.which("unshare") or subprocess.run(["unshare", "-m", "mount"]).returncode:
        pytest.skip("mounting takes root")
    helpers.corpus([" ".join(SENTENCES[number % 300 :][:40]) for number in range(300)], ["끝"], shard_bytes=60_000)
    call(pack.main, "--name", "wanted")
    wanted = open_artifact("packed", "wanted").manifest["files"]
    words = ["unshare", "-m", sys.executable, "-c", SMALL_DISK, str(artifacts), json.dumps(list(range(4, 1500, 160)))]
    done = subprocess.run(words, cwd=HOME, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    full = []
    for ends, files, left in map(json.loads, done.stdout.splitlines()):
        assert files == wanted and left == [".lock-sample", "sample"]
        assert ends[1] == ""
        if ends[0]:
            assert re.fullmatch(
                r"\S+: No space left on device; once that is mended, the same command goes on from here "
                r"\(removing \S+/.work-sample gives up\)",
                ends[0],
            )
        full.append(bool(ends[0]))
    assert full[0] and not full[-1] and sum(full) > 2


KILLED = """
import sys
from pretrain import pack
pack.SMALL = 0
sys.argv = ["pretrain/pack.py", "--workers", "2", "--packing", sys.argv[1]]
pack.main()
"""


def parts_done(work: Path) -> dict[Path, int]:
    marks = {path.name for path in work.glob("stages/pack/completions/*")}
    return {path: path.stat().st_mtime_ns for path in work.glob("pieces/*/counts.json") if path.parent.name in marks}


@pytest.mark.parametrize("packing", ["stream", "best_fit"])
def test_a_killed_run_goes_on_behind_its_parts(artifacts: Path, packing: str) -> None:
    helpers.corpus([" ".join(SENTENCES[number % 300 :][:40]) for number in range(1200)], ["끝"], shard_bytes=20_000)
    call(pack.main, "--name", "wanted", "--packing", packing)
    work = artifacts / "packed/.work-sample"
    killed = []
    for enough in (2, 8):
        process = subprocess.Popen(
            [sys.executable, "-c", KILLED, packing], stderr=subprocess.DEVNULL, cwd=HOME, start_new_session=True
        )
        while len(parts_done(work)) < enough:
            assert process.poll() is None
            time.sleep(0.002)
        os.killpg(process.pid, 9)
        process.wait()
        with contextlib.suppress(ProcessLookupError):  # its workers hold the lock until they are gone
            for _ in range(1000):
                os.killpg(process.pid, 0)
                time.sleep(0.01)
        killed.append(parts_done(work))
        assert not (artifacts / "packed/sample").exists()
    assert all(killed[1][path] == written for path, written in killed[0].items())  # none was done twice
    done = subprocess.run([sys.executable, "-c", KILLED, packing], cwd=HOME, capture_output=True, text=True, check=True)
    assert "going on with what an earlier start left" in done.stderr
    found = [open_artifact("packed", name, verify=True).manifest for name in ("sample", "wanted")]
    assert found[0]["files"] == found[1]["files"] and found[0]["counts"] == found[1]["counts"]
    assert not work.exists()


def test_another_tokenizer_starts_over(
    artifacts: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def stopped(*args: Any) -> None:
        raise Mistake("stopped")

    with monkeypatch.context() as patch:
        patch.setattr(pack, "publish", stopped)
        with pytest.raises(Mistake, match="stopped"):
            call(pack.main)
    assert (artifacts / "packed/.work-sample/pieces/00000/ids").exists()
    helpers.corpus([sentence[::-1] for sentence in SENTENCES], name="backwards")
    call(train.main, "--corpus", "backwards", "--vocab_size", "384", "--overwrite")
    call(pack.main)
    assert "was of another version, other settings or input: starting over" in capsys.readouterr().err
    other = Tokenizer.from_file(str(artifacts / "tokenizer/sample/tokenizer.json"))
    other.encode_special_tokens = True
    expected = [number for text in TEXTS if text for number in [*other.encode(text).ids, 0]]
    assert stream(PackedRows(open_artifact("packed", "sample"))) == expected


def test_a_piece_that_was_cut_off_is_noticed(artifacts: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    publish = pack.publish

    def after_a_power_failure(plan: Any, work: Path, draft: Any) -> None:
        with (work / "pieces/00001/ids").open("r+b") as file:
            file.truncate(10)
        publish(plan, work, draft)

    monkeypatch.setattr(pack, "publish", after_a_power_failure)
    with pytest.raises(Mistake, match=r"pieces/00001 is cut off.*remove .*\.work-sample"):
        call(pack.main)


MEASURED = """
import re, sys
from pathlib import Path
from pretrain import pack
sys.argv = ["pretrain/pack.py"]
pack.main()
print(int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) >> 10)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="/proc tells the peak")
def test_a_document_of_100_megabytes() -> None:
    text = " ".join(SENTENCES) + "\n"
    times = 100_000_000 // len(text.encode()) + 1
    helpers.corpus(["앞", text * times, "뒤"], ["끝"])
    done = subprocess.run([sys.executable, "-c", MEASURED], cwd=HOME, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    rows = PackedRows(open_artifact("packed", "sample"))
    assert (rows.counts["documents"], rows.counts["empty"]) == (3, 0)
    assert rows.counts["bytes"] == len(text.encode()) * times + 6
    assert [part.document for part in rows.origin(len(rows) - 1)] == ["train#1", "train#2"]
    assert int(done.stdout) < 1100, "megabytes"
