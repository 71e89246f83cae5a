"""A step that must not reach the weights does not, and a run comes past rows that spoil it.

`make test` takes one rank, and two with ZeRO-2; NARAE_TEST_FULL=1 every stage, number of ranks and precision.
"""

import gc
import json
import math
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import helpers
import numpy as np
import pytest
import torch
from helpers import HOME
from poison import poisoned
from runs import TWO_RANKS, finish, losses, run_folder, same, small_world, weights

from infer.curves import read_run
from narae.log import Mistake, read_metrics
from narae.order import Mixing, order
from pretrain import run
from pretrain.guard import Guard, only_finite
from pretrain.rollback import overtaken, remove_overtaken
from pretrain.segments import Course, Turn, read_course

OPTIONS = (
    "--batch_rows 4 --max_steps 24 --warmup_steps 4 --learning_rate 0.002 --save_steps 5 --eval_strategy no "
    "--logging_steps 1"
)
ROWS = 144


# The rule


def judged(guard: Guard, values: list[float]) -> list[str | None]:
    return [verdict and verdict.reason for verdict in (guard.judge(value, 1.0) for value in values)]


def swinging() -> Guard:
    """Losses of 3.9 and 4.1 in turn: their mean is 4, their deviation 0.1, and 4.6 the limit of 6 sigma."""
    guard = Guard(window=64)
    assert judged(guard, [3.9, 4.1] * 16) == [None] * 32
    return guard


def test_a_spike_is_six_sigma_above_the_mean() -> None:
    assert swinging().limit() == pytest.approx(4.6)
    assert judged(swinging(), [4.59]) == [None]
    assert judged(swinging(), [4.61]) == ["spike"]
    assert judged(swinging(), [0.1]) == [None]  # downwards is no harm
    verdict = swinging().judge(5.0, 2.0)
    assert verdict is not None
    assert (verdict.loss, verdict.grad_norm) == (5.0, 2.0)
    assert (verdict.mean, verdict.sigma) == (pytest.approx(4.0), pytest.approx(0.1))


def test_a_nearly_constant_loss_raises_no_alarm() -> None:
    guard = Guard(window=64)
    judged(guard, [2.0] * 16)
    assert guard.limit() == pytest.approx(2.12)  # a deviation of 1 percent is assumed at least


def test_no_alarm_before_a_quarter_of_the_window_nor_while_the_loss_falls() -> None:
    assert judged(Guard(window=128), [4.0] * 31 + [400.0]) == [None] * 32
    assert judged(Guard(window=128), [4.0] * 32 + [400.0])[-1] == "spike"
    assert judged(Guard(window=16), [4.0] * 15 + [400.0]) == [None] * 16
    assert judged(Guard(window=16), [4.0] * 16 + [400.0])[-1] == "spike"
    falling = [10 * 0.98**step + 0.05 * (-1) ** step for step in range(300)]
    assert judged(Guard(), falling) == [None] * 300


def test_what_is_not_finite_is_bad_from_the_first_step_on() -> None:
    guard = Guard()
    assert judged(guard, [math.nan, math.inf, -math.inf]) == ["nan", "infinity", "infinity"]
    assert guard.skipped == 3
    bad = guard.judge(4.0, math.inf)
    assert bad is not None
    assert (bad.reason, bad.loss, bad.grad_norm) == ("gradient", 4.0, None)
    assert guard.judge(4.0, None) is None
    assert guard.skipped == 0
    assert list(guard.losses) == [4.0]  # bad losses are no measure


def test_zero_sigmas_look_for_no_spike() -> None:
    assert judged(Guard(sigmas=0), [4.0] * 200 + [4e9, math.nan])[-2:] == [None, "nan"]


