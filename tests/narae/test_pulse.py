"""A rank that falls silent is written down and ended, whatever holds it; and a start that is of no use is refused."""

import os
import re
import signal
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest
import torch

from narae import ledger, peers, warden
from narae.log import Metrics, Mistake, read_metrics
from narae.restarts import check_restarts, check_start_up

SLEEPS = "time.sleep(600)"
HOLDS_THE_LOCK = "re.match('(a+)+$', 'a' * 99 + 'b')"  # for years, in C, and no Python thread runs meanwhile


def begin(folder: Path, body: str, timeout: float = 2.0, **variables: str) -> "subprocess.Popen[str]":
    """A rank that does this inside `together`; its start counts for nothing."""
    lines = textwrap.indent(textwrap.dedent(body).strip(), " " * 4)
    script = f"""
import os, re, signal, sys, threading, time
from pathlib import Path
from narae import pulse
from narae.log import Mistake
pulse.STARTING = 0.0
signal.signal(signal.SIGINT, signal.default_int_handler)  # which a shell's background jobs are told to ignore
def hangs_here(): {body if body in (SLEEPS, HOLDS_THE_LOCK) else "pass"}
with pulse.together(Path({str(folder)!r}), {timeout}):
    pulse.beat("step 7: micro-batch 1", step=6)
{"    hangs_here()" if body in (SLEEPS, HOLDS_THE_LOCK) else lines}
"""
    environment = {key: value for key, value in os.environ.items() if key not in ("RANK", "WORLD_SIZE")}
    return subprocess.Popen(
        [sys.executable, "-c", script],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=environment | variables,
    )


def ended(process: "subprocess.Popen[str]") -> tuple[int, str]:
    said = process.communicate(timeout=120)[0]
    return process.returncode, said


def test_a_hang_is_written_down_and_ended(tmp_path: Path) -> None:
    ranks = [
        begin(tmp_path, SLEEPS, RANK="0", WORLD_SIZE="2"),
        begin(tmp_path, HOLDS_THE_LOCK, RANK="1", WORLD_SIZE="2"),
    ]
    codes, said = zip(*map(ended, ranks), strict=True)
    # the second can be ended by a kill only, and is
    assert codes == (85, -signal.SIGKILL)
    for number, words in enumerate(said):
        assert re.search(rf"rank {number} hangs: \d+ s after 'step 7: micro-batch 1', in (hangs_here|match) ", words)
        stacks = (tmp_path / "stacks" / f"rank-{number}.txt").read_text()
        assert "in hangs_here" in stacks
        assert re.search(rf"\(step 6\), process {ranks[number].pid} is (waiting|running)", stacks)
        assert "Traceback" not in words
    records = read_metrics(tmp_path / "metrics.jsonl")
    assert [one["kind"] for one in records] == ["open", "hang", "stop"]  # its folder was not open yet
    assert (records[1]["step"], records[1]["where"], records[2]["cause"]) == (6, "step 7: micro-batch 1", "hang")
    assert records[1]["waited"] >= 2


def test_a_stopped_process_is_woken_to_be_ended(tmp_path: Path) -> None:
    process = begin(tmp_path, "while True: pulse.beat('going on'); print('on', flush=True); time.sleep(0.05)")
    assert process.stdout is not None and process.stdout.readline() == "on\n"
    process.send_signal(signal.SIGSTOP)
    code, said = ended(process)
    assert code == 85
    assert "it had been stopped by a signal" in said
    assert "is stopped by a signal" in (tmp_path / "stacks/rank-0.txt").read_text()


def test_a_beat_or_a_long_phase_is_no_hang(tmp_path: Path) -> None:
    body = """
    with pulse.long("writing", 60):
        time.sleep(3)
    for _ in range(15):
        time.sleep(0.2)
        pulse.beat("on")
    print("came through")
    """
    through = begin(tmp_path, body)
    # what another thread does is no sign that the training goes on
    body = """
    def others():
        while True: pulse.beat("saving"); time.sleep(0.1)
    threading.Thread(target=others, daemon=True).start()
    time.sleep(600)
    """
    assert ended(begin(tmp_path, body))[0] == 85
    assert ended(through) == (0, "came through\n")


