"""A picture of a dashboard shows every panel, every series and the unit, whatever Prometheus answered."""

import re
from collections.abc import Iterator, Sequence
from xml.etree import ElementTree as ET

import pytest
from hypothesis import given
from hypothesis import strategies as st

from build_support import pictures
from build_support.dashboards import BOARDS, Board, Panel, Query
from build_support.pictures import Line, Span
from build_support.stubs import ROOT

SVG = "{http://www.w3.org/2000/svg}"
SPAN = Span(begin=1_000.0, end=1_100.0, step=1.0)
UNITS = sorted({panel.unit for board in BOARDS for panel in board.panels})
DRAWN = {path.stem: path for path in (ROOT / "docs/pictures").glob("*.svg")}

values = st.floats(-1e12, 1e12).map(lambda value: 0.0 if abs(value) < 1e-12 else value)


@st.composite
def lines(draw: st.DrawFn) -> Line:
    """With gaps, and perhaps without any point."""
    seconds = sorted(draw(st.sets(st.integers(0, 100), max_size=20)))
    return Line(draw(st.text("<>&\"' abz-1", min_size=1)), tuple((float(at), draw(values)) for at in seconds))


def board(*panels: Panel) -> Board:
    return Board("eniway-any", "any <board>", by_node=False, panels=panels)


def panel(unit: str = "short", title: str = "a & b", *, wide: bool = False) -> Panel:
    return Panel(title, unit, (Query("up", "{{node}}"),), wide=wide)


def words(picture: str) -> list[str]:
    return [element.text or "" for element in ET.fromstring(picture).iter(f"{SVG}text")]


def drawn(picture: str) -> list[ET.Element]:
    """Lines of data and their swatches in the legend."""
    group = ET.fromstring(picture).findall(f".//{SVG}g[@fill='none']")
    return [path for one in group for path in one]


def numbers(picture: str) -> Iterator[float]:
    for element in ET.fromstring(picture).iter():
        for name in ("x", "y", "d", "transform", "viewBox"):
            yield from (float(word) for word in re.findall(r"[-\d.]+(?:e[-+]\d+)?", element.get(name, "")))


@given(st.lists(lines(), max_size=30), st.sampled_from(UNITS), st.booleans())
def test_every_series_is_drawn_and_named(series: Sequence[Line], unit: str, wide: bool) -> None:
    """Well-formed, finite, inside the frame; a series without a value still stands in the legend."""
    picture = pictures.picture(board(panel(unit, wide=wide)), {"a & b": series}, SPAN)
    assert {"any <board>", "a & b"} <= set(words(picture))
    for name in {line.name for line in series}:
        assert words(picture).count(name) >= sum(line.name == name for line in series)
    assert len(drawn(picture)) == len(series) + sum(bool(line.points) for line in series)
    width, height = (float(word) for word in ET.fromstring(picture).get("viewBox", "").split()[2:])
    assert all(-0.1 <= number <= max(width, height) for number in numbers(picture))
    assert not re.search(r"\b(nan|inf)\b", picture, re.IGNORECASE)


@given(values, values, st.sampled_from(UNITS))
def test_the_axis_has_nought_and_all_values_between_few_marks(one: float, other: float, unit: str) -> None:
    """With labels that differ, all in one scale of the unit."""
    low, high = sorted((one, other))
    marks = pictures.marks(low, high, unit)
    places, labels = zip(*marks, strict=True)
    assert list(places) == sorted(places)
    assert 0.0 in places
    slack = 1e-6 * (places[-1] - places[0])
    assert places[0] - slack <= low <= high <= places[-1] + slack
    assert 2 <= len(marks) <= 8
    assert len(set(labels)) == len(labels)
    (suffix,) = {re.sub(r"^-?[\d.]+(?:e[-+]\d+)?", "", label) for label in labels}
    assert suffix in {suffix for _, suffix in pictures.SCALES[unit]}


@pytest.mark.parametrize(
    ("unit", "high", "label"),
    [
        ("s", 0.0004, "400 µs"),
        ("s", 0.25, "250 ms"),
        ("s", 3.0, "3 s"),
        ("bytes", 100 * 2.0**20, "100 MiB"),
        ("percentunit", 0.5, "50 %"),
        ("ops", 5.0, "5 /s"),
        ("short", 10.0, "10"),
    ],
)
def test_labels_are_in_the_unit(unit: str, high: float, label: str) -> None:
    """At the size of what is shown; and they stand in the picture."""
    place, last = pictures.marks(0.0, high, unit)[-1]
    assert place == pytest.approx(high)
    assert last == label
    picture = pictures.picture(board(panel(unit)), {"a & b": [Line("one", ((0.0, high),))]}, SPAN)
    assert label in words(picture)


def test_no_two_series_of_a_panel_look_the_same() -> None:
    """Colours come again with other dashes."""
    looks = [tuple(pictures.style(number).items()) for number in range(100)]
    assert len(set(looks)) == len(looks)


def test_an_answer_becomes_series_by_name() -> None:
    """Grafana's template filled in; a label that is not there leaves nothing; NaN and Inf leave a gap."""
    answer = [
        {
            "metric": {"node": "node-2", "what": "cards"},
            "values": [[1_001.5, "2"], [1_002.5, "NaN"], [1_003.5, "3e-1"]],
        },
        {"metric": {"node": "node-1"}, "values": [[1_000, "+Inf"]]},
    ]
    assert pictures.lines("{{node}} {{what}} free", answer, 1_000.0) == (
        Line("node-1 free", ()),
        Line("node-2 cards free", ((1.5, 2.0), (3.5, 0.3))),
    )
    assert [line.name for line in pictures.lines("{{what}}", answer, 1_000.0)] == ["cards", "none"]


def test_a_gap_is_not_drawn_over() -> None:
    """One sample that is missing is enough; the middle of a level one is left out; a point alone is a dot."""
    level = [(float(at), 1.0) for at in range(10)]
    line = Line("one", (*level, (11.0, 2.0)))
    data, _ = drawn(pictures.picture(board(panel()), {"a & b": [line]}, SPAN))
    assert re.fullmatch(r"M[\d. ]+L[\d. ]+M[\d. ]+h0", data.get("d", ""))


def test_time_has_few_marks() -> None:
    """From the beginning on, in minutes and seconds."""
    assert [label for _, label in pictures.moments(95.0)] == ["0:00", "0:30", "1:00", "1:30"]
    assert all(2 <= len(pictures.moments(float(seconds))) <= 8 for seconds in range(10, 4 * 3_600))


def test_every_dashboard_has_its_picture_in_the_docs() -> None:
    """`make dashboards PICTURES=docs/pictures` draws them again."""
    page = (ROOT / "docs/observing.md").read_text()
    assert set(DRAWN) == {one.uid.removeprefix("eniway-") for one in BOARDS}
    assert all(f"](pictures/{name}.svg)" in page for name in DRAWN)


@pytest.mark.parametrize("one", BOARDS, ids=lambda one: one.uid)
def test_a_picture_in_the_docs_shows_the_dashboard_as_it_is(one: Board) -> None:
    """Its panels in their order, and small enough for a page."""
    path = DRAWN[one.uid.removeprefix("eniway-")]
    titles = [panel.title for panel in one.panels]
    assert [word for word in words(path.read_text()) if word in titles] == titles
    assert path.stat().st_size < 100_000
