"""Measures what near-duplicate search finds, which shingles suit Korean, and how fast it is. Within three minutes.

    python bench/dedup.py                                 # the sample world's corpus
    python bench/dedup.py --data FILE.jsonl.zst           # records with `text`

Documents, and copies of them changed on purpose in known ways: words swapped, left out and put in, particles swapped,
other spacing, sentences in another order, the end cut off, a passage of another document quoted. The exact Jaccard
similarity of all pairs, by an inverted index over shingles, is the truth.

  found     per similarity: pairs that agree in a band, and pairs that end up in one group (16 × 4 is the default);
            below 0.8, pairs get into one group by a third document that is like both, here most often the original
  shingles  per change: copies as similar as the threshold in 3, 5 or 7 characters, or in 5 words; 5 words in 14 × 8
            without verification is what datatrove does by default
  marks     digest and MinHash sketch, MB of UTF-8 per second and core
  match     one band of 14 over 140,000 signatures, by datatrove's MinhashDedupBuckets and by ours

Prints tables, writes bench/results/dedup-<what machine>.json, and as its last line prints one JSON object.
"""

import argparse
import io
import itertools
import json
import random
import re
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import zstandard

from bench.copies import CHANGES, copies
from bench.machine import keep, short, spread
from corpus import marks
from corpus.dedup import match, save
from corpus.groups import groups, read_pairs, write_pairs
from corpus.marks import Settings, mark, shingles_of
from narae import artifact
from narae.documents import shards
from narae.log import Mistake

ORIGINALS, ROUNDS, SIGNATURES, FILES = 700, 5, 140_000, 14
LENGTHS = range(200, 2500)  # characters of an original
PIECE = 500  # documents
SETTINGS = {f"{bands} × {rows}": Settings(bands=bands, rows=rows) for bands, rows in ((16, 4), (14, 8), (20, 5))}
BINS = (0.5, 0.6, 0.7, 0.8, 0.85, 0.9, 0.95, 1.01)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="records with `text`; without it the corpus of the sample world")
    options = parser.parse_args()
    name, texts = documents(options.data)
    rng = random.Random(653)
    originals = rng.sample(texts, min(ORIGINALS, len(texts)))
    all_texts, planted = copies(rng, originals)
    truth = similar_pairs([shingles_of(text, Settings()) for text in all_texts], BINS[0])
    found: dict[str, Any] = {
        "data": name,
        "originals": len(originals),
        "documents": len(all_texts),
        "found": {name: compared(all_texts, truth, settings) for name, settings in SETTINGS.items()},
        "shingles": shingles(all_texts, planted),
        "marks": speeds(texts),
        "match": against_datatrove(),
    }
    show(found)
    keep("dedup", found, ("datatrove", "numpy"))
    above = found["found"]["16 × 4"]
    print(
        json.dumps(
            {
                "recall": above["recall"],
                "precision": above["precision"],
                "mb_per_s_core": found["marks"]["digest and MinHash, long"]["median"],
                "match_vs_datatrove": found["match"]["times_as_fast"]["median"],
            }
        )
    )


def documents(data: Path | None) -> tuple[str, list[str]]:
    if data and not data.is_file():
        raise Mistake(f"--data {data}: no such file")
    texts = []
    for path in [data] if data else shards(artifact.open_artifact("corpus", "sample").path, "train"):
        with (
            path.open("rb") as file,
            zstandard.ZstdDecompressor().stream_reader(file, read_across_frames=True) as stream,
        ):
            texts += [json.loads(line)["text"] for line in io.BufferedReader(stream, 1 << 20)]
    texts = [text for text in texts if len(text) in LENGTHS]
    if len(texts) < 100:
        raise Mistake(
            f"{data or 'the sample corpus'}: fewer than 100 texts of {LENGTHS.start} to {LENGTHS.stop} characters"
        )
    return data.name if data else "the sample world", texts


# ---- the truth