def test_nothing_watches_where_it_is_turned_off(tmp_path: Path) -> None:
    for body, timeout in (("pass", 0.0), ("sys.settrace(lambda *_: None)", 0.0)):
        assert ended(begin(tmp_path, body + "\nassert pulse._pulse is None", timeout))[0] == 0
    traced = "sys.settrace(None)\nassert pulse.debugged() is False\nsys.settrace(lambda *_: None)\n"
    assert ended(begin(tmp_path, traced + "assert pulse.debugged()", 0.0))[0] == 0
    code, said = ended(begin(tmp_path, "pass", -1.0))
    assert (code, said.strip()) == (1, "-c: --hang_timeout -1.0: a number of seconds, or 0 for no watch")


def test_how_a_rank_ends(tmp_path: Path) -> None:
    opened = "pulse.opened()\n"
    code, said = ended(begin(tmp_path, opened + "os.kill(os.getpid(), signal.SIGINT); time.sleep(60)", 60.0))
    assert code == 130 and len(said.splitlines()) == 1 and "interrupted: the same command goes on" in said
    code, said = ended(begin(tmp_path, opened + "os.kill(os.getpid(), signal.SIGTERM); time.sleep(60)", 60.0))
    assert code == 85 and "stopped by a signal before the first step" in said
    code, said = ended(begin(tmp_path, opened + "raise ValueError('ours')", 60.0))
    assert code == 1 and "Traceback" in said and "ValueError: ours" in said
    code, said = ended(begin(tmp_path, opened + "raise Mistake('yours')", 60.0))
    assert (code, said) == (1, "-c: yours\n")
    code, said = ended(begin(tmp_path, opened + "sys.exit(85)", 60.0))
    assert (code, said) == (85, "")
    causes = [one["cause"] for one in read_metrics(tmp_path / "metrics.jsonl")]
    assert causes == ["SIGINT", "SIGTERM", "error", "mistake"]


def test_an_error_of_a_peer_and_one_of_our_own(tmp_path: Path) -> None:
    gone = "RuntimeError('[/pytorch/gloo/transport/tcp/pair.cc:547] Connection closed by peer [10.0.0.7]:4242')"
    world = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"}
    code, said = ended(begin(tmp_path, f"pulse.opened()\nraise {gone}", RANK="0", timeout=2.0, **world))
    assert code == 85 and "Traceback" not in said
    lost = "rank 0 lost a peer in 'step 7: micro-batch 1': Connection closed by peer [10.0.0.7]:4242\n"
    assert said.splitlines(keepends=True)[0].endswith(lost)
    assert "Traceback" in (tmp_path / "stacks/rank-0.txt").read_text()
    assert read_metrics(tmp_path / "metrics.jsonl")[-1]["cause"] == "lost a peer"
    # the peer went because of an error of its own, which another start would meet again
    code, said = ended(begin(tmp_path, "raise ValueError('ours')", RANK="1", timeout=2.0, **world))
    assert code == 1 and "ValueError: ours" in said
    code, said = ended(begin(tmp_path, f"time.sleep(0.2)\nraise {gone}", RANK="2", timeout=2.0, **world))
    assert code == 1 and "rank 2 lost a peer in 'step 7: micro-batch 1': rank 1 ended with ValueError: ours" in said


def test_what_means_that_a_peer_is_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    closed = RuntimeError("[../gloo/transport/tcp/pair.cc:534] Connection closed by peer [127.0.0.1]:5000")
    assert peers.lost(closed) == ""  # one rank has no peers
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert peers.lost(closed) == "Connection closed by peer [127.0.0.1]:5000"
    waited = RuntimeError("[../gloo/transport/tcp/unbound_buffer.cc:78] Timed out waiting 1000ms for recv operation")
    assert peers.lost(waited).startswith("Timed out waiting")
    assert peers.lost(torch.distributed.DistBackendError("NCCL error: ncclRemoteError: A call failed\nmore")) != ""
    for ours in (
        RuntimeError("DataLoader timed out after 5 seconds"),
        ConnectionResetError("socket: Connection reset by peer"),  # of a tracker's server
        torch.distributed.DistBackendError("NCCL error: ncclInvalidUsage: duplicate GPU detected"),
        torch.distributed.DistNetworkError("The server socket has failed to listen: EADDRINUSE, connection closed"),
        RuntimeError("mat1 and mat2 shapes cannot be multiplied"),
    ):
        assert peers.lost(ours) == ""


def test_a_peer_that_never_comes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from narae.chain import free_port

    monkeypatch.setenv("WORLD_SIZE", "3")
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    monkeypatch.setenv("MASTER_PORT", str(free_port()))
    with pytest.raises(peers.PeerError, match=r"1 of 3 ranks have come to 127.0.0.1:\d+ within 1 s"):
        peers.meet(1.0)
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("MASTER_PORT", str(free_port()))
    with pytest.raises(peers.PeerError, match=r"rank 0 is not at 127.0.0.1:\d+ after 1 s"):
        peers.meet(1.0)


