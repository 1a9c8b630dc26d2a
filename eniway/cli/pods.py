"""``eniway pods``: every pod's kind, address, ENI and the age of its lease."""

from __future__ import annotations

import asyncio
import sys
import time
from argparse import Namespace
from typing import Any, Final

from eniway.cli import output
from eniway.cli.output import Cell
from eniway.cli.verb import FAILED, OK, Verb

HEAD: Final = ("NODE", "POD", "KIND", "ADDRESS", "SERVICE ADDRESS", "ENI", "SLOT", "LINK", "LEASE AGE")


def row(lease: dict[str, Any], *, now: float) -> list[Cell]:
    """A line of the table."""
    since = lease["since"]
    words = [
        *(lease[key] for key in ("node", "pod", "kind", "address")),
        lease["serviceAddress"] or "-",
        *(lease["eni"], str(lease["slot"]), lease["link"]),
        "-" if since is None else output.age(now - since),
    ]
    return [Cell(word) for word in words]


def _run(options: Namespace) -> int:
    from eniway.cli import sources  # noqa: PLC0415 -- half a second of imports

    async def ask() -> sources.Answer:
        async with sources.source(options) as source:
            return await source.leases()

    answer = asyncio.run(ask())
    output.show(options.output, answer.found, HEAD, [row(lease, now=time.time()) for lease in answer.found])
    for failure in answer.failed:
        sys.stderr.write(f"eniway pods: {failure}\n")
    return FAILED if answer.failed else OK


VERB: Final = Verb("pods", "kind, address, ENI and lease age of the pods", output.add_options, _run)
