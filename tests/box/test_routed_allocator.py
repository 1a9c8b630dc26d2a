"""Routed pods in the books, against a VPC in a box: when there can be any, and when a shared pod becomes one."""

import asyncio
from collections.abc import AsyncIterator
from ipaddress import IPv4Network
from pathlib import Path

import pytest

from eniallocator import Books
from eniway.errors import ConflictError, DeadlineExceeded, PodCidrExhausted, VSwitchExhausted
from eniway.model import Kind, Lease, Wish
from tests.box.allocator_world import Rig, rig
from vpcbox.faults import Kind as FaultKind
from vpcbox.faults import Rule

POD_CIDR = IPv4Network("172.20.1.0/24")
MODIFY = "ModifyNetworkInterfaceAttribute"
BOTH = Wish.SHARED_ELSE_ROUTED


@pytest.fixture
async def cloud(tmp_path: Path) -> AsyncIterator[Rig]:
    async with rig(tmp_path) as made:
        yield made


async def routed(cloud: Rig, books: Books, name: str, *, within: float = 200.0) -> Lease:
    """An ADD of a pod with the annotation."""
    return await cloud.add(books, name, wish=Wish.ROUTED, within=within)


def checks_sources(cloud: Rig, books: Books) -> bool:
    """Whether the primary ENI lets only its own addresses pass."""
    return cloud.world.enis[books.primary.eni_id].source_dest_check


def condition(books: Books) -> tuple[str, str, str]:
    """What is said about routed pods."""
    (found,) = (one for one in books.status()["conditions"] if one["type"] == "RoutedPods")
    return found["status"], found["reason"], found["message"]


async def test_a_routed_pod_gets_an_address_of_the_pod_cidr(cloud: Rig) -> None:
    """By the primary card, whose source check goes off with the first of them, in one call for all."""
    async with cloud.books() as books:
        await books.learn_pod_cidr(POD_CIDR)
        await cloud.quiet()
        assert checks_sources(cloud, books)
        leases = await asyncio.gather(*(routed(cloud, books, f"cron-{number}") for number in range(5)))
        assert not checks_sources(cloud, books)
        assert {lease.address for lease in leases} == {POD_CIDR[number] for number in range(1, 6)}
        assert {(lease.kind, lease.card) for lease in leases} == {(Kind.ROUTED, books.primary)}
        assert cloud.calls.count(MODIFY) == 1
        assert books.capacity()["routed"].used == 5
        assert await routed(cloud, books, "cron-0") == leases[0]
        with pytest.raises(ConflictError, match="routed"):
            await cloud.add(books, "cron-0")


@pytest.mark.parametrize("default", [Wish.ROUTED, BOTH])
async def test_a_node_of_routed_pods_is_ready_for_the_first(cloud: Rig, default: Wish) -> None:
    """The cloud is called ahead; a shared pod's card keeps its check."""
    async with cloud.books(default=default) as books:
        await books.learn_pod_cidr(POD_CIDR)
        await cloud.until(lambda: not checks_sources(cloud, books))
        shared = await cloud.add(books, "web")
        assert cloud.world.enis[shared.card.eni_id].source_dest_check


async def test_a_check_that_is_off_is_left_alone(cloud: Rig) -> None:
    """Accounts of old have it off: nothing is changed, so no right to change it is needed."""
    cloud.faults.add(Rule(FaultKind.ERROR, MODIFY, status=403, code="Forbidden.RAM"))
    async with cloud.books(default=Wish.ROUTED) as books:
        await cloud.world.modify_eni(books.primary.eni_id, source_dest_check=False)
        await books.learn_pod_cidr(POD_CIDR)
        await routed(cloud, books, "cron")
        assert MODIFY not in cloud.calls


async def test_a_check_that_cannot_be_turned_off_is_said(cloud: Rig) -> None:
    """With the cloud's own words and what to do; tried again until it works."""
    cloud.faults.add(Rule(FaultKind.ERROR, MODIFY, status=403, code="Forbidden.RAM"))
    async with cloud.books(default=Wish.ROUTED) as books:
        await books.learn_pod_cidr(POD_CIDR)
        with pytest.raises(DeadlineExceeded, match=r"source check cannot be turned off: .*Forbidden\.RAM"):
            await routed(cloud, books, "early", within=20.0)
        status, reason, message = condition(books)
        assert (status, reason) == ("False", "SourceCheck")
        assert "RAM policy" in message or "rights of the published policy" in message
        assert books.capacity()["routed"].in_service == 0
        cloud.faults.clear()
        await routed(cloud, books, "late")
        assert condition(books)[0] == "True"


