"""The world without HTTP: what the wire is asked for, and when."""

import asyncio
import random
from collections.abc import AsyncIterator
from functools import partial
from ipaddress import IPv4Address, IPv4Network
from typing import Any

import pytest

from vpcbox.world.clock import VirtualClock
from vpcbox.world.errors import Refused
from vpcbox.world.instance_types import load
from vpcbox.world.model import EniStatus, NextHopType, RouteEntry, RouteStatus
from vpcbox.world.routing import Unwanted, Wanted
from vpcbox.world.wire import Card, Route
from vpcbox.world.world import World


class Notes:
    """A wire that notes what it is asked for; ``broken`` calls fail."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, str]] = []
        self.cards: dict[str, Card] = {}
        self.table: dict[IPv4Network, str | None] = {}
        self.broken: set[str] = set()

    def _note(self, what: str, eni_id: str) -> None:
        self.calls.append((what, eni_id))
        if what in self.broken:
            raise OSError(f"{what} is broken")

    async def plug(self, card: Card) -> None:
        """A card comes."""
        self._note("plug", card.eni_id)
        assert card.eni_id not in self.cards
        self.cards[card.eni_id] = card

    async def unplug(self, eni_id: str) -> None:
        """A card goes."""
        self._note("unplug", eni_id)
        self.cards.pop(eni_id, None)

    async def update(self, card: Card) -> None:
        """A card changes."""
        self._note("update", card.eni_id)
        assert card.eni_id in self.cards
        self.cards[card.eni_id] = card

    async def route(self, table: tuple[Route, ...]) -> None:
        """The routes change."""
        self._note("route", "")
        self.table = {route.destination: route.eni_id for route in table}


class Place:
    """A world with one vSwitch and one instance."""

    def __init__(self, seed: int = 1) -> None:
        self.clock = VirtualClock()
        self.wire = Notes()
        self.world = World(self.clock, self.wire, random.Random(seed), load())
        vpc = self.world.create_vpc("v", IPv4Network("10.0.0.0/16"))
        self.vswitch = self.world.create_vswitch("s", vpc.id, IPv4Network("10.0.0.0/24"))
        self.group = self.world.create_security_group("g", vpc.id)

    async def create(self, **more: Any) -> str:
        """A new ENI's id."""
        call = asyncio.create_task(self.world.create_eni(self.vswitch.id, [self.group.id], **more))
        await self.clock.advance(1)
        return (await call).id

    async def do(self, call: Any) -> Any:
        """The outcome of a call that takes a moment."""
        task = asyncio.create_task(call)
        await self.clock.advance(1)
        return await task


@pytest.fixture
async def place() -> AsyncIterator[Place]:
    """A place whose world runs."""
    place = Place()
    running = asyncio.create_task(place.world.run())
    await asyncio.sleep(0)
    yield place
    running.cancel()
    await asyncio.wait([running])


@pytest.mark.parametrize(("instance_type", "mtu"), [("ecs.g7.xlarge", 8500), ("ecs.g6.xlarge", 1500)])
async def test_jumbo_frames_are_for_instances_whose_type_has_them(place: Place, instance_type: str, mtu: int) -> None:
    """JumboFrameSupport of the type and EnableJumboFrame of the instance, both."""
    place.world.jumbo_frames = True
    instance = await place.world.create_instance("n", instance_type, place.vswitch.id, [place.group.id])
    assert place.wire.cards[place.world.primary(instance.id).id].mtu == mtu


async def test_the_wire_follows_a_card_through_its_life(place: Place) -> None:
    """Plugged with its addresses, updated when they change, unplugged at the end; nothing while unattached."""
    world, wire = place.world, place.wire
    instance = await world.create_instance("n", "ecs.g7.xlarge", place.vswitch.id, [place.group.id])
    primary = world.primary(instance.id)
    assert wire.cards[primary.id].primary
    eni_id = await place.create(secondary_count=1)
    await place.do(world.assign_addresses(eni_id, count=1))
    assert wire.calls == [("plug", primary.id)]

    world.attach_eni(eni_id, instance.id)
    await place.clock.advance(1.9)
    assert eni_id not in wire.cards
    await place.clock.advance(3)
    assert world.enis[eni_id].status is EniStatus.IN_USE
    card = wire.cards[eni_id]
    assert card == Card(
        eni_id=eni_id,
        instance_id=instance.id,
        mac=world.enis[eni_id].mac,
        addresses=world.enis[eni_id].addresses,
        gateway=IPv4Address("10.0.0.253"),
        prefix=IPv4Network("10.0.0.0/24"),
        primary=False,
        source_dest_check=True,
        mtu=1500,
    )
    assert len(card.addresses) == 3

    await place.do(world.unassign_addresses(eni_id, card.addresses[1:]))
    assert wire.cards[eni_id].addresses == card.addresses[:1]
    await place.do(world.modify_eni(eni_id, source_dest_check=False))
    assert not wire.cards[eni_id].source_dest_check
    await place.do(world.modify_eni(eni_id, name="only the books know"))

    world.detach_eni(eni_id, instance.id)
    await place.clock.advance(4)
    assert [what for what, which in wire.calls if which == eni_id] == ["plug", "update", "update", "unplug"]