def similar_pairs(sets: list[np.ndarray], least: float) -> dict[tuple[int, int], float]:
    """Exact Jaccard similarity of all pairs from `least` on. Each document meets those that its shingles lead to."""
    sizes = np.array([len(one) for one in sets])
    owners = np.repeat(np.arange(len(sets)), sizes)
    ids = np.unique(np.concatenate(sets), return_inverse=True)[1]
    order = np.argsort(ids, kind="stable")
    posted, ends = owners[order], np.cumsum(np.bincount(ids))
    begin, begins = 0, np.concatenate([[0], ends[:-1]])
    found = {}
    for number, size in enumerate(sizes.tolist()):
        mine = ids[begin : begin + size]
        begin += size
        count = (ends - begins)[mine]
        where = np.repeat(begins[mine] - np.cumsum(count) + count, count) + np.arange(count.sum())
        shared = np.bincount(posted[where], minlength=len(sets))[:number]
        similarity = shared / (size + sizes[:number] - shared)
        for other in np.flatnonzero(similarity >= least).tolist():
            found[other, number] = float(similarity[other])
    return found


def bin_of(similarity: float) -> str:
    low, high = next((low, high) for low, high in itertools.pairwise(BINS) if similarity < high)
    return f"{low:.2f}–{min(high, 1):.2f}"


# ---- what is found


def compared(texts: list[str], truth: dict[tuple[int, int], float], settings: Settings) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        pieces = [texts[start : start + PIECE] for start in range(0, len(texts), PIECE)]
        sketches = []
        for number, piece in enumerate(pieces):
            marked = mark(piece, settings)
            sketches.append(marked.sketches)
            save(folder / f"{number}", [marked], settings)
        folders = [folder / f"{number}" for number in range(len(pieces))]
        looks = 0

        def text_of(piece: int, number: int) -> str:
            nonlocal looks
            looks += 1
            return pieces[piece][number]

        files = [folder / f"pairs-{task}" for task in range(settings.tasks)]
        for task, file in enumerate(files):
            write_pairs(file, match(task, folders, settings, text_of))
        named = partial(place_of, size=PIECE)
        verified = {
            (a, b): s
            for one, other, similarity in read_pairs(files)
            for a, b, s in zip(named(one).tolist(), named(other).tolist(), similarity.tolist(), strict=True)
        }
        members = groups(files[:1], files[1:])
    group = np.arange(len(texts))
    group[members["piece"].astype(int) * PIECE + members["number"]] = (
        members["of_piece"].astype(int) * PIECE + members["of_number"]
    )
    ends = np.array(list(truth)).reshape(-1, 2)
    all_sketches = np.concatenate(sketches)
    agree = (all_sketches[ends[:, 0]] == all_sketches[ends[:, 1]]).reshape(-1, settings.bands, settings.rows)
    banded, together = agree.all(axis=2).any(axis=1), group[ends[:, 0]] == group[ends[:, 1]]
    counts: dict[str, dict[str, int]] = defaultdict(lambda: {"pairs": 0, "in a band": 0, "in a group": 0})
    for similarity, band, grouped in zip(truth.values(), banded.tolist(), together.tolist(), strict=True):
        count = counts[bin_of(similarity)]
        count["pairs"] += 1
        count["in a band"] += band
        count["in a group"] += grouped
    high = np.array(list(truth.values())) >= settings.similarity
    right = sum(truth.get(pair, 0.0) >= settings.similarity for pair in verified)
    return {
        "bins": dict(sorted(counts.items())),
        "recall": short(float(together[high].mean())),
        "recall_of_bands": short(float(banded[high].mean())),
        "precision": short(right / len(verified)),  # of pairs that were verified
        "precision_of_bands": short(float(banded[high].sum() / banded.sum())),
        "tied_below": int((together & ~high).sum()),  # alike to a third one
        "documents_going": int(np.count_nonzero(group != np.arange(len(texts)))),
        "texts_fetched": looks,
    }


