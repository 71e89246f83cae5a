"""Numbers, tables and charts as HTML. Labels are text beside the drawing, so that they keep their size on a phone."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from narae.markup import NOTHING, THIN, text


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


def line_chart(title: str, series: Sequence[Series], unit: str, style: str = "", zero: bool = False) -> str:
    """Lines over one x axis. The drawing stretches; strokes and labels do not."""
    series = [one for one in series if one.points]
    if not series:
        return ""
    every = [point for one in series for point in one.points]
    right = max(x for x, _ in every) or 1.0
    levels = ticks(0.0 if zero else min(y for _, y in every), max(y for _, y in every))
    bottom, top = levels[0], levels[-1]
    stops = [stop for stop in ticks(0.0, right) if stop <= right * 1.0001]

    def place(x: float, y: float) -> tuple[float, float]:
        return 1000 * x / right, 1000 * (top - y) / (top - bottom)

    drawn = "".join(f'<path class="grid" d="M0 {place(0, level)[1]:.1f}H1000"/>' for level in levels)
    for one in series:
        spots = [place(x, y) for x, y in one.points]
        line = " ".join(f"{x:.1f},{y:.1f}" for x, y in spots)
        drawn += f'<polyline class="{one.style}" data-name="{one.name}" points="{line}"/>'
        if one.dots and len(spots) <= 60:
            dots = "".join(f"M{x:.1f} {y:.1f}h0" for x, y in spots)
            drawn += f'<path class="dots {one.style}" d="{dots}"/>'
    left = "".join(f'<i style="top:{place(0, level)[1] / 10:.1f}%">{_tick(level)}</i>' for level in levels)
    below = "".join(_below(stop / right, _tick(stop)) for stop in stops)
    said = "; ".join(f"{one.name} from {_tick(one.points[0][1])} to {_tick(one.points[-1][1])}" for one in series)
    keys = "".join(f'<span class="key {one.style}">{one.name}</span>' for one in series) if len(series) > 1 else ""
    return (
        f'<figure class="chart {style}" data-right="{right:g}" data-bottom="{bottom:g}" data-top="{top:g}">'
        f"<figcaption><b>{title}</b>{keys}<output></output></figcaption>"
        f'<div class="plot"><div class="levels" aria-hidden="true">{left}</div>'
        f'<svg viewBox="0 0 1000 1000" preserveAspectRatio="none" role="img" '
        f'aria-label="{title}: {said}, over {_tick(right)} {unit}">{drawn}</svg>'
        f'<div class="stops" aria-hidden="true">{below}<i class="unit">{unit}</i></div></div></figure>\n'
    )


def _below(share: float, label: str) -> str:
    # The first and last labels would stick out, the unit stands at the right end.
    if share > 0.8:
        return ""
    return f'<i style="left:{100 * share:.1f}%"{" class=first" if share < 0.02 else ""}>{label}</i>'


def _tick(value: float) -> str:
    if value and abs(value) < 0.01:
        return f"{value:.2g}".replace("e-0", "e-")
    return short(value) if abs(value) >= 1e4 else f"{value:.4g}"
