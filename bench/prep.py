"""Measures text to training rows: pretrain/pack.py and what others use, in turn, on the same text and cores.

    python bench/prep.py                                       # the sample world
    python bench/prep.py --data FILE.jsonl.zst --megatron FOLDER
    python bench/prep.py --data FILE.jsonl.zst --quick         # within three minutes
    python bench/prep.py --data FILE.jsonl.zst --large 10      # memory per worker from 100 MB to 10 GB; ours alone

Every program starts as a command, takes text on disk and leaves finished rows on disk; its time is that from its start
to its end. All have the same documents, in NFC and at random order, the same tokenizer (byte-level BPE of 32,768
entries, trained on them before), `--workers` processes and as many cores. Ours reads a corpus artifact (zstd), the
peers lines of plain JSON, in as many files as they have processes where that is faster for them.

The peers are bench/prep_peers.py, and with `--megatron FOLDER` (a checkout) Megatron-LM's own preprocess_data.py and
preprocess_data_fast.py, which need triton, awkward and Python 3.12. Where a peer has several settings the warm-up tries
them, and the fastest one counts. Every result is compared with ours token by token.

of_bare_encoder is the time of our encoder alone (narae/encoder.py in as many processes, from texts in memory to ids)
over that of packing as pack.py itself reports it: both without the start of the interpreter, both with a fresh encoder
whose loading counts. of_loaded_encoder leaves that loading out of the encoder's time, but not out of ours;
of_bare_encoder_cpu is CPU seconds of the encoder over those of all of pack.py, the start of the interpreter included.

MB are those of the text in UTF-8, memory is the resident memory of one process, shared pages included, or of all
processes with shared pages counted once. Prints a table, writes bench/results/prep-<what machine>.json, and as its last
line prints one JSON object.
"""

import argparse
import contextlib
import importlib.util
import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from bench.machine import keep, short, spread
from bench.prep_peers import END, ROW
from bench.prep_programs import BARE, CLM, END_ID, OURS, Program, pack, programs
from bench.prep_text import corpus_of, documents, prepared, size_of, varied
from bench.watching import watched
from narae import artifact
from narae.log import Mistake, say

PACKAGES = ("datasets", "gigatoken", "numpy", "tiktoken", "tokenizers", "transformers")
SMALL = 100  # MB: where --large begins
CUT = "\ufffd"  # a character that a row's edge cuts


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="records with `text`; without it the corpus of the sample world")
    parser.add_argument("--megatron", type=Path, help="a checkout of Megatron-LM; without it that row is left out")
    parser.add_argument("--megabytes", type=float, help="of text at most (100, with --quick 8)")
    parser.add_argument("--rounds", type=int, help="after a warm-up (5, with --quick 2)")
    parser.add_argument("--workers", type=int, default=2, help="processes and cores for each")
    parser.add_argument("--quick", action="store_true", help="less text, fewer rounds, one setting for each")
    parser.add_argument("--large", type=float, metavar="GB", help="ours alone, on 100 MB and on so many GB")
    parser.add_argument("--folder", type=Path, default=artifact.root(), help="where there is room for all of it")
    options = parser.parse_args()
    for name in ("datasets", "tiktoken"):
        if not importlib.util.find_spec(name):
            raise Mistake(f"the peers need {name}, which is not installed: pip install -e '.[bench]'")
    if options.megatron and not (options.megatron / "tools" / "preprocess_data.py").is_file():
        raise Mistake(f"--megatron {options.megatron} has no tools/preprocess_data.py: name a checkout of Megatron-LM")
    megabytes = options.megabytes or (8 if options.quick else 100)
    data, texts = documents(options.data, megabytes * 1e6)
    options.folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=options.folder, prefix="prep-") as place, cores(options.workers):
        folder = Path(place)
        os.environ["NARAE_ARTIFACTS"] = str(folder / "artifacts")
        entries = prepared(texts, folder, options.workers)
        found: dict[str, Any] = {"data": data, "documents": len(texts), "mb": short(size_of(texts) / 1e6)}
        found |= {"entries": entries, "workers": options.workers}
        if options.large:
            found["sizes"] = grown(texts, [SMALL, options.large * 1e3], folder, options.workers)
            keep("prep-large", found, PACKAGES)
            print(json.dumps({"mb_per_worker": max(one["worker_mb"] for one in found["sizes"])}))
            return
        rounds = options.rounds or (2 if options.quick else 5)
        every = programs(folder, options.workers, options.megatron)
        for program in every.values():
            program.settings = program.settings[: 1 if options.quick else None]
        found |= compared(texts, folder, every, options.workers, rounds)
    show(found)
    if not options.megatron:
        print("Megatron-LM was not measured: --megatron FOLDER names a checkout")
    keep("prep", found, PACKAGES)
    print(json.dumps(found["last"]))


