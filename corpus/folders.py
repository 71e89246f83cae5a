"""What lies in folders: files in a fixed order, each with its label, and what is there but cannot be read."""

import itertools
import os
import re
import unicodedata
from collections.abc import Iterator
from pathlib import Path

from corpus import tables, zips
from narae.log import Mistake

# What systems leave in folders, and the list of splits that `save_to_disk` writes beside them.
IGNORED = re.compile(r"(^|/)(\.|__MACOSX/|__MACOSX$|Thumbs\.db$|desktop\.ini$|dataset_dict\.json$)")
_WILD = re.compile(r"[*?\[]")


def roots(place: str) -> list[tuple[Path, Path]]:
    """(what is meant, the folder that its labels leave out) for a path or a pattern."""
    path = Path(place).expanduser().absolute()
    if os.path.lexists(path):
        return [(path, path if path.is_dir() else path.parent)]
    base = fixed(path)
    if base == path or not base.is_dir():
        return []
    try:
        return [(found, base) for found in sorted(base.glob(str(path.relative_to(base))))]
    except OSError as error:
        raise Mistake(f"--sources {place}: {zips.cause_of(error)}") from None


def fixed(path: Path) -> Path:
    """The steps in front of the first with a wildcard."""
    return Path(*itertools.takewhile(lambda step: not _WILD.search(step), path.parts))


def files_below(root: Path) -> Iterator[tuple[Path, str]]:
    """(file, "") for each file, (what else is there, why it cannot be read). Each folder once: links may go round."""
    if not root.is_dir():
        yield root, _fault(root)
        return
    seen: set[tuple[int, int]] = set()
    waiting = [root]
    while waiting:
        folder = waiting.pop()
        try:
            about = folder.stat()
            if (about.st_dev, about.st_ino) in seen:
                continue
            seen.add((about.st_dev, about.st_ino))
            if tables.is_saved(folder):
                yield from ((path, _fault(path)) for path in tables.shards_of(folder))
                continue
            inside = {path: path.is_dir() for path in sorted(folder.iterdir()) if not IGNORED.search(path.name)}
        except (*zips.FAULTS, KeyError, TypeError, AttributeError) as error:
            yield folder, zips.cause_of(error)
            continue
        yield from ((path, _fault(path)) for path, is_folder in inside.items() if not is_folder)
        waiting += reversed([path for path, is_folder in inside.items() if is_folder])


def _fault(path: Path) -> str:
    try:
        return "" if path.is_file() else f"{zips.kind_of_node(path)}, not a file"
    except OSError as error:
        lost = path.is_symlink() and not isinstance(error, PermissionError)
        return "a link to nothing" if lost else zips.cause_of(error)


def label_of(path: Path, base: Path) -> str:
    """The path below the base in NFC, as text that can be written: on Linux a name is any bytes, and some are cp949."""
    raw = os.fsencode(path.relative_to(base))
    try:
        name = raw.decode("utf-8")
    except UnicodeDecodeError:
        name = raw.decode("cp949", "replace")
    return unicodedata.normalize("NFC", name).replace("\n", "_")
