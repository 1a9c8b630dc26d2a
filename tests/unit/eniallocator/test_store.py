"""Memory and disk in step, also when the disk refuses."""

import asyncio
import threading
from collections.abc import Iterator, Sequence
from dataclasses import replace
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

import pytest

from eniallocator.inventory import Inventory
from eniallocator.ledger import Contents, Ledger
from eniallocator.records import Drop, Put
from eniallocator.store import Store
from eniway.errors import InvariantBroken, NotReady
from tests.unit.eniallocator.made import eni, lease, primary_of, secondary

CARD = eni(1)
ADDRESSES = [secondary(CARD, number) for number in range(1, 4)]
HELD = lease("web", CARD, ADDRESSES[0])


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    opened = Ledger.open(tmp_path / "ledger.db")
    yield opened
    opened.close()


@pytest.fixture
async def store(ledger: Ledger) -> Store:
    made = Store(Inventory(Contents(), cooldown=30.0, wall=0.0, now=0.0), ledger, changed=lambda: None)
    await made.intend(Put(CARD), Put(primary_of(CARD)), *map(Put, ADDRESSES))
    return made


def owes(store: Store) -> bool:
    return store.owes


def fill(ledger: Ledger) -> None:
    """No page more: any change that needs one, as all of WAL's do, is refused by sqlite."""
    ledger._database.execute("PRAGMA query_only = ON")


def empty(ledger: Ledger) -> None:
    ledger._database.execute("PRAGMA query_only = OFF")


def commits(ledger: Ledger, patch: pytest.MonkeyPatch) -> threading.Semaphore:
    """Released after each: by it a test waits for the disk while the loop hears nothing."""
    commit, done = ledger._commit, threading.Semaphore(0)

    def counted(writes: Sequence[Any]) -> list[Exception | None]:
        try:
            return commit(writes)
        finally:
            done.release()

    patch.setattr(ledger, "_commit", counted)
    return done


async def test_an_intent_that_is_not_durable_is_none(store: Store, ledger: Ledger) -> None:
    """Memory is as before, so that nothing is done that the ledger does not know of."""
    fill(ledger)
    with pytest.raises(NotReady):
        await store.intend(Put(HELD))
    assert store.inventory.leases == {}
    assert not owes(store)


async def test_an_outcome_stands_whatever_the_disk_says(store: Store, ledger: Ledger) -> None:
    """A release holds in memory at once; the disk hears of it before it hears of anything else."""
    await store.intend(Put(HELD))
    fill(ledger)
    await store.settle(Drop(HELD))
    assert store.inventory.leases == {}
    assert owes(store)
    assert ledger.contents().leases == (HELD,)
    empty(ledger)
    other = lease("other", CARD, ADDRESSES[0])
    await store.intend(Put(other))
    assert ledger.contents().leases == (other,)
    assert not owes(store)


async def test_what_is_recorded_is_in_memory_at_once_and_on_disk_soon(store: Store, ledger: Ledger) -> None:
    """Before anything that is asked for later; a refusal makes it owed."""
    await store.intend(Put(HELD))
    confirmed = replace(HELD, confirmed=True)
    store.record(Put(confirmed))
    assert store.inventory.leases[HELD.key] == confirmed
    await store.flush()
    assert ledger.contents().leases == (confirmed,)
    fill(ledger)
    store.record(Put(HELD))
    with pytest.raises(NotReady):
        await store.flush()
    assert owes(store)
    empty(ledger)
    await store.pay()
    assert ledger.contents().leases == (HELD,)


async def test_what_is_owed_is_paid(store: Store, ledger: Ledger) -> None:
    """Also when nothing else is written."""
    await store.intend(Put(HELD))
    fill(ledger)
    await store.settle(Drop(HELD))
    await store.pay()
    assert owes(store)
    empty(ledger)
    await store.pay()
    assert not owes(store)
    assert ledger.contents().leases == ()


async def test_what_is_owed_is_never_written_over_what_came_later(
    store: Store, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where the disk takes the later one before anybody has heard that it refused the earlier one."""
    await store.intend(Put(HELD))
    committed = commits(ledger, monkeypatch)
    fill(ledger)
    store.record(Put(replace(HELD, confirmed=True)))
    assert committed.acquire(timeout=10.0)
    empty(ledger)
    outcome = store.settle(Drop(HELD))
    assert committed.acquire(timeout=10.0)
    await outcome
    await store.pay()
    assert store.inventory.leases == {}
    assert ledger.contents().leases == ()
    assert not owes(store)


async def test_what_the_schema_refuses_loses_nothing_that_is_owed(store: Store, ledger: Ledger) -> None:
    """Neither a later write, nor another one that is owed."""
    await store.intend(Put(HELD))
    fill(ledger)
    nowhere = replace(ADDRESSES[0], address=IPv4Address("192.0.2.1"), token="nowhere")
    await store.settle(Put(nowhere))
    await store.settle(Drop(HELD))
    assert owes(store)
    empty(ledger)
    with pytest.raises(InvariantBroken):
        await store.intend(Put(replace(nowhere, address=IPv4Address("192.0.2.2"))))
    assert ledger.contents().leases == ()
    assert not owes(store)


async def test_what_is_owed_at_the_end_is_tried_once_more(store: Store, ledger: Ledger) -> None:
    """The disk may have room again."""
    await store.intend(Put(HELD))
    fill(ledger)
    await store.settle(Drop(HELD))
    empty(ledger)
    ledger.close()
    again = Ledger.open(ledger.path)
    assert again.contents().leases == ()
    again.close()


async def test_memory_refuses_before_the_disk_is_asked(store: Store, ledger: Ledger) -> None:
    """All of the changes or none."""
    await store.intend(Put(HELD))
    with pytest.raises(InvariantBroken):
        store.intend(Drop(ADDRESSES[2]), Put(lease("other", CARD, ADDRESSES[0])))
    await store.flush()
    assert set(ledger.contents().addresses) == {primary_of(CARD), *ADDRESSES}
    assert set(store.inventory.addresses.values()) == {primary_of(CARD), *ADDRESSES}


async def test_whoever_stops_waiting_does_not_stop_the_change(store: Store, ledger: Ledger) -> None:
    """A cancelled ADD has its lease in the books, where its DEL finds it."""

    async def acquire() -> None:
        await store.intend(Put(HELD))

    task = asyncio.create_task(acquire())
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await store.flush()
    assert ledger.contents().leases == (HELD,)
    assert list(store.inventory.leases.values()) == [HELD]


async def test_disk_takes_changes_in_the_order_in_which_memory_took_them(ledger: Ledger) -> None:
    """Also those that a change provokes: who waits for an address may have it the moment it is in memory."""
    inventory = Inventory(Contents(), cooldown=30.0, wall=0.0, now=0.0)
    provoked: list[asyncio.Future[None]] = []

    def changed() -> None:
        if ADDRESSES[0].address in inventory.addresses and not inventory.leases:
            provoked.append(made.intend(Put(HELD)))

    made = Store(inventory, ledger, changed=changed)
    await made.settle(Put(CARD), Put(ADDRESSES[0]))
    await provoked[0]
    assert ledger.contents().leases == (HELD,)