def place_of(names: np.ndarray, size: int) -> np.ndarray:
    return (names >> np.uint64(32)).astype(int) * size + (names & np.uint64(0xFFFFFFFF)).astype(int)


# ---- shingles


def words(text: str, width: int) -> list[str]:
    """As datatrove takes them, but split at spaces: its Korean word tokenizer is a morphological analyser."""
    found = re.sub(r"[^\w\s]", "", text.lower()).split()
    return [" ".join(found[start : start + width]) for start in range(max(len(found) - width + 1, 1))]


def shingles(texts: list[str], planted: dict[str, list[tuple[int, int]]]) -> dict[str, Any]:
    """Of each kind of copy: the share that is at least 0.8 alike, and the share that 14 bands of 8 bring together."""
    ids: dict[str, int] = defaultdict(lambda: len(ids))
    kinds: dict[str, list[np.ndarray]] = {
        f"{width} characters": [shingles_of(text, Settings(shingle=width)) for text in texts] for width in (3, 5, 7)
    }
    kinds["5 words"] = [np.unique([ids[one] for one in words(text, 5)]) for text in texts]
    related = {pair for pairs in planted.values() for pair in pairs}
    original = {copy: first for first, copy in related} | {first: first for first, _ in related}
    result: dict[str, Any] = {}
    for kind, sets in kinds.items():
        alike = {name: [marks.jaccard(sets[a], sets[b]) for a, b in pairs] for name, pairs in planted.items()}
        others = [pair for pair in similar_pairs(sets, 0.8) if original[pair[0]] != original[pair[1]]]
        result[kind] = {
            "copies": {
                name: {
                    "median": short(float(np.median(values))),
                    "at 0.8": short(float(np.mean(np.array(values) >= 0.8))),
                    "in 14 × 8": short(float(np.mean([1 - (1 - value**8) ** 14 for value in values]))),
                }
                for name, values in alike.items()
            },
            "other_pairs_at_0.8": len(others),
        }
    return result


# ---- speed


def spent(do: Callable[[], Any]) -> float:
    before = time.process_time()
    do()
    return time.process_time() - before


def batches(texts: Iterable[str]) -> Iterator[list[str]]:
    """As corpus/stages.py makes them."""
    held: list[str] = []
    for text in texts:
        held.append(text)
        if sum(map(len, held)) >= 250_000:
            yield held
            held = []
    if held:
        yield held


def speeds(texts: list[str]) -> dict[str, Any]:
    long = texts[:4000]
    few = [sentence for text in texts[:1500] for sentence in re.split(r"(?<=[.?!])\s", text) if sentence]
    result = {}
    for name, some_texts in (("long", long), ("sentences", few)):
        work, size = list(batches(some_texts)), sum(len(text.encode()) for text in some_texts) / 1e6
        for kind, settings in (("digest", Settings(similarity=0)), ("digest and MinHash", Settings())):
            times = [spent(lambda: [mark(batch, settings) for batch in work]) for _ in range(ROUNDS + 1)]  # noqa: B023
            result[f"{kind}, {name}"] = spread([size / seconds for seconds in times[1:]])
    return result


