"""Slots that either use may have, end to end: the allocator, kubelet as far as it matters here, and the cloud."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from eniallocator import Books
from eniway.model import Kind, Slot
from tests.box.allocator_world import Rig, rig

AUTO: dict[str, Any] = {
    "exclusive_slots": "auto",
    "warm_exclusive": 1,
    "min_idle_addresses": 0,
    "max_idle_addresses": 0,
}


@pytest.fixture
async def cloud(tmp_path: Path) -> AsyncIterator[Rig]:
    async with rig(tmp_path) as made:
        yield made


async def kubelet_follows(cloud: Rig, books: Books) -> None:
    """What kubelet would give away: what it was told is healthy."""
    while True:
        cloud.kubelet_slots = {device.slot for device in books.devices() if device.healthy}
        await books.devices_changed()


async def test_shared_pods_take_slots_that_no_exclusive_pod_has(cloud: Rig) -> None:
    """A burst that one card cannot hold gets others, and kubelet does not offer these any more."""
    async with cloud.books(**AUTO) as books, asyncio.TaskGroup() as group:
        following = group.create_task(kubelet_follows(cloud, books))
        leases = await asyncio.gather(*(cloud.add(books, f"web-{number}") for number in range(30)))
        assert len({lease.card.slot for lease in leases}) == 3
        assert {device.slot for device in books.devices() if device.healthy} == set()
        assert {device.slot for device in books.devices()} == {2, 3}
        following.cancel()


async def test_an_allocate_during_the_hand_over_wins(cloud: Rig) -> None:
    """The pod gets its card; the shared pods wait for another slot."""
    async with cloud.books(**{**AUTO, "warm_exclusive": 0}) as books:
        await cloud.until(lambda: sum(device.healthy for device in books.devices()) == 2)
        cloud.kubelet_slots = {Slot(2), Slot(3)}
        waiting = asyncio.gather(*(cloud.add(books, f"web-{number}") for number in range(15)))
        await cloud.until(lambda: not all(device.healthy for device in books.devices()))
        (claimed,) = (device.slot for device in books.devices() if not device.healthy)
        books.want_slot(claimed)
        lease = await cloud.add(books, "db", slot=claimed)
        assert (lease.kind, lease.card.slot) == (Kind.EXCLUSIVE, claimed)
        cloud.kubelet_slots = {claimed}
        assert claimed not in {shared.card.slot for shared in await waiting}


async def test_a_slot_goes_back_when_its_shared_card_has_gone(cloud: Rig) -> None:
    """Exclusive pods can have it again."""
    async with cloud.books(**{**AUTO, "warm_exclusive": 0}) as books, asyncio.TaskGroup() as group:
        following = group.create_task(kubelet_follows(cloud, books))
        await asyncio.gather(*(cloud.add(books, f"web-{number}") for number in range(20)))
        assert sum(device.healthy for device in books.devices()) == 1
        for number in range(20):
            await books.release(cloud.key(f"web-{number}"))
        await cloud.until(lambda: all(device.healthy for device in books.devices()))
        await cloud.add(books, "db", slot=3)
        following.cancel()


async def test_a_restart_in_the_middle_forgets_no_card(cloud: Rig) -> None:
    """A slot is the shared pods' by the card that stands in it, and that is in the ledger."""
    async with cloud.books(**AUTO) as books, asyncio.TaskGroup() as group:
        following = group.create_task(kubelet_follows(cloud, books))
        await asyncio.gather(*(cloud.add(books, f"web-{number}") for number in range(20)))
        before = {device.slot: device.healthy for device in books.devices()}
        following.cancel()
    async with cloud.books(run=False, **AUTO) as books:
        assert {device.slot: device.healthy for device in books.devices()} == before
        assert len(books.leases()) == 20


async def test_idle_exclusive_cards_go_back_after_a_while(cloud: Rig) -> None:
    """Those beyond the warm ones."""
    async with cloud.books(exclusive_slots=2, warm_exclusive=0, min_idle_addresses=0) as books:
        await cloud.until(lambda: len(books.devices()) == 2)
        for slot in (2, 3):
            books.want_slot(Slot(slot))
            await cloud.add(books, f"db-{slot}", slot=slot)
        for slot in (2, 3):
            await books.release(cloud.key(f"db-{slot}"))
        await cloud.until(lambda: not cloud.cards() and all(device.healthy for device in books.devices()))
