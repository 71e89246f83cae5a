"""Measures memory, time and disk of the corpus stage at two sizes: the sample world told at random, as 653 ships text.

    python bench/scale.py                                    # 100 MB and 10 GB of text; needs 30 GB of disk
    python bench/scale.py --megabytes 20 60 --workers 2 --folder /scratch

The inputs are zips of about 100 MB of text with `text` and `original_text`: sentences of the sample corpus, drawn into
paragraphs of about 1 kB, one in 200 a copy of another, one in 200 a copy with a passage more. They are removed
afterwards, as is what was made of them. `python corpus/collect.py` runs on them as a user starts it, looked at five
times a second.

CPU seconds are those of all its processes, MB those of the text in UTF-8. Prints a table, writes
bench/results/scale-<what machine>.json, and as its last line prints one JSON object.
"""

import argparse
import contextlib
import json
import os
import random
import re
import resource
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import psutil

from bench.machine import keep, short
from corpus import collect
from narae import artifact
from narae.config import HOME
from narae.documents import read_documents, shards
from narae.log import Mistake, Progress

Told = tuple[bytes, int]  # sentences as they stand in the JSON of 653, and the bytes of their text
PACKAGES = ("datatrove", "numpy", "zstandard")
ZIP, MEMBER, PARAGRAPH = 100_000_000, 12_000_000, 1000  # bytes of text
PLANTED = 200  # one paragraph in so many is a copy, and one a near-copy
PASSAGES = 20_000  # of three sentences, drawn for each zip: one pair of its paragraphs in 500 shares one
RECORD = (
    b'{"id": "%05d%07d", "info": {"kdc": "810", "published_year": "%d", '
    b'"author": {"birth_year": "%d", "jobs": ["teacher"]}}, "sentences": [%s]}'
)
EVERY = 0.2  # seconds between looks
DISK = 1.6  # GB in zips, work folder and result, per GB of text
MEMORY = "worker_mb", "main_mb"
SERIAL = "plan", "groups", "publish"  # these take one core
# What natural Korean packs into (bench/collect.py, mb_on_disk); the sample's sentences pack twice as well.
PROSE = 0.38
# The data set of 653, and the machine of the headline.
WHOLE, CORES = 49_600, 16


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megabytes", type=int, nargs="+", default=[100, 10_000], help="of text")
    parser.add_argument("--workers", type=int, default=os.cpu_count(), help="processes of the command")
    parser.add_argument("--folder", type=Path, default=artifact.root(), help="where there is room")
    options = parser.parse_args()
    if min(options.megabytes) < 1 or options.workers < 1:
        raise Mistake("--megabytes and --workers begin at 1")
    options.folder.mkdir(parents=True, exist_ok=True)
    need, free = max(options.megabytes) * DISK / 1e3, shutil.disk_usage(options.folder).free / 1e9
    if need > free:
        raise Mistake(f"--folder {options.folder} has {free:.0f} GB free, and {need:.0f} GB are needed: name another")
    pool = told()
    found: dict[str, Any] = {"workers": options.workers, "sizes": []}
    for size in sorted(options.megabytes):
        with tempfile.TemporaryDirectory(dir=options.folder, prefix="scale-") as folder:
            found["sizes"].append(measured(size, pool, Path(folder), options.workers))
        show(found["sizes"][-1])
    found["extrapolated"] = extrapolated(found["sizes"])
    about = found["extrapolated"]
    print(
        f"\nextrapolated: {WHOLE / 1e3} GB on {CORES} cores: {about['minutes']} minutes, {about['disk_gb']} GB of disk"
    )
    keep("scale", found, PACKAGES)
    worker = max(one["worker_mb"] for one in found["sizes"])
    print(json.dumps({"worker_mb": worker, "mb_per_s_core": found["sizes"][-1]["mb_per_s_core"], **about}))


def told() -> list[Told]:
    """The distinct sentences of the sample corpus."""
    corpus = artifact.open_artifact("corpus", "sample")
    texts = (document.text for document in read_documents(shards(corpus.path, "train")))
    distinct = dict.fromkeys(one.strip() for text in texts for one in re.split(r"(?<=[.?!]) |\n", text))
    found = []
    for sentence in filter(None, distinct):
        quoted = json.dumps(sentence, ensure_ascii=False)
        found.append((f'{{"text": {quoted}, "original_text": {quoted}}}'.encode(), len(sentence.encode())))
    return found


