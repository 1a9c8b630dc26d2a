"""The allocator end to end against a VPC in a box: from an ADD to the cloud and back, real HTTP, the real SDK."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from eniway.errors import CapacityError, ConflictError, DeadlineExceeded, NotReady, SlotsExhausted, VSwitchExhausted
from eniway.model import Kind, Slot
from tests.box.allocator_world import KEY, SECRET, Rig, condition, rig
from vpcbox.faults import Kind as FaultKind
from vpcbox.faults import Rule
from vpcbox.world.model import EniStatus, EniType


@pytest.fixture
async def cloud(tmp_path: Path) -> AsyncIterator[Rig]:
    async with rig(tmp_path) as made:
        yield made


async def test_time_stands_still_while_an_allocator_starts(cloud: Rig) -> None:
    """The rig's own law: else a restart would be an hour, and whatever rests, is late or benched be over it."""
    before = cloud.clock.monotonic()
    async with cloud.books(run=False):
        assert cloud.clock.monotonic() == before


async def test_a_shared_pod_gets_an_address_that_its_card_really_has(cloud: Rig) -> None:
    """The first ADD on an empty node creates and attaches a card, and leases one of its secondary addresses."""
    async with cloud.books() as books:
        lease = await cloud.add(books, "web")
        eni = cloud.world.enis[lease.card.eni_id]
        assert lease.kind is Kind.SHARED
        assert lease.address in eni.secondary_addresses
        assert lease.card.mac == eni.mac
        assert eni.instance_id == cloud.instance_id
        assert eni.id in cloud.node.prepared


async def test_an_exclusive_pod_gets_the_card_of_its_slot(cloud: Rig) -> None:
    """An exclusive lease is a whole card and a service address that the primary card really has."""
    async with cloud.books() as books:
        await cloud.until(lambda: any(device.warm for device in books.devices()))
        (device,) = books.devices()
        lease = await cloud.add(books, "db", slot=device.slot)
        eni = cloud.world.enis[lease.card.eni_id]
        primary = cloud.world.enis[books.primary.eni_id]
        assert lease.address == eni.primary_address
        assert lease.service_address in primary.secondary_addresses


async def test_asking_again_gives_the_same_lease(cloud: Rig) -> None:
    """ADD is idempotent by key, and the key is another pod's to nobody."""
    async with cloud.books() as books:
        first = await cloud.add(books, "web")
        assert await cloud.add(books, "web") == first
        with pytest.raises(ConflictError, match="uid-of-web"):
            await cloud.add(books, "web", uid="somebody-else")


async def test_a_released_address_rests_even_across_a_restart(cloud: Rig) -> None:
    """No address is handed out again within its cooldown, though everything else is taken."""
    async with cloud.books(min_idle_addresses=0, max_idle_addresses=0, exclusive_slots=0) as books:
        lease = await cloud.add(books, "web")
        await books.release(lease.key)
        released = cloud.clock.monotonic()
        assert books.capacity()["addresses"].cooling == 1
    async with cloud.books(min_idle_addresses=0, max_idle_addresses=0, exclusive_slots=0) as books:
        assert books.capacity()["addresses"].cooling == 1
        await cloud.until(lambda: books.capacity()["addresses"].cooling == 0)
        assert cloud.clock.monotonic() - released >= 29.0


async def test_a_burst_is_one_right_sized_call(cloud: Rig) -> None:
    """Twenty pods at once on an empty node: a card with its addresses, one more for the rest, no call for each pod."""
    async with cloud.books(exclusive_slots=0) as books:
        await cloud.until(lambda: bool(cloud.calls))
        leases = await asyncio.gather(*(cloud.add(books, f"web-{number}") for number in range(20)))
        assert len({lease.address for lease in leases}) == 20
        await cloud.quiet()
        writes = Counter(call for call in cloud.calls if not call.startswith("Describe"))
        assert writes["CreateNetworkInterface"] == 2
        assert writes["AssignPrivateIpAddresses"] <= 2