async def test_a_check_that_somebody_turned_on_is_turned_off_again(cloud: Rig) -> None:
    """Seen when books and cloud are compared."""
    async with cloud.books() as books:
        await books.learn_pod_cidr(POD_CIDR)
        await routed(cloud, books, "cron")
        await cloud.world.modify_eni(books.primary.eni_id, source_dest_check=True)
        await cloud.until(lambda: not checks_sources(cloud, books), within=900.0)


async def test_the_check_is_on_again_some_time_after_the_last_routed_pod(cloud: Rig) -> None:
    """Not between two pods that follow each other; the next pod has it turned off again."""
    async with cloud.books(idle_seconds=60.0) as books:
        await books.learn_pod_cidr(POD_CIDR)
        for name in ("cron-1", "cron-2"):
            lease = await routed(cloud, books, name)
            await books.release(lease.key)
        kept = await routed(cloud, books, "kept")
        assert cloud.calls.count(MODIFY) == 1
        await cloud.clock.sleep(90.0)
        assert not checks_sources(cloud, books)
        await books.release(kept.key)
        await cloud.until(lambda: checks_sources(cloud, books))
        assert condition(books)[0] == "True"
        again = await routed(cloud, books, "again")
        assert not checks_sources(cloud, books)
        assert cloud.calls.count(MODIFY) == 3
    async with cloud.books(idle_seconds=60.0) as books:
        await cloud.clock.sleep(90.0)
        assert not checks_sources(cloud, books)
        await books.release(again.key)
        await cloud.until(lambda: checks_sources(cloud, books))


async def test_a_restart_that_finds_no_routed_pod_turns_the_check_on(cloud: Rig) -> None:
    """The last one ended while the daemon was away, or just before."""
    async with cloud.books() as books:
        await books.learn_pod_cidr(POD_CIDR)
        await books.release((await routed(cloud, books, "cron")).key)
    async with cloud.books(idle_seconds=20.0) as books:
        assert not checks_sources(cloud, books)
        await cloud.until(lambda: checks_sources(cloud, books))


@pytest.mark.parametrize("by_default", [True, False], ids=["routed by default", "off before"])
async def test_a_check_that_is_to_be_off_stays_off(cloud: Rig, by_default: bool) -> None:
    """Of a node whose pods are routed by default; and where somebody else turned it off, for reasons of his own."""
    async with cloud.books(default=BOTH if by_default else Wish.SHARED, idle_seconds=20.0) as books:
        if not by_default:
            await cloud.world.modify_eni(books.primary.eni_id, source_dest_check=False)
        await books.learn_pod_cidr(POD_CIDR)
        await books.release((await routed(cloud, books, "cron")).key)
        await cloud.clock.sleep(90.0)
        assert not checks_sources(cloud, books)
        assert cloud.calls.count(MODIFY) == int(by_default)


async def test_a_check_that_cannot_be_turned_on_again_is_tried_again(cloud: Rig) -> None:
    """Meanwhile routed pods are served: it is off."""
    async with cloud.books(idle_seconds=20.0) as books:
        await books.learn_pod_cidr(POD_CIDR)
        lease = await routed(cloud, books, "cron")
        cloud.faults.add(Rule(FaultKind.ERROR, MODIFY, status=403, code="Forbidden.RAM"))
        await books.release(lease.key)
        await cloud.until(lambda: cloud.calls.count(MODIFY) == 2)
        await books.release((await routed(cloud, books, "cron-2")).key)
        cloud.faults.clear()
        await cloud.until(lambda: checks_sources(cloud, books))


async def test_a_restart_needs_nobody(cloud: Rig) -> None:
    """API server, cloud and metadata away: podCIDR, leases and what was done to the primary ENI are in the ledger."""
    async with cloud.books() as books:
        await books.learn_pod_cidr(POD_CIDR)
        before = await routed(cloud, books, "cron")
    cloud.endpoint, cloud.metadata_url = "http://127.0.0.1:1", "http://127.0.0.1:1"
    async with cloud.books() as books:
        assert books.leases() == [before]
        assert books.pod_cidr == POD_CIDR
        after = await routed(cloud, books, "cron-2", within=1.0)
        assert after.address in POD_CIDR
        assert after.address != before.address