@pytest.fixture(params=range(6))
async def attached(request: pytest.FixtureRequest) -> AsyncIterator[tuple[Place, str, str]]:
    """An instance and an ENI at the very moment it says InUse, by many seeds: the link may be there or not."""
    place = Place(request.param)
    running = asyncio.create_task(place.world.run())
    await asyncio.sleep(0)
    instance = await place.world.create_instance("n", "ecs.g7.xlarge", place.vswitch.id, [place.group.id])
    eni_id = await place.create()
    place.world.attach_eni(eni_id, instance.id)
    while place.world.enis[eni_id].status is not EniStatus.IN_USE:
        await place.clock.advance(0.1)
    yield place, instance.id, eni_id
    running.cancel()
    await asyncio.wait([running])


async def test_an_eni_may_be_assigned_to_before_its_link_is_there(attached: tuple[Place, str, str]) -> None:
    """Whichever comes first, the card ends up with the addresses of the books."""
    place, _, eni_id = attached
    call = asyncio.create_task(place.world.assign_addresses(eni_id, count=2))
    await place.clock.advance(2)
    assert place.wire.cards[eni_id].addresses == (place.world.enis[eni_id].primary_address, *(await call))


async def test_an_eni_may_be_detached_before_its_link_is_there(attached: tuple[Place, str, str]) -> None:
    """Plugged or not, it ends up Available and out of the instance."""
    place, instance_id, eni_id = attached
    place.world.detach_eni(eni_id, instance_id)
    await place.clock.advance(10)
    assert place.world.enis[eni_id].status is EniStatus.AVAILABLE
    assert eni_id not in place.wire.cards


async def test_a_wire_that_fails_to_plug_gives_the_eni_back(place: Place) -> None:
    """Available again, in no slot; the next attach works."""
    instance = await place.world.create_instance("n", "ecs.g7.xlarge", place.vswitch.id, [place.group.id])
    eni_id = await place.create()
    for _ in range(4):
        place.wire.broken = {"plug"}
        place.world.attach_eni(eni_id, instance.id)
        await place.clock.advance(5)
        eni = place.world.enis[eni_id]
        assert (eni.status, eni.instance_id, eni.slot) == (EniStatus.AVAILABLE, None, None)
    place.wire.broken = set()
    place.world.attach_eni(eni_id, instance.id)
    await place.clock.advance(5)
    assert place.world.enis[eni_id].slot == 1


async def test_a_wire_that_fails_to_unplug_is_asked_again(place: Place) -> None:
    """Detaching until the wire lets go."""
    instance = await place.world.create_instance("n", "ecs.g7.xlarge", place.vswitch.id, [place.group.id])
    eni_id = await place.create()
    place.world.attach_eni(eni_id, instance.id)
    await place.clock.advance(5)
    place.wire.broken = {"unplug"}
    place.world.detach_eni(eni_id, instance.id)
    await place.clock.advance(60)
    assert place.world.enis[eni_id].status is EniStatus.DETACHING
    place.wire.broken = set()
    await place.clock.advance(2)
    assert place.world.enis[eni_id].status is EniStatus.AVAILABLE


async def test_a_wire_that_fails_to_update_changes_no_books(place: Place) -> None:
    """The call fails, and the addresses are free again."""
    instance = await place.world.create_instance("n", "ecs.g7.xlarge", place.vswitch.id, [place.group.id])
    eni_id = await place.create()
    place.world.attach_eni(eni_id, instance.id)
    await place.clock.advance(5)
    before, free = place.world.enis[eni_id], place.world.available(place.vswitch.id)
    place.wire.broken = {"update"}
    with pytest.raises(OSError, match="update is broken"):
        await place.do(place.world.assign_addresses(eni_id, count=3))
    assert place.world.enis[eni_id] == before
    assert place.world.available(place.vswitch.id) == free


