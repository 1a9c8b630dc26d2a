"""How long the operator takes to look through all ENIs of a large cluster, and to remove what a lost node left.

The simulated cloud runs in this process, so its own time for 13,000 ENIs is part of the figure; the limiter is the one
that is shipped.
"""

from __future__ import annotations

import asyncio
import tempfile
import time
from ipaddress import IPv4Address
from pathlib import Path
from random import Random

from eniallocator import SystemClock
from eniallocator.cloud.credentials import KeyFiles
from eniallocator.cloud.ecs import EcsCloud
from eniallocator.cloud.fleet import Fleet
from eniallocator.cloud.limiter import Limiter
from eniallocator.salvage import Round, salvage
from eniway import names
from eniway.config import CloudConfig
from eniway.model import InstanceId
from tests.bench.figures import Figure
from tests.box.route_world import RouteWorld, route_world
from vpcbox.world.model import ZONE, Eni, EniStatus, EniType

ENIS = 13_000
A_NODE = 14  # besides the primary one, as on an instance type with 15
CLUSTER = "bench"


def figures() -> list[Figure]:
    """The figures, in seconds."""
    return asyncio.run(_measure())


async def _measure() -> list[Figure]:
    with tempfile.TemporaryDirectory() as directory:
        async with route_world(Path(directory), speed=1.0) as made:
            *nodes, lost = [await made.instance(f"node-{n}") for n in range(ENIS // A_NODE + 1)]
            for n, instance in enumerate(nodes):
                for slot in range(1, A_NODE + 1):
                    _add(made, instance, n * A_NODE + slot, slot)
            left = ENIS - A_NODE * len(nodes)
            for number in range(left):
                _add(made, lost, ENIS + number, None)
            idle, found = await _timed(made, [*nodes, lost])
            assert (found.ours, found.deleted) == (ENIS, ()), found
            await made.world.power.stop(lost)
            await made.world.power.release(lost)
            busy, found = await _timed(made, nodes)
            assert (found.gone, len(found.deleted)) == (frozenset({lost}), left), found
    return [
        Figure(f"operator: resync of {ENIS:,} ENIs", idle, "s", 10, beside=f"{len(nodes) + 1} instances"),
        Figure("operator: the same with a node lost", busy, "s", 10, beside=f"{left} ENIs deleted"),
    ]


async def _timed(made: RouteWorld, nodes: list[InstanceId]) -> tuple[float, Round]:
    clock, random = SystemClock(), Random(1)
    cloud = EcsCloud(
        region="cn-box",
        endpoint=made.endpoint,
        keys=KeyFiles(made.directory),
        limiter=Limiter(calls_per_minute=CloudConfig().calls_per_minute, clock=clock, random=random),
        clock=clock,
    )
    began = time.monotonic()
    try:
        done = await salvage(
            Fleet(cloud),
            vpc_id=made.vpc_id,
            cluster=CLUSTER,
            placed=nodes,
            most_percent=20,
            dry_run=False,
            random=random,
        )
    finally:
        cloud.close()
    return time.monotonic() - began, done


def _add(made: RouteWorld, instance: InstanceId, number: int, slot: int | None) -> None:
    """Put an ENI there by hand, attached or Available: nobody plugs it."""
    eni = Eni(
        id=f"eni-bench{number:06}",
        name=names.ENI_NAME,
        description="",
        mac=f"00:16:3e:{number >> 16 & 255:02x}:{number >> 8 & 255:02x}:{number & 255:02x}",
        vpc_id=made.vpc_id,
        vswitch_id=made.vswitch_id,
        zone=ZONE,
        type=EniType.SECONDARY,
        status=EniStatus.AVAILABLE if slot is None else EniStatus.IN_USE,
        primary_address=IPv4Address("10.64.0.0") + number,
        secondary_addresses=(),
        security_group_ids=(made.group_id,),
        source_dest_check=True,
        delete_on_release=True,
        created=made.world.clock.now(),
        tags={names.TAG_CLUSTER: CLUSTER, names.TAG_INSTANCE: instance},
        instance_id=None if slot is None else instance,
        slot=slot,
    )
    made.world.enis[eni.id] = eni
