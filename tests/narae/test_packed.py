"""The packed format byte by byte, where a token came from, and damage that never becomes a wrong row."""

import contextlib
import itertools
import json
import pickle
import zlib
from pathlib import Path
from typing import Any

import helpers
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from narae import artifact
from narae import packed as packed_module
from narae.artifact import Artifact, open_artifact
from narae.documents import read_documents, shards
from narae.log import Mistake
from narae.packed import PLACE, PackedRows, PackedWriter, dtype_for

pytestmark = pytest.mark.usefixtures("artifacts")
EOS, PAD = 0, 1


def packed(documents: list[list[int]], sequence_length: int = 4, shard_rows: int = 2, entries: int = 300) -> Artifact:
    """Documents of these ids in train, the third of the corpus's left out as if it were empty; nothing in val."""
    texts = [str(number) for number in range(len(documents) + 1)]
    corpus = helpers.corpus(texts, [], shard_bytes=3)  # three documents in a shard
    draft = artifact.begin("packed", "sample", {}, [corpus], overwrite=True)
    assert draft is not None
    with draft:
        dtype = dtype_for(entries)
        draft.counts.update(dtype=dtype.name, sequence_length=sequence_length, eos=EOS, pad=PAD)
        for split, some in (("train", documents), ("val", [])):
            ordinals = np.array([number + (number >= 2) for number in range(len(some))], np.int64)
            with PackedWriter(draft.path, split, dtype, sequence_length, shard_rows, PAD) as writer:
                for number, ids in enumerate(some):
                    writer.write(np.array(ids), np.array([0]), ordinals[number : number + 1])
            in_shards = [sum(1 for _ in read_documents([file])) for file in shards(corpus.path, split)]
            draft.counts[split] = {**writer.counts, "corpus_shards": in_shards}
    return open_artifact("packed", "sample")


THREE = [[10, 11, 0], [20, 21, 22, 23, 24, 25, 26, 27, 28, 29, 0], [30, 31, 32, 0]]


def test_bytes_on_disk() -> None:
    folder = packed(THREE).path
    assert sorted(file.name for file in folder.glob("train-*")) == [
        f"train-0000{shard}.{kind}" for shard in range(3) for kind in ("bin", "crc", "idx")
    ]
    ids = [np.fromfile(folder / f"train-0000{shard}.bin", "<u2").tolist() for shard in range(3)]
    assert ids == [[10, 11, 0, 20, 21, 22, 23, 24], [25, 26, 27, 28, 29, 0, 30, 31], [32, 0, PAD, PAD]]
    little = [(folder / f"train-0000{shard}.idx").read_bytes() for shard in range(3)]
    assert little == [bytes(12) + b"\3" + bytes(7) + b"\1" + bytes(3), b"\16" + bytes(7) + b"\3" + bytes(3), b""]
    counts = open_artifact("packed", "sample").counts["train"]
    assert (counts["rows"], counts["tokens"], counts["documents"], counts["padding"]) == (5, 18, 3, 2)


def test_rows_labels_positions_documents() -> None:
    rows = PackedRows(packed(THREE))
    assert len(rows) == 5
    assert [row.tolist() for row in rows] == [
        [10, 11, 0, 20],
        [21, 22, 23, 24],
        [25, 26, 27, 28],
        [29, 0, 30, 31],
        [32, 0, PAD, PAD],
    ]
    assert rows[0].dtype == np.int64
    assert [rows.labels(row).tolist() for row in (3, 4)] == [[29, 0, 30, 31], [32, 0, -100, -100]]
    assert [rows.positions(row).tolist() for row in range(5)] == [
        [0, 1, 2, 0],
        [0, 1, 2, 3],
        [0, 1, 2, 3],
        [0, 1, 0, 1],
        [0, 1, 0, 1],
    ]
    assert [rows.documents(row).tolist() for row in range(5)] == [
        [0, 0, 0, 1],
        [1, 1, 1, 1],
        [1, 1, 1, 1],
        [1, 1, 3, 3],
        [3, 3, -1, -1],
    ]
    with pytest.raises(IndexError, match="row 5 of 5"):
        rows[5]