async def test_steady_churn_costs_no_call(cloud: Rig) -> None:
    """Pods that come and go in equal number are served from what is there."""
    async with cloud.books(min_idle_addresses=2, max_idle_addresses=10, exclusive_slots=0) as books:
        for number in range(4):
            await cloud.add(books, f"old-{number}")
        for number in range(4):
            await books.release(cloud.key(f"old-{number}"))
            await cloud.add(books, f"new-{number}")
        await cloud.clock.sleep(35.0)
        await cloud.quiet()
        before = len(cloud.calls)
        for number in range(4):
            await books.release(cloud.key(f"new-{number}"))
            await cloud.add(books, f"newer-{number}")
        await cloud.quiet()
        assert cloud.calls[before:] == []


async def test_cards_that_nobody_needs_go_back(cloud: Rig) -> None:
    """When the pods are gone, so are the cards beyond what is to be idle; the cloud keeps none of them."""
    async with cloud.books(min_idle_addresses=1, max_idle_addresses=3, exclusive_slots=0) as books:
        await asyncio.gather(*(cloud.add(books, f"web-{number}") for number in range(20)))
        assert len(cloud.cards()) == 2
        for number in range(20):
            await books.release(cloud.key(f"web-{number}"))
        await cloud.until(lambda: len(cloud.cards()) == 1 and len(cloud.cards()[0].secondary_addresses) <= 3)
        await cloud.quiet()
        mine = [eni for eni in cloud.world.enis.values() if eni.type is EniType.SECONDARY]
        assert len(mine) == 1


async def test_more_pods_than_addresses_wait_and_are_told_why(cloud: Rig) -> None:
    """A full node: who waits gets the address that is released, who waits in vain hears what for."""
    async with cloud.books(exclusive_slots=2, warm_exclusive=0, cooldown_seconds=1.0) as books:
        leases = await asyncio.gather(*(cloud.add(books, f"web-{number}") for number in range(14)))
        with pytest.raises(
            SlotsExhausted, match=r"waited 5 s for an address: the 1 shared ENIs of this ecs.g7.xlarge are full"
        ):
            await cloud.add(books, "late", within=5.0)
        async with asyncio.TaskGroup() as group:
            waiting = group.create_task(cloud.add(books, "patient"))
            await books.release(leases[3].key)
        assert waiting.result().address == leases[3].address


async def test_an_exclusive_card_is_free_again_at_once(cloud: Rig) -> None:
    """A clean card needs no cooldown; its service address does, and another is ready."""
    async with cloud.books() as books:
        await cloud.until(lambda: any(device.warm for device in books.devices()))
        first = await cloud.add(books, "db", slot=3)
        await books.release(first.key)
        second = await cloud.add(books, "db-2", slot=3)
        assert second.card == first.card
        assert second.service_address != first.service_address


async def test_a_cold_slot_is_filled_when_kubelet_gives_it_away(cloud: Rig) -> None:
    """Nothing is kept ahead; the card comes because the slot is wanted."""
    async with cloud.books(exclusive_slots=2, warm_exclusive=0) as books:
        await cloud.until(lambda: [device.healthy for device in books.devices()] == [True, True])
        assert not any(device.warm for device in books.devices())
        books.want_slot(Slot(2))
        await cloud.until(lambda: [device.warm for device in books.devices()] == [True, False])
        lease = await cloud.add(books, "db", slot=2)
        assert lease.card.slot == 2


async def test_a_pod_takes_over_from_its_former_sandbox_once_the_card_is_home(cloud: Rig) -> None:
    """Same pod, new sandbox: the lease moves when the link is back in the host. Another pod waits for the release."""
    async with cloud.books() as books:
        await cloud.until(lambda: any(device.warm for device in books.devices()))
        former = await cloud.add(books, "db", slot=3, uid="uid")
        cloud.node.in_pods.add(former.card.mac)
        with pytest.raises(DeadlineExceeded, match="former sandbox container-of-db"):
            await cloud.add(books, "db-again", slot=3, uid="uid", within=2.0)
        with pytest.raises(DeadlineExceeded, match=r"default/db .* still holds"):
            await cloud.add(books, "other", slot=3, within=2.0)
        cloud.node.in_pods.clear()
        cloud.node.stir()
        successor = await cloud.add(books, "db-again", slot=3, uid="uid")
        assert successor.card == former.card
        assert books.lease(former.key) is None


