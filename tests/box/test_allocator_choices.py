"""Exclusive pods that choose security groups and vSwitch, end to end: the allocator and the cloud."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from eniallocator import Books
from eniway.config import PodsMayChoose
from eniway.errors import BadAnnotation, DeadlineExceeded
from eniway.model import NO_CHOICE, Choice, Lease, SecurityGroupId, Slot, VSwitchId
from tests.box.allocator_world import Rig, rig
from vpcbox.faults import Kind as FaultKind
from vpcbox.faults import Rule

POOL: dict[str, Any] = {"exclusive_slots": 1, "warm_exclusive": 1, "min_idle_addresses": 0, "max_idle_addresses": 0}


@pytest.fixture
async def cloud(tmp_path: Path) -> AsyncIterator[Rig]:
    """With one security group and one vSwitch more, which pods may choose."""
    async with rig(tmp_path) as made:
        vpc_id = next(iter(made.world.enis.values())).vpc_id
        group = made.world.create_security_group("db", vpc_id)
        made.may_choose = PodsMayChoose(security_groups=[group.id, "sg-unknown"], vswitches=[made.vswitches.pop()])
        yield made


def groups(cloud: Rig) -> Choice:
    """The security group that may be chosen."""
    return Choice((SecurityGroupId(cloud.may_choose.security_groups[0]),))


def elsewhere(cloud: Rig) -> Choice:
    """The vSwitch that may be chosen."""
    return Choice(vswitch=VSwitchId(cloud.may_choose.vswitches[0]))


async def warm(cloud: Rig, books: Books) -> None:
    """An idle card that was made for nobody."""
    await cloud.until(lambda: any(device.warm for device in books.devices()))


def made(cloud: Rig, lease: Lease) -> tuple[tuple[str, ...], str]:
    """Groups and vSwitch of its card, as the cloud has them."""
    eni = cloud.world.enis[lease.card.eni_id]
    return eni.security_group_ids, eni.vswitch_id


async def test_a_pod_gets_an_eni_with_the_groups_and_the_vswitch_it_chose(cloud: Rig) -> None:
    """Though another was warm: it is replaced. No card ever changes its groups, so no packet passes by others."""
    async with cloud.books(**POOL) as books:
        await warm(cloud, books)
        both = Choice(groups(cloud).security_groups, elsewhere(cloud).vswitch)
        lease = await cloud.add(books, "db", slot=3, choice=both)
        assert made(cloud, lease) == (both.security_groups, both.vswitch)
        assert lease.card.prefix == cloud.world.vswitches[str(both.vswitch)].cidr
        assert "ModifyNetworkInterfaceAttribute" not in cloud.calls
        assert await cloud.add(books, "db", slot=3, choice=both) == lease


async def test_the_card_goes_with_its_pod_and_the_next_one_has_the_nodes_groups(cloud: Rig) -> None:
    """Whether it comes at once, or after a warm one has been made."""
    async with cloud.books(**POOL) as books:
        lease = await cloud.add(books, "db", slot=3, choice=groups(cloud))
        await books.release(lease.key)
        plain = await cloud.add(books, "web", slot=3)
        assert made(cloud, plain) == ((cloud.group,), cloud.vswitches[0])
        await books.release(plain.key)
        lease = await cloud.add(books, "db-2", slot=3, choice=groups(cloud))
        await books.release(lease.key)
        await cloud.until(lambda: lease.card.eni_id not in cloud.world.enis)
        await warm(cloud, books)


async def test_a_card_that_comes_between_two_adds_of_its_pod_is_kept_for_it(cloud: Rig) -> None:
    """The first was given up; where no second comes, it goes."""
    cloud.faults.add(Rule(FaultKind.DELAY, "AttachNetworkInterface", seconds=40.0))
    async with cloud.books(**{**POOL, "warm_exclusive": 0}) as books:
        for comes in (True, False):
            first = asyncio.ensure_future(cloud.add(books, "db", slot=3, choice=groups(cloud)))
            await cloud.until(lambda: books._inventory.in_slot(Slot(3)) is not None)
            first.cancel()
            with pytest.raises(asyncio.CancelledError):
                await first
            await cloud.until(lambda: books.idle_exclusive_cards() != [])
            (card,) = books.idle_exclusive_cards()
            await cloud.clock.sleep(20.0)
            assert list(books.idle_exclusive_cards()) == [card]
            if comes:
                assert (await cloud.add(books, "db", slot=3, choice=groups(cloud))).card == card
                await cloud.clock.sleep(60.0)
                await books.release(cloud.key("db"))
            await cloud.until(lambda: books._inventory.in_slot(Slot(3)) is None)


async def test_a_sandbox_made_anew_keeps_the_card(cloud: Rig) -> None:
    """While the former one's DEL has not come, the pod itself waits for its card."""
    async with cloud.books(**POOL) as books:
        former = await cloud.add(books, "db", slot=3, uid="uid", choice=groups(cloud))
        cloud.node.in_pods.add(former.card.mac)
        async with asyncio.TaskGroup() as group:
            waiting = group.create_task(cloud.add(books, "db-again", slot=3, uid="uid", choice=groups(cloud)))
            await asyncio.sleep(0)
            cloud.node.in_pods.clear()
            cloud.node.stir()
        assert waiting.result().card == former.card
        assert books.lease(former.key) is None
        assert books.lease(waiting.result().key) == waiting.result()