@contextlib.contextmanager
def cores(number: int) -> Iterator[None]:
    """So many for this process and all that it starts."""
    if not hasattr(os, "sched_setaffinity"):
        yield
        return
    before = os.sched_getaffinity(0)
    if len(before) < number:
        raise Mistake(f"--workers {number}: this machine has {len(before)} cores for us")
    os.sched_setaffinity(0, sorted(before)[:number])
    yield
    os.sched_setaffinity(0, before)


def compared(texts: list[str], folder: Path, every: dict[str, Program], workers: int, rounds: int) -> dict[str, Any]:
    runs: dict[str, list[dict[str, Any]]] = {name: [] for name in every}
    tried: dict[str, dict[str, float]] = {name: {} for name in every}
    right = np.empty(0, np.uint16)
    for turn in range(rounds + 1):
        for name, program in every.items():
            for setting in program.settings:
                one, ids = run(program, setting, folder / "artifacts" / "packed" / f"run-{turn}")
                if name == OURS:
                    right = verified(ids, texts) if not turn else right
                batch = next((int(word.split("=")[1]) for word in setting if word.startswith("--batch")), 1000)
                same(name, ids, program.wanted(right, workers, batch))
                one |= {"tokens": int(ids.size), "lost": int((right != END_ID).sum() - (ids != END_ID).sum())}
                one |= {"ends": int((ids == END_ID).sum())}
                say(f"round {turn} of {rounds}: {name} {' '.join(setting)} {one['wall_s']:.1f} s")
                if turn:
                    runs[name].append(one)
                else:
                    tried[name][" ".join(setting)] = short(one["wall_s"])
            if not turn:
                best = min(tried[name], key=lambda words: tried[name][words])
                program.settings = [setting for setting in program.settings if " ".join(setting) == best]
    return summed(runs, tried, size_of(texts) / 1e6) | {"rounds": rounds}


def run(program: Program, setting: list[str], out: Path) -> tuple[dict[str, Any], np.ndarray]:
    """Its figures and its tokens; the result is removed."""
    variables = dict(word.split("=") for word in setting if not word.startswith("-"))
    command = program.command(out)
    if command[1].endswith("pack.py"):
        one = watched(command, variables)
    else:
        out.mkdir(parents=True)
        one = watched([*command, *(word for word in setting if word.startswith("-"))], variables)
    if (clock := out / "clock.json").exists():
        one |= json.loads(clock.read_text(encoding="utf-8"))
    one["result_mb"] = sum(file.stat().st_size for file in out.rglob("*") if file.is_file()) / 1e6
    ids = program.tokens(out)
    shutil.rmtree(out)
    return one, ids


