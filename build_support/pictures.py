"""A dashboard as a picture: SVG, from its panels and what Prometheus answered to their queries over a stretch of time.

Pure: the same answers give the same text. `make dashboards` asks and writes. A picture has its own white ground, so it
reads on a dark page too, and names a family of fonts instead of bringing one.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final
from xml.etree import ElementTree as ET

from build_support.dashboards import Board, Panel, rows

SCALES: Final[Mapping[str, tuple[tuple[float, str], ...]]] = {
    "short": ((1.0, ""), (1e3, " k"), (1e6, " M")),
    "ops": ((1.0, " /s"), (1e3, " k/s")),
    "s": ((1e-6, " µs"), (1e-3, " ms"), (1.0, " s")),
    "bytes": ((1.0, " B"), (2.0**10, " KiB"), (2.0**20, " MiB"), (2.0**30, " GiB")),
    "percentunit": ((0.01, " %"),),
}
"""How the values of each unit of a panel are written: factors, ascending, with what stands behind the number."""
COLOURS: Final = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#6f4e9b", "#5f6b76")
"""Told apart by the colour-blind, too (after Okabe and Ito), and dark enough for a white ground."""
_TEXT: Final = "#24292f"
_GRID: Final = "#d8dee4"

# Pixels
_WIDTH: Final = 960.0
_MARGIN: Final = 16.0
_HEAD: Final = 36.0
_TITLE: Final = 22.0
_LEFT: Final = 60.0
_PLOT: Final = 110.0
_BELOW: Final = 24.0
_LEGEND: Final = 14.0
_SWATCH: Final = 16.0
_LETTER: Final = 6.2


@dataclass(frozen=True, slots=True)
class Span:
    """What was asked of query_range: Unix seconds, and the seconds from one sample to the next."""

    begin: float
    end: float
    step: float


@dataclass(frozen=True, slots=True)
class Line:
    """A series: its words in the legend, and finite values by the seconds since the beginning, ascending."""

    name: str
    points: tuple[tuple[float, float], ...]


def lines(legend: str, answer: Sequence[Mapping[str, Any]], begin: float) -> tuple[Line, ...]:
    """The series of an answer (Prometheus, HTTP API, "Range vectors"), by name; what is no number leaves a gap."""
    made = []
    for series in answer:
        labels: Mapping[str, str] = series["metric"]
        words = [labels.get(word.strip("{}"), "") if word.startswith("{{") else word for word in _WORDS.findall(legend)]
        points = ((float(when) - begin, float(value)) for when, value in series["values"])
        made.append(
            Line(" ".join(filter(None, words)) or "none", tuple(point for point in points if math.isfinite(point[1])))
        )
    return tuple(sorted(made, key=lambda line: line.name))


_WORDS: Final = re.compile(r"\{\{\w+\}\}|[^\s{}]+")


def picture(board: Board, found: Mapping[str, Sequence[Line]], span: Span) -> str:
    """The whole dashboard; ``found`` has the lines of each panel by its title."""
    root = ET.Element("svg", xmlns="http://www.w3.org/2000/svg", role="img")
    _add(root, "title", board.title)
    _add(root, "rect", width="100%", height="100%", fill="#ffffff")
    page = _add(root, "g", font_family="sans-serif", font_size="11", fill=_TEXT)
    _add(page, "text", board.title, x=_MARGIN, y=24.0, font_size="16", font_weight="bold")
    _add(page, "text", "minutes:seconds of load", x=_WIDTH - _MARGIN, y=24.0, text_anchor="end")
    top = _HEAD
    for row in rows(board.panels):
        columns = 1 if row[0].wide else 2
        width = (_WIDTH - _MARGIN * (columns + 1)) / columns
        high = 0.0
        for column, panel in enumerate(row):
            place = _add(page, "g", transform=f"translate({_n(_MARGIN + column * (width + _MARGIN))} {_n(top)})")
            high = max(high, _graph(place, panel, found[panel.title], span, width))
        top += high + _MARGIN
    root.set("viewBox", f"0 0 {_n(_WIDTH)} {_n(top)}")
    ET.indent(root, space="")
    return ET.tostring(root, encoding="unicode") + "\n"


def marks(low: float, high: float, unit: str) -> tuple[tuple[float, str], ...]:
    """Round values from at most ``low`` and 0 to at least ``high``, ascending, each with its label."""
    low, high = min(low, 0.0), max(high, 0.0)
    if low == high:
        high = 1.0
    factor, suffix = max((scale for scale in SCALES[unit] if scale[0] <= max(high, -low)), default=SCALES[unit][0])
    least = (high - low) / factor / 5
    power = 10.0 ** math.floor(math.log10(least))
    step = next(times * power for times in (1, 2, 5, 10) if times * power >= least - _SLACK * power)
    first, last = math.floor(low / factor / step + _SLACK), math.ceil(high / factor / step - _SLACK)
    return tuple((number * step * factor, f"{number * step:.6g}{suffix}") for number in range(first, last + 1))


_SLACK: Final = 1e-9
"""What binary fractions may be off before another mark is needed."""


def moments(seconds: float) -> tuple[tuple[float, str], ...]:
    """Marks of the time axis, minutes:seconds, seven at the most in an hour."""
    step = next((step for step in (10, 30, 60, 120, 300, 600) if seconds <= 6 * step), 3600)
    return tuple((float(at), f"{at // 60}:{at % 60:02d}") for at in range(0, math.floor(seconds) + 1, step))


def style(number: int) -> dict[str, str]:
    """Of a panel's n-th line: no two look the same."""
    turn, colour = divmod(number, len(COLOURS))
    return {"stroke": COLOURS[colour]} | ({"stroke-dasharray": f"{3 * turn} 2"} if turn else {})


