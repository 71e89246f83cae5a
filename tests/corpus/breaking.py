"""What may happen to downloads on their way here, all of it drawn from a seed."""

import copy
import json
import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from random import Random
from typing import Any

from miniatures import PACKERS, PLAIN, SCHEMAS, encoded, table, tale, zipped


@dataclass
class Made:
    """A download: its files, what was done to it, and the documents that must come out of it."""

    files: dict[str, bytes] = field(default_factory=dict)
    done: list[str] = field(default_factory=list)
    sure: list[str] = field(default_factory=list)


def make(name: str, draw: Random, broken: bool = True) -> Made:
    """A zip of some schemas' members, or a plain file; sound, or damaged in one to three of the ways below."""
    made, texts = Made(), [tale(draw) for _ in range(draw.randint(1, 12))]
    kind = draw.random()
    if kind < 0.05:
        key = draw.choice(["parquet", "arrow"])
        path, data = f"{name}.{key}", table(texts, key)
        made.sure += texts
    elif kind < 0.3:
        key, (suffix, packer) = draw.choice(PLAIN), draw.choice(list(PACKERS.items()))
        content = SCHEMAS[key][1](texts)
        data = spoilt(content, draw, made) if broken and draw.random() < 0.5 else encoded(content)
        path, data = f"{name}{SCHEMAS[key][0][SCHEMAS[key][0].rindex('.') :]}{suffix}", packer(data)
        if not broken:
            made.sure += texts
    else:
        keys = draw.sample(sorted(SCHEMAS), draw.randint(1, 4))
        bad = draw.choice(keys) if broken and draw.random() < 0.5 else ""
        folder = draw.choice(["", "자료/", "01.데이터/1.Training/"])
        members = []
        for key in keys:
            texts = [tale(draw) for _ in range(1 if key == "aihub-dialect" else draw.randint(1, 6))]
            content = SCHEMAS[key][1](texts)
            members.append((folder + SCHEMAS[key][0], spoilt(content, draw, made) if key == bad else encoded(content)))
            made.sure += texts if key != bad else []
        path, data = f"{draw.choice(['', '라벨링데이터/'])}{name}.zip", zipped(members, draw)
    changes = draw.choices(list(ZIP_DAMAGE if data.startswith(b"PK") else DAMAGE), k=draw.randint(1, 2))
    if broken and (not made.done or draw.random() < 0.3):
        for change in changes:
            made.done.append(change.__name__)
            made.sure = []
            data = change(data, draw)
        if draw.random() < 0.05:
            made.done.append("another name")
            path += draw.choice([".zip", ".json", ".gz", ".parquet", ".arrow", ".tsv", ".zip.part0"])
    made.files[path] = data
    if broken and path.endswith(".zip") and len(data) > 100 and draw.random() < 0.1:
        made.files = parts(path, data, draw, made)
    return made


def parts(path: str, data: bytes, draw: Random, made: Made) -> dict[str, bytes]:
    size = len(data) // draw.randint(2, 12) + 1
    found = [(start, data[start : start + size]) for start in range(0, len(data), size)]
    change = draw.choice(["", "", "lost", "swapped", "twice"])
    made.done.append(f"parts {change}")
    if change:
        made.sure = []
    if change == "lost":
        found.pop(draw.randrange(len(found)))
    elif change == "swapped":
        (one, two), first = draw.sample(range(len(found)), 2), list(found)
        found[one], found[two] = (first[one][0], first[two][1]), (first[two][0], first[one][1])
    elif change == "twice":
        found.append((found[-1][0] + 1, found[-1][1]))
    by_offset = draw.random() < 0.5
    return {f"{path}.part{start if by_offset else number}": piece for number, (start, piece) in enumerate(found)}


# What no record should hold. Words with @ become what JSON itself can say, and Python's json cannot.
STRANGE: list[Any] = [None, True, 0, -1, 1.5, "", " ", [], {}, [[]], [None], {"": None}, ["글", 1]]
STRANGE += [{"text": {"text": 1}}]
STRANGE += ["\0", "\ud83d", "\udc00글", "\ufffe", "\u202e글", "글\r\n\x1b[2J", '"', "</script>", "ㅋ" * 5000]
STRANGE += ["@deep", "@key", "@number", "@real", "@nan", "@bare"]
WRITTEN = {
    "@deep": "[" * 3000 + "]" * 3000,
    "@key": '{"text": "하나", "text": 2, "sentences": []}',
    "@number": "9" * 6000,
    "@real": "-1e999",
    "@nan": "NaN",
    "@bare": "글",
}


