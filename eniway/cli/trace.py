"""``eniway trace POD``: what its last ADDs and DELs did, step by step, and how long each took."""

from __future__ import annotations

import asyncio
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, Final

from eniway.cli import output
from eniway.cli.output import Cell
from eniway.cli.verb import FAILED, NOT_WELL, OK, Verb
from eniway.errors import InvalidRequest

HEAD: Final = ("NODE", "AT", "VERB", "KIND", "STEP", "TOOK", "RESULT")


def rows(requests: Sequence[dict[str, Any]]) -> list[list[Cell]]:
    """For each request a line, then one for each of its steps."""
    lines = []
    for request in requests:
        bad = request["result"] != "success"
        at = datetime.fromtimestamp(request["at"], UTC).strftime("%Y-%m-%dT%H:%M:%S.%f")[:-3] + "Z"
        said = ": ".join(filter(None, (request["result"], request["error"])))
        words = (request["node"], at, request["verb"], request["kind"] or "-", "")
        lines.append([*map(Cell, words), Cell(output.duration(request["seconds"])), Cell(said, bad=bad)])
        lines += [
            [*map(Cell, ("", "", "", "", step["name"], output.duration(step["seconds"]), ""))]
            for step in request["steps"]
        ]
    return lines


def pod_of(options: Namespace) -> str:
    """``namespace/name`` of what was given; InvalidRequest for anything else."""
    namespace, slash, name = options.pod.rpartition("/")
    if not name or "/" in namespace or (slash and not namespace):
        raise InvalidRequest(f"POD: expected NAME or NAMESPACE/NAME, got {options.pod!r}")
    return f"{namespace or options.namespace}/{name}"


def _arguments(parser: ArgumentParser) -> None:
    parser.add_argument("pod", metavar="POD", help="NAME, or NAMESPACE/NAME")
    parser.add_argument("-n", "--namespace", default="default", help="default: %(default)s")
    output.add_options(parser)


def _run(options: Namespace) -> int:
    from eniway.cli import sources  # noqa: PLC0415 -- half a second of imports

    pod = pod_of(options)

    async def ask() -> sources.Answer:
        async with sources.source(options) as source:
            return await source.requests(pod)

    answer = asyncio.run(ask())
    output.show(options.output, answer.found, HEAD, rows(answer.found))
    for failure in answer.failed:
        sys.stderr.write(f"eniway trace: {failure}\n")
    if answer.failed:
        return FAILED
    if not answer.found:
        sys.stderr.write(f"eniway trace: no request for pod {pod} since its node's daemon started\n")
        return NOT_WELL
    return OK if answer.found[-1]["result"] == "success" else NOT_WELL


VERB: Final = Verb("trace", "each step of a pod's last ADDs and DELs, with times", _arguments, _run)
