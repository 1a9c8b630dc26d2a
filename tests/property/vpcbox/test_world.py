"""Laws of the world: whatever is asked for in whatever order, the books add up and the wire agrees with them."""

import asyncio
import contextlib
import random
from collections import Counter
from ipaddress import IPv4Network
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from vpcbox.faults import Kind, Rule
from vpcbox.world.clock import VirtualClock
from vpcbox.world.errors import Refused
from vpcbox.world.instance_types import load
from vpcbox.world.lifecycle import TRANSITIONS, Event, following
from vpcbox.world.model import EniStatus, EniType, InstanceStatus
from vpcbox.world.wire import Card, Route
from vpcbox.world.world import World


class _Plugged:
    """A wire that knows which cards are in, and fails when it is told to."""

    def __init__(self) -> None:
        self.cards: dict[str, Card] = {}
        self.broken = False

    async def plug(self, card: Card) -> None:
        assert card.eni_id not in self.cards
        if self.broken:
            raise OSError("broken")
        self.cards[card.eni_id] = card

    async def unplug(self, eni_id: str) -> None:
        if self.broken:
            raise OSError("broken")
        self.cards.pop(eni_id, None)

    async def update(self, card: Card) -> None:
        assert card.eni_id in self.cards
        self.cards[card.eni_id] = card

    async def route(self, table: tuple[Route, ...]) -> None:
        """Packets are not carried here."""


