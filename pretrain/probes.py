"""What a node says of itself: facts as plain data, no judgement; pretrain/doctor.py asks, pretrain/verdicts.py judges.

    python pretrain/probes.py storage      # one probe, as a line of JSON

Each probe is a process of its own when the doctor asks: one that hangs in a driver or in a dead network file system is
left behind, one that crashes takes nothing with it. Nothing is changed; files that are written have no name.
"""

import contextlib
import errno
import importlib.metadata
import importlib.util
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from narae.config import HOME
from pretrain.bounds import ASK, Facts, limits, mount_of, shm, storage

CONNECT = 5.0  # seconds that MASTER_ADDR may take to answer
STALL = ("hw_slowdown", "hw_thermal_slowdown", "sw_thermal_slowdown")


def ask(*words: str) -> str:
    return subprocess.run(words, capture_output=True, text=True, timeout=ASK, check=True).stdout


def gpus() -> Facts:
    """What the system and the driver say, without torch."""
    devices = len(list(Path("/dev").glob("nvidia[0-9]*")))
    facts: Facts = {"devices": devices, "visible": os.environ.get("CUDA_VISIBLE_DEVICES"), "cards": []}
    if not shutil.which("nvidia-smi"):
        return facts
    try:
        facts["cuda"] = (re.findall(r"CUDA Version:\s*([\d.]+)", ask("nvidia-smi")) or [None])[0]
        keys = ("uuid", "index", "name", "driver_version")
        facts["cards"] = [dict(zip(keys, row, strict=True)) for row in _smi("gpu", *keys)]
        facts["others"] = [
            {"uuid": uuid, "pid": pid, "mb": used}
            for uuid, pid, used in _smi("compute-apps", "gpu_uuid", "pid", "used_memory")
        ]
    except subprocess.TimeoutExpired:
        return facts | {"broken": f"{ASK:.0f} s"}
    except (subprocess.CalledProcessError, OSError) as error:
        said = getattr(error, "stdout", "") or getattr(error, "stderr", "") or str(error)
        return facts | {"broken": said.strip().splitlines()[0]}
    # A driver that does not know a field refuses the whole question, so each is asked apart.
    for card in facts["cards"]:
        card |= {"ecc": 0, "slow": []}
    _into(facts["cards"], "ecc", "ecc.errors.uncorrected.volatile.total")
    for reason in STALL:
        if not _into(facts["cards"], reason, f"clocks_event_reasons.{reason}"):
            _into(facts["cards"], reason, f"clocks_throttle_reasons.{reason}")
    for card in facts["cards"]:
        card["ecc"] = int(card["ecc"]) if str(card["ecc"]).isdigit() else 0
        card["slow"] = [reason for reason in STALL if card.pop(reason, "") == "Active"]
    return facts


def _smi(what: str, *keys: str) -> list[list[str]]:
    said = ask("nvidia-smi", f"--query-{what}={','.join(keys)}", "--format=csv,noheader,nounits")
    return [
        [word.strip() for word in line.split(",")] for line in said.splitlines() if line.count(",") == len(keys) - 1
    ]


def _into(cards: list[Facts], key: str, field: str) -> bool:
    with contextlib.suppress(subprocess.SubprocessError, OSError):
        for card, (value,) in zip(cards, _smi("gpu", field), strict=False):
            card[key] = value
        return True
    return False


def torch() -> Facts:
    """What torch says, and whether bf16 is native."""
    import torch

    facts: Facts = {"version": torch.__version__, "cuda": torch.version.cuda, "names": [], "uuids": []}
    if torch.cuda.is_available():
        for number in range(torch.cuda.device_count()):
            facts["names"].append(torch.cuda.get_device_name(number))
            facts["uuids"].append(str(getattr(torch.cuda.get_device_properties(number), "uuid", "")))
        facts["bf16"] = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        from narae.training import cpu_has_bf16

        facts["bf16"] = cpu_has_bf16()
    return facts


def network() -> Facts:
    import psutil

    up = {name for name, state in psutil.net_if_stats().items() if state.isup}
    addresses = {
        name: [one.address for one in found if one.family in (socket.AF_INET, socket.AF_INET6)]
        for name, found in psutil.net_if_addrs().items()
    }
    host, resolved = socket.gethostname(), []
    with contextlib.suppress(OSError):
        resolved = sorted({str(one[4][0]) for one in socket.getaddrinfo(host, None)})
    ports = sorted(Path("/sys/class/infiniband").glob("*/ports/*/state"))
    return {
        "host": host,
        "resolved": resolved,
        "interfaces": {name: addresses.get(name, []) for name in sorted(up) if addresses.get(name)},
        "nccl": os.environ.get("NCCL_SOCKET_IFNAME"),
        "gloo": os.environ.get("GLOO_SOCKET_IFNAME"),
        "infiniband": {
            str(port.relative_to("/sys/class/infiniband").parts[0]): port.read_text().strip() for port in ports
        },
        "no_infiniband": os.environ.get("NCCL_IB_DISABLE") == "1",
    }