def measured(size: int, pool: list[Told], folder: Path, workers: int) -> dict[str, Any]:
    inputs = folder / "inputs"
    inputs.mkdir()
    written, began = Counter[str](), time.monotonic()
    parts = [min(ZIP, size * 10**6 - start) for start in range(0, size * 10**6, ZIP)]
    bar = Progress(f"writing {size:,} MB of text", len(parts), "zips")
    with ProcessPoolExecutor(min(workers, len(parts))) as writers, contextlib.closing(bar):
        for done, counts in enumerate(
            writers.map(partial(write, pool, inputs), *zip(*enumerate(parts), strict=True)), 1
        ):
            written.update(counts)
            bar.update(done)
    seconds = time.monotonic() - began
    watched, manifest = watch(inputs, folder / "artifacts", workers)
    counts = manifest["counts"]
    read = counts["read"]
    if (read["documents"], read["bytes"]) != (written["documents"], written["bytes"]):
        raise Mistake(f"written were {dict(written)}, and read {read}")
    mb = written["bytes"] / 1e6
    for stage in watched["stages"].values():
        stage["cpu_ms_per_mb"] = short(stage["cpu_s"] * 1e3 / mb)
    return {
        "mb": short(mb),
        "documents": written["documents"],
        "zips_gb": short(sum(path.stat().st_size for path in inputs.iterdir()) / 1e9),
        "written_in_s": short(seconds),
        "planted": {kind: written[kind] for kind in ("exact", "near")},
        "duplicates": {kind: counts["duplicates"][kind]["documents"] for kind in ("exact", "near")},
        "rejected": {reason: count["documents"] for reason, count in counts["rejected"].items()},
        "mb_per_s_core": short(mb / watched["cpu_s"]),
        "disk_gb_per_gb": short(watched["disk_gb"] * 1e3 / mb),
        **watched,
    }