def test_origin_names_documents_and_tokens() -> None:
    rows = PackedRows(packed(THREE))
    assert rows.origin(0) == [("train#0", 0, 3, 0), ("train#1", 3, 4, 0)]
    assert rows.origin(1) == [("train#1", 0, 4, 1)]
    assert rows.origin(3) == [("train#1", 0, 2, 9), ("train#3", 2, 4, 0)]
    assert rows.origin(4) == [("train#3", 0, 2, 2)]  # its own shard's index is empty


def test_a_last_row_that_is_full_has_no_padding() -> None:
    rows = PackedRows(packed([[5, 6, 7, 0], [8, 9, 8, 0]]))
    assert rows.labels(1).tolist() == [8, 9, 8, 0]
    assert rows.positions(1).tolist() == [0, 1, 2, 3]
    assert rows.origin(1) == [("train#1", 0, 4, 0)]


def test_an_empty_split() -> None:
    assert len(PackedRows(packed(THREE), "val")) == 0
    with pytest.raises(Mistake, match="--split test: a packed artifact has train and val"):
        PackedRows(open_artifact("packed", "sample"), "test")


def test_two_bytes_up_to_65536_entries() -> None:
    assert [dtype_for(entries).itemsize for entries in (65_536, 65_537, 1 << 32)] == [2, 4, 4]
    with pytest.raises(Mistake, match="4,294,967,297 entries"):
        dtype_for((1 << 32) + 1)


def test_large_ids_survive() -> None:
    assert PackedRows(packed([[65_535, 65_536, 0]], entries=65_537))[0].tolist() == [65_535, 65_536, 0, PAD]
    with pytest.raises(AssertionError):
        packed([[65_536, 0]], entries=65_536)


FITTED = np.array(
    [
        [10, 11, 12, 13],  # document 0 has ten tokens: two rows and a rest
        [14, 15, 16, 17],
        [18, 0, 20, 0],  # its rest, and document 1
        [30, 31, 0, PAD],  # document 3
        [40, 41, 42, 43],  # document 4 fills a row, and its end goes elsewhere
        [50, 0, 0, PAD],  # document 5, and that end
    ]
)
ENTRIES = [(0, 0, 0), (4, 0, 1), (8, 0, 2), (10, 1, 0), (12, 3, 0), (16, 4, 0), (20, 5, 0), (22, 4, 1)]


def fitted(filled: str = "train", **words: Any) -> Artifact:
    """FITTED as an artifact, two rows in a shard."""
    texts: list[list[str]] = [[str(number) for number in range(6)], []]
    corpus = helpers.corpus(*(texts if filled == "train" else texts[::-1]), shard_bytes=3)
    draft = artifact.begin("packed", "sample", {}, [corpus, *words.get("parents", [])], overwrite=True)
    assert draft is not None
    with draft:
        draft.counts.update(dtype="uint16", sequence_length=4, eos=EOS, pad=PAD, entries=60)
        for split in ("train", "val"):
            with PackedWriter(draft.path, split, dtype_for(300), 4, 2, PAD) as writer:
                if split == filled:
                    starts, ordinals, pieces = np.array(ENTRIES).T
                    writer.write(FITTED.ravel(), starts, ordinals, pieces)
            draft.counts[split] = {**writer.counts, "corpus_shards": [3, 3] if split == filled else []}
            if split == filled == "val":
                writer.write_sources(np.array([1, 0, 0, 1, 0, 1]))
                draft.counts[split]["sources"] = {"books": {}, "other": {}}
    return open_artifact("packed", "sample")


