"""JSON too large to be held whole: the records of its one long list, one after another.

AIHub ships a member as one object with one list of records, up to 2 GB of it. `json` parses each record where it lies
in a buffer that is refilled, so memory holds one record and a chunk, at the speed of json.loads on the whole
(653-shaped, 10 MB of UTF-8: 1.2 times it, because less memory is touched).
"""

import codecs
import io
import json
import re
from collections.abc import Iterator
from typing import Any

from corpus.plain import HEAD, encoding_of
from corpus.zips import UnreadableError

CHUNK = 1 << 18  # bytes; neither 64 KiB nor 1 MiB is faster
# Characters of one record. A book of a million words has four million; of the worst JSON, [{},{},…], that is 0.8 GB.
LARGEST = 16 << 20
LONGEST_TOKEN = 16  # characters: with so many more, -Infinity or \ud83d\ude00 is no longer cut in two
# Of what stands beside the list: so many keys, and so many characters of each. A dialogue's speakers are less.
KEYS, BESIDE = 100, 1 << 16
DEEPEST = 40  # levels that may tell a schema
_SPACE = re.compile(r"[ \t\r\n]*").match
# A string with what makes it a key, up to the end of the text where it is cut off; or a bracket.
_TOKEN = re.compile(r'"([^"\\]*(?:\\.[^"\\]*)*)(?:"(\s*:)?|\\?\Z)|[{}\[\]]', re.DOTALL)


class OtherShapeError(UnreadableError):
    """JSON, or no JSON at all, that has no list where one was expected."""


def _whole(digits: str) -> int | float:
    """Python refuses to read an integer of more than 4,300 digits; no text depends on its value."""
    return int(digits) if len(digits) < 4000 else float(digits)


# Not strict: a bare newline or tab inside a string is against the standard, and harmless.
_scan = json.JSONDecoder(strict=False, parse_int=_whole).scan_once  # type: ignore[attr-defined]