def write(pool: list[Told], folder: Path, number: int, size: int) -> Counter[str]:
    """A zip of `size` bytes of text, the same for the same number and pool."""
    rng = random.Random(f"653 {number}")
    passages = [told_as_one(rng.choices(pool, k=3)) for _ in range(PASSAGES)]
    few = max(3, round(PARAGRAPH * PASSAGES / sum(length for _, length in passages)))  # passages in a paragraph
    counts = Counter[str]()
    drawn = paragraphs(rng, passages, few, counts)
    with zipfile.ZipFile(folder / f"TL_{number:03d}.zip", "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        while counts["bytes"] < size:
            member: list[bytes] = []
            end = min(counts["bytes"] + MEMBER, size)
            while counts["bytes"] < end:
                told, length = told_as_one(next(drawn))
                year = int(rng.random() * 40)
                member.append(RECORD % (number, counts["documents"], 1980 + year, 1940 + year, told))
                counts["documents"] += 1
                counts["bytes"] += length
            counts["members"] += 1
            content = b'{"paragraphs": [' + b", ".join(member) + b"]}"
            archive.writestr(f"{number:03d}_TEXT_{counts['members']:03d}.json", content)
    return counts


def told_as_one(parts: list[Told]) -> Told:
    return b", ".join([told for told, _ in parts]), sum([length for _, length in parts]) + len(parts) - 1


def paragraphs(rng: random.Random, passages: list[Told], few: int, counts: Counter[str]) -> Iterator[list[Told]]:
    last: list[Told] = []
    while True:
        many = rng.choices(passages, k=few * PLANTED)
        fresh = [many[start : start + few] for start in range(0, len(many), few)]
        yield from fresh
        if last:
            counts["exact"] += 1
            yield last
            counts["near"] += 1
            yield [*last, rng.choice(fresh[0])]
        last = fresh[-1]


def watch(inputs: Path, artifacts: Path, workers: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """The command from its start to its end; what it took, and the manifest of its result."""
    words = {"sources": inputs, "name": "scale", "quality": "books", "workers": workers}
    command = [sys.executable, str(HOME / "corpus" / "collect.py"), *(f"--{key}={words[key]}" for key in words)]
    environment = os.environ | {"NARAE_ARTIFACTS": str(artifacts)}
    work, before = artifacts / "corpus" / ".work-scale", children()
    stages: dict[str, dict[str, float]] = {}
    cpu, disk, sized = 0.0, 0, 0.0
    began = looked = time.monotonic()
    with tempfile.TemporaryFile() as said:
        process = subprocess.Popen(command, stderr=said, env=environment)
        try:
            while process.poll() is None:
                name = stage_of(work, "publish" if "write" in stages else "plan")
                stage = stages.setdefault(name, dict.fromkeys(("wall_s", "cpu_s", *MEMORY), 0.0))
                memory, spent = look(process.pid)
                now = time.monotonic()
                stage["wall_s"] += now - looked
                stage["cpu_s"] += max(spent - cpu, 0)
                looked, cpu = now, max(spent, cpu)
                for who, used in memory.items():
                    stage[who] = max(stage[who], used)
                if now - sized > 10 * EVERY:  # many files
                    disk, sized = max(disk, size_of(artifacts)), time.monotonic()
                time.sleep(EVERY)
        finally:
            process.kill()
        wall, total = time.monotonic() - began, children() - before
        if process.returncode:
            said.seek(0)
            raise Mistake(f"corpus/collect.py stopped with {process.returncode}:\n{said.read().decode()[-2000:]}")
    result = size_of(artifacts)
    stages[name]["cpu_s"] += max(total - cpu, 0)
    manifest = json.loads((artifacts / "corpus" / "scale" / "manifest.json").read_text(encoding="utf-8"))
    rounded = {
        name: {
            "wall_s": short(stage["wall_s"]),
            "cpu_s": short(stage["cpu_s"]),
            **{who: round(stage[who] / 1e6) for who in MEMORY},
        }
        for name, stage in stages.items()
    }
    return {
        **{who: max(stage[who] for stage in rounded.values()) for who in MEMORY},
        "wall_s": short(wall),
        "cpu_s": short(total),
        "disk_gb": short(max(disk, result) / 1e9),
        "result_gb": short(result / 1e9),
        "stages": rounded,
    }, manifest


def stage_of(work: Path, before: str) -> str:
    """The last one that has begun; all pieces written, the main process publishes."""
    begun = [name for name in collect.STAGES if (work / "stages" / name).is_dir()]
    if not begun:
        return before
    first, last = (sum(1 for _ in (work / "stages" / name / "completions").glob("*")) for name in ("clean", begun[-1]))
    return "publish" if begun[-1] == "write" and first == last else begun[-1]


def look(number: int) -> tuple[dict[str, int], float]:
    """Memory of the main process and of the largest other, and CPU seconds of all so far."""
    memory, spent = dict.fromkeys(MEMORY, 0), 0.0
    with contextlib.suppress(psutil.Error):
        main = psutil.Process(number)
        for process in [main, *main.children(recursive=True)]:
            with contextlib.suppress(psutil.Error):
                who = "main_mb" if process == main else "worker_mb"
                memory[who] = max(memory[who], process.memory_info().rss)
                spent += sum(process.cpu_times()[:4])  # those of children that have ended among them
    return memory, spent


def children() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def size_of(folder: Path) -> int:
    """What it takes on disk: a file with two names once."""
    sizes = {}
    for place, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(FileNotFoundError):
                found = Path(place, name).lstat()
                sizes[found.st_ino] = found.st_blocks * 512
    return sum(sizes.values())


def extrapolated(sizes: list[dict[str, Any]]) -> dict[str, Any]:
    """From CPU seconds per MB at the largest size. What takes one core takes as long with more: its wall time goes on
    as it grew from the smallest size to the largest."""
    one, other = sizes[0], sizes[-1]
    seconds = 0.0
    for name, stage in other["stages"].items():
        if name in SERIAL:
            before = one["stages"].get(name, {"wall_s": 0.0})["wall_s"] if one is not other else 0.0
            began = one["mb"] if one is not other else 0.0
            grown = max(0.0, stage["wall_s"] - before) / (other["mb"] - began)
            seconds += before + grown * (WHOLE - began)
        else:
            seconds += stage["cpu_s"] / other["mb"] * WHOLE / CORES
    # At the peak every document lies there twice, as a piece and in a shard.
    disk = other["disk_gb_per_gb"] + 2 * max(0.0, PROSE - other["result_gb"] * 1e3 / other["mb"])
    return {"minutes": short(seconds / 60), "disk_gb": round(disk * WHOLE / 1e3)}


def show(one: dict[str, Any]) -> None:
    print(f"\n{one['mb']:,g} MB of text, {one['documents']:,} documents, in {one['zips_gb']} GB of zips", end="")
    print(f", written in {one['written_in_s']:g} s; planted {one['planted']}, found {one['duplicates']}")
    print(f"{'':10} {'wall s':>8} {'CPU s':>8} {'ms per MB':>10} {'MB/worker':>10} {'MB main':>8}")
    whole = {**one, "cpu_ms_per_mb": short(one["cpu_s"] * 1e3 / one["mb"])}
    for name, part in {**one["stages"], "all": whole}.items():
        figures = f"{part['wall_s']:8g} {part['cpu_s']:8g} {part['cpu_ms_per_mb']:10g}"
        print(f"{name:10} {figures} {part['worker_mb']:10,} {part['main_mb']:8,}")
    print(f"{one['mb_per_s_core']} MB/s and core; {one['disk_gb_per_gb']} GB of disk at the peak per GB of text")


if __name__ == "__main__":
    main()
