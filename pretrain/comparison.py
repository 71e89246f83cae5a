"""What only the ranks together show: a device slower than its equals, the network between nodes, their clocks."""

import statistics
from typing import Any

from pretrain.findings import WARNING, Finding, bad, good, warning
from pretrain.verdicts import Found, listed

SLOW_CLOCK = 1.0  # seconds between nodes
FAST_LINK = {"nccl": 5e9, "gloo": 0.2e9}  # bytes/s between nodes; 10 Gbit/s Ethernet has 1.2e9
# Below this share of its equals' median a device is slow; the cores of a CPU are shared more often than a GPU is.
SLOW_DEVICE = {"cuda": 0.9, "cpu": 0.6}


def devices(found: list[tuple[str, Any]]) -> Found:
    """(node, what its speed test gave) of all ranks: each device, and each against its equals."""
    known = []
    for place, tested in found:
        if isinstance(tested, dict):
            yield bad("speed.failed", said=tested["error"])._replace(node=place)
            continue
        known += [(place, one) for one in tested]
    for place, one in known:
        equals = [other["bf16"] for _, other in known if other["name"] == one["name"]]
        share = one["bf16"] / statistics.median(equals)
        words = {name: f"{one[name] / 1e12:.3g}" for name in ("bf16", "fp32")} | {"copy": f"{one['copy'] / 1e9:.3g}"}
        words |= {"device": one["device"], "name": one["name"]}
        slow = share < SLOW_DEVICE.get(one["device"].split(":")[0], 0.6)
        if slow:
            words["percent"] = f"{100 * share:.0f}"
        yield (warning if slow else good)("speed.slow" if slow else "speed.device", **words)._replace(node=place)
        if one["device"] == "cpu" and one["bf16"] < one["fp32"]:
            yield warning("speed.bf16", bf16=words["bf16"], fp32=words["fp32"])._replace(node=place)
    if len({one["name"] for _, one in known}) > 1:
        yield warning("speed.mixed", names=listed(one["name"] for _, one in known))


def link(found: list[Any], backend: str, nodes: int) -> Found:
    """The all-reduce of all ranks, as each of them met it."""
    failed = [one["error"] for one in found if "error" in one]
    if failed:
        yield bad("between.no_group", backend=backend, said=failed[0])
        return
    rate = min(one["bus"] for one in found)
    words = {"backend": backend, "rate": f"{rate / 1e9:.3g}", "ms": f"{1e3 * max(one['seconds'] for one in found):.0f}"}
    slow = nodes > 1 and rate < FAST_LINK[backend]
    yield (warning if slow else good)("between.slow" if slow else "between.bandwidth", ranks=len(found), **words)


def tempered(findings: list[Finding], links: list[Any]) -> list[Finding]:
    """Where the ranks did talk, a name on the loopback did no harm: one such node among others has none, two have."""
    spoke = not any("error" in one for one in links)
    harmless = ("network.host_name_loopback",) if spoke else ()
    return [one._replace(level=WARNING) if one.key in harmless else one for one in findings]


def clocks(apart: dict[str, tuple[float, float]]) -> Found:
    """Node -> (seconds before the first node, and how far that may be off)."""
    late = {name: (offset, off) for name, (offset, off) in apart.items() if abs(offset) - off > SLOW_CLOCK}
    for name, (offset, off) in late.items():
        yield warning("between.clock", seconds=f"{offset:+.1f}", off=f"{off:.3f}")._replace(node=name)
    if apart and not late:
        most = max(abs(offset) for offset, _ in apart.values())
        yield good("between.clocks", ms=f"{most * 1e3:.1f}", nodes=len(apart) + 1)