def spoilt(content: Any, draw: Random, made: Made) -> bytes:
    """A member that says something else than its schema, or says it in another encoding."""
    way = draw.choice([odd_values, odd_values, odd_values, odd_characters, odd_encoding])
    made.done.append(way.__name__)
    return way(content, draw)


def odd_values(content: Any, draw: Random) -> bytes:
    rows = None
    if isinstance(content, str):
        rows = content.splitlines()
        if not rows[0].startswith("{"):
            return odd_characters(content, draw)
        content = [json.loads(row) for row in rows]
    for _ in range(draw.randint(1, 4)):
        places = list(holders(content))
        if not places:
            break
        holder, key = draw.choice(places)
        if draw.random() < 0.3:
            del holder[key]
        elif isinstance(holder, dict) and draw.random() < 0.2:
            holder[draw.choice(["Text", "text ", "글", "\ud83d", "", "x" * 3000])] = holder.pop(key)
        else:
            holder[key] = copy.deepcopy(draw.choice(STRANGE))
    ascii_only = draw.random() < 0.5
    written = [json.dumps(part, ensure_ascii=ascii_only) for part in (content if rows else [content])]
    text = "\n".join(written)
    for word, instead in WRITTEN.items():
        text = text.replace(f'"{word}"', instead)
    return text.encode("utf-8", "surrogatepass")


def holders(value: Any) -> Iterator[tuple[Any, Any]]:
    """Every place in a JSON value: what holds it, and its key there."""
    for key in list(value) if isinstance(value, dict) else range(len(value)):
        yield value, key
        if isinstance(value[key], dict | list):
            yield from holders(value[key])


def odd_characters(content: Any, draw: Random) -> bytes:
    """Braces, quotes and line ends where none belong; and a text that ends early."""
    text = encoded(content).decode()
    for _ in range(draw.randint(1, 5)):
        at = draw.randrange(len(text) + 1)
        instead = draw.choice(
            ['"', "{", "}", "[", "]", ",", ":", "\\", "\n", "\r", "\t", "\0", "\ufeff", "\\ud800", "'", ""]
        )
        text = text[:at] + instead * draw.choice([1, 1, 2, 40]) + text[at + draw.randint(0, 1) :]
    return text[: draw.randrange(20, len(text))].encode() if draw.random() < 0.2 else text.encode()


def odd_encoding(content: Any, draw: Random) -> bytes:
    text = encoded(content).decode()
    names = [
        "cp949",
        "euc-kr",
        "johab",
        "utf-8-sig",
        "utf-16",
        "utf-16-le",
        "utf-16-be",
        "utf-32",
        "utf-7",
        "iso2022_kr",
    ]
    one = text.encode(draw.choice(names), "replace")
    if draw.random() < 0.3:  # two encodings in one file
        half = draw.randrange(len(text))
        one = text[:half].encode() + text[half:].encode(draw.choice(names), "replace")
    if draw.random() < 0.3:  # twice encoded
        one = one.decode("latin-1").encode()
    return one


def changed(data: bytes, draw: Random) -> bytes:
    array = bytearray(data)
    for _ in range(draw.choice([1, 1, 2, 8, 50])):
        array[draw.randrange(len(array))] ^= 1 << draw.randrange(8)
    return bytes(array)


def cut(data: bytes, draw: Random) -> bytes:
    return data[: draw.randrange(len(data))]


def beheaded(data: bytes, draw: Random) -> bytes:
    return data[draw.randrange(len(data)) :]


def inserted(data: bytes, draw: Random) -> bytes:
    at = draw.randrange(len(data))
    return (
        data[:at] + draw.choice([draw.randbytes(draw.randint(1, 300)), b"\0" * 600, b"<html>", b"PK\5\6"]) + data[at:]
    )


def lost(data: bytes, draw: Random) -> bytes:
    at = draw.randrange(len(data))
    return data[:at] + data[at + draw.randint(1, 300) :]


def zeroed(data: bytes, draw: Random) -> bytes:
    """A hole, as a download leaves that was gone on with in the wrong place."""
    at, size = draw.randrange(len(data)), draw.choice([1, 16, 512])
    return (data[:at] + b"\0" * size + data[at + size :])[: len(data)]


def repeated(data: bytes, draw: Random) -> bytes:
    at, size = draw.randrange(len(data)), draw.choice([20, 200, 100_000])
    return data[:at] + data[at : at + size] * 2 + data[at + size :]


def swapped(data: bytes, draw: Random) -> bytes:
    if len(data) < 100:
        return data[::-1]
    size = draw.choice([8, 30])
    one, two = sorted(draw.sample(range(len(data) - size), 2))
    middle = data[one + size : max(two, one + size)]
    return data[:one] + data[two : two + size] + middle + data[one : one + size] + data[two + size :]