def test_the_device_and_python_draw_the_line_in_the_same_place() -> None:
    for scale in range(1, 20):  # some of whose limits lie above the next number of fp32, and some below
        guard = Guard(window=64)
        judged(guard, [3.9 * scale, 4.1 * scale] * 16)
        limit = np.float32(guard.limit())
        above = np.nextafter(limit, np.float32(np.inf))
        assert guard.factor(torch.tensor(limit)).item() == 1
        assert guard.factor(torch.tensor(above)).isnan()
        assert guard.judge(float(above), 1.0) is not None
        assert guard.judge(float(limit), 1.0) is None
    guard = Guard()
    assert [guard.factor(torch.tensor(one)).isnan().item() for one in (math.nan, math.inf, -math.inf)] == [True] * 3


def test_a_guard_goes_on_from_its_state() -> None:
    one, other = Guard(window=32), Guard(window=32)
    values = [4 + math.sin(step) / 7 for step in range(50)]
    judged(one, [*values, math.nan])
    other.load(json.loads(json.dumps(one.state())))
    assert (other.limit(), other.skipped) == (one.limit(), 1)
    assert judged(one, values) == judged(other, values)


def test_an_update_by_a_bad_gradient_leaves_no_trace() -> None:
    values = torch.nn.Parameter(torch.ones(2))
    optimizer = torch.optim.AdamW([values])
    only_finite(optimizer, lambda own: own.param_groups[0]["params"][0].grad.norm())
    for gradient, steps, moved in ((1.0, 1, True), (math.nan, 1, False), (2.0, 2, True), (math.inf, 2, False)):
        before = values.detach().clone()
        values.grad = torch.tensor([gradient, 1.0])
        optimizer.step()
        assert optimizer.state[values]["step"] == steps
        assert (not torch.equal(before, values)) == moved


# Rows that are left out

ONE = Mixing((100,), (1,), 7)
TWO = Mixing((40, 60), (1, 1), 7)


def read(course: Course, first: int = 0) -> list[int]:
    return np.concatenate([course.batch(step) for step in range(first, course.steps)]).tolist()


def test_left_out_positions_are_not_read_and_the_steps_stay() -> None:
    straight = Course.of(ONE, 40, 4, [Turn(16, batch_rows=8)])
    course = straight.without(straight.places(2, 4))
    assert course.gaps == ((0, 8, 16),)
    assert (course.steps, course.rows) == (straight.steps, straight.rows) == (7, 40)
    assert [course.position(step) for step in range(8)] == [straight.position(step) for step in range(8)]
    places = [*range(8), *range(16, 48)]
    assert read(course) == order(np.array(places), 100, 7).tolist()
    again = course.without(course.places(2, 3))  # in the same steps other rows were bad, too
    assert again.gaps == ((0, 8, 16), (0, 16, 20))
    assert read(again) == order(np.array([*range(8), *range(20, 52)]), 100, 7).tolist()
    shares = [course.batch(3, rank, 2).tolist() for rank in range(2)]
    assert [*shares[0], *shares[1]] == course.batch(3).tolist()


def test_a_step_around_a_gap_is_left_out_in_pieces() -> None:
    course = Course.of(ONE, 40, 4, gaps=[(0, 6, 10)])
    assert course.batch(1).tolist() == order(np.array([4, 5, 10, 11]), 100, 7).tolist()
    assert course.places(1, 3) == [(0, 4, 6), (0, 10, 16)]


def test_phases_behind_a_gap_read_no_row_twice() -> None:
    course = Course.of(TWO, 60, 10, [Turn(20, weights=(0, 1)), Turn(40, weights=(1, 0))], gaps=[(0, 10, 16)])
    rows = read(course)
    assert len(set(rows)) == 60
    left_out = Course.of(TWO, 60, 1).without([]).segments[0].mixing(np.arange(10, 16))
    assert not set(rows) & set(left_out.tolist())
    assert course.read(2) == (13, 13)  # 26 rows of the first phase are read or left out
    assert course.places(1, 3) == [(0, 16, 26), (1, 0, 10)]


