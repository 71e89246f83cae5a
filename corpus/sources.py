"""What the user pointed at: sources, and their files in a fixed order.

given = sources_of(["/data/news.jsonl.zst", "books=/data/029*"], {"document": "blank"})
files = files_of(given)
"""

import contextlib
import hashlib
import math
import os
import re
import unicodedata
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from corpus import aihub, folders, plain, tables, zips
from narae.config import unknown
from narae.log import Mistake

FORMATS = ("text", "jsonl", "csv", "tsv", "parquet", "dataset")
# What a run may say once for all its sources.
DEFAULTS = ("licence", "schema", "text_field", "document", "max_documents")
CHOICES = {"document": ("line", "blank", "file"), "schema": ("", *FORMATS, *aihub.SCHEMAS)}
# A folder named so in the source, or anywhere above it where AIHub's spelling leaves no doubt.
_VALIDATION = re.compile(r"(^|/)(\d+[._ -]*)?validation/", re.IGNORECASE)
_AIHUB_VALIDATION = re.compile(r"/\d+\.\s*Validation/|/V[LS]_[^/]*\.zip[^/]*$")


@dataclass
class Source:
    """An entry of --sources. `quality`: a name, "" where the run's is meant."""

    path: list[str]
    name: str
    licence: str = ""
    weight: float = 1.0
    schema: str = ""
    text_field: str = "text"
    document: str = "blank"
    quality: str = ""
    max_documents: int = 0

    def described(self) -> dict[str, Any]:
        """What of it decides a result: not where files lie, they are known by what they hold."""
        return asdict(self) | {"path": [place for place in self.path if place.startswith("hub:")]}


@dataclass
class File:
    """An archive or a single file. `label`: the source's name and the path below it. `fault`: why it is no file."""

    label: str
    source: Source
    paths: list[Path] = field(default_factory=list)
    kind: str = "plain"  # or zip, parquet, arrow, hub
    fault: str = ""
    validation: bool = False  # its publisher holds it out
    archive: str = ""  # what it is called in ids of an AIHub set
    place: str = ""  # what it is called in all other ids

    @property
    def bytes(self) -> int:
        with contextlib.suppress(OSError):
            return sum(path.stat().st_size for path in self.paths)
        return 0


def sources_of(entries: Sequence[Any], defaults: dict[str, Any]) -> list[Source]:
    """From paths and NAME=PATH of a command line, and from mappings of a yaml file."""
    found: dict[str, Source] = {}
    for entry in entries:
        source = _source(defaults | (entry if isinstance(entry, dict) else _spoken(entry)))
        if source.name in found:
            twins = ", ".join(found[source.name].path), ", ".join(source.path)
            raise Mistake(
                f"--sources: {' and '.join(twins)} are both called {source.name}: give one another name, "
                f"other={source.path[0]} on the command line or `name: other` in yaml"
            )
        found[source.name] = source
    return list(found.values())


def _spoken(entry: Any) -> dict[str, Any]:
    if not isinstance(entry, str):
        raise Mistake(f"--sources {entry!r}: a source is a path, or in yaml a mapping with `path:`")
    named = re.fullmatch(r"(?P<name>[^/=*?\[]+)=(?P<path>.+)", entry)
    return named.groupdict() if named and not folders.roots(entry) else {"path": entry}


def _source(said: dict[str, Any]) -> Source:
    kinds = {each.name: each.type for each in fields(Source)}
    for key in said:
        if key not in kinds:
            raise Mistake("--sources: " + unknown("key", str(key), set(kinds)))
    places = [said["path"]] if isinstance(said.get("path"), str) else said.get("path")
    if not places or not isinstance(places, list) or not all(isinstance(place, str) and place for place in places):
        raise Mistake(f"--sources {said}: `path` is to be a path or a list of paths")
    said = said | {"path": places, "name": said.get("name") or _name_of(places[0])}
    for key, value in said.items():
        wanted: Any = {"weight": (int, float), "max_documents": int, "path": list}.get(key, str)
        if not isinstance(value, wanted) or isinstance(value, bool):
            what = {"weight": "a number", "max_documents": "a whole number"}.get(key, "text")
            raise Mistake(f"source {said['name']}: {key} is to be {what}, and {value!r} is not")
    source = Source(**said)
    source.name = unicodedata.normalize("NFC", source.name)
    if re.search(r"[/\n]", source.name):
        raise Mistake(f"source {source.name!r}: a name is the first step of the ids, and has no / in it")
    for key, choices in CHOICES.items():
        if getattr(source, key) not in choices:
            there = ", ".join(filter(None, choices))
            raise Mistake(f"source {source.name}: {key} {getattr(source, key)!r} is none of {there}")
    if not (0 < source.weight < math.inf and source.max_documents >= 0):
        said_so = f"weight {source.weight}, max_documents {source.max_documents}"
        raise Mistake(f"source {source.name}: {said_so}: a weight is above 0, and 0 documents means all")
    return source


