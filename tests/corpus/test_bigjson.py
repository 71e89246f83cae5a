"""JSON read record by record: where the list lies, how it is cut into buffers, and what can be wrong with it."""

import io
import json
import math
import tracemalloc
from collections.abc import Iterator
from typing import Any

import pytest

from corpus import bigjson
from corpus.bigjson import BigJson, OtherShapeError, key_paths
from corpus.zips import UnreadableError


class Stream(io.RawIOBase):
    """Bytes as a generator gives them, each piece in a read of its own."""

    def __init__(self, pieces: Iterator[bytes]):
        self.pieces, self.rest = pieces, b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        self.rest = self.rest or next(self.pieces, b"")
        data, self.rest = self.rest[: len(buffer)], self.rest[len(buffer) :]
        buffer[: len(data)] = data
        return len(data)


def big(content: str | bytes) -> BigJson:
    data = content if isinstance(content, bytes) else content.encode()
    return BigJson(io.BufferedReader(io.BytesIO(data)))


def until_the_end(reader: BigJson, *path: str) -> tuple[list[Any], str]:
    """What was read, and why no more."""
    found = []
    try:
        for record in reader.records(*path):
            found.append(record)
    except UnreadableError as error:
        return found, str(error)
    return found, ""


@pytest.mark.parametrize(
    ("content", "path", "records"),
    [
        ('{"data": [1, {"a": [2]}, "셋", null]}', ("data",), [1, {"a": [2]}, "셋", None]),
        ('{"id": 7, "info": {"data": [0]}, "data": [1], "after": [2, 3]}', ("data",), [1]),
        ('{"a": {"x": 1, "b": [1, 2], "c": 3}, "b": [9]}', ("a", "b"), [1, 2]),
        (' [ 1 , 2 ] ', (), [1, 2]),
        ('{"data": [ ] }', ("data",), []),
        ("[]", (), []),
        ('{"a": 1}', (), [{"a": 1}]),
        ('{"document": {"id": 1}}', ("document",), [{"id": 1}]),
        ('{"data": null}', ("data",), []),
        ('{"data": [1]}\n{"other": 0}\n{"data": [2]}\n', ("data",), [1, 2]),
        ('[[1, 2], [3]]', (), [[1, 2], [3]]),
    ],
)  # fmt: skip
def test_where_the_list_lies(content: str, path: tuple[str, ...], records: list[Any]) -> None:
    assert list(big(content).records(*path)) == records


def test_what_stands_beside_the_list_is_kept() -> None:
    reader = big('{"id": "가", "speaker": [{"id": 1}], "info": {"a": null}, "utterance": [1, 2], "late": true}')
    records = reader.records("utterance")
    assert next(records) == 1
    assert reader.outer == {"id": "가", "speaker": [{"id": 1}], "info": {"a": None}}
    assert list(records) == [2]
    assert reader.outer["late"] is True


def test_what_stands_beside_the_list_has_a_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bigjson, "BESIDE", 10)
    monkeypatch.setattr(bigjson, "KEYS", 3)
    reader = big('{"a": "123456789", "b": [1, 2, 3, 4, 5], "c": "1234567", "d": 1, "data": [6]}')
    assert list(reader.records("data")) == [6]
    assert reader.outer == {"a": None, "b": [1, 2, 3], "c": "1234567"}


CUT = {
    "id": -12,
    "data": [12, 1.25, 3e-5, -1, True, False, None, '가\\"나\n', "😀", [], {}, {"나": {"다": [1, "]}"]}}],
    "z": [0],
}


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "cp949"])
@pytest.mark.parametrize("size", [1, 2, 3, 7, 16, 1000])
@pytest.mark.parametrize("escaped", [True, False])
def test_a_buffer_may_end_anywhere(encoding: str, size: int, escaped: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bigjson, "CHUNK", size)
    for indent in (None, 2):
        text = json.dumps(CUT, indent=indent, ensure_ascii=escaped)
        reader = big((text if encoding != "cp949" else text.replace("😀", "\\ud83d\\ude00")).encode(encoding))
        assert list(reader.records("data")) == CUT["data"]
        assert reader.outer == {"id": -12, "z": [0]}


def test_not_a_number_and_numbers_too_large_are_values() -> None:
    first, second, third, fourth = big("[NaN, -Infinity, %s, 1e999]" % ("9" * 5000)).records()
    assert math.isnan(first)
    assert (second, third, fourth) == (-math.inf, math.inf, math.inf)


def test_bare_control_characters_inside_strings_do_no_harm() -> None:
    assert list(big('["가\n나\t다\x00"]').records()) == ["가\n나\t다\x00"]