def test_history_tells_who_read_what_is_left_out() -> None:
    straight = Course.of(ONE, 40, 4)
    course = straight.without([(0, 8, 16)])
    assert course.history(2) == straight.history(2)
    assert course.history(3) == [{"step": 0, "batch_rows": 4, "weights": [1], "skipped": [[8, 16]]}]
    assert not overtaken(straight.history(2), course.history(2))
    assert overtaken(straight.history(3), course.history(3))
    assert not overtaken(course.history(3), straight.history(3))
    assert not overtaken(Course.of(ONE, 40, 8).history(3), course.history(3))  # that is another mistake
    assert overtaken(course.history(4), course.without([(0, 16, 20)]).history(4))


def test_a_checkpoint_that_is_overtaken_is_removed(tmp_path: Path) -> None:
    """A kill may come between the audit record and the removal."""
    straight = Course.of(ONE, 40, 4)
    for step in (2, 3):
        (tmp_path / f"checkpoint-{step}").mkdir()
        (tmp_path / f"checkpoint-{step}" / "course.json").write_text(json.dumps({"history": straight.history(step)}))
    remove_overtaken(tmp_path, straight)
    assert (tmp_path / "checkpoint-3").exists()
    remove_overtaken(tmp_path, straight.without([(0, 8, 16)]))
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint-2"]


# Runs


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    handlers = {one: signal.getsignal(one) for one in (signal.SIGTERM, signal.SIGUSR1)}
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with small_world(tmp_path_factory.mktemp("guard")) as folder:
        yield folder
    torch.set_num_threads(threads)
    for one, handler in handlers.items():
        signal.signal(one, handler)


def row(step: int) -> int:
    """The last of the rows that a step reads, steps counted from 1."""
    return int(order(np.array([4 * step - 1]), ROWS, 42)[0])


def train(world: Path, name: str, *words: str, **spec: Any) -> int:
    """In this process; what it would exit with."""
    code = 0
    with poisoned(**spec):
        phi = ("--model_config", str(world / "phi.json"), "--per_device_train_batch_size", "2", "--no_bf16")
        try:
            helpers.call(run.main, "--name", name, *phi, *OPTIONS.split(), *words)
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else 1
    gc.collect()  # the folder's lock goes with its owner
    return code


def left_out_from_the_beginning(name: str, *gaps: tuple[int, int]) -> None:
    record = {"kind": "rollback", "to": 0, "left_out": [[0, first, stop] for first, stop in gaps]}
    run_folder(name).mkdir(parents=True)
    (run_folder(name) / "skipped.jsonl").write_text(json.dumps(record) + "\n")


def audit(name: str, kind: str) -> list[dict[str, Any]]:
    return [one for one in read_metrics(run_folder(name) / "skipped.jsonl") if one["kind"] == kind]


def saved(name: str) -> list[int]:
    return [one["step"] for one in read_metrics(run_folder(name) / "metrics.jsonl") if one["kind"] == "save"]


@pytest.fixture(scope="module")
def undisturbed(world: Path) -> dict[str, torch.Tensor]:
    """Steps 8 to 11 read positions 28 to 44; here nobody ever reads them."""
    left_out_from_the_beginning("undisturbed", (28, 44))
    assert train(world, "undisturbed") == 0
    return weights("undisturbed")


FOUR = {row(8): "nan", row(9): "nan", row(10): "inf", row(11): "nan"}


