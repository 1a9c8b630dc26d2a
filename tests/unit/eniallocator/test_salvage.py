"""ENIs of instances that are gone, over real HTTP with the real SDK."""

from collections.abc import AsyncIterator, Collection
from pathlib import Path
from random import Random

import pytest

from eniallocator.cloud.errors import ApiError, Throttled, Transient, Unreachable
from eniallocator.cloud.fleet import Fleet
from eniallocator.evidence import MOST_A_ROUND
from eniallocator.salvage import Round, salvage
from eniway import names
from eniway.model import InstanceId
from tests.box.route_world import RouteWorld, route_world
from vpcbox.faults import Kind, Rule
from vpcbox.world.model import EniStatus


class Fleets:
    """Instances with ENIs of ours and of others, and rounds over them."""

    def __init__(self, cloud: RouteWorld) -> None:
        self.cloud = cloud
        self.enis = cloud.world.enis

    async def eni(self, instance: InstanceId | None, *, cluster: str = "box") -> str:
        """An ENI that says it is that instance's; it is not attached to it."""
        tags = {names.TAG_CLUSTER: cluster} | ({names.TAG_INSTANCE: str(instance)} if instance else {})
        return (await self.cloud.world.create_eni(self.cloud.vswitch_id, [self.cloud.group_id], tags=tags)).id

    async def release(self, instance: InstanceId) -> None:
        await self.cloud.world.power.stop(instance)
        await self.cloud.world.power.release(instance)

    async def round(self, placed: Collection[InstanceId], *, dry_run: bool = False, most_percent: int = 20) -> Round:
        api = self.cloud.cloud()
        try:
            return await salvage(
                Fleet(api),
                vpc_id=self.cloud.vpc_id,
                cluster="box",
                placed=placed,
                most_percent=most_percent,
                dry_run=dry_run,
                random=Random(1),
            )
        finally:
            api.close()

    def leaving(self, *enis: str) -> bool:
        """All of them are gone, or going."""
        return all(e not in self.enis or self.enis[e].status is EniStatus.DELETING for e in enis)


@pytest.fixture
async def fleets(tmp_path: Path) -> AsyncIterator[Fleets]:
    async with route_world(tmp_path) as made:
        yield Fleets(made)


async def test_what_a_released_instance_leaves_goes_and_nothing_else(fleets: Fleets) -> None:
    """Another cluster's, an untagged one, one without an instance, a living instance's, Node or no Node: they stay."""
    one, two, three = [await fleets.cloud.instance(f"node-{n}") for n in range(3)]
    left = [await fleets.eni(one), await fleets.eni(one)]
    stays = [
        await fleets.eni(one, cluster="theirs"),
        await fleets.eni(None),
        (await fleets.cloud.world.create_eni(fleets.cloud.vswitch_id, [fleets.cloud.group_id])).id,
        await fleets.eni(two),
        await fleets.eni(three),
    ]
    assert not (await fleets.round({two})).deleted, "its instance lives, though no Node is it"
    await fleets.release(one)
    assert not (await fleets.round({one, two})).deleted, "its Node is still there"
    done = await fleets.round({two})
    assert sorted(done.deleted) == sorted(left)
    assert done.abandoned == 2
    assert done.gone == {one}
    assert fleets.leaving(*left)
    assert all(fleets.enis[eni].status is EniStatus.AVAILABLE for eni in stays)


@pytest.mark.parametrize("action", ["DescribeInstances", "DescribeNetworkInterfaces"])
async def test_a_describe_that_wrongly_answers_empty_deletes_nothing(fleets: Fleets, action: str) -> None:
    """Neither while all instances live, nor when one is gone."""
    one, two = [await fleets.cloud.instance(f"node-{n}") for n in range(2)]
    enis = [await fleets.eni(one), await fleets.eni(two)]
    fleets.cloud.faults.add(Rule(Kind.EMPTY_ANSWER, action))
    for _ in range(2):
        assert not (await fleets.round({two})).deleted
        assert not (await fleets.round(set())).deleted
        if one in fleets.cloud.world.instances:
            await fleets.release(one)
    fleets.cloud.faults.clear()
    assert (await fleets.round({two})).deleted == (enis[0],)


