"""Facts of the nodes -> findings: how good each is, and which of the texts in pretrain/doctor.yaml tells it."""

import ipaddress
from collections.abc import Callable, Iterator
from typing import Any

from pretrain.bounds import Facts
from pretrain.findings import Finding, bad, good, warning

LITTLE_DISK = 60e9  # bytes: three checkpoints of the 1.3b size, at 14 bytes per parameter
NO_DISK = 2e9
FEW_INODES = 10_000
SLOW_DISK = 50.0  # MB/s; a checkpoint of the 1.3b size takes six minutes there
LITTLE_SHM, NO_SHM = 1e9, 128 * 2**20  # Docker gives 64 MB; a rank of NCCL takes some tens of MB
FEW_FILES = 4096
NETWORK_DISKS = ("nfs", "nfs4", "cifs", "smb3", "9p", "fuse.sshfs")
MEMORY_DISKS = ("tmpfs", "ramfs")


Found = Iterator[Finding]


def amount(value: float, base: int = 1000) -> str:
    for power, letter in ((4, "T"), (3, "G"), (2, "M"), (1, "k")):
        unit, name = base**power, letter + ("iB" if base == 1024 else "B")
        if value >= unit:
            return f"{value / unit:.{0 if value >= 10 * unit else 1}f} {name}"
    return f"{value:.0f} B"


def listed(words: Any) -> str:
    return ", ".join(dict.fromkeys(map(str, words))) or "-"


def gpu(facts: Facts) -> Found:
    system, torch = facts["gpus"], facts["torch"]
    cards, seen, visible = system["cards"], torch["names"], system["visible"]
    there = max(system["devices"], len(cards))
    if "broken" in system:
        yield bad("gpu.driver_broken", said=system["broken"])
    if not there and not seen:
        yield warning("gpu.none")
        if torch["cuda"]:
            yield warning("gpu.needless_cuda", version=torch["version"])
        return
    if seen:
        driver = cards[0]["driver_version"] if cards else "-"
        yield good("gpu.seen", count=len(seen), name=listed(seen), driver=driver, torch=torch["cuda"] or "-")
        if len(seen) < there and visible is None:
            yield warning("gpu.fewer", seen=len(seen), there=there)
    elif not torch["cuda"]:
        yield bad("gpu.cpu_build", there=there, version=torch["version"])
    elif visible is not None:
        yield warning("gpu.hidden", there=there, visible=visible)
    elif major(system.get("cuda")) < major(torch["cuda"]):
        yield bad("gpu.driver_old", driver=system.get("cuda") or "-", torch=torch["cuda"])
    else:
        yield bad("gpu.unusable", there=there)
    yield from _health(system, torch["uuids"])


def _health(system: Facts, uuids: list[str]) -> Found:
    ours = {one.removeprefix("GPU-") for one in uuids}
    cards = [card for card in system["cards"] if not ours or card["uuid"].removeprefix("GPU-") in ours]
    sick = False
    for card in cards:
        others = [one for one in system.get("others", ()) if one["uuid"] == card["uuid"]]
        for other in others:
            yield warning("gpu.shared", index=card["index"], pid=other["pid"], mb=other["mb"])
        if card["ecc"]:
            yield bad("gpu.ecc", index=card["index"], count=card["ecc"])
        if card["slow"]:
            yield warning("gpu.throttled", index=card["index"], reason=listed(card["slow"]))
        sick = sick or bool(others or card["ecc"] or card["slow"])
    if cards and not sick:
        yield good("gpu.healthy", count=len(cards))


def major(version: str | None) -> int:
    return int((version or "0").split(".")[0])


def precision(facts: Facts) -> Found:
    torch = facts["torch"]
    if torch["bf16"]:
        yield good("precision.native")
    else:
        yield warning("precision.fp16", name=listed(torch["names"])) if torch["names"] else warning("precision.fp32")


