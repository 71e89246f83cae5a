"""What becomes of a job, by how its ranks end. A few lines of shell stand for Python, so that each way is quick."""

import os
import shutil
from pathlib import Path

import pytest
from jobs import HOME, SCRATCH, call, cluster, field, sbatch, until, wait

TWO_BY_TWO = ("--nodes=2", "--ntasks-per-node=2", "slurm/pretrain.sh")


def plays(shell: dict[str, str], folder: Path, lines: str) -> dict[str, str]:
    """A shell in which Python is these lines. The second time all is well."""
    file = folder / "python"
    begin = f'#!/usr/bin/env bash\n[ -z "${{SLURM_RESTART_COUNT:-}}" ] || exit 0\ncd {folder}\n'
    file.write_text(begin + lines)
    file.chmod(0o755)
    return shell | {"NARAE_PYTHON": str(file)}


def log(folder: Path, name: str = "pretrain") -> str:
    file = folder / f"narae-{name}.out"
    return file.read_text() if file.is_file() else ""


# Rank 3 ends; the others would sit there for a minute.
ALONE = '[ "$RANK" = 3 ] || exec sleep 60\n'


@pytest.mark.parametrize(
    ("ends", "restarts", "says"),
    [
        (
            ALONE + "exit 1",
            0,
            "job {job} ends here: rank 3 on n2 ended with code 1, which another start would not mend",
        ),
        (ALONE + "exit 85", 1, "job {job} goes back into the queue: rank 3 on n2 ended with code 85"),
        (ALONE + "kill -KILL $$", 1, "job {job} goes back into the queue: rank 3 on n2 was killed by signal 9"),
        ("exit 2", 0, "ended with code 2, which another start would not mend"),
    ],
    ids=["a mistake", "another start", "killed", "bad usage"],
)
def test_the_rank_that_ends_first_decides(
    shell: dict[str, str], tmp_path: Path, ends: str, restarts: int, says: str
) -> None:
    job = sbatch(plays(shell, tmp_path, ends), *TWO_BY_TWO)
    wait(shell, [job], seconds=120)
    assert says.format(job=job) in log(tmp_path)
    assert field(shell, job, "Restarts") == str(restarts), log(tmp_path)
    code = "0" if restarts else ends.split()[-1]
    state = "COMPLETED" if restarts else "FAILED"
    assert (field(shell, job, "JobState"), field(shell, job, "ExitCode")) == (state, f"{code}:0")
    assert not list((tmp_path / "artifacts").glob(".ended*"))


SITS = "echo up >up-$RANK; exec sleep 60"


def sitting(shell: dict[str, str], folder: Path, *words: str, lines: str = SITS) -> str:
    job = sbatch(plays(shell, folder, lines), *words)
    until(lambda: len(list(folder.glob("up-*"))) == 4, lambda: log(folder))
    return job


def test_a_job_that_a_person_cancels_stays_cancelled(shell: dict[str, str], tmp_path: Path) -> None:
    job = sitting(shell, tmp_path, *TWO_BY_TWO)
    call(shell, "scancel", job)
    wait(shell, [job], seconds=120)
    assert field(shell, job, "JobState") == "CANCELLED" and field(shell, job, "Restarts") == "0"
    assert "goes back" not in log(tmp_path)


def test_a_job_that_may_not_go_back_names_the_way_on(shell: dict[str, str], tmp_path: Path) -> None:
    job = sitting(shell, tmp_path, "--no-requeue", *TWO_BY_TWO, lines="echo up >up-$RANK; sleep 1; exit 85")
    wait(shell, [job], seconds=120)
    assert "(was it submitted with --no-requeue?). The same sbatch line goes on" in log(tmp_path)
    assert field(shell, job, "ExitCode") == "85:0"


def test_more_urgent_work_pushes_it_back(shell: dict[str, str], tmp_path: Path) -> None:
    """Slurm signals the ranks then, not the script."""
    lines = "trap 'exit 85' TERM\necho up >up-$RANK\nsleep 60 & wait"
    job = sitting(shell, tmp_path, "-p", "low", *TWO_BY_TWO, lines=lines)
    urgent = sbatch(shell, "-p", "urgent", "--nodes=2", "--exclusive", "--wrap", "true")
    wait(shell, [job, urgent])
    assert field(shell, job, "Restarts") == "1" and field(shell, job, "JobState") == "COMPLETED"
    assert "ended with code 85. It will go on from its newest checkpoint" in log(tmp_path)


