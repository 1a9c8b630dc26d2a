"""``eniway status``: capacity and conditions, of this node or of each node of a cluster."""

from __future__ import annotations

import asyncio
from argparse import Namespace
from typing import Any, Final

from eniway.cli import output
from eniway.cli.output import Cell
from eniway.cli.verb import NOT_WELL, OK, Verb

HEAD: Final = ("NODE", "TYPE", "DAEMON", "SLOTS", "ADDRESSES", "ROUTED", "NOT AS IT SHOULD BE")


def row(node: dict[str, Any]) -> list[Cell]:
    """A line of the table: used of what there is, which is used and free; then every condition that is False."""
    status = node["status"] or {}
    capacity = status.get("capacity", {})
    used = [_used(capacity.get(what)) for what in ("slots", "addresses", "routed")]
    return [
        Cell(node["node"]),
        Cell(status.get("instanceType", "-")),
        Cell(node["unhealthy"] or "ready", bad=node["unhealthy"] is not None),
        *used,
        Cell("; ".join(complaints(node)), bad=True),
    ]


def _used(words: dict[str, int] | None) -> Cell:
    """Used of what there is; bad when none is left."""
    return (
        Cell("-") if words is None else Cell(f"{words['used']}/{words['used'] + words['free']}", bad=not words["free"])
    )


def complaints(node: dict[str, Any]) -> list[str]:
    """What is not as it should be."""
    if node["status"] is None:
        return ["no NodeNetwork"]
    conditions = node["status"].get("conditions", [])
    return [f"{one['reason']}: {one['message']}" for one in conditions if one["status"] == "False"]


def _run(options: Namespace) -> int:
    from eniway.cli import sources  # noqa: PLC0415 -- half a second of imports

    async def ask() -> sources.Answer:
        async with sources.source(options) as source:
            return await source.nodes()

    nodes = asyncio.run(ask()).found
    output.show(options.output, nodes, HEAD, [row(node) for node in nodes])
    return NOT_WELL if any(node["unhealthy"] or complaints(node) for node in nodes) else OK


VERB: Final = Verb("status", "capacity and conditions of nodes", output.add_options, _run)
