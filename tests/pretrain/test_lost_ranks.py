"""Two ranks, of which one hangs, dies or errs: both end, say why, and the same command goes on."""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers import HOME
from runs import finish, pretrain, run_folder, same, small_world, weights

from narae.chain import free_port
from narae.log import read_metrics

OPTIONS = (
    "--no_bf16 --batch_rows 4 --per_device_train_batch_size 2 --max_steps 24 --warmup_steps 10 --learning_rate 0.002 "
    "--save_steps 5 --eval_strategy no --logging_steps 1"
)
# Rank 1 falls asleep where it reads the rows of its eighth step, if this attempt is told to
SCRIPT = """
import os, sys, time
sys.argv[0] = {script!r}
from pretrain import batches, run
read = batches.Batches._share
def fall_asleep():
    time.sleep(600)
def share(self, step):
    if step == 7 and self.rank == 1 and "ASLEEP" in os.environ:
        fall_asleep()
    return read(self, step)
batches.Batches._share = share
run.main()
"""


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with small_world(tmp_path_factory.mktemp("lost")) as folder:
        (folder / "start.py").write_text(SCRIPT.format(script=str(HOME / "pretrain/run.py")))
        yield folder


def start(command: list[str], folder: Path, **variables: str) -> list["subprocess.Popen[str]"]:
    """Two ranks as srun starts them: no launcher hides their exit codes, and none ends the other one."""
    place = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    return [
        subprocess.Popen(
            command,
            cwd=folder,
            env=os.environ | place | variables | {"RANK": rank, "LOCAL_RANK": rank},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in ("0", "1")
    ]


def pair(folder: Path, name: str, *words: str, **variables: str) -> list["subprocess.Popen[str]"]:
    command = [sys.executable, str(folder / "start.py"), "--name", name, "--model_config", str(folder / "phi.json")]
    return start([*command, *OPTIONS.split(), *words], folder, **variables)


def ended(ranks: list["subprocess.Popen[str]"]) -> tuple[tuple[int, ...], list[str]]:
    said = [process.communicate(timeout=120)[0] for process in ranks]
    return tuple(process.returncode for process in ranks), said


def causes(name: str) -> list[str]:
    return [one["cause"] for one in read_metrics(run_folder(name) / "metrics.jsonl") if one["kind"] == "stop"]


def test_a_rank_that_hangs_ends_the_run_which_goes_on(world: Path) -> None:
    straight = pair(world, "straight")
    hung = pair(world, "hung", "--hang_timeout", "6", ASLEEP="1")
    codes, said = ended(hung)
    assert codes == (85, 85), said
    assert re.search(r"rank 1 hangs: \d+ s after 'step 7 is done', in fall_asleep", said[1])
    # rank 0 waits for it; it writes where, whether its own time ran out or it first saw the other one go
    assert re.search(r"rank 0 (hangs: \d+ s after|lost a peer in) 'step 8", said[0])
    stacks = [(run_folder("hung") / "stacks" / f"rank-{rank}.txt").read_text() for rank in (0, 1)]
    assert "in fall_asleep" in stacks[1] and "in all_reduce" in stacks[0]
    assert not any("Traceback" in words for words in said)
    records = read_metrics(run_folder("hung") / "metrics.jsonl")
    assert [one["kind"] for one in records[-2:]] == ["hang", "stop"]
    assert causes("hung") == ["hang"]
    codes, said = ended(pair(world, "hung"))
    assert codes == (0, 0), said
    assert "goes on from checkpoint-5" in said[0]
    assert ended(straight)[0] == (0, 0)
    assert same(weights("hung"), weights("straight"))


def test_a_start_of_no_use_is_refused(world: Path) -> None:
    metrics = run_folder("futile") / "metrics.jsonl"
    metrics.parent.mkdir(parents=True)
    ended_so = '{"kind": "stop", "time": 3.0, "cause": "hang"}\n'
    for end in ("", ended_so, ended_so):
        with metrics.open("a") as file:
            file.write('{"kind": "open", "time": 1.0}\n{"kind": "start", "time": 2.0, "step": 0}\n' + end)
    said = finish(pretrain(world, "futile", *OPTIONS.split()), code=1).strip().splitlines()
    assert re.search(r"the last 3 attempts began at step 0 and none came further \(killed .*, hang .*, hang ", said[-1])
    assert causes("futile")[-1] == "mistake"


TOGETHER = """
import os, sys, time
from pathlib import Path
sys.argv[0] = "pretrain/run.py"
from narae import pulse
with pulse.together(Path(sys.argv[1])):
    pulse.meet(60.0)
    import torch
    torch.distributed.init_process_group("gloo")
    pulse.opened()
    for step in range(10**9):
        pulse.beat(f"step {step + 1}", step)
        torch.distributed.all_reduce(torch.ones(4))
        Path(sys.argv[1], os.environ["RANK"]).touch()
        if sys.argv[2] == "err" and step == 5 and os.environ["RANK"] == "1":
            raise ValueError("a bug")
"""


def bare(folder: Path, how: str) -> list["subprocess.Popen[str]"]:
    folder.mkdir()
    return start([sys.executable, "-c", TOGETHER, str(folder), how], folder)


def test_a_rank_that_dies_is_missed(tmp_path: Path) -> None:
    ranks = bare(tmp_path / "killed", "run")
    while not (tmp_path / "killed" / "1").exists():
        assert ranks[1].poll() is None, ranks[1].communicate()[0]
        time.sleep(0.01)
    ranks[1].kill()
    codes, said = ended(ranks)
    assert codes == (85, -signal.SIGKILL), said
    lost = [line for line in said[0].splitlines() if "rank 0 lost a peer in 'step" in line]
    assert len(lost) == 1 and "Connection" in lost[0]
    assert "Traceback" not in said[0]
    assert read_metrics(tmp_path / "killed/metrics.jsonl")[-1]["cause"] == "lost a peer"


def test_an_error_of_one_rank_is_not_tried_again(tmp_path: Path) -> None:
    codes, said = ended(bare(tmp_path / "erred", "err"))
    assert codes == (1, 1), said
    assert "ValueError: a bug" in said[1] and "Traceback" in said[1]
    assert "rank 1 ended with ValueError: a bug" in said[0]
    assert "Traceback" not in said[0]


MEETING = """
import sys, time
from pathlib import Path
sys.argv[0] = "pretrain/run.py"
from narae import pulse
with pulse.together(Path(sys.argv[1])):
    print("waits", flush=True)
    pulse.meet(120.0)
"""


@pytest.mark.parametrize(("first", "by"), [(0, signal.SIGTERM), (1, signal.SIGTERM), (0, signal.SIGKILL)])
def test_a_rank_that_is_ended_before_the_others_come_is_not_waited_for(
    tmp_path: Path, first: int, by: signal.Signals
) -> None:
    """Rank 0 waits in its own server, the other one in its search for it."""
    point = {"WORLD_SIZE": "3", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    ranks = []
    for number in (first, 2):
        words = {**os.environ, **point, "RANK": str(number)}
        command = [sys.executable, "-c", MEETING, str(tmp_path)]
        ranks.append(subprocess.Popen(command, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=words))
    for one in ranks:
        assert one.stdout is not None and one.stdout.readline() == "waits\n"
    ranks[1].send_signal(by)
    codes, said = ended(ranks)
    assert codes == (85, 85 if by == signal.SIGTERM else -by), said
    assert f"rank 2 was ended by a signal before the first step, and so is rank {first}" in said[0]
    assert "Traceback" not in said[0]
