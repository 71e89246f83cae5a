"""An order that loses and repeats nothing, mixtures that are exact, and a cursor that computes instead of counting."""

import dataclasses
import json
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from narae.log import Mistake
from narae.order import Cursor, Mixing, batch, order, whole_weights


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
    steps, alone_rows = 3 * rows, Mixing((rows,), (1,), seed=5)
    alone = np.concatenate([batch(alone_rows, step, global_batch) for step in range(steps)])
    assert alone.tolist() == order(np.arange(steps * global_batch), rows, 5).tolist()
    for ranks in (2, 4):
        shared = [batch(alone_rows, step, global_batch, rank, ranks) for step in range(steps) for rank in range(ranks)]
        assert all(len(part) == global_batch // ranks for part in shared)
        assert np.concatenate(shared).tolist() == alone.tolist()
    for epoch in alone[: len(alone) // rows * rows].reshape(-1, rows):
        assert sorted(epoch.tolist()) == list(range(rows))


def test_a_batch_that_cannot_be_shared_evenly() -> None:
    mixing = Mixing((100,), (1,), 0)
    parts = [batch(mixing, 3, 10, rank, 4) for rank in range(4)]
    assert [len(part) for part in parts] == [3, 3, 2, 2]
    assert np.concatenate(parts).tolist() == batch(mixing, 3, 10).tolist()
    with pytest.raises(Mistake, match="a batch of 3 rows leaves some of 4 ranks without any"):
        batch(mixing, 0, 3, 0, 4)


def test_any_depth_costs_the_same() -> None:
    """Not its time decides but that it ends: going through a trillion positions would not."""
    mixing = Mixing((10**9 + 7, 10**6), (7, 3), seed=1)
    cursor = Cursor().without(5, 10**11)
    assert len(batch(mixing, 10**9, 1024, start=cursor)) == 1024


def test_turns_by_hand() -> None:
    mixing = Mixing((5, 2), (2, 1), seed=9)
    sets, draws = mixing.split(np.arange(9))
    # floor(position × 2 / 3) grows from 1 to 2 and from 2 to 3, then not from 3 on to 4
    assert sets.tolist() == [1, 0, 0, 1, 0, 0, 1, 0, 0]
    assert draws.tolist() == [0, 0, 1, 1, 2, 3, 2, 4, 5]
    first, second = order(np.arange(6), 5, 9).tolist(), (5 + order(np.arange(3), 2, 10)).tolist()
    assert mixing(np.arange(9)).tolist() == [
        second[0], *first[:2], second[1], *first[2:4], second[2], *first[4:],
    ]  # fmt: skip
    assert mixing.progress(9) == [(1, 1), (1, 1)]  # six draws of five rows, three of two
    assert mixing.progress(0) == [(0, 0), (0, 0)]


WEIGHTS = st.lists(st.integers(1, 1000), min_size=1, max_size=5)


@given(WEIGHTS, st.integers(0, 10**12), st.integers(1, 300))
def test_every_set_has_its_share_at_any_depth(weights: list[int], depth: int, window: int) -> None:
    mixing = Mixing((1,) * len(weights), tuple(weights), seed=0)
    sets, draws = mixing.split(np.arange(depth, depth + window))
    bound = max(1, len(weights) - 1)
    for number, weight in enumerate(weights):
        mine = draws[sets == number]
        assert np.array_equal(mine, np.arange(mine.size) + (mine[0] if mine.size else 0))  # no draw missed or repeated
        for place in np.flatnonzero(sets == number):
            assert abs(draws[place] - Fraction((depth + int(place)) * weight, sum(weights))) < bound
        assert abs(mine.size - Fraction(window * weight, sum(weights))) < 2 * bound


def test_the_largest_numbers_stay_exact() -> None:
    """Against Python's integers, which have no end."""
    weights = (1_234_567_891, 765_432_109)
    begin = 10**12
    sets, draws = Mixing((1, 1), weights, seed=0).split(np.arange(begin, begin + 100))
    for place, number, draw in zip(range(begin, begin + 100), sets, draws, strict=True):
        before, after = ((place + more) * weights[0] // 2_000_000_000 for more in (0, 1))
        assert (number, draw) == ((0, before) if after > before else (1, place - before))


@given(st.lists(st.tuples(st.integers(1, 20), st.integers(1, 9)), min_size=1, max_size=4), st.integers(0, 99))
def test_every_row_of_every_set_once_in_its_epoch(sets: list[tuple[int, int]], seed: int) -> None:
    rows, weights = zip(*sets, strict=True)
    mixing = Mixing(rows, weights, seed)
    read = mixing(np.arange(400)).tolist()
    first = 0
    for number, count in enumerate(rows):
        mine = [row - first for row in read if first <= row < first + count]
        if mine:
            assert mine == order(np.arange(len(mine)), count, seed + number).tolist()
        for begin in range(0, len(mine), count):
            epoch = mine[begin : begin + count]
            assert len(set(epoch)) == len(epoch)
        assert divmod(len(mine), count) == mixing.progress(400)[number]
        first += count
    assert [int(mixing(np.array([position]))[0]) for position in range(0, 400, 17)] == read[::17]


def test_weights_as_they_are_written() -> None:
    assert whole_weights(["0.7", "0.3"]) == (7, 3)
    assert whole_weights(["1", "1", "2"]) == (1, 1, 2)
    assert whole_weights(["1/3", "0.5"]) == (2, 3)
    assert whole_weights(["4"]) == (1,)
    for wrong, message in (("x", "a weight of 'x'"), ("nan", "a weight of 'nan'"), ("0", "above 0"), ("-1", "above 0")):
        with pytest.raises(Mistake, match=message):
            whole_weights(["1", wrong])
    with pytest.raises(Mistake, match=r"weights 0.3333333333, 0.6666666668: .*round them"):
        whole_weights(["0.3333333333", "0.6666666668"])


def test_left_out_by_hand() -> None:
    cursor = Cursor(3).without(5, 7).without(10, 11).without(0, 2)
    assert cursor.skipped == ((0, 2), (5, 7), (10, 11))
    assert cursor.positions(0, 7).tolist() == [3, 4, 7, 8, 9, 11, 12]
    assert cursor.positions(2, 2).tolist() == [7, 8]
    assert cursor.without(6, 10).skipped == ((0, 2), (5, 11))
    assert cursor.without(4, 4) == cursor
    assert Cursor(6, cursor.skipped).positions(0, 2).tolist() == [7, 8]
    assert (cursor.after(2).position, cursor.after(0)) == (7, cursor)
    assert Cursor.of(json.loads(json.dumps(dataclasses.asdict(cursor)))) == cursor


SPANS = st.lists(st.tuples(st.integers(0, 300), st.integers(0, 30)), max_size=6)


@given(SPANS, st.integers(0, 200), st.integers(0, 50), st.integers(0, 50))
def test_left_out_against_counting(spans: list[tuple[int, int]], position: int, begin: int, count: int) -> None:
    cursor = Cursor(position)
    for first, length in spans:
        cursor = cursor.without(first, first + length)
    gone = {place for first, length in spans for place in range(first, first + length)}
    left = [place for place in range(position, 1000) if place not in gone]
    assert cursor.positions(begin, count).tolist() == left[begin : begin + count]
    assert cursor.after(begin).positions(0, count).tolist() == left[begin : begin + count]


def test_ranks_agree_on_what_is_left_out() -> None:
    mixing = Mixing((30, 10), (7, 3), seed=4)
    start = Cursor(8).without(16, 24)
    kept = [place for place in range(8, 200) if not 16 <= place < 24]
    for ranks in (1, 2, 4):
        read = [
            int(row)
            for step in range(20)
            for rank in range(ranks)
            for row in batch(mixing, step, 8, rank, ranks, start)
        ]
        assert read == mixing(np.array(kept[:160])).tolist()
    # where a checkpoint's cursor goes on is what the run without a stop reads
    assert batch(mixing, 0, 8, start=start.after(40)).tolist() == batch(mixing, 5, 8, start=start).tolist()
