"""The corpus on one page, published beside the shards: what was read, what went and why, and samples of each.

One file that opens anywhere, without scripts. Without texts (AIHub's terms forbid passing them on) it names ids only.
"""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from corpus import excerpts
from corpus.excerpts import Sample
from narae.markup import NOTHING, bar, document, named, share, size, table, text, whole

__all__ = ["Sample", "page"]

LISTED = 50  # unreadable members
COLUMNS = 6  # reasons in the table by source, before the rest is folded
LONGEST_CAUSE = 300  # characters
# Where a cause may begin to quote what it stumbled over. Our own words before it are plain English.
_QUOTED = re.compile(r"""["“‘`«「(\[{:]|(?<!\w)'|[^\x00-\x7f]""")

WITH_TEXT = (
    'This page holds excerpts of the sources, whose licences stand under <a href="#sources">Sources</a>: pass it on '
    "only where all of them allow that."
)
WITHOUT_TEXT = "Texts are left out of this page: samples are given by their ids and lengths."
CHECKED = "Checked in all and for each source: were a sum wrong, the command would have stopped."
COUNTED = (
    "Text that went is counted as it was read, text that stayed as it was written. What could not be read at all is "
    'listed under <a href="#input">Input</a>.'
)


class Amount(NamedTuple):
    documents: int = 0
    bytes: int = 0


def page(name: str, counts: dict[str, Any], samples: Sequence[Sample], with_text: bool) -> str:
    """The whole file. Without `with_text` nothing in it is text of a source, causes that may quote some included."""
    order = [reason for reason, _ in _reasons(counts)] + list(counts.get("sources") or {})
    parts = [
        ("funnel", "From sources to shards", _funnel(counts)),
        ("sources", "Sources", _sources(counts)),
        ("mended", "Mended and masked", _mended(counts)),
        ("input", "Input", _input(counts, with_text)),
        ("samples", "Samples", excerpts.sections(samples, order, with_text)),
    ]
    return document(
        "corpus",
        name,
        _headline(counts),
        WITH_TEXT if with_text else WITHOUT_TEXT,
        parts,
        "python corpus/collect.py",
        Path(__file__).with_suffix(".css"),
    )


def _headline(counts: dict[str, Any]) -> list[tuple[str, str, str]]:
    read, kept = _amount(counts.get("read")), _kept(counts)
    rejected, twice = _total(counts.get("rejected")), _total(counts.get("duplicates"))
    of_text = f"of documents, {share(kept.bytes, read.bytes)} of text"
    return [
        ("Documents read", whole(read.documents), size(read.bytes)),
        ("Documents kept", whole(kept.documents), size(kept.bytes)),
        ("Share kept", share(kept.documents, read.documents), of_text),
        ("Rejected", share(rejected.documents, read.documents), f"{whole(rejected.documents)} documents"),
        ("Duplicates", share(twice.documents, read.documents), f"{whole(twice.documents)} documents"),
        ("Unreadable", whole(len(counts.get("unreadable") or [])), "files and members"),
    ]


def _funnel(counts: dict[str, Any]) -> str:
    read, train, val = (_amount(counts.get(key)) for key in ("read", "train", "val"))
    lost = [(f"rejected: {text(reason)}", amount) for reason, amount in _reasons(counts)]
    lost += [(f"{text(kind)} duplicates", _amount(found)) for kind, found in (counts.get("duplicates") or {}).items()]
    steps = [("read", read, 0, "all")]
    left = read.documents
    for label, amount in lost:
        left -= amount.documents
        steps.append((label, amount, left, "lost"))
    steps += [("train", train, 0, "train"), ("val", val, train.documents, "val")]
    rows = [
        [
            label,
            "−" * (style == "lost") + whole(amount.documents),
            share(amount.documents, read.documents),
            size(amount.bytes),
            share(amount.bytes, read.bytes),
            bar([(start, amount.documents, style)], read.documents),
        ]
        for label, amount, start, style in steps
    ]
    heads = ["", "documents", "of documents", "text", "of text", "what is left of the documents"]
    laid = table("What became of all that was read", heads, rows, "krrrrb", "narrow")
    return (_figure(counts) if read.documents else "") + laid + _accounting(counts)


