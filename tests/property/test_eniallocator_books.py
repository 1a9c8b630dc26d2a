"""The ledger and the inventory under any sequence of leases, releases, failures of the disk and restarts."""

import asyncio
import shutil
import tempfile
from collections.abc import Awaitable, Callable, Collection
from dataclasses import replace
from functools import partial
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from eniallocator.inventory import Inventory
from eniallocator.ledger import Contents, Ledger
from eniallocator.records import Change, Drop, EniRecord, LeaseRecord, Put, Record, RoutedAddress, Use
from eniallocator.store import Store
from eniway.errors import NotReady
from eniway.model import Kind, LeaseKey
from tests.unit.eniallocator.made import eni, key, lease, primary_of, routed, secondary

COOLDOWN = 30.0
PRIMARY, SHARED, EXCLUSIVE = eni(0), [eni(1), eni(2)], [eni(3, Use.EXCLUSIVE), eni(4, Use.EXCLUSIVE)]
POD_CIDR = IPv4Network("172.20.1.0/29")
"""Six pods can have an address."""
NAMES = st.sampled_from([f"pod-{number}" for number in range(12)])


class Books(RuleBasedStateMachine):
    """What the doors do, over a real ledger; the model is who was told to hold what, and what was released when."""

    def __init__(self) -> None:
        super().__init__()
        self.directory = Path(tempfile.mkdtemp())
        self.loop = asyncio.new_event_loop()
        self.now = 1000.0
        self.full = False
        self.told: dict[LeaseKey, LeaseRecord] = {}
        self.released: dict[IPv4Address, float] = {}
        self.undone: set[LeaseKey] = set()
        """Released while the disk was full: gone for this process, and back after a restart until it is swept."""

    @initialize()
    def begin(self) -> None:
        self.open()
        cards = [PRIMARY, *SHARED, *EXCLUSIVE]
        addresses = [secondary(card, number) for card in (PRIMARY, *SHARED) for number in range(1, 5)]
        firsts = [primary_of(card) for card in cards]
        self.run(lambda: self.store.settle(*map(Put, cards), *map(Put, firsts), *map(Put, addresses)))
        self.inventory.kernel_knows |= {card.token for card in SHARED}

    def open(self) -> None:
        self.ledger = Ledger.open(self.directory / "ledger.db")
        contents: Contents = self.ledger.contents()
        self.inventory = Inventory(contents, cooldown=COOLDOWN, wall=self.now, now=self.now)
        self.inventory.kernel_knows |= {card.token for card in SHARED}
        self.inventory.pods.move(POD_CIDR)
        self.store = Store(self.inventory, self.ledger, changed=lambda: None)

    def run(self, work: Callable[[], Awaitable[None]]) -> None:
        async def wait() -> None:
            await work()

        self.loop.run_until_complete(wait())

    def teardown(self) -> None:
        self.ledger.close()
        self.loop.close()
        shutil.rmtree(self.directory)

    def grant(self, record: LeaseRecord, *before: Change) -> None:
        try:
            self.run(lambda: self.store.intend(*before, Put(record)))
        except NotReady:
            assert self.full
            return
        assert not self.full
        self.told[record.key] = record

    @rule(name=NAMES)
    def add_shared(self, name: str) -> None:
        picked = self.inventory.pick_shared(self.now)
        if key(name) in self.inventory.leases or picked is None:
            return
        card, address = picked
        assert self.now - self.released.get(address, float("-inf")) >= COOLDOWN
        self.grant(lease(name, card, self.inventory.addresses[address]))

    @rule(name=NAMES, record=st.sampled_from(EXCLUSIVE))
    def add_exclusive(self, name: str, record: EniRecord) -> None:
        service = self.inventory.pick_service(self.now)
        if key(name) in self.inventory.leases or service is None or self.inventory.holder_of_card(record.token):
            return
        assert self.now - self.released.get(service, float("-inf")) >= COOLDOWN
        self.grant(lease(name, record, primary_of(record), service=self.inventory.addresses[service]))

    @rule(name=NAMES)
    def add_routed(self, name: str) -> None:
        picked = self.inventory.pick_routed(self.now)
        if key(name) in self.inventory.leases or picked is None:
            return
        assert self.now - self.released.get(picked, float("-inf")) >= COOLDOWN
        assert picked in POD_CIDR
        assert picked not in {POD_CIDR.network_address, POD_CIDR.broadcast_address}
        address, record = routed(name, PRIMARY, picked)
        self.grant(record, Put(address))

    @invariant()
    def what_has_rested_can_be_had(self) -> None:
        """No routed address is lost, whatever happened to it: with none leased or cooling there is one to be had."""
        if hasattr(self, "inventory"):
            busy = {address for record in self.told.values() for address in record.addresses}
            busy |= {address for address, at in self.released.items() if self.now - at < COOLDOWN}
            free = set(list(POD_CIDR)[1:-1]) - busy
            assert not free or self.inventory.pick_routed(self.now) in free

    @rule(name=NAMES)
    def release(self, name: str) -> None:
        held = self.inventory.leases.get(key(name))
        if held is None:
            return
        cooling = [address for address in held.addresses if held.kind is not Kind.EXCLUSIVE or address != held.address]
        self.inventory.cool(cooling, self.now)
        rested = self.rested(held, cooling)
        self.run(lambda: self.store.settle(Drop(held), *map(Put, rested)))
        self.released.update(dict.fromkeys(cooling, self.now))
        del self.told[held.key]
        if self.full:
            self.undone.add(held.key)

    def rested(self, held: LeaseRecord, addresses: Collection[IPv4Address]) -> list[Record]:
        """Records of the addresses, released now."""
        if held.kind is Kind.ROUTED:
            return [RoutedAddress(address, self.now) for address in addresses]
        return [replace(self.inventory.addresses[address], released=self.now) for address in addresses]

    @rule(seconds=st.floats(0.0, 40.0))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds

    @precondition(lambda self: not self.full)
    @rule()
    def disk_fills_up(self) -> None:
        self.ledger._database.execute("PRAGMA query_only = ON")
        self.full = True

    @precondition(lambda self: self.full)
    @rule()
    def disk_is_cleared(self) -> None:
        self.ledger._database.execute("PRAGMA query_only = OFF")
        self.full = False
        self.run(self.store.pay)
        self.undone.clear()
        assert not self.store.owes

    @rule()
    def restart(self) -> None:
        """A kill and a start: what was told is known; what could not be written is swept again."""
        self.ledger.close()
        self.open()
        self.full = False
        for stale in [held for known, held in self.inventory.leases.items() if known in self.undone]:
            assert stale.key not in self.told
            self.inventory.cool(stale.addresses, self.now)
            self.run(partial(self.store.settle, Drop(stale), *map(Put, self.rested(stale, stale.addresses))))
            self.released.update(dict.fromkeys(stale.addresses, self.now))
        self.undone.clear()

    @invariant()
    def what_a_card_has_is_as_if_it_were_counted_anew(self) -> None:
        if hasattr(self, "inventory"):
            for token in self.inventory.enis:
                kept = self.inventory._shelf(token)
                del self.inventory._shelves[token]
                anew = self.inventory._shelf(token)
                assert (kept.order, kept.times, kept.stuck) == (anew.order, anew.times, anew.stuck)
                assert kept.free(self.now) == anew.free(self.now)
                self.inventory._shelves[token] = kept

    @invariant()
    def memory_is_what_was_told(self) -> None:
        if hasattr(self, "inventory"):
            assert self.inventory.leases == self.told

    @invariant()
    def nothing_is_leased_twice(self) -> None:
        held = [address for record in self.told.values() for address in record.addresses]
        assert len(set(held)) == len(held)
        cards = [record.token for record in self.told.values() if record.kind is Kind.EXCLUSIVE]
        assert len(set(cards)) == len(cards)

    @invariant()
    def the_disk_has_what_was_told(self) -> None:
        if hasattr(self, "ledger"):
            on_disk = {record.key: record for record in self.ledger.contents().leases}
            assert {known: record for known, record in on_disk.items() if known not in self.undone} == {
                known: record for known, record in self.told.items() if known not in self.undone
            }


Books.TestCase.settings = settings(max_examples=40, stateful_step_count=40)
TestBooks = Books.TestCase
