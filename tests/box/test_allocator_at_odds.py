"""Books and cloud at odds: addresses that change hands, cards that vanish or do not come, and a ledger that lies."""

import asyncio
import sqlite3
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from eniallocator import Books
from eniallocator.cloud.switch import Calls
from eniallocator.lifecycle import State
from eniallocator.plan import Unassign
from eniallocator.records import AddressRecord, Put, Use
from eniway.errors import CapacityError, DeadlineExceeded, KernelError, VSwitchExhausted
from eniway.model import Mac, Slot
from tests.box.allocator_world import Rig, condition, disk_has_what_memory_has, rig
from vpcbox.faults import Kind as FaultKind
from vpcbox.faults import Rule
from vpcbox.world.model import EniStatus, EniType


@pytest.fixture
async def cloud(tmp_path: Path) -> AsyncIterator[Rig]:
    async with rig(tmp_path) as made:
        yield made


async def test_addresses_of_a_card_deleted_by_somebody_may_be_another_cards(tmp_path: Path) -> None:
    """Disk and memory agree on who has them, across a restart, and no pod gets one that another's lease still names."""
    async with rig(tmp_path, pods="10.0.16.0/29") as cloud:
        pool: dict[str, Any] = {"exclusive_slots": 0, "min_idle_addresses": 0, "cooldown_seconds": 1.0}
        async with cloud.books(**pool) as books:
            old = [await cloud.add(books, f"web-{number}") for number in range(3)]
            card = old[0].card
            await cloud.quiet()
            cloud.world.detach_eni(card.eni_id, cloud.instance_id)
            await cloud.until(lambda: bool(cloud.cards(status=EniStatus.AVAILABLE)))
            cloud.world.delete_eni(card.eni_id)
            await cloud.until(lambda: card.eni_id not in cloud.world.enis)
            # Else the stock still says that there is nothing, and the new card is another vSwitch's.
            await cloud.until(lambda: cloud.world.stock(cloud.vswitches[0]) == 4)
        async with cloud.books(**pool) as books:
            await cloud.until(lambda: card.eni_id not in {eni.eni_id for eni in books.cards()})
            new = [await cloud.add(books, f"new-{number}") for number in range(3)]
            await cloud.quiet()
            assert not {lease.address for lease in old} & {lease.address for lease in new}
            there = {
                address
                for eni in cloud.world.enis.values()
                for address in (eni.primary_address, *eni.secondary_addresses)
            }
            assert {lease.address for lease in old} & there
            await disk_has_what_memory_has(books)
        async with cloud.books(**pool) as books:
            assert {lease.key for lease in books.leases()} == {lease.key for lease in (*old, *new)}
            for lease in old:
                await books.release(lease.key)
            await cloud.until(lambda: card.slot not in {eni.slot for eni in books.cards() if eni == card})
            await cloud.until(lambda: len(books._inventory.enis) == len(cloud.cards()) + 1)
            await disk_has_what_memory_has(books)


async def test_a_deleted_cards_own_address_may_be_another_cards(tmp_path: Path) -> None:
    """The only one left: the new card has it in memory, on disk and after a restart, and waits for the old lease."""
    async with rig(tmp_path, pods="10.0.16.0/29") as cloud:
        pool: dict[str, Any] = {"exclusive_slots": 2, "warm_exclusive": 0, "min_idle_addresses": 0}
        async with cloud.books(**pool) as books:
            old = await cloud.add(books, "db", slot=3)
            await cloud.quiet()
            for _ in range(3):
                await cloud.world.create_eni(cloud.vswitches[0], [cloud.group], description="somebody's")
            cloud.world.detach_eni(old.card.eni_id, cloud.instance_id)
            await cloud.until(lambda: cloud.world.enis[old.card.eni_id].status is EniStatus.AVAILABLE)
            cloud.world.delete_eni(old.card.eni_id)
            await cloud.until(lambda: old.card.eni_id not in cloud.world.enis)
        cloud.vswitches = cloud.vswitches[:1]
        async with cloud.books(**pool) as books:
            await cloud.until(lambda: old.card.eni_id not in {card.eni_id for card in books.cards()})
            books.want_slot(Slot(2))
            await cloud.until(lambda: 2 in {card.slot for card in books.cards()})
            await disk_has_what_memory_has(books)
        async with cloud.books(**pool) as books:
            assert books.lease(old.key) == old
            with pytest.raises(DeadlineExceeded, match=r"default/db .* still holds"):
                await cloud.add(books, "db-2", slot=2, within=5.0)
            await books.release(old.key)
            new = await cloud.add(books, "db-2", slot=2)
            assert new.address == old.address
            await disk_has_what_memory_has(books)