LOCAL, CENTRAL, END = b"PK\3\4", b"PK\1\2", b"PK\5\6"
# Offset and size of what a header says: flags, method, date, checksum, sizes, lengths, counts, mode, place.
FIELDS = {
    LOCAL: ("6H", "8H", "14I", "18I", "22I", "26H", "28H"),
    CENTRAL: ("6H", "8H", "10H", "12I", "16I", "20I", "24I", "28H", "30H", "32H", "34H", "38I", "42I"),
    END: ("4H", "8H", "10H", "12I", "16I", "20H"),
}


def fields(data: bytes, draw: Random) -> bytes:
    """Sizes, offsets, methods, flags, checksums and counts that are not what they were."""
    array = bytearray(data)
    for _ in range(draw.choice([1, 1, 2, 5])):
        signature = draw.choice(list(FIELDS))
        places = [found.start() for found in re.finditer(re.escape(signature), data)]
        place, about = draw.choice(places or [0]), draw.choice(FIELDS[signature])
        offset, code = int(about[:-1]), about[-1]
        if place + offset + 4 > len(array):
            continue
        was, most = struct.unpack_from("<" + code, array, place + offset)[0], 0xFFFF if code == "H" else 0xFFFFFFFF
        values = [0, 1, 8, 9, 12, 14, 99, most, most // 2, was + 1, was - 1, 2 * was, was ^ 1 << draw.randrange(12)]
        values += [draw.randrange(most), 0xA1FF0000]  # the mode of a link
        struct.pack_into("<" + code, array, place + offset, draw.choice(values) & most)
    return bytes(array)


def exchanged(data: bytes, draw: Random) -> bytes:
    """The list of members says that one lies where another one does."""
    array = bytearray(data)
    places = [found.start() + 42 for found in re.finditer(re.escape(CENTRAL), data) if found.start() + 46 <= len(data)]
    if len(places) < 2:
        return changed(data, draw)
    one, two = draw.sample(places, 2)
    first, second = data[one : one + 4], data[two : two + 4]
    array[one : one + 4], array[two : two + 4] = (second, first) if draw.random() < 0.5 else (second, second)
    return bytes(array)


def listed_twice(data: bytes, draw: Random) -> bytes:
    """The list of members twice: in one, or each with an end of its own."""
    start, end = data.find(CENTRAL), data.rfind(END)
    if start < 0 or end < start or end + 22 > len(data):
        return data + data
    directory, tail = data[start:end], bytearray(data[end:])
    if draw.random() < 0.5:
        return data + directory + bytes(tail)
    number, size = struct.unpack_from("<H", tail, 10)[0], 2 * len(directory)
    struct.pack_into("<HHI", tail, 8, 2 * number & 0xFFFF, 2 * number & 0xFFFF, size)
    return data[:start] + directory * 2 + bytes(tail)


def surrounded(data: bytes, draw: Random) -> bytes:
    """Something in front of the archive, or behind it: an error page, another archive, its own end once more."""
    other = zipped([("다른.txt", encoded(tale(draw)))], draw)
    extra = draw.choice([b"<html>502</html>\r\n", b"\0" * 1000, other, data[-22:], draw.randbytes(70_000)])
    return extra + data if draw.random() < 0.5 else data + extra


NAMES = ["../../../escaped.txt", "/escaped/absolute.txt", "C:\\escaped\\1.txt", "..", "/", "a/", ".hidden"]
NAMES += ["con\0.txt", "글\n글.json", "__MACOSX/x", "x" * 60, "%2e%2e%2fescaped", "a/../../escaped", "~1", "1.zip"]
NAMES += ["[Content_Types].xml", "\x1b[2J.txt", ""]


def renamed(data: bytes, draw: Random) -> bytes:
    """A member's name is written over, as far as it goes."""
    array, name = bytearray(data), draw.choice(NAMES).encode()
    for signature, length, front in ((LOCAL, 26, 30), (CENTRAL, 28, 46)):
        places = [found.start() for found in re.finditer(re.escape(signature), data)]
        for place in places if draw.random() < 0.3 else places[:1]:
            if place + front < len(data):
                size = min(struct.unpack_from("<H", data, place + length)[0], 200)
                array[place + front : place + front + size] = name[:size].ljust(
                    size, b"/" if draw.random() < 0.1 else b"_"
                )
    return bytes(array[: len(data)])


DAMAGE = (changed, changed, cut, beheaded, inserted, lost, zeroed, repeated, swapped)
ZIP_DAMAGE = (*DAMAGE, fields, fields, fields, fields, exchanged, listed_twice, surrounded, renamed, renamed)
