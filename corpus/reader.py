"""Files -> units that can be read apart -> documents.

A unit is a member of an archive, a file, a range of bytes of a large one, row groups of parquet or a shard of a data
set. What is read of it depends on nothing else, so that any number of workers can share them.
"""

import contextlib
import io
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any

from corpus import aihub, folders, plain, tables, zips
from corpus.bigjson import key_paths
from corpus.plain import HEAD, Raw
from corpus.sources import File, Source
from corpus.zips import Archive, UnreadableError
from narae.log import Mistake

RANGE = 64 << 20  # bytes of text per unit, where a file can be cut
GROWTH = 3  # Korean text that was compressed is about three times as large
BROKEN = 0.01  # share of broken documents that stops the run where nothing more is allowed
SHORT = 60  # characters: a single sentence, hardly a document
# What is no text, by its first bytes.
ALIEN = {
    b"PK\x03\x04": "a zip inside a zip: unpack the outer one",
    b"PAR1": "parquet inside another file: unpack it",
    b"%PDF": "a PDF: extract its text",
    b"\xd0\xcf\x11\xe0": "an office document (hwp, doc, xls): save it as text",
    b"Rar!": "a rar archive: unpack it",
    b"7z\xbc\xaf": "a 7z archive: unpack it",
}


@dataclass
class Unit:
    """What one reading takes of a file: all, a member, or bytes, row groups or record batches from start to end."""

    file: int
    member: int = -1
    start: int = 0
    end: int = -1
    part: int = -1  # which range or shard of its file, -1 where it is not cut
    bytes: int = 0  # of text, about


def units(files: Sequence[File], size: int = RANGE) -> list[Unit]:
    """In the order of the files. What cannot be cut because it cannot be read is one unit, which says why when read."""
    found: list[Unit] = []
    for number, file in enumerate(files):
        try:
            found += _cut(number, file, size)
        except zips.FAULTS:
            found.append(Unit(number, bytes=file.bytes))
    return found


def members(units: Sequence[Unit]) -> int:
    """How many files and members there are: the parts of one count once."""
    return len({(unit.file, unit.member) for unit in units})


def _cut(number: int, file: File, size: int) -> list[Unit]:
    if file.fault:
        raise UnreadableError(file.fault)
    path = file.paths[0]
    match file.kind:
        case "zip":
            with contextlib.closing(Archive(file.paths)) as archive:
                inside = [
                    Unit(number, member, bytes=min(info.file_size, zips.SMALL + info.compress_size * zips.RATIO))
                    for member, info in enumerate(archive.members)
                    if not info.filename.endswith("/") and not folders.IGNORED.search(archive.names[member])
                ]
            return inside or [Unit(number)]
        case "parquet" | "arrow":
            cut = tables.parquet_units if file.kind == "parquet" else tables.arrow_units
            return [
                Unit(number, -1, start, end, part, grown) for part, (start, end, grown) in enumerate(cut(path, size))
            ]
        case "hub":
            return [Unit(number, part=shard) for shard in range(tables.hub(str(path)).num_shards)]
    with zips.opened(path) as opened:
        head = opened.read(HEAD)
    if plain.packer(head):
        return [Unit(number, bytes=file.bytes * GROWTH)]
    if file.bytes <= size or not _by_lines(head, file):
        return [Unit(number, bytes=file.bytes)]
    starts = enumerate(range(0, file.bytes, size))
    ends = [*range(size, file.bytes, size), file.bytes]
    return [Unit(number, -1, start, ends[part], part, ends[part] - start) for part, start in starts]


def _by_lines(head: bytes, file: File) -> bool:
    """Documents begin where lines do, and a line ends with the byte 10 and no other."""
    kind = kind_of(head, file.label, file.source)
    lines = kind == "jsonl" or (kind == "text" and file.source.document != "file")
    return lines and not plain.encoding_of(head).startswith(("utf-16", "utf-32"))


