"""A run's course: what each step reads is a matter of arithmetic, through ramps and phases alike."""

import numpy as np
import pytest

from narae.log import Mistake
from narae.order import Mixing, order
from pretrain.segments import Course, Turn, count_of, fingerprint, turns_of

ONE = Mixing((100,), (1,), 7)
TWO = Mixing((40, 60), (1, 1), 7)


def test_one_segment_is_the_order_itself() -> None:
    course = Course.of(ONE, 50, 8)
    assert course.steps == 7  # 56 rows: at least 50
    assert course.rows == 56
    read = np.concatenate([course.batch(step) for step in range(7)])
    assert (read == order(np.arange(56), 100, 7)).all()


def test_a_ramp_reads_the_same_rows_in_other_steps() -> None:
    course = Course.of(ONE, 40, 4, [Turn(8, batch_rows=8), Turn(20, batch_rows=16)])
    sizes = [len(course.batch(step)) for step in range(course.steps)]
    # 2 × 4 rows up to 8; the turn at 20 is taken behind the step that passes it, at 24
    assert sizes == [4, 4, 8, 8, 16]
    assert [course.position(step) for step in range(6)] == [0, 4, 8, 16, 24, 40]
    read = np.concatenate([course.batch(step) for step in range(course.steps)])
    assert (read == order(np.arange(40), 100, 7)).all()


def test_ranks_share_each_step() -> None:
    course = Course.of(TWO, 64, 8, [Turn(16, batch_rows=16), Turn(32, weights=(0, 1))])
    for step in range(course.steps):
        shares = [course.batch(step, rank, 4) for rank in range(4)]
        assert (np.concatenate(shares) == course.batch(step)).all()


def test_a_phase_goes_on_in_each_set_where_it_was() -> None:
    course = Course.of(TWO, 60, 10, [Turn(20, weights=(0, 1)), Turn(40, weights=(1, 0))])
    assert course.read(2) == (10, 10)
    assert course.read(4) == (10, 30)
    assert course.read(6) == (30, 30)
    read = [course.batch(step) for step in range(6)]
    assert (np.concatenate(read[2:4]) >= 40).all()  # rows of the second set are numbered from 40 on
    assert (np.concatenate(read[4:]) < 40).all()
    every = np.concatenate(read)
    assert len(set(every.tolist())) == 60  # no row of either set came twice
    second = every[every >= 40] - 40
    assert (second == order(np.arange(30), 60, 8)).all()  # the second set's own order, without a gap


def test_a_ramp_inside_a_phase_does_not_start_it_again() -> None:
    plain = Course.of(TWO, 80, 8, [Turn(16, weights=(1, 3))])
    ramped = Course.of(TWO, 80, 8, [Turn(16, weights=(1, 3)), Turn(32, batch_rows=16)])
    assert ramped.steps < plain.steps
    rows = [np.concatenate([one.batch(step) for step in range(one.steps)]) for one in (plain, ramped)]
    assert (rows[0] == rows[1]).all()


def test_history_is_what_was_read() -> None:
    turns = [Turn(16, batch_rows=16), Turn(48, weights=(1, 3))]
    short, long = Course.of(TWO, 64, 8, turns), Course.of(TWO, 640, 8, turns)
    assert short.history(short.steps) == long.history(short.steps)
    assert long.history(1) == [{"step": 0, "batch_rows": 8, "weights": [1, 1]}]
    moved = Course.of(TWO, 640, 8, [Turn(160, batch_rows=16), Turn(480, weights=(1, 3))])
    assert moved.history(short.steps) != short.history(short.steps)


def test_fingerprints_add_up_and_see_order() -> None:
    rows = ONE(np.arange(24))
    whole = fingerprint(0, rows)
    assert whole == fingerprint(0, rows[:10]) + fingerprint(10, rows[10:])
    turned = rows.copy()
    turned[[3, 4]] = turned[[4, 3]]
    assert fingerprint(0, turned) != whole
    assert fingerprint(1, rows) != whole


@pytest.mark.parametrize(
    ("word", "count"),
    [("10B", 10**10), ("2.5m", 2_500_000), ("300k", 300_000), ("1_000_000", 10**6), ("1e9", 10**9), ("7", 7)],
)
def test_counts(word: str, count: int) -> None:
    assert count_of(word, "--train_tokens") == count


def test_turns_in_tokens_and_as_shares() -> None:
    found = turns_of(["1k=128 50%=256"], "--batch_ramp", rows=100, row_tokens=32)
    assert found == [(32, "128"), (50, "256")]  # 1,000 tokens are 31.25 rows


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["many"], "START=VALUE is needed"),
        (["10 B=4"], "START=VALUE is needed"),
        (["x=4"], "a number of tokens is needed, such as 10B"),
        (["x%=4"], "x% is no share of the run"),
        (["100%=4"], "does not lie inside the run, which has 3,200 tokens"),
        (["0=4"], "does not lie inside the run"),
        (["50%=4", "20%=8"], "it begins before the one in front of it"),
    ],
)
def test_turns_that_are_none(words: list[str], message: str) -> None:
    with pytest.raises(Mistake, match=message):
        turns_of(words, "--phases", rows=100, row_tokens=32)
