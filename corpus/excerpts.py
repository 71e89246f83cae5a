"""Samples of what became of documents, for the page about a corpus."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from corpus.explain import Pieces, differences
from narae.markup import named, share, text, whole

EXCERPT = 300  # characters of a sample
LINES = 10  # of an excerpt: short lines would fill the page
CONTEXT = 40  # characters that stay beside what is marked
COMPARED = 20_000  # characters of each text: in books, what shows a difference stands far before
SHOWN = 5  # samples of a kind and a reason, or a source
SHARED = 15  # characters: a shorter run in common with a benchmark is chance
KINDS = {
    "rejected": ("Rejected", ""),
    "near duplicate": ("Near duplicates", "What differs is marked; equal stretches are cut short."),
    "exact duplicate": ("Exact duplicates", ""),
    "benchmark": ("Parts of benchmarks", "What a document shares with a benchmark is marked."),
    "kept": ("Kept", ""),
}
_BLANK = re.compile(r"\s*\n\s*\n\s*")


@dataclass
class Sample:
    """A document to show. `other_*`: what it repeats, or the benchmark entry that it holds a part of.

    `length`: characters of the document where `text` is only its beginning.
    """

    kind: str  # one of KINDS
    reason: str
    source: str
    id: str
    text: str
    other_id: str = ""
    other_text: str = ""
    similarity: float = 0.0
    length: int = 0
    other_length: int = 0


def sections(samples: Sequence[Sample], order: Sequence[str], with_text: bool) -> str:
    """By kind, and within it by reason or source in the given order."""
    laid = ""
    for kind, (title, note) in KINDS.items():
        groups: dict[str, list[Sample]] = {}
        for sample in samples:
            if sample.kind == kind:
                groups.setdefault(sample.reason if kind == "rejected" else sample.source, []).append(sample)
        note = f'<p class="note">{note}</p>\n' if note and with_text else ""
        for group in sorted(groups, key=lambda one: order.index(one) if one in order else len(order)):
            every = max(1, len(groups[group]) // SHOWN)  # those of one reason come source by source
            items = "".join(f"<li>{_item(sample, with_text)}</li>\n" for sample in groups[group][::every][:SHOWN])
            laid += f'<h3>{title}: {named(group)}</h3>\n{note}<ul class="samples">\n{items}</ul>\n'
            note = ""
    return laid or '<p class="missing">No samples were taken.</p>\n'


def _item(sample: Sample, with_text: bool) -> str:
    label = _label(sample.id, sample.length or len(sample.text))
    if not sample.other_id:
        return f"<p>{label}</p>" + (_quote(_head(sample)) if with_text else "")
    alike = f", {share(sample.similarity, 1)} alike" if sample.kind == "near duplicate" else ""
    label += f"{alike}, {'holds a part of' if sample.kind == 'benchmark' else 'repeats'}"
    other = _label(sample.other_id, sample.other_length or len(sample.other_text))
    if not with_text:
        return f"<p>{label} {other}</p>"
    if sample.other_text in ("", sample.text):
        return f"<p>{label} {other}</p>{_quote(_head(sample))}"
    pieces = differences(sample.text[:COMPARED], sample.other_text[:COMPARED])
    left, right = (_quote(_marked(pieces, side, shared=sample.kind == "benchmark")) for side in (0, 1))
    return f'<div class="pair"><div><p>{label}</p>{left}</div><div><p>{other}</p>{right}</div></div>'


def _label(document: str, length: int) -> str:
    return f"<code>{named(document)}</code>" + (f" ({whole(length)} characters)" if length else "")


def _marked(pieces: Pieces, side: int, shared: bool) -> str:
    """One of two texts around what is marked in it: what it shares with the other, or what it does not."""
    laid, room = "", EXCERPT
    for place, piece in enumerate(pieces):
        words, same = piece[side], piece[0] == piece[1]
        if room <= 1:
            return laid + " …"
        if (same and len(words) >= SHARED) if shared else not same:
            laid += f"<mark>{text(words, room)}</mark>" if words else ""
        else:
            words = _around(words, first=place == 0, last=place == len(pieces) - 1)
            laid += text(words, room)
        room -= len(words)
    return laid


def _around(words: str, first: bool, last: bool) -> str:
    """What stands beside a mark: its near ends."""
    before, after = (0 if first and not last else CONTEXT), (0 if last and not first else CONTEXT)
    if len(words) <= before + after:
        return words
    return words[:before] + "…" + words[len(words) - after :]


def _head(sample: Sample) -> str:
    lines = _BLANK.sub("\n\n", sample.text[:EXCERPT].strip()).split("\n")
    cut = max(len(sample.text), sample.length) > EXCERPT or len(lines) > LINES
    return text("\n".join(lines[:LINES]) + ("…" if cut else ""))


def _quote(inner: str) -> str:
    return f'<blockquote lang="ko">{inner}</blockquote>'