def kind_of(head: bytes, name: str, source: Source) -> str:
    """A schema of AIHub's, "skip", text, jsonl, csv or tsv: by content, which the name only helps to read."""
    if not head:
        raise UnreadableError("empty")
    for magic, cause in ALIEN.items():
        if head.startswith(magic):
            raise UnreadableError(cause)
    if head[257:262] == b"ustar":
        raise UnreadableError("a tar archive: unpack it")
    text = head.decode(plain.encoding_of(head), "ignore").lstrip("\ufeff \t\r\n")
    found = aihub.detect(text, name)
    if found == "skip":
        return found
    if source.schema in ("parquet", "dataset"):
        raise UnreadableError(f"not {source.schema}: leave `schema` out, and it is told by its content")
    if source.schema:
        return source.schema
    if re.match(r"<!doctype html|<html", text, re.IGNORECASE):
        raise UnreadableError("an HTML page: the download failed, or it was never a corpus")
    if found:
        return found
    suffix = PurePath(plain.PACKED_NAME.sub("", name.lower())).suffix
    if suffix in (".jsonl", ".ndjson", ".csv", ".tsv"):
        return "jsonl" if suffix == ".ndjson" else suffix[1:]
    if suffix == ".xml":
        raise UnreadableError("an XML file: save what it tells as text")
    if text.startswith("{") and _is_record(text, source.text_field if suffix == ".json" else ""):
        return "jsonl"
    if suffix == ".json":
        raise UnreadableError(_no_set(text, len(head) < HEAD))
    return "text"


def _is_record(text: str, wanted: str) -> bool:
    """The first line is a JSON object, with the wanted key; of one that is longer than this, the keys that show."""
    line, newline, _ = text.partition("\n")
    if not newline and len(line) > 1000:
        paths = key_paths(line)
        return wanted in paths if wanted else bool(paths)
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        return False
    return not wanted or wanted in record


def _no_set(text: str, whole: bool) -> str:
    if whole:
        try:
            json.loads(text)
        except (ValueError, RecursionError) as error:
            return f"invalid JSON ({error})"
    keys = ", ".join(dict.fromkeys(re.findall(r'"([^"\\]{1,30})"\s*:', text)[:8])) or "none"
    return (
        f"JSON of no set that is known here, with the keys {keys}: --schema forces one; jsonl has a record on each line"
    )