def test_rows_that_documents_are_fitted_into() -> None:
    rows = PackedRows(fitted())
    assert rows.counts | {"corpus_shards": 0} == {
        "rows": 6, "tokens": 22, "documents": 5, "pieces": 8, "padding": 2, "corpus_shards": 0,
    }  # fmt: skip
    assert [row.tolist() for row in rows] == FITTED.tolist()
    assert rows.labels(3).tolist() == [30, 31, 0, -100]
    assert [rows.positions(row).tolist() for row in (1, 2, 3, 5)] == [
        [0, 1, 2, 3], [0, 1, 0, 1], [0, 1, 2, 0], [0, 1, 0, 0],
    ]  # fmt: skip
    assert [rows.documents(row).tolist() for row in (1, 2, 3, 5)] == [
        [0, 0, 0, 0], [0, 0, 1, 1], [3, 3, 3, -1], [5, 5, 4, -1],
    ]  # fmt: skip
    assert [rows.origin(row) for row in (1, 2, 3, 5)] == [
        [("train#0", 0, 4, 4)],
        [("train#0", 0, 2, 8), ("train#1", 2, 4, 0)],
        [("train#3", 0, 3, 0)],
        [("train#5", 0, 2, 0), ("train#4", 2, 3, 4)],
    ]


def test_the_source_of_every_token() -> None:
    made = fitted("val")
    assert (made.path / "val.src").read_bytes() == b"".join(
        number.to_bytes(4, "little") for number in (1, 0, 0, 1, 0, 1)
    )
    rows = PackedRows(made, "val")
    assert rows.source_names == ["books", "other"]
    assert [rows.sources(row).tolist() for row in range(6)] == [
        [1, 1, 1, 1], [1, 1, 1, 1], [1, 1, 0, 0], [1, 1, 1, -1], [0, 0, 0, 0], [1, 1, 0, -1],
    ]  # fmt: skip
    assert [rows.begins(row).tolist() for row in (0, 1, 2, 5)] == [
        [1, 0, 0, 0], [0, 0, 0, 0], [0, 0, 1, 0], [1, 0, 0, 0],
    ]  # fmt: skip
    assert [rows.openings(name).tolist() for name in ("books", "other")] == [[10, 16], [0, 12, 20]]
    with pytest.raises(Mistake, match=r"train has no sources, only val does"):
        _ = PackedRows(made).source_names


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "val.src is missing"),
        (bytes(20), "has 5 documents in val.src, not 6"),
        (bytes(20) + b"\2\0\0\0", "val.src names source 2, and there are 2"),
    ],
)
def test_sources_that_do_not_fit(content: bytes | None, message: str) -> None:
    file = fitted("val").path / "val.src"
    rows = PackedRows(open_artifact("packed", "sample"), "val")
    file.unlink() if content is None else file.write_bytes(content)
    with pytest.raises(Mistake, match=rf"{message}: run `python pretrain/pack.py --overwrite`"):
        rows.sources(0)


def test_the_piece_is_in_the_high_bits() -> None:
    index = (fitted().path / "train-00001.idx").read_bytes()
    assert index[:12] == (8 + (2 << 40)).to_bytes(8, "little") + bytes(4)
    sums = np.fromfile(PackedRows(open_artifact("packed", "sample")).artifact.path / "train-00002.crc", "<u4")
    assert sums.tolist() == [zlib.crc32(row.astype("<u2").tobytes()) for row in FITTED[4:]]


def test_a_row_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel

    draft = artifact.begin("tokenizer", "sample", {})
    assert draft is not None
    with draft:
        words = {f"낱말{number}": number for number in range(60)}
        Tokenizer(WordLevel(words, unk_token="낱말2")).save(str(draft.path / "tokenizer.json"))
    fitted(parents=[open_artifact("tokenizer", "sample")])
    helpers.call(packed_module.main, "--row", "5")
    shown = capsys.readouterr().out.split("\n", 1)[1]
    assert shown == (
        "\n[0:2]  train#5  tokens 0:2\n낱말50 낱말0\n\n[2:3]  train#4  tokens 4:5\n낱말0\n\n[3:4]  padding\n"
    )


