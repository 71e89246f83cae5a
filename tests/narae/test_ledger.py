"""The goodput ledger of attempts made by hand: each number follows from the times in the records."""

import json
import os
import random
from pathlib import Path
from typing import Any

import pytest
from helpers import call

from narae import ledger
from narae.ledger import CAUSES, Ledger, read
from narae.log import Metrics, Mistake, read_metrics

FAR = 10.0**6


def write(folder: Path, *records: tuple[str, float, dict[str, Any]], alive: float | None = None) -> None:
    folder.mkdir(exist_ok=True)
    lines = [json.dumps({"kind": kind, "time": time, **words}) + "\n" for kind, time, words in records]
    (folder / "metrics.jsonl").write_text("".join(lines), encoding="utf-8")
    if alive is not None:
        (folder / ".alive").touch()
        os.utime(folder / ".alive", (alive, alive))


def known(folder: Path, now: float = FAR) -> Ledger:
    found = read(folder, now)
    assert found is not None
    return found


def seconds(found: Ledger) -> dict[str, float]:
    return {cause: amount / 1000 for cause, amount in found.spent.items() if amount}


# Nodes at 100, the process at 130, training from 150 to 250, killed at 260; the next one at 300 goes back to step 10.
KILLED = [
    ("open", 131.0, {}),
    ("start", 140.0, {"step": 0, "began": 130.0, "allocated": 100}),
    ("ready", 150.0, {"step": 0}),
    ("train", 190.0, {"step": 10, "seconds": 40.0}),
    ("save", 195.0, {"step": 10, "seconds": 5.0, "best": True}),
    ("train", 245.0, {"step": 20, "seconds": 50.0}),
]
AGAIN = [
    ("open", 301.0, {"last_alive": 260.0}),
    ("start", 310.0, {"step": 10, "began": 300.0}),
    ("ready", 320.0, {"step": 10}),
    ("train", 370.0, {"step": 20, "seconds": 49.0}),
    ("eval", 378.0, {"step": 20, "seconds": 7.5}),
    ("sample", 381.0, {"step": 20, "prompt": "가", "text": "나"}),
    ("samples", 382.0, {"step": 20, "seconds": 4.0}),
    ("end", 383.0, {"step": 20, "seconds": 83.0}),
]


def test_every_second_of_a_killed_and_a_finished_attempt(tmp_path: Path) -> None:
    write(tmp_path, *KILLED, *AGAIN, alive=390.0)
    found = known(tmp_path)
    assert seconds(found) == {
        "training": 40 + 49,
        "again": 50,  # steps 11 to 20 of the first attempt
        "waiting": 30,
        "starting": 20 + 20,
        "evaluation": 7.5,
        "samples": 4,
        "saving": 5,
        "dying": 15,  # 245 to 260
        "other": 1 + 0.5 + 1,
    }
    assert found.allocated == 1000 * ((260 - 100) + (383 - 300))
    assert found.pauses == 1000 * (300 - 260)
    assert found.goodput == pytest.approx(89 / 243)
    first, second = found.attempts
    assert (first.end, first.first, first.last) == ("killed", 0, 20)
    assert (second.end, second.first, second.last) == ("finished", 10, 20)
    assert found.complete
    assert found.lines()[0] == (
        "goodput 36.6 % of 4 min: training done again 20.6 %, starting 16.5 %, waiting for the job's start 12.3 %, "
        "unrecorded before a kill 6.2 %, evaluation 3.1 %, saving 2.1 %, samples 1.6 %, other 1.0 %"
    )


def test_a_checkpoint_within_a_record_divides_it(tmp_path: Path) -> None:
    back = [("start", 300.0, {"step": 13, "began": 300.0})]
    write(tmp_path, *KILLED, *back, ("end", 300.0, {"step": 13}))
    assert seconds(known(tmp_path))["training"] == 40 + 50 * 3 / 10
    # A third attempt that goes back further takes more away, from both
    again = [("train", 340.0, {"step": 15, "seconds": 40.0}), ("start", 400.0, {"step": 5, "began": 400.0})]
    write(tmp_path, *KILLED, *back, *again)
    assert seconds(known(tmp_path))["training"] == 40 / 2
    assert seconds(known(tmp_path))["again"] == 40 / 2 + 50 + 40


