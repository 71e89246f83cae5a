"""Judge a tokenizer on text that it was not trained on, source by source, beside others: a page and a table.

    python tokenizer/report.py                                           # the sample's, on its corpus's val
    python tokenizer/report.py --tokenizer books --peers PEERS --tutorial  # PEERS: a folder of vocabularies
    python tokenizer/report.py --data held_out.jsonl.zst --training train.jsonl.zst --peers o200k_base.tiktoken

Peers are read from the files that they are published as: tiktoken's ranks, tokenizer.json, tekken's json,
SentencePiece's .model, WordPiece's vocab.txt, each plain or .zst, a folder of them, or another tokenizer of ours by its
name. The page is one file that opens anywhere, artifacts/reports/tokenizer-NAME/report.html; beside it report.json has
every figure.
"""

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import yaml

from narae.artifact import Artifact, find, open_artifact, root
from narae.config import option, parse
from narae.documents import shards
from narae.encoder import Encoder
from narae.log import Mistake, progress, say
from tokenizer import entries, peers
from tokenizer.fertility import HANGUL_RATIO, Count, Source, by_source, count, evenly, figures, joined, speed, timed
from tokenizer.page import page
from tokenizer.peers import Peer

EXAMPLES = Path(__file__).with_name("examples.yaml")


@dataclass
class Config:
    tokenizer: str = option("sample", "the tokenizer to judge")
    corpus: str = option("", "the corpus whose val is held out (the one that the tokenizer was trained on)")
    data: list[str] = option([], "held-out documents instead of the corpus's: files of jsonl.zst")
    training: list[str] = option([], "training text instead of the corpus's: files of jsonl.zst")
    peers: list[str] = option([], "files and folders of other tokenizers, or names of ours")
    tutorial: bool = option(False, "also train the tutorials' recipe on the training text, to as many entries")
    held_out_bytes: int = option(8_000_000, "held-out text at most, from evenly spaced documents")
    max_bytes: int = option(100_000_000, "training text at most, from evenly spaced documents")
    rare: int = option(100, "an entry that occurs less often in the training text counts as under-trained")
    out: str = option(
        "", "the page to write (artifacts/reports/tokenizer-NAME/report.html); report.json lies beside it"
    )


@dataclass
class Text:
    """Documents for a purpose: files, and their bytes of text if somebody counted them."""

    label: str
    files: Sequence[Path]
    bytes: int = 0


def main() -> None:
    config = parse(Config, about=__doc__)
    out = _out(config)
    made = open_artifact("tokenizer", config.tokenizer)
    held_out, training = _texts(config, made)
    sources = by_source(evenly(held_out.files, config.held_out_bytes, held_out.bytes))
    if not any(source.bytes for source in sources):
        raise Mistake(
            f"{held_out.label} holds no text in documents of up to {config.held_out_bytes:,} bytes: "
            "--data names other text, --held_out_bytes takes longer documents"
        )
    own = peers.open_own(config.tokenizer)
    others = list(peers.load(config.peers))
    if config.tutorial:
        if training is None:
            raise Mistake("--tutorial needs text to train on: --training FILE.jsonl.zst or --corpus NAME")
        texts = (document.text for document in evenly(training.files, config.max_bytes, training.bytes))
        others.append(peers.tutorial(texts, own.entries))
    report = {
        "tokenizer": own.name,
        "held_out": held_out.label,
        "sources": _described(sources, made),
        "tokenizers": _measured([own, *others], sources),
        "bulk": _bulk(made, sources),
        "vocabulary": _vocabulary(own, training, config),
        "examples": _examples([own, *others]),
    }
    _write(out, page(report))
    _write(out.with_suffix(".json"), json.dumps(report, ensure_ascii=False, indent=1))
    print(_table(report))
    say(f"{len(sources)} sources of {held_out.label}, {len(others)} peers: {out}")


def _out(config: Config) -> Path:
    name = Path(config.tokenizer).name
    out = Path(config.out).expanduser() if config.out else root() / f"reports/tokenizer-{name}/report.html"
    if out.is_dir():
        raise Mistake(f"--out {out} is a folder: name a file in it, such as {out / 'report.html'}")
    if out.suffix == ".json":
        raise Mistake(f"--out {out} is the page, not the figures, which are written beside it: end it in .html")
    return out


def _texts(config: Config, made: Artifact) -> tuple[Text, Text | None]:
    """What is held out, and what the tokenizer was trained on; the second is not always at hand."""
    parent = next((one["name"] for one in made.manifest["parents"] if one["kind"] == "corpus"), "sample")
    name = config.corpus or parent
    needed = not config.data
    corpus = open_artifact("corpus", name) if needed or config.corpus else find("corpus", name)
    held_out, training = _files("--data", config.data), _files("--training", config.training)
    if corpus is not None:
        held_out = held_out or _split(corpus, "val")
        training = training or _split(corpus, "train")
    if held_out is None:
        raise Mistake(f"corpus '{name}' has no val documents: name held-out text with --data FILE.jsonl.zst")
    return held_out, training