async def test_a_released_address_rests_also_across_a_restart(cloud: Rig) -> None:
    """Of two addresses one is taken and one cooling: who comes waits for that one."""
    small = IPv4Network("172.20.1.0/31")
    async with cloud.books() as books:
        await books.learn_pod_cidr(small)
        kept, lease = [await routed(cloud, books, name) for name in ("kept", "cron")]
        released = cloud.clock.monotonic()
        await books.release(lease.key)
    async with cloud.books() as books:
        words = books.capacity()["routed"]
        assert (words.in_service, words.cooling, words.used) == (2, 1, 1)
        again = await routed(cloud, books, "again")
        assert again.address == lease.address != kept.address
        assert cloud.clock.monotonic() - released >= 30.0


async def test_a_full_range_is_said(cloud: Rig) -> None:
    """An error that no waiting would mend, and one that goes away when a pod ends."""
    async with cloud.books(default=Wish.ROUTED, cooldown_seconds=5.0) as books:
        await books.learn_pod_cidr(IPv4Network("172.20.1.0/30"))
        leases = [await routed(cloud, books, name) for name in ("one", "two")]
        with pytest.raises(PodCidrExhausted, match=r"the 2 addresses of 172\.20\.1\.0/30 are taken"):
            await routed(cloud, books, "three", within=2.0)
        (sufficient,) = (one for one in books.status()["conditions"] if one["type"] == "SufficientIP")
        assert sufficient["status"] == "False"
        assert "172.20.1.0/30" in sufficient["message"]
        async with asyncio.TaskGroup() as group:
            waiting = group.create_task(routed(cloud, books, "patient"))
            await asyncio.sleep(0)
            await books.release(leases[0].key)
        assert waiting.result().address == leases[0].address


async def test_a_node_without_a_pod_cidr_says_so(cloud: Rig) -> None:
    """A pod that asks for a routed address waits for one to be assigned."""
    async with cloud.books() as books:
        assert condition(books)[:2] == ("Unknown", "Starting")
        await books.learn_pod_cidr(None)
        assert condition(books)[:2] == ("Unknown", "NoPodCIDR")
        with pytest.raises(DeadlineExceeded, match="the Node has no podCIDR"):
            await routed(cloud, books, "early", within=2.0)
        assert condition(books)[:2] == ("False", "NoPodCIDR")
        async with asyncio.TaskGroup() as group:
            waiting = group.create_task(routed(cloud, books, "patient"))
            await asyncio.sleep(0)
            await books.learn_pod_cidr(POD_CIDR)
        assert waiting.result().address in POD_CIDR


async def test_another_pod_cidr_waits_for_the_pods_of_the_old_one(cloud: Rig) -> None:
    """The VPC leads the old one elsewhere by now, so nothing of it is handed out; nor of the new one beside it."""
    other = IPv4Network("172.20.7.0/24")
    async with cloud.books() as books:
        await books.learn_pod_cidr(POD_CIDR)
        old = await routed(cloud, books, "old")
        await books.learn_pod_cidr(other)
        assert condition(books)[:2] == ("False", "PodCIDRChanged")
        with pytest.raises(DeadlineExceeded, match=r"podCIDR is 172\.20\.7\.0/24 now"):
            await routed(cloud, books, "early", within=2.0)
        await books.learn_pod_cidr(None)
    async with cloud.books() as books:
        assert condition(books)[:2] == ("False", "PodCIDRChanged")
        words = books.capacity()["routed"]
        assert words.in_service == words.used == 1
        async with asyncio.TaskGroup() as group:
            waiting = group.create_task(routed(cloud, books, "patient"))
            await asyncio.sleep(0)
            await books.release(old.key)
        assert waiting.result().address in other
        assert condition(books)[0] == "True"


async def test_what_the_kernel_routes_to_a_pod_is_handed_out_to_nobody(cloud: Rig) -> None:
    """After the ledger was lost: pods run on that no lease knows of."""
    async with cloud.books() as books:
        await books.learn_pod_cidr(POD_CIDR)
        books.account([POD_CIDR[1], POD_CIDR[3]])
        assert [(await routed(cloud, books, name)).address for name in ("a", "b")] == [POD_CIDR[2], POD_CIDR[4]]
        assert books.capacity()["routed"].orphaned == 2
        books.account([POD_CIDR[2], POD_CIDR[3], POD_CIDR[4]])
        assert books.capacity()["routed"].orphaned == 1
        assert (await routed(cloud, books, "c")).address == POD_CIDR[1]