async def test_one_eni_does_one_thing_at_a_time(place: Place) -> None:
    """A second call meanwhile is Operation.Conflict; afterwards it works; Delete has a name of its own for it."""
    world = place.world
    instance = await world.create_instance("n", "ecs.g7.xlarge", place.vswitch.id, [place.group.id])
    eni_id = await place.create()
    first = asyncio.create_task(world.assign_addresses(eni_id, count=1))
    await place.clock.somebody_sleeps()
    with pytest.raises(Refused, match=r"^Operation\.Conflict"):
        await world.assign_addresses(eni_id, count=1)
    with pytest.raises(Refused, match=r"^Operation\.Conflict"):
        world.attach_eni(eni_id, instance.id)
    with pytest.raises(Refused, match=r"^InvalidOperation\.Conflict"):
        world.delete_eni(eni_id)
    world.tag(eni_id, {"tagged": "meanwhile"})
    await place.clock.advance(1)
    await first
    assert world.enis[eni_id].tags == {"tagged": "meanwhile"}
    await place.do(world.assign_addresses(eni_id, count=1))
    assert len(world.enis[eni_id].addresses) == 3


async def test_a_cancelled_call_leaves_nothing_behind(place: Place) -> None:
    """Create and Assign, cut off while they wait, give their addresses back."""
    world = place.world
    eni_id = await place.create()
    free = world.available(place.vswitch.id)
    for call in (
        world.create_eni(place.vswitch.id, [place.group.id], secondary_count=5),
        world.assign_addresses(eni_id, count=5),
    ):
        task = asyncio.create_task(call)
        await place.clock.somebody_sleeps()
        task.cancel()
        await asyncio.wait([task])
        await place.clock.advance(1)
        assert world.available(place.vswitch.id) == free
    await place.do(world.assign_addresses(eni_id, count=1))


async def test_a_world_that_does_not_run_says_so() -> None:
    """Rather than let an ENI attach for ever."""
    place = Place()
    instance = await place.world.create_instance("n", "ecs.g7.xlarge", place.vswitch.id, [place.group.id])
    eni_id = await place.create()
    with pytest.raises(RuntimeError, match="does not run"):
        place.world.attach_eni(eni_id, instance.id)


async def test_the_ground_is_checked(place: Place) -> None:
    """A vSwitch lies in its VPC, beside the others, between /16 and /29."""
    (vpc_id,) = place.world.vpcs
    for cidr, message in (("10.1.0.0/24", "inside"), ("10.0.1.0/30", "/29"), ("10.0.0.128/25", "overlaps")):
        with pytest.raises(ValueError, match=message):
            place.world.create_vswitch("x", vpc_id, IPv4Network(cidr))


async def test_describe_shows_where_everything_is(place: Place) -> None:
    """What ``vpcbox status`` is made from."""
    instance = await place.world.create_instance("n", "ecs.g7.xlarge", place.vswitch.id, [place.group.id])
    told = place.world.describe()
    assert told["vpc"]["vswitches"] == [
        {"id": place.vswitch.id, "name": "s", "zone": "cn-box-a", "cidr": "10.0.0.0/24"}
    ]
    (row,) = told["instances"]
    assert (row["instance_id"], row["name"]) == (instance.id, "n")
    assert place.world.instance_of(IPv4Address(row["address"])) == instance.id
    assert place.world.instance_of(IPv4Address("10.0.0.99")) is None
    assert place.world.instance_of(IPv4Address("192.0.2.1")) is None


async def test_the_wire_obeys_an_entry_when_it_is_available_and_not_longer_than_it_is_there(place: Place) -> None:
    """Nothing while Pending; by the primary card of an instance or by a card itself; without it before it is gone."""
    world, wire = place.world, place.wire
    instance = await world.create_instance("n", "ecs.g7.xlarge", place.vswitch.id, [place.group.id])
    eni_id = await place.create()
    (table,) = world.route_tables.values()
    pods, more = IPv4Network("172.20.1.0/24"), IPv4Network("172.20.2.0/24")
    made = world.routing.create(
        [Wanted(table.id, pods, instance.id), Wanted(table.id, more, eni_id, NextHopType.NETWORK_INTERFACE)],
        around_vswitches=False,
    )
    entries = [entry for entry in made if isinstance(entry, RouteEntry)]
    assert [entry.status for entry in entries] == [RouteStatus.PENDING] * 2
    await place.clock.advance(0.9)
    assert wire.table == {}
    await place.clock.advance(0.2)
    assert {table.entries[entry.id].status for entry in entries} == {RouteStatus.AVAILABLE}
    own = {IPv4Network("10.0.0.0/24"): None, IPv4Network("100.64.0.0/10"): None}
    assert wire.table == {**own, pods: world.primary(instance.id).id, more: eni_id}

    world.routing.delete([Unwanted(table.id, destination=pods, next_hop_id=instance.id)])
    assert table.entries[entries[0].id].status is RouteStatus.DELETING
    await place.clock.advance(1.1)
    assert entries[0].id not in table.entries
    assert wire.table == {**own, more: eni_id}

    world.delete_eni(eni_id)
    await place.clock.advance(2)
    assert wire.table == {**own, more: eni_id}, "an entry outlives its next hop"


