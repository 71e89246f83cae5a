"""Documents into rows, so that as few as possible are cut: best fit, the longest first.

Only a document longer than a row is cut, into whole rows and a remainder. Remainders and all shorter documents go each
in the fullest row that still has room for it. All documents of a length are alike, so it is done on the lengths:
some thousand steps, whatever the number of documents.
"""

from typing import NamedTuple

import numpy as np


class Arrangement(NamedTuple):
    """Pieces of documents in the order of their places: where each begins in the text, and in the rows."""

    rows: int
    sources: np.ndarray
    places: np.ndarray
    lengths: np.ndarray
    documents: np.ndarray
    pieces: np.ndarray  # of their documents: whole rows that come before


def arrange(lengths: np.ndarray, row: int) -> Arrangement:
    """Documents of these lengths, one after another in the text, into rows of `row` tokens."""
    lengths = lengths.astype(np.int64)
    begins = np.cumsum(lengths) - lengths
    whole, rest = np.divmod(lengths, row)
    long, short = np.flatnonzero(whole), np.flatnonzero(rest)
    room_of = fit(rest[short], row)
    # Rows are in the order of the first document in them, as the text is: what belongs together stays near.
    first = np.full(room_of.max(initial=-1) + 1, lengths.size, np.int64)
    np.minimum.at(first, room_of, short)
    heights = np.concatenate([whole[long], np.ones(first.size, np.int64)])
    order = np.lexsort((np.repeat([0, 1], [long.size, first.size]), np.concatenate([long, first])))
    at = np.empty(order.size, np.int64)
    at[order] = np.cumsum(heights[order]) - heights[order]
    # Within a row, as in the text.
    inside = np.lexsort((short, room_of))
    sizes, rooms = rest[short][inside], room_of[inside]
    before = np.cumsum(sizes) - sizes
    _, where = np.unique(rooms, return_index=True)
    offsets = before - np.repeat(before[where], np.diff(np.append(where, rooms.size)))
    shorter = short[inside]
    places = np.concatenate([at[: long.size] * row, at[long.size :][rooms] * row + offsets])
    documents = np.concatenate([long, shorter])
    sources = np.concatenate([begins[long], begins[shorter] + whole[shorter] * row])
    all_lengths = np.concatenate([whole[long] * row, sizes])
    pieces = np.concatenate([np.zeros(long.size, np.int64), whole[shorter]])
    by = np.argsort(places, kind="stable")
    return Arrangement(int(heights.sum()), sources[by], places[by], all_lengths[by], documents[by], pieces[by])


def fit(sizes: np.ndarray, row: int) -> np.ndarray:
    """The row that each of these goes in, counted from 0."""
    order = np.argsort(-sizes, kind="stable")
    counts = np.bincount(sizes, minlength=row + 1)
    found = np.empty(sizes.size, np.int64)
    rooms: list[list[np.ndarray]] = [[] for _ in range(row + 1)]  # the rows with so much room
    open_rooms = 0  # as bits: which of the lists hold something
    rows = done = 0
    for size in np.flatnonzero(counts)[::-1].tolist():
        left = int(counts[size])
        while left:
            fullest = open_rooms >> size
            if fullest:
                room = size + (fullest & -fullest).bit_length() - 1
                there = np.concatenate(rooms[room])
                rooms[room] = []
                open_rooms &= ~(1 << room)
            else:
                room = row
                there = np.arange(rows, rows - (-left // (row // size)))
                rows += there.size
            each = room // size  # of this size in a row: best fit goes on with the row that it began
            full = min(left // each, there.size)
            taken = [(there[:full], each)]
            if full < there.size and left - full * each:  # the last of this size do not fill a row
                taken.append((there[full : full + 1], left - full * each))
            for chosen, number in taken:
                place = order[done : done + chosen.size * number]
                found[place] = np.repeat(chosen, number)
                done += place.size
                left -= place.size
            used = 0
            for chosen, number in [*taken, (there[sum(one.size for one, _ in taken) :], 0)]:
                after = room - number * size
                used += chosen.size
                if chosen.size and after:
                    rooms[after].append(chosen)
                    open_rooms |= 1 << after
    return found
