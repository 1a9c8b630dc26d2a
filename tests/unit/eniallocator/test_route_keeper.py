"""Routes kept in a route table, over real HTTP with the real SDK."""

import asyncio
import contextlib
import itertools
from collections.abc import AsyncIterator, Callable, Collection, Iterator, Mapping, Sequence
from ipaddress import IPv4Network
from pathlib import Path
from random import Random
from typing import cast

import pytest

from eniallocator import routes
from eniallocator.cloud.errors import ApiError, Transient
from eniallocator.cloud.routes import RouteApi, RouteEntry, RouteStatus
from eniallocator.evidence import MOST_A_ROUND
from eniallocator.route_keeper import RouteKeeper
from eniallocator.routes import NodeRoute, RouteState, Verdict
from eniway.model import InstanceId
from tests.box.route_world import RouteWorld, route_world
from vpcbox.faults import Kind, Rule

MARK = routes.mark("box")


@pytest.fixture
async def cloud(tmp_path: Path) -> AsyncIterator[RouteWorld]:
    async with route_world(tmp_path) as made:
        yield made


@contextlib.contextmanager
def keeping(
    cloud: RouteWorld,
    *,
    tables: Sequence[str] = (),
    quota: int = 200,
    dry_run: bool = False,
    most_percent: int = 20,
    wrap: Callable[[RouteApi], object] = lambda api: api,
) -> Iterator[RouteKeeper]:
    """A keeper of the system table, or of ``tables``; ``wrap``: what it has for its API."""
    with cloud.api() as api:
        yield RouteKeeper(
            cast("RouteApi", wrap(api)),
            tables=tables or [cloud.table.id],
            cluster="box",
            quota=quota,
            clock=cloud.clock,
            random=Random(1),
            new_id=map(str, itertools.count()).__next__,
            most_percent=most_percent,
            dry_run=dry_run,
        )


async def settle(
    cloud: RouteWorld, wants: Collection[NodeRoute], *, quota: int = 200, dry_run: bool = False, most_percent: int = 20
) -> Mapping[str, Verdict]:
    """What the nodes are told at the end of one settling by a new keeper."""
    with keeping(cloud, quota=quota, most_percent=most_percent, dry_run=dry_run) as keeper:
        told: list[Mapping[NodeRoute, Verdict]] = []
        async with asyncio.timeout(60):
            await keeper.settle(lambda: wants, told.append)
        return {want.node: verdict for want, verdict in told[-1].items()}


def states(verdicts: Mapping[str, Verdict]) -> dict[str, RouteState]:
    return {node: verdict.state for node, verdict in verdicts.items()}


async def test_many_nodes_get_their_routes_in_two_batches(cloud: RouteWorld) -> None:
    """Sixty routes: two calls, and a second settling finds nothing to do."""
    wants = await cloud.nodes(60)
    verdicts = await settle(cloud, wants)
    assert set(states(verdicts).values()) == {RouteState.CREATED}
    assert {(str(want.destination), want.instance_id) for want in wants} == {
        (destination, entry.next_hop_id) for destination, entry in cloud.custom.items()
    }
    assert {entry.description for entry in cloud.custom.values()} == {MARK}
    assert cloud.calls.count("CreateRouteEntries") == 2
    before = len(cloud.calls)
    await settle(cloud, wants)
    assert cloud.calls[before:] == ["DescribeRouteEntryList"]


async def test_one_bad_entry_of_a_batch_harms_no_other(cloud: RouteWorld) -> None:
    """The one that the batch leaves out is tried by itself, and its node is told what the cloud says."""
    wants = [*await cloud.nodes(3), NodeRoute("ghost", IPv4Network("172.21.9.0/24"), InstanceId("i-ghost"))]
    verdicts = await settle(cloud, wants)
    assert states(verdicts) == {
        "node-0": RouteState.CREATED,
        "node-1": RouteState.CREATED,
        "node-2": RouteState.CREATED,
        "ghost": RouteState.REFUSED,
    }
    assert "InvalidNextHopId.NotFound" in verdicts["ghost"].message
    assert cloud.calls.count("CreateRouteEntry") == 1