def test_a_skipped_step_changes_nothing(world: Path) -> None:
    """NaN in the first of two micro-batches or the last; a spike; the schedule goes on."""
    first = int(order(np.array([28]), ROWS, 42)[0])
    spike = ("--spike_window", "16")
    assert train(world, "nan", *spike, rows={first: "nan", row(20): 1e4}) == 0
    assert train(world, "reference", *spike, left_out=(8, 20)) == 0
    assert same(weights("nan"), weights("reference"))
    said = audit("nan", "skip")
    assert [(one["step"], one["reason"], one["places"]) for one in said] == [
        (8, "nan", [[0, 28, 32]]),
        (20, "spike", [[0, 76, 80]]),
    ]
    assert said[1]["loss"] > 1000 > 10 * said[1]["mean"]
    met, expected = losses("nan"), losses("reference")
    assert met.pop(8) is None
    assert met.pop(20) == pytest.approx(said[1]["loss"], abs=1e-5)
    assert met == {step: value for step, value in expected.items() if step not in (8, 20)}
    # From the row to its documents
    told = audit("nan", "documents")[0]
    assert [one["row"] for one in told["rows"]] == said[0]["rows"] == order(np.arange(28, 32), ROWS, 42).tolist()
    assert all(one["packed"] == "sample" and one["documents"] for one in told["rows"])
    kept = read_course(run_folder("nan") / "checkpoint-20")["guard"]
    assert kept["skipped"] == 1
    assert [round(one, 5) for one in kept["losses"]] == [met[step] for step in range(3, 20) if step != 8]


def test_another_mixture_is_judged_by_its_own_losses(world: Path) -> None:
    assert train(world, "phases", "--max_steps", "22", "--phases", "50%=sample") == 0
    assert len(read_course(run_folder("phases") / "checkpoint-22")["guard"]["losses"]) == 11


def test_rows_that_spoil_four_steps_are_left_out(world: Path, undisturbed: dict[str, torch.Tensor]) -> None:
    assert train(world, "back", "--dataloader_num_workers", "2", rows=FOUR) == 0
    assert same(weights("back"), undisturbed)
    assert losses("back") == losses("undisturbed")
    assert [one["step"] for one in audit("back", "skip")] == [8, 9, 10]
    (event,) = audit("back", "rollback")
    assert (event["to"], event["left_out"], event["action"]) == (5, [[0, 28, 44]], "rolled back to checkpoint-5")
    assert event["rows"] == order(np.arange(28, 44), ROWS, 42).tolist()
    assert saved("back") == [5, 10, 10, 15, 20, 24]
    kept = [read_course(run_folder(name) / "checkpoint-20")["guard"] for name in ("back", "undisturbed")]
    assert kept[0] == kept[1]
    shown = read_run("back", run_folder("back"), None)  # as the page does
    assert (shown.skipped, len(shown.rollbacks)) == (3, 1)
    (run_folder("back") / "skipped.jsonl").unlink()
    with poisoned(), pytest.raises(Mistake, match=r"checkpoint-24 was reached without rows that .*skipped\.jsonl"):
        phi = ("--model_config", str(world / "phi.json"), "--per_device_train_batch_size", "2", "--no_bf16")
        helpers.call(run.main, "--name", "back", *phi, *OPTIONS.replace("24", "30").split())


def test_a_run_that_broke_off_between_bad_steps_decides_alike(
    world: Path, undisturbed: dict[str, torch.Tensor]
) -> None:
    """Two bad steps are behind it, and their checkpoints do not push out the one that is needed."""
    words = ("--save_steps", "1", "--save_total_limit", "2")
    with pytest.raises(RuntimeError, match="broken off"):
        train(world, "broken", *words, rows=FOUR, dies_at=row(10))
    gc.collect()
    names = sorted(path.name for path in run_folder("broken").glob("checkpoint-*"))
    assert names == ["checkpoint-7", "checkpoint-8", "checkpoint-9"]
    assert train(world, "broken", *words, rows=FOUR) == 0
    assert [(one["step"], one["to"]) for one in audit("broken", "rollback")] == [(11, 7)]
    assert same(weights("broken"), undisturbed)


