"""Laws of the route table: whatever is asked for in whatever order, it stays sound and the wire agrees with it."""

import asyncio
import random
from ipaddress import IPv4Network

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from vpcbox.world.clock import VirtualClock
from vpcbox.world.errors import Refused
from vpcbox.world.instance_types import load
from vpcbox.world.model import NextHopType, RouteEntry, RouteStatus, RouteType
from vpcbox.world.route_table import MOST_CUSTOM
from vpcbox.world.routing import Unwanted, Wanted
from vpcbox.world.wire import Card, Route
from vpcbox.world.world import World

VSWITCHES = [IPv4Network("10.0.0.0/24"), IPv4Network("10.0.2.0/23")]
DESTINATIONS = [  # outside, inside and around vSwitches and services, and each other
    *(IPv4Network(f"172.20.{n}.0/24") for n in range(4)),
    *map(IPv4Network, ("172.20.0.0/16", "0.0.0.0/0", "10.0.0.0/16", "10.0.0.0/24", "10.0.3.7/32", "100.64.1.0/24")),
]
BLOCKS = [IPv4Network(f"172.{24 + n}.0.0/16") for n in range(2)]


class _Obeying:
    """A wire that has a route table, and fails when it is told to."""

    def __init__(self) -> None:
        self.table: tuple[Route, ...] = ()
        self.broken = False

    async def plug(self, card: Card) -> None:
        """Cards are of no interest here."""

    async def unplug(self, eni_id: str) -> None:
        """Nor are they here."""

    async def update(self, card: Card) -> None:
        """Nor here."""

    async def route(self, table: tuple[Route, ...]) -> None:
        if self.broken:
            raise OSError("broken")
        assert len({route.destination for route in table}) == len(table)
        self.table = table


