"""``eniway explain``, by the API server's objects of now.

``explain POD``: why it is Pending, node by node. ``explain SRC DST PORT``: which policy lets a packet pass, or
what drops it.
"""

from __future__ import annotations

import asyncio
import sys
from argparse import ArgumentParser, Namespace
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Final

from eniway.cli.verb import NOT_WELL, OK, Verb
from eniway.errors import InvalidRequest

if TYPE_CHECKING:
    from networkpolicy.explain import Answer


def _arguments(parser: ArgumentParser) -> None:
    parser.add_argument("source", metavar="POD|SRC", help="[namespace/]pod; as SRC namespace/pod, or an address")
    parser.add_argument("destination", metavar="DST", nargs="?", help="as SRC")
    parser.add_argument("port", metavar="PORT", nargs="?", help="destination port, as 80 or 53/UDP")
    parser.add_argument("--kubeconfig", type=Path, help="default: $KUBECONFIG, or ~/.kube/config")


def _run(options: Namespace) -> int:
    if options.destination is None:
        from eniway.extender.explain import main  # noqa: PLC0415 -- a second of imports

        return main(options.source, options.kubeconfig)
    if options.port is None:
        raise InvalidRequest("PORT: expected one behind SRC and DST, there is none")
    answer = asyncio.run(_ask(options))
    sys.stdout.write("".join(f"{line}\n" for line in ("passes" if answer.passes else "dropped", *answer.reasons)))
    return OK if answer.passes else NOT_WELL


async def _ask(options: Namespace) -> Answer:
    from eniway.kube.client import KubeClient, from_kubeconfig  # noqa: PLC0415 -- a second of imports
    from networkpolicy import feed  # noqa: PLC0415 -- as above
    from networkpolicy.explain import explain  # noqa: PLC0415 -- as above
    from networkpolicy.model import Model  # noqa: PLC0415 -- as above
    from networkpolicy.terms import PROTOCOLS  # noqa: PLC0415 -- as above

    number, _, said = str(options.port).partition("/")
    protocol = PROTOCOLS.get((said or "TCP").upper())
    if protocol is None or not number.isdecimal() or not 0 < int(number) < 65536:
        raise InvalidRequest(
            f"PORT: expected a number, or one with /TCP, /UDP or /SCTP behind it, got {options.port!r}"
        )
    model = Model(4)
    async with KubeClient(await from_kubeconfig(options.kubeconfig)) as client, asyncio.TaskGroup() as group:
        watches = feed.watches(client, model, random=Random())  # noqa: S311 -- spreads retries
        running = [group.create_task(watch.run()) for watch in watches]
        for watch in watches:
            await watch.synced()
        for task in running:
            task.cancel()
    return explain(model, options.source, options.destination, protocol, int(number))


VERB: Final = Verb("explain", "why a pod is Pending, or which NetworkPolicy lets a packet pass", _arguments, _run)