def test_a_run_that_broke_off_behind_a_rollback_goes_on_without_the_rows(
    world: Path, undisturbed: dict[str, torch.Tensor]
) -> None:
    with pytest.raises(RuntimeError, match="broken off"):
        train(world, "behind", "--logging_steps", "2", rows=FOUR, dies_at=row(12))  # which the new step 8 reads
    assert losses("behind")[8] == losses("undisturbed")[7]  # the mean of steps 7 and 8, of which one is a number
    gc.collect()
    assert [path.name for path in run_folder("behind").glob("checkpoint-*")] == ["checkpoint-5"]
    assert train(world, "behind", rows=FOUR) == 0
    assert len(audit("behind", "rollback")) == 1
    assert same(weights("behind"), undisturbed)


def test_without_a_checkpoint_the_next_start_begins_anew(world: Path) -> None:
    words = ("--max_skips", "0")
    assert train(world, "anew", *words, rows={row(3): "nan"}) == 85
    (event,) = audit("anew", "rollback")
    assert (event["to"], event["left_out"]) == (0, [[0, 8, 12]])
    assert train(world, "anew", *words, rows={row(3): "nan"}) == 0
    left_out_from_the_beginning("anew-straight", (8, 12))
    assert train(world, "anew-straight", *words) == 0
    assert same(weights("anew"), weights("anew-straight"))


def test_it_does_not_go_back_for_ever(world: Path) -> None:
    every = dict.fromkeys(order(np.arange(28, 144), ROWS, 42).tolist(), "nan")
    assert train(world, "hopeless", "--max_skips", "0", "--save_steps", "4", rows=every) == 1
    assert [(one["step"], one["to"]) for one in audit("hopeless", "rollback")] == [(8, 4)] * 3
    assert saved("hopeless") == [4]  # step 8 is given up before it is saved
    assert not (run_folder("hopeless") / "final").exists()


def start(world: Path, name: str, ranks: list[str], *words: str, **spec: Any) -> None:
    script = [*ranks, str(Path(__file__).with_name("poison.py")), json.dumps(spec), str(HOME / "pretrain/run.py")]
    script += ["--name", name, "--model_config", str(world / "phi.json"), *OPTIONS.split(), *words]
    where = {**os.environ, "PYTHONPATH": os.pathsep.join([str(HOME), str(HOME / "tests")])}
    finish(subprocess.Popen(script, cwd=world, env=where, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True))


SAMPLE = ["zero2-2-bf16"]
FULL = [
    *(f"{kind}-{ranks}-{dtype}" for kind in ("plain", "zero0", "zero1", "zero2", "zero3") for ranks in (1, 2)
      for dtype in ("fp32", "bf16")),
    *(f"{kind}-2-{dtype}-muon" for kind in ("plain", "zero0", "zero1", "zero2", "zero3") for dtype in ("fp32", "bf16")),
]  # fmt: skip


@pytest.mark.parametrize("case", FULL if os.environ.get("NARAE_TEST_FULL") else SAMPLE)
def test_every_way_to_train_skips_and_goes_back(case: str, world: Path) -> None:
    """Step 4 is skipped; steps 8 and 9 are left out."""
    kind, ranks, dtype, *muon = case.split("-")
    words = ["--per_device_train_batch_size", "1" if ranks == "2" else "2", "--max_skips", "1"]
    words += ["--no_bf16"] * (dtype == "fp32") + ["--optimizer", "muon"] * bool(muon)
    if kind != "plain":
        pytest.importorskip("deepspeed")
        words += ["--deepspeed", f"configs/ds/{kind}.json"]
    how = TWO_RANKS if ranks == "2" else [sys.executable]
    start(world, case, how, *words, rows={row(4): "nan", row(8): "nan", row(9): "inf"})
    left_out_from_the_beginning(f"{case}-straight", (28, 36))
    start(world, f"{case}-straight", how, *words, left_out=[4])
    assert [(one["step"], one["to"]) for one in audit(case, "rollback")] == [(9, 5)]
    assert [one["step"] for one in audit(case, "skip")] == [4, 8]
    assert same(weights(case), weights(f"{case}-straight"))
