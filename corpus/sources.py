"""What the user pointed at: files and archives in a fixed order, and their members, told apart by what they hold."""

import contextlib
import hashlib
import io
import json
import re
import unicodedata
import zipfile
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from corpus import aihub, plain, zips
from corpus.plain import Raw
from corpus.zips import UnreadableError
from narae.log import Mistake

BROKEN = 0.01  # share of broken lines that stops the run
SHORT = 60  # characters: a single sentence, hardly a document
_IGNORED = re.compile(r"(^|/)(\.|__MACOSX/|Thumbs\.db$|desktop\.ini$)")
_INFO = re.compile(r"_INFO\.json$", re.IGNORECASE)
_VALIDATION = re.compile(r"(^|/)[^/]*validation[^/]*/", re.IGNORECASE)


@dataclass
class File:
    """An archive or a single file. `label` is its path below the source, in NFC; `source` what the user pointed at."""

    label: str
    source: str
    paths: list[Path]
    zipped: bool
    members: list[zipfile.ZipInfo] = field(default_factory=list)
    key: str = ""

    @property
    def bytes(self) -> int:
        return sum(path.stat().st_size for path in self.paths)

    @property
    def validation(self) -> bool:
        return bool(_VALIDATION.search(self.label))


@dataclass
class Origin:
    """Where a document comes from, and how it was read."""

    file: File
    member: str
    kind: str = ""
    done: float = 0.0  # bytes of input read so far

    @property
    def place(self) -> str:
        """The front of its documents' ids."""
        if self.kind.startswith("653"):
            return f"aihub653/{self.file.key}:{self.member}" if self.file.zipped else f"aihub653/{self.file.key}"
        inside = f"{self.file.key}:{self.member}" if self.file.zipped else self.file.label.partition("/")[2]
        return f"{self.file.source}/{inside or self.file.label}"


def files_of(sources: Sequence[str]) -> list[File]:
    """Every file below the sources, parts joined, sorted by name. What does not exist is a mistake."""
    found: dict[str, tuple[Path, str]] = {}
    for source in sources:
        paths = [Path(source)] if Path(source).exists() else [Path(name) for name in sorted(matching(source))]
        if not paths:
            raise Mistake(f"--sources {source}: no such file or folder, and no file matches it as a pattern")
        for path in (path.absolute() for path in paths):
            below = sorted(file for file in path.rglob("*") if file.is_file()) if path.is_dir() else [path]
            for file in below:
                label = unicodedata.normalize("NFC", file.relative_to(path.parent).as_posix())
                if _IGNORED.search(label):
                    continue
                if found.setdefault(label, (file, path.stem))[0] != file:
                    raise Mistake(f"--sources: {found[label][0]} and {file} would both be called {label}; rename one")
    by_path = {path: (label, source) for label, (path, source) in sorted(found.items())}
    files = []
    for whole, paths in zips.gather(list(by_path)):
        label, source = by_path[paths[0]]
        label = (
            label.rpartition("/")[0] + "/" + unicodedata.normalize("NFC", whole.name) if "/" in label else whole.name
        )
        files.append(File(label, unicodedata.normalize("NFC", source), paths, zips.is_zip(paths)))
    stems = Counter(Path(listed.label).stem for listed in files if listed.zipped)
    for listed in files:
        stem = Path(listed.label).stem
        listed.key = stem if listed.zipped and stems[stem] == 1 else listed.label
    return files


def matching(pattern: str) -> list[str]:
    path = Path(pattern).expanduser()
    return [str(found) for found in Path(path.anchor).glob(str(path.relative_to(path.anchor)))]


def fingerprints(files: Sequence[File]) -> dict[str, list[object]]:
    """Size and a hash of both ends: what tells another input from this one without reading 18 GB."""
    marks: dict[str, list[object]] = {}
    for file in files:
        for path in file.paths:
            with path.open("rb") as opened:
                digest = hashlib.sha256(opened.read(1 << 16))
                size = path.stat().st_size
                opened.seek(max(0, size - (1 << 16)))
                digest.update(opened.read(1 << 16))
            marks[f"{file.label}:{path.name}" if len(file.paths) > 1 else file.label] = [size, digest.hexdigest()[:16]]
    return marks


