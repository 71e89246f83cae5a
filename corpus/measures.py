"""What can be measured on Korean documents, a whole batch in one pass: numpy over the code points laid end to end."""

import functools
import re
import string
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]

# Three hearts in a short review are no reason: so many symbols, jamo or signs of code are free.
FREE = 10
# Shares of lines mean little in fewer lines; in so many characters a sentence ends somewhere.
FEW_LINES, LONG = 4, 200
# Shorter lines (`네.`) repeat in any talk.
UNIT = 10
NGRAM = 5
# Eojeol; an unpunctuated petition has a verb's ending in ten.
SENTENCE = 25
# Above this share of Hangul no line is code: prose has .85 and more, a log with Korean messages under .6.
PROSE = 0.6

# What a character is; 0 for letters of other scripts, digits and usual punctuation.
SYLLABLE, SPACE, BREAK, RARE, JAMO, SYMBOL, CODE, PERHAPS, LOST = (1 << bit for bit in range(9))
# What it means where a line or a sentence begins or ends.
BULLET, MARK, STOP, ENDING, VERB, DOT, DIGIT, NAME, BRACE, OPENING = (1 << bit for bit in range(10))

_CODE_LINE = re.compile(
    # Logs and stack traces: a time with seconds, a level, the name of an exception, a place in a file, who asked.
    r"\W{0,3}(?:(?:\d{2,4}[-/.]\d\d[-/.]\d\d[T ]{1,2}|[A-Z][a-z]{2} +\d\d? )?\d\d:\d\d:\d\d\b"
    r"|(?:[\d/.:-]+\s+)*\W?(?:ERROR|WARN(?:ING)?|INFO|DEBUG|FATAL|TRACE|SEVERE|CRITICAL|Traceback|Caused by)\b"
    r"|at [\w.$<>]+\(|File \"|(?:[a-z]\w*\.)*[A-Z]\w*(?:Exception|Error)\b)|[\w./-]+\.\w{1,4}:\d+:|(?:\d+\.){3}\d+ - "
    # Program code: what a statement begins with, an assignment, a call that fills the line; SQL, JSON, XML.
    r"|(?:if|for|while|switch|catch) ?\(|(?:import|from|using|package|def|class|function|const|let|var) [\w.{]+"
    r"|(?:public|private|protected|static|void|int|String) \w+|echo [\"'$]"
    r"|(?:return|try|else|finally|print|exit|fi|done)\b[\x20-\x7e]*$"
    r"|[A-Za-z_][\w.\[\]'\"]* *[-+*/]?= *\S|[a-z_][\w.]*\(.*\)[:;{]?$"
    r"|(?:SELECT|INSERT|UPDATE|DELETE|CREATE|FROM|WHERE|(?:INNER |LEFT )?JOIN|GROUP BY|HAVING|ORDER BY|VALUES)\b"
    r"|[\[{ ]*\"[^\"]{1,40}\" ?:|</?[A-Za-z][\w:.-]*[^<>]*>"
)


