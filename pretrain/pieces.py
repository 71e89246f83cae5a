"""Packing, cut into tasks: each turns a part of the corpus into a piece of rows, in one round of its documents.

    pieces/00012/     ids, index (where documents begin, which, and at which of their whole rows), counts.json;
                      of val also sources: each document's, as a place in counts.json's `sources`

Then the pieces are joined in order. What a task does depends on the plan alone, so that one worker and eight give the
same bytes, and so does a run that was killed and went on.
"""

import json
from collections import Counter
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np

from narae import work
from narae.artifact import Artifact, Draft
from narae.documents import FIELDS, Part, copies, damaged, read_tables, shards
from narae.encoder import Encoder
from narae.log import Mistake, say
from narae.packed import SOURCE, UNNAMED, PackedWriter
from narae.work import Stage, whole_folder
from pretrain.bestfit import arrange

INDEX = np.dtype([("start", "<i8"), ("ordinal", "<i8"), ("piece", "<i8")])
SPLITS = "train", "val"
AMOUNTS = "documents", "tokens", "bytes"


class Task(NamedTuple):
    split: str
    turn: int  # a source with weight 2 comes in two rounds, so that a document and its copy are not neighbours
    part: Part


@dataclass
class Plan(work.Plan):
    kind: ClassVar[str] = "packed"
    parts: list[Task]
    weights: dict[str, float]  # of sources in train, but for those that come once
    row: int
    shard_rows: int
    best_fit: bool
    dtype: str
    entries: int
    eos: int
    pad: int

    @property
    def corpus(self) -> Artifact:
        return self.parents[0]

    @property
    def tokenizer(self) -> Artifact:
        return self.parents[1]


@lru_cache(maxsize=1)
def encoder_of(folder: Path, fingerprint: str) -> Encoder:  # noqa: ARG001 (another one under the same name)
    """Loaded before workers are forked: they have it, and its memory, in common."""
    return Encoder(folder)


class Pack(Stage):
    def tasks(self, plan: Plan) -> int:
        return len(plan.parts)

    def do(self, plan: Plan, task: int) -> None:
        pack(plan, task, self.work)


class Publish(Stage):
    def do(self, plan: Plan, task: int) -> None:
        """As a job of its own, behind the others."""
        draft = plan.begin()
        if draft is not None:
            with draft:
                publish(plan, self.work, draft)
            report(draft)


def piece_folder(work: Path, task: int) -> Path:
    return work / "pieces" / f"{task:05d}"


def pack(plan: Plan, number: int, work: Path, exactly: bool = False) -> None:
    """One piece, with its counts."""
    task = plan.parts[number]
    encoder = encoder_of(plan.tokenizer.path, plan.tokenizer.fingerprint)
    # Not flushed: that took 20 to 70 ms, packing a part 150. `join` looks whether all is there.
    with whole_folder(piece_folder(work, number), flush=False) as folder:
        counts: dict[str, Any] = {"differed": 0}
        if not exactly:
            try:
                found, edges, ordinals = encode(plan, task, encoder, folder / "ids")
            except OtherIdsError:
                exactly, counts["differed"] = True, 1
        if exactly:
            found, edges, ordinals = encode(plan, task, encoder, folder / "ids", exactly)
        index = np.zeros(ordinals.size, INDEX)
        index["start"], index["ordinal"] = edges[:-1], ordinals
        if plan.best_fit:
            index = fitted(plan, np.diff(edges), ordinals, folder / "ids")
            counts["cut"] = int(np.count_nonzero(np.diff(edges) > plan.row))
        index.tofile(folder / "index")
        counts |= found | {"sizes": sizes_of(folder)}
        (folder / "counts.json").write_text(json.dumps(counts))


def counts_of(work: Path, number: int) -> dict[str, Any]:
    return json.loads((piece_folder(work, number) / "counts.json").read_text())


def sizes_of(piece: Path) -> list[int]:
    return [(piece / name).stat().st_size for name in ("ids", "index", "sources") if (piece / name).exists()]


class OtherIdsError(Exception):
    """What was encoded in bulk is not what the saved tokenizer says."""


