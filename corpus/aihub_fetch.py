"""One file of AIHub on its way: from the tar to its place, with what is needed to go on after a cut or a kill.

Parts are written where they belong in the file that they are parts of, whatever their order, so nothing is ever joined.
"""

import contextlib
import errno
import fcntl
import json
import lzma
import os
import re
import shutil
import struct
import time
import zipfile
import zlib
from collections import Counter
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from tarfile import TarInfo

from corpus.aihub_api import Remote, Server
from corpus.aihub_stream import BLOCK, CutError, DamagedError, RefusedError, Stream, UnmarkedError, header, place
from narae.log import Mistake, Progress, say

STATE = ".download"  # below the folder: the lock, what has arrived, and what is on its way
CHUNK = 1 << 18
SAVE = 1.0  # seconds of a download that a kill loses, where the server resumes at all
READ = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA)
METHODS = {9: "deflate64", 93: "zstd", 95: "xz", 98: "PPMd", 99: "AES"}
FAULTS = (zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, ValueError, RuntimeError, struct.error, OSError)


class DamagedZipError(DamagedError):
    """All of it is there."""


@dataclass
class Begun:
    """How far a file has come: the first `at` bytes of its tar are on disk. Within a member, nothing else changes, and
    for the next one it is replaced as a whole: an interrupt in between leaves it true."""

    at: int = 0
    end: int = 0  # byte of the tar where the member that lies at `at` ends
    path: str = ""  # the file that it is a part of; none where it is dropped
    start: int = 0  # byte of that file where this part ends up
    size: int = 0
    files: dict[str, list[tuple[int, int]]] = field(default_factory=dict)  # path -> (start, size) of each part
    tag: str = ""  # the ETag: a resumed tar must be the same one
    whole: bool = False