def test_a_node_is_lost_and_the_other_goes_on_alone(shell: dict[str, str], tmp_path: Path) -> None:
    """Those that are left end as after a bug: a peer's loss is not theirs."""
    lines = "[ $(hostname) = n1 ] || exec sleep 60\necho up >up-$RANK; touch up-2 up-3\n"
    lines += "while [ ! -e gone ]; do sleep 0.1; done; exit 1"
    job = sitting(shell, tmp_path, "--nodes=1-2", *TWO_BY_TWO[1:], "--name", "mine", lines=lines)
    (tmp_path / "artifacts/runs/mine/checkpoint-40").mkdir(parents=True)
    (tmp_path / "artifacts/runs/mine/checkpoint-100").mkdir()
    cluster(shell, "kill-node", "2")
    try:
        (tmp_path / "gone").touch()
        wait(shell, [job], seconds=90)
    finally:
        cluster(shell, "revive-node", "2")
    # whoever notices first, Slurm or the script
    noticed = ("n2 does not answer (rank", "DUE TO NODE FAILURE")
    assert any(words in log(tmp_path) for words in noticed), log(tmp_path)
    assert noticed[0] not in log(tmp_path) or "It will go on from checkpoint-100\n" in log(tmp_path)
    assert field(shell, job, "JobState") == "COMPLETED" and field(shell, job, "NodeList") == "n1"


@pytest.mark.skipif(not os.environ.get("NARAE_TEST_FULL"), reason="a minute: the least that a time limit may be")
def test_ranks_that_do_not_end_before_the_limit(shell: dict[str, str], tmp_path: Path) -> None:
    lines = "trap : USR1 TERM\necho up >up-$RANK\nwhile :; do sleep 1 & wait; done"
    job = sitting(shell, tmp_path, "--time=1", "--signal=B:USR1@45", *TWO_BY_TWO, lines=lines)
    wait(shell, [job], seconds=120)
    assert "its ranks still run, though they got USR1" in log(tmp_path)
    assert field(shell, job, "Restarts") == "1" and field(shell, job, "JobState") == "COMPLETED"


def shim(folder: Path, name: str, lines: str) -> str:
    """A command of this name that comes first; the PATH for it."""
    (folder / "shims").mkdir(exist_ok=True)
    file = folder / "shims" / name
    file.write_text(f"#!/usr/bin/env bash\n{lines}\n")
    file.chmod(0o755)
    return f"{folder}/shims:{os.environ['PATH']}"


@pytest.mark.skipif(not os.environ.get("NARAE_TEST_FULL"), reason="half a minute: Slurm's own patience and some more")
def test_srun_that_does_not_return(shell: dict[str, str], tmp_path: Path) -> None:
    stuck = 'if [ -z "${SLURM_RESTART_COUNT:-}" ]; then (' + f'{shutil.which("srun")} "$@"); exec sleep 600; fi'
    job = sbatch(plays(shell | {"PATH": shim(tmp_path, "srun", stuck)}, tmp_path, "exit 1"), *TWO_BY_TWO)
    wait(shell, [job], seconds=120)
    assert "ended with code 1, and srun has not returned after 30 s" in log(tmp_path)
    assert field(shell, job, "Restarts") == "1" and field(shell, job, "JobState") == "COMPLETED"


TELLS = (
    'echo "$RANK/$WORLD_SIZE local $LOCAL_RANK threads $OMP_NUM_THREADS gpus ${SLURM_GPUS_ON_NODE:-0}"\n'
    "[ $RANK != 0 ] || printf '<%s>' \"$@\""
)


def test_resources_are_sbatchs_and_the_rest_is_the_commands(shell: dict[str, str], tmp_path: Path) -> None:
    """Without a number of tasks there are as many as GPUs."""
    told = plays(shell, tmp_path, TELLS) | {"SBATCH_PARTITION": "gpu", "SBATCH_GPUS_PER_NODE": "2"}
    del told["OMP_NUM_THREADS"]
    job = sbatch(told, "--exclusive", "slurm/pretrain.sh", "--name", "two words", "--run_name=")
    wait(shell, [job], seconds=120)
    assert field(shell, job, "Partition") == "gpu"
    assert "0/2 local 0 threads 1 gpus 2\n" in log(tmp_path) and "1/2 local 1 threads 1 gpus 2\n" in log(tmp_path)
    words = ["pretrain/run.py", "--deepspeed", "configs/ds/zero2.json", "--name", "two words", "--run_name="]
    assert "".join(f"<{word}>" for word in words) in log(tmp_path)


@pytest.fixture
def gpu_node(shell: dict[str, str], tmp_path: Path) -> object:
    """The first node has two devices of NVIDIA's name."""
    for folder in ("upper", "work"):
        (SCRATCH / folder).mkdir(exist_ok=True)
    layers = f"lowerdir=/dev,upperdir={SCRATCH}/upper,workdir={SCRATCH}/work"
    cluster(shell, "exec", "1", "mount", "-t", "overlay", "-o", layers, "overlay", "/dev")
    cluster(shell, "exec", "1", "touch", "/dev/nvidia0", "/dev/nvidia1")
    yield
    cluster(shell, "exec", "1", "umount", "/dev")


