"""How verbs print what they found: a table for people, JSON or YAML for programs."""

from __future__ import annotations

import json
import os
import sys
from argparse import ArgumentParser
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TextIO

_RED: Final = "\x1b[31m"
_PLAIN: Final = "\x1b[0m"


@dataclass(frozen=True, slots=True)
class Cell:
    """A place in a table; a bad one is red where there are colours."""

    text: str
    bad: bool = False


def add_options(parser: ArgumentParser) -> None:
    """What every verb that looks at something has: where to look (sources.py), and how to print it."""
    parser.add_argument(
        "--kubeconfig",
        type=Path,
        help="a cluster, from outside; default: this node where its daemon runs, else $KUBECONFIG or ~/.kube/config",
    )
    parser.add_argument(
        "-o", "--output", choices=("table", "json", "yaml"), default="table", help="default: %(default)s"
    )


def show(
    form: str,
    found: object,
    head: Sequence[str],
    rows: Sequence[Sequence[Cell]],
    *,
    to: TextIO | None = None,
    environ: Mapping[str, str] = os.environ,
) -> None:
    """Print ``found`` as JSON or YAML, or ``rows`` below ``head`` as a table.

    Colours on a terminal only, and none there with NO_COLOR (no-color.org).
    """
    out = sys.stdout if to is None else to
    if form == "json":
        out.write(json.dumps(found, indent=2) + "\n")
    elif form == "yaml":
        out.write(_yaml(found))
    else:
        coloured = out.isatty() and not environ.get("NO_COLOR") and environ.get("TERM") != "dumb"
        out.write(table(head, rows, coloured=coloured))


def table(head: Sequence[str], rows: Sequence[Sequence[Cell]], *, coloured: bool) -> str:
    """Columns as wide as their widest cell, three spaces apart; nothing is cut off."""
    lines = [[Cell(word) for word in head], *rows]
    widths = [max(len(line[column].text) for line in lines) for column in range(len(head))]
    text = ""
    for line in lines:
        cells = [
            f"{_RED}{padded}{_PLAIN}" if coloured and cell.bad else padded
            for cell, width in zip(line, widths, strict=True)
            for padded in (cell.text.ljust(width),)
        ]
        text += "   ".join(cells).rstrip() + "\n"
    return text


def age(seconds: float) -> str:
    """As kubectl writes it: the two largest units that count."""
    left = max(0, int(seconds))
    for unit, size, smaller, part in (("d", 86400, "h", 3600), ("h", 3600, "m", 60), ("m", 60, "s", 1)):
        if left >= size:
            rest = left % size // part
            return f"{left // size}{unit}" + (f"{rest}{smaller}" if rest and left // size < 10 else "")
    return f"{left}s"


def duration(seconds: float) -> str:
    """Of a step: to the tenth of a millisecond below a second."""
    return f"{seconds * 1000:.1f} ms" if seconds < 1 else f"{seconds:.2f} s"


def _yaml(found: object) -> str:
    import yaml  # noqa: PLC0415 -- of one option

    text: Any = yaml.safe_dump(found, sort_keys=False, allow_unicode=True)
    return str(text)