async def test_what_was_begun_is_finished_after_a_kill(cloud: Rig) -> None:
    """Killed again and again on the way to the first lease: in the end there is one card, and it is in service."""
    for number in range(12):
        async with cloud.books(exclusive_slots=0) as books:
            await cloud.clock.sleep(0.4 * number)
    async with cloud.books(exclusive_slots=0) as books:
        await cloud.add(books, "web")
        await cloud.quiet()
        mine = [eni for eni in cloud.world.enis.values() if eni.type is EniType.SECONDARY]
        assert [eni.instance_id for eni in mine] == [cloud.instance_id]


async def test_leases_are_served_with_cloud_and_metadata_away(cloud: Rig) -> None:
    """After a restart in the same boot, devices and leases come from the ledger alone."""
    async with cloud.books() as books:
        await cloud.until(lambda: any(device.warm for device in books.devices()))
        before = await cloud.add(books, "web")
        await cloud.until(lambda: books.capacity()["addresses"].in_service >= 4)
        devices = books.devices()
    cloud.endpoint, cloud.metadata_url = "http://127.0.0.1:1", "http://127.0.0.1:1"
    async with cloud.books() as books:
        assert books.devices() == devices
        assert books.lease(before.key) == before
        await cloud.add(books, "web-2")
        await cloud.add(books, "db", slot=3)
        await cloud.until(lambda: not condition(books, "CloudReachable")[0])
        assert KEY not in str(books.status())


async def test_a_lost_ledger_is_rebuilt_from_the_cloud(cloud: Rig) -> None:
    """Garbage is set aside; cards come back with their use and slot, and no address in use is handed out."""
    async with cloud.books() as books:
        await cloud.until(lambda: any(device.warm for device in books.devices()))
        lease = await cloud.add(books, "web")
        await cloud.quiet()
        cards = {(card.eni_id, card.slot) for card in books.cards()}
    cloud.ledger.write_bytes(b"not a database at all" * 1000)
    async with cloud.books() as books:
        await cloud.until(lambda: {(card.eni_id, card.slot) for card in books.cards()} == cards)
        other = await cloud.add(books, "other")
        assert other.card == lease.card
        assert books.capacity()["addresses"].orphaned == 4
        assert other.address not in cloud.world.enis[lease.card.eni_id].secondary_addresses[:4]
        await books.settle_orphans({lease.address})
        assert books.capacity()["addresses"].orphaned == 1
    assert list(cloud.directory.glob("ledger.db.unreadable.*"))


async def test_a_ledger_of_another_instance_is_set_aside(cloud: Rig) -> None:
    """A disk cloned with the ledger on it: after the boot the metadata service says that we are somebody else."""
    async with cloud.books() as books:
        await cloud.add(books, "web")
    nodes = cloud.world.vswitches[cloud.world.enis[books.primary.eni_id].vswitch_id]
    clone = await cloud.world.create_instance("node-2", "ecs.g7.xlarge", nodes.id, [cloud.group])
    there = {eni.id for eni in cloud.world.enis.values() if eni.instance_id == cloud.instance_id}
    cloud.become(clone.id)
    cloud.boot_id = "boot-2"
    async with cloud.books() as books:
        assert books.leases() == []
        assert books.primary.eni_id not in there
        lease = await cloud.add(books, "web")
        assert lease.card.eni_id not in there
        await cloud.quiet()
    assert {eni.id for eni in cloud.world.enis.values() if eni.instance_id == cloud.instance_id} == there


