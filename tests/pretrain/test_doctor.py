"""The doctor finds what is wrong, says it in two languages, and never hangs."""

import ast
import copy
import functools
import json
import os
import re
import socket
import string
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml
from helpers import HOME

from narae.chain import free_port
from narae.log import Mistake
from pretrain import bounds, comparison, doctor, findings, probes, verdicts
from pretrain.findings import BAD, GOOD, LANGUAGES, UNTESTED, WARNING, Finding, Texts

TEXTS = yaml.safe_load((HOME / "pretrain/doctor.yaml").read_text(encoding="utf-8"))
TOLD = {language: Texts(language) for language in LANGUAGES}
GB = 10**9
CARD = {"uuid": "GPU-a", "index": "0", "name": "H100", "driver_version": "570.1", "ecc": 0, "slow": []}
# A node with two GPUs where all is well.
WELL: dict[str, Any] = {
    "gpus": {"devices": 2, "visible": None, "cuda": "12.8", "others": [], "cards": [CARD, CARD | {"uuid": "GPU-b"}]},
    "torch": {"version": "2.13", "cuda": "12.8", "names": ["H100", "H100"], "uuids": ["a", "b"], "bf16": True},
    "network": {
        "host": "n1",
        "resolved": ["10.0.0.1"],
        "interfaces": {"lo": ["127.0.0.1"], "eth0": ["10.0.0.1"]},
        "nccl": None,
        "gloo": None,
        "infiniband": {"mlx5_0": "4: ACTIVE"},
        "no_infiniband": False,
    },
    "master": {"address": "n1", "port": "29500", "loopback": False, "here": False, "ms": 0.3},
    "storage": {"folder": "/data", "free": 900 * GB, "inodes": 10**7, "quota": [], "kind": "ext4", "mb_per_s": 900.0}
    | {"lock": None},
    "shm": {"folder": "/dev/shm", "size": 64 * GB, "free": 64 * GB},
    "clock": {"now": 2e9, "newest": 1e9, "file": "a.py"},
    "compiler": {"ninja": "/bin/ninja", "beside": False, "gxx": "12.2", "nvcc": "12.8", "locks": []},
    "limits": {"memory": 100 * GB, "available": 90 * GB, "bound": None, "machine_cores": 16, "cores": 16, "share": None}
    | {"omp": 8, "ranks": 2, "files": 65536, "locked": -1, "infiniband": True},
    "packages": {"count": 17, "missing": [], "old": [], "newer": [], "deepspeed": "0.19"},
}
LOCK = {"path": "/x/lock", "age": 600.0, "pid": None, "kind": "ext4"}
NO_GPU = {"gpus": {"devices": 0, "cards": []}, "torch": {"names": [], "cuda": None}}
NO_TORCH_GPU = {"names": [], "uuids": []}
# What differs from it, and the finding that must come of it.
ILLS: list[tuple[dict[str, Any], str, str]] = [
    (NO_GPU, WARNING, "gpu.none"),
    (NO_GPU | {"torch": {"names": [], "cuda": "12.8"}}, WARNING, "gpu.needless_cuda"),
    ({"torch": {"names": ["H100"], "uuids": ["a"]}}, WARNING, "gpu.fewer"),
    ({"torch": NO_TORCH_GPU | {"cuda": None}}, BAD, "gpu.cpu_build"),
    ({"torch": NO_TORCH_GPU, "gpus": {"visible": ""}}, WARNING, "gpu.hidden"),
    ({"torch": NO_TORCH_GPU, "gpus": {"cuda": "11.4"}}, BAD, "gpu.driver_old"),
    ({"torch": NO_TORCH_GPU}, BAD, "gpu.unusable"),
    ({"gpus": {"broken": "version mismatch"}}, BAD, "gpu.driver_broken"),
    ({"gpus": {"cards": [CARD | {"ecc": 3}]}}, BAD, "gpu.ecc"),
    ({"gpus": {"cards": [CARD | {"slow": ["hw_slowdown"]}]}}, WARNING, "gpu.throttled"),
    ({"gpus": {"others": [{"uuid": "GPU-a", "pid": "7", "mb": "900"}]}}, WARNING, "gpu.shared"),
    ({"torch": {"bf16": False}}, WARNING, "precision.fp16"),
    (NO_GPU | {"torch": {"names": [], "cuda": None, "bf16": False}}, WARNING, "precision.fp32"),
    ({"network": {"interfaces": {"lo": ["127.0.0.1"]}}}, BAD, "network.no_network"),
    ({"network": {"nccl": "ib"}}, BAD, "network.no_interface"),
    ({"network": {"gloo": "eth0,eth1"}}, BAD, "network.no_interface"),
    ({"network": {"resolved": ["127.0.1.1"]}}, BAD, "network.host_name_loopback"),
    ({"network": {"resolved": []}}, BAD, "network.host_name_loopback"),
    ({"network": {"resolved": ["203.0.113.9"]}}, BAD, "network.host_name_loopback"),
    ({"network": {"infiniband": {"mlx5_0": "1: DOWN"}}}, WARNING, "network.infiniband_down"),
    ({"network": {"no_infiniband": True}}, WARNING, "network.infiniband_off"),
    ({"master": {"port": None}}, BAD, "master.no_port"),
    ({"master": {"bad_port": True}}, BAD, "master.no_port"),
    ({"master": {"unknown": "no such name"}}, BAD, "master.unknown"),
    ({"master": {"loopback": True, "here": True}}, BAD, "master.loopback"),
    ({"master": {"here": True, "taken": "python, pid 3"}}, BAD, "master.taken"),
    ({"master": {"unreachable": "5 s"}}, BAD, "master.unreachable"),
    ({"storage": {"free": 50 * GB}}, WARNING, "storage.little"),
    ({"storage": {"free": GB}}, BAD, "storage.full"),
    ({"storage": {"refused": "No space left on device", "full": True}}, BAD, "storage.full"),
    ({"storage": {"refused": "Permission denied", "full": False}}, BAD, "storage.refused"),
    ({"storage": {"inodes": 12}}, WARNING, "storage.inodes"),
    ({"storage": {"quota": [{"bytes": -5, "files": None}]}}, BAD, "storage.quota"),
    ({"storage": {"quota": [{"bytes": 5 * GB, "files": None}]}}, WARNING, "storage.quota"),
    ({"storage": {"quota": [{"bytes": None, "files": 9}]}}, WARNING, "storage.quota_files"),
    ({"storage": {"kind": "nfs4"}}, WARNING, "storage.network"),
    ({"storage": {"kind": "tmpfs"}}, WARNING, "storage.memory"),
    ({"storage": {"kind": "overlay"}}, WARNING, "storage.overlay"),
    ({"storage": {"mb_per_s": 8.0}}, WARNING, "storage.slow"),
    ({"storage": {"lock": "Function not implemented"}}, BAD, "storage.no_lock"),
    ({"shm": {"size": 64 * 2**20, "free": 64 * 2**20}}, BAD, "shm.small"),
    ({"shm": {"free": GB // 2}}, WARNING, "shm.little"),
    ({"clock": {"now": 1e9 - 7200}}, WARNING, "clock.behind"),
    ({"compiler": {"gxx": None}}, WARNING, "compiler.none"),
    ({"compiler": {"ninja": None}}, WARNING, "compiler.no_ninja"),
    ({"compiler": {"ninja": None, "beside": True}}, WARNING, "compiler.ninja_path"),
    ({"compiler": {"nvcc": None}}, WARNING, "compiler.no_nvcc"),
    ({"compiler": {"nvcc": "11.8"}}, WARNING, "compiler.nvcc"),
    ({"compiler": {"locks": [LOCK]}}, BAD, "compiler.lock_stale"),
    ({"compiler": {"locks": [LOCK | {"pid": 7}]}}, WARNING, "compiler.lock_held"),
    ({"compiler": {"locks": [LOCK | {"kind": "nfs4"}]}}, WARNING, "compiler.lock_elsewhere"),
    ({"compiler": {"locks": [LOCK | {"kind": "nfs4", "age": 9e4}]}}, BAD, "compiler.lock_stale"),
    ({"limits": {"bound": 8 * GB}}, WARNING, "limits.memory_bound"),
    ({"limits": {"cores": 1}}, WARNING, "limits.few_cores"),
    ({"limits": {"share": 1.5}}, WARNING, "limits.few_cores"),
    ({"limits": {"omp": None}}, WARNING, "limits.threads_unset"),
    ({"limits": {"omp": 9}}, WARNING, "limits.threads_many"),
    (NO_GPU | {"limits": {"omp": 1}}, WARNING, "limits.threads_few"),
    ({"limits": {"files": 1024}}, WARNING, "limits.few_files"),
    ({"limits": {"locked": 65536}}, BAD, "limits.locked"),
    ({"packages": {"missing": ["trl"]}}, BAD, "packages.missing"),
    ({"packages": {"old": ["trl 0.1 (>=1.0)"]}}, BAD, "packages.old"),
    ({"packages": {"newer": ["torch 3.0 (2.13)"]}}, WARNING, "packages.other"),
    ({"packages": {"deepspeed_error": "ImportError: x"}}, BAD, "packages.deepspeed"),
    ({"shm": {"error": "120 s"}}, BAD, "doctor.probe"),
]


def with_ill(ill: dict[str, Any]) -> dict[str, Any]:
    facts = copy.deepcopy(WELL)
    for name, changed in ill.items():
        facts[name] |= changed
    return facts


def job_ills() -> list[Finding]:
    """What only several ranks can have."""
    fast = {"device": "cuda:0", "name": "H100", "bf16": 7e14, "fp32": 5e13, "copy": 3e12}
    cpu = {"device": "cpu", "name": "EPYC", "bf16": 1e11, "fp32": 2e11, "copy": 3e10}
    tested = [("n1", [fast]), ("n1", [fast]), ("n2", [fast | {"bf16": 5e14}]), ("n3", [cpu]), ("n4", {"error": "OOM"})]
    facts = with_ill({"torch": {"names": ["H100"], "uuids": ["a"]}})
    met = {0: {"node": "n1", "facts": facts}, 1: {"node": "n1", "facts": {}}}
    return [
        *comparison.devices(tested),
        *comparison.link([{"bus": 1e8, "seconds": 1.0}], "gloo", 2),
        *comparison.link([{"bus": 1e8, "seconds": 1.0}, {"error": "timed out"}], "nccl", 2),
        *comparison.clocks({"n2": (3.0, 0.01), "n3": (0.1, 0.01)}),
        *doctor.judged(met, 3)[0],
        findings.bad("between.no_meeting", rank=1, address="n1", port=1, said="refused"),
        findings.untested("between.alone", command="x"),
        findings.untested("between.one_node", command="x"),
    ]


def fields(text: str) -> set[str | None]:
    return {name for _, name, _, _ in string.Formatter().parse(text) if name}


def test_each_finding_speaks_both_languages() -> None:
    for part in ("words", "topics", "findings"):
        for key, told in TEXTS[part].items():
            assert set(told) == set(LANGUAGES), key
    for key, told in TEXTS["findings"].items():
        assert len(told["en"]) == len(told["ko"]) in (1, 2), key
        assert [fields(text) for text in told["en"]] == [fields(text) for text in told["ko"]], key
        assert re.search("[가-힣]", told["ko"][0]) or key in ("network.host_name",), key
        assert not re.search("[가-힣]", "".join(told["en"])), key
        assert key.split(".")[0] in TEXTS["topics"], key


def test_the_code_and_the_texts_know_the_same_findings() -> None:
    used = set()
    for name in ("verdicts", "comparison", "doctor"):
        for node in ast.walk(ast.parse((HOME / f"pretrain/{name}.py").read_text(encoding="utf-8"))):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                used |= {node.value} if re.fullmatch(r"[a-z]+\.[a-z_0-9]+", node.value) else set()
    assert {key for key in used if key.split(".")[0] in TEXTS["topics"]} == TEXTS["findings"].keys()


def test_a_healthy_node_is_fine() -> None:
    found = list(verdicts.node(WELL, nodes=2))
    assert {one.level for one in found} == {GOOD}
    assert {one.topic for one in found} == TEXTS["topics"].keys() - {"speed", "between", "doctor"}


@pytest.mark.parametrize(("ill", "level", "key"), ILLS, ids=[key for *_, key in ILLS])
def test_an_ill_is_found_and_told(ill: dict[str, Any], level: str, key: str) -> None:
    found = [one for one in verdicts.node(with_ill(ill), nodes=2) if one.key == key]
    assert [one.level for one in found] == [level]
    for language in LANGUAGES:
        text, remedy = TOLD[language].told(found[0])
        assert "{" not in text + remedy and text and remedy


def test_every_finding_that_asks_for_something_was_made_here() -> None:
    """So each has its values, and says what to do, in both languages."""
    ills = job_ills()
    for one in ills:
        for language in LANGUAGES:
            assert len(TOLD[language].told(one)) == 1 + (one.level != GOOD), one
    made = {key for *_, key in ILLS} | {one.key for one in ills if one.level != GOOD}
    assert made == {key for key, told in TEXTS["findings"].items() if len(told["en"]) == 2}


def test_a_slow_device_a_late_clock_and_a_silent_rank_are_named() -> None:
    found = {(one.key, one.node): dict(one.values) for one in job_ills()}
    assert found["speed.slow", "n2"]["percent"] == "71"  # 5 of the median, 7
    assert ("speed.slow", "n1") not in found
    assert found["between.clock", "n2"]["seconds"] == "+3.0"
    assert ("between.clock", "n3") not in found
    assert found["between.silent", ""]["numbers"] == "2"


def test_one_node_may_have_its_name_on_the_loopback() -> None:
    found = verdicts.node(
        with_ill({"network": {"resolved": ["127.0.0.1"]}, "master": {"loopback": True, "here": True}})
    )
    assert {one.key: one.level for one in found if one.level != GOOD} == {"network.host_name_loopback": WARNING}


def test_what_the_ranks_disproved_is_no_obstacle() -> None:
    ill = findings.bad("network.host_name_loopback", host="n2", addresses="127.0.1.1", interface="eth0")
    other = findings.bad("limits.locked", size="64 kB")
    assert [one.level for one in comparison.tempered([ill, other], [{"bus": 1.0}] * 2)] == [WARNING, BAD]
    assert [one.level for one in comparison.tempered([ill, other], [{"bus": 1.0}, {"error": "x"}])] == [BAD, BAD]


@pytest.mark.parametrize(
    ("asked", "fits"),
    [
        ("eth", True),
        ("=eth", False),
        ("=eth0", True),
        ("ib,eth", True),
        ("ib", False),
        ("^docker", True),
        ("^eth,lo", False),
    ],
)
def test_nccl_names_interfaces_by_their_beginning(asked: str, fits: bool) -> None:
    assert verdicts.chosen(asked, ["lo", "eth0"], "NCCL_SOCKET_IFNAME") is fits


# ---- the table


def test_the_table_says_each_thing_once(monkeypatch: pytest.MonkeyPatch) -> None:
    same = [findings.bad("compiler.lock_stale", path="/x/lock", minutes=3)._replace(node=node) for node in ("n1", "n2")]
    other = findings.warning("compiler.none")._replace(node="n2")
    lines = list(Texts("en").table([*same, other], ["n1", "n2"], ranks=2))
    assert lines[0] == "Narae doctor  ·  n1, n2  ·  ranks: 2"
    assert lines[1].split()[:3] == ["BAD", "compiler", "all"]
    assert lines[2].strip() == "→ rm /x/lock"
    assert lines[3].split()[:3] == ["warning", "compiler", "n2"]
    assert lines[-1] == "A run will fail here. To mend: 1, to look at: 1."
    assert "\x1b" not in "".join(lines)
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    assert findings.painted("x", BAD) == "\x1b[1;31mx\x1b[0m"
    monkeypatch.setenv("NO_COLOR", "1")
    assert findings.painted("x", BAD) == "x"


def test_korean_columns_are_two_wide() -> None:
    assert findings.width("한글 ab") == 7
    assert findings.padded("한글", 6) == "한글  "


# ---- probes of this very machine


def test_a_lock_without_its_process_is_stale(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As torch's FileBaton makes them: one process still builds, the other was killed."""
    monkeypatch.setenv("TORCH_EXTENSIONS_DIR", str(tmp_path))
    for name in ("alive", "dead"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "lock").touch()
    os.utime(tmp_path / "dead/lock", (time.time() - 7200,) * 2)
    words = f"import time; lock = open({str(tmp_path / 'alive/lock')!r}); print(flush=True); time.sleep(60)"
    with subprocess.Popen([sys.executable, "-c", words], stdout=subprocess.PIPE) as builder:
        assert builder.stdout is not None
        builder.stdout.readline()
        alive, dead = probes.locks()
        builder.kill()
    assert alive["pid"] == builder.pid and dead["pid"] is None
    assert dead["path"] == str(tmp_path / "dead/lock") and dead["age"] == pytest.approx(7200, abs=60)


def test_the_write_test_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = bounds.storage(tmp_path / "not" / "yet")
    assert found["mb_per_s"] > 0 and found["lock"] is None and list(tmp_path.iterdir()) == []

    def refuse(*_: Any) -> None:
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr(bounds.fcntl, "flock", refuse)  # as Lustre without -o flock
    assert bounds.write_test(tmp_path, 10**9)["lock"] == "Function not implemented"
    monkeypatch.setattr(bounds.fcntl, "flock", lambda *_: None)  # as a file system that only pretends
    assert bounds.write_test(tmp_path, 10**9)["lock"] == "two holders"


def test_a_file_system_that_takes_no_file_is_told() -> None:
    found = bounds.write_test(Path("/proc/self"), 10**9)
    assert found["full"] is False and found["refused"]
    assert bounds.mount_of(Path("/proc/self"))["kind"] == "proc"


def test_a_full_device_is_full(monkeypatch: pytest.MonkeyPatch) -> None:
    always_full = functools.partial(Path("/dev/full").open, "wb", buffering=0)
    monkeypatch.setattr(bounds.tempfile, "TemporaryFile", lambda **_: always_full())
    assert bounds.write_test(Path("/"), 10**9) == {"refused": "No space left on device", "full": True}


def test_quotas_are_of_this_file_system() -> None:
    said = """Disk quotas for user me (uid 1000):
     Filesystem  blocks   quota   limit   grace   files   quota   limit   grace
     host:/home  900*     800     1000    0       10      0       0       0
      /dev/sda1  5        0       0       0       9       0       20      0
"""
    assert bounds.quotas(said, "host:/home") == [{"bytes": 100 * 1024, "files": None}]
    assert bounds.quotas(said, "/dev/sda1") == [{"bytes": None, "files": 11}]
    assert bounds.quotas("", "/dev/sda1") == []


@pytest.mark.parametrize("version", [1, 2])
def test_the_tightest_cgroup_binds(version: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "4")
    proc, groups = tmp_path / "proc", tmp_path / "cgroup"
    (proc / "self").mkdir(parents=True)
    (proc / "meminfo").write_text("MemTotal: 64000000 kB\nMemAvailable: 32000000 kB\n")
    for path in ("", "/job", "/job/step"):
        memory, cpu = (groups / f"memory{path}", groups / f"cpu{path}") if version == 1 else (groups / path[1:],) * 2
        memory.mkdir(parents=True, exist_ok=True)
        cpu.mkdir(parents=True, exist_ok=True)
        bound = {"": 2**62, "/job": 8 * GB, "/job/step": 16 * GB}[path]
        if version == 1:
            (memory / "memory.limit_in_bytes").write_text(f"{bound}\n")
            (cpu / "cpu.cfs_quota_us").write_text("150000\n" if path == "/job" else "-1\n")
            (cpu / "cpu.cfs_period_us").write_text("100000\n")
        else:
            (memory / "memory.max").write_text(f"{bound}\n" if path else "max\n")
            (cpu / "cpu.max").write_text("150000 100000\n" if path == "/job" else "max 100000\n")
    lines = ["9:memory:/job/step", "1:cpu:/job/step"] if version == 1 else ["0::/job/step"]
    (proc / "self/cgroup").write_text("\n".join(lines) + "\n")
    found = bounds.limits(proc, groups)
    assert (found["memory"], found["bound"], found["share"], found["omp"]) == (65_536_000_000, 8 * GB, 1.5, 4)


def test_tasks_of_each_node_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_STEP_TASKS_PER_NODE", "4(x2),1")
    for node, tasks in (("0", 4), ("1", 4), ("2", 1)):
        monkeypatch.setenv("SLURM_NODEID", node)
        assert bounds._tasks() == tasks


def test_a_taken_port_and_a_free_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TORCHELASTIC_USE_AGENT_STORE", raising=False)
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    with socket.socket() as server:
        server.bind(("", 0))
        server.listen()
        monkeypatch.setenv("MASTER_PORT", str(server.getsockname()[1]))
        assert str(os.getpid()) in probes.master()["taken"]
    monkeypatch.setenv("MASTER_PORT", str(free_port()))
    found = probes.master()
    assert found["here"] and found["loopback"] and found["taken"] is None
    monkeypatch.setenv("MASTER_ADDR", socket.gethostname())
    monkeypatch.setattr(probes.socket, "getaddrinfo", lambda *_, **__: [(2, 1, 6, "", ("127.0.1.1", 1))])
    found = probes.master()
    assert found["here"] and not found["loopback"]


def test_another_node_is_there_when_it_refuses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probes.socket, "getaddrinfo", lambda *_, **__: [(2, 1, 6, "", ("10.9.9.9", 1))])
    for answer, key in (
        (ConnectionRefusedError(), "ms"),
        (TimeoutError(), "unreachable"),
        (OSError(113, "x"), "unreachable"),
    ):
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("MASTER_ADDR", "n9")
            patch.setenv("MASTER_PORT", "29500")
            patch.setattr(probes.socket, "create_connection", thrower(answer))
            assert key in probes.master()
    monkeypatch.setenv("MASTER_ADDR", "n9")
    monkeypatch.setenv("MASTER_PORT", "ssh")
    assert probes.master()["bad_port"]


def thrower(error: Exception) -> Any:
    def throw(*_: Any, **__: Any) -> None:
        raise error

    return throw


SMI = """#!/bin/sh
case "$*" in
  *uuid,index*) echo "GPU-a, 0, NVIDIA H100, 570.1"; echo "GPU-b, 1, NVIDIA H100, 570.1";;
  *compute-apps*) echo "GPU-b, 4711, 900";;
  *ecc*) echo 0; echo 2;;
  *clocks_event_reasons*) echo 'Field is not a valid field to query.'; exit 2;;
  *clocks_throttle_reasons.hw_slowdown*) echo Active; echo "Not Active";;
  *clocks_throttle*) echo "Not Active"; echo "Not Active";;
  *) echo "| NVIDIA-SMI 570.1   Driver Version: 570.1   CUDA Version: 12.8 |";;
esac
"""


@pytest.fixture
def smi(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    script = tmp_path / "nvidia-smi"
    script.write_text(SMI)
    script.chmod(0o755)
    yield script


def test_nvidia_smi_is_read_old_and_new(smi: Path) -> None:
    found = probes.gpus()
    assert found["cuda"] == "12.8" and found["others"] == [{"uuid": "GPU-b", "pid": "4711", "mb": "900"}]
    assert [(card["uuid"], card["ecc"], card["slow"]) for card in found["cards"]] == [
        ("GPU-a", 0, ["hw_slowdown"]),
        ("GPU-b", 2, []),
    ]


def test_a_driver_that_fails_or_hangs(smi: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    smi.write_text("#!/bin/sh\necho 'Failed to initialize NVML: Driver/library version mismatch'\nexit 18\n")
    assert probes.gpus()["broken"] == "Failed to initialize NVML: Driver/library version mismatch"
    smi.write_text("#!/bin/sh\nexec sleep 60\n")
    monkeypatch.setattr(probes, "ASK", 0.2)
    assert probes.gpus()["broken"] == "0 s"


# ---- how the doctor asks, and how ranks meet


def test_a_probe_that_hangs_or_dies_is_a_finding(tmp_path: Path) -> None:
    kinds = {
        "well": "print('{}')",
        "hangs": "import time, signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(60)",
        "dies": "import os; os.kill(os.getpid(), 11)",
        "breaks": "import no_such_module",
    }
    began = time.monotonic()
    found = doctor.collect({name: ["-c", words] for name, words in kinds.items()}, limit=3)
    assert time.monotonic() - began < 30
    assert found["well"] == {} and found["hangs"] == {"error": "3 s"} and "-11" in found["dies"]["error"]
    assert "no_such_module" in found["breaks"]["error"]


def test_ranks_are_known_by_launcher_and_by_srun(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith("SLURM_") or name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"):
            monkeypatch.delenv(name)
    assert doctor.place()[:3] == (0, 1, 0)
    for name, value in (("PROCID", 0), ("LOCALID", 0), ("NTASKS", 4)):
        monkeypatch.setenv(f"SLURM_{name}", str(value))
    assert doctor.place()[:3] == (0, 1, 0)  # a batch script, outside of srun
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "4")
    monkeypatch.setenv("SLURM_PROCID", "3")
    assert doctor.place()[:3] == (3, 4, 0)
    for name, value in (("RANK", 1), ("WORLD_SIZE", 2), ("LOCAL_RANK", 1)):
        monkeypatch.setenv(name, str(value))
    assert doctor.place()[:3] == (1, 2, 1)


def stores(count: int) -> list[Any]:
    from torch._C._distributed_c10d import TCPStore

    port, limit = free_port(), timedelta(seconds=20)
    return [TCPStore("127.0.0.1", port, None, number == 0, limit, wait_for_workers=False) for number in range(count)]


def test_a_clock_that_is_ahead_is_measured() -> None:
    one, other = stores(2)
    node = threading.Thread(target=doctor.clocks, args=(other, 1, [1], lambda: time.time() + 30))
    node.start()
    found = doctor.clocks(one, 0, [1])
    node.join()
    ahead, off = found[1]
    assert abs(ahead - 30) <= off + 1e-3


def test_a_rank_that_says_nothing_is_missed() -> None:
    one, other = stores(2)
    places = [doctor.Place(rank, 3, 0, "n") for rank in range(2)]
    doctor.gather(other, places[1], "x", {"a": 1}, 1)
    assert doctor.gather(one, places[0], "x", {"a": 0}, 0.3) == {0: {"a": 0}, 1: {"a": 1}}


def test_ranks_that_do_not_meet_tell_it_themselves(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, value in (("RANK", 1), ("WORLD_SIZE", 2), ("LOCAL_RANK", 0), ("MASTER_PORT", free_port())):
        monkeypatch.setenv(name, str(value))
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    monkeypatch.setattr(doctor, "MEET", 0.1)
    facts = with_ill({"master": {"loopback": True, "here": True}})
    monkeypatch.setattr(doctor, "first_facts", lambda: {"master": facts["master"]})
    monkeypatch.setattr(doctor, "other_facts", lambda: facts)
    assert doctor.main_of("ko") == 1
    said = capsys.readouterr().out
    assert f"랭크 1: 127.0.0.1:{os.environ['MASTER_PORT']}에서 다른 랭크를 만나지 못했습니다" in said
    assert "Connection refused" in said


def test_alone_it_says_what_it_did_not_test(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("RANK", "SLURM_STEP_NUM_TASKS"):
        monkeypatch.delenv(name, raising=False)
    device = {"device": "cuda:0", "name": "H100", "bf16": 7e14, "fp32": 5e13, "copy": 3e12}
    answers = WELL | {"devices": [device, device | {"device": "cuda:1"}]}
    monkeypatch.setattr(doctor, "collect", lambda commands, limit: {name: answers[name] for name in commands})
    assert doctor.main_of("en") == 0
    said = capsys.readouterr().out
    assert "torchrun --standalone --nproc-per-node=2 pretrain/plan.py --doctor" in said
    assert re.search(r"--?nodes=2 .*pretrain/plan.py --doctor", said) and UNTESTED not in said
    assert said.splitlines()[-1] == "All is well."
    with pytest.raises(Mistake, match="the languages are en, ko"):
        doctor.main_of("fr")


def test_two_ranks_print_one_table(tmp_path: Path, artifacts: Path) -> None:
    """Everything for real: probes, speeds, the all-reduce; with a stale lock to find."""
    (tmp_path / "ext/cpu_adam").mkdir(parents=True)
    (tmp_path / "ext/cpu_adam/lock").touch()
    script = tmp_path / "start.py"
    script.write_text("import sys\nfrom pretrain.doctor import main_of\nsys.exit(main_of('en'))\n")
    words = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", str(script)]
    environment = os.environ | {"TORCH_EXTENSIONS_DIR": str(tmp_path / "ext"), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(words, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 1, done.stderr
    assert done.stdout.count("Narae doctor") == 1, done.stdout
    assert f"rm {tmp_path}/ext/cpu_adam/lock" in done.stdout
    assert "OMP_NUM_THREADS=1" in done.stdout
    assert len(re.findall(r"cpu \(.*\): .* TFLOP/s in bf16", done.stdout)) >= 1
    assert "All-reduce of 64 MB over 2 ranks (gloo)" in done.stdout
    assert not artifacts.exists()


def test_a_probe_is_a_line_of_json(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, HOME / "pretrain/probes.py", "shm"], capture_output=True, text=True, cwd=tmp_path
    )
    assert json.loads(done.stdout)["folder"] == "/dev/shm"
