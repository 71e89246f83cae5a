"""Measures the corpus stage on one core, and datatrove's stock Korean path on the same documents, in turn.

    python bench/collect.py                                 # the sample world's corpus; about four minutes
    python bench/collect.py --data FILE.jsonl.zst           # records with `text`
    python bench/collect.py --data FILE.jsonl.zst --quick   # within three minutes

Ours is the command itself, in this process: from an input file (jsonl.zst, and the same documents as a 653-shaped zip
with `text` and `original_text`) to the published corpus. Then its steps one by one, which says what the wall is.

The peer (bench/fineweb.py) is what FineWeb-2 does for kor_Hang: datatrove's Gopher and FineWeb filters over words by
Kiwi, and MinHash signatures of 14 × 8 values over 5 words, written to disk. It gets its documents in memory, its model
is loaded before the clock starts, and the fastest model that Kiwi has is taken. Ours does the same to the same
documents: a verdict on each, and its MinHash sketch on disk. Neither reads files or cleans; both sign every document.
Needs kiwipiepy (pip install -e '.[bench]') and nothing of datatrove's own extras.

Time is CPU seconds of this process and its children, and MB are those of the text in UTF-8. Prints a table, writes
bench/results/collect-<what machine>.json, and as its last line prints one JSON object.
"""

import argparse
import contextlib
import functools
import importlib.util
import io
import itertools
import json
import os
import random
import re
import resource
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import zstandard

from bench.fineweb import Peer
from bench.machine import keep, short, spread
from corpus import collect, marks, quality, sources
from corpus.clean import clean_all
from corpus.dedup import save
from corpus.quality import judge
from corpus.reader import Reader, units
from corpus.stages import BATCH
from corpus.store import PieceWriter
from narae import artifact
from narae.config import HOME
from narae.documents import Document, shards
from narae.log import Mistake

PACKAGES = ("datatrove", "kiwipiepy", "numpy", "zstandard")
LONG, SHORT = range(600, 4001), range(1, 300)  # bytes of a document
MEMBER = 4_000_000  # bytes of text in a member of the zip
COMMAND = "read, clean, judge, find duplicates, write"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="records with `text`; without it the corpus of the sample world")
    parser.add_argument("--quick", action="store_true", help="fewer documents and rounds")
    options = parser.parse_args()
    if not importlib.util.find_spec("kiwipiepy"):
        raise Mistake("the peer's word tokenizer is not installed: pip install -e '.[bench]'")
    rounds, megabytes, seconds = (2, 12, 6) if options.quick else (5, 24, 20)
    data, longs, shorts = documents(options.data, megabytes * 10**6)
    found: dict[str, Any] = {"data": data, "rounds": rounds}
    with tempfile.TemporaryDirectory() as folder, one_core():
        os.environ["NARAE_ARTIFACTS"] = folder
        jsonl = write_jsonl(Path(folder) / "long.jsonl.zst", longs)
        archive = write_653(Path(folder) / "long.zip", longs)
        few = write_jsonl(Path(folder) / "short.jsonl.zst", shorts)
        found["command"] = commands(
            {
                "long, jsonl.zst": (longs, jsonl, "web", 0.0),
                "long, 653 zip": (longs, archive, "web", 0.0),
                "long, jsonl.zst, near-duplicates as well": (longs, jsonl, "web", 0.8),
                "short, jsonl.zst": (shorts, few, "chat", 0.0),
            },
            rounds,
        )
        found["steps"] = {
            "long": steps(longs, [jsonl, archive], "web", rounds),
            "short": steps(shorts, [few], "chat", rounds),
        }
        for name, parts in found["steps"].items():
            whole = 1000 / found["command"][f"{name}, jsonl.zst"]["mb_per_s"]["median"]
            alone = ("read zst", "clean", "judge", "digest", "write")
            parts["all else: ids, counts, shards, manifest"] = spread(
                [whole - sum(parts[step]["median"] for step in alone)]
            )
        found["peer"] = compared(longs, Path(folder), rounds, seconds)
    show(found)
    keep("collect", found, PACKAGES)
    lines, books = (found["command"][f"long, {case}"]["mb_per_s"]["median"] for case in ("jsonl.zst", "653 zip"))
    last = {"mb_per_s_core": lines, "mb_per_s_core_653": books}  # which brings each text twice
    print(json.dumps(last | {"vs_datatrove_korean": found["peer"]["times_as_fast"]["median"]}))


