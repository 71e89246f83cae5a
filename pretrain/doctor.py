"""What would make a run fail or crawl on these nodes, each finding with what to do about it.

    python pretrain/plan.py --doctor                                           # this node alone
    python pretrain/plan.py --doctor --language ko
    torchrun --nproc-per-node=8 pretrain/plan.py --doctor                      # all GPUs of this node, and between them
    srun --nodes=2 --ntasks-per-node=1 python pretrain/plan.py --doctor        # two nodes, and between them

With several ranks the first of each node reports on the node, each rank tests its device, and rank 0 prints one table;
ranks that cannot find each other print their own. The exit code is 1 where a run would fail.
"""

import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from typing import Any, NamedTuple

from narae.config import HOME
from narae.log import Mistake, say
from pretrain import comparison, verdicts
from pretrain.bounds import ASK, Facts
from pretrain.findings import BAD, LANGUAGES, Finding, Texts, bad, untested
from pretrain.probes import CONNECT, PROBES

# Seconds that each part may take: a cold import of torch from a network file system takes most of them.
PROBE, MEET, TEST = 120.0, 60.0, 120.0
TURNS = 5  # exchanges of the time with each node; the quickest counts


class Place(NamedTuple):
    rank: int
    world: int
    local: int
    node: str

    @property
    def nodes(self) -> int:
        """As the launcher tells it; what met is counted later."""
        return int(os.environ.get("GROUP_WORLD_SIZE") or os.environ.get("SLURM_STEP_NUM_NODES") or 1)


def place() -> Place:
    """torchrun and slurm/common.sh say RANK; a step of srun has its own words. A batch script's are no rank."""
    for names in (("RANK", "WORLD_SIZE", "LOCAL_RANK"), ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "SLURM_LOCALID")):
        if all(name in os.environ for name in names):
            rank, world, local = (int(os.environ[name]) for name in names)
            return Place(rank, world, local, socket.gethostname())
    return Place(0, 1, 0, socket.gethostname())


def main_of(language: str) -> int:
    if language not in LANGUAGES:
        raise Mistake(f"--language {language}: the languages are {', '.join(LANGUAGES)}")
    texts, here = Texts(language), place()
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "FATAL")  # what fails is told once, in the table
    say("about half a minute: facts, then speed")
    return alone(texts, here) if here.world == 1 else together(texts, here)


def alone(texts: Texts, here: Place) -> int:
    facts = first_facts() | other_facts()
    tested = collect({"devices": speed("devices")}, TEST)["devices"]
    findings = [one._replace(node=here.node) for one in verdicts.node(facts)]
    findings += comparison.devices([(here.node, tested)])
    gpus = len(facts["torch"].get("names", ()))
    ranks = f"torchrun --standalone --nproc-per-node={max(gpus, 2)} pretrain/plan.py --doctor"
    findings += [untested("between.alone", command=ranks), untested("between.one_node", command=two_nodes())]
    return show(texts, findings, [here.node], 1)


def together(texts: Texts, here: Place) -> int:
    if not os.environ.get("MASTER_ADDR"):
        master_of_slurm()
    first = here.local == 0
    facts = first_facts() if first else {}
    try:
        store = meet(here, facts.get("master", {}))
        if first:
            facts |= other_facts()
        return round_table(texts, here, store, facts)
    except (OSError, RuntimeError) as error:  # those of torch's stores are RuntimeErrors
        said = (str(error).strip().splitlines() or [type(error).__name__])[0]
    if not first:
        return 1  # the first rank of the node tells it
    facts = other_facts() | facts
    address, port = (os.environ.get(name, "-") for name in ("MASTER_ADDR", "MASTER_PORT"))
    findings = [*verdicts.node(facts, here.nodes)]
    findings.append(bad("between.no_meeting", rank=here.rank, address=address, port=port, said=said))
    return show(texts, findings, [here.node], 1)


