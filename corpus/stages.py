"""The stages between sources and shards, each a task over pieces with its result in the work folder:

    pieces/00012/     clean   documents, marks to compare them by, what was rejected, counts
    pairs/00003/      match   documents that are alike, by one band of their marks
    sides/            groups  which documents go, and on which side of the split the others are
    shards/00012/     write   the documents that stay

What a task does depends on the plan alone, not on the worker that does it, nor on how many there are.
"""

import json
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from corpus import benchmarks, dedup, groups, marks
from corpus.clean import clean_all
from corpus.page import Sample
from corpus.plain import Raw
from corpus.plan import Plan
from corpus.privacy import PLACEHOLDERS
from corpus.quality import Limits, judge
from corpus.reader import Reader, Unit
from corpus.store import Piece, PieceWriter
from narae.documents import Document, LineWriter, ShardWriter, line_of
from narae.documents import draw as chance
from narae.log import Mistake
from narae.work import Stage, whole_folder

BATCH = 250_000  # characters that are looked at together
NOTHING = 100  # characters that a document counts for where it has none: it takes memory, too
ALWAYS, NEVER = -1.0, 2.0  # draws of documents whose archive says on which side they are
SPLITS = "train", "val"
# Per piece and reason; characters of a text alone, and of two beside one another: they may differ late.
SAMPLES, EXCERPT, BESIDE = 3, 400, 8_000


class Row(NamedTuple):
    id: str
    raw: Raw
    licence: str
    draw: float


class Clean(Stage):
    """Sources -> documents: read, mended, judged, compared with the benchmarks."""

    def tasks(self, plan: Plan) -> int:
        return len(plan.pieces)

    def do(self, plan: Plan, task: int) -> None:
        number = plan.largest_first[task]
        units = plan.pieces[number]
        source = plan.files[units[0].file].source
        limits = plan.limits[source.name]
        index = benchmarks.load(self.work / "benchmarks")
        tally = Tally(source.name)
        with ExitStack() as stack:
            reader = stack.enter_context(Reader(plan.files, plan.broken_share))
            folder = stack.enter_context(whole_folder(self.work / "pieces" / f"{number:05d}"))
            rejected = stack.enter_context(LineWriter(folder / "rejected.jsonl.zst"))
            piece = PieceWriter(folder)
            parts: list[marks.Marks] = []
            for rows in batches(reader, plan, units, source.max_documents):
                texts, reasons = sifted(rows, limits, index)
                for row, text, reason in zip(rows, texts, reasons, strict=True):
                    before = len(row.raw.text.encode())
                    after = before if text is row.raw.text else len(text.encode())
                    document = Document(row.id, text, source.name, row.licence, row.raw.meta)
                    tally.read(document, row.raw.text, before, reason)
                    if reason:
                        document.text, document.meta["rejected"] = row.raw.text, reason
                        rejected.write(line_of(document))
                    else:
                        piece.write(document, before, after, row.draw)
                stay = [text for text, reason in zip(texts, reasons, strict=True) if not reason]
                if stay:
                    parts.append(marks.mark(stay, plan.alike))
            stop_unreadable(reader.unreadable, plan)
            dedup.save(folder / "marks", parts, plan.alike)
            rejected.close()
            piece.close(tally.counts() | {"unreadable": reader.unreadable, "formats": reader.formats})


def batches(reader: Reader, plan: Plan, units: list[Unit], limit: int) -> Iterator[list[Row]]:
    rows: list[Row] = []
    room, left = BATCH, limit
    for unit in units:
        file = plan.files[unit.file]
        draw = None
        if file.source.name in plan.held_out:
            draw = ALWAYS if file.validation else NEVER
        for place, number, raw in reader.read(unit):
            name = f"{place}#{number}"
            rows.append(Row(name, raw, reader.licence, chance(name) if draw is None else draw))
            room -= len(raw.text) + NOTHING
            left -= 1
            if room <= 0 or left == 0:
                yield rows
                rows, room = [], BATCH
            if left == 0:
                return
    if rows:
        yield rows


