import io
import json

import pytest
import yaml

from eniway.cli import output
from eniway.cli.output import Cell

HEAD = ("NODE", "STATE")
ROWS = [[Cell("node-1"), Cell("ready")], [Cell("n2"), Cell("not ready", bad=True)]]


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_columns_are_as_wide_as_their_widest_cell() -> None:
    """Nothing is cut off, and no line ends in spaces."""
    assert output.table(HEAD, ROWS, coloured=False) == "NODE     STATE\nnode-1   ready\nn2       not ready\n"


@pytest.mark.parametrize(
    ("to", "environ", "coloured"),
    [
        (io.StringIO(), {}, False),
        (Terminal(), {}, True),
        (Terminal(), {"NO_COLOR": "1"}, False),
        (Terminal(), {"TERM": "dumb"}, False),
    ],
    ids=["a pipe", "a terminal", "NO_COLOR", "a dumb terminal"],
)
def test_colours_are_for_terminals(to: io.StringIO, environ: dict[str, str], coloured: bool) -> None:
    """What is bad is red there, and only that."""
    output.show("table", [], HEAD, ROWS, to=to, environ=environ)
    assert ("\x1b" in to.getvalue()) == coloured
    assert to.getvalue().count("\x1b[31m") == (1 if coloured else 0)


def test_programs_get_what_was_found() -> None:
    """JSON and YAML say the same, without colours."""
    found = [{"node": "node-1", "since": 1.5, "serviceAddress": None}]
    texts = []
    for form in ("json", "yaml"):
        to = Terminal()
        output.show(form, found, HEAD, ROWS, to=to, environ={})
        texts.append(to.getvalue())
    assert json.loads(texts[0]) == yaml.safe_load(texts[1]) == found


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0s"), (-5, "0s"), (59.9, "59s"), (60, "1m"), (3599, "59m"), (3660, "1h1m"), (90000, "1d1h"), (864000, "10d")],
)
def test_ages_are_short(seconds: float, text: str) -> None:
    """As kubectl's."""
    assert output.age(seconds) == text
