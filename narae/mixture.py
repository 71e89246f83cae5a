"""Several packed sets that are read as one: their rows numbered through, and mixed by weight.

sets = open_sets("books:0.7,news:0.3")
rows = Mixture([PackedRows(packed) for packed, _ in sets], [weight for _, weight in sets], seed=42)
rows.mixing(np.arange(8))               # the first eight rows that training reads
"""

import functools
from collections.abc import Iterable, Sequence

import numpy as np

from narae.artifact import Artifact, maker, open_artifact
from narae.log import Mistake
from narae.order import Mixing, whole_weights
from narae.packed import PackedRows


def open_sets(words: str) -> list[tuple[Artifact, str]]:
    """The packed sets of `books:0.7,news:0.3`, each with its weight; without one it is 1."""
    found: list[tuple[Artifact, str]] = []
    for word in words.split(","):
        name, colon, weight = word.strip().rpartition(":")
        packed = open_artifact("packed", name if colon else weight)
        if any(packed.path == other.path for other, _ in found):
            raise Mistake(f"--packed {words}: '{packed.name}' comes twice; give it one weight")
        found.append((packed, weight if colon else "1"))
    check([packed for packed, _ in found])
    return found


def check(sets: Sequence[Artifact]) -> None:
    """Rows that are mixed have one length and were made with one tokenizer."""
    first = sets[0]
    for other in sets[1:]:
        one, two = (packed.counts["sequence_length"] for packed in (first, other))
        remake = f"run `{maker('packed', other.path.name)} --overwrite"
        if one != two:
            raise Mistake(
                f"packed '{first.name}' has rows of {one} tokens, '{other.name}' of {two}: "
                f"{remake} --sequence_length {one}`, or train on one of them"
            )
        made, with_other = (_tokenizer(packed) for packed in (first, other))
        if made["fingerprint"] != with_other["fingerprint"]:
            raise Mistake(
                f"packed '{first.name}' was made with tokenizer '{made['name']}' {made['fingerprint']}, '{other.name}' "
                f"with '{with_other['name']}' {with_other['fingerprint']}: "
                f"{remake} --tokenizer {made['name']}`, or train on one of them"
            )


def _tokenizer(packed: Artifact) -> dict[str, str]:
    return next(one for one in packed.manifest["parents"] if one["kind"] == "tokenizer")


class Mixture:
    """The rows of several sets by one number, and the row at each position of training. One set is itself."""

    def __init__(
        self, sets: Sequence[PackedRows], weights: Iterable[str] = (), seed: int = 0, mixing: Mixing | None = None
    ):
        check([rows.artifact for rows in sets])
        self.sets = list(sets)
        lengths = tuple(len(rows) for rows in sets)
        self.mixing = mixing or Mixing(lengths, whole_weights(list(weights) or ["1"] * len(lengths)), seed)
        self.sequence_length = sets[0].sequence_length
        self.counts = {key: sum(rows.counts[key] for rows in sets) for key in ("rows", "tokens", "bytes")}

    def __len__(self) -> int:
        return sum(self.mixing.rows)

    def __getitem__(self, row: int) -> np.ndarray:
        rows, number = self.locate(row)
        return rows[number]

    def labels(self, row: int) -> np.ndarray:
        rows, number = self.locate(row)
        return rows.labels(number)

    def positions(self, row: int) -> np.ndarray:
        rows, number = self.locate(row)
        return rows.positions(number)

    def documents(self, row: int) -> np.ndarray:
        rows, number = self.locate(row)
        return rows.documents(number)

    def begins(self, row: int) -> np.ndarray:
        rows, number = self.locate(row)
        return rows.begins(number)

    def sources(self, row: int) -> np.ndarray:
        """As places in `source_names`: a name that two sets have is one source."""
        rows, number = self.locate(row)
        places = np.array([self.source_names.index(name) for name in rows.source_names] + [-1])
        return places[rows.sources(number)]

    @functools.cached_property
    def source_names(self) -> list[str]:
        return sorted({name for rows in self.sets for name in rows.source_names})

    def locate(self, row: int) -> tuple[PackedRows, int]:
        """The set that a row lies in, and its number there."""
        if not 0 <= row < len(self):
            raise IndexError(f"row {row} of {len(self):,}")
        for rows in self.sets:
            if row < len(rows):
                break
            row -= len(rows)
        return rows, row

    @property
    def shares(self) -> list[float]:
        return [weight / sum(self.mixing.weights) for weight in self.mixing.weights]