async def test_a_lost_answer_creates_nothing_twice(cloud: Rig) -> None:
    """CreateNetworkInterface succeeds and answers 500, twice: the ClientToken finds the same card."""
    cloud.faults.add(Rule(FaultKind.LOST_ANSWER, "CreateNetworkInterface", status=500, code="InternalError", count=2))
    cloud.faults.add(Rule(FaultKind.LOST_ANSWER, "AssignPrivateIpAddresses", status=500, code="InternalError", count=1))
    async with cloud.books() as books:
        await cloud.add(books, "web")
        await cloud.add(books, "db", slot=3)
        await cloud.quiet()
        assert len([eni for eni in cloud.world.enis.values() if eni.type is EniType.SECONDARY]) == 2
        assert len(cloud.world.enis[books.primary.eni_id].secondary_addresses) == 1


async def test_an_attach_that_falls_back_is_tried_again(cloud: Rig) -> None:
    """The attach is accepted and comes to nothing, twice: the pod starts late and is not lost."""
    cloud.faults.add(Rule(FaultKind.LOST_ATTACH, "AttachNetworkInterface", count=2))
    async with cloud.books(exclusive_slots=0) as books:
        assert (await cloud.add(books, "web")).card.eni_id in cloud.node.prepared
        assert cloud.calls.count("AttachNetworkInterface") == 3


async def test_a_throttled_action_rests_until_the_next_minute(cloud: Rig) -> None:
    """Refused once, the Action is not called again in the same minute, and the pod gets its address after that."""
    cloud.faults.add(Rule(FaultKind.ERROR, "AttachNetworkInterface", status=400, code="Throttling.User", count=1))
    async with cloud.books(exclusive_slots=0) as books:
        started = cloud.clock.wall()
        await cloud.add(books, "web")
        assert cloud.clock.wall() // 60 > started // 60
        assert cloud.calls.count("AttachNetworkInterface") == 2


async def test_stuck_ends_are_asked_for_again(cloud: Rig) -> None:
    """A Detach and a Delete that hang are asked for again, and the card goes."""
    for action in ("DetachNetworkInterface", "DeleteNetworkInterface"):
        cloud.faults.add(Rule(FaultKind.STUCK, action, count=1))
    async with cloud.books(
        min_idle_addresses=0, max_idle_addresses=0, exclusive_slots=0, cooldown_seconds=1.0
    ) as books:
        lease = await cloud.add(books, "web")
        await books.release(lease.key)
        await cloud.until(lambda: lease.card.eni_id not in cloud.world.enis, within=600.0)
        assert cloud.calls.count("DetachNetworkInterface") == 2
        assert cloud.calls.count("DeleteNetworkInterface") == 2


async def test_an_empty_vswitch_is_passed_over(cloud: Rig) -> None:
    """The first vSwitch has no address: the card comes from the second, and the first is left alone."""
    cloud.faults.add(Rule(FaultKind.VSWITCH_EMPTY, cloud.vswitches[0]))
    async with cloud.books() as books:
        lease = await cloud.add(books, "web")
        assert cloud.world.enis[lease.card.eni_id].vswitch_id == cloud.vswitches[1]


async def test_no_address_anywhere_is_said_and_got_over(cloud: Rig) -> None:
    """All vSwitches empty: the device is unhealthy, ADD says so at its deadline, and goes on when there are some."""
    for vswitch in cloud.vswitches:
        cloud.faults.add(Rule(FaultKind.VSWITCH_EMPTY, vswitch))
    async with cloud.books() as books:
        await cloud.until(lambda: [device.healthy for device in books.devices()] == [False])
        both = ", ".join(cloud.vswitches)
        with pytest.raises(VSwitchExhausted, match=rf"no free address in {both} of zone cn-box-a"):
            await cloud.add(books, "web", within=20.0)
        assert condition(books, "SufficientIP") == (False, "NoneLeft")
        assert both in str(books.status()["conditions"])
        assert books.capacity()["addresses"].growable == 0
        async with asyncio.TaskGroup() as group:
            waiting = group.create_task(cloud.add(books, "web-2"))
            await cloud.clock.sleep(10.0)
            cloud.faults.clear()
        assert waiting.result() in books.leases()
        await cloud.until(lambda: [device.healthy for device in books.devices()] == [True])


