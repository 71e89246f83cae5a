"""A visit to a card: what fits is measured in order, what crashes or hangs costs itself only, and nothing is lost."""

import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import yaml
from helpers import HOME, call

from bench import gpu, gpu_bare, gpu_plan, gpu_rows
from bench.gpu_plan import Measurement, Steps, plan
from bench.gpu_process import reason
from bench.gpu_steps import Mark, figures
from bench.gpu_table import complete, headline, table
from bench.gpu_trace import kind_of, summary, union
from narae.log import Mistake
from narae.packed import PackedRows

GOOD = ["-c", "import json; print('not json'); print(json.dumps({'tokens_per_s': 10.0}))"]
CRASH = ["-c", "print('{\"half\": 1}', flush=True); raise RuntimeError('CUDA out of memory. Tried to allocate 9 GiB')"]
KILLED = ["-c", "import os; os.kill(os.getpid(), 9)"]
ABSENT = ["-c", "import sys; print('no such function', file=sys.stderr); sys.exit(77)"]
# It starts two other processes, as launchers do, one of them in a group of its own; and waits for ever
HANGS = [
    "-c",
    """
import json, subprocess, sys
words = [sys.executable, "-c", "import time; time.sleep(600)"]
found = [subprocess.Popen(words, start_new_session=apart) for apart in (False, True)]
print(json.dumps({"children": [one.pid for one in found]}), flush=True)
found[0].wait()
""",
]


def visited(measurements: list[Measurement], folder: Path, seconds: float) -> list[dict[str, Any]]:
    (folder / "logs").mkdir()
    gpu.visit(measurements, folder, folder / "work", {}, time.monotonic() + gpu.RESERVE + seconds)
    return gpu.read(folder / "results.jsonl")


def test_what_crashes_or_hangs_costs_itself_only(tmp_path: Path) -> None:
    programs = {"good": GOOD, "crash": CRASH, "killed": KILLED, "absent": ABSENT, "hangs": HANGS, "good again": GOOD}
    one = [Measurement(name, program, 3 if name == "hangs" else 60) for name, program in programs.items()]
    found = visited(one, tmp_path, 600)
    assert [line["name"] for line in found] == list(programs)
    good, crash, killed, absent, hangs, again = found
    assert good["status"] == again["status"] == "measured" and good["tokens_per_s"] == 10.0
    assert (crash["status"], crash["half"]) == ("failed", 1)  # what it had found before
    assert crash["reason"] == "RuntimeError: CUDA out of memory. Tried to allocate 9 GiB"
    assert (killed["status"], killed["reason"]) == ("failed", "SIGKILL: it said nothing")
    assert (absent["status"], absent["reason"]) == ("absent", "no such function")
    assert hangs["status"] == "failed" and hangs["reason"].startswith("did not end within 6 s")
    assert len(hangs["children"]) == 2
    for child in hangs["children"]:
        assert not psutil.pid_exists(child) or psutil.Process(child).status() == "zombie"


def test_what_does_not_fit_is_passed_over_and_the_next_may_fit(tmp_path: Path) -> None:
    chosen = [
        Measurement("long", GOOD, 300),
        Measurement("short", GOOD, 30),
        Measurement("needs long", GOOD, 1, after=("long",)),
        Measurement("lacks", GOOD, 1, needs=("no_such_package",)),
    ]
    found = visited(chosen, tmp_path, 100)
    assert [line["status"] for line in found] == ["passed over", "measured", "passed over", "absent"]
    assert re.fullmatch(r"takes about 300 s, (99|100) s are left", found[0]["reason"])
    assert found[2]["reason"] == "needs long, which came to nothing"
    assert found[3]["reason"] == "the package no_such_package is not installed"


def test_the_last_of_a_group_tells_what_the_next_will_take(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu, "measure", lambda *_: {"status": "measured", "seconds": 200.0})
    found = visited([Measurement(name, GOOD, 1, group="sweep") for name in ("first", "second")], tmp_path, 100)
    assert [line["status"] for line in found] == ["measured", "passed over"]
    assert found[1]["reason"].startswith("takes about 200 s")


def test_a_line_is_on_the_disk_before_the_next_begins(tmp_path: Path) -> None:
    """The second program finds the first one's line."""
    looks = ["-c", f"print(open({str(tmp_path / 'results.jsonl')!r}).read())"]
    found = visited([Measurement("first", GOOD, 60), Measurement("second", looks, 60)], tmp_path, 600)
    assert found[1] | {"name": "first", "seconds": 0} == found[0] | {"seconds": 0}