def test_too_much_for_the_index(tmp_path: Path) -> None:
    with PackedWriter(tmp_path, "train", dtype_for(300), 4, 2, PAD) as writer:
        writer.place = PLACE - 2
        with pytest.raises(Mistake, match="more than 1,099,511,627,775 tokens"):
            writer.write(np.array([2, 3, 4]), np.array([0]), np.array([0]))
        writer.place = 0


@settings(deadline=None)
@given(st.data())
def test_what_is_written_is_read(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    """Against a list that says of every token which document's it is and which of its tokens."""
    lengths = data.draw(st.lists(st.integers(1, 40), min_size=1, max_size=30), "lengths")
    sequence_length, shard_rows = data.draw(st.integers(2, 9)), data.draw(st.integers(1, 5))
    entries = data.draw(st.sampled_from([65_536, 65_537]))
    fit = data.draw(st.booleans(), "fitted")
    tokens: list[tuple[int, int, int]] = []  # id, document, its token
    index = []
    for document, length in enumerate(lengths):
        ids = [*range(entries - length + 1, entries), EOS]
        for offset, number in enumerate(ids):
            if fit and offset % sequence_length == 0:
                room = -len(tokens) % sequence_length
                if room < min(length - offset, sequence_length):
                    tokens += [(PAD, -1, 0)] * room
            if offset == 0 or (fit and offset % sequence_length == 0):
                index.append((len(tokens), document, offset // sequence_length))
            tokens.append((number, document, offset))
    folder = tmp_path_factory.mktemp("packed")
    cuts = sorted(data.draw(st.lists(st.integers(0, len(tokens)), max_size=6), "cuts"))
    with PackedWriter(folder, "train", dtype_for(entries), sequence_length, shard_rows, PAD) as writer:
        for begin, end in itertools.pairwise([0, *cuts, len(tokens)]):
            some = np.array([one for one in index if begin <= one[0] < end]).reshape(-1, 3)
            ids = np.array([one[0] for one in tokens[begin:end]], dtype_for(entries))
            writer.write(ids, some[:, 0] - begin, some[:, 1], some[:, 2] if fit else None)
    padding = sum(one[1] < 0 for one in tokens) + -len(tokens) % sequence_length
    assert writer.counts == {
        "rows": -(-len(tokens) // sequence_length),
        "tokens": sum(lengths),
        "documents": len(lengths),
        "pieces": len(index),
        "padding": padding,
    }
    tokens += [(PAD, -1, 0)] * (-len(tokens) % sequence_length)
    counts = {"dtype": dtype_for(entries).name, "sequence_length": sequence_length, "eos": EOS, "pad": PAD}
    rows = PackedRows(Artifact(folder, {"counts": counts | {"train": writer.counts}}))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(PackedRows, "_names", lambda _, ordinals: {ordinal: ordinal for ordinal in ordinals})
        for row in range(len(rows)):
            expected = tokens[row * sequence_length : (row + 1) * sequence_length]
            assert rows[row].tolist() == [one[0] for one in expected]
            assert rows.labels(row).tolist() == [-100 if one[1] < 0 else one[0] for one in expected]
            assert rows.documents(row).tolist() == [one[1] for one in expected]
            found = [
                (part.document, part.offset + k) for part in rows.origin(row) for k in range(part.stop - part.start)
            ]
            assert found == [one[1:] for one in expected if one[1] >= 0]
            groups = [list(group) for _, group in itertools.groupby(expected, lambda one: one[1])]
            assert rows.positions(row).tolist() == [k for group in groups for k in range(len(group))]


def test_a_worker_maps_the_files_again() -> None:
    rows = PackedRows(packed(THREE))
    frozen = pickle.dumps(rows)
    assert np.array_equal(pickle.loads(frozen)[3], rows[3])
    assert b"memmap" not in frozen


@pytest.mark.parametrize("kind", ["bin", "crc"])
def test_a_flipped_bit_is_never_a_wrong_row(kind: str) -> None:
    made = fitted()
    file = made.path / f"train-00001.{kind}"
    whole = file.read_bytes()
    for place in range(len(whole)):
        flip(file, place, 1 << place % 8)
        rows = PackedRows(open_artifact("packed", "sample"))
        damaged = 2 + place // (len(whole) // 2)
        for row in range(len(rows)):
            if row != damaged:
                assert rows[row].tolist() == FITTED[row].tolist()
        for read in (rows.__getitem__, rows.labels, rows.positions, rows.documents, rows.origin):
            with pytest.raises(
                Mistake, match=rf"row {damaged} in .*train-00001.bin .*`python pretrain/pack.py --overwrite`"
            ):
                read(damaged)
        file.write_bytes(whole)


def test_the_rank_that_meets_damage_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    made = fitted()
    flip(made.path / "train-00000.bin", 0, 1)
    monkeypatch.setenv("RANK", "1")
    with pytest.raises(Mistake) as caught:
        PackedRows(made)[0]
    for mistake in (caught.value, pickle.loads(pickle.dumps(caught.value))):
        assert "row 0 in " in str(mistake.code)


def test_a_flipped_bit_in_the_index_moves_no_boundary() -> None:
    made = fitted()
    right = [PackedRows(made).positions(row).tolist() for row in range(6)]
    for number in range(3):
        file = made.path / f"train-0000{number}.idx"
        whole = file.read_bytes()
        for place in range(len(whole)):
            flip(file, place, 1 << place % 8)
            rows = PackedRows(open_artifact("packed", "sample"))
            for row in range(6):
                with contextlib.suppress(Mistake):
                    assert rows.positions(row).tolist() == right[row]
            with pytest.raises(Mistake, match="does not have the hash in its manifest"):
                open_artifact("packed", "sample", verify=True)
            file.write_bytes(whole)
    flip(made.path / "train-00001.idx", 12, 1)  # document 1 would begin a token later
    with pytest.raises(Mistake, match=r"row 2 has other ends of documents than .*train-00001.idx says: run `python"):
        PackedRows(made).positions(2)


def flip(file: Path, place: int, bit: int) -> None:
    content = bytearray(file.read_bytes())
    content[place] ^= bit
    file.write_bytes(content)


@pytest.mark.parametrize(
    ("kind", "cut", "message"),
    [
        ("bin", None, "has 3 rows, not 5"),
        ("bin", 8, "has 4 rows, not 5"),
        ("bin", 1, "has 15 bytes, not a multiple of 8"),
        ("idx", None, "train-00000.idx is missing"),
        ("idx", 12, "has 2 index entries, not 3"),
        ("idx", 5, "has 19 bytes, not a multiple of 12"),
        ("crc", None, "train-00000.crc is missing"),
        ("crc", 4, "has 1 checksums of train-00000.bin, not 2"),
        ("crc", 2, "has 6 bytes, not a multiple of 4"),
    ],
)
def test_a_shard_cut_short(kind: str, cut: int | None, message: str) -> None:
    made = packed(THREE)
    file = made.path / f"train-00000.{kind}"
    if cut is None:
        file.unlink()
    else:
        file.write_bytes(file.read_bytes()[:-cut])
    with pytest.raises(Mistake, match=r"its manifest says .*`python pretrain/pack.py --overwrite`"):
        open_artifact("packed", "sample")
    with pytest.raises(Mistake, match=rf"{message}: run `python pretrain/pack.py --overwrite`"):
        PackedRows(made)


def test_an_older_format_is_refused() -> None:
    made = packed(THREE)
    (made.path / "manifest.json").write_text(json.dumps({**made.manifest, "version": 2}))
    with pytest.raises(Mistake, match=r"has format 2, this program reads 3: run `python pretrain/pack.py --overwrite`"):
        open_artifact("packed", "sample")


def test_counts_are_plain() -> None:
    assert json.loads((packed(THREE).path / "manifest.json").read_text())["counts"]["dtype"] == "uint16"
