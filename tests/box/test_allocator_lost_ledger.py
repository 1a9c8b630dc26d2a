"""The ledger is gone while pods run: their leases are made again from runtime, kernel and cloud."""

from collections.abc import AsyncIterator
from ipaddress import IPv4Address
from pathlib import Path

import pytest

from eniallocator import Books
from eniallocator.opening import NOTE_COMPLETE
from eniway.model import Lease, LeaseKey, Sandbox
from tests.box.allocator_world import Rig, rig
from vpcbox.faults import Kind, Rule


@pytest.fixture
async def cloud(tmp_path: Path) -> AsyncIterator[Rig]:
    async with rig(tmp_path) as made:
        yield made


def of(lease: Lease) -> tuple[Sandbox, dict[LeaseKey, set[IPv4Address]]]:
    """What the runtime remembers of a lease's ADD, and what the kernel routes to its link."""
    return Sandbox(lease.key, lease.pod, lease.netns, (lease.address,)), {
        lease.key: {lease.service_address or lease.address}
    }


def lose(cloud: Rig) -> None:
    for path in cloud.directory.glob("ledger.db*"):
        path.unlink()


async def seen_again(cloud: Rig, books: Books, count: int) -> None:
    """The cloud has shown ``count`` cards with all that is on them."""
    await cloud.until(lambda: sum(eni.slot is not None for eni in books._inventory.enis.values()) == count + 1)


async def test_leases_of_running_pods_are_known_again(cloud: Rig) -> None:
    """Shared and exclusive ones; they can be released as ever, and nobody else gets what is theirs."""
    async with cloud.books() as books:
        await cloud.until(lambda: any(device.warm for device in books.devices()))
        shared = [await cloud.add(books, f"web-{number}") for number in range(3)]
        exclusive = await cloud.add(books, "db", slot=3)
        cloud.node.in_pods.add(exclusive.card.mac)
    lose(cloud)
    leases = [*shared, exclusive]
    async with cloud.books() as books:
        await seen_again(cloud, books, 2)
        assert books.leases() == []
        assert not books.is_recovered()
        known = [of(lease) for lease in leases]
        routed = {key: addresses for _, one in known for key, addresses in one.items()}
        await cloud.until(lambda: books._pool.started)
        assert await books.recover([sandbox for sandbox, _ in known], routed) == 4
        assert not books.is_recovered()  # of the podCIDR nothing is known yet: a routed pod may be missing
        await books.learn_pod_cidr(None)
        assert await books.recover([sandbox for sandbox, _ in known], routed) == 0
        assert books.is_recovered()
        assert {lease.key: (lease.address, lease.service_address) for lease in books.leases()} == {
            lease.key: (lease.address, lease.service_address) for lease in leases
        }
        assert books.capacity()["slots"].used == 1
        # Its link is in the pod and not waited for; nor is the card forgotten for one look that shows nothing.
        cloud.faults.add(Rule(Kind.EMPTY_ANSWER, "DescribeNetworkInterfaces", count=1))
        await cloud.until(lambda: exclusive.card in books.cards())
        other = await cloud.add(books, "other")
        assert other.address not in {lease.address for lease in leases}
        for lease in leases:
            await books.release(lease.key)
        cloud.node.in_pods.clear()
        cloud.node.stir()
        await cloud.add(books, "db-2", slot=3)
    async with cloud.books(run=False) as books:
        assert {lease.pod.name for lease in books.leases()} == {"other", "db-2"}


async def test_until_leases_are_known_again_each_start_is_of_a_lost_ledger(cloud: Rig) -> None:
    """A process that ends between the look at the cloud and the sweep leaves no ledger that is believed."""
    async with cloud.books() as books:
        await cloud.until(lambda: any(device.warm for device in books.devices()))
        lease = await cloud.add(books, "web")
    lose(cloud)
    sandbox, routed = of(lease)
    for _ in range(2):
        async with cloud.books() as books:
            await seen_again(cloud, books, 2)
            await books.settle_orphans([lease.address])
            assert books._ledger.note(NOTE_COMPLETE) is None
    async with cloud.books() as books:
        await cloud.until(lambda: books._pool.started)
        assert await books.recover([sandbox], routed) == 1
        assert not books.is_recovered()
        await books.settle_orphans(())
        assert books.is_recovered()
        assert books._ledger.note(NOTE_COMPLETE) is not None
    async with cloud.books(run=False) as books:
        assert books.is_recovered()


async def test_a_running_pods_card_waits_for_its_lease_however_long_that_takes(cloud: Rig) -> None:
    """Its link is not on the node either; but without its lease nobody can say that no pod has it."""
    async with cloud.books() as books:
        await cloud.until(lambda: any(device.warm for device in books.devices()))
        lease = await cloud.add(books, "db", slot=3)
        cloud.node.in_pods.add(lease.card.mac)
    lose(cloud)
    async with cloud.books() as books:
        await seen_again(cloud, books, 2)
        await books.settle_orphans([lease.service_address])
        await cloud.until(lambda: not any(device.healthy for device in books.devices()))
        await cloud.quiet()
        assert cloud.world.enis[lease.card.eni_id].instance_id == cloud.instance_id
        sandbox, routed = of(lease)
        assert await books.recover([sandbox], routed) == 1
        await cloud.until(lambda: lease.card in books.cards())
        assert [device.healthy for device in books.devices()] == [True]


async def test_what_does_not_fit_together_is_no_lease(cloud: Rig) -> None:
    """An address that no card has, one that the runtime does not name, a link with two, the same address twice."""
    async with cloud.books() as books:
        one, two = await cloud.add(books, "web-1"), await cloud.add(books, "web-2")
    lose(cloud)
    async with cloud.books() as books:
        await seen_again(cloud, books, 2)
        first, second = of(one)[0], of(two)[0]
        foreign = IPv4Address("192.0.2.1")
        assert await books.recover([first], {}) == 0
        assert await books.recover([first], {first.key: {foreign}}) == 0
        assert await books.recover([first], {first.key: {two.address}}) == 0
        assert await books.recover([first], {first.key: {one.address, two.address}}) == 0
        twice = Sandbox(second.key, second.pod, second.netns, (one.address,))
        assert await books.recover([first, twice], {first.key: {one.address}, second.key: {one.address}}) == 1
