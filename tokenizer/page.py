"""A tokenizer beside others on one page: fertility by source, vocabulary, speed, and sentences as each cuts them."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from narae.markup import NOTHING, THIN, bar, document, named, share, size, table, text, whole
from tokenizer.charts import Dot, histogram, scatter

TINTS = 6  # classes of tokens that follow each other, t0 to t5
OPEN = 4  # tokenizers whose cuts are shown at once; the others are unfolded
NOT_TRAINED, LOSSY = "°", "†"
EXACT = (
    "Exact: the share of documents that come back from their tokens as they were, in NFC. A tokenizer that drops "
    f"spaces or knows no entry for a character needs fewer tokens and loses text: {LOSSY}."
)
SPEED = "Speed: each through the tokenizers library, after a first pass over the same text."


def page(report: dict[str, Any]) -> str:
    """The whole file, from what report.json holds."""
    own, peers = report["tokenizers"][0], report["tokenizers"][1:]
    parts = [
        ("sources", "By source", _sources(report, own, peers)),
        ("tokenizers", "Beside others", _beside(report["tokenizers"], report["bulk"])),
        ("vocabulary", "Vocabulary", _vocabulary(report["vocabulary"])),
        ("examples", "Sentences", _examples(report["examples"], report["tokenizers"])),
    ]
    return document(
        "tokenizer",
        own["name"],
        _headline(own, peers, report["bulk"]),
        _state(report),
        parts,
        "python tokenizer/report.py",
        Path(__file__).with_suffix(".css"),
    )


def _headline(
    own: dict[str, Any], peers: Sequence[dict[str, Any]], bulk: dict[str, Any] | None
) -> list[tuple[str, str, str]]:
    every = own["all"]
    rival = max(peers, key=_most, default=None)
    beside = f"; best peer {_called(rival)} {decimal(_most(rival))}" if rival else ""
    fast = bulk["mb_per_cpu_second"] if bulk else own["mb_per_cpu_second"]
    return [
        ("Bytes per token", decimal(_most(own)), ("Korean sources" if own["korean"] else "all sources") + beside),
        (
            "Tokens per eojeol",
            decimal(every["tokens_per_eojeol"]),
            f"{decimal(every['tokens_per_syllable'])} a syllable",
        ),
        ("Exact", percent(every["exact"]), "of documents come back"),
        ("Whole eojeols", percent(every["whole_eojeols"]), "are one token"),
        ("Entries", whole(own["entries"]), f"{decimal(every['bytes_per_token'])} bytes per token in all"),
        ("Speed", f"{fast:.1f}", f"MB per CPU-second{' in bulk' if bulk else ''}"),
    ]


def _most(row: dict[str, Any]) -> float:
    """Bytes per token where it counts: over Korean sources, or over all where none is Korean."""
    return (row["korean"] or row["all"])["bytes_per_token"] or 0.0


def _state(report: dict[str, Any]) -> str:
    sources = report["sources"]
    documents, held = (sum(source[key] for source in sources.values()) for key in ("documents", "bytes"))
    told = (
        f"Held out: {text(report['held_out'])}, {whole(documents)} documents of {len(sources)} sources, {size(held)}. "
    )
    known = [source["trained_on"] for source in sources.values()]
    if None in known:
        return told + "The tokenizer's manifest does not say which sources it was trained on."
    strange = known.count(False)
    if not strange:
        return told + "The tokenizer was trained on other documents of each of these sources."
    return told + f"On {strange} of them, marked {NOT_TRAINED}, the tokenizer was not trained."


def _sources(report: dict[str, Any], own: dict[str, Any], peers: Sequence[dict[str, Any]]) -> str:
    sources: dict[str, dict[str, Any]] = report["sources"]
    names = sorted(sources, key=lambda name: -(own["sources"][name]["bytes_per_token"] or 0))
    drawn = _bars(names, sources, own, peers)
    heads = ["source", "text", "documents", "Hangul", "trained on", "bytes/token", "characters/token"]
    heads += ["tokens/eojeol", "tokens/syllable", "whole eojeols", "exact"]
    trained = {True: "yes", False: "no", None: "unknown"}
    rows = [
        [
            _label(name, sources),
            size(sources[name]["bytes"]),
            whole(sources[name]["documents"]),
            percent(sources[name]["hangul_ratio"]),
            trained[sources[name]["trained_on"]],
            *_figures(own["sources"][name]),
        ]
        for name in names
    ]
    korean = "of the sources with a Hangul ratio above 70%"
    for label, key in (("Korean", "korean"), ("all", "all")):
        if own[key]:
            rows.append([f"<b>{label}</b>", "", "", "", "", *_figures(own[key])])
    laid = table(f"{text(own['name'])} by source; Korean: the sum {korean}", heads, rows, "k" + "r" * 10, "wide sums")
    if not peers:
        return drawn + laid
    every = [own, *sorted(peers, key=lambda peer: -_most(peer))]
    compared = [[_label(name, sources), *_row([one["sources"][name] for one in every])] for name in names]
    compared += [
        [f"<b>{label}</b>", *_row([one[key] for one in every])]
        for label, key in (("Korean", "korean"), ("all", "all"))
        if own[key]
    ]
    heads = ["source", *map(_called, every)]
    return drawn + laid + table(
        "Bytes per token by source and tokenizer, the best of each source in bold", heads, compared,
        "k" + "r" * len(every), "wide sums",
    )  # fmt: skip


def _bars(names: Sequence[str], sources: dict[str, Any], own: dict[str, Any], peers: Sequence[dict[str, Any]]) -> str:
    """A bar for ours, a stroke for each peer, and the best peer by name."""
    top = max((one["sources"][name]["bytes_per_token"] or 0 for one in [own, *peers] for name in names), default=0) or 1
    rows = ""
    for name in names:
        mine = own["sources"][name]["bytes_per_token"] or 0
        others = {_called(peer): peer["sources"][name]["bytes_per_token"] or 0 for peer in peers}
        best = max(others, key=others.__getitem__, default=None)
        strokes = "".join(
            f'<rect class="stroke{" best" if peer == best else ""}" x="{100 * value / top:.2f}%" width="2" '
            f'height="100%"><title>{peer} {decimal(value)}</title></rect>'
            for peer, value in others.items()
        )
        beside = f"{best} {decimal(others[best])}" if best is not None else ""
        ahead = " behind" if best is not None and others[best] > mine else ""
        rows += (
            f'<li><span class="name">{_label(name, sources)}</span>'
            f'<svg class="bar" role="img" aria-label="{text(name)}: {decimal(mine)}; best peer {beside}">'
            f'<rect class="track" width="100%" height="100%"/><rect class="own{ahead}" width="{100 * mine / top:.2f}%" '
            f'height="100%"/>{strokes}</svg><b>{decimal(mine)}</b><small>{beside}</small></li>\n'
        )
    note = (
        f"Bar: this tokenizer. Strokes: the others, the best of them in gold and named; {LOSSY} loses text."
        if peers
        else "Bytes per token."
    )
    return f'<p class="note">Bytes per token, more is better. {note}</p>\n<ul class="bars">\n{rows}</ul>\n'


def _label(name: str, sources: dict[str, Any]) -> str:
    mark = (
        f'\N{NO-BREAK SPACE}<abbr title="not trained on">{NOT_TRAINED}</abbr>'
        if sources[name]["trained_on"] is False
        else ""
    )
    return named(name) + mark


def _called(row: dict[str, Any]) -> str:
    """A tokenizer's name, marked where it does not give every document back."""
    return text(row["name"]) + (LOSSY if (row["all"]["exact"] or 0) < 1 else "")