def test_a_running_attempt_lasts_until_now_and_a_silent_one_until_its_last_sign(tmp_path: Path) -> None:
    write(tmp_path, *KILLED, alive=259.0)
    running = known(tmp_path, now=263.0)
    assert (running.attempts[0].end, running.allocated) == ("running", 163_000)
    assert seconds(running)["unlogged"] == 263 - 245
    dead = known(tmp_path, now=259.0 + 121)
    assert (dead.attempts[0].end, dead.allocated, seconds(dead)["dying"]) == ("killed", 159_000, 14)


@pytest.mark.parametrize("cause", ["SIGTERM", "SIGUSR1"])
def test_a_signal_is_the_cause_of_an_end(tmp_path: Path, cause: str) -> None:
    write(
        tmp_path, *KILLED, ("save", 253.0, {"step": 24, "seconds": 6.0}), ("stop", 254.0, {"step": 24, "cause": cause})
    )
    found = known(tmp_path)
    assert (found.attempts[0].end, found.attempts[0].last) == (cause, 24)
    assert seconds(found)["saving"] == 5 + 6
    assert "dying" not in seconds(found)


def test_an_attempt_that_never_trained_counts_as_starting(tmp_path: Path) -> None:
    write(
        tmp_path,
        *KILLED,
        ("open", 300.0, {"last_alive": 260.0}),
        ("open", 400.0, {"last_alive": 333.0}),
        *[],
        alive=450.0,
    )
    found = known(tmp_path)
    assert [attempt.end for attempt in found.attempts] == ["killed"] * 3
    assert [attempt.allocated for attempt in found.attempts] == [160_000, 33_000, 50_000]
    assert seconds(found)["starting"] == 20 + 33 + 50
    assert [attempt.first for attempt in found.attempts] == [0, 20, 20]
    assert seconds(found)["training"] == 90, "nobody went back"


def test_attempts_within_one_allocation_wait_since_the_one_before(tmp_path: Path) -> None:
    write(
        tmp_path,
        *KILLED,
        ("stop", 246.0, {"step": 20}),
        ("start", 310.0, {"step": 20, "began": 300.0, "allocated": 100}),
    )
    found = known(tmp_path, now=310.0)
    assert found.pauses == 0
    assert seconds(found)["waiting"] == 30 + (300 - 246)
    assert found.allocated == 1000 * (310 - 100)


def test_training_records_claim_the_time_before_an_evaluation_between_them(tmp_path: Path) -> None:
    """The evaluation at step 25 falls between the records of steps 20 and 30."""
    records = [
        ("start", 0.5, {"step": 0, "began": 0.5}),
        ("ready", 1.0, {"step": 0}),
        ("train", 41.0, {"step": 20, "seconds": 40.0}),
        ("eval", 61.0, {"step": 25, "seconds": 10.0}),
        ("train", 71.0, {"step": 30, "seconds": 20.0}),
        ("end", 71.0, {"step": 30}),
    ]
    write(tmp_path, *records)
    assert seconds(known(tmp_path)) == {"training": 60, "evaluation": 10, "starting": 0.5}


def test_a_file_of_an_older_version(tmp_path: Path) -> None:
    """No sign of life, no beginning, and a train record says nothing of its time."""
    records = [
        ("sample", 9.0, {"step": 0, "prompt": "가", "text": "나"}),
        ("start", 10.0, {"step": 0, "total_steps": 30}),
        ("train", 20.0, {"step": 10}),
        ("eval", 23.0, {"step": 10, "seconds": 2.5}),
        ("train", 33.0, {"step": 20}),
        ("start", 100.0, {"total_steps": 30}),
        ("train", 110.0, {"step": 20}),
        ("end", 111.0, {"step": 20}),
    ]
    write(tmp_path, *records)
    found = known(tmp_path)
    assert [attempt.end for attempt in found.attempts] == ["unknown", "finished"]
    assert seconds(found) == {"training": 10 + 10, "again": 10 + 0.5, "evaluation": 2.5, "other": 1}
    assert found.attempts[1].first == 10, "the last step before 20 that is known"
    assert not found.complete


