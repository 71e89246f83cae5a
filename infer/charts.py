"""Numbers, tables and charts as HTML. Labels are text beside the drawing, so that they keep their size on a phone."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from narae.log import duration
from narae.markup import NOTHING, THIN, named, text


def korean(value: Any, limit: int = 400) -> str:
    return f'<span lang="ko">{text(value, limit)}</span>'


def whole(value: float | None) -> str:
    return NOTHING if value is None else f"{value:,.0f}".replace(",", THIN)


def decimal(value: float | None, places: int = 2) -> str:
    return NOTHING if value is None else f"{value:,.{places}f}".replace(",", THIN)


def short(value: float | None) -> str:
    """1 234 567 is 1.23 M."""
    if value is None:
        return NOTHING
    for limit, unit in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e4, "k")):
        if abs(value) >= limit:
            return f"{value / (1e3 if unit == 'k' else limit):.3g}{THIN}{unit}"
    return whole(value)


def size(value: float | None) -> str:
    if value is None:
        return NOTHING
    for limit, unit in ((1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if value >= limit:
            return f"{value / limit:.{1 if value < 100 * limit else 0}f}{THIN}{unit}"
    return f"{value:.0f}{THIN}B"


def percent(value: float | None, places: int = 1) -> str:
    return NOTHING if value is None else f"{100 * value:.{places}f}{THIN}%"


def missing(what: str, command: str, does: str = "makes it") -> str:
    return f'<p class="missing">{what} <code>{text(command)}</code> {does}.</p>\n'


def took(seconds: float) -> str:
    return duration(seconds).replace(" ", THIN)


def facts(pairs: list[tuple[str, str]]) -> str:
    cells = "".join(f"<div><dt>{key}</dt><dd>{value}</dd></div>" for key, value in pairs if value != NOTHING)
    return f'<dl class="facts">{cells}</dl>\n' if cells else ""


def bar(start: float, share: float, style: str = "") -> str:
    """A bar within a table cell, both numbers as shares of its width; what is there but tiny stays visible."""
    width = max(share, 0.004) if share > 0 else 0.0
    left = min(max(start, 0.0), 1 - width)
    return (
        f'<svg class="bar {style}" aria-hidden="true"><rect class="track" width="100%" height="100%"/>'
        f'<rect x="{100 * left:.2f}%" width="{100 * width:.2f}%" height="100%"/></svg>'
    )


def ticks(low: float, high: float, count: int = 4) -> list[float]:
    """Round numbers from at most `low` to at least `high`, about `count` steps apart."""
    span = (high - low) or abs(high) or 1.0
    power = 10.0 ** math.floor(math.log10(span / count))
    step = next(power * factor for factor in (1, 2, 2.5, 5, 10) if power * factor * count >= span * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [step * place for place in range(first, max(last, first + 1) + 1)]


@dataclass
class Series:
    name: str
    points: list[tuple[float, float]]
    style: str  # faint, strong
    dots: bool = False
    tag: bool = False  # named at its end; those that are not are named in the heading


@dataclass
class Marks:
    """Upright lines where something happened."""

    name: str
    places: list[float]
    style: str  # restart, broken


def ceiling(values: list[float]) -> float:
    """A few values far above all others would press the rest flat: the drawing ends below them."""
    ordered = sorted(values)
    if len(ordered) < 50:
        return ordered[-1]
    least, most = ordered[0], ordered[int(0.98 * (len(ordered) - 1))]
    limit = most + (most - least) / 2
    return limit if ordered[-1] - least > 1.5 * (limit - least) else ordered[-1]


def line_chart(
    title: str, series: Sequence[Series], unit: str, style: str = "", zero: bool = False, marks: Sequence[Marks] = ()
) -> str:
    """Lines over one x axis. The drawing stretches; strokes and labels do not."""
    series = [one for one in series if one.points]
    if not series:
        return ""
    every = [point for one in series for point in one.points]
    right = max(0.0, *(x for x, _ in every)) or 1.0
    values = [y for _, y in every]
    levels = ticks(min([0.0, *values] if zero else values), ceiling(values))
    bottom, top = levels[0], levels[-1]
    stops = [stop for stop in ticks(0.0, right) if stop <= right * 1.0001]
    marks = [Marks(one.name, [x for x in one.places if x <= right], one.style) for one in marks]
    marks = [one for one in marks if one.places]

    def place(x: float, y: float) -> tuple[float, float]:
        return 1000 * x / right, 1000 * (top - min(y, top)) / (top - bottom)

    drawn = "".join(f'<path class="grid" d="M0 {place(0, level)[1]:.1f}H1000"/>' for level in levels)
    drawn += "".join(
        f'<path class="{one.style}" d="{"".join(f"M{place(x, top)[0]:.1f} 0V1000" for x in one.places)}"/>'
        for one in marks
    )
    for one in series:
        spots = [place(x, y) for x, y in one.points]
        line = " ".join(f"{x:.1f},{y:.1f}" for x, y in spots)
        drawn += f'<polyline class="{one.style}" data-name="{text(one.name)}" points="{line}"/>'
        if one.dots and len(spots) <= 60:
            dots = "".join(f"M{x:.1f} {y:.1f}h0" for x, y in spots)
            drawn += f'<path class="dots {one.style}" d="{dots}"/>'
    above = [(x, y) for x, y in every if y > top]
    said = [f"{text(one.name)} from {_tick(one.points[0][1])} to {_tick(one.points[-1][1])}".strip() for one in series]
    said += [f"{one.name} at {', '.join(_tick(x) for x in one.places)}" for one in marks]
    note = ""
    if above:
        drawn += f'<path class="dots above" d="{"".join(f"M{place(x, y)[0]:.1f} 0h0" for x, y in above)}"/>'
        note = f"{len(above)} above {_tick(top)}, at most {_tick(max(y for _, y in above))}"
        said.append(note)
    left = "".join(f'<i style="top:{place(0, level)[1] / 10:.1f}%">{_tick(level)}</i>' for level in levels)
    below = "".join(_below(stop / right, _tick(stop)) for stop in stops)
    keys = [(one.style, named(one.name)) for one in series if len(series) > 1 and not one.tag]
    keys += [(one.style, one.name) for one in marks] + ([("above", note)] if note else [])
    legend = "".join(f'<span class="key {kind}">{words}</span>' for kind, words in keys)
    tags = _tags([(one.name, place(*one.points[-1])[1] / 10) for one in series if one.tag])
    return (
        f'<figure class="chart {style}" data-right="{right:g}" data-bottom="{bottom:g}" data-top="{top:g}">'
        f"<figcaption><b>{title}</b>{legend}<output></output></figcaption>"
        f'<div class="plot{" tagged" if tags else ""}"><div class="levels" aria-hidden="true">{left}</div>'
        f'<svg viewBox="0 0 1000 1000" preserveAspectRatio="none" role="img" '
        f'aria-label="{title}: {"; ".join(said)}, over {_tick(right)} {unit}">{drawn}</svg>{tags}'
        f'<div class="stops" aria-hidden="true">{below}<i class="unit">{unit}</i></div></div></figure>\n'
    )


def _tags(ends: list[tuple[str, float]], apart: float = 6.5) -> str:
    """Names beside the lines' ends, moved as far as it takes for none to lie on another."""
    heights: list[float] = []
    ends = sorted(ends, key=lambda end: end[1])
    for _, height in ends:
        heights.append(max(height, heights[-1] + apart) if heights else height)
    limit = 100.0
    for number in range(len(heights) - 1, -1, -1):
        heights[number] = min(heights[number], limit)
        limit = heights[number] - apart
    laid = (f'<i style="top:{height:.1f}%">{named(name)}</i>' for (name, _), height in zip(ends, heights, strict=True))
    return f'<div class="tags" aria-hidden="true">{"".join(laid)}</div>' if ends else ""


def _below(share: float, label: str) -> str:
    # The first and last labels would stick out, the unit stands at the right end.
    if share > 0.8:
        return ""
    return f'<i style="left:{100 * share:.1f}%"{" class=first" if share < 0.02 else ""}>{label}</i>'


def _tick(value: float) -> str:
    if value and abs(value) < 0.01:
        return f"{value:.2g}".replace("e-0", "e-")
    return short(value) if abs(value) >= 1e4 else f"{value:.4g}"