def _figures(row: dict[str, Any]) -> list[str]:
    keys = ("bytes_per_token", "characters_per_token", "tokens_per_eojeol", "tokens_per_syllable")
    return [decimal(row[key]) for key in keys] + [percent(row[key]) for key in ("whole_eojeols", "exact")]


def _row(rows: Sequence[dict[str, Any]]) -> list[str]:
    values = [row["bytes_per_token"] for row in rows]
    best = max((value for value in values if value), default=None)
    return [f"<b>{decimal(value)}</b>" if value == best and value else decimal(value) for value in values]


def _bulk(bulk: dict[str, Any] | None) -> str:
    return f" In bulk, with {text(bulk['engine'])}, in a first pass: {bulk['mb_per_cpu_second']:.1f}." if bulk else ""


def _beside(rows: Sequence[dict[str, Any]], bulk: dict[str, Any] | None) -> str:
    ranked = sorted(rows, key=lambda row: -_most(row))
    top = max((_most(row) for row in rows), default=0) or 1
    fastest = max((row["mb_per_cpu_second"] for row in rows), default=0) or 1
    cells = []
    for row in ranked:
        style = "own" if row is rows[0] else "peer"
        note = f"<small>{text(row['note'])}</small>" if row["note"] else ""
        name = f"<b>{_called(row)}</b>" if row is rows[0] else _called(row)
        cells.append(
            [
                name + note,
                whole(row["entries"]),
                decimal((row["korean"] or {}).get("bytes_per_token")),
                bar([(0, _most(row), style)], top),
                *_figures(row["all"]),
                percent(row["all"]["unknown"]),
                f"{row['mb_per_cpu_second']:.1f}",
                bar([(0, row["mb_per_cpu_second"], style)], fastest),
            ]
        )
    heads = ["tokenizer", "entries", "Korean", "bytes/token, Korean", "bytes/token", "characters/token"]
    heads += ["tokens/eojeol", "tokens/syllable", "whole eojeols", "exact", "unknown", "MB/CPU-s", "speed"]
    title = "Bytes per token over the number of entries" + (", Korean sources" if rows[0]["korean"] else "")
    caption = "All figures, over all sources where nothing else is said"
    return (
        scatter(
            title,
            [Dot(row["name"], row["entries"], _most(row), "peer" if row is not rows[0] else "own") for row in rows],
        )
        + table(caption, heads, cells, "krrbrrrrrrrrb", "wide all")
        + f'<p class="note">{EXACT} {SPEED}{_bulk(bulk)}</p>\n'
    )


