"""`python -m tests.bench.policy_packets`: packets lost and leaked while policies change, daemons die and pods start.

Two nodes with pods of all kinds, in network namespaces of the real kernel; what is sent and what arrives is counted by
rules of iptables, before and behind those that enforce. Exit status 0 only if nothing was lost or leaked.
"""

from __future__ import annotations

import argparse
import asyncio
import secrets
from contextlib import AsyncExitStack
from itertools import cycle, islice
from random import Random

from eniway import log
from eniway.model import Kind
from tests.bench.figures import Figure, table
from tests.netns.datapath.fabric import boot, standing
from tests.netns.networkpolicy.churn import churn
from tests.netns.networkpolicy.cluster import cluster
from tests.netns.networkpolicy.leak import starts

LEAST_RATE = 20_000


async def updates(count: int, *, kills: int, random: Random) -> list[Figure]:
    """``count`` random updates, with ``kills`` of the daemon among them."""
    with standing() as vpc:
        async with AsyncExitStack() as stack:
            nodes = (await boot(vpc, stack), await boot(vpc, stack))
            outcome = await churn(vpc, nodes, updates=count, kills=kills, random=random)
    said = f"{count:,} updates, daemon killed {outcome.kills} times"
    return [
        Figure(f"{said}: packets a second", outcome.rate, "", LEAST_RATE, at_least=True),
        Figure("must-pass packets lost", outcome.lost, "", 0, beside=f"of {outcome.sent:,}"),
        Figure("must-drop packets passed", outcome.leaked, "", 0, beside=f"of {outcome.forbidden:,}"),
        Figure("an update in force on both nodes, on average", outcome.seconds / count * 1000, "ms"),
    ]


async def pods(count: int) -> list[Figure]:
    """``count`` starts, of all kinds in turn."""
    with standing() as vpc:
        async with AsyncExitStack() as stack:
            nodes = (await boot(vpc, stack), await boot(vpc, stack))
            async with cluster(vpc, nodes) as made:
                outcome = await starts(made, list(islice(cycle((Kind.SHARED, Kind.EXCLUSIVE, Kind.ROUTED)), count)))
    said = f"{outcome.starts:,} pod starts under a default deny: packets that got"
    return [
        Figure(f"{said} in", outcome.leaked_in, "", 0, beside=f"of {outcome.tried_in:,}"),
        Figure(f"{said} out", outcome.leaked_out, "", 0, beside=f"of {outcome.tried_out:,}"),
    ]


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.policy_packets", description=__doc__)
    parser.add_argument("--seed", type=int, default=secrets.randbelow(10**6))
    parser.add_argument("--updates", type=int, default=10_000)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--starts", type=int, default=1_000)
    options = parser.parse_args()
    log.configure("error")
    print(f"seed {options.seed}", flush=True)
    figures: list[Figure] = []
    if options.updates:
        figures += asyncio.run(updates(options.updates, kills=options.kills, random=Random(options.seed)))
    if options.starts:
        figures += asyncio.run(pods(options.starts))
    print(table(figures))
    return 0 if all(figure.holds for figure in figures) else 1


if __name__ == "__main__":
    raise SystemExit(main())