def network(facts: Facts) -> Found:
    net = facts["network"]
    outside = [name for name in net["interfaces"] if name != "lo"]
    level = bad if facts["job"]["nodes"] > 1 else warning
    yield good("network.interfaces", names=listed(outside)) if outside else level("network.no_network")
    for variable, asked in (("NCCL_SOCKET_IFNAME", net["nccl"]), ("GLOO_SOCKET_IFNAME", net["gloo"])):
        if asked and not chosen(asked, net["interfaces"], variable):
            yield bad("network.no_interface", variable=variable, asked=asked, names=listed(net["interfaces"]))
        elif asked:
            yield good("network.chosen", variable=variable, asked=asked)
    own = {one.split("%")[0] for addresses in net["interfaces"].values() for one in addresses}
    usable = [one for one in net["resolved"] if one in own and not ipaddress.ip_address(one).is_loopback]
    words = {"host": net["host"], "addresses": listed(net["resolved"])}
    if usable or net["gloo"]:
        yield good("network.host_name", **words)
    elif outside:
        yield level("network.host_name_loopback", interface=outside[0], **words)
    active = [name for name, state in net["infiniband"].items() if "ACTIVE" in state]
    if net["infiniband"] and not active:
        yield warning("network.infiniband_down", names=listed(net["infiniband"]))
    elif active and net["no_infiniband"]:
        yield warning("network.infiniband_off", names=listed(active))
    else:
        yield good("network.infiniband", names=listed(active)) if active else good("network.no_infiniband")


def chosen(asked: str, names: Any, variable: str) -> bool:
    """Gloo takes a list of names. NCCL takes prefixes, behind `=` whole names, behind `^` those to leave out."""
    if variable.startswith("GLOO"):
        return all(one in names for one in asked.split(","))
    not_these, exactly = asked.startswith("^"), "=" in asked[:2]
    words = asked.lstrip("^=").split(",")
    match = [name for name in names if (name in words if exactly else name.startswith(tuple(words)))]
    return len(match) < len(names) if not_these else bool(match)


def master(facts: Facts) -> Found:
    found = facts["master"]
    words = {"address": found["address"], "port": found["port"]}
    if not found["address"]:
        yield good("master.unset")
    elif not found["port"] or "bad_port" in found:
        yield bad("master.no_port", address=found["address"], port=found["port"] or "-")
    elif "unknown" in found:
        yield bad("master.unknown", said=found["unknown"], **words)
    elif found["loopback"] and facts["job"]["nodes"] > 1:
        yield bad("master.loopback", **words)
    elif found.get("taken"):
        yield bad("master.taken", who=found["taken"], **words)
    elif found["here"]:
        yield good("master.here", **words)
    elif "unreachable" in found:
        yield bad("master.unreachable", said=found["unreachable"], **words)
    else:
        yield good("master.reachable", ms=f"{found['ms']:.1f}", **words)


def storage(facts: Facts) -> Found:
    disk = facts["storage"]
    words = {"folder": disk["folder"], "kind": disk["kind"], "free": amount(disk["free"])}
    if disk["free"] < NO_DISK or disk.get("full"):
        yield bad("storage.full", **words)
    else:
        yield (warning if disk["free"] < LITTLE_DISK else good)(
            "storage.little" if disk["free"] < LITTLE_DISK else "storage.space", **words
        )
    if disk["inodes"] is not None and disk["inodes"] < FEW_INODES:
        yield warning("storage.inodes", folder=disk["folder"], count=f"{disk['inodes']:,}")
    for quota in disk["quota"]:
        if quota["bytes"] is not None and quota["bytes"] < LITTLE_DISK:
            level = bad if quota["bytes"] < NO_DISK else warning
            yield level("storage.quota", folder=disk["folder"], left=amount(max(quota["bytes"], 0)))
        if quota["files"] is not None and quota["files"] < FEW_INODES:
            yield warning("storage.quota_files", folder=disk["folder"], left=f"{max(quota['files'], 0):,}")
    if disk["kind"] in NETWORK_DISKS:
        yield warning("storage.network", **words)
    if disk["kind"] in MEMORY_DISKS:
        yield warning("storage.memory", **words)
    if disk["kind"] == "overlay":
        yield warning("storage.overlay", **words)
    if "refused" in disk:
        if not disk["full"]:
            yield bad("storage.refused", folder=disk["folder"], said=disk["refused"])
        return
    if disk["mb_per_s"] is not None:
        slow = disk["mb_per_s"] < SLOW_DISK
        yield (warning if slow else good)("storage.slow" if slow else "storage.speed", rate=f"{disk['mb_per_s']:.0f}")
    yield bad("storage.no_lock", said=disk["lock"], **words) if disk["lock"] else good("storage.lock")


def shm(facts: Facts) -> Found:
    found = facts["shm"]
    words = {"folder": found["folder"], "size": amount(found["size"], 1024), "free": amount(found["free"], 1024)}
    if found["free"] < NO_SHM:
        yield bad("shm.small", **words)
    else:
        yield warning("shm.little", **words) if found["free"] < LITTLE_SHM else good("shm.size", **words)


def clock(facts: Facts) -> Found:
    found = facts["clock"]
    behind = found["newest"] - found["now"]
    if behind > 60:
        yield warning("clock.behind", hours=f"{behind / 3600:.1f}", file=found["file"])
    else:
        yield good("clock.plausible")