def _vocabulary(state: dict[str, Any]) -> str:
    total, counted = state["entries"], "never" in state
    heads = ["entries that are", "number", "share", ""]
    heads += ["never used", f"under {whole(state['rare_below'])} times", "share of tokens"] if counted else []
    rows = []
    for name, kind in state["kinds"].items():
        row = [name, whole(kind["entries"]), share(kind["entries"], total), bar([(0, kind["entries"], "own")], total)]
        if counted:
            row += [whole(kind["never"]), whole(kind["rare"]), share(kind["tokens"], state["tokens"])]
        rows.append(row)
    rows.append(["<b>all</b>", whole(total), "", ""])
    if counted:
        rows[-1] += [whole(state["never"]), whole(state["rare"]), whole(state["tokens"])]
    laid = _usage(state) if counted else '<p class="missing">No training text was at hand: use is not counted.</p>\n'
    laid += table("What the entries are", heads, rows, "krrb" + "rrr" * counted, "middle sums")
    laid += f'<p class="note">{share(state["after_a_space"], total)} of all entries begin with a space.</p>\n'
    lengths = {("part" if key == "0" else f"{key}+" if key == "12" else key): n for key, n in state["lengths"].items()}
    charts = histogram("Entries by length in characters", lengths)
    if counted:
        often = {_often(step): step["entries"] for step in state["occurrences"]}
        charts += histogram("Entries by occurrences in the training text", often)
    laid += f'<div class="charts">{charts}</div>\n'
    laid += _words("The longest entries", state["longest"])
    if counted:
        laid += _words("Never used", state["never_shown"])
        laid += _words("Steps to longer entries, hardly used themselves", state["steps_shown"])
    return laid


def _usage(state: dict[str, Any]) -> str:
    training = state["training"]
    return (
        f"<p>In {size(training['bytes'])} of {text(training['label'])}, {whole(state['tokens'])} tokens, "
        f"{whole(state['never'])} of {whole(state['entries'])} entries never occur, and {whole(state['rare'])} less "
        f"than {whole(state['rare_below'])} times, the former included; {whole(state['steps'])} of these are steps on "
        "the way to longer entries.</p>\n"
    )


def _often(step: dict[str, int]) -> str:
    if step["to"] < 0:
        return f"≥{_short(step['from'])}"
    return _short(step["from"]) if step["from"] == step["to"] else f"{_short(step['from'])}–{_short(step['to'] + 1)}"


def _short(value: int) -> str:
    return f"{value // 1000}k" if value >= 1000 else str(value)


def _words(title: str, words: Sequence[str]) -> str:
    if not words:
        return ""
    laid = " ".join(f"<code>{named(word)}</code>" for word in words)
    return f'<h3>{title}</h3>\n<p class="words">{laid}</p>\n'


def _examples(examples: Sequence[dict[str, Any]], rows: Sequence[dict[str, Any]]) -> str:
    ranked = [rows[0]["name"], *(row["name"] for row in sorted(rows[1:], key=lambda row: -_most(row)))]
    laid = '<p class="note">Spaces are shown as ␣, bytes that are no whole character in hex.</p>\n'
    for example in examples:
        shown = [_cut(name, example["cuts"][name], name == ranked[0]) for name in ranked]
        rest = shown[OPEN:]
        folded = f"<details><summary>{len(rest)} more</summary>{''.join(rest)}</details>" if rest else ""
        laid += f'<h3>{text(example["kind"])}</h3>\n<div class="cuts">{"".join(shown[:OPEN])}{folded}</div>\n'
    return laid


def _cut(name: str, tokens: Sequence[Sequence[tuple[str, bool]]], own: bool) -> str:
    spans = ""
    for place, token in enumerate(tokens):
        inner = "".join(text(piece) if known else f"<i>{text(piece)}</i>" for piece, known in token)
        # A place to break a line, for a browser would only do so at spaces, of which there are none.
        spans += f'<span class="t{place % TINTS}">{inner}</span><wbr>'
    label = f"<b>{text(name)}</b>" if own else text(name)
    return f'<div class="cut"><p>{label} <small>{whole(len(tokens))}</small></p><p lang="ko">{spans}</p></div>\n'


def decimal(value: float | None) -> str:
    return NOTHING if value is None else f"{value:.2f}"


def percent(value: float | None) -> str:
    return NOTHING if value is None else share(value, 1) if value else f"0{THIN}%"