def round_table(texts: Texts, here: Place, store: Any, facts: Facts) -> int:
    reports = gather(store, here, "facts", {"node": here.node, "facts": facts}, MEET + PROBE)
    # Rank 0 decides what can be tested, when all have told what they are: nothing else runs on a GPU until then.
    findings: list[Finding] = []
    if here.rank == 0:
        findings, backend = judged(reports, here.world)
        leaders = [rank for rank, one in reports.items() if one["facts"] and rank]
        store.set("go", json.dumps({"backend": backend, "leaders": leaders}))
    store.wait(["go"], timedelta(seconds=2 * MEET + 2 * PROBE))
    go = json.loads(store.get("go"))
    apart = clocks(store, here.rank, go["leaders"])

    tested = collect({"devices": speed("devices", here.local)}, TEST)["devices"]
    speeds = gather(store, here, "speed", {"node": here.node, "tested": tested}, TEST + MEET)
    links: dict[int, Any] = {}
    if go["backend"]:
        where = (os.environ["MASTER_ADDR"], os.environ["MASTER_PORT"])
        test = speed("between", here.rank, here.world, *where, go["backend"], here.local)
        links = gather(store, here, "link", collect({"link": test}, TEST)["link"], TEST + MEET)
    if here.rank != 0:
        return 0

    nodes = list(dict.fromkeys(one["node"] for one in reports.values()))
    findings += comparison.devices([(one["node"], one["tested"]) for one in speeds.values()])
    findings += comparison.clocks({reports[rank]["node"]: one for rank, one in apart.items()})
    if links:
        findings = comparison.tempered(findings, list(links.values()))
        findings += comparison.link(list(links.values()), go["backend"], len(nodes))
    if len(nodes) == 1:
        findings.append(untested("between.one_node", command=two_nodes()))
    return show(texts, findings, nodes, here.world)


def judged(reports: dict[int, Any], world: int) -> tuple[list[Finding], str]:
    """What the nodes' facts say, and with what their ranks can talk to each other; "" if some are missing."""
    findings: list[Finding] = []
    places = [one["node"] for one in reports.values()]
    gpus = []
    for one in reports.values():
        if one["facts"]:
            findings += [each._replace(node=one["node"]) for each in verdicts.node(one["facts"], len(set(places)))]
            gpus.append(len(one["facts"]["torch"].get("names", ())))
            if 0 < gpus[-1] < (ranks := places.count(one["node"])):
                findings.append(bad("between.ranks_over", ranks=ranks, gpus=gpus[-1])._replace(node=one["node"]))
                gpus[-1] = 0
    silent = [rank for rank in range(world) if rank not in reports]
    if silent:
        findings.append(bad("between.silent", seconds=f"{MEET + PROBE:.0f}", numbers=verdicts.listed(silent)))
        return findings, ""
    return findings, "nccl" if all(gpus) else "gloo"


# Before rank 0 opens its store, or the port would look taken; before torch, or its process would be on the GPUs.
FIRST = ("gpus", "master")


def first_facts() -> Facts:
    return collect({name: probe(name) for name in FIRST}, PROBE)


def other_facts() -> Facts:
    return collect({name: probe(name) for name in PROBES if name not in FIRST}, PROBE)


def probe(name: str) -> list[str]:
    return [str(HOME / "pretrain" / "probes.py"), name]


def speed(*words: Any) -> list[str]:
    return [str(HOME / "pretrain" / "speeds.py"), *map(str, words)]


