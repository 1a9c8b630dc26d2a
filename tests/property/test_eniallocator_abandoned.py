"""Laws of what the operator removes."""

from collections.abc import Collection
from dataclasses import replace
from random import Random

from hypothesis import given
from hypothesis import strategies as st

from eniallocator import abandoned, evidence
from eniallocator.cloud.api import EniStatus
from eniallocator.cloud.caller import MOST_INSTANCES
from eniallocator.cloud.fleet import FleetEni
from eniway import names
from eniway.model import EniId, InstanceId

CLUSTER = "ours"
INSTANCES = [InstanceId(f"i-{n}") for n in range(12)]

instances = st.sampled_from(INSTANCES)
statuses = st.sampled_from([EniStatus.AVAILABLE] * 4 + list(EniStatus))
tags = st.fixed_dictionaries(
    {},
    optional={
        names.TAG_CLUSTER: st.sampled_from([CLUSTER, CLUSTER, CLUSTER, "theirs"]),
        names.TAG_INSTANCE: st.one_of(instances, instances, st.just(InstanceId(""))),
        "app": st.just("x"),
    },
)


@st.composite
def fleets(draw: st.DrawFn) -> tuple[FleetEni, ...]:
    """ENIs of ours, of others and of nobody; attached ones name where."""
    found = []
    for number in range(draw(st.integers(0, 60))):
        status = draw(statuses)
        free = status in (EniStatus.AVAILABLE, EniStatus.DELETING)
        at = None if free else draw(instances)
        found.append(FleetEni(EniId(f"eni-{number}"), status, draw(st.booleans()) or free, at, draw(tags)))
    return tuple(found)


class Cloud:
    """Knows which instances there are; may answer empty, or only half."""

    def __init__(self, living: Collection[InstanceId], *, forgets: Collection[InstanceId] = ()) -> None:
        self.living = set(living) - set(forgets)
        self.asked: list[int] = []

    async def instances(self, ids: Collection[InstanceId]) -> frozenset[InstanceId]:
        self.asked.append(len(ids))
        return frozenset(self.living & set(ids))


@given(fleets(), st.sets(instances), st.sets(instances), st.integers(1, 100))
def test_only_what_is_ours_free_and_of_a_vanished_instance_goes(
    fleet: tuple[FleetEni, ...], placed: set[InstanceId], gone: set[InstanceId], percent: int
) -> None:
    """Whatever is believed gone: another cluster's, untagged ones, attached ones, a node's stay; 25 at most."""
    census = abandoned.census(fleet, CLUSTER)
    proved = census.suspects(placed) & gone
    plan = abandoned.plan(census, proved, most_percent=percent)
    assert len(plan.delete) <= min(evidence.MOST_A_ROUND, plan.abandoned)
    for eni in plan.delete:
        assert eni.tags[names.TAG_CLUSTER] == CLUSTER
        owner = eni.tags[names.TAG_INSTANCE]
        assert owner in gone
        assert owner not in placed
        assert not any(other.instance_id == owner for other in fleet), "the VPC shows a card of that instance"
        assert eni.secondary_type
        assert eni.instance_id is None
    if plan.too_many:
        assert not plan.delete


@given(fleets(), st.sets(instances))
def test_round_after_round_ends_with_everything_gone_that_may_go(
    fleet: tuple[FleetEni, ...], gone: set[InstanceId]
) -> None:
    """Unless more is gone than is believed, which stays so: a round never talks itself into it."""
    first = abandoned.census(fleet, CLUSTER)
    proved = first.suspects(()) & gone
    began = abandoned.plan(first, proved, most_percent=20)
    for _ in range(10):
        plan = abandoned.plan(abandoned.census(fleet, CLUSTER), proved, most_percent=20)
        assert plan.too_many == began.too_many or not began.too_many
        if not plan.delete:
            break
        fleet = tuple(eni for eni in fleet if eni not in plan.delete)
    left = [eni for eni in abandoned.census(fleet, CLUSTER).ours if abandoned.owner(eni) in proved]
    assert plan.too_many or not [eni for eni in left if eni.status is EniStatus.AVAILABLE]


