"""python corpus/collect.py [--sources PATH ...] [--name sample] [--document line|blank|file] [--workers 4]

Sources -> documents: cleaned, without duplicates, split into train and val, in shards. Without --sources it reads the
sample. AIHub 653 archives are read as they were downloaded; txt and jsonl may be compressed (gz, bz2, xz, zst).
"""

import contextlib
import hashlib
import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, fields
from functools import partial
from pathlib import Path
from typing import Any

import zstandard

from corpus import aihub, dedup, sources
from corpus.clean import Limits, clean, verdict
from corpus.dedup import Marks, Spool
from corpus.privacy import PLACEHOLDERS
from corpus.workers import in_order
from narae import artifact
from narae.config import option, parse, resolved
from narae.documents import Document, ShardWriter
from narae.log import Mistake, Progress, progress, say

BATCH = 250_000  # characters per piece of work: a fraction of a second


@dataclass
class CollectConfig(Limits):
    name: str = option("sample", "what the artifact is called")
    overwrite: bool = option(False, "replace what is there under this name")
    sources: list[str] = option([], "folders, files or patterns; none: the sample")
    sample: str = option("sample", "which sample to read where there are no sources")
    document: str = option("blank", "what is a document in txt: line, blank (what stands between blank lines) or file")
    text_field: str = option("text", "where the text lies in jsonl")
    licence: str = option("", "licence of plain sources, carried along")
    val_fraction: float = option(0.01, "share of documents held out where the sources bring no Validation archives")
    max_documents: int = option(0, "read no more than this many (0: all)")
    similarity: float = option(
        0.8, "Jaccard similarity from which a document repeats another (0: only the same text does)"
    )
    max_unreadable: float = option(0.001, "share of unreadable members that stops the run; 8 are always allowed")
    shard_megabytes: int = option(256, "text per shard")
    workers: int = option(0, "processes that clean (0: one per core)")


@dataclass
class Count:
    documents: int = 0
    bytes: int = 0

    def add(self, size: int) -> None:
        self.documents += 1
        self.bytes += size


@dataclass
class Row:
    id: str
    text: str
    source: str
    licence: str
    meta: dict[str, Any]
    side: str  # "val", "train", or "" where the id's hash decides
    reason: str = ""


@dataclass
class Batch:
    rows: list[Row] = field(default_factory=list)
    done: float = 0.0


@dataclass
class Cleaned:
    texts: list[str]
    reasons: list[str]
    sizes: list[tuple[int, int]]  # bytes before and after
    marks: Marks
    masked: Counter[str]


def main() -> None:
    config = parse(CollectConfig, config="configs/corpus/sample.yaml", about=__doc__)
    if config.document not in ("line", "blank", "file"):
        raise Mistake(f"--document {config.document}: it is line, blank or file")
    for key in ("val_fraction", "similarity", "max_unreadable"):
        if not 0 <= getattr(config, key) <= 1:
            raise Mistake(f"--{key} {getattr(config, key)}: a share lies between 0 and 1")
    if config.sources:
        parents = []
        files = sources.files_of(config.sources)
    else:
        parents = [artifact.open_artifact("sample", config.sample)]
        files = sources.files_of([str(path) for path in sorted(parents[0].path.iterdir()) if path.is_dir()])
    if not files:
        raise Mistake(f"there is no file in {', '.join(config.sources) or parents[0].path}")
    inputs = sources.fingerprints(files) if config.sources else {}
    settings = resolved(config, neutral={"sources"})  # what lies there decides, not how it was pointed at
    draft = artifact.begin("corpus", config.name, settings, parents, inputs, config.overwrite)
    if draft is None:
        return
    with draft:
        reader = sources.Reader(files, config.document, config.text_field, config.max_unreadable)
        draft.counts |= collect(reader, config, draft.path)
    report(draft.counts, draft.target)


def collect(reader: sources.Reader, config: CollectConfig, folder: Path) -> dict[str, Any]:
    counts: dict[str, Any] = {}
    with Spool(folder) as spool:
        sides, marks = take_in(reader, config, folder, spool, counts)
        # What is in val is decided first: a copy of it in train is the one that goes.
        order = sorted(range(len(sides)), key=lambda number: sides[number] != "val")
        seen = progress(order, "duplicates", len(order), "documents")
        copies = dedup.find(marks, seen, lambda number: spool.read(number).text, config.similarity)
        put_out(spool, sides, copies, config, folder, counts)
    check(counts)
    return counts


