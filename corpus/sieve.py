"""Which documents and lines of a batch cleaning has to look at: one pass of numpy over all characters, laid end to end.

Every answer may name too many, never too few: what is not named comes out of the step as it went in. So the steps stay
plain functions of a string that most strings never meet.
"""

import functools
import itertools
import operator

import numpy as np
import numpy.typing as npt

from corpus import boilerplate, privacy
from corpus.characters import plain

Places = npt.NDArray[np.int64]
Halves = npt.NDArray[np.uint16]

# What a character may be part of. Those of the first line are few.
_ODD, _MARK, _DIGIT, _SIGN, _HINT = (1 << bit for bit in range(5))
_GAP, _LETTER, _REPEATED = (1 << bit for bit in range(5, 8))
_FEW = _ODD | _MARK | _DIGIT | _SIGN | _HINT
_SPACE, _BREAK, _PICTURE = ord(" "), ord("\n"), 0xFE0F  # U+FE0F makes ❤ a picture


@functools.cache
def _kinds() -> npt.NDArray[np.uint8]:
    """For every code point."""
    kinds = np.full(0x110000, _ODD, np.uint8)
    kinds[plain()] = 0
    hints = "".join(pair for pair in boilerplate.PAIRS if len(pair) == 1)
    letters = "".join(filter(str.isalpha, map(chr, range(128))))
    for characters, kind in (
        ("<&", _MARK), ("0123456789", _DIGIT), ("/@wW", _SIGN), (hints, _HINT), (privacy.BETWEEN, _GAP),
        (letters, _LETTER),
    ):  # fmt: skip
        kinds[list(map(ord, characters))] |= kind
    # Never collapsed: letters, syllables, digits, spaces, headings and fences.
    often = np.ones(0x110000, np.bool_)
    often[list(map(ord, f"{letters}0123456789 \n#`()[]{{}}\\"))] = False
    often[0xAC00:0xD7A4] = often[0x3400:0xA000] = False
    kinds[often] |= _REPEATED
    return kinds


@functools.cache
def _pairs() -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.uint32], npt.NDArray[np.int64]]:
    """Which hashes boilerplate's pairs of characters have; the pairs in order, and the bits of their rules."""
    pairs = sorted(pair for pair in boilerplate.PAIRS if len(pair) == 2)
    codes = np.array([[ord(sign) for sign in pair] for pair in pairs], np.uint16)
    hashes = np.zeros(1 << 16, np.bool_)
    hashes[[int(_hashed(pair)[0]) for pair in codes]] = True
    return hashes, _joined(codes[:, 0], codes[:, 1]), np.array([boilerplate.PAIRS[pair] for pair in pairs])


def _joined(first: Halves, second: Halves) -> npt.NDArray[np.uint32]:
    return first.astype(np.uint32) << np.uint32(16) | second


def _hashed(halves: Halves) -> Halves:
    return halves[:-1] * np.uint16(0x9E37) + halves[1:] * np.uint16(0x79B1)


