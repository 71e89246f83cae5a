"""Charts as inline SVG without scripts: places in percent, so that text and dots keep their size on every screen."""

import itertools
import math
from collections.abc import Sequence
from typing import NamedTuple

from narae.markup import text, whole

PHONE, DESK, HIGH = 330, 1000, 340  # pixels of the scatter: its labels are kept apart on both


Box = tuple[float, float, float, float]


class Dot(NamedTuple):
    name: str
    entries: int
    value: float
    style: str


def scatter(title: str, dots: Sequence[Dot]) -> str:
    """Over vocabulary sizes, of which each step doubles the one before."""
    powers = [math.log2(max(dot.entries, 2)) for dot in dots]
    low, bottom = math.floor(min(powers)), math.floor(min(dot.value for dot in dots))
    high, top = max(math.ceil(max(powers)), low + 1), max(math.ceil(max(dot.value for dot in dots)), bottom + 1)
    drawn = ""
    for level in range(bottom, top + 1):
        y = 6 + 84 * (top - level) / (top - bottom)
        drawn += f'<line class="grid" x1="7%" x2="100%" y1="{y:.2f}%" y2="{y:.2f}%"/>'
        drawn += f'<text x="0" y="{y:.2f}%" dy="4">{level}</text>'
    for power in range(low, high + 1):
        label = f"{2**power // 1024}k" if power >= 10 else str(2**power)
        drawn += f'<text class="middle-of" x="{10 + 84 * (power - low) / (high - low):.2f}%" y="98%">{label}</text>'
    places = [
        (10 + 84 * (power - low) / (high - low), 6 + 84 * (top - dot.value) / (top - bottom))
        for power, dot in zip(powers, dots, strict=True)
    ]
    taken = {wide: [_box(x, y, wide, -5, 5, 0) for x, y in places] for wide in (PHONE, DESK)}
    for dot, (x, y) in zip(dots, places, strict=True):
        said = f"{text(dot.name)}: {whole(dot.entries)} entries, {dot.value:.2f}"
        drawn += f'<circle class="{dot.style}" cx="{x:.2f}%" cy="{y:.2f}%" r="5"><title>{said}</title></circle>'
        drawn += _tag(text(dot.name, 14), dot.style, x, y, taken)
    return (
        f'<figure class="scatter"><figcaption class="note">{title}</figcaption>'
        f'<svg role="img" aria-label="{title}">{drawn}</svg></figure>\n'
    )


def _box(x: float, y: float, wide: int, begin: float, end: float, down: float) -> Box:
    """A place in percent and what lies around it in pixels, on a chart so wide: left, top, right, bottom."""
    left, middle = x / 100 * wide, y / 100 * HIGH + down
    return left + begin, middle - 6, left + end, middle + 6


def _tag(name: str, style: str, x: float, y: float, taken: dict[int, list[Box]]) -> str:
    """A label that hides neither dots nor other labels. Where a phone has no room for it, only wide screens show it."""
    long = 6.4 * len(name)
    for widths, dx, down in itertools.product(((PHONE, DESK), (DESK,)), (8, -8), (0, -11, 11, -23, 23)):
        begin, end = (7, 9 + long) if dx > 0 else (-9 - long, -7)
        boxes = {wide: _box(x, y, wide, begin, end, down) for wide in widths}
        if all(
            box[0] >= 15 and box[2] <= wide and not any(_overlap(box, other) for other in taken[wide])
            for wide, box in boxes.items()
        ):
            for wide, box in boxes.items():
                taken[wide].append(box)
            style += (" end-of" if dx < 0 else "") + (" roomy" if len(widths) == 1 else "")
            return f'<text class="{style}" x="{x:.2f}%" y="{y:.2f}%" dx="{dx}" dy="{down + 4}">{name}</text>'
    return ""


def _overlap(one: Box, other: Box) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]


def histogram(title: str, columns: dict[str, int]) -> str:
    top = max(columns.values(), default=0) or 1
    drawn = ""
    wide = 100 / max(len(columns), 1)
    for place, (label, value) in enumerate(columns.items()):
        high = 72 * value / top
        middle = wide * (place + 0.5)
        drawn += (
            f'<rect x="{wide * (place + 0.1):.2f}%" y="{86 - high:.2f}%" width="{wide * 0.8:.2f}%" '
            f'height="{high:.2f}%"/>'
            f'<text class="middle-of" x="{middle:.2f}%" y="{86 - high:.2f}%" dy="-4">{_short(value)}</text>'
            f'<text class="middle-of" x="{middle:.2f}%" y="97%">{label}</text>'
        )
    said = ", ".join(f"{label}: {value}" for label, value in columns.items())
    return (
        f'<figure class="histogram"><figcaption class="note">{title}</figcaption>'
        f'<svg role="img" aria-label="{title}: {said}">{drawn}</svg></figure>'
    )


def _short(value: int) -> str:
    return f"{value / 1000:.1f}k" if value >= 1000 else str(value)