def verified(ids: np.ndarray, texts: list[str]) -> np.ndarray:
    """Ours: an end after each document, and the first and the last rows are their texts."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(artifact.open_artifact("tokenizer", "bench").path / "tokenizer.json"))
    if tokenizer.token_to_id(END) != END_ID or ids[-1] != END_ID or (ids == END_ID).sum() != len(texts):
        raise Mistake(f"ours has {(ids == END_ID).sum():,} ends of documents, and there are {len(texts):,} documents")
    first, last = (tokenizer.decode(row.tolist(), skip_special_tokens=True) for row in (ids[:ROW], ids[-ROW:]))
    few = ROW * 4  # documents: each has a token of text and its end
    begin, end = "".join(texts[:few]), "".join(texts[-few:])
    if not begin.startswith(first.rstrip(CUT)) or not end.endswith(last.lstrip(CUT)):
        raise Mistake("the first and the last row of ours are not the texts")
    return ids


def same(name: str, found: np.ndarray, wanted: np.ndarray) -> None:
    if not np.array_equal(found, wanted):
        size = min(found.size, wanted.size)
        where = np.append(np.flatnonzero(found[:size] != wanted[:size]), size)[0]
        raise Mistake(f"{name} has {found.size:,} tokens, wanted are {wanted.size:,}; they differ from {where:,} on")


def summed(runs: dict[str, list[dict[str, Any]]], tried: dict[str, Any], megabytes: float) -> dict[str, Any]:
    rows = {}
    for name, every in runs.items():
        row: dict[str, Any] = {key: spread([one[key] for one in every]) for key in ("wall_s", "cpu_s")}
        row["mb_per_s"] = spread([megabytes / one["wall_s"] for one in every])
        row |= {key: round(max(one[key] for one in every)) for key in ("worker_mb", "main_mb", "all_mb")}
        row |= {key: short(max(one[key] for one in every)) for key in ("written_mb", "result_mb")}
        row |= {key: every[0][key] for key in ("tokens", "lost", "ends")}
        rows[name] = row | {"warm_up_s": tried[name]}
    # pack.py says how fast it was, the interpreter's start left out
    own = [megabytes / float(re.findall(r"([\d.]+) MB/s", one["said"])[-1]) for one in runs[OURS]]
    rows[OURS]["own_clock_s"] = spread(own)
    ours, bare = ([one[key] for one in runs[name]] for name, key in ((OURS, "cpu_s"), (BARE, "cpu_s")))

    def times(name: str) -> dict[str, float]:
        return spread([one["wall_s"] / mine["wall_s"] for one, mine in zip(runs[name], runs[OURS], strict=True)])

    others = {name: times(name) for name in rows if name not in (OURS, BARE, CLM)}
    best = min(others, key=lambda name: others[name]["median"])
    ratios = {
        "vs_run_clm": times(CLM),
        "vs_best_other": others[best],
        "of_bare_encoder": spread([one["wall_s"] / mine for one, mine in zip(runs[BARE], own, strict=True)]),
        "of_loaded_encoder": spread(
            [(one["wall_s"] - one["loading_s"]) / mine for one, mine in zip(runs[BARE], own, strict=True)]
        ),
        "of_bare_encoder_cpu": spread([one / mine for one, mine in zip(bare, ours, strict=True)]),
    }
    last = {key: value["median"] for key, value in ratios.items()} | {"mb_per_worker": rows[OURS]["worker_mb"]}
    return {"programs": rows, "ratios": ratios, "vs": others, "best_other": best, "last": last}


def show(found: dict[str, Any]) -> None:
    print(
        f"\n{found['data']}: {found['mb']} MB, {found['documents']:,} documents, {found['entries']:,} entries, ", end=""
    )
    print(f"{found['workers']} processes, {found['rounds']} rounds")
    memory = ("worker_mb", "main_mb", "all_mb", "written_mb", "result_mb")
    print(
        f"{'':28} {'s, median':>10} {'least':>6} {'most':>6} {'MB/s':>6} {'CPU s':>6} {'lost':>7} {'ends':>8}", end=""
    )
    print("".join(f" {name.replace('_mb', ' MB'):>10}" for name in memory))
    for name, row in found["programs"].items():
        wall = row["wall_s"]
        print(
            f"{name:28} {wall['median']:10g} {wall['least']:6g} {wall['most']:6g} {row['mb_per_s']['median']:6g}",
            end="",
        )
        print(f" {row['cpu_s']['median']:6g} {row['lost']:7,} {row['ends']:8,}", end="")
        print("".join(f" {row[key]:10,g}" for key in memory))
    for name, ratio in {**found["ratios"], **{f"times {name}": one for name, one in found["vs"].items()}}.items():
        print(f"{name:34} {ratio['median']:g} ({ratio['least']:g} to {ratio['most']:g})")
    print(f"best of the others: {found['best_other']}")


def grown(texts: list[str], sizes: list[float], folder: Path, workers: int) -> list[dict[str, Any]]:
    """Ours alone on corpora of so many MB, one after another."""
    found = []
    for size in sizes:
        name = f"large-{size:g}"
        corpus = corpus_of(name, varied(texts, size * 1e6))
        out = folder / "artifacts" / "packed" / name
        one = watched(pack(out, workers, name))
        del one["said"]
        counts, megabytes = (
            artifact.open_artifact("packed", name).counts["train"],
            corpus.counts["train"]["bytes"] / 1e6,
        )
        if counts["documents"] != corpus.counts["train"]["documents"]:
            raise Mistake(f"{counts['documents']:,} documents packed of {corpus.counts['train']['documents']:,}")
        one |= {"mb": megabytes, "mb_per_s": megabytes / one["wall_s"], "result_mb": counts["tokens"] * 2 / 1e6}
        found.append({key: short(value) for key, value in one.items()} | {"documents": counts["documents"]})
        for path in (out, corpus.path):
            shutil.rmtree(path)
        say(", ".join(f"{key} {value:,g}" for key, value in found[-1].items()))
    return found


if __name__ == "__main__":
    main()
