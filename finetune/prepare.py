"""Questions and answers in any of three shapes become examples for fine-tuning.

    python finetune/prepare.py                                   # the sample world's own questions
    python finetune/prepare.py --source chat.jsonl more.jsonl.zst --name mine --val_fraction 0.02

A row is {"messages": [{"role", "content"}, ...]}, {"prompt", "answer"} or {"instruction", "input", "output"}.
"""

import gzip
import hashlib
import io
import json
import re
import unicodedata
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import zstandard

from narae import artifact
from narae.config import option, parse, resolved
from narae.log import Mistake, Progress, say

# In a text they would end an answer or open another turn.
CONTROL = re.compile(r"<\|[a-z0-9_]+\|>")


@dataclass
class PrepareConfig:
    source: list[str] = option([], "jsonl files, plain, .gz or .zst; none: chat.jsonl of the sample artifact")
    sample: str = option("sample", "the sample artifact that is read where there is no --source")
    name: str = option("sample", "what the examples are called")
    val_fraction: float = option(0.02, "share of the examples that is held out")
    max_bad: float = option(0.05, "share of unusable rows above which the run stops")
    overwrite: bool = option(False, "replace other examples of this name")


class RowError(Exception):
    """Why a row is not an example."""


def main() -> None:
    config = parse(PrepareConfig, config="configs/prepare/sample.yaml", about=__doc__)
    if not 0 <= config.val_fraction < 1:
        raise Mistake(f"--val_fraction {config.val_fraction} is a share: at least 0 and below 1, such as 0.02")
    parents = []
    sources = [Path(name).expanduser() for name in config.source]
    if not sources:
        parents = [artifact.open_artifact("sample", config.sample)]
        sources = [parents[0].path / "chat.jsonl"]
    for source in sources:
        if not source.is_file():
            raise Mistake(f"--source {source}: there is no such file")
    # Where a file lies does not matter, what is in it does.
    settings = resolved(config, neutral={"source", "sample"})
    inputs = (
        {f"{n} {source.name}": artifact.hash_file(source) for n, source in enumerate(sources)} if config.source else {}
    )
    draft = artifact.begin("examples", config.name, settings, parents, inputs, config.overwrite)
    if draft is None:
        return
    with draft:
        draft.counts.update(prepare(sources, draft.path, config.val_fraction, config.max_bad))
        counts = draft.counts
    rejected = ", ".join(f"{n:,} {reason}" for reason, n in counts["rejected"].items()) or "none"
    say(
        f"{counts['train']:,} examples to train on, {counts['val']:,} held out, "
        f"{counts['duplicates']:,} duplicates dropped, rejected: {rejected}"
    )


def prepare(sources: list[Path], folder: Path, val_fraction: float, max_bad: float) -> dict[str, Any]:
    """Write train.jsonl, val.jsonl and rejected.jsonl into the folder, and count."""
    rejected: Counter[str] = Counter()
    splits = {"train": 0, "val": 0}
    duplicates = rows = 0
    seen: set[bytes] = set()
    files = {split: (folder / f"{split}.jsonl").open("w", encoding="utf-8") for split in ("train", "val", "rejected")}
    bar = Progress("reading", sum(source.stat().st_size for source in sources), "bytes")
    done = 0
    for source in sources:
        for number, (line, position) in enumerate(_lines(source), start=1):
            if not line.strip():
                continue
            rows += 1
            bar.update(done + position)
            try:
                messages = read_row(line)
            except RowError as why:
                rejected[str(why)] += 1
                kept = line.rstrip("\n").encode("utf-8", "surrogateescape").decode("utf-8", "replace")
                _write(files["rejected"], {"source": source.name, "line": number, "reason": str(why), "row": kept})
                continue
            digest = hashlib.blake2b(json.dumps(messages, sort_keys=True).encode(), digest_size=16).digest()
            if digest in seen:
                duplicates += 1
                continue
            seen.add(digest)
            # By its content: the same example falls on the same side, whatever else is in the files.
            split = "val" if int.from_bytes(digest[:8], "big") < val_fraction * 2**64 else "train"
            splits[split] += 1
            _write(files[split], {"messages": messages})
        done += source.stat().st_size
    bar.close()
    for file in files.values():
        file.close()
    bad = sum(rejected.values())
    reasons = ", ".join(f"{n:,} {reason}" for reason, n in rejected.most_common())
    names = ", ".join(source.name for source in sources)
    if not splits["train"]:
        raise Mistake(f"no example to train on in {names}: {rows:,} rows, rejected: {reasons or 'none'}")
    if bad > max_bad * rows:
        raise Mistake(
            f"{bad:,} of {rows:,} rows in {names} cannot be used ({reasons}), more than --max_bad {max_bad:g}: "
            "mend the file, or allow more"
        )
    return {**splits, "rows": rows, "duplicates": duplicates, "rejected": dict(rejected.most_common())}