def _files(flag: str, names: Sequence[str]) -> Text | None:
    files = [Path(name).expanduser() for name in names]
    for file in files:
        if not file.is_file():
            raise Mistake(f"{flag} {file}: there is no such file")
    return Text(", ".join(file.name for file in files), files) if files else None


def _split(corpus: Artifact, split: str) -> Text | None:
    size = corpus.counts[split]["bytes"]
    return Text(f"{split} of corpus '{corpus.name}'", shards(corpus.path, split), size) if size else None


def _described(sources: Sequence[Source], made: Artifact) -> dict[str, Any]:
    trained: dict[str, Any] | None = made.counts.get("sources")
    told = {}
    for source in sources:
        told[source.name] = {key: value for key, value in vars(source).items() if key not in ("name", "texts")}
        told[source.name]["hangul_ratio"] = round(source.hangul_ratio, 4)
        # None: the manifest does not say.
        told[source.name]["trained_on"] = None if trained is None else source.name in trained
    return told


def _measured(tokenizers: Sequence[Peer], sources: Sequence[Source]) -> list[dict[str, Any]]:
    korean = [source for source in sources if source.hangul_ratio > HANGUL_RATIO]
    quick = timed(sources)
    rows = []
    for peer in progress(tokenizers, "measuring", len(tokenizers), "tokenizers"):
        found = {source.name: count(peer, source.texts) for source in sources}
        row: dict[str, Any] = {"name": peer.name, "entries": peer.entries, "note": peer.note}
        row["mb_per_cpu_second"] = speed(partial(peer.tokenizer.encode_batch_fast, add_special_tokens=False), quick)
        row["sources"] = {source.name: figures(source, found[source.name]) for source in sources}
        for key, some in (("all", sources), ("korean", korean)):
            total = sum((found[source.name] for source in some), Count())
            row[key] = figures(joined(key, some), total) if some else None
        rows.append(row)
    return rows


def _bulk(made: Artifact, sources: Sequence[Source]) -> dict[str, Any] | None:
    """Speed as pretrain/pack.py encodes, where that is another library."""
    encoder = Encoder(made.path)
    if encoder.engine == "tokenizers":
        return None
    encoder.encode(["가"])  # the first call imports
    # Once: the second time it would look up nearly every word.
    once = speed(encoder.encode, [text for source in sources for text in source.texts], times=1)
    return {"engine": encoder.engine, "mb_per_cpu_second": once}


def _vocabulary(own: Peer, training: Text | None, config: Config) -> dict[str, Any]:
    if training is None:
        return entries.state(own, None, config.rare)
    say(f"encoding up to {config.max_bytes / 1e6:,.0f} MB of {training.label}, to see which entries it uses")
    texts = (document.text for document in evenly(training.files, config.max_bytes, training.bytes))
    counts, documents, size = entries.occurrences(own, texts)
    told = entries.state(own, counts, config.rare)
    return told | {"training": {"label": training.label, "documents": documents, "bytes": size}}


def _examples(tokenizers: Sequence[Peer]) -> list[dict[str, Any]]:
    """Each sentence, as every tokenizer cuts it: tokens of pieces, each with whether it is text or bytes in hex."""
    told = []
    for example in yaml.safe_load(EXAMPLES.read_text(encoding="utf-8")):
        cuts = {}
        for peer in tokenizers:
            ids = peer.tokenizer.encode(example["text"], add_special_tokens=False).ids
            cuts[peer.name] = [entries.pieces(peer.spelling(number)) for number in ids]
        told.append({**example, "cuts": cuts})
    return told


def _write(file: Path, content: str) -> None:
    """Whole or not at all: a browser that reloads in between sees the old page."""
    file.parent.mkdir(parents=True, exist_ok=True)
    draft = file.with_name(f".{file.name}-{os.getpid()}")
    try:
        draft.write_bytes(content.encode("utf-8", "replace"))
        draft.replace(file)
    finally:
        draft.unlink(missing_ok=True)


def _table(report: dict[str, Any]) -> str:
    """For the terminal: the best first, ours marked."""
    heads = (
        "tokenizer",
        "entries",
        "bytes/token",
        "Korean",
        "tok/eojeol",
        "tok/syllable",
        "whole",
        "exact",
        "MB/CPU-s",
    )
    lines = [f"{heads[0]:28}" + "".join(f"{head:>13}" for head in heads[1:])]
    ranked = sorted(report["tokenizers"], key=lambda row: -(row["all"]["bytes_per_token"] or 0))
    for row in ranked:
        every, korean = row["all"], row["korean"] or {}
        cells = [f"{row['entries']:,}", _number(every["bytes_per_token"]), _number(korean.get("bytes_per_token"))]
        cells += [_number(every["tokens_per_eojeol"]), _number(every["tokens_per_syllable"])]
        cells += [f"{every[key]:.1%}" if every[key] is not None else "–" for key in ("whole_eojeols", "exact")]
        cells.append(f"{row['mb_per_cpu_second']:.1f}")
        mark = "> " if row is report["tokenizers"][0] else "  "
        lines.append(f"{mark + row['name']:28.28}" + "".join(f"{cell:>13}" for cell in cells))
        if row["note"]:
            lines.append(f"    {row['note']}")
    return "\n".join(lines)


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"


if __name__ == "__main__":
    main()