def test_what_a_kill_left_of_a_line_hides_neither_it_nor_the_next(tmp_path: Path) -> None:
    write(tmp_path, *KILLED)
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"kind": "train", "time": 250.0, "step": 2')
        for kind, time, words in AGAIN:
            file.write(json.dumps({"kind": kind, "time": time, **words}) + "\n")
    assert [record["kind"] for record in read_metrics(tmp_path / "metrics.jsonl")][6] == "open"
    assert seconds(known(tmp_path))["dying"] == 15
    # The line that announced the second attempt is lost altogether: it is known by the steps that come again
    write(tmp_path, *KILLED, *AGAIN[3:])
    found = known(tmp_path)
    assert [attempt.end for attempt in found.attempts] == ["killed", "finished"]
    assert found.attempts[1].began == 1000 * (370 - 49)
    assert seconds(found)["training"] == 40 + 49


def test_a_clock_that_goes_back_takes_no_time_away(tmp_path: Path) -> None:
    records = [
        ("start", 110.0, {"step": 0, "began": 100.0}),
        ("ready", 120.0, {"step": 0}),
        ("train", 170.0, {"step": 10, "seconds": 50.0}),
        ("save", 75.0, {"step": 10, "seconds": 5.0}),  # 100 s earlier than it was
        ("train", 125.0, {"step": 20, "seconds": 50.0}),
        ("start", 60.0, {"step": 20, "began": 50.0, "allocated": 10**9}),
        ("end", 61.0, {"step": 20}),
    ]
    write(tmp_path, *records)
    found = known(tmp_path)
    assert seconds(found) == {"training": 100, "starting": 20 + 11}
    assert found.pauses == 0


def test_whatever_the_file_holds_the_parts_are_the_whole(tmp_path: Path) -> None:
    """Records in any order, with odd values: no cause is negative, and they add up to the time between the ends."""
    dice = random.Random(7)
    kinds = ["open", "start", "ready", "train", "train", "eval", "samples", "save", "stop", "end", "new"]
    odd = [None, "x", -3.0, float("nan"), 10**400, 1e300]
    for _ in range(300):
        time, records = 1000.0, []
        for _ in range(dice.randrange(30)):
            time += dice.random() * 100
            words: dict[str, Any] = {"step": dice.randrange(40), "seconds": dice.random() * 150}
            words |= {"began": time - dice.random() * 9} if dice.random() < 0.5 else {}
            words |= (
                {dice.choice(["step", "seconds", "began", "cause"]): dice.choice(odd)} if dice.random() < 0.2 else {}
            )
            records.append((dice.choice(kinds), time, words))
        write(tmp_path, *records, alive=time)
        found = read(tmp_path, time)
        for attempt in found.attempts if found else []:
            assert min(attempt.spent.values(), default=0) >= 0
            assert attempt.spent.keys() <= CAUSES.keys()
            assert attempt.allocated == max(attempt.ended - attempt.began, 0)
            assert attempt.pause >= 0
        if found:
            found.lines()


def test_no_file_and_an_empty_one_have_no_ledger(tmp_path: Path) -> None:
    assert read(tmp_path) is None
    (tmp_path / "metrics.jsonl").write_text('nonsense\n[]\n{"kind": "train"}\n')
    assert read(tmp_path) is None


def test_the_command(artifacts: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = artifacts / "runs" / "mine"
    Metrics(folder / "metrics.jsonl").write("ready")
    with pytest.raises(Mistake, match="tells of no attempt"):
        call(ledger.main, "--run", "mine")
    write(folder, *KILLED, *AGAIN)
    call(ledger.main, "--run", "mine")
    said = capsys.readouterr().out.splitlines()
    assert said[0].startswith("goodput 36.6 % of 4 min: ")
    assert "training done again               50 s   20.6 %" in said
    assert said[-1].split()[3:] == ["10", "to", "20", "83", "s", "49", "s", "finished"]