def collect(commands: Mapping[str, Sequence[str]], limit: float) -> dict[str, Any]:
    """What each program answers, all at once; one that hangs or dies has an error for an answer."""
    began = time.monotonic()
    started = {
        name: subprocess.Popen([sys.executable, *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for name, words in commands.items()
    }
    found = {}
    for name, process in started.items():
        try:
            said, complaint = process.communicate(timeout=max(0.1, began + limit - time.monotonic()))
            found[name] = json.loads(said)
        except subprocess.TimeoutExpired:
            process.kill()
            found[name] = {"error": f"{limit:.0f} s"}
            with contextlib.suppress(subprocess.TimeoutExpired):  # stuck in the kernel: nothing ends it
                process.communicate(timeout=1)
        except ValueError:
            last = complaint.strip().splitlines()[-1:] or [""]
            found[name] = {"error": f"exit code {process.returncode} {last[0]}".strip()}
    return found


def master_of_slurm() -> None:
    """What slurm/common.sh would set."""
    if nodes := os.environ.get("SLURM_STEP_NODELIST"):
        with contextlib.suppress(OSError, subprocess.SubprocessError):
            words = ["scontrol", "show", "hostnames", nodes]
            said = subprocess.run(words, capture_output=True, text=True, timeout=ASK, check=True).stdout
            os.environ["MASTER_ADDR"] = said.split()[0]
            os.environ["MASTER_PORT"] = str(20000 + int(os.environ["SLURM_JOB_ID"]) % 20000)


def meet(here: Place, master: Facts) -> Any:
    """The store through which the ranks talk. torchrun has opened it already, else rank 0 does."""
    for obstacle in ("unknown", "unreachable", "taken", "error"):
        if master.get(obstacle):
            raise ConnectionError(master[obstacle])
    from torch._C._distributed_c10d import TCPStore

    if "MASTER_ADDR" not in os.environ or "MASTER_PORT" not in os.environ:
        raise ConnectionError("MASTER_ADDR, MASTER_PORT = None")
    opens = here.rank == 0 and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True"
    address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    until = time.monotonic() + MEET
    while not opens:  # torch would wait as long for each address of the name, and print its stack
        try:
            socket.create_connection((address, port), timeout=CONNECT).close()
            break
        except OSError:
            if time.monotonic() > until:
                raise
            time.sleep(0.2)
    return TCPStore(address, port, is_master=opens, wait_for_workers=False, timeout=timedelta(seconds=MEET))


def gather(store: Any, here: Place, what: str, mine: Any, limit: float) -> dict[int, Any]:
    """Rank -> what it has to say, for rank 0; who says nothing is not in it."""
    store.set(f"{what}/{here.rank}", json.dumps(mine))
    found, until = {}, time.monotonic() + limit
    for rank in range(here.world) if here.rank == 0 else ():
        with contextlib.suppress(RuntimeError):
            store.wait([f"{what}/{rank}"], timedelta(seconds=max(0.1, until - time.monotonic())))
            found[rank] = json.loads(store.get(f"{what}/{rank}"))
    return found


def clocks(
    store: Any, rank: int, leaders: Sequence[int], now: Callable[[], float] = time.time
) -> dict[int, tuple[float, float]]:
    """For rank 0: leader -> how far its clock is ahead of rank 0's, and by how much that may be wrong, in seconds."""
    found: dict[int, tuple[float, float]] = {}
    for leader in leaders:
        for turn in range(TURNS):
            with contextlib.suppress(RuntimeError):
                if rank == leader:
                    began = now()
                    store.set(f"ask/{leader}/{turn}", "")
                    answered, ended = float(store.get(f"tell/{leader}/{turn}")), now()
                    store.set(f"apart/{leader}/{turn}", f"{(began + ended) / 2 - answered} {(ended - began) / 2}")
                elif rank == 0:
                    store.wait([f"ask/{leader}/{turn}"], timedelta(seconds=ASK))
                    store.set(f"tell/{leader}/{turn}", repr(now()))
                    ahead, off = map(float, store.get(f"apart/{leader}/{turn}").split())
                    found[leader] = min(found.get(leader, (ahead, off)), (ahead, off), key=lambda one: one[1])
    return found


def two_nodes() -> str:
    if shutil.which("srun"):
        return "srun --nodes=2 --ntasks-per-node=1 python pretrain/plan.py --doctor"
    words = "--nnodes=2 --nproc-per-node=1 --rdzv-backend=c10d --rdzv-endpoint=FIRST-NODE:29500"
    return f"torchrun {words} pretrain/plan.py --doctor"


def show(texts: Texts, findings: Sequence[Finding], nodes: Sequence[str], ranks: int) -> int:
    print("\n".join(texts.table(findings, nodes, ranks)), flush=True)
    return int(any(one.level == BAD for one in findings))
