"""What stands between a clone and a first run: the Makefile, the installer, the chain of stages."""

import json
import os
import shutil
import subprocess
import sys
import venv
from collections.abc import Callable
from pathlib import Path

import pytest

from narae import chain, estimate
from narae.chain import Stage
from narae.log import Mistake

HOME = Path(__file__).resolve().parents[1]
Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """A folder with what the installer reads, and a PATH on which interpreters can be placed."""
    folder = tmp_path / "clone"
    (folder / "bin").mkdir(parents=True)
    for name in ("install.sh", "Makefile", "constraints.txt", "pyproject.toml"):
        shutil.copy(HOME / name, folder)
    return folder


def interpreter(clone: Path, name: str, body: str) -> None:
    file = clone / "bin" / name
    file.write_text(f"#!/bin/bash\n{body}\n")
    file.chmod(0o755)


def install(clone: Path, python: str, **more: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PATH": f"{clone / 'bin'}:/usr/bin:/bin", "PYTHON": python, **more}
    environment.pop("MAKEFLAGS", None)
    return subprocess.run(["bash", "install.sh"], cwd=clone, env=environment, capture_output=True, text=True)


def test_an_older_python_is_told_which_one_to_take(clone: Path) -> None:
    interpreter(clone, "old", '[ "$1" = --version ] && echo "Python 3.9.2"; exit 1')
    for name in ("python3.11", "python3.12", "python3.14"):
        interpreter(clone, name, "exit 1")
    interpreter(clone, "python3.13", "exit 0")
    done = install(clone, "old")
    assert done.returncode == 1
    assert done.stderr == "install: Python 3.9.2 is too old, Narae needs 3.11 or later: make PYTHON=python3.13\n"


def test_no_python_at_all(clone: Path) -> None:
    done = install(clone, "python3.99")
    assert done.returncode == 1
    assert done.stderr.startswith("install: there is no 'python3.99': apt install")
    assert done.stderr.count("\n") == 1


def test_a_missing_venv_module_is_one_line(clone: Path) -> None:
    """Debian's python3 has no ensurepip before python3-venv is installed."""
    words = f'case "$*" in *ensurepip*) exit 1 ;; *"import torch"*) exit 1 ;; esac; exec {sys.executable} "$@"'
    interpreter(clone, "python-without", words)
    done = install(clone, "python-without")
    version = f"{sys.version_info[0]}.{sys.version_info[1]}"
    assert done.returncode == 1
    assert done.stderr.splitlines() == [
        f"install: python-without has no venv module: apt install python{version}-venv, then the same again"
    ]


def test_too_old_a_torch_is_refused_not_replaced(clone: Path) -> None:
    words = f'case "$*" in *"import torch"*) echo 2.1.0+cu118; exit 0 ;; esac; exec {sys.executable} "$@"'
    interpreter(clone, "python-of-a-module", words)
    done = install(clone, "python-of-a-module")
    assert done.returncode == 1
    assert "has torch 2.1.0+cu118, Narae needs 2.6 or later" in done.stderr


def test_the_torch_of_an_active_environment_is_pinned_as_it_is(clone: Path, tmp_path: Path) -> None:
    active = tmp_path / "active"
    venv.create(active, with_pip=False)
    packages = next(active.glob("lib/python*/site-packages"))
    (packages / "torch").mkdir()
    (packages / "torch" / "__init__.py").write_text('__version__ = "2.7.1+cu126"\n')
    # pip's part is played by a module that writes down what it was asked for
    (packages / "pip").mkdir()
    (packages / "pip" / "__main__.py").write_text(
        "import sys, pathlib, shutil\n"
        "if '-c' in sys.argv: shutil.copy(sys.argv[sys.argv.index('-c') + 1], sys.prefix + '/asked.txt')\n"
    )
    done = install(clone, str(active / "bin" / "python"))
    assert done.returncode == 0, done.stderr
    assert (clone / ".venv").is_symlink() and (clone / ".venv").resolve() == active.resolve()
    assert f"the active environment {active} has torch 2.7.1+cu126: installing into it" in done.stderr
    asked = (active / "asked.txt").read_text().split()
    assert [line for line in asked if line.startswith("torch==")] == ["torch==2.7.1+cu126"]
    assert len(asked) == len((HOME / "constraints.txt").read_text().split())
    assert (clone / ".venv" / ".installed").is_file()


def make(*words: str, folder: Path = HOME) -> str:
    if shutil.which("make") is None:
        pytest.skip("no make here")
    environment = {key: value for key, value in os.environ.items() if key not in {"MAKEFLAGS", "MAKELEVEL"}}
    done = subprocess.run(["make", *words], cwd=folder, env=environment, capture_output=True, text=True)
    return done.stdout + done.stderr


def test_make_help_lists_every_target() -> None:
    text = (HOME / "Makefile").read_text()
    targets = next(line for line in text.splitlines() if line.startswith(".PHONY:")).split()[1:]
    shown = make("help")
    assert [target for target in targets if target != "help" and f"make {target} " not in shown] == []
    assert make() == shown


def test_installing_depends_on_what_is_installed(clone: Path) -> None:
    (clone / ".venv").mkdir()
    stamp = clone / ".venv" / ".installed"
    stamp.touch()
    assert "install.sh" not in make("-n", "demo", folder=clone)
    later = stamp.stat().st_mtime + 10
    os.utime(clone / "constraints.txt", (later, later))
    assert "bash install.sh" in make("-n", "demo", folder=clone)


def test_make_run_without_data_says_what_to_type(clone: Path) -> None:
    (clone / ".venv").mkdir()
    (clone / ".venv" / ".installed").touch()
    assert "make run needs DATA=folder-or-file" in make("run", folder=clone)


def stage(tmp_path: Path, name: str, script: str) -> Stage:
    file = tmp_path / f"{name}.py"
    file.write_text(script)
    return Stage(name, "does its part", [str(file)], ("corpus", name))


PUBLISH = """
import os, pathlib, time
file = pathlib.Path(os.environ["NARAE_ARTIFACTS"]) / "corpus" / "{name}" / "manifest.json"
if not file.exists():
    file.parent.mkdir(parents=True)
    kept = bytearray(200_000_000)
    time.sleep(1.5)
    file.write_text("{{}}")
"""


def test_the_chain_measures_stages_that_worked_and_keeps_their_figures(tmp_path: Path, artifacts: Path) -> None:
    stages = [stage(tmp_path, name, PUBLISH.format(name=name)) for name in ("first", "second")]
    file = artifacts / "demo.json"
    chain.follow(stages, file)
    measured = json.loads(file.read_text())
    assert [one["name"] for one in measured["stages"]] == ["first", "second"]
    for one in measured["stages"]:
        assert one["seconds"] >= 1.5
        assert 200 <= one["peak_memory_mb"] < 400
    assert measured["seconds"] == pytest.approx(sum(one["seconds"] for one in measured["stages"]))
    chain.follow(stages, file)  # nothing to do: the figures stay those of the work
    assert json.loads(file.read_text())["stages"] == measured["stages"]


def test_the_chain_stops_at_the_first_failure(tmp_path: Path, artifacts: Path) -> None:
    broken = stage(tmp_path, "broken", "raise SystemExit(3)")
    after = stage(tmp_path, "after", PUBLISH.format(name="after"))
    with pytest.raises(Mistake, match="broken stopped with code 3"):
        chain.follow([broken, after], artifacts / "demo.json")
    assert not (artifacts / "corpus" / "after").exists()


def test_the_demos_commands_exist_and_stand_in_order() -> None:
    stages = chain.demo()
    names = ["sample", "collect", "tokenizer", "pack", "pretrain", "prepare", "fine-tune", "generate", "report"]
    assert [one.name for one in stages] == names
    assert [one.command[0] for one in stages if not (HOME / one.command[0]).is_file()] == []
    if chain.has_deepspeed():
        assert stages[4].typed == "deepspeed pretrain/run.py --deepspeed configs/ds/zero2.json --overwrite"


@pytest.mark.parametrize(
    ("visible", "given", "told"),
    [("3,5", "3", False), ("0", "0", False), ("GPU-1f2e", "GPU-1f2e", True), ("", "", True), (None, None, True)],
)
def test_the_demo_takes_one_device(visible: str | None, given: str | None, told: bool) -> None:
    environment = {} if visible is None else {"CUDA_VISIBLE_DEVICES": visible}
    assert chain.limited(environment, one_device=True) is told
    assert environment.get("CUDA_VISIBLE_DEVICES") == given


def test_text_is_measured_in_archives_and_compressed_files(tmp_path: Path) -> None:
    import zipfile

    with zipfile.ZipFile(tmp_path / "TS_100.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.tsv", "가" * 1000)
    (tmp_path / "b.txt").write_text("나" * 100, encoding="utf-8")
    (tmp_path / "c.jsonl.zst").write_bytes(b"x" * 200)
    (tmp_path / "picture.png").write_bytes(b"x" * 9000)
    found = {file.name: estimate.measure(file) for file in estimate.files(tmp_path)}
    assert found == {"TS_100.zip": 3000, "b.txt": 300, "c.jsonl.zst": 700, "picture.png": 0}


@pytest.mark.parametrize(
    ("path", "name"), [("books", "books"), ("029.대규모 구매도서", "029-대규모-구매도서"), ("..", "mine")]
)
def test_artifacts_are_called_after_the_data(tmp_path: Path, path: str, name: str) -> None:
    (tmp_path / path).mkdir(exist_ok=True)
    assert estimate.name_of(tmp_path / path) == name


@pytest.mark.usefixtures("artifacts")
def test_a_plan_says_what_it_needs_and_each_stage_reads_the_one_before(tmp_path: Path) -> None:
    text = tmp_path / "books.txt"
    text.write_text("나래는 날개다.\n" * 20_000, encoding="utf-8")
    chat = tmp_path / "chat.jsonl"
    chat.write_text('{"prompt": "나래는?", "answer": "날개다."}\n')
    project = estimate.plan(str(text), "tiny", "", str(chat), 0, overwrite=False)
    assert [line.split(":")[0] for line in project.lines[1:4]] == ["disk", "memory", "time"]
    assert f"about {text.stat().st_size / 1e6:.0f} MB of text" in project.lines[0]
    made = [one.makes for one in project.stages]
    assert made == [
        ("corpus", "books"),
        ("tokenizer", "books"),
        ("packed", "books"),
        ("model", "books-tiny"),
        ("examples", "books"),
        ("model", "books-tiny-chat"),
        None,
        None,
    ]
    pretrain = project.stages[3].command
    assert pretrain[pretrain.index("--packed") + 1] == "books"
    assert project.stages[-1].command == ["infer/report.py", "--run", "books-tiny-chat"]


@pytest.mark.parametrize(
    ("data", "size", "says"),
    [
        ("nowhere", "tiny", "there is no such folder or file"),
        ("empty", "tiny", "no text in it"),
        ("empty", "7b", "the sizes are tiny, 14m, 125m, 350m, 1.3b"),
    ],
)
@pytest.mark.usefixtures("artifacts")
def test_a_plan_that_cannot_be(tmp_path: Path, data: str, size: str, says: str) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(Mistake, match=says):
        estimate.plan(str(tmp_path / data), size, "", "", 0, overwrite=False)


@pytest.mark.parametrize("file", sorted((HOME / "slurm").glob("*.sh")), ids=lambda file: file.name)
def test_a_batch_script_is_for_any_site(file: Path) -> None:
    text = file.read_text(encoding="utf-8")
    assert subprocess.run(["bash", "-n", str(file)], capture_output=True).returncode == 0
    flags = {line.split()[1].split("=")[0].lstrip("-") for line in text.splitlines() if line.startswith("#SBATCH")}
    allowed = {"job-name", "nodes", "ntasks-per-node", "time", "requeue", "signal", "open-mode", "output"}
    assert flags <= allowed
    if flags:
        assert allowed - {"signal", "ntasks-per-node"} <= flags  # a script that trains has as many tasks as GPUs


def test_a_batch_script_outside_a_job_prints_the_line_to_type() -> None:
    environment = {key: value for key, value in os.environ.items() if not key.startswith("SLURM_")}
    done = subprocess.run(["bash", "slurm/pretrain.sh"], cwd=HOME, env=environment, capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr == "slurm/pretrain.sh: this is a job for a compute node: sbatch slurm/pretrain.sh\n"