def _graph(place: ET.Element, panel: Panel, series: Sequence[Line], span: Span, width: float) -> float:
    """Draw a panel, its upper left corner at the origin. Returns its height."""
    values = [value for line in series for _, value in line.points]
    scale = marks(min(values, default=0.0), max(values, default=0.0), panel.unit)
    (lowest, _), (highest, _) = scale[0], scale[-1]
    right, bottom, seconds = width - 8, _TITLE + _PLOT, span.end - span.begin

    def across(at: float) -> float:
        return _LEFT + at / seconds * (right - _LEFT)

    def down(value: float) -> float:
        return bottom - (value - lowest) / (highest - lowest) * _PLOT

    _add(place, "text", panel.title, x=0.0, y=12.0, font_size="12", font_weight="bold")
    for value, label in scale:
        _add(place, "path", d=f"M{_n(_LEFT)} {_n(down(value))}H{_n(right)}", stroke=_GRID)
        _add(place, "text", label, x=_LEFT - 6, y=down(value) + 4, text_anchor="end")
    for at, label in moments(seconds):
        _add(place, "text", label, x=across(at), y=bottom + 16, text_anchor="middle")
    drawn = _add(place, "g", fill="none", stroke_width="1.5", stroke_linecap="round", stroke_linejoin="round")
    end = bottom + _BELOW
    for number, (line, (left, row)) in enumerate(zip(series, _flow(series, width), strict=True)):
        if line.points:
            path = "".join(_strokes([(at, across(at), down(value)) for at, value in line.points], span.step))
            _add(drawn, "path", d=path, **style(number))
        middle = bottom + _BELOW + row * _LEGEND + 8
        _add(drawn, "path", d=f"M{_n(left)} {_n(middle)}h12", **style(number))
        _add(place, "text", line.name, x=left + _SWATCH, y=middle + 4)
        end = middle + 6
    return end


def _strokes(points: Sequence[tuple[float, float, float]], step: float) -> Iterator[str]:
    """Of (seconds, x, y): a new stroke after a gap, no point in the middle of what is level."""
    last = len(points) - 1
    for place, (at, x, y) in enumerate(points):
        begins = place == 0 or at - points[place - 1][0] > 1.5 * step
        ends = place == last or points[place + 1][0] - at > 1.5 * step
        if begins:
            yield f"M{_n(x)} {_n(y)}" + ("h0" if ends else "")
        elif ends or not _n(points[place - 1][2]) == _n(y) == _n(points[place + 1][2]):
            yield f"L{_n(x)} {_n(y)}"


def _flow(series: Sequence[Line], width: float) -> Iterator[tuple[float, int]]:
    """Where each entry of a legend begins: as many to a row as the longest lets stand in columns."""
    entry = max((len(line.name) * _LETTER + _SWATCH + 10 for line in series), default=width)
    columns = max(1, int(width // entry))
    for number in range(len(series)):
        yield number % columns * entry, number // columns


def _n(value: float) -> str:
    """A tenth of a pixel is enough."""
    return f"{round(value, 1) + 0.0:g}"


def _add(parent: ET.Element, tag: str, text: str | None = None, **attributes: str | float) -> ET.Element:
    made = ET.SubElement(
        parent,
        tag,
        {name.replace("_", "-"): _n(to) if isinstance(to, float) else to for name, to in attributes.items()},
    )
    made.text = text
    return made
