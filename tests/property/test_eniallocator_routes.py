"""Laws of planning routes."""

import itertools
from collections.abc import Collection, Iterable
from dataclasses import replace
from ipaddress import IPv4Network

from hypothesis import given
from hypothesis import strategies as st

from eniallocator import routes
from eniallocator.cloud.routes import RouteEntry, RouteStatus
from eniallocator.routes import NodeRoute, RouteState
from eniway.model import InstanceId

MARK = routes.mark("box")
# A small world, so that nodes, strangers and vSwitches get in each other's way
BLOCKS = [
    *IPv4Network("172.20.0.0/21").subnets(new_prefix=24),
    *IPv4Network("172.20.0.0/23").subnets(new_prefix=25),
    IPv4Network("10.0.0.0/24"),
    IPv4Network("100.64.3.0/24"),
]
INSTANCES = [InstanceId(f"i-{n}") for n in range(6)]
VSWITCH = RouteEntry("rte-system", IPv4Network("10.0.0.0/16"), RouteStatus.AVAILABLE, "System", ())


@st.composite
def tables(draw: st.DrawFn) -> tuple[RouteEntry, ...]:
    """Destinations are unique in a table; some entries are ours, of this or an earlier time."""
    found = [VSWITCH]
    blocks = [block for block in BLOCKS if block.subnet_of(IPv4Network("172.20.0.0/21"))]
    for n, block in enumerate(draw(st.lists(st.sampled_from(blocks), unique=True))):
        origin = draw(st.sampled_from(["Custom", "Custom", "Custom", "CEN"]))
        found.append(
            RouteEntry(
                f"rte-{n}",
                block,
                draw(st.sampled_from([RouteStatus.AVAILABLE] * 3 + [RouteStatus.PENDING, RouteStatus.DELETING])),
                origin,
                (draw(st.sampled_from([*INSTANCES, "vpn-1"])),),
                description=MARK if origin == "Custom" and draw(st.booleans()) else "somebody's",
            )
        )
    return tuple(found)


@st.composite
def wants(draw: st.DrawFn) -> tuple[NodeRoute, ...]:
    """One route a node; instances are each one node."""
    instances = draw(st.lists(st.sampled_from(INSTANCES), unique=True))
    return tuple(NodeRoute(f"node-{i}", draw(st.sampled_from(BLOCKS)), i) for i in instances)


def settle_statuses(table: Iterable[RouteEntry]) -> tuple[RouteEntry, ...]:
    """What is under way comes to its end."""
    return tuple(
        replace(entry, status=RouteStatus.AVAILABLE) for entry in table if entry.status is not RouteStatus.DELETING
    )


def follow(
    wanted: Collection[NodeRoute], table: tuple[RouteEntry, ...], *, quota: int, gone: Collection[InstanceId]
) -> tuple[tuple[RouteEntry, ...], routes.Plan, int]:
    """Do what each plan says until it says nothing: the table, the last plan, and how many steps it took."""
    ids = itertools.count()
    for step in itertools.count():
        plan = routes.plan(wanted, table, table_id="vtb", mark=MARK, quota=quota, gone=gone)
        if not (plan.delete or plan.create or plan.busy) or step == 50:
            return table, plan, step
        if plan.delete:
            dropped = {entry.entry_id for entry in plan.delete}
            table = tuple(entry for entry in table if entry.entry_id not in dropped)
        else:
            table = settle_statuses(table) + tuple(
                RouteEntry(
                    f"rte-new-{next(ids)}",
                    want.destination,
                    RouteStatus.PENDING,
                    "Custom",
                    (want.instance_id,),
                    description=MARK,
                )
                for want in plan.create
                if not plan.busy
            )
    raise AssertionError("count is endless")


@given(wants(), tables(), st.integers(0, 12), st.sets(st.sampled_from(INSTANCES)))
def test_following_the_plan_ends_with_each_route_standing_or_explained(
    wanted: tuple[NodeRoute, ...], table: tuple[RouteEntry, ...], quota: int, gone: set[InstanceId]
) -> None:
    """It ends; then a node's verdict says that its route stands exactly if it does, and else why not."""
    final, plan, steps = follow(wanted, table, quota=quota, gone=gone)
    assert steps < 50
    assert set(plan.verdicts) == {want.node for want in wanted}
    there = {(entry.destination, entry.hops) for entry in final}
    for want in wanted:
        verdict = plan.verdicts[want.node]
        assert verdict.state is not RouteState.PENDING
        if verdict.stands:
            assert (want.destination, (want.instance_id,)) in there
        if verdict.state is RouteState.OVER_QUOTA:
            assert sum(entry.custom for entry in final) >= quota


@given(wants(), tables(), st.integers(0, 12), st.sets(st.sampled_from(INSTANCES)))
def test_entries_of_others_are_never_touched(
    wanted: tuple[NodeRoute, ...], table: tuple[RouteEntry, ...], quota: int, gone: set[InstanceId]
) -> None:
    """Whatever happens to ours, what somebody else made is there at the end as it was."""
    final, _, _ = follow(wanted, table, quota=quota, gone=gone)

    def of_others(entries: Iterable[RouteEntry]) -> set[tuple[str, IPv4Network, tuple[str, ...]]]:
        return {
            (entry.entry_id, entry.destination, entry.hops)
            for entry in entries
            if entry.description != MARK and entry.status is not RouteStatus.DELETING
        }

    assert of_others(table) <= of_others(final)
    plan = routes.plan(wanted, table, table_id="vtb", mark=MARK, quota=quota, gone=gone)
    assert all(entry.custom and entry.description == MARK for entry in plan.delete)


@given(wants(), tables(), st.integers(0, 12))
def test_a_plan_never_exceeds_the_quota(
    wanted: tuple[NodeRoute, ...], table: tuple[RouteEntry, ...], quota: int
) -> None:
    """Custom entries of anybody count, those that are on their way out too."""
    plan = routes.plan(wanted, table, table_id="vtb", mark=MARK, quota=quota)
    custom = sum(entry.custom for entry in table)
    assert len(plan.create) <= max(0, quota - custom)


@given(wants(), tables(), st.sets(st.sampled_from(INSTANCES)))
def test_only_what_nobody_wants_is_deleted_and_only_on_evidence(
    wanted: tuple[NodeRoute, ...], table: tuple[RouteEntry, ...], gone: set[InstanceId]
) -> None:
    """As its node wants it, it stays; one to an instance that is no node goes only if that is gone, or in the way."""
    plan = routes.plan(wanted, table, table_id="vtb", mark=MARK, quota=200, gone=gone)
    placed = {want.instance_id for want in wanted}
    for entry in plan.delete:
        hop = InstanceId(entry.hops[0])
        assert not any((want.destination, want.instance_id) == (entry.destination, hop) for want in wanted)
        in_the_way = any(entry.destination.subnet_of(want.destination) for want in wanted)
        assert hop in placed or hop in gone or in_the_way


@given(wants(), tables())
def test_created_routes_collide_with_nothing(wanted: tuple[NodeRoute, ...], table: tuple[RouteEntry, ...]) -> None:
    """Neither with the table, nor with vSwitches and services, nor with each other."""
    plan = routes.plan(wanted, table, table_id="vtb", mark=MARK, quota=200)
    made = [want.destination for want in plan.create]
    assert not {entry.destination for entry in table} & set(made)
    assert all(not block.overlaps(VSWITCH.destination) and not block.overlaps(routes.SERVICES) for block in made)
    assert all(not one.overlaps(other) for one, other in itertools.combinations(made, 2))
