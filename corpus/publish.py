"""The last stage: what the pieces left becomes one artifact, with counts that add up and a page to look at."""

import contextlib
import json
import os
import shutil
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from corpus import benchmarks
from corpus.page import Sample, page
from corpus.plan import Plan
from corpus.stages import SPLITS, pieces_of
from narae.artifact import Draft
from narae.documents import shards
from narae.log import Mistake, say
from narae.work import Stage

SHOWN = 5  # samples of a kind, reason and source on the page


class Publish(Stage):
    def do(self, plan: Plan, task: int) -> None:
        """As a job of its own, behind the others."""
        draft = plan.begin()
        if draft is not None:
            with draft:
                publish(plan, self.work, draft)
            report(draft.counts, draft.target)


def publish(plan: Plan, work: Path, draft: Draft) -> None:
    read = pieces_of(work, plan)
    written = [work / "shards" / piece.folder.name for piece in read]
    results = [json.loads((folder / "counts.json").read_text(encoding="utf-8")) for folder in written]
    for split in SPLITS:
        parts = [path for folder in written for path in shards(folder, split)]
        sizes = [size for result in results for size in result["shards"][split]]
        for number, paths in enumerate(together(parts, sizes, plan.shard_bytes)):
            join(paths, draft.path / f"{split}-{number:05d}.jsonl.zst")
    join([piece.folder / "rejected.jsonl.zst" for piece in read], draft.path / "rejected.jsonl.zst")
    join([folder / "duplicates.jsonl.zst" for folder in written], draft.path / "duplicates.jsonl.zst")
    before = [piece.counts() for piece in read]
    draft.counts |= summed(plan, before, results)
    if asked := benchmarks.load(work / "benchmarks").counts:
        draft.counts["benchmarks"] = asked
    check(draft.counts)
    samples = [Sample(**sample) for part in (*before, *results) for sample in part["samples"]]
    html = page(plan.name, draft.counts, spread(samples), not plan.no_text)
    (draft.path / "corpus.html").write_text(html, encoding="utf-8")


def together(parts: list[Path], sizes: list[int], limit: int) -> Iterator[list[Path]]:
    """Neighbouring parts, as many as make one shard."""
    group: list[Path] = []
    filled = 0
    for part, size in zip(parts, sizes, strict=True):
        if group and filled + size > limit:
            yield group
            group, filled = [], 0
        group.append(part)
        filled += size
    if group:
        yield group


def join(parts: list[Path], target: Path) -> None:
    """zstd frames behind one another are a zstd file. A part alone is linked: a terabyte need not be copied."""
    if len(parts) == 1:
        with contextlib.suppress(OSError):  # a file system without links
            os.link(parts[0], target)
            return
    with target.open("wb") as whole:
        for part in parts:
            with part.open("rb") as file:
                shutil.copyfileobj(file, whole, 1 << 20)


def summed(plan: Plan, before: list[dict[str, Any]], after: list[dict[str, Any]]) -> dict[str, Any]:
    """The counts of the pieces, in all and by source."""
    nothing = {"documents": 0, "bytes": 0}
    sources: dict[str, Any] = {}
    for file in plan.files:
        source = file.source
        sources.setdefault(
            source.name,
            {
                "licence": source.licence,
                "weight": source.weight,
                "read": dict(nothing),
                **{split: dict(nothing) for split in SPLITS},
                "rejected": {},
                "duplicates": {"exact": dict(nothing), "near": dict(nothing)},
                "cleaned": dict(nothing),
            },
        )
    total: dict[str, Any] = {"masked": Counter(), "unreadable": [], "formats": {}}
    for piece, written in zip(before, after, strict=True):
        mine = sources[piece["source"]]
        mine["licence"] = mine["licence"] or piece["licence"]
        add(mine["read"], piece["read"])
        for reason, count in piece["rejected"].items():
            add(mine["rejected"].setdefault(reason, dict(nothing)), count)
        for key in (*SPLITS, "cleaned"):
            add(mine[key], written[key])
        for kind in ("exact", "near"):
            add(mine["duplicates"][kind], written["duplicates"][kind])
        total["masked"].update(piece["masked"])
        total["unreadable"] += piece["unreadable"]
        for kind, met in piece["formats"].items():
            add(total["formats"].setdefault(kind, {}), met)
    for key in ("read", *SPLITS, "cleaned"):
        total[key] = dict(nothing)
        for source in sources.values():
            add(total[key], source[key])
    for key in ("rejected", "duplicates"):
        total[key] = {}
        for source in sources.values():
            for reason, count in source[key].items():
                add(total[key].setdefault(reason, dict(nothing)), count)
    total["rejected"] = dict(sorted(total["rejected"].items()))
    total["masked"] = dict(sorted(total["masked"].items()))
    return total | {"sources": sources}


def add(to: dict[str, int], count: dict[str, int]) -> None:
    for key, value in count.items():
        to[key] = to.get(key, 0) + value


def check(counts: dict[str, Any]) -> None:
    """Every document and byte that was read is somewhere."""
    for name, part in [("all", counts), *counts["sources"].items()]:
        for unit in ("documents", "bytes"):
            kept = part["train"][unit] + part["val"][unit]
            gone = sum(count[unit] for key in ("rejected", "duplicates") for count in part[key].values())
            mended = part["cleaned"]["bytes"] if unit == "bytes" else 0
            assert part["read"][unit] + mended == kept + gone, f"{unit} of {name} do not add up: {part}"
    if not counts["train"]["documents"]:
        reasons = ", ".join(f"{reason} {count['documents']:,}" for reason, count in counts["rejected"].items())
        causes = "; ".join(entry["cause"] for entry in counts["unreadable"][:3])
        raise Mistake(
            f"nothing is left to train on: {counts['read']['documents']:,} documents read"
            + (f", rejected: {reasons}" if reasons else "")
            + (f", unreadable: {causes}" if causes else "")
        )


def spread(samples: list[Sample]) -> list[Sample]:
    """A few of each kind, from all over the corpus rather than from its beginning."""
    kinds: dict[tuple[str, str, str], list[Sample]] = {}
    for sample in samples:
        kinds.setdefault((sample.kind, sample.reason, sample.source), []).append(sample)
    chosen = []
    for group in kinds.values():
        step = max(1, len(group) // SHOWN)
        chosen += group[::step][:SHOWN]
    return chosen


def report(counts: dict[str, Any], folder: Path) -> None:
    plain = counts["formats"].get("text")
    if plain and plain.get("short", 0) * 2 > plain["documents"]:
        say(
            f"warning: {plain['short']:,} of {plain['documents']:,} text documents are one short sentence: "
            "--document file or blank keeps what belongs together"
        )
    if counts["unreadable"]:
        first = counts["unreadable"][0]
        place = f"{first['archive']} {first['member']}".strip()
        say(f"{len(counts['unreadable'])} unreadable, all listed in the manifest; the first: {place}: {first['cause']}")
    gone = sum(count["documents"] for count in counts["rejected"].values())
    copies = sum(count["documents"] for count in counts["duplicates"].values())
    say(f"read {counts['read']['documents']:,} documents: {gone:,} rejected, {copies:,} duplicates")
    for split in SPLITS:
        say(f"{split}: {counts[split]['documents']:,} documents, {counts[split]['bytes'] / 1e6:,.1f} MB")
    say(f"published in {folder}; corpus.html there shows what became of every document")
