"""The peers of bench/prep.py, each a command of its own: lines of JSON with `text` in, training rows on disk out.

    python bench/prep_peers.py run_clm --jsonl half-0.jsonl half-1.jsonl --tokenizer FOLDER --out FOLDER

run_clm  Hugging Face's recipe: `load_dataset`, `map` with a fast tokenizer, `map` into rows of 512. Texts follow each
         other with nothing between them, and what is left of a batch after its last whole row is dropped.
nanogpt  nanoGPT's recipe: `map` with tiktoken, a document at a time, then all of it into one memory map.
lean     the same tokens with less around them: processes that read, encode and hand bytes to one that writes.
bare     no peer: our encoder alone, on texts in memory, with its own clock.

Each takes as many processes as there are files. Our own code, from what those programs do; tiktoken gets the entries
and the pattern of our tokenizer.
"""

import argparse
import json
import multiprocessing
import time
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from narae.log import Mistake

if TYPE_CHECKING:
    import tiktoken

ROW = 512  # tokens
PIECE = 4_000_000  # bytes of lines that a process takes at a time
WRITES = 1024  # nanoGPT's memory map is filled in so many turns
END = "<|endoftext|>"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("peer", choices=PEERS)
    parser.add_argument("--jsonl", type=Path, nargs="+", required=True, help="the text, one file for each process")
    parser.add_argument("--tokenizer", type=Path, required=True, help="the folder of a saved tokenizer")
    parser.add_argument("--out", type=Path, required=True, help="a fresh folder")
    parser.add_argument("--batch", type=int, default=1000, help="run_clm: documents in a batch of `map`")
    options = parser.parse_args()
    words = {"batch": options.batch} if options.peer == "run_clm" else {}
    PEERS[options.peer](options.jsonl, options.tokenizer, options.out, **words)