def master() -> Facts:
    """MASTER_ADDR as this node sees it. A refused connection means that the machine is there."""
    import psutil

    address, port = os.environ.get("MASTER_ADDR"), os.environ.get("MASTER_PORT")
    facts: Facts = {"address": address, "port": port, "slurm": bool(os.environ.get("SLURM_JOB_ID"))}
    if not address or not port:
        return facts
    if not port.isdigit() or not 0 < int(port) < 2**16:
        return facts | {"bad_port": True}
    try:
        found = socket.getaddrinfo(address, int(port), type=socket.SOCK_STREAM)
    except OSError as error:
        return facts | {"unknown": error.strerror or str(error)}
    facts["resolved"] = sorted({str(one[4][0]) for one in found})
    own = {one.address.split("%")[0] for kind in psutil.net_if_addrs().values() for one in kind}
    facts["loopback"] = all(one.startswith("127.") or one == "::1" for one in facts["resolved"])
    facts["here"] = facts["loopback"] or bool(own & set(facts["resolved"]))
    # Many systems give the loopback to their own name; the other nodes know it by its right address.
    facts["loopback"] = facts["loopback"] and address != socket.gethostname()
    if facts["here"]:
        # torchrun's own process listens there, and that is right
        if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True":
            facts["taken"] = _taken(int(port))
        return facts
    began = time.monotonic()
    try:
        socket.create_connection((address, int(port)), timeout=CONNECT).close()
    except ConnectionRefusedError:
        pass
    except TimeoutError:
        return facts | {"unreachable": f"{CONNECT:.0f} s"}
    except OSError as error:
        return facts | {"unreachable": error.strerror or str(error)}
    return facts | {"ms": (time.monotonic() - began) * 1e3}


def _taken(port: int) -> str | None:
    """Who has it, or why it cannot be had."""
    import psutil

    with socket.socket(socket.AF_INET) as test:
        test.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            test.bind(("", port))
            return None
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                return error.strerror or str(error)
    with contextlib.suppress(psutil.Error, OSError):
        for one in psutil.net_connections("tcp"):
            if one.laddr and one.laddr.port == port and one.status == psutil.CONN_LISTEN and one.pid:
                return f"{psutil.Process(one.pid).name()}, pid {one.pid}"
    return "?"


def clock(home: Path = HOME) -> Facts:
    newest = max(home.glob("*/*.py"), key=lambda file: file.stat().st_mtime)
    return {"now": time.time(), "newest": newest.stat().st_mtime, "file": str(newest)}


def compiler() -> Facts:
    facts: Facts = {"ninja": shutil.which("ninja"), "beside": (Path(sys.executable).parent / "ninja").exists()}
    for key, path in (("gxx", shutil.which("g++")), ("nvcc", _nvcc())):
        facts[key] = None
        with contextlib.suppress(subprocess.SubprocessError, OSError):
            said = ask(path, "--version") if path else ""
            found = re.search(r"release ([\d.]+)" if key == "nvcc" else r"\) ([\d.]+)", said)
            facts[key] = found[1] if found else None
    return facts | {"locks": list(locks())}


def _nvcc() -> str | None:
    home = os.environ.get("CUDA_HOME") or os.environ.get("CUDA_PATH")
    return (
        str(Path(home) / "bin" / "nvcc")
        if home
        else shutil.which("nvcc", path=f"{os.environ['PATH']}:/usr/local/cuda/bin")
    )


def locks() -> Iterator[Facts]:
    """torch builds an op under a file `lock`, open while it builds and then removed; others wait until it is gone."""
    cache = os.environ.get("XDG_CACHE_HOME") or str(Path("~/.cache").expanduser())
    folder = Path(os.environ.get("TORCH_EXTENSIONS_DIR") or f"{cache}/torch_extensions")
    for file in sorted([*folder.glob("*/lock"), *folder.glob("*/*/lock")]):
        with contextlib.suppress(OSError):  # gone meanwhile: it was alive
            age = time.time() - file.stat().st_mtime
            yield {"path": str(file), "age": age, "pid": _holder(file), "kind": mount_of(file)["kind"]}


def _holder(file: Path) -> int | None:
    for link in Path("/proc").glob("[0-9]*/fd/*"):
        with contextlib.suppress(OSError):
            if link.samefile(file):
                return int(link.parts[2])
    return None


def packages() -> Facts:
    """Against what pyproject.toml asks for, and the major versions that constraints.txt was tested with."""
    import tomllib

    from packaging.requirements import Requirement
    from packaging.version import Version

    asked = tomllib.loads((HOME / "pyproject.toml").read_text(encoding="utf-8"))["project"]["dependencies"]
    pinned = dict(line.split("==") for line in (HOME / "constraints.txt").read_text().split())
    facts: Facts = {"count": 0, "missing": [], "old": [], "newer": []}
    for need in map(Requirement, asked):
        if need.marker and not need.marker.evaluate():
            continue
        facts["count"] += 1
        try:
            have = importlib.metadata.version(need.name)
        except importlib.metadata.PackageNotFoundError:
            facts["missing"].append(need.name)
            continue
        if not need.specifier.contains(have, prereleases=True):
            facts["old"].append(f"{need.name} {have} ({need.specifier})")
        elif need.name in pinned and Version(have).major != Version(pinned[need.name]).major:
            facts["newer"].append(f"{need.name} {have} ({pinned[need.name]})")
    if "deepspeed" not in facts["missing"]:
        try:
            import deepspeed

            facts["deepspeed"] = deepspeed.__version__
        except Exception as error:  # its import runs programs and reads the system: anything may come
            facts["deepspeed_error"] = f"{type(error).__name__}: {str(error).strip().splitlines()[0]}"
    return facts


PROBES: dict[str, Callable[[], Facts]] = {
    one.__name__: one for one in (gpus, torch, network, master, storage, shm, clock, compiler, limits, packages)
}


def answer(facts: Callable[[], Any]) -> None:
    """One line of JSON on standard output, whatever libraries print there meanwhile."""
    line = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    try:
        found = facts()
    except Exception as error:
        found = {"error": f"{type(error).__name__}: {error}".splitlines()[0]}
    print(json.dumps(found), file=line, flush=True)
    os._exit(0)  # threads and drivers of a library could hold the end up


if __name__ == "__main__":
    answer(PROBES[sys.argv[1]])