async def test_at_most_so_many_go_in_a_round(fleets: Fleets) -> None:
    """The next round takes the rest."""
    one, two = [await fleets.cloud.instance(f"node-{n}") for n in range(2)]
    left = [await fleets.eni(one) for _ in range(MOST_A_ROUND + 3)]
    await fleets.release(one)
    first = await fleets.round({two})
    assert (len(first.deleted), first.abandoned) == (MOST_A_ROUND, MOST_A_ROUND + 3)
    await fleets.round({two})
    assert fleets.leaving(*left)


async def test_when_too_many_instances_are_gone_nothing_is_deleted_until_a_person_says_so(fleets: Fleets) -> None:
    """Three of five: either the cluster did shrink, or something tells lies."""
    instances = [await fleets.cloud.instance(f"node-{n}") for n in range(5)]
    for instance in instances:
        await fleets.eni(instance)
    for instance in instances[:3]:
        await fleets.release(instance)
    done = await fleets.round(instances[3:])
    assert (done.too_many, done.deleted, done.abandoned) == (True, (), 3)
    assert len((await fleets.round(instances[3:], most_percent=60)).deleted) == 3


async def test_a_dry_run_says_what_it_would_do(fleets: Fleets) -> None:
    """And does nothing."""
    one, two = [await fleets.cloud.instance(f"node-{n}") for n in range(2)]
    eni = await fleets.eni(one)
    await fleets.release(one)
    assert (await fleets.round({two}, dry_run=True)).deleted == (eni,)
    assert fleets.enis[eni].status is EniStatus.AVAILABLE
    assert "DeleteNetworkInterface" not in fleets.cloud.calls


async def test_a_delete_that_is_stuck_is_asked_for_again(fleets: Fleets) -> None:
    """Deleting for ever, until the next round."""
    one, two = [await fleets.cloud.instance(f"node-{n}") for n in range(2)]
    eni = await fleets.eni(one)
    await fleets.release(one)
    fleets.cloud.faults.add(Rule(Kind.STUCK, "DeleteNetworkInterface", count=1))
    await fleets.round({two})
    await fleets.cloud.clock.sleep(5)
    assert fleets.enis[eni].status is EniStatus.DELETING
    assert (await fleets.round({two})).deleted == (eni,)
    await fleets.cloud.clock.sleep(5)
    assert eni not in fleets.enis


@pytest.mark.parametrize(
    ("code", "status", "deleted"), [("InvalidOperation.Conflict", 409, 2), ("InvalidEniId.NotFound", 403, 3)]
)
async def test_what_is_said_of_one_eni_harms_no_other(fleets: Fleets, code: str, status: int, deleted: int) -> None:
    """A busy one waits for the next round; one that is gone is gone."""
    one, two = [await fleets.cloud.instance(f"node-{n}") for n in range(2)]
    left = [await fleets.eni(one) for _ in range(3)]
    await fleets.release(one)
    fleets.cloud.faults.add(Rule(Kind.ERROR, "DeleteNetworkInterface", code=code, status=status, count=1))
    assert len((await fleets.round({two})).deleted) == deleted
    await fleets.round({two})
    assert fleets.leaving(*left)


@pytest.mark.parametrize(
    ("rule", "error"),
    [
        (Rule(Kind.THROTTLE, "DeleteNetworkInterface", per_minute=1), Throttled),
        (Rule(Kind.LOST_ANSWER, "DeleteNetworkInterface", count=1), Transient),
        (Rule(Kind.NO_ANSWER, "DeleteNetworkInterface", count=1), Unreachable),
    ],
    ids=["throttled", "lost answer", "no answer"],
)
async def test_trouble_ends_a_round_and_the_next_goes_on(fleets: Fleets, rule: Rule, error: type[ApiError]) -> None:
    """It raises; nothing is half done that the next one would not see."""
    one, two = [await fleets.cloud.instance(f"node-{n}") for n in range(2)]
    left = [await fleets.eni(one) for _ in range(3)]
    await fleets.release(one)
    fleets.cloud.faults.add(rule)
    with pytest.raises(error):
        await fleets.round({two})
    fleets.cloud.faults.clear()
    await fleets.round({two})
    assert fleets.leaving(*left)