class RouteMachine(RuleBasedStateMachine):
    """Random writes, each begun and maybe not in force before the next."""

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()

    @initialize(seed=st.integers())
    def begin(self, seed: int) -> None:
        """A VPC with two instances and an ENI."""
        self.wire = _Obeying()
        self.rng = random.Random(seed)
        self.runner.run(self._begin())

    async def _begin(self) -> None:
        self.clock = VirtualClock()
        self.world = World(self.clock, self.wire, self.rng, load())
        self.running = asyncio.create_task(self.world.run())
        await asyncio.sleep(0)
        vpc = self.world.create_vpc("v", IPv4Network("10.0.0.0/16"))
        vswitch, _ = [self.world.create_vswitch(f"s{n}", vpc.id, cidr) for n, cidr in enumerate(VSWITCHES)]
        group = self.world.create_security_group("g", vpc.id)
        instances = [
            await self.world.create_instance(f"n{n}", "ecs.g7.xlarge", vswitch.id, [group.id]) for n in range(2)
        ]
        creating = asyncio.create_task(self.world.create_eni(vswitch.id, [group.id]))
        await self.clock.advance(1)
        self.eni = (await creating).id
        self.hops = [*((i.id, NextHopType.INSTANCE) for i in instances), (self.eni, NextHopType.NETWORK_INTERFACE)]
        self.table = self.world.route_table(vpc.route_table_id)

    def teardown(self) -> None:
        """End the world."""
        if hasattr(self, "running"):
            self.running.cancel()
            self.runner.run(asyncio.wait([self.running]))
        self.runner.close()

    @rule(picks=st.lists(st.tuples(st.sampled_from(DESTINATIONS), st.integers(0, 2)), min_size=1, max_size=4))
    def create(self, picks: list[tuple[IPv4Network, int]]) -> None:
        """A list; what is refused of it is refused alone, and everything is while another write is under way."""
        self._write([Wanted(self.table.id, cidr, *self.hops[hop]) for cidr, hop in picks])

    @rule(block=st.sampled_from(BLOCKS))
    def fill(self, block: IPv4Network) -> None:
        """Up to the quota and beyond, without the limit that the API has on a list."""
        self._write([Wanted(self.table.id, cidr, *self.hops[0]) for cidr in list(block.subnets(new_prefix=24))[:150]])

    def _write(self, wanted: list[Wanted]) -> None:
        async def write() -> None:
            before, changing = dict(self.table.entries), self.table.changing
            if changing:
                with pytest.raises(Refused, match=r"^TaskConflict"):
                    self.world.routing.create(wanted, around_vswitches=False)
                assert self.table.entries == before
            else:
                made = self.world.routing.create(wanted, around_vswitches=False)
                assert len(made) == len(wanted)
                new = {entry.id: entry for entry in made if isinstance(entry, RouteEntry)}
                assert self.table.entries == before | new
            await self.clock.advance(0)

        self.runner.run(write())

    @rule(numbers=st.lists(st.integers(0), min_size=1, max_size=4))
    def delete(self, numbers: list[int]) -> None:
        """Some entries, system ones too, and the same one twice."""

        async def write() -> None:
            ids = sorted(self.table.entries)
            unwanted = [Unwanted(self.table.id, ids[number % len(ids)]) for number in numbers]
            if self.table.changing:
                with pytest.raises(Refused, match=r"^TaskConflict"):
                    self.world.routing.delete(unwanted)
            else:
                deleted = self.world.routing.delete(unwanted)
                gone = [entry.id for entry in deleted if isinstance(entry, RouteEntry)]
                assert len(gone) == len(set(gone))
                assert all(self.table.entries[entry_id].status is RouteStatus.DELETING for entry_id in gone)
            await self.clock.advance(0)

        self.runner.run(write())

    @rule()
    def lose_a_next_hop(self) -> None:
        """Its entries stay."""

        async def lose() -> None:
            count = len(self.table.entries)
            if self.eni in self.world.enis and not self.table.changing:
                self.world.delete_eni(self.eni)
                await self.clock.advance(2)
                assert len(self.table.entries) == count

        self.runner.run(lose())

    @rule(seconds=st.sampled_from([0.4, 1.1]))
    def wait(self, seconds: float) -> None:
        """Time passes."""
        self.runner.run(self.clock.advance(seconds))

    @rule(broken=st.booleans())
    def break_wire(self, broken: bool) -> None:
        """The wire fails from now on, or works again."""
        self.wire.broken = broken

    @rule()
    def settle(self) -> None:
        """Left alone with a wire that works, every entry comes to rest and the wire has just these."""
        self.wire.broken = False
        self.runner.run(self.clock.advance(10))
        assert not self.table.changing
        assert not self.wire.table or set(self.wire.table) == set(self.table.routes(()))

    @invariant()
    def the_table_is_sound(self) -> None:
        """A destination once, none of our own inside the VPC's own, no more than the quota, the system's there."""
        if not hasattr(self, "table"):
            return
        entries = list(self.table.entries.values())
        system = [entry.destination for entry in entries if entry.type is RouteType.SYSTEM]
        custom = [entry.destination for entry in entries if entry.type is RouteType.CUSTOM]
        assert set(system) == {*VSWITCHES, IPv4Network("100.64.0.0/10")}
        assert len({entry.destination for entry in entries}) == len(entries)
        assert not any(cidr.subnet_of(own) for cidr in custom for own in system)
        assert not any(cidr.overlaps(own) for cidr in custom for own in VSWITCHES)
        assert len(custom) <= MOST_CUSTOM

    @invariant()
    def packets_take_what_is_available_and_nothing_that_is_gone(self) -> None:
        """The wire has all available entries, and none that is not in the table."""
        if not hasattr(self, "table") or not self.wire.table:
            return
        on_wire = set(self.wire.table)
        assert set(self.table.routes(())) <= on_wire
        assert on_wire <= set(self.table.routes(self.table.entries.keys()))

    @invariant()
    def the_world_still_runs(self) -> None:
        """Nothing that is asked for brings it down."""
        assert not hasattr(self, "running") or not self.running.done()


RouteMachine.TestCase.settings = settings(max_examples=60, stateful_step_count=30)
TestRoutes = RouteMachine.TestCase
