"""bash bench/gpu.sh [--dry-run] [--minutes 8] [--out FOLDER] [--only WORDS …] [--after FOLDER] [--wheels FOLDER]

A whole visit to a graphics card in one call (python bench/gpu.py is what the shell script starts): the rates of matrix
products and copies, our training of 1.3b and 125m beside the stock Trainer's, a profile, losses, a sweep of options,
and generation. Each measurement is a process of its own with a time limit, so what crashes or hangs costs itself only;
each result is a line in results.jsonl as soon as it is known. What does not fit in the minutes that are left is passed
over, and --after FOLDER lets the next visit begin with it. --dry-run goes every way with tiny models, on a CPU too.
"""

import argparse
import contextlib
import json
import os
import shutil
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bench.gpu_bare import about, missing, provide
from bench.gpu_plan import Measurement, plan
from bench.gpu_process import measure
from bench.gpu_table import complete, headline, table
from narae.artifact import root
from narae.config import HOME
from narae.log import Mistake, say

MINUTES = {True: 60.0, False: 8.0}  # of a dry run, and of a visit
RESERVE = 5.0  # seconds for the table
RESULTS, TABLE, MACHINE = "results.jsonl", "table.txt", "machine.json"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dry-run", "--dry_run", action="store_true", help="tiny models; nothing is measured by it")
    parser.add_argument("--minutes", type=float, help="for all of it (default: 8, a dry run: 60)")
    parser.add_argument("--out", help="a folder for results.jsonl, the table and logs (default: artifacts/gpu/<date>)")
    parser.add_argument("--only", nargs="+", default=[], help="measurements whose name has one of these words")
    parser.add_argument("--after", nargs="+", default=[], help="folders of visits: what they measured is left out")
    parser.add_argument("--wheels", help="a folder of wheels with packages that are lacking here, for this visit alone")
    parser.add_argument("--keep", action="store_true", help="copy the results to bench/results/gpu-<date>")
    parser.add_argument("--list", action="store_true", help="say what would be measured, and end")
    asked = parser.parse_args()
    if asked.keep and asked.dry_run:
        raise Mistake("--keep with --dry-run: a dry run measures nothing, leave one out")
    chosen = wanted(plan(asked.dry_run), asked.only, measured_before(asked.after))
    if asked.list:
        for one in chosen:
            print(f"{one.name:36} about {one.seconds:.0f} s")
        return
    began = time.monotonic()
    out = Path(asked.out).absolute() if asked.out else root() / "gpu" / time.strftime("%Y-%m-%d-%H%M%S")
    if (out / RESULTS).exists():
        raise Mistake(f"--out {out} holds the results of another visit: name a new folder")
    (out / "logs").mkdir(parents=True, exist_ok=True)
    minutes = MINUTES[asked.dry_run] if asked.minutes is None else asked.minutes
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    with scratch() as work:
        environment = provide(work, Path(asked.wheels) if asked.wheels else None, out / "logs" / "wheels.log")
        environment |= {"NARAE_ARTIFACTS": str(work)}
        note = {"dry_run": asked.dry_run, "minutes": minutes, **about(environment)}
        (out / MACHINE).write_text(json.dumps(note, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        try:
            visit(chosen, out, work, environment, began + 60 * minutes)
        finally:
            found = read(out / RESULTS)
            page = table(found, note)
            (out / TABLE).write_text(page, encoding="utf-8")
            if asked.keep:
                kept(out, str(note["date"]))
            print(page)
            print(json.dumps(headline(found) | {"dry_run": True} if asked.dry_run else headline(found)))


def wanted(measurements: list[Measurement], only: list[str], before: set[str]) -> list[Measurement]:
    """Rates and rows are what the others need; all else can be chosen."""
    always = {"rates", "rows"}
    chosen = [
        one
        for one in measurements
        if one.name in always or (one.name not in before and (not only or any(word in one.name for word in only)))
    ]
    if only and {one.name for one in chosen} <= always:
        raise Mistake(f"--only {' '.join(only)}: no measurement is called so; --list names them")
    return chosen


def measured_before(folders: list[str]) -> set[str]:
    for folder in folders:
        if not Path(folder, RESULTS).is_file():
            raise Mistake(f"--after {folder}: there is no {RESULTS} in it")
    return {one["name"] for folder in folders for one in read(Path(folder, RESULTS)) if one["status"] == "measured"}


@contextlib.contextmanager
def scratch() -> Iterator[Path]:
    """Rows, runs and checkpoints of this visit: tens of gigabytes that nobody wants afterwards."""
    folder = root() / "gpu" / f".work-{os.getpid()}"
    for old in folder.parent.glob(".work-*"):
        if not Path("/proc", old.name.removeprefix(".work-")).exists():  # its visit was killed
            shutil.rmtree(old, ignore_errors=True)
    folder.mkdir(parents=True)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def visit(measurements: list[Measurement], out: Path, work: Path, environment: dict[str, str], until: float) -> None:
    """One after the other; each leaves a line in results.jsonl, the ones that were not run as well."""
    costs: dict[str, float] = {}
    good: set[str] = set()
    rates: dict[str, Any] = {}
    for one in measurements:
        expected, left = costs.get(one.group, one.seconds), until - RESERVE - time.monotonic()
        lacking = missing(one, environment)
        record: dict[str, Any] = {"name": one.name}
        if lacking:
            record |= {"status": "absent", "reason": lacking}
        elif not good.issuperset(one.after):
            record |= {"status": "passed over", "reason": f"needs {', '.join(one.after)}, which came to nothing"}
        elif expected > left:
            record |= {
                "status": "passed over",
                "reason": f"takes about {expected:.0f} s, {max(left, 0):.0f} s are left",
            }
        else:
            say(f"{one.name}: about {expected:.0f} s, {left:.0f} s are left")
            record |= measure(one, out / "logs", environment, min(2 * max(expected, one.seconds), left))
            shutil.rmtree(work / "runs", ignore_errors=True)  # a checkpoint of 1.3b takes 16 GB
        if record["status"] == "measured":
            good.add(one.name)
            costs |= {one.group: record["seconds"]} if one.group else {}
        rates = record if "matmul_per_s" in record else rates
        append(out / RESULTS, complete(record, one.size, rates))
        say(f"{one.name}: {record['status']}" + (f", {record['reason']}" if "reason" in record else ""))


def append(file: Path, record: dict[str, Any]) -> None:
    """On the disk before the next one begins."""
    with file.open("a", encoding="utf-8") as lines:
        lines.write(json.dumps(record, ensure_ascii=False) + "\n")
        lines.flush()
        os.fsync(lines.fileno())


def read(file: Path) -> list[dict[str, Any]]:
    """A last line that was cut off by a kill is left out."""
    found = []
    for line in file.read_text(encoding="utf-8").splitlines() if file.exists() else []:
        with contextlib.suppress(ValueError):
            found.append(json.loads(line))
    return found


def kept(out: Path, date: str) -> None:
    folder = HOME / "bench" / "results" / f"gpu-{date}"
    number = 1
    while folder.exists():  # another visit on the same day
        number += 1
        folder = folder.with_name(f"gpu-{date}-{number}")
    folder.mkdir()
    for name in (RESULTS, TABLE, MACHINE):
        if (out / name).exists():
            shutil.copy(out / name, folder)
    say(f"kept in {folder}")


if __name__ == "__main__":
    main()