def encode(
    plan: Plan, task: Task, encoder: Encoder, file: Path, exactly: bool = False
) -> tuple[dict[str, Any], np.ndarray, np.ndarray]:
    """The ids of a part, an end behind each document, go into the file. Counts, edges of documents, their ordinals.

    The sources of val's documents go beside it: a model is judged by source.
    """
    import pyarrow as pa

    pa.set_memory_pool(pa.system_memory_pool())  # arrow's own gives memory back and asks again: 2 of 100 seconds
    weights = plan.weights if task.split == "train" else {}
    sources = Sources() if task.split == "val" else None
    fields = FIELDS if weights else ("text", "source") if sources else ("text",)
    engine = "tokenizers" if exactly else encoder.engine
    counts = {"read": 0, "empty": 0, "bytes": 0, engine: 1}
    edges, ordinals = [np.zeros(1, np.int64)], [np.empty(0, np.int64)]
    with file.open("wb") as opened:
        for table in read_tables(task.part, fields):
            texts = table.column("text").combine_chunks()
            offsets = np.frombuffer(texts.buffers()[1], np.int64)[texts.offset : texts.offset + len(texts) + 1]
            wanted, full = _turn(table, weights, task.turn), np.diff(offsets) > 0
            counts["empty"] += int(np.count_nonzero(wanted & ~full))
            wanted &= full
            if not wanted.all():
                texts = texts.filter(wanted)
            try:
                if not exactly and not encoder.check(texts):
                    raise OtherIdsError
            except UnicodeDecodeError as error:
                raise damaged(task.part, counts["read"], error) from None
            ids, lengths = encoder.encode(texts, exactly)
            counts["bytes"] += encoder.bytes_of(ids, lengths.size)
            if sources:
                sources.add(table.column("source").to_pylist(), full, lengths, encoder.sizes(ids, lengths))
            ends = np.cumsum(lengths + 1)
            whole = np.empty(ids.size + lengths.size, plan.dtype)
            inside = np.ones(whole.size, bool)
            inside[ends - 1] = False
            whole[inside], whole[ends - 1] = ids, plan.eos
            opened.write(whole.data)
            edges.append(ends + edges[-1][-1])
            ordinals.append(np.flatnonzero(wanted) + counts["read"])
            counts["read"] += len(table)
    if sources:
        counts |= sources.write(file.with_name("sources"))
    return counts, np.concatenate(edges), np.concatenate(ordinals)


class Sources:
    """Whose the documents of a part are, empty ones included, and what each source amounts to."""

    def __init__(self) -> None:
        self.names: list[str] = []
        self.amounts = [np.empty((0, 3), np.int64)]  # of each document: whether it has text, its tokens, its bytes

    def add(self, names: list[str], full: np.ndarray, lengths: np.ndarray, sizes: np.ndarray) -> None:
        found = np.zeros((len(names), 3), np.int64)
        found[full] = np.stack([np.ones_like(lengths), lengths + 1, sizes], axis=1)
        self.names += [name or UNNAMED for name in names]
        self.amounts.append(found)

    def write(self, file: Path) -> dict[str, Any]:
        known = sorted(set(self.names))
        places = {name: place for place, name in enumerate(known)}
        numbers = np.fromiter((places[name] for name in self.names), SOURCE, len(self.names))
        numbers.tofile(file)
        sums = np.zeros((len(known), 3), np.int64)
        np.add.at(sums, numbers, np.concatenate(self.amounts))
        rows = zip(known, sums.tolist(), strict=True)
        return {"sources": {name: dict(zip(AMOUNTS, amounts, strict=True)) for name, amounts in rows}}


def _turn(table: Any, weights: dict[str, float], turn: int) -> np.ndarray:
    """Which documents come in this round."""
    if not weights:
        return np.ones(len(table), bool)
    rows = zip(table.column("id").to_pylist(), table.column("source").to_pylist(), strict=True)
    return np.fromiter((copies(name, weights.get(source, 1)) > turn for name, source in rows), bool, len(table))


def fitted(plan: Plan, lengths: np.ndarray, ordinals: np.ndarray, file: Path) -> np.ndarray:
    """The file's documents again, arranged in rows; the index of that."""
    found = arrange(lengths, plan.row)
    ids = np.fromfile(file, plan.dtype)
    rows = np.full(found.rows * plan.row, plan.pad, plan.dtype)
    long = found.lengths > plan.row
    for source, place, length in zip(found.sources[long], found.places[long], found.lengths[long], strict=True):
        rows[place : place + length] = ids[source : source + length]
    sizes = found.lengths[~long]
    before = np.cumsum(sizes) - sizes
    inside = np.arange(sizes.sum())
    rows[inside + np.repeat(found.places[~long] - before, sizes)] = ids[
        inside + np.repeat(found.sources[~long] - before, sizes)
    ]
    rows.tofile(file)
    index = np.zeros(found.places.size, INDEX)
    index["start"], index["ordinal"], index["piece"] = found.places, ordinals[found.documents], found.pieces
    return index