def read_row(line: str) -> list[dict[str, str]]:
    """One line of a source as messages, or RowError with the reason."""
    try:
        line.encode("utf-8")
        row = json.loads(line)
    except UnicodeEncodeError:
        raise RowError("not UTF-8") from None
    except ValueError:
        raise RowError("not JSON") from None
    if not isinstance(row, dict):
        raise RowError("not an object")
    if "messages" in row:
        return _conversation(row["messages"])
    if row.keys() >= {"prompt", "answer"}:
        return _conversation(_turn(row["prompt"], row["answer"]))
    if row.keys() >= {"instruction", "output"}:
        question, extra = row["instruction"], row.get("input") or ""
        if not isinstance(question, str) or not isinstance(extra, str):
            raise RowError("wrong type")
        question = f"{question.strip()}\n\n{extra.strip()}" if extra.strip() else question
        return _conversation(_turn(question, row["output"]))
    raise RowError("missing fields")


def _turn(question: Any, answer: Any) -> list[dict[str, Any]]:
    return [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]


def _conversation(messages: Any) -> list[dict[str, str]]:
    """Perhaps a system message, then questions and answers in turn; the last word is an answer."""
    if not isinstance(messages, list) or not all(isinstance(message, dict) for message in messages):
        raise RowError("wrong type")
    clean = []
    for message in messages:
        if not message.keys() >= {"role", "content"}:
            raise RowError("missing fields")
        if not isinstance(message["role"], str) or not isinstance(message["content"], str):
            raise RowError("wrong type")
        content = unicodedata.normalize("NFC", message["content"]).strip()
        if CONTROL.search(content):
            raise RowError("control token in the text")
        if not content:
            raise RowError("empty answer" if message["role"] == "assistant" else "empty question")
        clean.append({"role": message["role"], "content": content})
    roles = [message["role"] for message in clean]
    turns = roles[1:] if roles[:1] == ["system"] else roles
    if not turns or len(turns) % 2 or turns != ["user", "assistant"] * (len(turns) // 2):
        raise RowError("roles do not alternate")
    return clean


def _lines(path: Path) -> Iterator[tuple[str, int]]:
    """Every line with the number of bytes of the file that were read so far."""
    with path.open("rb") as raw:
        stream: Any = raw
        if path.suffix == ".gz":
            stream = gzip.GzipFile(fileobj=raw)
        elif path.suffix == ".zst":
            stream = zstandard.ZstdDecompressor().stream_reader(raw, read_across_frames=True)
        try:
            for line in io.TextIOWrapper(stream, encoding="utf-8-sig", errors="surrogateescape", newline="\n"):
                yield line, raw.tell()
        except (OSError, EOFError, zstandard.ZstdError) as error:
            raise Mistake(f"{path} is damaged ({error}): download or write it again") from None


def _write(file: IO[str], row: dict[str, Any]) -> None:
    file.write(json.dumps(row, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