def documents(data: Path | None, size: int) -> tuple[str, list[str], list[str]]:
    """What the data is called, and at random about `size` bytes of long documents and a third of it of short ones."""
    if data and not data.is_file():
        raise Mistake(f"--data {data}: no such file")
    paths = [data] if data else shards(artifact.open_artifact("corpus", "sample").path, "train")
    texts = [json.loads(line)["text"] for path in paths for line in lines(path)]
    random.Random(653).shuffle(texts)
    longs = [text for text in texts if bytes_of(text) in LONG]
    if longs and megabytes(longs) * 1e6 / len(longs) < 1000:
        longs = list(joined(longs))
    shorts = [text for text in texts if bytes_of(text) in SHORT]
    if not shorts:
        distinct = dict.fromkeys(one for text in texts for one in sentences(text))
        shorts = [one for one in distinct if bytes_of(one) in SHORT]
    if not longs or not shorts:
        raise Mistake(f"{', '.join(map(str, paths))}: no documents of {LONG.start} to {LONG.stop - 1} bytes")
    return data.name if data else "the sample world", some(longs, size), some(shorts, size // 3)


def lines(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file, zstandard.ZstdDecompressor().stream_reader(file, read_across_frames=True) as stream:
        yield from io.BufferedReader(stream, 1 << 20)


def bytes_of(text: str) -> int:
    return len(text.encode())


def megabytes(texts: list[str]) -> float:
    return sum(map(bytes_of, texts)) / 1e6


def joined(texts: list[str]) -> Iterator[str]:
    """As many as make 1,000 bytes."""
    held: list[str] = []
    for text in texts:
        held.append(text)
        if sum(map(bytes_of, held)) >= 1000:
            yield "\n".join(held)
            held = []


def sentences(text: str) -> list[str]:
    return re.split(r"(?<=[.?!]) ", text)


def some(texts: list[str], size: float) -> list[str]:
    """The first that make `size` bytes."""
    ends = itertools.accumulate(map(bytes_of, texts))
    return [text for text, end in zip(texts, ends, strict=True) if end <= size]


def write_jsonl(path: Path, texts: list[str]) -> Path:
    with zstandard.ZstdCompressor(level=3).stream_writer(path.open("wb")) as stream:
        for number, text in enumerate(texts):
            stream.write(json.dumps({"id": str(number), "text": text}, ensure_ascii=False).encode() + b"\n")
    return path


def write_653(path: Path, texts: list[str]) -> Path:
    members: list[list[dict[str, Any]]] = []
    room = 0
    for number, text in enumerate(texts):
        if room <= 0:
            members.append([])
            room = MEMBER
        room -= bytes_of(text)
        info = {"kdc": "810", "published_year": "2011", "author": {"birth_year": "1961", "jobs": ["소설가"]}}
        both = [{"text": sentence, "original_text": sentence} for sentence in sentences(text)]
        members[-1].append({"id": f"{number:08d}", "info": info, "sentences": both})
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=6) as archive:
        for number, paragraphs in enumerate(members):
            archive.writestr(f"810_TEXT_{number:03d}.json", json.dumps({"paragraphs": paragraphs}, ensure_ascii=False))
    return path


@contextlib.contextmanager
def one_core() -> Iterator[None]:
    """Kiwi brings threads; both sides have the same core."""
    if not hasattr(os, "sched_setaffinity"):
        yield
        return
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {max(cores)})
    yield
    os.sched_setaffinity(0, cores)