class BigJson:
    """A JSON text, read once from front to back. `outer`: what stood beside the list, as far as it was read."""

    def __init__(self, stream: io.BufferedReader):
        self.stream = stream
        # What cannot be decoded becomes U+FFFD, which cleaning rejects: it costs a document, not the member.
        self.decoder = codecs.getincrementaldecoder(encoding_of(stream.peek(HEAD)[:HEAD]))("replace")
        self.text, self.at = "", 0  # the buffer, and how far it is read
        self.before = 0  # characters that the buffer has left behind
        self.ended = self.found = False
        self.outer: dict[str, Any] = {}

    def records(self, *path: str) -> Iterator[Any]:
        """The elements of the list below these keys, or the one value that is there in place of a list.

        Several JSON values one after another, as on the lines of a jsonl file, are read one after another.
        """
        if not (first := self._next()):
            raise UnreadableError("empty")
        if first not in "{[":
            raise OtherShapeError(f"no JSON: it begins with {self.text[self.at : self.at + 20]!r}")
        while self._next():
            yield from self._below(path)
        if not self.found:
            keys = ", ".join(repr(key[:40]) for key in list(self.outer)[:10])
            raise OtherShapeError(f"no {'.'.join(path)} in it, but {keys or ('a list' if first == '[' else 'nothing')}")

    def _below(self, path: tuple[str, ...]) -> Iterator[Any]:
        first = self._next()
        if path and first == "{":
            yield from self._object(path)
        elif path:
            self._skip()
        else:
            self.found = True
            if first == "[":
                yield from self._list()
            elif (value := self._value()) is not None:
                yield value

    def _object(self, path: tuple[str, ...]) -> Iterator[Any]:
        self.at += 1
        going = self._next() != "}"
        while going:
            key = self._value()
            if not isinstance(key, str) or self._next() != ":":
                raise self._invalid(self.at, "a key and a colon were expected")
            self.at += 1
            if key == path[0]:
                yield from self._below(path[1:])
            else:
                value = self._skip()
                if len(self.outer) < KEYS:
                    self.outer[key] = value
            going = self._goes_on("}")
        self.at += 1

    def _list(self) -> Iterator[Any]:
        self.at += 1
        going = self._next() != "]"
        while going:
            yield self._value()
            going = self._goes_on("]")
        self.at += 1

    def _skip(self) -> Any:
        """A value that is not looked for: of a list the first elements, of others the whole, if it is small."""
        end = self.before + self.at + BESIDE
        if self._next() != "[":
            value = self._value()
            return value if self.before + self.at <= end else None
        return [value for value in self._list() if self.before + self.at <= end]

    def _goes_on(self, close: str) -> bool:
        """Behind a value: whether another one follows."""
        character = self._next()
        if character == ",":
            self.at += 1
        elif character != close:
            raise self._invalid(self.at, f"',' or '{close}' was expected")
        return character == ","

    def _next(self) -> str:
        """The next character that is no space; "" at the end."""
        while True:
            self.at = _SPACE(self.text, self.at).end()  # type: ignore[union-attr]
            if self.at < len(self.text):
                return self.text[self.at]
            if self.ended:
                return ""
            self._refill()

    def _value(self) -> Any:
        self._next()
        failed: tuple[int, str] | None = None
        while True:
            try:
                value, end = _scan(self.text, self.at)
                # A number that ends with the buffer may go on behind it: 1|2, 1|.5, 1|e+5.
                if end + 2 < len(self.text) or self.ended:
                    self.at = end
                    return value
                failure = (end - self.at, "")
            except StopIteration as stop:
                failure = (stop.value - self.at, "a value was expected")
            except json.JSONDecodeError as error:
                failure = (error.pos - self.at, error.msg)
            except RecursionError:
                raise UnreadableError(f"JSON nested too deeply at character {self.before + self.at:,}") from None
            # An error may only say that the buffer ends here. One that stays in its place with more text there is one.
            if self.ended or (failure == failed and not failure[1].startswith("Unterminated")):
                raise self._invalid(self.at + failure[0], failure[1])
            if len(self.text) - self.at > LARGEST:
                raise UnreadableError(
                    f"one record of more than {LARGEST:,} characters, from character {self.before + self.at:,} on"
                )
            failed = failure
            self._refill()

    def _refill(self) -> None:
        """A large record makes the buffer double, so that it is not parsed again for each chunk."""
        rest, more = self.text[self.at :], ""
        while len(more) < LONGEST_TOKEN and not self.ended:
            # read1 gives what is there: of a damaged stream it loses least.
            data = self.stream.read1(CHUNK) if len(rest) < CHUNK else self.stream.read(len(rest))
            self.ended = not data
            more += self.decoder.decode(data, self.ended)
        self.before += self.at
        self.text, self.at = rest + more, 0

    def _invalid(self, at: int, what: str) -> UnreadableError:
        if self.ended and (at >= len(self.text) or what.startswith("Unterminated")):
            return UnreadableError(f"invalid JSON: cut off after {self.before + len(self.text):,} characters")
        return UnreadableError(f"invalid JSON at character {self.before + at:,}: {what}")


def head_of(stream: io.BufferedReader) -> str:
    """The first 64 KiB as text, without reading them away."""
    head = stream.peek(HEAD)[:HEAD]
    return head.decode(encoding_of(head), "ignore").lstrip("\ufeff")


def key_paths(head: str) -> set[str]:
    """The keys in the beginning of a JSON text, each with its way: `data[].rows[].text`."""
    found: set[str] = set()
    containers: list[str] = []
    place = ""
    for token in _TOKEN.finditer(head):
        character = token[0]
        if len(containers) > DEEPEST:
            break
        if character in ("{", "["):
            containers.append(place)
            place += "[]" * (character == "[")
        elif character in ("}", "]"):
            place = containers.pop() if containers else ""
        elif token[2] and containers:
            place = f"{containers[-1]}.{token[1][:100]}".lstrip(".")
            found.add(place)
    return found