def against_datatrove() -> dict[str, Any]:
    """One band of 14 × 8 over the same signatures, of which one in ten shares it with another. No texts are fetched."""
    from datatrove.pipeline.dedup import MinhashDedupBuckets
    from datatrove.pipeline.dedup.minhash import MinhashConfig
    from datatrove.utils.hashing import HashConfig
    from datatrove.utils.logging import logger

    logger.remove()
    config, settings = MinhashConfig(hash_config=HashConfig(hash_fc="sha1")), Settings(bands=14, rows=8)
    generator = np.random.default_rng(653)
    count = SIGNATURES // FILES
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        values = generator.integers(0, 1 << 61, (SIGNATURES, settings.values), dtype=np.uint64)
        twins = generator.permutation(SIGNATURES)[: SIGNATURES // 10].reshape(2, -1)
        values[twins[0], : settings.rows] = values[twins[1], : settings.rows]
        record = np.dtype([*((f"value{row}", "<u8") for row in range(settings.rows)), ("document", "<u4")])
        (folder / "bucket_000").mkdir()
        folders = []
        for number, part in enumerate(np.split(values, FILES)):
            table = np.zeros(count, record)
            for row in range(settings.rows):
                table[f"value{row}"] = part[:, row]
            table["document"] = np.arange(count)
            np.sort(table, order=list(record.names or ())).tofile(folder / "bucket_000" / f"{number:05d}.minhash.sig")
            folders.append(folder / f"piece-{number}")
            digests = np.arange(number * count, (number + 1) * count, dtype=np.uint64)
            save(folders[-1], [marks.Marks(digests, part.astype(np.uint8))], settings)

        def theirs(buffered: int) -> None:
            step = MinhashDedupBuckets(str(folder), str(folder / "out"), config=config, lines_to_buffer=buffered)
            step.run(rank=0, world_size=settings.bands)

        def ours() -> None:
            for _ in match(1, folders, settings, lambda piece, number: ""):
                pass

        best = min((5, 1000, -1), key=lambda buffered: spent(partial(theirs, buffered)))
        spent(ours)
        times = [(spent(partial(theirs, best)), spent(ours)) for _ in range(ROUNDS)]
        pairs = (folder / "out" / "00000_00.dups").stat().st_size // 16
    if pairs != len(twins[0]):
        raise Mistake(f"datatrove found {pairs:,} pairs of {len(twins[0]):,}")
    return {
        "signatures": SIGNATURES,
        "lines_to_buffer": best,
        "datatrove_us_per_signature": spread([slow * 1e6 / SIGNATURES for slow, _ in times]),
        "ours_us_per_signature": spread([fast * 1e6 / SIGNATURES for _, fast in times]),
        "times_as_fast": spread([slow / fast for slow, fast in times]),
    }


def show(found: dict[str, Any]) -> None:
    print(f"{found['data']}: {found['originals']:,} originals, {found['documents']:,} documents with their copies")
    for name, one in found["found"].items():
        print(
            f"{name}: recall {one['recall']:.1%}, of bands alone {one['recall_of_bands']:.1%} (in theory "
            f"{SETTINGS[name].found:.1%} at 0.8); precision {one['precision']:.1%}, of bands alone "
            f"{one['precision_of_bands']:.1%}"
        )
        for low, count in one["bins"].items():
            words = (f"{count[key] / count['pairs']:>8.1%} {key}" for key in ("in a band", "in a group"))
            print(f"  {low:14}{count['pairs']:>8,} pairs", *words)
    kinds = found["shingles"]
    print(f"{'copies at least 0.8 alike':32}" + "".join(f"{kind:>14}" for kind in kinds) + f"{'its 14 × 8':>14}")
    for change in CHANGES:
        shares = [kind["copies"][change]["at 0.8"] for kind in kinds.values()]
        shares.append(kinds["5 words"]["copies"][change]["in 14 × 8"])
        print(f"  {change:30}" + "".join(f"{share:>14.0%}" for share in shares))
    others = "".join(f"{kind['other_pairs_at_0.8']:>14,}" for kind in kinds.values())
    print(f"  {'pairs of other originals':30}{others}")
    for name, values in found["marks"].items():
        print(f"{name:32}{values['median']:>8g} MB/s per core ({values['least']:g} to {values['most']:g})")
    one = found["match"]
    theirs, ours = (one[f"{side}_us_per_signature"]["median"] for side in ("datatrove", "ours"))
    print(
        f"one band of {one['signatures']:,} signatures: datatrove {theirs:g} µs each, ours {ours:g} µs, "
        f"{one['times_as_fast']['median']:g} times as fast"
    )


if __name__ == "__main__":
    main()