def timed(do: Callable[..., Any], *arguments: Any) -> tuple[float, Any]:
    """CPU seconds, and what came of it."""

    def spent() -> float:
        children = resource.getrusage(resource.RUSAGE_CHILDREN)
        return time.process_time() + children.ru_utime + children.ru_stime

    before = spent()
    result = do(*arguments)
    return spent() - before, result


def commands(cases: dict[str, tuple[list[str], Path, str, float]], rounds: int) -> dict[str, Any]:
    times: dict[str, list[float]] = {name: [] for name in cases}
    counts = {}
    for turn in range(rounds + 1):
        for name, (texts, file, preset, similarity) in cases.items():
            seconds, counts[name] = timed(collected, file, len(texts), preset, similarity)
            if turn:  # the first is the warm-up
                times[name].append(seconds)
    return {
        name: {
            "documents": len(texts),
            "mb": short(megabytes(texts)),
            "bytes_per_document": round(megabytes(texts) * 1e6 / len(texts)),
            "mb_per_s": spread([megabytes(texts) / seconds for seconds in times[name]]),
            "documents_per_s": spread([len(texts) / seconds for seconds in times[name]]),
            "counts": counts[name],
        }
        for name, (texts, *_) in cases.items()
    }


def collected(file: Path, documents: int, preset: str, similarity: float) -> dict[str, Any]:
    """python corpus/collect.py, and what it counted. Each time another name, or there would be nothing to do."""
    name = f"run-{sum(1 for _ in file.parent.glob('corpus/*'))}"
    options = {"sources": file, "name": name, "quality": preset, "similarity": similarity, "workers": 1}
    argv, sys.argv = sys.argv, [str(HOME / "corpus" / "collect.py"), *(f"--{key}={options[key]}" for key in options)]
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            collect.main()
    finally:
        sys.argv = argv
    counts = artifact.open_artifact("corpus", name).counts
    if counts["read"]["documents"] != documents:
        raise Mistake(f"{documents:,} documents in, and {counts['read']['documents']:,} read:\n{said.getvalue()}")
    kept = sum(counts[split]["documents"] for split in ("train", "val"))
    copies = {kind: counts["duplicates"][kind]["documents"] for kind in ("exact", "near")}
    packed = sum(path.stat().st_size for path in (Path(os.environ["NARAE_ARTIFACTS"]) / "corpus" / name).iterdir())
    return {
        "kept": kept,
        "rejected": documents - kept - sum(copies.values()),
        **copies,
        "mb_on_disk": short(packed / 1e6),
    }


def steps(texts: list[str], files: list[Path], preset: str, rounds: int) -> dict[str, Any]:
    """Milliseconds per MB of each step alone."""
    limits, exact, near = quality.load(preset), marks.Settings(similarity=0), marks.Settings()
    raw = list(batches(texts))
    clean = [clean_all(batch, limits.boilerplate, limits.mask) for batch in raw]
    ready = [Document(f"{files[0].stem}#{number}", text) for number, text in enumerate(itertools.chain(*clean))]
    work: dict[str, Callable[[], Any]] = {f"read {file.suffix[1:]}": functools.partial(read, file) for file in files}
    work |= {
        "clean": lambda: [clean_all(batch, limits.boilerplate, limits.mask) for batch in raw],
        "judge": lambda: [judge(batch, limits) for batch in clean],
        "digest": lambda: [marks.mark(batch, exact) for batch in clean],
        "digest and MinHash": lambda: [marks.mark(batch, near) for batch in clean],
        "write": lambda: write(ready, files[0].parent / "piece"),
    }
    times: dict[str, list[float]] = {name: [] for name in work}
    for _ in range(rounds):
        for name, do in work.items():
            times[name].append(timed(do)[0] * 1000 / megabytes(texts))
    return {name: spread(values) for name, values in times.items()}