@given(st.integers(1, 80), st.integers(0, 80))
def test_those_stuck_on_their_way_out_keep_no_other(free: int, stuck: int) -> None:
    """Deleting for ever, more than a round takes: the others are asked for all the same."""
    mine = {names.TAG_CLUSTER: CLUSTER, names.TAG_INSTANCE: INSTANCES[0]}
    every = [EniStatus.DELETING] * stuck + [EniStatus.AVAILABLE] * free
    fleet = tuple(FleetEni(EniId(f"eni-{n:03}"), status, True, None, mine) for n, status in enumerate(every))
    for _ in range(-(-free // evidence.MOST_A_ROUND)):
        going = abandoned.plan(abandoned.census(fleet, CLUSTER), INSTANCES[:1], most_percent=20).delete
        fleet = tuple(replace(eni, status=EniStatus.DELETING) if eni in going else eni for eni in fleet)
    assert all(eni.status is EniStatus.DELETING for eni in fleet)


@given(st.sets(instances), st.sets(instances), st.sets(instances), st.integers())
async def test_a_living_instance_is_gone_only_if_api_server_and_cloud_both_forget_it(
    living: set[InstanceId], placed: set[InstanceId], suspects: set[InstanceId], seed: int
) -> None:
    """Nothing that the cloud lists is gone, nor what is a node, nor anything where no node's instance is listed."""
    found = await evidence.gone(Cloud(living), suspects, placed, random=Random(seed))
    assert found <= suspects - living - placed
    if not living & placed:
        assert not found
    if len(living & placed) == len(placed) > 0:
        assert found == suspects - living - placed


@given(st.integers(1, 400), st.integers(1, 30))
async def test_many_are_asked_for_in_parts_with_witnesses_in_each(suspects: int, nodes: int) -> None:
    """No call names more than the API takes, and all are asked for."""
    cloud = Cloud([InstanceId(f"node-{n}") for n in range(nodes)])
    doubtful = [InstanceId(f"i-gone-{n}") for n in range(suspects)]
    assert await evidence.gone(cloud, doubtful, cloud.living, random=Random(1)) == set(doubtful)
    assert max(cloud.asked) <= MOST_INSTANCES
    assert sum(cloud.asked) == suspects + len(cloud.asked) * min(nodes, evidence.WITNESSES)


@given(st.sets(instances, min_size=2), st.integers())
async def test_a_describe_that_lists_less_than_half_of_the_nodes_proves_nothing(
    placed: set[InstanceId], seed: int
) -> None:
    """An answer that is empty, or has a hole, is not about the instance that is missing in it."""
    forgotten = sorted(placed)[: len(placed) // 2 + 1]
    lost = InstanceId("i-somebody")
    found = await evidence.gone(Cloud(placed, forgets=forgotten), {lost}, placed, random=Random(seed))
    assert not found or len(placed) > evidence.WITNESSES


@given(st.integers(0, 1000), st.integers(0, 1000), st.integers(1, 100))
def test_one_may_always_be_gone_and_never_more_than_the_share(gone: int, known: int, percent: int) -> None:
    """In a cluster of any size."""
    refused = evidence.too_many(range(gone), range(known), most_percent=percent)  # type: ignore[arg-type]  # counted
    assert refused == (gone > 1 and gone * 100 > known * percent)


@given(fleets())
def test_a_status_of_its_own_keeps_an_eni(fleet: tuple[FleetEni, ...]) -> None:
    """One that is being attached or detached somewhere is left until that has come to its end."""
    moving = tuple(
        replace(eni, status=EniStatus.DETACHING) if eni.status is EniStatus.AVAILABLE else eni for eni in fleet
    )
    plan = abandoned.plan(abandoned.census(moving, CLUSTER), INSTANCES, most_percent=100)
    assert all(eni.status is EniStatus.DELETING for eni in plan.delete)
