"""Curves, numbers and pieces of the report, without artifacts."""

import json
from pathlib import Path

from infer.charts import Series, line_chart, short, ticks, whole
from infer.curves import LIMIT, Curve, read_run
from infer.samples import cut, interval


def test_a_curve_is_bucket_means() -> None:
    curve = Curve()
    for step in range(1, LIMIT + 2):
        curve.add(step, step, 2.0 * step)
    assert len(curve.points) == LIMIT // 2 + 1
    assert curve.points[0] == (1.5, 3.0)
    assert curve.points[-1] == (601.0, 1202.0)
    for step in range(LIMIT + 2, 100_000):
        curve.add(step, step, 1.0)
    assert LIMIT // 2 <= len(curve.points) <= LIMIT


def test_a_resumed_run_forgets_the_repeated_steps_and_the_night_between(tmp_path: Path) -> None:
    def line(kind: str, time: float, **values: float) -> str:
        return json.dumps({"kind": kind, "time": time, **values})

    lines = [line("start", 0.0)]
    lines += [line("train", 10.0 * step, step=step, tokens=step, loss=float(step)) for step in (1, 2, 3)]
    lines += [line("start", 50_000.0), line("train", 50_010.0, step=2, tokens=2, loss=7.0), '{"kind": "train", "st']
    lines += ["[]", "nonsense", line("train", 50_020.0, step=3, tokens=3, loss=float("nan"))]
    lines += [line("train", 50_020.0, step=10**400, loss=True)]
    (tmp_path / "metrics.jsonl").write_text("\n".join(lines))
    found = read_run("x", tmp_path, None)
    assert found.loss.points == [(1.0, 1.0), (2.0, 7.0)]
    assert found.seconds == 50.0
    assert found.not_numbers == 2
    assert found.tokens == 3


def test_numbers() -> None:
    assert whole(1234567) == "1\u202f234\u202f567"
    assert short(1234567) == "1.23\u202fM"
    assert short(9999) == "9\u202f999"
    assert ticks(0, 10) == [0, 2.5, 5, 7.5, 10]
    assert ticks(3, 3)[0] <= 3 <= ticks(3, 3)[-1]
    low, high = interval(50, 100)  # the textbooks' example
    assert (round(low, 3), round(high, 3)) == (0.404, 0.596)
    assert interval(0, 10)[0] == 0.0
    assert interval(0, 0) == (0.0, 1.0)


def test_pieces_are_the_sentence() -> None:
    # 값 is three bytes, each a token; the space before 이 belongs to the token after it.
    assert cut("값 이", [(0, 1), (0, 1), (0, 1), (1, 3)]) == [("값", 3), (" 이", 1)]
    assert cut("가 ", [(0, 1)]) == [("가", 1), (" ", 0)]


def test_a_chart_draws_where_the_values_are() -> None:
    drawn = line_chart("Loss", [Series("train", [(0, 8), (100, 0)], "faint")], "tokens")
    assert 'points="0.0,0.0 1000.0,1000.0"' in drawn
    assert 'data-right="100" data-bottom="0" data-top="8"' in drawn
    assert line_chart("Loss", [Series("train", [], "faint")], "tokens") == ""
    assert "nan" not in line_chart("Loss", [Series("train", [(0, 2), (0, 2)], "faint")], "tokens")