def _figure(counts: dict[str, Any]) -> str:
    """All that was read as one bar, in documents and in text."""
    twice = counts.get("duplicates") or {}
    parts = {"train": _amount(counts.get("train")), "val": _amount(counts.get("val"))}
    parts |= {f"{kind} duplicates": _amount(twice.get(kind)) for kind in ("near", "exact")}
    parts["rejected"] = _total(counts.get("rejected"))
    drawn = ""
    for unit, label in (("documents", "documents"), ("bytes", "text")):
        lengths = [getattr(amount, unit) for amount in parts.values()]
        total, starts = sum(lengths), [sum(lengths[:place]) for place in range(len(lengths))]
        styles = [part.split()[0] for part in parts]
        said = ", ".join(f"{part} {share(length, total)}" for part, length in zip(parts, lengths, strict=True))
        laid = bar(zip(starts, lengths, styles, strict=True), total)
        drawn += f'<div role="img" aria-label="{label}: {said}"><span>{label}</span>{laid}</div>'
    keys = "".join(
        f"<li>{bar([(0, 1, part.split()[0])], 1)}{part}</li>" for part, amount in parts.items() if amount.documents
    )
    return f'<figure class="whole">{drawn}<ul aria-hidden="true">{keys}</ul></figure>\n'


def _accounting(counts: dict[str, Any]) -> str:
    """The sums written out. The command stops where they do not hold, and this page says so where it did not."""
    read, train, val, changed = (_amount(counts.get(key)) for key in ("read", "train", "val", "cleaned"))
    rejected, twice = _total(counts.get("rejected")), _total(counts.get("duplicates"))
    parts = {"train": train, "val": val, "rejected": rejected, "duplicates": twice}
    lines, checked = "", CHECKED
    for unit in ("documents", "bytes"):
        gain = changed.bytes if unit == "bytes" else 0
        over = getattr(read, unit) + gain - sum(getattr(amount, unit) for amount in parts.values())
        mending = f" {'−' if gain < 0 else '+'} {whole(abs(gain))} by mending" if gain else ""
        found = " + ".join(f"{whole(getattr(amount, unit))} {label}" for label, amount in parts.items())
        lines += f"<li>{unit}: {whole(getattr(read, unit))} read{mending} {'≠' if over else '='} {found}.</li>"
        if over:
            checked = f"<strong>This does not add up: {whole(over)} {unit} are unaccounted for.</strong>"
    return f'<h3>Accounting</h3>\n<ul class="sums">{lines}</ul>\n<p class="note">{checked} {COUNTED}</p>\n'


def _sources(counts: dict[str, Any]) -> str:
    sources: dict[str, dict[str, Any]] = counts.get("sources") or {}
    if not sources:
        return '<p class="missing">No source brought a document.</p>\n'
    rows = [
        [named(source), *_came(entry), f"{entry.get('weight', 1):g}", text(entry.get("licence") or "not given")]
        for source, entry in sources.items()
    ]
    if len(sources) > 1:
        rows.append(["all", *_came(counts), "", ""])
    heads = ["source", "read", "text", "kept", "text kept", "share kept", "rejected", "duplicates", "weight", "licence"]
    style = "wide total" if len(sources) > 1 else "wide"
    return table("Documents and text by source", heads, rows, "krrrrrrrrw", style) + _by_reason(counts)


def _came(entry: dict[str, Any]) -> list[str]:
    """What was read, what of it was kept, what went."""
    read, kept = _amount(entry.get("read")), _kept(entry)
    cells = [whole(read.documents), size(read.bytes), whole(kept.documents), size(kept.bytes)]
    cells.append(share(kept.documents, read.documents))
    return cells + [whole(_total(entry.get(key)).documents) for key in ("rejected", "duplicates")]