@functools.cache
def _tables() -> tuple[Array, Array]:
    """For every code point what it is, and what it means at an edge."""
    everything = "".join(map(chr, range(0x110000)))
    kinds = np.full(0x110000, SYMBOL, np.uint16)
    for pattern, kind in ((r"[\w!-~…·ㆍ‘’“”「」『』《》〈〉–—―∼、。°℃×÷±]+", 0), (r"\s+", SPACE)):
        for found in re.finditer(pattern, everything):
            kinds[found.start() : found.end()] = kind
    for first, last in ((0x1100, 0x1200), (0x3131, 0x318D), (0xA960, 0xA980), (0xD7B0, 0xD800)):
        kinds[first:last] = JAMO
    for first, last in ((0x300, 0x370), (0xFE00, 0xFE10)):  # they belong to the character before
        kinds[first:last] = 0
    # KS X 1001 has the 2,350 syllables of Korean words; the other 8,822 are what wrong decoding makes.
    common = bytes(byte for lead in range(0xB0, 0xC9) for trail in range(0xA1, 0xFF) for byte in (lead, trail))
    kinds[0xAC00:0xD7A4] = RARE
    for characters, kind in (
        (common.decode("euc_kr"), SYLLABLE),
        ("\n", BREAK),
        ("\ufffd", LOST),
        ("{}[]<>=", CODE),  # not $ and \: formulas would suffer
        ("();:_-#", PERHAPS),
    ):
        kinds[list(map(ord, characters))] = kind
    edges = np.zeros(0x110000, np.uint16)
    for characters, kind in (
        ("•·∙ㆍ‧◦○●◎□■◆◇▪▫◾◽▶▷►▸▹✓✔", BULLET),
        ("-*+", MARK),  # a bullet where a space follows
        (".!?。", STOP),
        (".!?。…\"'’”」』》〉)~^ㅋㅎㅠㅜ다요죠까네음함임됨오", ENDING),
        ("다요라", VERB),  # in an eojeol of three syllables or more: not 개요, 필요, 나라
        (".…⋯‥·", DOT),
        ("0123456789", DIGIT),
        (string.ascii_letters + string.digits + "_", NAME),
        ('[({<"', OPENING),
        (";{}", BRACE),
    ):
        edges[list(map(ord, characters))] |= kind
    return kinds, edges


@functools.lru_cache(maxsize=2)
def _powers(size: int) -> Array:
    """Powers of an odd number, modulo 2 ** 64."""
    return np.cumprod(np.full(size, 0x9E3779B97F4A7C15, np.uint64))


class Batch:
    """Documents laid end to end, a line break behind each: no figure of a document depends on its neighbours."""

    def __init__(self, texts: list[str]):
        kinds, self.edges = _tables()
        self.size = len(texts)
        self.text = "\n".join(texts) + "\n"
        self.codes = np.frombuffer(self.text.encode("utf-32-le", "surrogatepass"), np.uint32)
        self.kinds = np.take(kinds, self.codes, mode="clip")
        self.length = np.fromiter(map(len, texts), np.int64, self.size)
        self.ends = np.cumsum(self.length + 1)
        # Two characters of three are syllables. These are the others; the spaces among them; and the few that count.
        others = np.flatnonzero(self.kinds != SYLLABLE)
        found = self.kinds[others]
        self.spaces = others[found & (SPACE | BREAK) != 0]
        self.signs = others[found > BREAK]
        self.owners = np.searchsorted(self.ends, self.signs, side="right")
        self.solid = self.length + 1 - self.among(self.spaces)
        self.syllables = self.length + 1 - self.among(others)

    def among(self, places: Array) -> Array:
        """How many of the places, which are in order, lie in each document."""
        return np.diff(np.searchsorted(places, self.ends), prepend=0)

    def sum(self, owners: Array, weights: Array) -> Array:
        return np.bincount(owners, weights, self.size)

    def kind(self, kind: int) -> Array:
        return self.kinds[self.signs] & kind != 0

    def share(self, weights: Array) -> Array:
        """Of the signs, in the characters that are no spaces."""
        count = self.sum(self.owners, weights)
        return np.where(count > FREE, count, 0) / np.maximum(self.solid, 1)

    def edge(self, places: Array, kind: int) -> Array:
        return self.edges[self.codes[places]] & kind != 0

    @functools.cached_property
    def words(self) -> tuple[Array, Array, Array, Array]:
        """The eojeol: where each begins and ends, its document, its line."""
        begins = np.append(0, self.spaces[:-1] + 1)
        breaks = self.kinds[self.spaces] == BREAK
        lines = np.cumsum(breaks) - breaks
        real = begins < self.spaces
        begins, ends, lines = begins[real], self.spaces[real], lines[real]
        return begins, ends, np.repeat(np.arange(self.size), self.among(begins)), lines

    @functools.cached_property
    def lines(self) -> tuple[Array, Array, Array]:
        """The lines that are not blank: where each begins and ends, its document."""
        begins, ends, owners, lines = self.words
        first = np.diff(lines, prepend=-1) != 0
        return begins[first], ends[np.roll(first, -1)], owners[first]

    @functools.cached_property
    def units(self) -> tuple[Array, Array, Array, Array]:
        """The lines, and the sentences in them: where each begins and ends, its document, its first word's number."""
        begins, ends, owners, lines = self.words
        first = np.diff(lines, prepend=-1) != 0
        first[1:] |= self.edge(ends[:-1] - 1, STOP)
        return begins[first], ends[np.roll(first, -1)], owners[first], np.flatnonzero(first)

    @functools.cached_property
    def sums(self) -> Array:
        sums = np.zeros(len(self.codes) + 1, np.uint64)
        np.cumsum(self.codes * self.powers[: len(self.codes)], out=sums[1:])
        return sums

    @property
    def powers(self) -> Array:
        return _powers(max(1 << 19, 1 << len(self.codes).bit_length()))

    def hashes(self, begins: Array, ends: Array) -> Array:
        """Equal for equal pieces of text: their polynomials, shifted to one place."""
        return (self.sums[ends] - self.sums[begins]) * self.powers[len(self.codes) - begins]


