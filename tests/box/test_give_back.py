"""What an instance was given goes back to a simulated cloud: once, whatever it is in the middle of."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Collection, Mapping
from contextlib import asynccontextmanager
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
from eniway.model import EniId
from tests.box.allocator_world import Rig, rig
from vpcbox.faults import Kind, Rule
from vpcbox.world.model import Eni, EniType

CLUSTER = "box"
SECONDS = 120.0


@pytest.fixture
async def cloud(tmp_path: Path) -> AsyncIterator[Rig]:
    async with rig(tmp_path) as made:
        yield made


@asynccontextmanager
async def opened(cloud: Rig, switch: Switch | None = None) -> AsyncIterator[EcsCloud]:
    api = EcsCloud(
        region="cn-box",
        endpoint=cloud.endpoint,
        keys=KeyFiles(cloud.directory),
        limiter=Limiter(calls_per_minute=500, clock=cloud.clock, random=Random(1)),
        clock=cloud.clock,
        switch=switch or Switch(),
    )
    try:
        yield api
    finally:
        api.close()


async def leave(
    cloud: Rig,
    *,
    addresses: Collection[str] = (),
    enis: Collection[str] = (),
    assigns: Mapping[str, int] | None = None,
    cluster: str = CLUSTER,
    switch: Switch | None = None,
) -> list[str]:
    """Give back what is this instance's; what remains."""
    async with Metadata(cloud.metadata_url) as metadata:
        identity = await metadata.identity()
    owned = Possessions(
        identity=identity,
        tags={names.TAG_CLUSTER: cluster, names.TAG_INSTANCE: cloud.instance_id},
        addresses=frozenset(map(IPv4Address, addresses)),
        enis=frozenset(map(EniId, enis)),
        assigns=assigns or {},
        creating=False,
    )
    async with opened(cloud, switch) as api:
        return list(await give_back(api, owned, clock=cloud.clock, seconds=SECONDS, told=lambda _: None))


def primary_of(cloud: Rig) -> Eni:
    (found,) = (eni for eni in cloud.world.enis.values() if eni.type is EniType.PRIMARY)
    return found


def secondary(cloud: Rig) -> list[str]:
    return [eni.id for eni in cloud.world.enis.values() if eni.type is EniType.SECONDARY]


async def test_all_that_is_tagged_goes_and_nothing_else(cloud: Rig) -> None:
    """Attached, attaching and free ones; another cluster's and one without tags stay, and addresses of nobody's."""
    async with cloud.books() as books:
        await cloud.until(lambda: any(device.warm for device in books.devices()))
        lease = await cloud.add(books, "db", slot=3)
        assert lease.service_address is not None
        ours = str(lease.service_address)
    primary = primary_of(cloud)
    (foreign,) = await cloud.world.assign_addresses(primary.id, count=1)
    tags = {names.TAG_CLUSTER: CLUSTER, names.TAG_INSTANCE: cloud.instance_id}
    made = [
        (await cloud.world.create_eni(cloud.vswitches[0], [cloud.group], tags=tagged)).id
        for tagged in (tags, tags, {}, {**tags, names.TAG_CLUSTER: "another"}, {**tags, names.TAG_INSTANCE: "i-other"})
    ]
    cloud.world.attach_eni(made[0], cloud.instance_id)
    mine = [eni for eni in cloud.world.enis.values() if tags.items() <= eni.tags.items()]
    before = len(cloud.passed)
    assert await leave(cloud, addresses=[ours]) == []
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


async def test_an_answer_without_the_primary_eni_is_not_believed(cloud: Rig) -> None:
    """As keys of another account get it; one that is empty once delays it only."""
    async with cloud.books() as books:
        await cloud.until(lambda: any(device.warm for device in books.devices()))
        ours = str((await cloud.add(books, "db", slot=3)).service_address)
    before = secondary(cloud)
    assert before
    rule = cloud.faults.add(Rule(Kind.EMPTY_ANSWER, "DescribeNetworkInterfaces"))
    (line,) = await leave(cloud, addresses=[ours], enis=before)
    assert primary_of(cloud).id in line
    assert secondary(cloud) == before
    cloud.faults.clear(rule)
    cloud.faults.add(Rule(Kind.EMPTY_ANSWER, "DescribeNetworkInterfaces", count=2))
    assert await leave(cloud, addresses=[ours], enis=before) == []
    assert secondary(cloud) == []
    assert primary_of(cloud).secondary_addresses == ()


@pytest.mark.parametrize("is_attached", [True, False])
async def test_an_eni_of_the_books_without_the_tags_is_told_of(cloud: Rig, *, is_attached: bool) -> None:
    """As where the configuration has the name of another cluster: it stays, and nobody says that all has gone."""
    tags = {names.TAG_CLUSTER: CLUSTER, names.TAG_INSTANCE: cloud.instance_id}
    eni = (await cloud.world.create_eni(cloud.vswitches[0], [cloud.group], tags=tags)).id
    if is_attached:
        cloud.world.attach_eni(eni, cloud.instance_id)
        await cloud.until(lambda: bool(cloud.cards()))
    (line,) = await leave(cloud, enis=[eni], cluster="another")
    assert eni in line
    assert f"{names.TAG_CLUSTER}=another" in line
    assert secondary(cloud) == [eni]
    assert await leave(cloud, enis=[eni]) == []
    assert secondary(cloud) == []


@pytest.mark.parametrize("is_done", [True, False])
async def test_addresses_whose_assigning_was_not_heard_of_go_back(cloud: Rig, *, is_done: bool) -> None:
    """Whether the call had got through or not; somebody else's stay. A second time nothing is left to give."""
    primary = primary_of(cloud).id
    (foreign,) = await cloud.world.assign_addresses(primary, count=1)
    if is_done:
        async with opened(cloud) as api:
            assert len(await api.assign(EniId(primary), 3, token="lost")) == 3
    for _ in range(2):
        assert await leave(cloud, assigns={"lost": 3}) == []
        assert primary_of(cloud).secondary_addresses == (foreign,)


async def test_an_assigning_that_cannot_be_asked_for_again_is_told_of(cloud: Rig) -> None:
    """Whatever it gave is known by nothing but its ClientToken."""
    cloud.faults.add(Rule(Kind.ERROR, "AssignPrivateIpAddresses", status=403, code="Forbidden.RAM"))
    (line,) = await leave(cloud, assigns={"lost": 3})
    assert "3 addresses" in line
    assert "Forbidden.RAM" in line