def sifted(rows: list[Row], limits: Limits, index: benchmarks.Index) -> tuple[list[str], list[str]]:
    """Clean texts, and why a document goes ("" where it stays)."""
    texts, reasons = [row.raw.text for row in rows], [row.raw.fault for row in rows]
    sound = [place for place, reason in enumerate(reasons) if not reason]
    mended = clean_all([texts[place] for place in sound], limits.boilerplate, limits.mask)
    for place, text, reason in zip(sound, mended, judge(mended, limits), strict=True):
        texts[place], reasons[place] = text, reason
    good = [place for place in sound if not reasons[place]]
    for which, matches in index.find([texts[place] for place in good]):
        rows[good[which]].raw.meta["benchmark"] = [str(match) for match in matches]
        reasons[good[which]] = "benchmark"
    return texts, reasons


class Tally:
    """What a piece's documents amount to, and a few of them to look at."""

    def __init__(self, source: str):
        self.source, self.licence = source, ""
        self.all = Counter[str]()
        self.rejected: dict[str, Counter[str]] = {}
        self.masked = Counter[str]()
        self.samples: dict[str, list[Sample]] = {}

    def read(self, document: Document, raw: str, size: int, reason: str) -> None:
        self.licence = document.licence
        self.all["documents"] += 1
        self.all["bytes"] += size
        if reason:
            mine = self.rejected.setdefault(reason, Counter())
            mine["documents"] += 1
            mine["bytes"] += size
        if not reason and "<" in document.text:
            text = document.text
            self.masked.update({name: text.count(name) - raw.count(name) for name in PLACEHOLDERS if name in text})
        shown = self.samples.setdefault(reason, [])
        if len(shown) < SAMPLES:
            kind = "rejected" if reason else "kept"
            text = raw if reason else document.text
            shown.append(Sample(kind, reason, self.source, document.id, text[:EXCERPT], length=len(text)))

    def counts(self) -> dict[str, Any]:
        return {
            "source": self.source,
            "licence": self.licence,
            "read": {"documents": self.all["documents"], "bytes": self.all["bytes"]},
            "rejected": {reason: dict(self.rejected[reason]) for reason in sorted(self.rejected)},
            "masked": dict(sorted(self.masked.items())),
            "samples": [asdict(sample) for shown in self.samples.values() for sample in shown],
        }


def stop_unreadable(unreadable: list[dict[str, Any]], plan: Plan) -> None:
    """A file that was cut is listed by each part, and counts once. An empty member loses no text: it does not count."""
    lost = {(entry["archive"], entry["member"]): entry["cause"] for entry in unreadable if entry["cause"] != "empty"}
    if len(lost) > plan.allowed:
        (archive, member), cause = list(lost.items())[-1]
        raise Mistake(
            f"{len(lost):,} archives or members are unreadable, and --max_unreadable allows {plan.allowed:,}; "
            f"the last is {archive}{':' * bool(member)}{member}: {cause}"
        )


class Match(Stage):
    """Marks -> pairs of documents that are alike."""

    def tasks(self, plan: Plan) -> int:
        return plan.alike.tasks

    def do(self, plan: Plan, task: int) -> None:
        pieces = pieces_of(self.work, plan)
        marks = [piece.folder / "marks" for piece in pieces]
        pairs = dedup.match(task, marks, plan.alike, lambda piece, number: pieces[piece].document(number).text)
        with whole_folder(self.work / "pairs" / f"{task:05d}") as folder:
            groups.write_pairs(folder / "pairs", pairs)