def _by_reason(counts: dict[str, Any]) -> str:
    reasons = [reason for reason, _ in _reasons(counts)]
    if not reasons:
        return '<p class="note">No document was rejected.</p>\n'
    # A single reason is not folded: its own name takes no more room than "others".
    top = reasons if len(reasons) <= COLUMNS + 1 else reasons[:COLUMNS]
    rest = reasons[len(top) :]
    rows = []
    for name, entry in (counts.get("sources") or {}).items():
        found = {reason: _amount(amount).documents for reason, amount in (entry.get("rejected") or {}).items()}
        cells = [found.pop(reason, 0) for reason in top]
        rows.append([named(name), *(whole(number) if number else NOTHING for number in cells)])
        if rest:
            rows[-1].append(whole(sum(found.values())) if any(found.values()) else NOTHING)
    heads = ["source", *map(text, top), *([f"{len(rest)} others"] if rest else [])]
    return table("Rejected documents by source and reason", heads, rows, "k" + "r" * (len(heads) - 1), "reasons held")


def _mended(counts: dict[str, Any]) -> str:
    changed, masked = _amount(counts.get("cleaned")), counts.get("masked") or {}
    less = "less" if changed.bytes <= 0 else "more"
    mended = (
        f"<p>Cleaning changed {whole(changed.documents)} of {whole(_kept(counts).documents)} kept documents; "
        f"their text became {size(abs(changed.bytes))} {less}.</p>\n"
    )
    if not any(masked.values()):
        return mended + "<p>No personal data was found to mask.</p>\n"
    rows = [[named(kind), whole(number)] for kind, number in masked.items()]
    return mended + table("Personal data masked", ["placeholder", "times"], rows, "kr", "fit")


def _input(counts: dict[str, Any], with_text: bool) -> str:
    rows = []
    for kind, met in (counts.get("formats") or {}).items():
        others = {key: value for key, value in met.items() if key not in ("members", "documents")}
        variants = ", ".join(
            f"{text(key)} {whole(value) if isinstance(value, int) else text(value)}" for key, value in others.items()
        )
        rows.append([text(kind), whole(met.get("members", 0)), whole(met.get("documents", 0)), variants or NOTHING])
    laid = table("Formats that were met", ["format", "members", "documents", "variants"], rows, "krrw", "middle")
    unreadable: list[dict[str, Any]] = counts.get("unreadable") or []
    if not unreadable:
        return (laid if rows else "") + "<p>Everything could be read.</p>\n"
    rows = [
        [
            named(entry.get("archive") or NOTHING),
            named(entry.get("member") or NOTHING),
            text(_cause(str(entry.get("cause") or NOTHING), with_text), LONGEST_CAUSE),
            size(entry["bytes"]) if entry.get("bytes") else NOTHING,
        ]
        for entry in unreadable[:LISTED]
    ]
    laid += table("Unreadable, left out", ["archive", "member", "cause", "size"], rows, "wwwr", "middle")
    more = len(unreadable) - LISTED
    return laid + (f'<p class="note">And {whole(more)} more, all listed in manifest.json.</p>\n' if more > 0 else "")


def _cause(cause: str, with_text: bool) -> str:
    quoted = None if with_text else _QUOTED.search(cause)
    return cause[: quoted.start()].rstrip() + " …" if quoted else cause


def _amount(found: Any) -> Amount:
    return Amount(found.get("documents", 0), found.get("bytes", 0)) if isinstance(found, dict) else Amount(found or 0)


def _total(found: dict[str, Any] | None) -> Amount:
    amounts = [_amount(one) for one in (found or {}).values()]
    return Amount(sum(one.documents for one in amounts), sum(one.bytes for one in amounts))


def _kept(entry: dict[str, Any]) -> Amount:
    return _total({key: entry.get(key) for key in ("train", "val")})


def _reasons(counts: dict[str, Any]) -> list[tuple[str, Amount]]:
    """The most frequent first."""
    found = [(reason, _amount(amount)) for reason, amount in (counts.get("rejected") or {}).items()]
    return sorted(found, key=lambda one: (-one[1].documents, one[0]))