def stood_before(keys: Array) -> Array:
    """Which keys stand earlier in the array as well: 0.5 ms for 56,000 of them, where sorting takes 0.8 to 3.6."""
    before = np.zeros(len(keys), bool)
    left = np.arange(len(keys))
    factor = 0xD6E8FEB86659FD93
    while len(keys):
        bits = max(10, len(keys).bit_length() + 2)
        slots = (keys * np.uint64(factor) >> np.uint64(64 - bits)).astype(np.intp)
        numbers = np.arange(len(keys), dtype=np.int32)
        table = np.empty(1 << bits, np.int32)
        table[slots[::-1]] = numbers[::-1]  # what is written last stays: the first that has this slot
        first = table[slots]
        others = np.flatnonzero(first != numbers)
        same = keys[first[others]] == keys[others]
        before[left[others[same]]] = True
        keys, left = keys[others[~same]], left[others[~same]]  # their slot was taken: another table
        factor = factor * 0x9E3779B97F4A7C15 % 2**64
    return before


def _of_document(hashes: Array, owners: Array) -> Array:
    """Another key in every document. Two that differ meet in one key once in 2 ** 64 pairs."""
    return hashes + owners.astype(np.uint64) * np.uint64(0xA0761D6478BD642F)


def _code(batch: Batch) -> Array:
    """{}[]<>=, a line's last ; and () :: -> name_with_underscores. Not ^ * | / #: emoticons, tables, lists."""
    signs, codes = batch.signs, batch.codes
    weights = batch.kind(CODE).astype(np.int64)
    perhaps = np.flatnonzero(batch.kind(PERHAPS))
    here, before, after = (codes[signs[perhaps] + shift] for shift in (0, -1, 1))
    for sign, follower, weight in (";\n1", "()2", "::2", "->1"):
        weights[perhaps[(here == ord(sign)) & (after == ord(follower))]] = int(weight)
    names = [batch.edges[neighbours] & NAME != 0 for neighbours in (before, after)]
    weights[perhaps[(here == ord("_")) & names[0] & names[1]]] = 3
    return batch.share(weights)


def _code_lines(batch: Batch) -> Array:
    begins, ends, owners = batch.lines
    code = batch.edge(ends - 1, BRACE)
    suspect = (_hangul(batch) < PROSE)[owners]
    for number in np.flatnonzero(suspect & ~code & batch.edge(begins, NAME | OPENING)):
        line = batch.text[begins[number] : min(begins[number] + 100, ends[number])]
        code[number] = _CODE_LINE.match(line) is not None
    return _share_of_lines(batch, code & suspect)


def _share_of_lines(batch: Batch, which: Array, few: int = 1) -> Array:
    owners = batch.lines[2]
    lines = np.bincount(owners, minlength=batch.size)
    return np.where(lines < few, 0, batch.sum(owners, which) / np.maximum(lines, 1))


def _symbols(batch: Batch) -> Array:
    hashtags = (batch.codes[batch.signs] == ord("#")) & (batch.kinds[batch.signs + 1] == SYLLABLE)
    return batch.share(batch.kind(SYMBOL) | hashtags)