class WorldMachine(RuleBasedStateMachine):
    """Random calls, each started and maybe not finished before the next."""

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.calls: list[asyncio.Task[Any]] = []
        self.powering: list[asyncio.Task[Any]] = []

    @initialize(seed=st.integers())
    def begin(self, seed: int) -> None:
        """A world of one tight vSwitch and two small instances."""
        self.rng = random.Random(seed)
        self.wire = _Plugged()
        self.stuck = False
        self.runner.run(self._begin())

    async def _begin(self) -> None:
        self.clock = VirtualClock()
        self.world = World(self.clock, self.wire, self.rng, load())
        self.running = asyncio.create_task(self.world.run())
        await asyncio.sleep(0)
        vpc = self.world.create_vpc("v", IPv4Network("10.0.0.0/16"))
        self.vswitch = self.world.create_vswitch("s", vpc.id, IPv4Network("10.0.0.0/27"))
        self.group = self.world.create_security_group("g", vpc.id)
        for name, kind in (("a", "ecs.g6.large"), ("b", "ecs.g6e.large")):
            await self.world.create_instance(name, kind, self.vswitch.id, [self.group.id])

    def teardown(self) -> None:
        """End the world."""
        if hasattr(self, "running"):
            self.runner.run(self._end())
        self.runner.close()

    async def _end(self) -> None:
        tasks = [*self.calls, *self.powering, self.running]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def call(self, work: Any) -> None:
        """Start a call, and look no further."""

        async def start() -> None:
            self.calls.append(asyncio.create_task(work))
            await self.clock.advance(0)

        self.runner.run(start())

    def now(self, work: Any) -> None:
        """Make a call that answers at once; refused is an answer."""

        async def start() -> None:
            with contextlib.suppress(Refused):
                work()
            await self.clock.advance(0)

        self.runner.run(start())

    def pick(self, number: int) -> str:
        """Some ENI, primary ones too."""
        ids = sorted(self.world.enis)
        return ids[number % len(ids)]

    @rule(count=st.integers(0, 4))
    def create(self, count: int) -> None:
        """Another ENI."""
        self.call(self.world.create_eni(self.vswitch.id, [self.group.id], secondary_count=count))

    @rule(eni=st.integers(0), instance=st.integers(0))
    def attach(self, eni: int, instance: int) -> None:
        """Attach, allowed or not, to an instance that runs or not."""
        instances = list(self.world.instances)
        self.now(lambda: self.world.attach_eni(self.pick(eni), instances[instance % len(instances)]))

    @precondition(lambda self: all(task.done() for task in self.powering))
    @rule(instance=st.integers(0), verb=st.sampled_from(["stop", "start", "release"]))
    def power(self, instance: int, verb: str) -> None:
        """Stop, start or release an instance; one is left."""
        instances = list(self.world.instances)
        if verb == "release" and len(instances) == 1:
            return
        self.call(getattr(self.world.power, verb)(instances[instance % len(instances)]))
        self.powering.append(self.calls.pop())  # nobody hangs up here

    @rule(eni=st.integers(0))
    def detach(self, eni: int) -> None:
        """Detach from where it is, if anywhere."""
        eni_id = self.pick(eni)
        instance_id = self.world.enis[eni_id].instance_id or next(iter(self.world.instances))
        self.now(lambda: self.world.detach_eni(eni_id, instance_id))

    @rule(eni=st.integers(0))
    def delete(self, eni: int) -> None:
        """Delete, allowed or not."""
        self.now(lambda: self.world.delete_eni(self.pick(eni)))

    @rule(eni=st.integers(0), count=st.integers(1, 5))
    def assign(self, eni: int, count: int) -> None:
        """More addresses."""
        self.call(self.world.assign_addresses(self.pick(eni), count=count))

    @rule(eni=st.integers(0), count=st.integers(1, 5))
    def unassign(self, eni: int, count: int) -> None:
        """Fewer addresses."""
        eni_id = self.pick(eni)
        self.call(self.world.unassign_addresses(eni_id, self.world.enis[eni_id].secondary_addresses[:count]))

    @rule(eni=st.integers(0), check=st.booleans())
    def modify(self, eni: int, check: bool) -> None:
        """The source/destination check on or off."""
        self.call(self.world.modify_eni(self.pick(eni), source_dest_check=check))

    @rule(seconds=st.sampled_from([0.1, 0.35, 1.1, 3.3]))
    def wait(self, seconds: float) -> None:
        """Time passes."""
        self.runner.run(self.clock.advance(seconds))

    @precondition(lambda self: self.calls)
    @rule(number=st.integers(0))
    def cancel(self, number: int) -> None:
        """Somebody hangs up."""
        task = self.calls[number % len(self.calls)]
        task.cancel()
        self.runner.run(self.clock.advance(0))

    @rule(broken=st.booleans())
    def break_wire(self, broken: bool) -> None:
        """The wire fails from now on, or works again."""
        self.wire.broken = broken

    @rule(kind=st.sampled_from([Kind.STUCK, Kind.LOST_ATTACH]))
    def misbehave(self, kind: Kind) -> None:
        """The next change of state goes wrong."""
        self.world.faults.add(Rule(kind, count=1))
        self.stuck |= kind is Kind.STUCK

    @rule()
    def settle(self) -> None:
        """Left alone with a wire that works, every ENI comes to rest; a stuck one after it was asked again."""
        self.wire.broken = False
        self.world.faults.clear()
        self.runner.run(self.clock.advance(30))
        for eni in list(self.world.enis.values()) if self.stuck else []:
            if eni.status is EniStatus.DETACHING and eni.instance_id is not None:
                self.world.detach_eni(eni.id, eni.instance_id)
            elif eni.status is EniStatus.DELETING:
                self.world.delete_eni(eni.id)
        self.stuck = False
        self.runner.run(self.clock.advance(30))
        assert all(task.done() for task in (*self.calls, *self.powering))
        assert {type(task.exception()) for task in self.powering} <= {type(None), Refused}
        assert {eni.status for eni in self.world.enis.values()} <= {EniStatus.AVAILABLE, EniStatus.IN_USE}
        in_use = [eni for eni in self.world.enis.values() if eni.status is EniStatus.IN_USE]
        runs = {i.id for i in self.world.instances.values() if i.status is InstanceStatus.RUNNING}
        assert {eni.id for eni in in_use if eni.instance_id in runs} == set(self.wire.cards)
        assert {eni.instance_id for eni in in_use} == set(self.world.instances), "each has its primary ENI"

    @invariant()
    def every_address_has_one_holder(self) -> None:
        """What ENIs hold and what the vSwitch counts agree, less what calls in progress hold back."""
        if not hasattr(self, "running"):
            return
        held = Counter(address for eni in self.world.enis.values() for address in eni.addresses)
        assert not held or max(held.values()) == 1
        for eni in self.world.enis.values():
            for address in eni.addresses:
                assert self.world.holder(address) == eni
        waiting = any(not task.done() for task in self.calls)
        taken = 28 - self.world.available(self.vswitch.id)
        assert taken == len(held) or (waiting and taken > len(held))

    @invariant()
    def limits_and_slots_hold(self) -> None:
        """No instance has more cards, no card more addresses than the type allows; no two share a slot."""
        if not hasattr(self, "running"):
            return
        for instance in self.world.instances.values():
            cards = self.world.attached(instance.id)
            assert [card.slot for card in cards if card.type is EniType.PRIMARY] == [0]
            assert len({card.slot for card in cards}) == len(cards) <= instance.type.enis
            assert all(len(card.addresses) <= instance.type.addresses_per_eni for card in cards)

    @invariant()
    def the_wire_agrees(self) -> None:
        """A plugged card belongs where it is and has the addresses of the books; an unattached ENI is not plugged."""
        if not hasattr(self, "running"):
            return
        for eni_id, card in self.wire.cards.items():
            eni = self.world.enis[eni_id]
            assert eni.status in {EniStatus.ATTACHING, EniStatus.IN_USE, EniStatus.DETACHING}
            assert card == self.world.card(eni)
        for eni in self.world.enis.values():
            placed = eni.instance_id is not None
            assert placed == (eni.status in {EniStatus.ATTACHING, EniStatus.IN_USE, EniStatus.DETACHING})

    @invariant()
    def the_world_still_runs(self) -> None:
        """Nothing that is asked for brings it down."""
        assert not hasattr(self, "running") or not self.running.done()


WorldMachine.TestCase.settings = settings(max_examples=60, stateful_step_count=40)
TestWorld = WorldMachine.TestCase


def test_every_status_can_be_left() -> None:
    """The table has no dead end, and an event it does not list changes nothing."""
    assert {status for status, _ in TRANSITIONS} == set(EniStatus)
    for status in EniStatus:
        for event in Event:
            if (status, event) in TRANSITIONS:
                assert following(status, event) is TRANSITIONS[status, event]