def take_in(
    reader: sources.Reader, config: CollectConfig, folder: Path, spool: Spool, counts: dict[str, Any]
) -> tuple[list[str], Marks]:
    """Sources -> spool: read, cleaned, judged. Gives each document's side, and the marks to compare it by."""
    read, rejected, by_source = Count(), dict[str, Count](), dict[tuple[str, str], Count]()
    masked, parts, sides, lowest = Counter[str](), list[Marks](), list[str](), (1.0, 0)
    bar = Progress("collect", reader.total / 1e6, "MB")
    work = partial(clean_batch, Limits(**{each.name: getattr(config, each.name) for each in fields(Limits)}))
    aside = zstandard.ZstdCompressor(level=3).stream_writer((folder / "rejected.jsonl.zst").open("wb"))
    with aside, contextlib.closing(bar):
        for batch, cleaned in in_order(work, batches(reader, config), config.workers):
            results = zip(batch.rows, cleaned.texts, cleaned.reasons, cleaned.sizes, strict=True)
            for row, text, reason, (before, after) in results:
                read.add(before)
                by_source.setdefault((row.source, row.licence), Count()).add(before)
                document = Document(row.id, text, row.source, row.licence, row.meta)
                if reason:
                    rejected.setdefault(reason, Count()).add(before)
                    document.text, document.meta = row.text, row.meta | {"rejected": reason}
                    aside.write(json.dumps(document.__dict__, ensure_ascii=False).encode() + b"\n")
                    continue
                draw = draw_of(row.id)
                lowest = min(lowest, (draw, len(sides)))
                sides.append(row.side or ("val" if draw < config.val_fraction else "train"))
                spool.write(document, before, after)
            masked.update(cleaned.masked)
            parts.append(cleaned.marks)
            bar.update(batch.done / 1e6, f"{read.documents:,} documents")
    if config.val_fraction and "val" not in sides and len(sides) > 1:
        sides[lowest[1]] = "val"  # so few that none was drawn
    counts["read"] = asdict(read)
    counts["rejected"] = {reason: asdict(rejected[reason]) for reason in sorted(rejected)}
    counts["unreadable"] = reader.unreadable
    counts["masked"] = dict(sorted(masked.items()))
    counts["formats"] = dict(sorted(reader.formats.items()))
    counts["sources"] = {
        source: asdict(count) | {"licence": licence} for (source, licence), count in sorted(by_source.items())
    }
    return sides, dedup.joined(parts)


def put_out(
    spool: Spool,
    sides: list[str],
    copies: dict[int, tuple[int, float]],
    config: CollectConfig,
    folder: Path,
    counts: Any,
) -> None:
    """Spool -> shards, without the copies, which are listed by id."""
    kept = {"train": Count(), "val": Count()}
    changed, duplicates = Count(), {"exact": Count(), "near": Count()}
    writers = {split: ShardWriter(folder, split, config.shard_megabytes * 10**6) for split in kept}
    with writers["train"], writers["val"], (folder / "duplicates.jsonl").open("w", encoding="utf-8") as listed:
        for number, document in enumerate(progress(spool.all(), "write", len(sides), "documents")):
            before, after = spool.sizes[2 * number : 2 * number + 2]
            if number in copies:
                of, similarity = copies[number]
                duplicates["exact" if similarity == 1 else "near"].add(before)
                line = {"id": document.id, "of": spool.read(of).id, "similarity": round(similarity, 4)}
                listed.write(json.dumps(line, ensure_ascii=False) + "\n")
                continue
            kept[sides[number]].add(after)
            changed.documents += before != after
            changed.bytes += after - before
            writers[sides[number]].write(document)
    counts |= {split: asdict(count) for split, count in kept.items()}
    counts["duplicates"] = {kind: asdict(count) for kind, count in duplicates.items()}
    # Of what is kept: documents whose size changed, and by how many bytes in all.
    counts["cleaned"] = asdict(changed)


def batches(reader: sources.Reader, config: CollectConfig) -> Iterator[Batch]:
    validation = any(file.validation for file in reader.files)
    batch, room = Batch(), BATCH
    for total, (origin, number, raw) in enumerate(reader.read(), start=1):
        books = origin.kind.startswith("653")
        batch.rows.append(
            Row(
                f"{origin.place}#{number}",
                raw.text,
                "aihub653" if books else origin.file.source,
                aihub.LICENCE if books else config.licence,
                raw.meta,
                ("val" if origin.file.validation else "train") if books and validation else "",
                raw.fault,
            )
        )
        room -= len(raw.text)
        if room <= 0:
            batch.done = origin.done
            yield batch
            batch, room = Batch(), BATCH
        if total == config.max_documents:
            break
    batch.done = reader.total
    yield batch


def clean_batch(limits: Limits, batch: Batch) -> Cleaned:
    """What a worker does: text and an early reason in, text and reason out, and marks of what stays."""
    texts, reasons, sizes, masked = [], [], [], Counter[str]()
    for row in batch.rows:
        raw = row.text
        text = raw if row.reason else clean(raw)
        reason = row.reason or verdict(text, limits)
        texts.append("" if reason else text)
        reasons.append(reason)
        sizes.append((len(raw.encode()), len(text.encode())))
        if not reason and "<" in text:
            masked.update({name: text.count(name) - raw.count(name) for name in PLACEHOLDERS if name in text})
    good = [text for text, reason in zip(texts, reasons, strict=True) if not reason]
    return Cleaned(texts, reasons, sizes, dedup.mark(good), masked)


def draw_of(name: str) -> float:
    """Between 0 and 1, by the id alone: a document stays on its side when others come or go."""
    return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), "big") / 2**64


def check(counts: dict[str, Any]) -> None:
    """Every document and byte that was read is somewhere."""
    for unit in ("documents", "bytes"):
        kept = counts["train"][unit] + counts["val"][unit]
        gone = sum(count[unit] for key in ("rejected", "duplicates") for count in counts[key].values())
        mended = counts["cleaned"]["bytes"] if unit == "bytes" else 0
        assert counts["read"][unit] + mended == kept + gone, f"{unit} do not add up: {counts}"
    if not counts["train"]["documents"]:
        reasons = ", ".join(f"{reason} {count['documents']:,}" for reason, count in counts["rejected"].items())
        causes = "; ".join(entry["cause"] for entry in counts["unreadable"][:3])
        raise Mistake(
            f"nothing is left to train on: {counts['read']['documents']:,} documents read"
            + (f", rejected: {reasons}" if reasons else "")
            + (f", unreadable: {causes}" if causes else "")
        )


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
    for split in ("train", "val"):
        say(f"{split}: {counts[split]['documents']:,} documents, {counts[split]['bytes'] / 1e6:,.1f} MB")
    say(f"published in {folder}")


if __name__ == "__main__":
    main()