def batches(texts: Iterable[str]) -> Iterator[list[str]]:
    """As the stage makes them."""
    held: list[str] = []
    room = BATCH
    for text in texts:
        held.append(text)
        room -= len(text)
        if room <= 0:
            yield held
            held, room = [], BATCH
    if held:
        yield held


def read(path: Path) -> None:
    files = sources.files_of(sources.sources_of([str(path)], {}))
    with Reader(files) as reader:
        for unit in units(files):
            for _ in reader.read(unit):
                pass


def write(ready: list[Document], folder: Path) -> None:
    folder.mkdir(exist_ok=True)
    piece = PieceWriter(folder)
    for document in ready:
        size = bytes_of(document.text)
        piece.write(document, size, size, 0.5)
    piece.close({})


def compared(longs: list[str], folder: Path, rounds: int, seconds: float) -> dict[str, Any]:
    """Both on as many documents as the peer needs these seconds for."""
    peer = Peer(folder / "signatures")
    for size in (30_000, 100_000):  # the warm-up, and how fast it is
        texts = some(longs, size)
        spent = sum(timed(step, texts)[0] for step in (peer.filters, peer.signatures))
    texts = some(longs, size * max(1.0, seconds / spent))
    timed(ours, texts, folder / "sketches")
    turns = round(2 / timed(ours, texts, folder / "sketches")[0]) + 1  # ours needs a fraction of a second
    times: dict[str, list[float]] = {"filters": [], "signatures": [], "ours": []}
    for _ in range(rounds):
        filtering, counts = timed(peer.filters, texts)
        signing, signed = timed(peer.signatures, texts)
        own = sum(timed(ours, texts, folder / "sketches")[0] for _ in range(turns)) / turns
        for name, value in zip(times, (filtering, signing, own), strict=True):
            times[name].append(value)
    both = [filtering + signing for filtering, signing in zip(times["filters"], times["signatures"], strict=True)]
    speeds = {"filters": times["filters"], "signatures": times["signatures"], "both": both, "ours": times["ours"]}
    return {
        "model": peer.model,
        "documents": len(texts),
        "mb": short(megabytes(texts)),
        "counts": {**counts, "signatures": signed},
        "mb_per_s": {name: spread([megabytes(texts) / value for value in values]) for name, values in speeds.items()},
        "times_as_fast": spread([theirs / own for theirs, own in zip(both, times["ours"], strict=True)]),
    }


def ours(texts: list[str], folder: Path) -> None:
    """What the peer does: verdicts, and MinHash on disk."""
    limits, settings = quality.load("web"), marks.Settings()
    parts = []
    for batch in batches(texts):
        judge(batch, limits)
        parts.append(marks.mark(batch, settings))
    save(folder, parts, settings)


def show(found: dict[str, Any]) -> None:
    def row(name: str, unit: str, values: dict[str, float]) -> None:
        print(f"  {name:44} {values['median']:>10,g} {unit:12} ({values['least']:,g} to {values['most']:,g})")

    print(f"{found['data']}; medians of {found['rounds']} rounds, one core, CPU seconds")
    for name, case in found["command"].items():
        print(f"{name}: {case['documents']:,} documents of {case['bytes_per_document']:,} bytes, {case['counts']}")
        row(COMMAND, "MB/s", case["mb_per_s"])
        row("", "documents/s", case["documents_per_s"])
    for name, parts in found["steps"].items():
        print(f"{name}, step by step")
        for step, values in parts.items():
            row(step, "ms per MB", values)
    peer = found["peer"]
    print(f"verdicts and MinHash: {peer['documents']:,} long documents, {peer['mb']} MB, Kiwi's model {peer['model']}")
    names = {"filters": "datatrove's filters for kor_Hang", "signatures": "datatrove's signatures"}
    for name, values in peer["mb_per_s"].items():
        row(names.get(name, name), "MB/s", values)
    row("ours is so many times as fast", "", peer["times_as_fast"])


if __name__ == "__main__":
    main()