def compiler(facts: Facts) -> Found:
    found, torch, gpus = facts["compiler"], facts["torch"], facts["gpus"]
    if not found["gxx"]:
        yield warning("compiler.none")
    if not found["ninja"]:
        yield warning("compiler.ninja_path") if found["beside"] else warning("compiler.no_ninja")
    if found["gxx"] and found["ninja"]:
        yield good("compiler.ready", gxx=found["gxx"])
    if torch["cuda"] and (gpus["devices"] or gpus["cards"]):
        if not found["nvcc"]:
            yield warning("compiler.no_nvcc", torch=torch["cuda"])
        elif major(found["nvcc"]) != major(torch["cuda"]):
            yield warning("compiler.nvcc", nvcc=found["nvcc"], torch=torch["cuda"])
        else:
            yield good("compiler.nvcc_fits", nvcc=found["nvcc"], torch=torch["cuda"])
    for lock in found["locks"]:
        words = {"path": lock["path"], "minutes": f"{lock['age'] / 60:.0f}"}
        if lock["pid"]:
            yield warning("compiler.lock_held", pid=lock["pid"], **words)
        elif lock["kind"] in NETWORK_DISKS and lock["age"] < 3600:
            yield warning("compiler.lock_elsewhere", **words)
        else:
            yield bad("compiler.lock_stale", **words)
    if not found["locks"]:
        yield good("compiler.no_locks")


def limits(facts: Facts) -> Found:
    found, gpus = facts["limits"], facts["gpus"]
    memory = found["bound"] or found["memory"]
    words = {"memory": amount(memory), "machine": amount(found["memory"])}
    little = memory < found["memory"] / 2
    yield (warning if little else good)("limits.memory_bound" if little else "limits.memory", **words)

    cores = min(found["cores"], found["share"] or found["cores"])
    each = max(1, int(cores // found["ranks"]))
    words = {"cores": f"{cores:g}", "machine": found["machine_cores"], "ranks": found["ranks"]} | {"each": each}
    few = cores < found["ranks"] or (cores <= 1 < found["machine_cores"])
    yield (warning if few else good)("limits.few_cores" if few else "limits.cores", **words)
    if found["omp"] is None:
        yield warning("limits.threads_unset", **words) if found["ranks"] > 1 else good("limits.threads_free", **words)
    else:
        used, words = found["omp"] * found["ranks"], words | {"omp": found["omp"]}
        if used > max(cores, found["ranks"]):
            yield warning("limits.threads_many", **words)
        elif used * 2 <= cores and not gpus["devices"]:
            yield warning("limits.threads_few", **words)
        else:
            yield good("limits.threads", **words)
    few = 0 <= found["files"] < FEW_FILES
    yield (warning if few else good)("limits.few_files" if few else "limits.files", count=f"{found['files']:,}")
    if found["infiniband"] and found["locked"] >= 0:
        yield bad("limits.locked", size=amount(found["locked"]))


def packages(facts: Facts) -> Found:
    found = facts["packages"]
    if found["missing"]:
        yield bad("packages.missing", names=listed(found["missing"]))
    if found["old"]:
        yield bad("packages.old", names=listed(found["old"]))
    if found["newer"]:
        yield warning("packages.other", names=listed(found["newer"]))
    if "deepspeed_error" in found:
        yield bad("packages.deepspeed", said=found["deepspeed_error"])
    if not (found["missing"] or found["old"] or found["newer"]):
        yield good("packages.fit", count=found["count"], deepspeed=found.get("deepspeed", "-"))


# What each judge looks at. A probe that gave nothing is told, and what needs it is left out.
JUDGES: tuple[tuple[Callable[[Facts], Found], tuple[str, ...]], ...] = (
    (gpu, ("gpus", "torch")),
    (precision, ("torch",)),
    (network, ("network",)),
    (master, ("master",)),
    (storage, ("storage",)),
    (shm, ("shm",)),
    (clock, ("clock",)),
    (compiler, ("compiler", "torch", "gpus")),
    (limits, ("limits", "gpus")),
    (packages, ("packages",)),
)


def node(facts: Facts, nodes: int = 1) -> Found:
    """What is found on one node of `nodes`."""
    broken = {name: found["error"] for name, found in facts.items() if "error" in found}
    for name, said in broken.items():
        yield bad("doctor.probe", name=name, said=said)
    for judge, needs in JUDGES:
        if not broken.keys() & set(needs):
            yield from judge(facts | {"job": {"nodes": nodes}})
