"""What is to be done for a corpus, cut into pieces that any number of workers can take."""

from dataclasses import dataclass
from typing import ClassVar

from corpus.marks import Settings
from corpus.quality import Limits
from corpus.reader import Unit
from corpus.sources import File
from narae import work

# Text per piece: enough of them to share the work evenly, each large enough to be worth a process.
SMALLEST, PIECES = 4_000_000, 64


@dataclass
class Plan(work.Plan):
    kind: ClassVar[str] = "corpus"
    files: list[File]
    pieces: list[list[Unit]]
    allowed: int  # unreadable members that are put up with
    broken_share: float  # the same of broken documents
    limits: dict[str, Limits]  # by source
    held_out: set[str]  # sources whose archives say what is for validation
    alike: Settings
    keep_near: bool
    val_fraction: float
    shard_bytes: int
    no_text: bool

    def size(self, piece: int) -> int:
        return sum(unit.bytes for unit in self.pieces[piece])

    @property
    def largest_first(self) -> list[int]:
        """So that no worker begins a large piece when the others have nothing left to do."""
        return sorted(range(len(self.pieces)), key=lambda piece: (-self.size(piece), piece))


def pieces_of(files: list[File], units: list[Unit], shard_bytes: int) -> list[list[Unit]]:
    """Neighbouring units of one source. A source with --max_documents is one piece: its first documents are wanted."""
    room = min(shard_bytes, max(SMALLEST, sum(unit.bytes for unit in units) // PIECES))
    pieces: list[list[Unit]] = []
    filled, before = 0, None
    for unit in units:
        source = files[unit.file].source
        full = filled + unit.bytes > room and not source.max_documents
        if source is not before or (full and filled):
            pieces.append([])
            filled = 0
        pieces[-1].append(unit)
        filled += unit.bytes
        before = source
    return pieces
