"""Pairs of duplicates on disk, and the groups that they tie together."""

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np

READ = 1 << 20  # pairs at a time
PAIR = np.dtype(
    [("piece_a", "<u4"), ("number_a", "<u4"), ("piece_b", "<u4"), ("number_b", "<u4"), ("similarity", "<f4")]
)
STAYS, EXACT, NEAR = 0, 1, 2
MEMBER = np.dtype(
    [
        ("piece", "<u4"),
        ("number", "<u4"),
        ("of_piece", "<u4"),  # which of its group stays
        ("of_number", "<u4"),
        ("similarity", "<f4"),
        ("kind", "u1"),
        ("compared", "?"),  # the similarity is with the one that stays; else the largest that ties it to the group
    ]
)


def write_pairs(file: Path, chunks: Iterable[np.ndarray]) -> int:
    count = 0
    with file.open("wb") as stream:
        for chunk in chunks:
            chunk.tofile(stream)
            count += len(chunk)
    return count


def read_pairs(files: list[Path]) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Documents a and b, as piece << 32 | number, and their similarity; some at a time."""
    for file in files:
        with file.open("rb") as stream:
            while len(pairs := np.fromfile(stream, PAIR, READ)):
                one, other = (
                    pairs[f"piece_{side}"].astype(np.uint64) << np.uint64(32) | pairs[f"number_{side}"] for side in "ab"
                )
                yield one, other, pairs["similarity"]


def groups(
    exact: list[Path], near: list[Path], val: Callable[[np.ndarray, np.ndarray], np.ndarray] | None = None
) -> np.ndarray:
    """All documents that are in a pair (MEMBER), in order; what A and B, and B and C, tie together is one group.

    Of each group the first document stays, those first for which val(pieces, numbers) is true: a copy of what is held
    out must not be trained on. `exact` are the files of task 0. 50 bytes per document that is in a pair.
    """
    names = _named(exact + near)
    count = len(names)
    rep = np.arange(count, dtype=np.int32)  # the first document with the same text
    for one, other, _ in read_pairs(exact):
        rep[_places(names, other)] = _places(names, one)
    stays = rep.copy()
    for one, other, _ in read_pairs(near):
        _tie(stays, rep[_places(names, one)], rep[_places(names, other)])
    while (stays != (next_ones := stays[stays])).any():
        stays = next_ones
    if val is not None:
        first = np.arange(count, dtype=np.int32)
        for start in reversed(range(0, count, READ)):
            some = names[start : start + READ]
            held = start + np.flatnonzero(val((some >> np.uint64(32)).astype(np.uint32), some.astype(np.uint32)))[::-1]
            first[stays[held]] = held  # the first is written last
        stays = first[stays]
        del first
    # What was compared are the first documents of equal texts: their similarity holds for all of them. 2 is added to
    # one with what stays, so that it is the largest.
    largest = np.zeros(count, np.float32)
    for one, other, similarity in read_pairs(near):
        ends = rep[_places(names, one)], rep[_places(names, other)]
        for mine, its in (ends, ends[::-1]):
            np.maximum.at(largest, mine, similarity + 2 * (rep[stays[mine]] == its))
    found = np.zeros(count, MEMBER)
    for start in range(0, count, READ):
        rows, members = slice(start, start + READ), found[start : start + READ]
        for key, which in (("", names[rows]), ("of_", names[stays[rows]])):
            members[f"{key}piece"], members[f"{key}number"] = which >> np.uint64(32), which & np.uint64(0xFFFFFFFF)
        same, similarity = rep[rows] == rep[stays[rows]], largest[rep[rows]]
        itself = stays[rows] == np.arange(start, start + len(members))
        members["kind"] = np.select([itself, same], [STAYS, EXACT], NEAR)
        members["compared"] = same | (similarity >= 2)
        members["similarity"] = np.where(same, 1, np.where(similarity >= 2, similarity - 2, similarity))
    return found


def _named(files: list[Path]) -> np.ndarray:
    """The documents that occur, sorted."""
    names = np.empty(2 * sum(file.stat().st_size // PAIR.itemsize for file in files), np.uint64)
    end = 0
    for one, other, _ in read_pairs(files):
        for side in (one, other):
            names[end : end + len(side)] = side
            end += len(side)
    names.sort()
    fresh = np.ones(len(names), bool)
    np.not_equal(names[1:], names[:-1], out=fresh[1:])
    return names[fresh]


def _places(names: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    order = np.argsort(wanted)  # neighbours are found sooner: the names do not fit into a cache
    places = np.empty(len(wanted), np.int32)
    places[order] = np.searchsorted(names, wanted[order])
    return places


def _tie(group: np.ndarray, one: np.ndarray, other: np.ndarray) -> None:
    """Makes ends of pairs members of one group: each points to an earlier member, and the first to itself."""
    while len(one):
        for ends in (one, other):
            first = group[ends]
            while (first != (earlier := group[first])).any():
                first = earlier
            group[ends] = first
        one, other = group[one], group[other]
        apart = one != other
        one, other = one[apart], other[apart]
        np.minimum.at(group, np.maximum(one, other), np.minimum(one, other))