def _hangul(batch: Batch) -> Array:
    return (batch.syllables + batch.sum(batch.owners, batch.kind(RARE | JAMO))) / np.maximum(batch.solid, 1)


def _eojeol(batch: Batch) -> Array:
    return batch.solid / np.maximum(batch.among(batch.words[0]), 1)


def _bullets(batch: Batch) -> Array:
    begins = batch.lines[0]
    spaced = batch.kinds[begins + 1] & (SPACE | BREAK) != 0
    return _share_of_lines(batch, batch.edge(begins, BULLET) | (batch.edge(begins, MARK) & spaced), FEW_LINES)


def _ellipsis(batch: Batch) -> Array:
    begins, ends, _ = batch.lines
    last = ends - 1
    for _ in range(5):  # over the page number behind the dots of a table of contents
        last = last - ((batch.edge(last, DIGIT) | (batch.kinds[last] == SPACE)) & (last > begins))
    dots = batch.edge(last, DOT) & batch.edge(last - 1, DOT) & batch.edge(last - 2, DOT) & (last >= begins + 2)
    return _share_of_lines(batch, dots | (batch.codes[last] == ord("…")), FEW_LINES)


def _lines_ending(batch: Batch) -> Array:
    """A line that runs on without full stops counts as well, where an eojeol in SENTENCE ends like a verb."""
    _, ends, owners, first = batch.units
    word_begins, word_ends, _, _ = batch.words
    ended = batch.edge(ends - 1, ENDING)
    if len(first):
        verbs = batch.edge(word_ends - 1, VERB) & (word_ends - word_begins > 2)
        ended |= np.add.reduceat(verbs, first, dtype=np.int64) * SENTENCE > np.diff(first, append=len(verbs))
    share = batch.sum(owners, ended) / np.maximum(np.bincount(owners, minlength=batch.size), 1)
    return np.where(batch.length < LONG, 1, share)


def _repeated_lines(batch: Batch) -> Array:
    begins, ends, owners, _ = batch.units
    long = ends - begins >= UNIT
    begins, ends, owners = begins[long], ends[long], owners[long]
    again = stood_before(_of_document(batch.hashes(begins, ends), owners))
    share = batch.sum(owners, (ends - begins) * again) / np.maximum(batch.sum(owners, ends - begins), 1)
    return np.where(np.bincount(owners, minlength=batch.size) < FEW_LINES, 0, share)


def _repeated_ngrams(batch: Batch) -> Array:
    begins, ends, owners, _ = batch.words
    hashes = batch.hashes(begins, ends)
    count = max(len(hashes) - NGRAM + 1, 0)
    grams = np.zeros(count, np.uint64)
    for place in range(NGRAM):
        grams = grams * np.uint64(0xC2B2AE3D27D4EB4F) + hashes[place : place + count]
    inside = np.flatnonzero(owners[:count] == owners[len(owners) - count :])
    again = inside[stood_before(_of_document(grams[inside], owners[inside]))]
    covered = np.zeros(len(hashes), bool)
    for place in range(NGRAM):
        covered[again + place] = True
    return batch.sum(owners[covered], (ends - begins)[covered]) / np.maximum(batch.solid, 1)


MEASURES: dict[str, Callable[[Batch], Array]] = {
    "chars": lambda batch: np.where(batch.solid > 0, batch.length, 0),
    "undecodable": lambda batch: batch.sum(batch.owners, batch.kind(LOST)) / np.maximum(batch.solid, 1),
    "rare": lambda batch: batch.share(batch.kind(RARE)),
    "code": _code,
    "code_lines": _code_lines,
    "symbols": _symbols,
    "hangul": _hangul,
    "jamo": lambda batch: batch.share(batch.kind(JAMO)),
    "eojeol": _eojeol,
    "bullets": _bullets,
    "ellipsis": _ellipsis,
    "lines_ending": _lines_ending,
    "repeated_lines": _repeated_lines,
    "repeated_ngrams": _repeated_ngrams,
}