class Reader:
    """Reads units. It keeps count of what it met and of what it could not read. `licence`: that of the unit at hand."""

    def __init__(self, files: Sequence[File], broken_share: float = 0.0):
        self.files, self.allowed = files, max(broken_share, BROKEN)
        self.unreadable: list[dict[str, Any]] = []
        self.formats: dict[str, dict[str, int]] = {}
        self.licence = ""
        self.documents = self.broken = 0
        self.archive: tuple[int, Archive] | None = None

    def __enter__(self) -> "Reader":
        return self

    def __exit__(self, error: object, value: object, trace: object) -> None:
        if self.archive:
            self.archive[1].close()
        self.archive = None

    def read(self, unit: Unit) -> Iterator[tuple[str, str, Raw]]:
        """(place, number, document): the document's id is place#number."""
        file = self.files[unit.file]
        self.licence = file.source.licence
        member = ""
        try:
            if file.fault:
                raise UnreadableError(file.fault)
            if file.kind == "zip":
                archive = self._opened(unit.file)
                if unit.member < 0:
                    raise UnreadableError("an archive without members")
                member = archive.names[unit.member] if unit.member < len(archive.names) else ""
                with contextlib.closing(archive.open(unit.member)) as stream:
                    packed = archive.members[unit.member].file_size
                    with contextlib.closing(plain.unpacked(stream, packed)) as bare:
                        yield from self._stream(unit, member, bare)
            elif file.kind == "plain":
                with contextlib.closing(plain.open_file(file.paths[0])) as stream:
                    yield from self._stream(unit, "", stream)
            else:
                yield from self._table(unit, file)
        except tables.ColumnError as error:
            if file.kind != "zip":
                raise Mistake(f"{file.label}: {error}") from None
            self._lost(unit, member, error)
        except zips.FAULTS as error:
            self._lost(unit, member, error)

    def _opened(self, number: int) -> Archive:
        """Units of one archive follow one another."""
        if self.archive is None or self.archive[0] != number:
            self.__exit__(None, None, None)
            self.archive = number, Archive(self.files[number].paths)
        return self.archive[1]

    def _stream(self, unit: Unit, member: str, stream: io.BufferedReader) -> Iterator[tuple[str, str, Raw]]:
        file = self.files[unit.file]
        source = file.source
        head = stream.peek(HEAD)[:HEAD]
        kind = kind_of(head, f"{file.label}/{member}" if member else file.label, source)
        met = self._met(kind, unit)
        if kind == "skip":
            return iter(())
        encoding, front, inside = "", "", file.place
        if unit.part >= 0:
            stream, encoding = _range(stream, head, unit, kind == "text" and source.document == "blank")
            front = f"{unit.part}."
        match kind:
            case "text":
                found = plain.read_text(stream, source.document, encoding)
            case "jsonl":
                found = plain.read_jsonl(stream, source.text_field, encoding)
            case "csv" | "tsv":
                found = tables.read_csv(stream, kind == "tsv", source.text_field, met)
            case _:
                schema = aihub.SCHEMAS[kind]
                self.licence = source.licence or schema.licence
                inside = f"{schema.data_set}/{file.archive}"
                found = aihub.read(kind, stream, met)
        place = f"{inside}:{member}" if member else inside
        return self._counted(unit, member, place, front, enumerate(found), met)

    def _table(self, unit: Unit, file: File) -> Iterator[tuple[str, str, Raw]]:
        path, field = file.paths[0], file.source.text_field
        met = self._met("parquet" if file.kind == "parquet" else "dataset", unit)
        match file.kind:
            case "parquet":
                found = tables.read_parquet(path, unit.start, unit.end, field)
            case "arrow":
                found = tables.read_arrow(path, unit.start, unit.end, field)
            case _:
                found = tables.read_hub(str(path), unit.part, field)
        front = f"{unit.part}." if file.kind == "hub" else ""
        return self._counted(unit, "", file.place, front, found, met)

    def _counted(
        self,
        unit: Unit,
        member: str,
        place: str,
        front: str,
        found: Iterable[tuple[int, Raw]],
        met: dict[str, int],
    ) -> Iterator[tuple[str, str, Raw]]:
        text = met is self.formats.get("text")
        short, done, before = 0, 0, self.documents
        try:
            for done, (number, raw) in enumerate(found, start=1):
                if raw.fault:
                    self._broken(unit, member, number, raw, before + done)
                elif text and len(raw.text) < SHORT and "\n" not in raw.text:
                    short += 1
                yield place, f"{front}{number}", raw
        finally:
            self.documents += done
            met["documents"] += done
            if short:
                met["short"] = met.get("short", 0) + short

    def _met(self, kind: str, unit: Unit) -> dict[str, int]:
        met = self.formats.setdefault("metadata" if kind == "skip" else kind, {"members": 0, "documents": 0})
        met["members"] += unit.part <= 0
        return met

    def _broken(self, unit: Unit, member: str, number: int, raw: Raw, documents: int) -> None:
        """Single lines that are none: kept aside, like any rejected document, but past a limit the reading is wrong."""
        self.broken += 1
        if self.broken <= 8 + documents * self.allowed:
            return
        file = self.files[unit.file]
        place = f"{file.label}{':' * bool(member)}{member}, " + (
            f"line {raw.meta['line']}" if "line" in raw.meta else f"document {number}"
        )
        place += f" from byte {unit.start:,} on" * (unit.start > 0 and file.kind == "plain")
        hint = "; a larger --max_unreadable keeps them aside and goes on"
        if raw.fault == f"no {file.source.text_field}":
            keys = ", ".join(sorted(key_paths(raw.text[:HEAD]))[:20])
            hint = f"; there are {keys}: --text_field names the one that holds the text" if keys else hint
        raise Mistake(f"{self.broken:,} of {documents:,} documents are broken, the last in {place}: {raw.fault}{hint}")

    def _lost(self, unit: Unit, member: str, error: Exception) -> None:
        cause = zips.cause_of(error)
        self.unreadable.append(
            {"archive": self.files[unit.file].label, "member": member, "cause": cause, "bytes": unit.bytes}
        )


def _range(stream: io.BufferedReader, head: bytes, unit: Unit, between_blank: bool) -> tuple[io.BufferedReader, str]:
    """The bytes of the documents that begin in the unit's range, and their encoding, which the file's head tells."""
    first = plain.told_by(head)
    rest = first.removesuffix("-sig")  # only at the very front are these bytes a mark
    begin = plain.boundary(stream, unit.start, between_blank, rest, unit.end)
    end = plain.boundary(stream, unit.end, between_blank, rest) if begin < unit.end else begin
    return io.BufferedReader(plain.Section(stream, begin, end), 1 << 17), rest if begin else first
