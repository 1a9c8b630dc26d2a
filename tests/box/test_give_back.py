"""What an instance was given goes back to a simulated cloud: once, whatever it is in the middle of."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator
from ipaddress import IPv4Address
from pathlib import Path
from random import Random

import pytest

from eniallocator.cloud.credentials import KeyFiles
from eniallocator.cloud.ecs import EcsCloud
from eniallocator.cloud.limiter import Limiter
from eniallocator.cloud.metadata import Metadata
from eniallocator.cloud.switch import Calls, Switch
from eniallocator.give_back import Possessions, give_back
from eniway import names
from tests.box.allocator_world import Rig, rig
from vpcbox.world.model import EniType

CLUSTER = "box"
SECONDS = 120.0


@pytest.fixture
async def cloud(tmp_path: Path) -> AsyncIterator[Rig]:
    async with rig(tmp_path) as made:
        yield made


async def leave(cloud: Rig, *, addresses: frozenset[str] = frozenset(), switch: Switch | None = None) -> list[str]:
    """Give back what is this instance's; what remains."""
    api = EcsCloud(
        region="cn-box",
        endpoint=cloud.endpoint,
        keys=KeyFiles(cloud.directory),
        limiter=Limiter(calls_per_minute=500, clock=cloud.clock, random=Random(1)),
        clock=cloud.clock,
        switch=switch or Switch(),
    )
    async with Metadata(cloud.metadata_url) as metadata:
        identity = await metadata.identity()
    owned = Possessions(
        identity=identity,
        tags={names.TAG_CLUSTER: CLUSTER, names.TAG_INSTANCE: cloud.instance_id},
        addresses=frozenset(map(IPv4Address, addresses)),
        creating=False,
    )
    try:
        return list(await give_back(api, owned, clock=cloud.clock, seconds=SECONDS, told=lambda _: None))
    finally:
        api.close()


def secondary(cloud: Rig) -> list[str]:
    return [eni.id for eni in cloud.world.enis.values() if eni.type is EniType.SECONDARY]


async def test_all_that_is_tagged_goes_and_nothing_else(cloud: Rig) -> None:
    """Attached, attaching and free ones; another cluster's and one without tags stay, and addresses of nobody's."""
    async with cloud.books() as books:
        await cloud.until(lambda: any(device.warm for device in books.devices()))
        lease = await cloud.add(books, "db", slot=3)
        assert lease.service_address is not None
        ours = str(lease.service_address)
    primary = next(eni for eni in cloud.world.enis.values() if eni.type is EniType.PRIMARY)
    (foreign,) = await cloud.world.assign_addresses(primary.id, count=1)
    tags = {names.TAG_CLUSTER: CLUSTER, names.TAG_INSTANCE: cloud.instance_id}
    made = [
        (await cloud.world.create_eni(cloud.vswitches[0], [cloud.group], tags=tagged)).id
        for tagged in (tags, tags, {}, {**tags, names.TAG_CLUSTER: "another"}, {**tags, names.TAG_INSTANCE: "i-other"})
    ]
    cloud.world.attach_eni(made[0], cloud.instance_id)
    mine = [eni for eni in cloud.world.enis.values() if tags.items() <= eni.tags.items()]
    before = len(cloud.passed)
    assert await leave(cloud, addresses=frozenset({ours})) == []
    done = Counter(cloud.passed[before:])
    assert done["DetachNetworkInterface"] <= len(mine)
    assert done["DeleteNetworkInterface"] == len(mine)
    assert set(secondary(cloud)) == set(made[2:])
    left = {str(address) for address in cloud.world.enis[primary.id].addresses}
    assert ours not in left
    assert str(foreign) in left
    calls = len(cloud.calls)
    assert await leave(cloud) == []
    assert set(cloud.calls[calls:]) == {"DescribeNetworkInterfaces"}


async def test_what_cannot_go_is_told_of(cloud: Rig) -> None:
    """Releases are switched off, or nobody is let in: nothing has gone, and why is said."""
    async with cloud.books() as books:
        await cloud.until(lambda: any(device.warm for device in books.devices()))
    before = secondary(cloud)
    remains = await leave(cloud, switch=Switch(calls=Calls.NO_RELEASES))
    assert len(remains) == len(before)
    assert all("eniway-switch" in line for line in remains)
    (cloud.directory / "access_key_id").unlink()
    (line,) = await leave(cloud)
    assert "access_key_id" in line
    assert secondary(cloud) == before