async def test_a_scarce_vswitch_gives_one_at_a_time(tmp_path: Path) -> None:
    """Fewer addresses than asked for at once: the batch drops to one, and all are used before another vSwitch is."""
    async with (
        rig(tmp_path, pods="10.0.16.0/29") as cloud,
        cloud.books(exclusive_slots=0, min_idle_addresses=0) as books,
    ):
        first = [await cloud.add(books, f"web-{number}") for number in range(3)]
        assert {cloud.world.enis[lease.card.eni_id].vswitch_id for lease in first} == {cloud.vswitches[0]}
        more = await asyncio.gather(*(cloud.add(books, f"more-{number}") for number in range(3)))
        assert {cloud.world.enis[lease.card.eni_id].vswitch_id for lease in more} == {cloud.vswitches[1]}


async def test_wrong_credentials_are_said_and_mended_by_a_new_file(cloud: Rig) -> None:
    """The condition and the ADD's error name code and remedy and no secret; a good key in the files is taken up."""
    secret = cloud.directory / "access_key_secret"
    secret.write_text("a-wrong-secret")
    async with cloud.books() as books:
        await cloud.until(lambda: not condition(books, "CloudReachable")[0])
        with pytest.raises(DeadlineExceeded, match="check access_key_id and access_key_secret") as raised:
            await cloud.add(books, "web", within=5.0)
        assert "a-wrong-secret" not in str(raised.value)
        assert condition(books, "CloudReachable") == (False, "Credentials")
        secret.write_text(SECRET)
        await cloud.add(books, "web")
        assert condition(books, "CloudReachable") == (True, "Answering")


async def test_what_is_not_ours_is_not_touched(cloud: Rig) -> None:
    """Untagged cards at our instance, another instance's and another cluster's survive; they only take room."""
    untagged = await cloud.world.create_eni(cloud.vswitches[0], [cloud.group], description="somebody's")
    cloud.world.attach_eni(untagged.id, cloud.instance_id)
    others = [
        await cloud.world.create_eni(cloud.vswitches[0], [cloud.group], tags=tags)
        for tags in (
            {"eniway.io/cluster": "box", "eniway.io/instance": "i-another"},
            {"eniway.io/cluster": "another", "eniway.io/instance": cloud.instance_id},
            {"eniway.io/instance": cloud.instance_id},
        )
    ]
    async with cloud.books(exclusive_slots=1) as books:
        await cloud.add(books, "db", slot=3)
        leases = await asyncio.gather(*(cloud.add(books, f"web-{number}") for number in range(14)))
        assert len({lease.card.eni_id for lease in leases}) == 1
        with pytest.raises(CapacityError):
            await cloud.add(books, "late", within=10.0)
        await cloud.quiet()
    for eni in (untagged, *others):
        assert eni.id in cloud.world.enis
    assert cloud.world.enis[untagged.id].instance_id == cloud.instance_id


async def test_our_strays_are_adopted_or_deleted(cloud: Rig) -> None:
    """Cards of our tags in no book: one is put into its slot, one for which there is no place is deleted."""
    tags = {"eniway.io/cluster": "box", "eniway.io/instance": cloud.instance_id}
    make = cloud.world.create_eni
    one = await make(cloud.vswitches[0], [cloud.group], tags=tags, description="eniway exclusive slot 3 lost-1")
    two = await make(cloud.vswitches[0], [cloud.group], tags=tags, description="eniway exclusive slot 3 lost-2")
    async with cloud.books() as books:
        await cloud.until(lambda: any(device.warm for device in books.devices()))
        lease = await cloud.add(books, "db", slot=3)
        await cloud.until(lambda: not {one.id, two.id} <= set(cloud.world.enis))
        assert lease.card.eni_id in (one.id, two.id)
        await cloud.quiet()
        assert len([eni for eni in cloud.world.enis.values() if eni.tags == tags]) == 2