@pytest.mark.parametrize(
    ("content", "count", "cause"),
    [
        ('{"data": [1, 2, {"a": "끝나지', 2, "cut off after 26 characters"),
        ('{"data": [1, 2', 2, "cut off after 14 characters"),
        ('{"data": [1, 2]', 2, "cut off after 15 characters"),
        ('{"data": [1, 2], "after"', 2, "cut off after 24 characters"),
        ('{"data": [1, 2, {"a": (반사회적용어)}, 4]}', 2, "invalid JSON at character 22: a value was expected"),
        ('{"data": [1, 2, oops, 4]}', 2, "invalid JSON at character 16: a value was expected"),
        ('{"data": [1, 2,]}', 2, "invalid JSON at character 15: a value was expected"),
        ('{"data": [1 2]}', 1, "invalid JSON at character 12: ',' or ']' was expected"),
        ('{"data": [1], data: 2}', 1, "invalid JSON at character 14: a value was expected"),
        ('{"data": [1], 3: 2}', 1, "invalid JSON at character 15: a key and a colon were expected"),
        ('{"data": [1]} the end', 1, "invalid JSON at character 14: a value was expected"),
        ('{"data": [1, "\\x"]}', 1, "invalid JSON at character 14: Invalid \\escape"),
        ('{"data": [1, %s' % ("[" * 100_000), 1, "nested too deeply at character 13"),
        ("{", 0, "cut off after 1 characters"),
        ("", 0, "empty"),
        ("  \n", 0, "empty"),
    ],
)  # fmt: skip
def test_damage_costs_what_follows_it(content: str, count: int, cause: str) -> None:
    found, why = until_the_end(big(content), "data")
    assert found == [1, 2][:count]
    assert cause in why


def test_damage_far_behind_is_placed_exactly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bigjson, "CHUNK", 64)
    good = '{"data": [' + '{"a": "글"},' * 1000
    found, why = until_the_end(big(good + '{"a" 1}, {"a": "글"}]}' + " " * 999), "data")
    assert len(found) == 1000
    assert why == f"invalid JSON at character {len(good) + 5:,}: Expecting ':' delimiter"


def test_a_stream_that_breaks_off_gives_what_came_before() -> None:
    def pieces() -> Iterator[bytes]:
        yield b'{"data": [1, 2, ' + b" " * 200_000
        raise OSError("bad sector")

    records = BigJson(io.BufferedReader(Stream(pieces()))).records("data")
    assert [next(records), next(records)] == [1, 2]
    with pytest.raises(OSError, match="bad sector"):
        next(records)


@pytest.mark.parametrize(
    ("content", "cause"),
    [
        ('{"id": 1, "rows": [2]}', "no data in it, but 'id', 'rows'"),
        ("[1, 2]", "no data in it, but a list"),
        ("{}", "no data in it, but nothing"),
        ("글 한 줄", "no JSON: it begins with '글 한 줄'"),
        ('"data"', "no JSON"),
    ],
)
def test_other_shapes(content: str, cause: str) -> None:
    with pytest.raises(OtherShapeError, match=cause):
        list(big(content).records("data"))


def test_a_record_that_is_too_large(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bigjson, "CHUNK", 1000)
    monkeypatch.setattr(bigjson, "LARGEST", 50_000)
    large = '{"data": [1, "%s", 2]}'
    assert len(list(big(large % ("가" * 49_000)).records("data"))) == 3
    found, why = until_the_end(big(large % ("가" * 300_000)), "data")
    assert (found, why) == ([1], "one record of more than 50,000 characters, from character 13 on")


def test_damage_is_told_from_a_record_that_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without reading on to the limit of a record."""
    monkeypatch.setattr(bigjson, "CHUNK", 100)
    monkeypatch.setattr(bigjson, "LARGEST", 1000)
    _, why = until_the_end(big('{"data": [1, {"a" 2}, ' + "3, " * 9999), "data")
    assert why.startswith("invalid JSON at character 18")


def test_a_large_record_is_not_parsed_again_for_each_chunk(monkeypatch: pytest.MonkeyPatch) -> None:
    """The buffer doubles: from 64 characters to 100,000 it takes 11 times, not 1,500."""
    monkeypatch.setattr(bigjson, "CHUNK", 64)
    refills = []
    refill = BigJson._refill
    monkeypatch.setattr(BigJson, "_refill", lambda reader: (refills.append(1), refill(reader))[1])
    assert len(list(big('["%s"]' % ("a" * 100_000)).records())) == 1
    assert len(refills) < 15


def test_memory_holds_a_record_and_a_chunk() -> None:
    """60 MB of records behind 30 MB of another list, which is not kept: less than 4 MB at once."""
    record = json.dumps({"id": "가" * 10, "sentences": [{"text": "나" * 5000}]}, ensure_ascii=False).encode()

    def pieces() -> Iterator[bytes]:
        yield b'{"other": [' + record
        for _ in range(30_000_000 // len(record)):
            yield b"," + record
        yield b'], "data": [' + record
        for _ in range(60_000_000 // len(record)):
            yield b", " + record
        yield b"]}"

    reader = BigJson(io.BufferedReader(Stream(pieces())))
    tracemalloc.start()
    count = sum(1 for _ in reader.records("data"))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert count == 60_000_000 // len(record) + 1
    assert peak < 4 << 20


def test_key_paths() -> None:
    head = '{"a": {"b\\"": [{"c": "{\\"no\\": [1]}", "d": [[{"e": null}]]}, {"f": 1}], "g": "x"}, "h": ["i", {"j": 0'
    wanted = 'a a.b\\" a.b\\"[].c a.b\\"[].d a.b\\"[].d[][].e a.b\\"[].f a.g h h[].j'
    assert key_paths(head) == set(wanted.split())
    assert key_paths('[{"a": 1}, {"b": [2]}]') == {"[].a", "[].b"}
    assert key_paths('{"a": "cut { \\"b\\": [') == {"a"}
    assert key_paths('{"a": "cut \\') == {"a"}
    assert key_paths("]}]{}") == set()
    assert key_paths('{"' + "k" * 199 + '": 1}') == {"k" * 100}
    assert key_paths("[" * 60_000 + '{"a": 1}') == set()