def test_a_visit_begins_with_what_it_is_for() -> None:
    names = [one.name for one in plan(dry=False)]
    assert len(set(names)) == len(names)
    most = "rates, rows, 1.3b ours, 1.3b stock Trainer, 125m ours, 125m stock Trainer, 1.3b profile"
    assert names[:7] == most.split(", ")
    assert sum(one.seconds for one in plan(dry=False)[:7]) < 8 * 60 - gpu.RESERVE
    # A dry run has every program and option of a visit; of several values of one option there is one
    dry = {one.name for one in plan(dry=True)}
    assert {one.program[0] for one in plan(dry=True)} == {one.program[0] for one in plan(dry=False)}
    assert dry <= set(names) and {"1.3b micro=16", "1.3b micro=8", "1.3b zero=0", "1.3b workers=4"} == {
        name for name in names if name not in dry and name.startswith("1.3b")
    }
    for one in plan(dry=True):
        assert one.program.index("--dry_run") < (one.program.index("--") if "--" in one.program else 99), one.name


def test_only_and_after_choose(tmp_path: Path) -> None:
    every = plan(dry=False)
    chosen = gpu.wanted(every, ["micro="], {"1.3b micro=64", "rates"})
    assert [one.name for one in chosen][:2] == ["rates", "rows"]  # the others need them, measured before or not
    assert {one.name for one in chosen[2:]} == {"125m micro=256", "125m micro=64", "1.3b micro=16", "1.3b micro=8"}
    with pytest.raises(Mistake, match=r"--only mikro: no measurement is called so; --list names them"):
        gpu.wanted(every, ["mikro"], set())
    lines = [{"name": "1.3b ours", "status": "measured"}, {"name": "125m ours", "status": "passed over"}]
    (tmp_path / "results.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines) + '{"name": "1.3b st')
    assert gpu.measured_before([str(tmp_path)]) == {"1.3b ours"}
    with pytest.raises(Mistake, match=re.escape(f"--after {tmp_path / 'none'}: there is no results.jsonl in it")):
        gpu.measured_before([str(tmp_path / "none")])


def test_a_visit_without_minutes_measures_nothing_and_says_so(tmp_path: Path) -> None:
    command = ["bash", "bench/gpu.sh", "--dry-run", "--minutes", "0.1", "--out", str(tmp_path / "out")]
    environment = os.environ | {"NARAE_ARTIFACTS": str(tmp_path / "artifacts"), "NARAE_PYTHON": sys.executable}
    done = subprocess.run(command, cwd=HOME, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    found = gpu.read(tmp_path / "out" / "results.jsonl")
    assert {line["status"] for line in found} <= {"passed over", "absent"}
    assert [line["name"] for line in found] == [one.name for one in plan(dry=True)]
    assert done.stdout.startswith((tmp_path / "out" / "table.txt").read_text())
    assert "a dry run, no figure means anything" in done.stdout
    assert "passed over: rates (takes about 120 s" in done.stdout
    assert json.loads(done.stdout.splitlines()[-1]) == {"1.3b": {}, "125m": {}, "dry_run": True}
    about = json.loads((tmp_path / "out" / "machine.json").read_text())
    assert about["dry_run"] and about["versions"]["torch"] != "absent" and about["date"]
    assert not list((tmp_path / "artifacts" / "gpu").iterdir())  # the scratch is gone
    again = subprocess.run(command, cwd=HOME, env=environment, capture_output=True, text=True, timeout=300)
    assert again.returncode == 1 and "holds the results of another visit: name a new folder" in again.stderr


def test_the_scratch_of_a_killed_visit_goes_with_the_next(artifacts: Path) -> None:
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    here, there = (gpu.root() / "gpu" / f".work-{number}" for number in (os.getppid(), ended.pid))
    for folder in (here, there):
        (folder / "runs").mkdir(parents=True)
    with gpu.scratch() as work:
        assert work.is_dir() and here.is_dir() and not there.exists()
    assert not work.exists()


def test_a_dry_run_is_not_kept() -> None:
    with pytest.raises(Mistake, match="a dry run measures nothing, leave one out"):
        call(gpu.main, "--dry-run", "--keep")


def test_the_rate_of_a_window() -> None:
    """Records each 4 steps of 100 tokens, 2 s apart; the checkpoint after step 12's record takes 3 s more."""
    times = {4: 10.0, 8: 12.0, 12: 14.0, 16: 19.0, 20: 21.0, 24: 99.0}
    marks = [Mark(step, seconds, 100 * step) for step, seconds in times.items()]
    found = figures(marks, Steps(every=4, first=4, last=20, save=12), saved=True)
    assert (found["steps"], found["tokens_per_step"], found["step_s"], found["stall_s"]) == (16, 100, 0.5, 3.0)
    assert found["tokens_per_s"] == round(1600 / 11, 4)
    assert found["tokens_per_s_of_steps"] == 200
    assert found["tokens_per_s_per_500_steps"] == round(50_000 / 253, 4)
    short = figures(marks, Steps(every=4, first=8, last=16, save=12), saved=True)
    assert (short["step_s"], short["slowest_step_s"], short["stall_s"]) == (0.5, 0.5, 3.0)
    plain = figures(marks, Steps(every=4, first=4, last=12, save=12), saved=False)
    assert plain["tokens_per_s"] == 200 and "stall_s" not in plain


def test_the_save_falls_into_one_interval_of_every_course() -> None:
    for look in [*gpu_plan.STEPS.values(), *gpu_plan.DRY_STEPS.values()]:
        records = range(look.every, look.last + 1, look.every)
        assert look.first in records and look.last in records
        assert look.first < look.save < look.last < 2 * look.save


def test_shares_of_the_card() -> None:
    rates = {"name": "rates", "flops_per_token": {"1.3b": 8e9}, "matmul_per_s": 800e12, "peak_per_s": 1000e12}
    ours = complete({"name": "1.3b ours", "status": "measured", "tokens_per_s": 60_000}, "1.3b", rates)
    assert (ours["of_matmul"], ours["mfu"]) == (0.6, 0.48)
    stock = complete({"name": "1.3b stock Trainer", "status": "measured", "tokens_per_s": 40_000}, "1.3b", rates)
    failed = {"name": "125m ours", "status": "failed", "reason": "SIGKILL: it said nothing", "tokens_per_s": 1.0}
    assert headline([ours, stock, failed]) == {
        "1.3b": {"tokens_per_s": 60_000, "mfu": 0.48, "of_matmul": 0.6, "vs_stock_trainer": 1.5},
        "125m": {},
    }
    page = table([ours, stock, failed], {"machine": "a card", "date": "2026-01-01", "dry_run": False})
    assert "a dry run" not in page and "failed: 125m ours (SIGKILL: it said nothing)" in page
    assert re.search(r"1\.3b ours +60,000 +0\.600 +0\.480", page)
    assert complete({"name": "x", "tokens_per_s": 1.0}, "1.3b", {}) == {"name": "x", "tokens_per_s": 1.0}


def test_the_idle_share_of_a_trace(tmp_path: Path) -> None:
    """Two steps: kernels from 0 to 30 and 20 to 50 ms, one copy from 60 to 70: 60 ms of work, 30 ms in a step."""
    import gzip

    def event(cat: str, name: str, begin: float, milliseconds: float) -> dict[str, Any]:
        return {"ph": "X", "cat": cat, "name": name, "ts": begin * 1e3, "dur": milliseconds * 1e3}

    events = [
        event("kernel", "nvjet_gemm", 0, 30),
        event("kernel", "flash_fwd", 20, 30),
        event("gpu_memcpy", "Memcpy HtoD", 60, 10),
        event("cpu_op", "aten::mm", 0, 500),
        {"ph": "i", "name": "mark", "ts": 0},
    ]
    file = tmp_path / "trace.json.gz"
    with gzip.open(file, "wt") as out:
        json.dump({"traceEvents": events}, out)
    found = summary(file, steps=2, step_s=0.04)
    assert (found["busy_s"], found["idle_share"]) == (0.03, 0.25)
    assert found["kinds"] == {"matrix product": 0.4286, "attention": 0.4286, "copies": 0.1429}
    assert found["kernels"][0] == {"share": 0.4286, "ms_per_step": 15.0, "calls_per_step": 0.5, "name": "nvjet_gemm"}


def test_spans_that_overlap_count_once() -> None:
    assert union([(5, 7), (0, 3), (1, 2), (2, 4)]) == 6
    assert union([]) == 0
    assert kind_of("void multi_tensor_apply_kernel<Adam>") == "optimizer"
    assert kind_of("vectorized_layer_norm_kernel") == "layer norm"
    assert kind_of("something else") == "other"


def test_rows_without_a_corpus(artifacts: Path) -> None:
    packed = gpu_rows.publish(512, 64, {"train": 50, "val": 4})
    rows = PackedRows(packed)
    assert len(rows) == 50 and packed.counts["entries"] == 512
    ids = np.concatenate([rows[number] for number in range(50)])  # each is compared with its checksum and index
    assert ids.min() == gpu_rows.EOS and 2 < ids.max() < 512 and gpu_rows.PAD not in ids
    assert 20 < packed.counts["train"]["documents"] < 300
    assert max(rows.positions(number).max() for number in range(50)) == 63  # some fill a row
    assert PackedRows(packed, "val").source_names == ["random"]


# A Python in which these packages are not to be found, but for what stands in for them
BARE = """
import sys
from importlib.machinery import PathFinder

class Bare(PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        lacking = "trl zstandard evaluate deepspeed datasets datatrove peft gigatoken awkward".split()
        return PathFinder.find_spec(name, [{folder!r}] if path is None and name in lacking else path, target)

sys.meta_path[sys.meta_path.index(PathFinder)] = Bare
"""
PARSES = """
import dataclasses, json
from narae.config import parse
from pretrain.settings import Config
print(json.dumps(dataclasses.asdict(parse(Config))))
"""
IMPORTS = """
import bench.gpu_generate, bench.gpu_losses, bench.gpu_ours, bench.gpu_rates, bench.gpu_rows, bench.gpu_stock
import narae.packed, pretrain.evaluation, pretrain.profiler, pretrain.run, pretrain.trainer
from pretrain.scores import NEXT_TOKEN, load_metrics
assert load_metrics([NEXT_TOKEN]) == [None]
"""


def stand_ins(folder: Path) -> str:
    for files in gpu_bare.STAND_INS.values():
        for name, content in files.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(content)
    return BARE.format(folder=str(folder))


def test_a_stand_in_reads_options_as_the_real_parser_does(tmp_path: Path) -> None:
    """The same yaml and words, once with trl and once with what stands in for it."""
    values = {"size": "125m", "batch_rows": 7, "document_attention": False, "phases": ["1=a", "2=b"], "decay": 0.5}
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(values))
    words = ["--config", str(tmp_path / "run.yaml"), "--batch_rows", "9", "--scaled_init", "false", "--name=other"]
    real, stand_in = (json.loads(said(text, *words)) for text in (PARSES, stand_ins(tmp_path / "bare") + PARSES))
    assert real == stand_in
    assert (real["batch_rows"], real["size"], real["document_attention"]) == (9, "125m", False)


def test_a_bare_machine_imports_all_that_a_visit_runs(artifacts: Path, tmp_path: Path) -> None:
    said(stand_ins(tmp_path / "bare") + IMPORTS)


def said(text: str, *words: str) -> str:
    environment = os.environ | {"PYTHONPATH": str(HOME)}
    command = [sys.executable, "-c", text, *words]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_what_is_there_needs_no_stand_in(tmp_path: Path) -> None:
    environment = gpu_bare.provide(tmp_path, None, tmp_path / "log")
    assert not (tmp_path / "stand-ins").exists()
    assert str(HOME) in environment["PYTHONPATH"].split(os.pathsep)
    assert gpu_bare.about(environment)["stand_ins"] == []
    with pytest.raises(Mistake, match=r"there is no \.whl file in it"):
        gpu_bare.provide(tmp_path, tmp_path, tmp_path / "log")


def test_the_stock_model_is_the_library_s() -> None:
    from bench.gpu_stock import stock_config

    stock, own = stock_config("1.3b", dry=False), gpu_rows.model_config("1.3b", dry=False)
    assert (stock.hidden_act, own.hidden_act) == ("gelu_new", "gelu_pytorch_tanh")
    for key in ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads"):
        assert getattr(stock, key) == getattr(own, key)
    assert stock.vocab_size == 32_768 and stock.max_position_embeddings == 512


@pytest.mark.skipif(not os.environ.get("NARAE_TEST_FULL"), reason="minutes: every measurement of a visit")
def test_a_dry_run_goes_every_way(tmp_path: Path) -> None:
    command = ["bash", "bench/gpu.sh", "--dry-run", "--out", str(tmp_path / "out")]
    environment = os.environ | {"NARAE_ARTIFACTS": str(tmp_path / "artifacts"), "NARAE_PYTHON": sys.executable}
    done = subprocess.run(command, cwd=HOME, env=environment, capture_output=True, text=True, timeout=3600)
    assert done.returncode == 0, done.stderr
    found = {line["name"]: line for line in gpu.read(tmp_path / "out" / "results.jsonl")}
    assert list(found) == [one.name for one in plan(dry=True)]
    assert {name for name, line in found.items() if line["status"] not in ("measured", "absent")} == set(), done.stdout
    assert found["1.3b save_async"]["whole_s"] >= 0 and found["1.3b profile"]["kernels"]
    assert found["1.3b generation"]["batch64"] > 0


@pytest.mark.parametrize(
    ("log", "code", "said"),
    [
        (
            "[rank0]: torch.OutOfMemoryError: CUDA out of memory. Tried\n[rank0]: more\nbench/gpu_ours: it ended\n",
            1,
            "torch.OutOfMemoryError: CUDA out of memory. Tried",
        ),
        (
            "pretrain/run: --size 9b: the sizes are tiny\nlauncher: exits with 1\n",
            1,
            "pretrain/run: --size 9b: the sizes are tiny",
        ),
        ("the last word\n", -11, "SIGSEGV: the last word"),
    ],
)
def test_the_reason_is_the_line_that_says_most(log: str, code: int, said: str, tmp_path: Path) -> None:
    (tmp_path / "log").write_text(log)
    assert reason(tmp_path / "log", code) == said