async def test_a_vanished_card_is_not_handed_out_and_not_forgotten_while_leased(cloud: Rig) -> None:
    """Somebody deletes a card under its pods: new pods get another one, the old lease can still be released."""
    async with cloud.books(exclusive_slots=1, warm_exclusive=0) as books:
        lease = await cloud.add(books, "web")
        await cloud.quiet()
        cloud.world.detach_eni(lease.card.eni_id, cloud.instance_id)
        await cloud.until(lambda: bool(cloud.cards(status=EniStatus.AVAILABLE)))
        cloud.world.delete_eni(lease.card.eni_id)
    async with cloud.books(exclusive_slots=1, warm_exclusive=0) as books:
        await cloud.until(lambda: lease.card.eni_id not in {card.eni_id for card in books.cards()})
        other = await cloud.add(books, "other")
        assert other.card.eni_id != lease.card.eni_id
        assert books.lease(lease.key) == lease
        await books.release(lease.key)
        await cloud.until(lambda: lease.card.slot not in {card["slot"] for card in books.status()["cards"]})


async def test_a_full_disk_refuses_pods_and_lets_them_go(cloud: Rig) -> None:
    """ADD is refused with the reason; DEL holds; with room again everything is written and goes on."""
    async with cloud.books(exclusive_slots=0, cooldown_seconds=0.0) as books:
        lease = await cloud.add(books, "web")
        await cloud.quiet()
        books._ledger._database.execute("PRAGMA query_only = ON")
        with pytest.raises(NotReady, match="cannot be written"):
            await cloud.add(books, "refused")
        await books.release(lease.key)
        assert books.leases() == []
        books._ledger._database.execute("PRAGMA query_only = OFF")
        again = await cloud.add(books, "again")
    async with cloud.books(exclusive_slots=0) as books:
        assert books.leases() == [again]


async def test_an_add_that_is_cancelled_or_released_leaves_the_line(cloud: Rig) -> None:
    """Whoever waits for nothing any more takes nothing from the others."""
    async with cloud.books(exclusive_slots=2, warm_exclusive=0, cooldown_seconds=1.0) as books:
        leases = await asyncio.gather(*(cloud.add(books, f"web-{number}") for number in range(14)))
        cancelled = asyncio.create_task(cloud.add(books, "cancelled"))
        released = asyncio.create_task(cloud.add(books, "released"))
        patient = asyncio.create_task(cloud.add(books, "patient"))
        await asyncio.sleep(0)
        with pytest.raises(NotReady, match="is waiting already"):
            await cloud.add(books, "patient")
        cancelled.cancel()
        await books.release(cloud.key("released"))
        with pytest.raises(NotReady, match="was released while its ADD was waiting"):
            await released
        await books.release(leases[0].key)
        assert (await patient).address == leases[0].address
        assert cancelled.cancelled()
        assert {lease.key for lease in books.leases()} == {
            *(lease.key for lease in leases[1:]),
            cloud.key("patient"),
        }


async def test_first_come_first_served(cloud: Rig) -> None:
    """Nobody who comes later is served before one who waits."""
    async with cloud.books(exclusive_slots=2, warm_exclusive=0, cooldown_seconds=1.0) as books:
        leases = await asyncio.gather(*(cloud.add(books, f"web-{number}") for number in range(14)))
        order: list[int] = []

        async def wait(number: int) -> None:
            await cloud.add(books, f"late-{number}")
            order.append(number)

        async with asyncio.TaskGroup() as group:
            for number in range(5):
                group.create_task(wait(number))
                await asyncio.sleep(0)
            for lease in leases[:5]:
                await books.release(lease.key)
        assert order == [0, 1, 2, 3, 4]


async def test_a_short_pool_calls_the_cloud_at_once(cloud: Rig) -> None:
    """No tick is waited for: an ADD that needs a call wakes the planner."""
    async with cloud.books(exclusive_slots=0, min_idle_addresses=0, max_idle_addresses=0) as books:
        await cloud.add(books, "web")
        await cloud.quiet()
        assigns = cloud.calls.count("AssignPrivateIpAddresses")
        waiting = asyncio.create_task(cloud.add(books, "web-2"))
        # Half of what it would take if only the clock woke the planner.
        await cloud.until(lambda: cloud.calls.count("AssignPrivateIpAddresses") > assigns, within=30.0)
        await waiting