@pytest.mark.parametrize("code", ["TaskConflict", "IncorrectRouteEntryStatus", "LastTokenProcessing", "InternalError"])
async def test_a_busy_or_troubled_cloud_is_asked_again(cloud: RouteWorld, code: str) -> None:
    """Trouble of the moment is no verdict."""
    wants = await cloud.nodes(2)
    status = 500 if code == "InternalError" else 400
    cloud.faults.add(Rule(Kind.ERROR, "CreateRouteEntries", code=code, status=status, count=2))
    assert set(states(await settle(cloud, wants)).values()) == {RouteState.CREATED}
    assert cloud.calls.count("CreateRouteEntries") == 3


async def test_a_lost_answer_makes_nothing_twice(cloud: RouteWorld) -> None:
    """What a call without an answer did is seen in the table."""
    wants = await cloud.nodes(2)
    cloud.faults.add(Rule(Kind.LOST_ANSWER, "CreateRouteEntries", count=1))
    assert set(states(await settle(cloud, wants)).values()) == {RouteState.CREATED}
    assert cloud.calls.count("CreateRouteEntries") == 1
    assert len(cloud.custom) == 2


async def test_another_writer_in_the_vpc_is_waited_for(cloud: RouteWorld) -> None:
    """One write at a time in a VPC: an entry that somebody else just began delays ours, no more."""
    wants = await cloud.nodes(1)
    adding = asyncio.ensure_future(cloud.add("192.168.0.0/24", instance_id=wants[0].instance_id))
    await asyncio.sleep(0)
    assert states(await settle(cloud, wants)) == {"node-0": RouteState.CREATED}
    await adding
    assert set(cloud.custom) == {"172.20.0.0/24", "192.168.0.0/24"}


async def test_a_strangers_route_is_reported_and_left_alone(cloud: RouteWorld) -> None:
    """The same destination with another hop, or a part of it: the node is told whose, nothing is written."""
    one, two = await cloud.nodes(2)
    whole = await cloud.add(str(one.destination), instance_id=two.instance_id)
    part = await cloud.add("172.20.1.128/25", instance_id=one.instance_id)
    verdicts = await settle(cloud, [one, two])
    assert states(verdicts) == {"node-0": RouteState.CONFLICT, "node-1": RouteState.CONFLICT}
    assert whole.id in verdicts["node-0"].message
    assert part.id in verdicts["node-1"].message
    assert set(cloud.custom.values()) == {whole, part}


async def test_a_strangers_route_that_is_as_wanted_serves_and_stays(cloud: RouteWorld) -> None:
    """A cloud controller made it: the node's route stands, and when the node goes the entry is not ours to delete."""
    one, two = await cloud.nodes(2)
    entry = await cloud.add(str(one.destination), instance_id=one.instance_id)
    assert states(await settle(cloud, [one])) == {"node-0": RouteState.CREATED}
    await settle(cloud, [two])
    assert cloud.custom[str(one.destination)] == entry


async def test_a_pod_cidr_that_no_vpc_routes_is_reported(cloud: RouteWorld) -> None:
    """Inside a vSwitch, around one, or among the cloud's services."""
    instance = await cloud.instance("node")
    wants = [
        NodeRoute("inside", IPv4Network("10.0.1.0/24"), instance),
        NodeRoute("around", IPv4Network("10.0.0.0/8"), instance),
        NodeRoute("services", IPv4Network("100.100.0.0/24"), instance),
    ]
    assert set(states(await settle(cloud, wants)).values()) == {RouteState.NOT_ALLOWED}
    assert not cloud.custom