def attempt(metrics: Metrics, step: int | None, cause: str = "", kind: str = "stop") -> None:
    metrics.write("open")
    if step is not None:
        metrics.write("start", step=step)
        metrics.write("train", step=step + 1)
    if cause:
        metrics.write(kind, step=step, cause=cause)


def test_three_attempts_that_came_no_further_are_enough(tmp_path: Path) -> None:
    metrics = Metrics(tmp_path / "metrics.jsonl")
    attempt(metrics, 0)  # killed, but it came to step 5
    attempt(metrics, 5, "hang")
    attempt(metrics, 5, "SIGTERM")  # asked for
    attempt(metrics, None)  # killed while it started
    attempt(metrics, 5, "SIGINT")
    metrics.write("open")  # of the start that asks
    check_restarts(tmp_path, 5, 3)
    attempt(metrics, 5, "lost a peer")
    metrics.write("open")
    with pytest.raises(Mistake) as refused:
        check_restarts(tmp_path, 5, 3)
    day = r"\d{4}-\d\d-\d\d \d\d:\d\d"
    told = rf"the last 4 attempts began at step 5 and none came further \(hang {day}, killed {day}, killed {day}, lost"
    assert re.match(told, refused.value.message)
    assert "--max_restarts 5 tries once more, 0 without a limit" in refused.value.message
    check_restarts(tmp_path, 5, 5)
    check_restarts(tmp_path, 5, 0)
    check_restarts(tmp_path, 10, 3)  # a checkpoint came after all


def test_ten_signals_before_the_first_step_are_enough(tmp_path: Path) -> None:
    metrics = Metrics(tmp_path / "metrics.jsonl")
    attempt(metrics, None, "SIGUSR1")
    metrics.write("open")
    metrics.write("start", step=4)
    metrics.write("stop", step=5, cause="SIGUSR1")  # it trained
    for number in range(10):
        check_start_up(tmp_path)
        attempt(metrics, None if number % 2 else 5, "SIGTERM" if number else "SIGUSR1")
    told = r"the last 10 attempts were ended by a signal before their first step was done \(last SIGTERM .*\): the time"
    with pytest.raises(Mistake, match=told):
        check_start_up(tmp_path)
    check_start_up(tmp_path)  # the count begins anew
    attempt(metrics, None, "SIGTERM")
    check_start_up(tmp_path)


def test_a_signal_in_start_up_counts_before_the_folder_is_open(tmp_path: Path) -> None:
    attempt(Metrics(tmp_path / "metrics.jsonl"), None, "SIGUSR1")
    for _ in range(9):
        warden.note(tmp_path, "SIGUSR1", -1, 1.0)
    code, said = ended(begin(tmp_path, "print('began')", 60.0))
    assert code == 1 and "the last 10 attempts were ended by a signal" in said and "began\n" not in said
    code, said = ended(begin(tmp_path, "os.kill(os.getpid(), signal.SIGTERM); time.sleep(60)", 60.0))
    assert code == 85
    records = read_metrics(tmp_path / "metrics.jsonl")[-4:]
    assert [(one["kind"], one.get("cause")) for one in records] == [
        ("open", None), ("stop", "mistake"), ("open", None), ("stop", "SIGTERM")
    ]  # fmt: skip


def test_the_ledger_tells_a_hang_from_a_kill(tmp_path: Path) -> None:
    import json

    records: list[dict[str, Any]] = [
        {"kind": "open", "time": 100.0},
        {"kind": "start", "time": 110.0, "step": 0, "began": 100.0},
        {"kind": "ready", "time": 110.0, "step": 0},
        {"kind": "train", "time": 150.0, "step": 10, "seconds": 40.0},
        {"kind": "hang", "time": 770.0, "step": 12, "waited": 610.0, "where": "step 13"},
        {"kind": "stop", "time": 770.0, "step": 12, "cause": "hang"},
    ]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(one) + "\n" for one in records))
    found = ledger.read(tmp_path, 800.0)
    assert found is not None
    spent = {cause: amount / 1000 for cause, amount in found.spent.items() if amount}
    assert spent == {"training": 40, "starting": 10, "hanging": 610, "dying": 10}
    assert found.attempts[0].end == "hang"