class Folder:
    """Where the files go, for one process at a time, and what is known about them.

    `done`: key -> (path, bytes) of what arrived and was right.
    """

    def __init__(self, path: Path, dataset: int):
        self.path, self.dataset = path, dataset
        self.state = path / STATE
        self.record = self.state / f"{dataset}.json"

    def __enter__(self) -> "Folder":
        self.state.mkdir(parents=True, exist_ok=True)
        self.lock = (self.state / "lock").open("w")
        try:
            fcntl.flock(self.lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self.lock.close()
            raise Mistake(f"another download writes to {self.path}: wait for it, or name another --to") from None
        self.done: dict[str, list[tuple[str, int]]] = {}
        self.begun: dict[str, Begun] = {}
        # Without a record, or with a damaged one, what lies there is checked again.
        with contextlib.suppress(FileNotFoundError, ValueError, TypeError, KeyError):
            known = json.loads(self.record.read_text(encoding="utf-8"))
            self.done, self.begun = known["done"], {key: Begun(**values) for key, values in known["begun"].items()}
        return self

    def __exit__(self, *error: object) -> None:
        self.lock.close()

    def save(self) -> None:
        begun = {key: asdict(values) for key, values in self.begun.items()}
        beside = self.record.with_suffix(".tmp")
        beside.write_text(json.dumps({"done": self.done, "begun": begun}, ensure_ascii=False), encoding="utf-8")
        beside.replace(self.record)

    def has(self, remote: Remote) -> bool:
        """Whether it arrived before. What somebody else put there counts, too, once its CRCs are checked."""
        known = self.done.pop(str(remote.key), [])
        if known and all((self.path / path).is_file() and (self.path / path).stat().st_size == n for path, n in known):
            self.done[str(remote.key)] = known
            return True
        for path in (remote.path, remote.path.replace(" ", "_")):  # in the tar, spaces may have become underscores
            file = self.path / path
            if ".." in path.split("/") or not remote.is_zip or not file.is_file():
                continue
            if remote.fits(file.stat().st_size):
                with contextlib.suppress(DamagedError):
                    check_zip(file)
                    self.done[str(remote.key)] = [(path, file.stat().st_size)]
                    self.save()
                    return True
        return False

    def partials(self, key: int) -> list[Path]:
        begun = self.begun.get(str(key), Begun())
        return [self.state / f"{self.dataset}-{key}-{number}.partial" for number in range(len(begun.files))]

    def drop(self, key: int) -> None:
        for file in self.partials(key):
            file.unlink(missing_ok=True)
        self.begun.pop(str(key), None)
        self.save()


@dataclass
class Fetch:
    server: Server
    folder: Folder
    remote: Remote
    bar: Progress
    before: int = 0  # bytes that the bar shows for the files before
    volume: bool = False  # of a zip in several volumes, which zipfile cannot open
    saved: float = 0.0  # when the state was

    def run(self) -> None:
        """A damaged file is fetched once more: what went wrong on the way need not happen again."""
        for again in (False, True):
            try:
                self.server.patiently(self.remote.name, self._attempt, self.bar.close)
                return
            except DamagedError as error:
                self.bar.close()
                if isinstance(error, RefusedError):
                    self.folder.drop(self.remote.key)
                    raise
                if again:
                    raise DamagedError(f"{error}{self._put_aside(error)}") from None
                say(f"{self.remote.name}: {error}; fetched once more")
                self.folder.drop(self.remote.key)

    def _attempt(self) -> None:
        key = self.remote.key
        if not all(file.exists() for file in self.folder.partials(key)):
            self.folder.drop(key)
        begun = self.folder.begun.setdefault(str(key), Begun())
        cut: CutError | None = None
        if not begun.whole:
            with self.server.open(self.folder.dataset, key, begun.at, begun.tag) as stream:
                if stream.at != begun.at:
                    self.bar.close()
                    say(f"{self.remote.name}: AIHub does not go on in the middle of a file, so it starts again")
                    self.folder.drop(key)
                    begun = self.folder.begun[str(key)] = Begun()
                begun.tag = stream.tag
                try:
                    self._receive(stream, begun)
                except UnmarkedError as error:
                    cut = error
                finally:
                    self.folder.save()
        try:
            sizes = self._check(self.folder.begun[str(key)], marked=cut is None)
        except DamagedError as error:
            raise cut or error from None
        self._publish(sizes)

    def _receive(self, stream: Stream, begun: Begun) -> None:
        key = str(self.remote.key)
        while True:
            if begun.at < begun.end:
                self._member(stream, begun)
            stream.exactly(-begun.at % BLOCK)
            info = header(stream)
            if info is None:
                self.folder.begun[key] = replace(begun, whole=True)
                return
            begun = self.folder.begun[key] = self._next(info, begun, stream.at)

    def _member(self, stream: Stream, begun: Begun) -> None:
        with contextlib.ExitStack() as stack:
            out = None
            if begun.path:
                file = self.folder.partials(self.remote.key)[list(begun.files).index(begun.path)]
                file.touch()
                # unbuffered: what counts as written has been written, even if the disk is full before the next byte
                out = stack.enter_context(file.open("r+b", buffering=0))
                out.seek(begun.start + begun.size - (begun.end - begun.at))
            while begun.at < begun.end:
                data = stream.read(min(begun.end - begun.at, CHUNK))
                if not data:
                    raise CutError(f"the answer is over after {stream.at:,} bytes, in the middle of a file")
                while data:
                    written = out.write(data) if out else len(data)
                    begun.at += written
                    data = data[written:]
                self.bar.update((self.before + min(begun.at, self.remote.size)) / 1e6, self.remote.name)
                if time.monotonic() - self.saved > SAVE:
                    self.folder.save()
                    self.saved = time.monotonic()

    def _next(self, info: TarInfo, begun: Begun, at: int) -> Begun:
        path = place(info)
        if info.isdir():
            return replace(begun, at=at, end=at)
        found = re.fullmatch(r"(.+)\.part(\d+)", path, re.IGNORECASE)
        path, number = (found[1], int(found[2])) if found else (path, 0)
        sizes = dict(begun.files.get(path, []))
        # A part is called by the byte that it starts at, or counted; those before the last are then all of one size.
        start = number if number >= sizes.get(0, 0) else number * sizes[0]
        if sizes.get(start, info.size) != info.size:
            raise DamagedError(f"the part at byte {start:,} comes twice, with {sizes[start]:,} and {info.size:,} bytes")
        after = replace(begun, at=at, end=at + info.size, path="", start=start, size=info.size)
        if start in sizes:  # AIHub was seen to send all parts of a file twice in one tar
            return after
        if info.size > shutil.disk_usage(self.folder.path).free:  # the list may be wrong
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return replace(after, path=path, files={**begun.files, path: [*begun.files.get(path, []), (start, info.size)]})

    def _check(self, begun: Begun, marked: bool) -> dict[str, int]:
        """path -> bytes. Every byte must be there, and right as far as that can be known."""
        if not begun.files:
            raise DamagedError("the tar holds no file")
        sizes: dict[str, int] = {}
        for file, (path, parts) in zip(self.folder.partials(self.remote.key), begun.files.items(), strict=True):
            end = 0
            for start, size in sorted(parts):
                if start != end:
                    raise DamagedError(f"a part is missing: after {end:,} bytes comes the one for byte {start:,}")
                end += size
            file.touch()  # an empty one was never written to
            if path.lower().endswith(".zip"):
                if note := "one volume of a zip, whose CRCs cannot be checked" if self.volume else check_zip(file):
                    self.bar.close()
                    say(f"{self.remote.name}: {note}")
            elif not marked and not self.remote.fits(end):
                raise DamagedError("cut off")
            sizes[path] = end
            others = [key for key, files in self.folder.done.items() for name, _ in files if name == path]
            if others:
                raise RefusedError(f"{path} is what file {others[0]} is called, too")
        return sizes

    def _publish(self, sizes: dict[str, int]) -> None:
        for file, path in zip(self.folder.partials(self.remote.key), sizes, strict=True):
            with file.open("rb") as written:
                os.fsync(written.fileno())
            target = self.folder.path / path
            target.parent.mkdir(parents=True, exist_ok=True)
            file.replace(target)
        self.folder.done[str(self.remote.key)] = list(sizes.items())
        self.folder.drop(self.remote.key)
        self._aside().unlink(missing_ok=True)

    def _aside(self) -> Path:
        return self.folder.state / f"{self.folder.dataset}-{self.remote.key}.damaged"

    def _put_aside(self, error: DamagedError) -> str:
        """A zip that is whole but damaged, for a person to look at: where collect.py does not."""
        kept = ""
        for file in self.folder.partials(self.remote.key)[:1]:
            if isinstance(error, DamagedZipError):
                kept = f", kept as {file.replace(self._aside())}"
        self.folder.drop(self.remote.key)
        return kept


def check_zip(path: Path) -> str:
    """Reads every member against its CRC, and says which ones it could not."""
    unread: Counter[str] = Counter()
    name = ""
    try:
        with zipfile.ZipFile(path) as archive:
            for info in archive.infolist():
                name = f" in {info.filename}" if info.flag_bits & 0x800 or info.filename.isascii() else " in a member"
                if info.flag_bits & 1:
                    unread["encrypted"] += 1
                elif info.compress_type not in READ:
                    unread[METHODS.get(info.compress_type, f"method {info.compress_type}")] += 1
                else:
                    with archive.open(info) as member:
                        while member.read(1 << 20):
                            pass
    except FAULTS as error:
        raise DamagedZipError(f"a damaged zip ({error or type(error).__name__}{name})") from None
    said = " and ".join(f"{count} {kind}" for kind, count in sorted(unread.items()))
    return f"{said} members, whose CRCs cannot be checked here (7z t can)" if said else ""