async def test_a_full_table_is_reported_and_filled_again_when_there_is_room(cloud: RouteWorld) -> None:
    """The cloud is not asked for what the quota forbids; a node that leaves makes room for another."""
    wants = await cloud.nodes(4)
    verdicts = await settle(cloud, wants, quota=3)
    assert sorted(states(verdicts).values()) == [RouteState.CREATED] * 3 + [RouteState.OVER_QUOTA]
    assert cloud.calls.count("CreateRouteEntries") == 1
    await cloud.world.power.stop(wants[0].instance_id)
    await cloud.world.power.release(wants[0].instance_id)
    verdicts = await settle(cloud, wants[1:], quota=3)
    assert set(states(verdicts).values()) == {RouteState.CREATED}


async def test_a_smaller_quota_than_configured_is_learned_from_the_cloud(cloud: RouteWorld) -> None:
    """The account's quota is 200 whatever we believe; the routes that fit are made."""
    wants = await cloud.nodes(4)
    await cloud.add(*(f"192.168.{number}.0/24" for number in range(198)), instance_id=wants[0].instance_id)
    verdicts = await settle(cloud, wants, quota=1000)
    assert sorted(states(verdicts).values()) == [RouteState.CREATED] * 2 + [RouteState.OVER_QUOTA] * 2
    over = next(verdict for verdict in verdicts.values() if not verdict.stands)
    assert "QuotaExceeded" in over.message


async def test_the_route_of_a_vanished_instance_goes_and_that_of_a_living_one_stays(cloud: RouteWorld) -> None:
    """No Node is not enough: the cloud has to say that the instance is gone, in an answer that lists another."""
    one, two, three = await cloud.nodes(3)
    await settle(cloud, [one, two, three])
    await cloud.world.power.stop(one.instance_id)
    await cloud.world.power.release(one.instance_id)
    await settle(cloud, [])
    assert len(cloud.custom) == 3, "without a node there is no witness"
    await settle(cloud, [three])
    assert set(cloud.custom) == {str(two.destination), str(three.destination)}


async def test_at_most_so_many_routes_of_vanished_instances_go_at_once(cloud: RouteWorld) -> None:
    """The next settling takes the rest; and none goes while more are gone than is believed."""
    wants = await cloud.nodes(60)
    await settle(cloud, wants)
    for want in wants[:30]:
        await cloud.world.power.stop(want.instance_id)
        await cloud.world.power.release(want.instance_id)
    await settle(cloud, wants[30:])
    assert len(cloud.custom) == 60, "half of the nodes at once"
    await settle(cloud, wants[30:], most_percent=50)
    assert len(cloud.custom) == 60 - MOST_A_ROUND
    await settle(cloud, wants[30:], most_percent=50)
    assert len(cloud.custom) == 30


async def test_a_dry_run_writes_nothing(cloud: RouteWorld) -> None:
    """It reads, plans and ends."""
    await settle(cloud, await cloud.nodes(2), dry_run=True)
    assert not cloud.custom
    assert cloud.calls == ["DescribeRouteEntryList"]


async def test_a_pod_cidr_that_moves_takes_its_route_along(cloud: RouteWorld) -> None:
    """A node's new instance, and an instance's new podCIDR: the old entry makes room."""
    one, two, three = await cloud.nodes(3)
    await settle(cloud, [one, two])
    moved = [
        NodeRoute("node-0", one.destination, three.instance_id),
        NodeRoute("node-1", IPv4Network("172.20.77.0/24"), two.instance_id),
    ]
    assert set(states(await settle(cloud, moved)).values()) == {RouteState.CREATED}
    assert {destination: entry.next_hop_id for destination, entry in cloud.custom.items()} == {
        str(one.destination): three.instance_id,
        "172.20.77.0/24": two.instance_id,
    }


async def test_what_is_missing_in_the_policy_is_said(cloud: RouteWorld) -> None:
    """Without the right to write, the node learns which Action was refused, and nobody hammers the API."""
    wants = await cloud.nodes(2)
    cloud.faults.add(Rule(Kind.ERROR, "CreateRouteEntries", code="Forbidden.RAM", status=403))
    verdicts = await settle(cloud, wants)
    assert set(states(verdicts).values()) == {RouteState.REFUSED}
    assert "CreateRouteEntries with Forbidden.RAM" in verdicts["node-0"].message
    assert cloud.calls.count("CreateRouteEntries") == 1