async def test_what_the_configuration_does_not_allow_is_refused_at_once(cloud: Rig) -> None:
    """Nothing is touched for it; a vSwitch of another zone can be no card's of this node."""
    async with cloud.books(**POOL) as books:
        await warm(cloud, books)
        calls = len(cloud.calls)
        with pytest.raises(BadAnnotation, match=r"eniway\.io/security-groups: .*pods_may_choose\.security_groups"):
            await cloud.add(books, "db", slot=3, choice=Choice((SecurityGroupId(cloud.group),)))
        assert len(cloud.calls) == calls
    cloud.may_choose = PodsMayChoose(vswitches=["vsw-of-another-vpc"])
    async with cloud.books(**POOL) as books:
        await warm(cloud, books)
        with pytest.raises(BadAnnotation, match=r"eniway\.io/vswitch: vsw-of-another-vpc is not in this node's VPC"):
            await cloud.add(books, "db", slot=3, choice=Choice(vswitch=VSwitchId("vsw-of-another-vpc")))


async def test_a_vswitch_that_proves_to_be_elsewhere_keeps_no_slot(cloud: Rig) -> None:
    """Chosen before the vSwitches had been read; the slot gets a card that the next pod can have."""
    cloud.may_choose = PodsMayChoose(vswitches=["vsw-of-another-vpc"])
    async with cloud.books(**POOL) as books:
        with pytest.raises(DeadlineExceeded, match="vsw-of-another-vpc is not in this node's VPC"):
            await cloud.add(books, "db", slot=3, within=40.0, choice=Choice(vswitch=VSwitchId("vsw-of-another-vpc")))
        await cloud.add(books, "web", slot=3)


async def test_a_group_that_the_cloud_does_not_know_is_told_to_the_pod_and_keeps_nobody_else(cloud: Rig) -> None:
    """In the cloud's words, at once and at the end of its wait; a pod that chose nothing gets its card meanwhile."""
    unknown = Choice((SecurityGroupId("sg-unknown"),))
    async with cloud.books(**{**POOL, "exclusive_slots": 2, "warm_exclusive": 0}) as books:
        with pytest.raises(DeadlineExceeded, match=r"with security groups sg-unknown: .*InvalidSecurityGroupId"):
            await cloud.add(books, "db", slot=3, within=60.0, choice=unknown)
        (told,) = set(cloud.refused)
        assert told.startswith("default/db: no ENI with security groups sg-unknown: ")
        assert "InvalidSecurityGroupId" in told
        await cloud.add(books, "web", slot=2)


async def test_a_vswitch_that_is_empty_is_told_to_the_pod_and_the_warm_card_is_kept(cloud: Rig) -> None:
    """Once it is known to be empty: no card is given up for one that cannot be had."""
    async with cloud.books(**POOL) as books:
        cloud.faults.add(Rule(FaultKind.VSWITCH_EMPTY, elsewhere(cloud).vswitch or ""))
        with pytest.raises(DeadlineExceeded, match=r"with vSwitch .*free address"):
            await cloud.add(books, "db", slot=3, within=60.0, choice=elsewhere(cloud))
        await warm(cloud, books)
        (card,) = cloud.cards()
        with pytest.raises(DeadlineExceeded):
            await cloud.add(books, "db", slot=3, within=60.0, choice=elsewhere(cloud))
        assert cloud.cards() == [card]
        assert any(device.warm for device in books.devices())


async def test_a_restart_knows_what_a_card_was_made_for(cloud: Rig) -> None:
    """By the ledger; and without it by what the cloud shows, so that nobody else gets the card."""
    async with cloud.books(**POOL) as books:
        lease = await cloud.add(books, "db", slot=3, choice=groups(cloud))
    async with cloud.books(**POOL) as books:
        assert await cloud.add(books, "db", slot=3, choice=groups(cloud)) == lease
    cloud.ledger.unlink()
    async with cloud.books(**POOL) as books:
        await books.settle_orphans(())
        await cloud.until(lambda: books._pool.started)
        plain = await cloud.add(books, "web", slot=3)
        assert plain.card.eni_id != lease.card.eni_id
        assert made(cloud, plain) == ((cloud.group,), cloud.vswitches[0])


async def test_a_card_of_a_choice_is_not_kept_warm(cloud: Rig) -> None:
    """Kubelet prefers warm slots for whatever pod comes next."""
    async with cloud.books(**{**POOL, "exclusive_slots": 2}) as books:
        lease = await cloud.add(books, "db", slot=3, choice=groups(cloud))
        await warm(cloud, books)
        assert {device.slot for device in books.devices() if device.warm} == {Slot(2)}
        assert {eni.choice for eni in books._inventory.enis.values()} == {NO_CHOICE, groups(cloud)}
        await books.release(lease.key)
        await cloud.until(lambda: len(cloud.cards()) == 1)