def publish(plan: Plan, folder: Path, draft: Draft) -> None:
    """The pieces in order, as the rows of both splits, and what they amount to."""
    keys = ("sequence_length", plan.row), ("entries", plan.entries), ("eos", plan.eos), ("pad", plan.pad)
    draft.counts.update({"dtype": np.dtype(plan.dtype).name, **dict(keys)})
    encode_again(plan, folder)
    for split in SPLITS:
        draft.counts[split] = join(plan, split, folder, draft.path)
    if not draft.counts["train"]["rows"]:
        raise Mistake(f"corpus '{plan.corpus.name}' has no text in train: there is nothing to pack")


def encode_again(plan: Plan, folder: Path) -> None:
    """A shard of which one part's ids differed is none that gigatoken can be trusted with."""
    counts = [counts_of(folder, number) for number in range(len(plan.parts))]
    shards_met = {task.part.path for task, count in zip(plan.parts, counts, strict=True) if count["differed"]}
    for path in sorted(shards_met):
        say(f"gigatoken gives other ids than the tokenizer in {path}: `tokenizers` encodes all of it")
    for number, (task, count) in enumerate(zip(plan.parts, counts, strict=True)):
        if task.part.path in shards_met and "gigatoken" in count:
            pack(plan, number, folder, exactly=True)


def join(plan: Plan, split: str, folder: Path, target: Path) -> dict[str, Any]:
    found = [(number, task) for number, task in enumerate(plan.parts) if task.split == split]
    counts = {number: counts_of(folder, number) for number, _ in found}
    first, in_shards = {}, dict.fromkeys((path.name for path in shards(plan.corpus.path, split)), 0)
    for number, task in found:
        if not task.turn:
            first[task.part] = sum(in_shards.values())
            in_shards[task.part.path.name] += counts[number]["read"]
    total = Counter[str]({"bytes": 0, "empty": 0, "cut": 0, "differed": 0})
    with PackedWriter(target, split, np.dtype(plan.dtype), plan.row, plan.shard_rows, plan.pad) as writer:
        for number, task in found:
            piece = piece_folder(folder, number)
            if sizes_of(piece) != counts[number]["sizes"]:
                raise Mistake(f"{piece} is cut off, as after a power failure: remove {folder}, then pack again")
            index = np.fromfile(piece / "index", INDEX)
            kept = {key: value for key, value in counts[number].items() if key not in ("read", "sizes", "sources")}
            total.update(kept)
            if not index.size:
                continue
            ids = np.memmap(piece / "ids", plan.dtype, "r").view(np.ndarray)
            if not plan.best_fit:
                edges = np.append(index["start"], ids.size) + writer.place
                total["cut"] += int(np.count_nonzero(edges[:-1] // plan.row != (edges[1:] - 1) // plan.row))
            writer.write(ids, index["start"], index["ordinal"] + first[task.part], index["piece"])
    sources = join_sources(writer, folder, counts) if split == "val" else {}
    engines = {name: total.pop(name) for name in ("gigatoken", "tokenizers") if name in total}
    return {**writer.counts, **total, "parts": engines, "corpus_shards": list(in_shards.values()), **sources}


def join_sources(writer: PackedWriter, folder: Path, pieces: dict[int, dict[str, Any]]) -> dict[str, Any]:
    """The documents' sources as one file; the sources of all pieces, by name."""
    sums: dict[str, Counter[str]] = {}
    for counts in pieces.values():
        for name, amounts in counts["sources"].items():
            sums.setdefault(name, Counter()).update(amounts)
    known = sorted(sums)
    numbers = [np.empty(0, SOURCE)]
    for number, counts in pieces.items():
        places = np.array([known.index(name) for name in counts["sources"]], SOURCE)
        numbers.append(places[np.fromfile(piece_folder(folder, number) / "sources", SOURCE)])
    writer.write_sources(np.concatenate(numbers))
    return {"sources": {name: {key: sums[name][key] for key in AMOUNTS} for name in known}}


def report(draft: Draft, seconds: float = 0) -> None:
    train, val = draft.counts["train"], draft.counts["val"]
    row = draft.counts["sequence_length"]
    if not val["rows"]:
        say(f"warning: corpus '{draft.parents[0].name}' has no text in val: training on it cannot be evaluated")
    say(
        f"packed '{draft.name}': {train['rows']:,} rows of {row} for train and {val['rows']:,} for val, "
        f"{train['tokens']:,} tokens, {train['bytes'] / max(train['tokens'] - train['documents'], 1):.2f} bytes per "
        f"token; {train['cut']:,} of {train['documents']:,} documents lie in more than one row, "
        f"{train['padding'] / max(train['rows'] * row, 1):.2%} is padding"
        + (f"; {(train['bytes'] + val['bytes']) / 1e6 / seconds:.1f} MB/s" if seconds else "")
        + f": {draft.target}"
    )