async def test_a_route_that_stands_says_nothing_of_another_that_the_node_wants(cloud: RouteWorld) -> None:
    """A new Node of the name, while the cloud is in trouble: nothing is known of its route."""
    (one,) = await cloud.nodes(1)
    other = NodeRoute(one.node, IPv4Network("172.20.77.0/24"), one.instance_id)
    told: list[Mapping[NodeRoute, Verdict]] = []
    with keeping(cloud) as keeper:
        async with asyncio.timeout(60):
            await keeper.settle(lambda: [one], told.append)
            assert told[-1][one].stands
            told.clear()
            cloud.faults.add(Rule(Kind.ERROR, "DescribeRouteEntryList", code="InternalError", status=500, count=1))
            await keeper.settle(lambda: [other], told.append)
    assert [set(verdicts) for verdicts in told] == [{other}] * len(told)
    assert told[0][other].state is RouteState.PENDING
    assert "InternalError" in told[0][other].message
    assert told[-1][other].stands


@pytest.mark.parametrize("gone_first", [True, False])
async def test_a_table_that_is_gone_keeps_no_other_from_its_routes(cloud: RouteWorld, *, gone_first: bool) -> None:
    """The route stands where it can, and is told to stand at no time: one of its tables has not got it."""
    (want,) = await cloud.nodes(1)
    tables = ["vtb-gone", cloud.table.id] if gone_first else [cloud.table.id, "vtb-gone"]
    told: list[Mapping[NodeRoute, Verdict]] = []
    with keeping(cloud, tables=tables) as keeper:
        async with asyncio.timeout(60):
            assert await keeper.settle(lambda: [want], told.append)
    assert set(cloud.custom) == {str(want.destination)}
    assert not any(verdict.stands for verdicts in told for verdict in verdicts.values())
    assert told[-1][want].state is RouteState.REFUSED
    assert "InvalidRouteTableId.NotFound" in told[-1][want].message


class Sick:
    """Of one of two tables the cloud says ``answer`` for ever."""

    def __init__(self, api: RouteApi, answer: RouteEntry | ApiError) -> None:
        self.api = api
        self.answer = answer

    def __getattr__(self, name: str) -> object:
        return getattr(self.api, name)

    async def entries(self, table_id: str) -> tuple[RouteEntry, ...]:
        if table_id != "vtb-sick":
            return await self.api.entries(table_id)
        if isinstance(self.answer, ApiError):
            raise self.answer
        return (self.answer,)


@pytest.mark.parametrize("trouble", ["unreadable", "never done"])
async def test_a_table_in_lasting_trouble_lets_the_others_have_their_turn(cloud: RouteWorld, trouble: str) -> None:
    """And wants to be tried again at once, for trouble may pass at any time."""
    (want,) = await cloud.nodes(1)
    pending = RouteEntry("rte-1", want.destination, RouteStatus.PENDING, "Custom", (want.instance_id,), "", MARK)
    answer = Transient("DescribeRouteEntryList", "Unreadable", "") if trouble == "unreadable" else pending
    told: list[Mapping[NodeRoute, Verdict]] = []
    with keeping(cloud, tables=["vtb-sick", cloud.table.id], wrap=lambda api: Sick(api, answer)) as keeper:
        async with asyncio.timeout(60):
            assert not await keeper.settle(lambda: [want], told.append)
    assert set(cloud.custom) == {str(want.destination)}
    assert told[-1][want].state is RouteState.PENDING


async def test_the_tables_of_a_vpc_are_found(cloud: RouteWorld) -> None:
    """The system table by the VPC's id."""
    with cloud.api() as api:
        assert (await api.tables(cloud.vpc_id)).system == cloud.table.id