class Reader:
    """Reads the files in order. What it could not read, and what it met, it keeps count of."""

    def __init__(self, files: Sequence[File], document: str, text_field: str, max_unreadable: float):
        self.files, self.document, self.text_field = files, document, text_field
        self.unreadable: list[dict[str, str]] = []
        self.formats: dict[str, dict[str, int]] = {}
        self.total = sum(file.bytes for file in files)
        self.opened = 0
        members = 0
        for file in files:
            if file.zipped:
                with contextlib.suppress(UnreadableError), zips.open_zip(file.paths) as archive:
                    file.members = [info for info in archive.infolist() if not info.is_dir()]
            members += max(1, len(file.members))
        # A handful of broken members is normal even in a small delivery.
        self.allowed = max(8, int(members * max_unreadable))
        self.members = members
        self.documents = self.broken = 0

    def read(self) -> Iterator[tuple[Origin, int, Raw]]:
        """(where from, which of its documents, the document)"""
        done = 0
        for file in self.files:
            if file.zipped:
                yield from self._archive(file, done)
            else:
                origin = Origin(file, "", done=done)
                with self._guard(file.label, ""), plain.open_file(file.paths[0]) as stream:
                    yield from self._member(stream, origin, file.label, file.bytes)
            done += file.bytes

    def _archive(self, file: File, done: int) -> Iterator[tuple[Origin, int, Raw]]:
        with self._guard(file.label, ""), zips.open_zip(file.paths) as archive:
            if not file.members:
                raise UnreadableError("an archive without members")
            for info in file.members:
                name = zips.member_name(info)
                if _IGNORED.search(name):
                    continue
                origin = Origin(file, name, done=done)
                with self._guard(file.label, name), zips.open_member(archive, info) as stream:
                    yield from self._member(stream, origin, name, info.compress_size)
                done += info.compress_size

    def _member(
        self, stream: io.BufferedReader, origin: Origin, name: str, size: int
    ) -> Iterator[tuple[Origin, int, Raw]]:
        start = origin.done
        if _INFO.search(name):
            self._met("653 info")
            return
        origin.kind = self._kind(stream, name)
        met = self._met(origin.kind)
        match origin.kind:
            case "653 json":
                documents = aihub.read_json(stream, met)
            case "653 tsv":
                documents = aihub.read_tsv(stream, met)
            case "jsonl":
                documents = plain.read_jsonl(stream, self.text_field)
            case _:
                documents = plain.read_text(stream, self.document)
        met["documents"] = met.get("documents", 0)
        for number, raw in enumerate(documents):
            met["documents"] += 1
            self.documents += 1
            if raw.fault:
                self._broken(origin, number, raw)
            if origin.kind == "text" and len(raw.text) < SHORT and "\n" not in raw.text:
                met["short"] = met.get("short", 0) + 1
            # How far inside is a guess: text shrinks about to a third.
            origin.done = start + min(size, origin.done - start + len(raw.text))
            yield origin, number, raw

    def _broken(self, origin: Origin, number: int, raw: Raw) -> None:
        """Single lines that are none: kept aside, like any rejected document, but past a limit the reading is wrong."""
        self.broken += 1
        if self.broken > 8 + self.documents * BROKEN:
            where = (
                f"{origin.file.label}{':' * bool(origin.member)}{origin.member}, line {raw.meta.get('line', number)}"
            )
            hint = "; --text_field names the field that holds the text" if origin.kind == "jsonl" else ""
            raise Mistake(
                f"{self.broken:,} of {self.documents:,} documents are broken, the last in {where}: {raw.fault}{hint}"
            )

    def _met(self, kind: str) -> dict[str, int]:
        met = self.formats.setdefault(kind, {"members": 0})
        met["members"] += 1
        return met

    def _kind(self, stream: io.BufferedReader, name: str) -> str:
        """By content; the name decides only between a JSON object of several lines and jsonl."""
        head = stream.peek(plain.HEAD)[: plain.HEAD]
        if not head:
            raise UnreadableError("empty")
        if head.startswith(b"PK\x03\x04"):
            raise UnreadableError("a zip inside a zip: unpack the outer one")
        text = head.decode(plain.encoding_of(head, whole=False), "ignore").lstrip("\ufeff \t\r\n")
        if re.match(r"<!doctype html|<html", text, re.IGNORECASE):
            raise UnreadableError("an HTML page: the download failed, or it was never a corpus")
        is_json = name.lower().endswith(".json")
        if text.startswith("{"):
            try:
                record = json.loads(text.split("\n", 1)[0])
                return "653 json" if "paragraphs" in record or (is_json and self.text_field not in record) else "jsonl"
            except ValueError:
                return "653 json" if is_json or '"paragraphs"' in text else "jsonl"
        if any(aihub.looks_like_tsv(line) for line in text.split("\n", 5)[:5]):
            return "653 tsv"
        if is_json:
            return "653 json"  # says there what is wrong with it
        if name.lower().endswith((".tsv", ".csv", ".xml")):
            raise UnreadableError(f"a {Path(name).suffix} file that is not data set 653's")
        return "text"

    @contextlib.contextmanager
    def _guard(self, archive: str, member: str) -> Iterator[None]:
        """What cannot be read is listed with its cause; too much of it stops the run."""
        try:
            yield
        except UnreadableError as error:
            cause = str(error)
        except zips.FAULTS as error:
            cause = f"damaged or cut off ({error or type(error).__name__}): download it again"
        else:
            return
        self.unreadable.append({"archive": archive, "member": member, "cause": cause})
        # An empty member loses no text: it is listed, and does not count here.
        lost = sum(entry["cause"] != "empty" for entry in self.unreadable)
        if lost > self.allowed:
            raise Mistake(
                f"{lost} of {self.members:,} members are unreadable, and --max_unreadable allows {self.allowed}; "
                f"the last is {archive}{':' * bool(member)}{member}: {cause}"
            )
