"""What tests of reading share: everything that some sources hold, in order."""

import json
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from corpus import reader
from corpus.plain import Raw
from corpus.reader import Reader
from corpus.sources import files_of, sources_of


def stream(*entries: Any) -> Iterator[Raw]:
    files = files_of(sources_of(entries, {}))
    with Reader(files) as opened:
        for unit in reader.units(files):
            for _, _, raw in opened.read(unit):
                yield raw


def read(*entries: Any, size: int = reader.RANGE, **defaults: Any) -> tuple[list[tuple[str, Raw]], Reader]:
    """(id, document) of all that the sources hold, and the reader with its counts."""
    places = [entry if isinstance(entry, dict) else str(entry) for entry in entries]
    files = files_of(sources_of(places, defaults))
    with Reader(files) as opened:
        found = [
            (f"{place}#{number}", raw) for unit in reader.units(files, size) for place, number, raw in opened.read(unit)
        ]
    names = [name for name, _ in found]
    assert len(set(names)) == len(names)
    return found, opened


def texts(*entries: Any, **options: Any) -> list[str]:
    """What is read where nothing is wrong."""
    found, opened = read(*entries, **options)
    assert opened.unreadable == []
    assert [raw.fault for _, raw in found if raw.fault] == []
    return [raw.text for _, raw in found]


def ids(*entries: Any, **options: Any) -> list[str]:
    return [name for name, _ in read(*entries, **options)[0]]


def causes(opened: Reader) -> list[tuple[str, str]]:
    """(file or member, why it could not be read)"""
    return [(entry["member"] or entry["archive"], entry["cause"]) for entry in opened.unreadable]


def write_zip(path: Path, members: dict[str, bytes | str], method: int = zipfile.ZIP_DEFLATED) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return path


def books(*paragraphs: str) -> bytes:
    """A member of data set 653."""
    listed = [{"id": f"{n}", "info": {}, "sentences": [{"text": text}]} for n, text in enumerate(paragraphs)]
    return json.dumps({"paragraphs": listed}, ensure_ascii=False).encode()