class Sieve:
    def __init__(self, texts: list[str]):
        self.whole = "\n".join(texts) + "\n"
        codes = np.frombuffer(self.whole.encode("utf-32-le", "surrogatepass"), np.uint32)
        self.kinds = np.take(_kinds(), codes, mode="clip")
        # The lower halves tell enough from here on, at half the width.
        self.codes = codes.view(np.uint16)[::2].copy()
        self.breaks = np.flatnonzero(codes == _BREAK)  # the ends of lines
        self.ends = np.cumsum(np.fromiter(map(len, texts), np.int64, len(texts)) + 1) - 1  # of documents
        self.few = np.flatnonzero((self.kinds & _FEW) != 0)
        self.few_kinds = self.kinds[self.few]
        self.few_after = self.kinds[self.few + 1]  # a line break is behind everything

    def rough(self) -> Places:
        """Documents that may hold odd characters or markup."""
        marks = self._few(_MARK)
        after = self.codes[marks + 1]
        begun = (self.kinds[marks + 1] & _LETTER != 0) | (after == ord("/")) | (after == ord("!")) | (after == ord("#"))
        return np.unique(np.searchsorted(self.ends, np.concatenate((self._few(_ODD), marks[begun]))))

    def boilerplate(self) -> tuple[Places, Places]:
        """Lines that may be some, and the bits of the rules that they may fall under."""
        hashes, pairs, bits = _pairs()
        hits = np.flatnonzero(np.take(hashes, _hashed(self.codes), mode="clip"))
        held = _joined(self.codes[hits], self.codes[hits + 1])
        which = np.minimum(np.searchsorted(pairs, held), len(pairs) - 1)
        sure = pairs[which] == held
        signs = self._few(_HINT)
        places = np.concatenate((hits[sure], signs))
        rules = np.concatenate((bits[which[sure]], np.full(len(signs), boilerplate.PAIRS["ⓒ"])))
        owners = np.searchsorted(self.breaks, places)
        order = np.argsort(owners, kind="stable")
        lines, firsts = np.unique(owners[order], return_index=True)
        short = self.breaks[lines] - self._begins(lines) <= boilerplate.LONGEST
        return lines[short], np.bitwise_or.reduceat(rules[order], firsts)[short] if len(lines) else lines

    def spaces(self) -> Places:
        """Lines with two spaces in a row, indents aside, or one at the end."""
        spaces = self.codes == _SPACE
        found = np.flatnonzero(spaces[:-1] & (spaces[1:] | (self.codes[1:] == _BREAK)))
        before = self.codes[np.maximum(found - 1, 0)]
        inner = (before != _SPACE) & (before != _BREAK) & (found > 0)
        return self._lines(found[inner | (self.codes[found + 1] == _BREAK)])

    def addresses(self) -> Places:
        """Lines that may hold a link or a mail address."""
        signs = self._few(_SIGN)
        sign, before, after = self.codes[signs], self.codes[np.maximum(signs - 1, 0)], self.kinds[signs + 1]
        path = (sign == ord("/")) & ((before == ord(":")) | (self.kinds[np.maximum(signs - 1, 0)] & _LETTER != 0))
        mail = (sign == ord("@")) & (after & (_LETTER | _DIGIT | _GAP) != 0)
        w = (sign | 32 == ord("w")) & (before | 32 == ord("w")) & (self.codes[signs + 1] == ord("."))
        return self._lines(signs[path | mail | w])

    def numbers(self) -> Places:
        """Lines with as many digits as a number has, and no more between them than such numbers have; or passports."""
        digits, run = self._few(_DIGIT), privacy.DIGITS - 1
        steps = np.diff(digits)
        near = steps <= privacy.GAP + 1
        for gap in range(1, privacy.GAP + 1):
            near &= (steps <= gap) | (self.kinds[digits[:-1] + np.minimum(gap, steps)] & _GAP != 0)
        count = np.concatenate(([0], np.cumsum(near)))
        passports = np.flatnonzero((self.codes[:-1] == ord("여")) & (self.codes[1:] == ord("권")))
        return self._lines(digits[: max(0, len(digits) - run)][count[run:] - count[:-run] == run], passports)

    def repeats(self) -> Places:
        """Lines with the same sign four times in a row."""
        same = self.codes[1:] == self.codes[:-1]
        found = np.flatnonzero(same[2:] & same[1:-1] & same[:-2])
        found = found[self.kinds[found] & _REPEATED != 0]
        pictures = np.flatnonzero(self.codes == _PICTURE)
        return self._lines(found, pictures[3:][pictures[3:] - pictures[:-3] == 6])

    def _few(self, kind: int) -> Places:
        return self.few[self.few_kinds & kind != 0]

    def _lines(self, *places: Places) -> Places:
        return np.unique(np.searchsorted(self.breaks, np.concatenate(places)))

    def lines(self, which: Places) -> list[str]:
        places = zip(self._begins(which).tolist(), self.breaks[which].tolist(), strict=True)
        return [self.whole[begin:end] for begin, end in places]

    def rebuilt(self, changed: dict[int, str], gone: set[int]) -> dict[int, str]:
        """Documents with lines that have become others, or have gone; none with spaces or line breaks at its ends."""
        which = np.array(sorted({*changed, *gone}), np.int64)
        owners = np.searchsorted(self.ends, self.breaks[which])
        rows = np.stack((owners, which, self._begins(which), self.breaks[which]), 1).tolist()
        documents = {}
        for owner, lines in itertools.groupby(rows, key=operator.itemgetter(0)):
            pieces, place = [], self._start(owner)
            for _, number, begin, end in lines:
                pieces.append(self.whole[place:begin])
                if number in gone:
                    place = end + 1
                else:
                    pieces.append(changed[number])
                    place = end
            pieces.append(self.whole[place : self.ends[owner]])
            documents[owner] = "".join(pieces).strip(" \n")
        for owner in self._edges().tolist():
            if owner not in documents:
                documents[owner] = self.whole[self._start(owner) : self.ends[owner]].strip(" \n")
        return documents

    def _edges(self) -> Places:
        """Documents that begin or end with a space or a line break."""
        first = self.codes[np.concatenate(([0], self.ends[:-1] + 1))]
        last = self.codes[np.maximum(self.ends - 1, 0)]
        return np.flatnonzero((first == _SPACE) | (first == _BREAK) | (last == _SPACE) | (last == _BREAK))

    def _start(self, document: int) -> int:
        return int(self.ends[document - 1]) + 1 if document else 0

    def _begins(self, lines: Places) -> Places:
        return np.where(lines > 0, self.breaks[lines - 1] + 1, 0)
