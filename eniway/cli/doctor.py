"""``eniway doctor``: where ledger, kernel, kubelet and cloud say different things of a node; ``--fix`` mends it.

Prints nothing and exits with 0 where all agree. Looks only, without ``--fix``.
"""

from __future__ import annotations

import asyncio
import sys
import time
from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from typing import Any, Final

from eniway.cli import output
from eniway.cli.output import Cell
from eniway.cli.verb import FAILED, NOT_WELL, OK, Verb

PARTIES: Final = {
    "ledger": "LEDGER",
    "kernel": "KERNEL",
    "kubelet": "KUBELET",
    "cloud": "CLOUD",
    "host": "HOST",
    "kubeProxy": "KUBE-PROXY",
}
"""Columns, but for those that no difference is about."""
_MAY_BE_SILENT: Final = "kubeProxy"
"""A node without kube-proxy is none the worse for it."""


def rows(nodes: Sequence[dict[str, Any]], *, now: float) -> tuple[list[str], list[list[Cell]]]:
    """Head and lines of the table: a line for each difference, a column for each party that has to do with any."""
    found = [(node["node"], one) for node in nodes for one in node["differences"]]
    parties = [party for party in PARTIES if any(one.get(party) for _, one in found)]
    head = ["NODE", "DIFFERENCE", "OF", "AGE", *(PARTIES[party] for party in parties), "WHAT TO DO"]
    return head, [
        [
            Cell(node),
            Cell(one["difference"]),
            Cell(one["of"]),
            Cell("-" if one["since"] is None else output.age(now - one["since"])),
            *(Cell(one.get(party) or "-") for party in parties),
            Cell(_to_do(one), bad=not one["mended"]),
        ]
        for node, one in found
    ]


def _to_do(one: dict[str, Any]) -> str:
    if one["mended"]:
        return "mended" if one["fix"] else "gone"
    if one["fix"] is None:
        return f"by hand: {one['byHand']}"
    return f"--fix {one['fix']}" if one["mended"] is None else f"still so: --fix {one['fix']}, and did not get there"


def left(nodes: Sequence[dict[str, Any]]) -> bool:
    """Whether any difference is still there."""
    return any(not one["mended"] for node in nodes for one in node["differences"])


def _arguments(parser: ArgumentParser) -> None:
    parser.add_argument("node", metavar="NODE", nargs="?", help="default: this node, or from outside all of them")
    parser.add_argument("--fix", action="store_true", help="have the node's daemon mend what it can mend safely")
    output.add_options(parser)


def _run(options: Namespace) -> int:
    from eniway.cli import sources  # noqa: PLC0415 -- half a second of imports

    async def ask() -> sources.Answer:
        async with sources.source(options) as source:
            return await source.examine(options.node, fix=options.fix)

    answer = asyncio.run(ask())
    head, lines = rows(answer.found, now=time.time())
    if lines or options.output != "table":
        output.show(options.output, answer.found, head, lines)
    unasked = [(node["node"], one) for node in answer.found for one in node["unread"]]
    for said in (*(f"{node}: {one['party']}: not compared: {one['why']}" for node, one in unasked), *answer.failed):
        sys.stderr.write(f"eniway doctor: {said}\n")
    if answer.failed or any(one["party"] != _MAY_BE_SILENT for _, one in unasked):
        return FAILED
    return NOT_WELL if left(answer.found) else OK


VERB: Final = Verb("doctor", "where ledger, kernel, kubelet and cloud differ, and mending it", _arguments, _run)