@pytest.mark.usefixtures("gpu_node")
@pytest.mark.parametrize(
    ("flags", "says"),
    [
        ((), "n1 has GPUs, the job has none"),
        (("--gpus-per-node=2", "--ntasks-per-node=1"), "2 GPUs on a node but 1 processes"),
        (("--gpus-per-node=1", "--ntasks-per-node=2"), "1 GPUs on a node but 2 processes"),
        (("--gpus-per-node=2",), "1 CPUs on a node for 2 processes"),
    ],
    ids=["none", "more GPUs", "more processes", "too few CPUs"],
)
def test_the_line_that_is_printed_works(
    shell: dict[str, str], tmp_path: Path, flags: tuple[str, ...], says: str
) -> None:
    played = plays(shell, tmp_path, TELLS)
    job = sbatch(played, "--nodelist=n1", *flags, "slurm/pretrain.sh", "--name", "two words")
    wait(shell, [job], seconds=120)
    assert field(shell, job, "JobState") == "FAILED"
    [line] = [line for line in log(tmp_path).splitlines() if says in line]
    typed = line[line.index("sbatch ") :]
    job = call(played | {"SBATCH_PARTITION": "gpu"}, "bash", "-c", typed).split()[-1]
    wait(shell, [job], seconds=120)
    each = 1 if "--gpus-per-node=1" in typed else 2
    assert f"0/{each} local 0 threads 1 gpus {each}\n" in log(tmp_path), log(tmp_path)
    assert "<two words>" in log(tmp_path)


def test_containers_are_words_before_python_or_flags_of_srun(shell: dict[str, str], tmp_path: Path) -> None:
    shim(tmp_path, "apptainer", 'echo "apptainer: ${*:1:3}"; shift 3; exec "$@"')
    lines = 'for word in "$@"; do shift; case $word in\n--container-*) echo "pyxis: $word" ;;\n'
    lines += '*) set -- "$@" "$word" ;;\nesac; done'
    path = shim(tmp_path, "srun", f'{lines}\nexec {shutil.which("srun")} "$@"')
    played = plays(shell | {"PATH": path}, tmp_path, TELLS)
    kinds = {"NARAE_CONTAINER": "apptainer exec --nv image.sif", "NARAE_SRUN": "--container-image=image.sqsh"}
    for number, (variable, words) in enumerate(kinds.items()):
        for stage in ("pretrain", "tokenizer"):
            out = f"--output={tmp_path}/narae-{stage}{number}.out"
            job = sbatch(played | {variable: words}, out, f"slurm/{stage}.sh", "--name", "x")
            wait(shell, [job], seconds=120)
            said = log(tmp_path, f"{stage}{number}")
            assert ("apptainer: exec --nv image.sif" in said) == (number == 0), said
            assert ("pyxis: --container-image=image.sqsh" in said) == (number == 1), said
            assert "<--name>" in said or stage == "tokenizer"


def test_every_line_for_a_site_works(shell: dict[str, str], tmp_path: Path) -> None:
    shutil.copytree(HOME / "slurm", tmp_path / "slurm")
    site = tmp_path / "slurm/site.env"
    text = site.read_text()
    assert all(line.startswith("#") or not line for line in text.splitlines())
    on = [line.removeprefix("# ") for line in text.splitlines() if line.startswith(("# export", "# NARAE", "# ulimit"))]
    assert len(on) >= 12
    site.write_text("\n".join(["set -eu", "USER=me", *on]) + "\n")
    (SCRATCH / "me").mkdir(exist_ok=True)
    seen = "env | grep -E 'NCCL|GLOO|HF_HOME|TORCH_EXT|ARTIFACTS'; echo $NARAE_CONTAINER $NARAE_SRUN $NARAE_PYTHON"
    stubs = "ip() { echo '2: ib0 inet 10.1.2.3/24 brd'; }; "
    said = call(shell | {"SLURM_JOB_ID": "1"}, "bash", "-c", f"{stubs} . {site}; {seen}; echo at $NARAE_MASTER_ADDR.")
    for word in ("NCCL_SOCKET_IFNAME=ib0", "ARTIFACTS=/scratch/me/narae", "apptainer exec --nv", "at 10.1.2.3."):
        assert word in said


def test_artifacts_lie_on_scratch(shell: dict[str, str], tmp_path: Path) -> None:
    assert SCRATCH.stat().st_dev != HOME.stat().st_dev
    lines = "mkdir -p $NARAE_ARTIFACTS/runs; hostname >$NARAE_ARTIFACTS/runs/$RANK"
    job = sbatch(plays(shell, tmp_path, lines) | {"NARAE_ARTIFACTS": f"{SCRATCH}/artifacts"}, *TWO_BY_TWO)
    wait(shell, [job], seconds=120)
    assert [(SCRATCH / f"artifacts/runs/{rank}").read_text() for rank in range(4)] == ["n1\n"] * 2 + ["n2\n"] * 2
    shutil.rmtree(SCRATCH / "artifacts")