# -- shared, else routed


async def test_who_finds_no_room_on_the_shared_cards_is_routed_at_once(cloud: Rig) -> None:
    """Sixty pods on a node with room for 28 shared ones: nobody waits for what cannot come, and each hears why."""
    async with cloud.books(default=BOTH, patience=200.0) as books:
        await books.learn_pod_cidr(POD_CIDR)
        leases = await asyncio.gather(*(cloud.add(books, f"web-{number}", wish=BOTH) for number in range(60)))
        kinds = [lease.kind for lease in leases]
        assert (kinds.count(Kind.SHARED), kinds.count(Kind.ROUTED)) == (28, 32)
        assert len({lease.address for lease in leases}) == 60
        assert len(cloud.fell_back) == 32
        assert "172.20.1.1 of the podCIDR, for want of a shared address: the 2 shared ENIs of this" in str(
            cloud.fell_back
        )
        began = cloud.clock.monotonic()
        late = await cloud.add(books, "late", wish=BOTH)
        assert late.kind is Kind.ROUTED
        assert cloud.clock.monotonic() - began < 5.0
        assert await cloud.add(books, "late", wish=BOTH) == late


async def test_who_waits_for_a_slow_cloud_is_routed_when_patience_ends(cloud: Rig) -> None:
    """Not before: an address may come any moment."""
    async with cloud.books(default=BOTH, min_idle_addresses=0, max_idle_addresses=0, exclusive_slots=0) as books:
        await books.learn_pod_cidr(POD_CIDR)
        await cloud.until(lambda: not checks_sources(cloud, books))
        await cloud.until(lambda: books.capacity()["addresses"].growable > 0)
        cloud.faults.add(Rule(FaultKind.DELAY, "CreateNetworkInterface", seconds=150.0))
        began = cloud.clock.monotonic()
        lease = await cloud.add(books, "web", wish=BOTH)
        assert lease.kind is Kind.ROUTED
        assert 30.0 <= cloud.clock.monotonic() - began < 120.0
        assert (await cloud.add(books, "patient")).kind is Kind.SHARED


async def test_a_shared_address_that_cools_in_time_is_waited_for(cloud: Rig) -> None:
    """Two seconds are within patience."""
    async with cloud.books(default=BOTH, exclusive_slots=1, cooldown_seconds=2.0) as books:
        await books.learn_pod_cidr(POD_CIDR)
        leases = await asyncio.gather(*(cloud.add(books, f"web-{number}") for number in range(28)))
        await books.release(leases[5].key)
        lease = await cloud.add(books, "next", wish=BOTH)
        assert (lease.kind, lease.address) == (Kind.SHARED, leases[5].address)


@pytest.mark.parametrize(("instance_type", "shared"), [("ecs.t1.xsmall", 0), ("ecs.t6-c1m1.large", 1)])
async def test_an_instance_type_with_little_room_carries_routed_pods(
    tmp_path: Path, instance_type: str, shared: int
) -> None:
    """One ENI, so no shared address will ever come; or two with two addresses each, so one will."""
    async with rig(tmp_path, instance_type=instance_type) as cloud, cloud.books(default=BOTH, patience=200.0) as books:
        await books.learn_pod_cidr(POD_CIDR)
        leases = [await cloud.add(books, f"web-{number}", wish=BOTH) for number in range(3)]
        kinds = [lease.kind for lease in leases]
        assert (kinds.count(Kind.SHARED), kinds.count(Kind.ROUTED)) == (shared, 3 - shared)


async def test_with_neither_kind_of_address_both_reasons_are_told(cloud: Rig) -> None:
    """Empty vSwitches, and no podCIDR."""
    for vswitch in cloud.vswitches:
        cloud.faults.add(Rule(FaultKind.VSWITCH_EMPTY, vswitch))
    async with cloud.books(default=BOTH) as books:
        await books.learn_pod_cidr(None)
        with pytest.raises(
            VSwitchExhausted, match=r"no free address in .*nor is there a routed one: the Node has no pod"
        ):
            await cloud.add(books, "web", within=20.0, wish=BOTH)