async def test_a_card_that_is_being_deleted_has_no_address_in_the_books(cloud: Rig) -> None:
    """They are another card's before we hear that it is gone."""
    cloud.faults.add(Rule(FaultKind.STUCK, "DeleteNetworkInterface", count=1))
    pool: dict[str, Any] = {
        "min_idle_addresses": 0,
        "max_idle_addresses": 0,
        "exclusive_slots": 0,
        "cooldown_seconds": 1.0,
    }
    async with cloud.books(**pool) as books:
        lease = await cloud.add(books, "web")
        await books.release(lease.key)
        enis = books._inventory.enis
        await cloud.until(lambda: [eni.state for eni in enis.values() if eni.use is Use.SHARED] == [State.DELETING])
        (leaving,) = (eni for eni in enis.values() if eni.use is Use.SHARED)
        assert (leaving.address, leaving.mac, books._inventory.of_card(leaving.token)) == (None, None, frozenset())
        await cloud.until(lambda: leaving.token not in enis, within=600.0)
        assert not books._pool._careers._fresh


async def test_an_address_given_back_may_be_another_cards_before_we_hear_of_it(cloud: Rig) -> None:
    """Unassign is done and its answers are lost; what the other card was given meanwhile stays its."""
    async with cloud.books(exclusive_slots=0, min_idle_addresses=3, max_idle_addresses=9) as books:
        await asyncio.gather(*(cloud.add(books, f"web-{number}") for number in range(15)))
        await cloud.quiet()
        cloud.faults.add(
            Rule(FaultKind.LOST_ANSWER, "UnassignPrivateIpAddresses", status=500, code="InternalError", count=2)
        )
        one, other = (eni.token for eni in books._inventory.enis.values() if eni.use is Use.SHARED)
        token = next(token for token in (one, other) if books._inventory.free_of(token, cloud.clock.monotonic()))
        (address, *_) = books._inventory.free_of(token, cloud.clock.monotonic())
        books._pool._start(Unassign(token, (address,)))
        await cloud.until(lambda: "UnassignPrivateIpAddresses" in cloud.calls)
        taken = AddressRecord(address, other if token == one else one)
        await books._store.settle(Put(taken))
        await cloud.until(lambda: not books._pool._busy)
        assert books._inventory.addresses[address] == taken


async def test_a_card_that_does_not_arrive_keeps_no_pod_waiting(cloud: Rig) -> None:
    """Its link never appears: after a while the pod gets an address of another card, for there are slots."""
    async with cloud.books(exclusive_slots=0) as books, asyncio.TaskGroup() as group:
        waiting = group.create_task(cloud.add(books, "web"))
        await cloud.until(lambda: any(eni.type is EniType.SECONDARY for eni in cloud.world.enis.values()))
        (stuck,) = (eni for eni in cloud.world.enis.values() if eni.type is EniType.SECONDARY)
        cloud.node.in_pods.add(Mac(stuck.mac))
        lease = await waiting
        assert lease.card.eni_id != stuck.id


async def comes_late(cloud: Rig, books: Books, slot: int) -> str:
    """The card in ``slot``, attached by the cloud, whose link does not appear."""
    await cloud.until(lambda: (eni := books._inventory.in_slot(Slot(slot))) is not None and eni.mac is not None)
    eni = books._inventory.in_slot(Slot(slot))
    assert eni is not None
    assert eni.mac is not None
    cloud.node.in_pods.add(eni.mac)
    await cloud.until(lambda: cloud.world.enis[eni.known_id].status is EniStatus.IN_USE)
    return eni.known_id


async def test_an_exclusive_card_that_does_not_arrive_leaves_its_slot_to_another(cloud: Rig) -> None:
    """It is no capacity and not offered; the pod that kubelet gave the slot before gets the next one."""
    async with cloud.books(exclusive_slots=1, warm_exclusive=0) as books, asyncio.TaskGroup() as group:
        await cloud.until(lambda: books._pool.started)
        await books.settle_orphans(())
        waiting = group.create_task(cloud.add(books, "web", slot=3, within=400.0))
        late = await comes_late(cloud, books, 3)
        assert [device.healthy for device in books.devices()] == [True]
        assert books.capacity()["slots"].growable == 1
        await cloud.until(lambda: not books.devices()[0].healthy)
        assert books.capacity()["slots"].growable == 0
        # Its link comes after all: nobody waits for it any more.
        cloud.node.in_pods.clear()
        cloud.node.stir()
        assert (await waiting).card.eni_id != late
        assert late not in cloud.world.enis
        assert [device.healthy for device in books.devices()] == [True]
        await disk_has_what_memory_has(books)