async def test_a_wire_that_fails_to_route_is_asked_again(place: Place) -> None:
    """Pending, or Deleting, until the wire obeys; nobody else writes meanwhile."""
    world = place.world
    instance = await world.create_instance("n", "ecs.g7.xlarge", place.vswitch.id, [place.group.id])
    (table,) = world.route_tables.values()
    wanted = Wanted(table.id, IPv4Network("172.20.1.0/24"), instance.id)
    for write in (
        partial(world.routing.create, [wanted], around_vswitches=False),
        partial(world.routing.delete, [Unwanted(table.id, None, wanted.destination, instance.id)]),
    ):
        place.wire.broken = {"route"}
        write()
        await place.clock.advance(30)
        assert table.changing
        with pytest.raises(Refused, match=r"^TaskConflict"):
            world.routing.create([wanted], around_vswitches=False)
        place.wire.broken = set()
        await place.clock.advance(2)
        assert not table.changing
    assert wanted.destination not in place.wire.table


async def test_a_stopped_instance_keeps_its_enis_and_no_packet_reaches_them(place: Place) -> None:
    """Off the wire until it starts, the primary one first; attached meanwhile, a card comes with the start."""
    world, wire = place.world, place.wire
    instance = await world.create_instance("n", "ecs.g7.xlarge", place.vswitch.id, [place.group.id])
    attached, later = await place.create(), await place.create()
    world.attach_eni(attached, instance.id)
    await place.clock.advance(5)
    await world.power.stop(instance.id)
    assert wire.cards == {}
    assert world.enis[attached].status is EniStatus.IN_USE
    world.attach_eni(later, instance.id)
    await place.do(world.assign_addresses(attached, count=1))
    await place.do(world.modify_eni(world.primary(instance.id).id, source_dest_check=False))
    await place.clock.advance(5)
    assert wire.cards == {}
    with pytest.raises(Refused, match="IncorrectInstanceStatus"):
        await world.power.stop(instance.id)
    wire.calls.clear()
    await world.power.start(instance.id)
    assert wire.calls == [("plug", eni_id) for eni_id in (world.primary(instance.id).id, attached, later)]
    assert len(wire.cards[attached].addresses) == 2
    assert not wire.cards[world.primary(instance.id).id].source_dest_check


async def test_a_released_instance_takes_its_enis_along_but_those_that_are_to_stay(place: Place) -> None:
    """Wherever they were in their lives; addresses are free again, and route entries stay."""
    world = place.world
    free = world.available(place.vswitch.id)
    instance = await world.create_instance("n", "ecs.g7.xlarge", place.vswitch.id, [place.group.id])
    (table,) = world.route_tables.values()
    world.routing.create([Wanted(table.id, IPv4Network("172.20.1.0/24"), instance.id)], around_vswitches=False)
    goes, stays = await place.create(secondary_count=2), await place.create(delete_on_release=False)
    comes = await place.create(delete_on_release=False)
    for eni_id in (goes, stays):
        world.attach_eni(eni_id, instance.id)
    await place.clock.advance(5)
    world.attach_eni(comes, instance.id)
    world.detach_eni(stays, instance.id)
    assigning = asyncio.create_task(world.assign_addresses(goes, count=1))
    await place.clock.somebody_sleeps()
    await world.power.release(instance.id)
    await place.clock.advance(10)
    with pytest.raises(Refused, match=r"InvalidEniId\.NotFound"):
        await assigning
    assert world.instances == {}
    assert {eni.id: (eni.status, eni.instance_id) for eni in world.enis.values()} == dict.fromkeys(
        (stays, comes), (EniStatus.AVAILABLE, None)
    )
    assert place.wire.cards == {}
    assert world.available(place.vswitch.id) == free - 2
    assert [entry.next_hop_id for entry in table.entries.values() if entry.eni_id] == [instance.id]