def run_clm(jsonl: list[Path], tokenizer: Path, out: Path, batch: int = 1000) -> None:
    from transformers import AutoTokenizer

    fast = AutoTokenizer.from_pretrained(str(tokenizer))
    texts = _loaded(jsonl, out)

    def tokenize(examples: dict[str, list[str]]) -> Any:
        return fast(examples["text"])

    def grouped(examples: dict[str, list[list[int]]]) -> dict[str, list[list[int]]]:
        rows = {}
        for name, lists in examples.items():
            joined = list(chain.from_iterable(lists))
            rows[name] = [joined[at : at + ROW] for at in range(0, len(joined) // ROW * ROW, ROW)]
        return {**rows, "labels": rows["input_ids"].copy()}

    how = {"batched": True, "batch_size": batch, "num_proc": len(jsonl)}
    rows = texts.map(tokenize, remove_columns=texts.column_names, **how).map(grouped, **how)
    files = [part["filename"] for part in rows.cache_files]
    (out / "rows.json").write_text(json.dumps({"files": files, "documents": len(texts)}), encoding="utf-8")


def nanogpt(jsonl: list[Path], tokenizer: Path, out: Path) -> None:
    encoding = tiktoken_of(tokenizer)
    end = encoding._special_tokens[END]
    texts = _loaded(jsonl, out)

    def tokenize(example: dict[str, str]) -> dict[str, Any]:
        ids = encoding.encode_ordinary(example["text"])
        ids.append(end)
        return {"ids": ids, "len": len(ids)}

    rows = texts.map(tokenize, remove_columns=texts.column_names, num_proc=len(jsonl))
    tokens = int(np.sum(rows["len"][:], dtype=np.uint64))
    file = np.memmap(out / "train.bin", np.uint16, "w+", shape=(tokens,))
    turns, done = min(WRITES, len(rows)), 0
    for turn in range(turns):
        part = rows.shard(num_shards=turns, index=turn, contiguous=True).with_format("numpy")
        ids = np.concatenate(part[:]["ids"])
        file[done : done + len(ids)] = ids
        done += len(ids)
    file.flush()


def _loaded(jsonl: list[Path], out: Path) -> Any:
    """One file for each process, so that both read; the cache is as fresh as `out`."""
    import datasets

    datasets.disable_progress_bars()
    files = [str(path) for path in jsonl]
    return datasets.load_dataset("json", data_files=files, split="train", cache_dir=str(out), num_proc=len(jsonl))


def lean(jsonl: list[Path], tokenizer: Path, out: Path) -> None:
    pieces = [(path, at) for path in jsonl for at in range(0, path.stat().st_size, PIECE)]
    with multiprocessing.Pool(len(jsonl), _ready, (tokenizer,)) as pool, (out / "train.bin").open("wb") as file:
        for ids in pool.imap(_encoded, pieces):
            file.write(ids)


_encoding: "tiktoken.Encoding"  # of this process


def _ready(tokenizer: Path) -> None:
    global _encoding
    _encoding = tiktoken_of(tokenizer)


def _encoded(piece: tuple[Path, int]) -> bytes:
    texts = [json.loads(line)["text"] for line in _lines(*piece)]
    end = _encoding._special_tokens[END]
    ids: list[int] = []
    for found in _encoding.encode_ordinary_batch(texts, num_threads=1):
        ids += found
        ids.append(end)
    return np.array(ids, np.uint16).tobytes()


def _lines(path: Path, begin: int) -> Iterator[bytes]:
    """The lines that begin in this piece of the file."""
    with path.open("rb") as file:
        if begin:
            file.seek(begin - 1)
            file.readline()
        while file.tell() < begin + PIECE and (line := file.readline()):
            yield line


def tiktoken_of(tokenizer: Path) -> "tiktoken.Encoding":
    """Our vocabulary as tiktoken's ranks: what was merged earlier has the lower number in both."""
    import tiktoken

    saved = json.loads((tokenizer / "tokenizer.json").read_text(encoding="utf-8"))
    cut = saved["pre_tokenizer"] or {}
    patterns = [part["pattern"]["Regex"] for part in cut.get("pretokenizers", [cut]) if part.get("type") == "Split"]
    if len(patterns) != 1 or saved["model"]["type"] != "BPE" or saved["model"].get("byte_fallback"):
        raise Mistake(f"{tokenizer}: tiktoken applies byte-level BPE with one pattern, and this tokenizer is another")
    special = {entry["content"]: entry["id"] for entry in saved["added_tokens"]}
    byte_of = byte_characters()
    ranks = {
        bytes(byte_of[character] for character in entry): number
        for entry, number in saved["model"]["vocab"].items()
        if entry not in special
    }
    return tiktoken.Encoding("narae", pat_str=patterns[0], mergeable_ranks=ranks, special_tokens=special)


def byte_characters() -> dict[str, int]:
    """The character that stands for each byte in a byte-level vocabulary: itself where it prints, else from 256 on."""
    printing = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printing]
    return {chr(byte): byte for byte in printing} | {chr(256 + place): byte for place, byte in enumerate(others)}


def bare(jsonl: list[Path], tokenizer: Path, out: Path) -> None:
    """The clock runs from when all processes have their texts until all have their ids: its figures in clock.json."""
    fork = multiprocessing.get_context("fork")
    gate = fork.Barrier(len(jsonl) + 1)
    texts = [[json.loads(line)["text"] for line in path.open("rb")] for path in jsonl]
    files = [out / f"ids-{number}" for number in range(len(jsonl))]
    hands = [fork.Process(target=_encode_alone, args=(*one, tokenizer, gate)) for one in zip(texts, files, strict=True)]
    for hand in hands:
        hand.start()
    gate.wait()
    began = time.monotonic()
    gate.wait()
    wall = time.monotonic() - began
    for hand in hands:
        hand.join()
    clocks = [json.loads(file.with_suffix(".json").read_text(encoding="utf-8")) for file in files]
    figures = {"wall_s": wall, "cpu_s": sum(one["cpu_s"] for one in clocks), "loading_s": clocks[0]["loading_s"]}
    (out / "clock.json").write_text(json.dumps(figures), encoding="utf-8")
    np.save(out / "ids.npy", np.concatenate([np.load(file.with_suffix(".npy")) for file in files]))


def _encode_alone(texts: list[str], file: Path, tokenizer: Path, gate: Any) -> None:
    from narae.encoder import Encoder

    gate.wait()
    began, spent = time.monotonic(), time.process_time()
    encoder = Encoder(tokenizer)
    loading = time.monotonic() - began
    ids = [encoder.encode(batch)[0] for batch in _batches(texts)]
    figures = {"cpu_s": time.process_time() - spent, "loading_s": loading}
    gate.wait()
    np.save(file.with_suffix(".npy"), np.concatenate(ids))
    file.with_suffix(".json").write_text(json.dumps(figures), encoding="utf-8")


def _batches(texts: list[str]) -> Iterator[list[str]]:
    batch, room = [], PIECE
    for text in texts:
        batch.append(text)
        room -= len(text)
        if room <= 0:
            yield batch
            batch, room = [], PIECE
    if batch:
        yield batch


PEERS = {"run_clm": run_clm, "nanogpt": nanogpt, "lean": lean, "bare": bare}

if __name__ == "__main__":
    main()