async def test_an_exclusive_card_that_does_not_arrive_is_not_the_warm_one(cloud: Rig) -> None:
    """Another is made in another slot; where nothing may be given back the late one stays, and is not offered."""
    async with cloud.books(exclusive_slots=2, warm_exclusive=1) as books:
        await cloud.until(lambda: books._pool.started)
        await books.settle_orphans(())
        late = await comes_late(cloud, books, 2)
        cloud.switch.calls = Calls.NO_RELEASES
        await cloud.until(lambda: any(device.warm for device in books.devices()))
        assert [(device.slot, device.healthy, device.warm) for device in books.devices()] == [
            (2, False, False),
            (3, True, True),
        ]
        assert books.capacity()["slots"].in_service == 1
        assert books.capacity()["slots"].growable == 0
        assert late in cloud.world.enis
        cloud.switch.calls = Calls.ALL
        books.wake()
        await cloud.until(lambda: late not in cloud.world.enis)


async def test_an_address_taken_away_under_its_pod_is_not_handed_out_again(cloud: Rig) -> None:
    """The VPC no longer delivers it here: the pod's release forgets it."""
    async with cloud.books(exclusive_slots=0) as books:
        lease = await cloud.add(books, "web")
        await cloud.quiet()
    await cloud.world.unassign_addresses(lease.card.eni_id, [lease.address])
    async with cloud.books(exclusive_slots=0) as books:
        await cloud.until(lambda: books._inventory.addresses[lease.address].orphan)
        await books.release(lease.key)
        await books.settle_orphans(())
        assert lease.address not in books._inventory.addresses
        await disk_has_what_memory_has(books)


async def test_a_card_missing_on_the_node_is_not_filled_up(cloud: Rig) -> None:
    """Until it can be prepared again; who waits does not hear of an address on it."""
    async with cloud.books(exclusive_slots=3, warm_exclusive=0) as books:
        lease = await cloud.add(books, "web")
        await cloud.quiet()
        assert list(books.shared_cards()) == [lease.card]
        links, cloud.node.links = cloud.node.links, {}
        books.card_missing(lease.card)
        calls = len(cloud.calls)
        with pytest.raises((DeadlineExceeded, CapacityError)):
            await cloud.add(books, "other", within=15.0)
        assert "DescribeNetworkInterfaces" in cloud.calls[calls:]
        cloud.node.links = links
        assert (await cloud.add(books, "other")).card == lease.card


async def test_a_warm_card_missing_on_the_node_is_not_offered_to_kubelet(cloud: Rig) -> None:
    """Until it is back; a pod that kubelet gave it to before hears what it waits for."""
    async with cloud.books(exclusive_slots=1, warm_exclusive=1) as books, asyncio.TaskGroup() as group:
        await cloud.until(lambda: any(device.warm for device in books.devices()))
        (card,) = books.idle_exclusive_cards()
        changed = group.create_task(books.devices_changed())
        await asyncio.sleep(0)
        books.card_missing(card)
        await changed
        assert [(device.healthy, device.warm) for device in books.devices()] == [(False, False)]
        with pytest.raises(DeadlineExceeded, match=f"{card.eni_id} is attached, but its link is not on this node"):
            await cloud.add(books, "early", slot=card.slot, within=10.0)
        waiting = group.create_task(cloud.add(books, "patient", slot=card.slot))
        await asyncio.sleep(0)
        books.card_present(card)
        assert (await waiting).card == card
        # A sweep that looked for it while the pod was taking it has no say.
        books.card_missing(card)
        assert [device.healthy for device in books.devices()] == [True]
        await books.release(cloud.key("patient"))
        assert [(device.healthy, device.warm) for device in books.devices()] == [(True, True)]


async def test_a_warm_card_is_parked(cloud: Rig) -> None:
    """Before it can be had by a pod; and the sweep knows which ones to look after."""
    async with cloud.books() as books:
        await cloud.until(lambda: any(device.warm for device in books.devices()))
        (card,) = books.idle_exclusive_cards()
        assert card.eni_id in cloud.node.parked
        await cloud.add(books, "db", slot=card.slot)
        assert list(books.idle_exclusive_cards()) == []


async def test_empty_vswitches_are_asked_about_ever_less_often(cloud: Rig) -> None:
    """The quota is the account's; the limits of a type are asked for once."""
    for vswitch in cloud.vswitches:
        cloud.faults.add(Rule(FaultKind.VSWITCH_EMPTY, vswitch))
    async with cloud.books():
        await cloud.clock.sleep(400.0)
    assert 2 <= cloud.calls.count("DescribeVSwitches") <= 6
    assert cloud.calls.count("DescribeInstanceTypes") == 1


async def test_a_refused_first_look_is_tried_ever_less_often(cloud: Rig) -> None:
    """A key that may not describe: no call a second."""
    cloud.faults.add(Rule(FaultKind.ERROR, "DescribeNetworkInterfaces", status=403, code="Forbidden.RAM"))
    async with cloud.books():
        await cloud.clock.sleep(100.0)
    assert 2 <= cloud.calls.count("DescribeNetworkInterfaces") <= 20