class Groups(Stage):
    """Pairs -> what goes, and on which side the rest is.

    One of each group stays: the first in the order of the sources, but those of Validation archives come before all
    others. The group is on that one's side: if any member's draw counted, val would fill with what is copied most.
    """

    def tasks(self, plan: Plan) -> int:
        return 1

    def do(self, plan: Plan, task: int) -> None:
        pieces = pieces_of(self.work, plan)
        stop_unreadable([entry for piece in pieces for entry in piece.counts()["unreadable"]], plan)
        exact, *near = sorted(self.work.glob("pairs/*/pairs"))

        def draws(of: np.ndarray, numbers: np.ndarray) -> np.ndarray:
            found = np.zeros(len(of))
            for piece in np.unique(of):
                mine = of == piece
                found[mine] = pieces[piece].column("draw")[numbers[mine]]
            return found

        def held_out(of: np.ndarray, numbers: np.ndarray) -> np.ndarray:
            return draws(of, numbers) == ALWAYS

        members = groups.groups([exact], near, held_out)
        going = groups.groups([exact], [], held_out) if plan.keep_near else members
        going = going[going["kind"] != groups.STAYS]
        on_val = draws(members["of_piece"], members["of_number"]) < plan.val_fraction
        held, kept, lowest = 0, 0, (NEVER, 0, 0)
        with whole_folder(self.work / "sides") as folder:
            for number, piece in enumerate(pieces):
                gone, mine = going[going["piece"] == number], members["piece"] == number
                column = piece.column("draw")
                sides = column < plan.val_fraction
                sides[members["number"][mine]] = on_val[mine]
                column[gone["number"]] = NEVER
                if len(column):
                    lowest = min(lowest, (float(column.min()), number, int(column.argmin())))
                kept += len(column) - len(gone)
                held += int(np.delete(sides, gone["number"]).sum())
                np.save(folder / f"gone-{number:05d}.npy", gone)
                np.save(folder / f"val-{number:05d}.npy", sides)
            if plan.val_fraction and not held and kept > 1:  # so few that none was drawn
                draw, number, place = lowest
                sides = np.load(folder / f"val-{number:05d}.npy")
                sides[place] = draw < NEVER
                np.save(folder / f"val-{number:05d}.npy", sides)


class Write(Stage):
    """Documents -> shards, without what goes, which is listed beside what it repeats."""

    def tasks(self, plan: Plan) -> int:
        return len(plan.pieces)

    def do(self, plan: Plan, task: int) -> None:
        number = plan.largest_first[task]
        pieces = pieces_of(self.work, plan)
        piece = pieces[number]
        going = {int(row["number"]): row for row in np.load(self.work / "sides" / f"gone-{number:05d}.npy")}
        on_val = np.load(self.work / "sides" / f"val-{number:05d}.npy").tolist()
        before, after = piece.column("before").tolist(), piece.column("after").tolist()
        copies = {kind: Counter[str](documents=0, bytes=0) for kind in ("exact", "near")}
        changed = grown = 0
        samples: list[Sample] = []
        with whole_folder(self.work / "shards" / f"{number:05d}") as folder:
            with ExitStack() as stack:
                writers = [stack.enter_context(ShardWriter(folder, split, plan.shard_bytes)) for split in SPLITS]
                listed = stack.enter_context(LineWriter(folder / "duplicates.jsonl.zst"))
                for place, line in enumerate(piece.lines()):
                    if place not in going:
                        writers[on_val[place]].write_line(line, after[place])
                        changed += before[place] != after[place]
                        grown += after[place] - before[place]
                        continue
                    row = going[place]
                    kind = "exact" if row["kind"] == groups.EXACT else "near"
                    copies[kind].update(documents=1, bytes=before[place])
                    document = Document(**json.loads(line))
                    first = pieces[row["of_piece"]].document(int(row["of_number"]))
                    # `compared`: the two were compared; else the similarity is with another member of the group.
                    found = {"similarity": round(float(row["similarity"]), 4), "compared": bool(row["compared"])}
                    entry = {"id": document.id, "of": first.id, **found}
                    listed.write(json.dumps(entry, ensure_ascii=False, separators=(",", ":")).encode() + b"\n")
                    if copies[kind]["documents"] <= SAMPLES:
                        mine = f"{kind} duplicate", "", document.source, document.id, document.text[:BESIDE]
                        its = first.id, first.text[:BESIDE], found["similarity"]
                        samples.append(Sample(*mine, *its, len(document.text), len(first.text)))
            counts: dict[str, Any] = {"cleaned": {"documents": changed, "bytes": grown}}
            counts["duplicates"] = {kind: dict(count) for kind, count in copies.items()}
            for split, writer in zip(SPLITS, writers, strict=True):
                counts[split] = {"documents": writer.documents, "bytes": writer.bytes}
            counts["shards"] = {split: writer.sizes for split, writer in zip(SPLITS, writers, strict=True)}
            counts["samples"] = [asdict(sample) for sample in samples]
            (folder / "counts.json").write_text(json.dumps(counts, ensure_ascii=False), encoding="utf-8")


def pieces_of(work: Path, plan: Plan) -> list[Piece]:
    return [Piece(work / "pieces" / f"{number:05d}") for number in range(len(plan.pieces))]
