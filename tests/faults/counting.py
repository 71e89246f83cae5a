"""The full count of faults: which cases are left, how far it has come, and what it found.

make test takes a sample. NARAE_TEST_FAULTS=1, as make test-faults sets it, takes all cases, and passes over those that
passed before with the same sources: so a count goes on where it ended. NARAE_FAULTS_ONLY names categories, as kills or
kills,disk; NARAE_FAULTS_MINUTES ends after so long; NARAE_FAULTS_CASES takes so many of each category.
"""

import hashlib
import json
import os
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

import pytest
from helpers import HOME

from bench.machine import keep, short
from narae.artifact import root
from narae.log import duration

T = TypeVar("T")
FULL = os.environ.get("NARAE_TEST_FAULTS") == "1"


def some(cases: Sequence[T], *numbers: int) -> list[T]:
    """All of them, or those of these numbers."""
    return list(cases) if FULL else [cases[number] for number in numbers]


def sources() -> str:
    """What the results hold for: every line of what is tested, and of the tests."""
    files = [file for folder in ("narae", "pretrain", "tests") for file in (HOME / folder).rglob("*.py")]
    return hashlib.sha256(b"".join(file.read_bytes() for file in sorted(files))).hexdigest()[:16]


def category(node: str) -> str:
    return Path(node.split("::")[0]).stem.removeprefix("test_")


class Count:
    """A plugin of pytest: results.jsonl in the artifacts, a progress line, a table, and the file of the whole count."""

    def __init__(self) -> None:
        self.file = root() / "faults" / "results.jsonl"
        self.sources, self.began = sources(), time.monotonic()
        self.results: dict[str, dict[str, Any]] = {}
        if self.file.exists():
            for line in self.file.read_text(encoding="utf-8").splitlines():
                one = json.loads(line)
                if one["sources"] == self.sources:
                    self.results[one["case"]] = one
        self.all: list[str] = []
        self.left: list[str] = []
        self.seconds = 60 * float(os.environ.get("NARAE_FAULTS_MINUTES") or "inf")

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(self, config: pytest.Config, items: list[pytest.Item]) -> None:
        only = {word for word in os.environ.get("NARAE_FAULTS_ONLY", "").split(",") if word}
        most = int(os.environ.get("NARAE_FAULTS_CASES") or len(items))
        self.all = [item.nodeid for item in items]
        known = {category(node) for node in self.all}
        if only - known:
            raise pytest.UsageError(f"{', '.join(only - known)}: the categories are {', '.join(sorted(known))}")
        seen: Counter[str] = Counter()
        kept = []
        for item in items:
            kind = category(item.nodeid)
            seen[kind] += 1
            done = self.results.get(item.nodeid, {}).get("outcome") in {"passed", "skipped"}
            if not done and (not only or kind in only) and seen[kind] <= most:
                kept.append(item)
        config.hook.pytest_deselected(items=[item for item in items if item not in kept])
        items[:] = kept
        self.left = [item.nodeid for item in kept]

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when != "call" and report.outcome == "passed":
            return
        properties = dict(report.user_properties)
        one = {
            "case": report.nodeid,
            "sources": self.sources,
            "outcome": report.outcome,
            "seconds": short(report.duration),
            "fell": properties.get("fell", {}),
            "why": "" if report.outcome == "passed" else str(report.longrepr)[-4000:],
        }
        self.results[report.nodeid] = one
        self.file.parent.mkdir(parents=True, exist_ok=True)
        with self.file.open("a", encoding="utf-8") as file:
            file.write(json.dumps(one, ensure_ascii=False) + "\n")

    @pytest.hookimpl(trylast=True)
    def pytest_runtest_logfinish(self, nodeid: str) -> None:
        done, spent = self.left.index(nodeid) + 1, time.monotonic() - self.began
        left = duration(spent / done * (len(self.left) - done))
        one = self.results[nodeid]
        case = nodeid.split("[")[-1].rstrip("]")
        print(
            f"  {done}/{len(self.left)}  {category(nodeid)}  {case}  {one['outcome']}  {one['seconds']} s  {left} left"
        )

    def pytest_runtest_setup(self, item: pytest.Item) -> None:
        if time.monotonic() - self.began > self.seconds:
            item.session.shouldstop = "the time that was given is over; the same command goes on"

    def found(self) -> dict[str, dict[str, Any]]:
        """By category."""
        table: dict[str, dict[str, Any]] = {}
        for node in self.all:
            row = table.setdefault(category(node), {"cases": 0, "passed": 0, "failed": 0, "skipped": 0, "faults": {}})
            row["cases"] += 1
            one = self.results.get(node)
            if one is not None:
                row[one["outcome"]] += 1
                row["faults"] = dict(Counter(row["faults"]) + Counter(one["fell"] or {"as its test says": 1}))
        return table

    def pytest_terminal_summary(self, terminalreporter: Any) -> None:
        table = self.found()
        terminalreporter.write_line(f"{'':16}{'cases':>8}{'passed':>8}{'failed':>8}{'skipped':>8}{'faults':>8}")
        for name, row in table.items():
            counts = "".join(f"{row[key]:8}" for key in ("cases", "passed", "failed", "skipped"))
            terminalreporter.write_line(f"{name:16}{counts}{sum(row['faults'].values()):8}")
        done = sum(row["passed"] + row["failed"] + row["skipped"] for row in table.values())
        if done < len(self.all):
            terminalreporter.write_line(f"{len(self.all) - done} cases are left; the same command goes on")
            return
        failed = {node: one["why"] for node, one in self.results.items() if one["outcome"] == "failed"}
        minutes = short(sum(self.results[node]["seconds"] for node in self.all) / 60)
        counts = {"categories": table, "failed": failed, "minutes": minutes, "sources": self.sources}
        terminalreporter.write_line(str(keep("faults", counts, ("torch", "transformers", "deepspeed"))))