async def test_service_addresses_survive_a_lost_ledger(cloud: Rig) -> None:
    """Nobody gets them while a pod may have them; afterwards they are of use again."""
    async with cloud.books() as books:
        await cloud.until(lambda: any(device.warm for device in books.devices()))
        lease = await cloud.add(books, "db", slot=3)
        await cloud.quiet()
    assert lease.service_address is not None
    cloud.ledger.write_bytes(b"not a database at all" * 1000)
    async with cloud.books() as books:
        await cloud.until(lambda: lease.service_address in books._inventory.addresses)
        assert books._inventory.addresses[lease.service_address].orphan
        await books.settle_orphans(())
        assert not books._inventory.addresses[lease.service_address].orphan


async def test_the_primary_card_is_what_the_metadata_service_says(cloud: Rig) -> None:
    """Its address may be changed while the instance is stopped."""
    async with cloud.books() as books:
        primary = books.primary
    with sqlite3.connect(cloud.ledger) as ledger:
        ledger.execute("UPDATE enis SET address = '10.0.0.250', gateway = '10.0.0.251' WHERE use = 'primary'")
        ledger.execute("UPDATE addresses SET address = '10.0.0.250' WHERE is_primary AND token = 'primary'")
    ledger.close()
    cloud.boot_id = "boot-2"
    async with cloud.books() as books:
        assert books.primary == primary
        await disk_has_what_memory_has(books)
        assert [record.address for record in books._inventory.addresses.values() if record.primary] == [primary.address]


async def test_a_configuration_without_a_usable_vswitch_is_said_as_such(cloud: Rig) -> None:
    """A typo is no shortage of addresses."""
    cloud.vswitches = ["vsw-typo"]
    async with cloud.books() as books:
        with pytest.raises(VSwitchExhausted, match="expected one of vsw-typo of zone cn-box-a in the VPC vpc-"):
            await cloud.add(books, "web", within=20.0)
        assert condition(books, "CanGrow") == (False, "Refused")


async def test_a_lease_that_contradicts_the_books_keeps_no_other_from_being_served(cloud: Rig) -> None:
    """It is passed over and logged; it can still be released."""
    async with cloud.books(exclusive_slots=0) as books:
        web, other = [await cloud.add(books, name) for name in ("web", "other")]
        held = books._inventory.leases[other.key]
        await books._store.settle(
            Put(
                replace(books._inventory.enis[held.token], token="half", slot=None, eni_id=None, mac=None, address=None)
            ),
            Put(replace(held, token="half")),
        )
    async with cloud.books(exclusive_slots=0, run=False) as books:
        assert list(books.leases()) == [web]
        assert books.lease(other.key) is None
        await books.release(other.key)
        assert other.key not in books._inventory.leases


async def test_a_career_that_is_cancelled_ends_even_if_something_fails_at_that_moment(cloud: Rig) -> None:
    """Who cancels it waits for it: the daemon's end would otherwise be when the card is in service."""
    careers: list[asyncio.Task[Any]] = []

    async def wait_card(_mac: Mac, *, deadline: float) -> int:
        assert deadline > cloud.clock.monotonic()
        careers[:] = [task for task in asyncio.all_tasks() if getattr(task.get_coro(), "__name__", "") == "_to_its_end"]
        for career in careers:
            career.cancel()
        raise KernelError("there is no looking at links")

    cloud.node.wait_card = wait_card  # type: ignore[method-assign,assignment]
    async with cloud.books(exclusive_slots=0):
        await cloud.until(lambda: bool(careers))
        await cloud.clock.sleep(0.1)
        assert [career.cancelled() for career in careers] == [True]


async def test_a_card_whose_link_does_not_come_in_time_is_waited_for_again(cloud: Rig) -> None:
    """By the same career, some seconds later: nobody waits for the next comparison with the cloud."""
    wait_card = cloud.node.wait_card
    failed: list[Mac] = []

    async def late(mac: Mac, *, deadline: float) -> int:
        if not failed:
            await cloud.clock.sleep(deadline - cloud.clock.monotonic())
            failed.append(mac)
            raise DeadlineExceeded(f"no link {mac}")
        return await wait_card(mac, deadline=deadline)

    cloud.node.wait_card = late  # type: ignore[method-assign]
    async with cloud.books(exclusive_slots=0) as books:
        await cloud.until(lambda: bool(failed))
        (card,) = (eni for eni in books._inventory.enis.values() if eni.mac == failed[0])
        await cloud.until(lambda: books._inventory.enis[card.token].state is State.READY, within=60.0)
