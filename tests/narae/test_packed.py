"""The packed format byte by byte, where a token came from, and an order that loses and repeats nothing."""

import json
import pickle
import time

import helpers
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from narae import artifact
from narae.artifact import Artifact, open_artifact
from narae.documents import read_documents, shards
from narae.log import Mistake
from narae.packed import PackedRows, PackedWriter, batch, dtype_for, order

pytestmark = pytest.mark.usefixtures("artifacts")
PAD = 1


def packed(documents: list[list[int]], sequence_length: int = 4, shard_rows: int = 2, entries: int = 300) -> Artifact:
    """Documents of these ids in train, the third of the corpus's left out as if it were empty; nothing in val."""
    texts = [str(number) for number in range(len(documents) + 1)]
    corpus = helpers.corpus(texts, [], shard_bytes=3)  # three documents in a shard
    draft = artifact.begin("packed", "sample", {}, [corpus], overwrite=True)
    assert draft is not None
    with draft:
        dtype = dtype_for(entries)
        draft.counts.update(dtype=dtype.name, sequence_length=sequence_length)
        for split, some in (("train", documents), ("val", [])):
            ordinals = np.array([number + (number >= 2) for number in range(len(some))], np.int64)
            with PackedWriter(draft.path, split, dtype, sequence_length, shard_rows, PAD) as writer:
                for number, ids in enumerate(some):
                    writer.write(np.array(ids), np.array([len(ids)]), ordinals[number : number + 1])
            in_shards = [sum(1 for _ in read_documents([file])) for file in shards(corpus.path, split)]
            draft.counts[split] = {**writer.counts, "corpus_shards": in_shards}
    return open_artifact("packed", "sample")


THREE = [[10, 11, 0], [20, 21, 22, 23, 24, 25, 26, 27, 28, 29, 0], [30, 31, 32, 0]]


def test_bytes_on_disk() -> None:
    folder = packed(THREE).path
    assert sorted(file.name for file in folder.glob("train-*")) == [
        f"train-0000{shard}.{kind}" for shard in range(3) for kind in ("bin", "idx")
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


@settings(deadline=None)
@given(st.lists(st.integers(1, 40), min_size=1, max_size=30), st.integers(2, 9), st.integers(1, 5), st.integers(1, 9))
def test_what_is_written_is_read(
    tmp_path_factory: pytest.TempPathFactory, lengths: list[int], sequence_length: int, shard_rows: int, at_once: int
) -> None:
    folder = tmp_path_factory.mktemp("packed")
    ids = np.arange(sum(lengths)) + 10
    with PackedWriter(folder, "train", dtype_for(300_000), sequence_length, shard_rows, PAD) as writer:
        begin = 0
        for first in range(0, len(lengths), at_once):
            some = np.array(lengths[first : first + at_once])
            writer.write(ids[begin : begin + some.sum()], some, np.arange(first, first + some.size))
            begin += some.sum()
    counts = {"dtype": "uint32", "sequence_length": sequence_length, "train": writer.counts}
    rows = PackedRows(Artifact(folder, {"counts": counts}))
    whole = np.concatenate([rows[row] for row in range(len(rows))])
    owners = np.concatenate([rows.documents(row) for row in range(len(rows))])
    assert whole[: ids.size].tolist() == ids.tolist()
    assert owners[: ids.size].tolist() == np.repeat(np.arange(len(lengths)), lengths).tolist()
    assert whole[ids.size :].tolist() == [PAD] * writer.padding
    assert owners[ids.size :].tolist() == [-1] * writer.padding
    assert writer.padding < sequence_length


def test_a_worker_maps_the_files_again() -> None:
    rows = PackedRows(packed(THREE))
    frozen = pickle.dumps(rows)
    assert np.array_equal(pickle.loads(frozen)[3], rows[3])
    assert b"memmap" not in frozen


def test_fewer_rows_than_the_manifest_says() -> None:
    made = packed(THREE)
    (made.path / "train-00002.bin").unlink()
    with pytest.raises(Mistake, match="has 4 rows, its manifest says 5"):
        PackedRows(made)


@pytest.mark.parametrize("rows", [*range(1, 70), 97, 1000, 1024, 7919, 65_536, 100_003])
def test_every_epoch_is_a_permutation(rows: int) -> None:
    for seed in (0, 1, -5, 2**63):
        epochs = order(np.arange(3 * rows), rows, seed).reshape(3, rows)
        for epoch in epochs:
            assert np.array_equal(np.sort(epoch), np.arange(rows))
        if rows > 50:
            assert not np.array_equal(epochs[0], epochs[1])
            assert not np.array_equal(epochs[1], epochs[2])
    if rows > 50:
        assert not np.array_equal(order(np.arange(rows), rows, 0), order(np.arange(rows), rows, 1))


def test_the_order_is_mixed_and_stays_as_it_is() -> None:
    rows = 10_007
    first = order(np.arange(rows), rows, 42)
    assert abs(np.corrcoef(first, np.arange(rows))[0, 1]) < 0.05
    assert abs(np.abs(np.diff(first)).mean() / rows - 1 / 3) < 0.02  # two random points on a line are a third apart
    # A resumed run must meet the order that it was begun with: these numbers may never change.
    assert order(np.arange(8), 10, 7).tolist() == FROZEN


FROZEN = [2, 7, 6, 1, 5, 9, 0, 4]


def test_one_position_is_as_good_as_many() -> None:
    many = order(np.arange(90, 110), 100, 3)
    assert [int(order(position, 100, 3)[0]) for position in range(90, 110)] == many.tolist()
    with pytest.raises(Mistake, match="nothing to read"):
        order(0, 0, 1)


@pytest.mark.parametrize(("rows", "global_batch"), [(10, 4), (7, 8), (1, 4), (100, 12)])
def test_ranks_share_the_same_global_order(rows: int, global_batch: int) -> None:
    steps = 3 * rows
    alone = np.concatenate([batch(step, global_batch, 0, 1, rows=rows, seed=5) for step in range(steps)])
    for ranks in (2, 4):
        shared = [
            batch(step, global_batch, rank, ranks, rows=rows, seed=5) for step in range(steps) for rank in range(ranks)
        ]
        assert all(len(part) == global_batch // ranks for part in shared)
        assert np.concatenate(shared).tolist() == alone.tolist()
    for epoch in alone[: len(alone) // rows * rows].reshape(-1, rows):
        assert sorted(epoch.tolist()) == list(range(rows))


def test_a_batch_that_cannot_be_shared() -> None:
    with pytest.raises(Mistake, match="a global batch of 10 rows cannot be shared evenly by 4 ranks"):
        batch(0, 10, 0, 4, rows=100, seed=0)


def test_any_depth_costs_the_same() -> None:
    batch(0, 1024, 0, 1, rows=10**9 + 7, seed=1)
    began = time.perf_counter()
    batch(10**12, 1024, 0, 1, rows=10**9 + 7, seed=1)
    assert time.perf_counter() - began < 0.05


def test_counts_are_plain() -> None:
    assert json.loads((packed(THREE).path / "manifest.json").read_text())["counts"]["dtype"] == "uint16"