def _name_of(place: str) -> str:
    """The stem of a file, the name of a folder or data set; of a pattern, the folder in which it looks."""
    if place.startswith("hub:"):
        tables.hub_split(place)
        place = place.removeprefix("hub:").partition("@")[0].partition(":")[0]
        return Path(place).absolute().name
    path = Path(place).expanduser().absolute()
    if not os.path.lexists(path):
        path = folders.fixed(path)
    if path.is_file() or not path.exists():
        path = Path(plain.PACKED_NAME.sub("", path.name))
        path = path.with_suffix("") if path.name else path
    return folders.label_of(Path(path.name or "files"), Path())


def files_of(sources: Sequence[Source]) -> list[File]:
    """Every file of the sources, parts joined, sorted by label within a source. What does not exist is a mistake."""
    files = [file for source in sources for file in _files(source)]
    zipped = Counter(Path(file.label).stem for file in files if file.kind == "zip")
    bare = Counter(re.sub(r"\.zip$", "", file.label) for file in files)
    for file in files:
        stem, short = Path(file.label).stem, re.sub(r"\.zip$", "", file.label)
        file.archive = stem if file.kind == "zip" and zipped[stem] == 1 else file.label
        file.place = short if bare[short] == 1 else file.label
    return files


def _files(source: Source) -> Iterator[File]:
    found: dict[Path, tuple[str, bool, str]] = {}
    for place in source.path:
        if place.startswith("hub:"):
            yield File(f"{source.name}/{tables.hub_split(place)}", source, [Path(place)], "hub")
            continue
        roots = folders.roots(place)
        if not roots:
            raise Mistake(f"--sources {place}: no such file or folder, and no file matches it as a pattern")
        for root, base in roots:
            base = root.parent if len(source.path) > 1 else base
            for path, fault in folders.files_below(root):
                if path == root and fault:
                    raise Mistake(f"--sources {root}: {fault}")
                below = str(path.relative_to(root.parent))
                held_out = bool(_VALIDATION.search(below) or _AIHUB_VALIDATION.search(str(path)))
                found[path] = f"{source.name}/{folders.label_of(path, base)}", held_out, fault
    by_label: dict[str, Path] = {}
    for path, (label, _, _) in found.items():
        if by_label.setdefault(label, path) != path:
            raise Mistake(f"--sources: {by_label[label]} and {path} would both be called {label}; rename one")
    if not found and not any(place.startswith("hub:") for place in source.path):
        raise Mistake(f"--sources {', '.join(source.path)}: there is no file in it")
    for whole, paths in zips.gather(sorted(found, key=found.__getitem__)):
        label, held_out, _ = found[paths[0]]
        if whole != paths[0]:
            label = label[: label.rfind(".")]  # .part0
        kind, fault = _kind(paths, next((found[path][2] for path in paths if found[path][2]), ""))
        yield File(label, source, paths, kind, fault, held_out)


def _kind(paths: list[Path], fault: str) -> tuple[str, str]:
    if fault:
        return "plain", fault
    try:
        with zips.opened(paths[0]) as file:
            head = file.read(4)
    except zips.FAULTS as error:
        return "plain", zips.cause_of(error)
    if zips.is_zip(paths[0], head):
        return "zip", ""
    if head == b"PAR1":
        return "parquet", ""
    return "arrow" if paths[0].suffix == ".arrow" else "plain", ""


def fingerprints(files: Sequence[File]) -> dict[str, list[object]]:
    """Size and a hash of both ends: what tells another input from this one without reading 18 GB."""
    marks: dict[str, list[object]] = {}
    for file in files:
        if file.kind == "hub":
            for number, name in enumerate(tables.hub_files(str(file.paths[0]))):
                marks[f"{file.label}:{number}"] = _mark(Path(name)) if Path(name).exists() else [name]
            continue
        for path in file.paths:
            marks[f"{file.label}:{path.name}" if len(file.paths) > 1 else file.label] = _mark(path)
    return marks


def _mark(path: Path) -> list[object]:
    try:
        with zips.opened(path) as file:
            size = path.stat().st_size
            digest = hashlib.sha256(file.read(1 << 16))
            file.seek(max(0, size - (1 << 16)))
            digest.update(file.read(1 << 16))
    except zips.FAULTS as error:
        return [0, zips.cause_of(error)]
    return [size, digest.hexdigest()[:16]]
