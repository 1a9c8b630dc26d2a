"""What a route table lacks and what it has too much of, for the podCIDRs of the cluster's nodes. Pure.

An entry is ours when its description is our mark; nothing else is ever deleted or replaced. Laws (tests/property):
following the plan again and again ends with every route standing that can stand; entries of others are never touched;
the quota is never exceeded.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from ipaddress import IPv4Network
from typing import Final, Generic, TypeVar

from eniallocator.cloud.routes import RouteEntry, RouteStatus
from eniallocator.evidence import MOST_A_ROUND
from eniway import names
from eniway.model import InstanceId

_T = TypeVar("_T")

SERVICES: Final = IPv4Network("100.64.0.0/10")
"""Cloud services: no route may lead there (API reference, CreateRouteEntry)."""


def mark(cluster: str) -> str:
    """The description of this cluster's entries (at most 256 characters)."""
    return f"{names.TAG_CLUSTER}={cluster}"


@dataclass(frozen=True, slots=True, order=True)
class NodeRoute:
    """A route that a node needs."""

    node: str
    destination: IPv4Network
    instance_id: InstanceId


class RouteState(StrEnum):
    """How a node's route is doing; as a condition's reason. Later members weigh more than earlier ones."""

    CREATED = "RouteCreated"
    PENDING = "RoutePending"
    REFUSED = "RouteRefused"
    """The cloud said no to it."""
    OVER_QUOTA = "RouteQuotaExceeded"
    CONFLICT = "RouteConflict"
    """Somebody else's entry, or another node, has the same addresses."""
    NOT_ALLOWED = "RouteNotAllowed"
    """No VPC takes such a destination."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """State of a node's route, with words for a person; the same words as long as nothing changes."""

    state: RouteState
    message: str

    @property
    def stands(self) -> bool:
        """Packets follow it."""
        return self.state is RouteState.CREATED


@dataclass(frozen=True, slots=True)
class Plan:
    """What to do next to one table: deletions before creations, then look again."""

    create: tuple[NodeRoute, ...]
    delete: tuple[RouteEntry, ...]
    known: frozenset[InstanceId]
    """Instances that entries of ours lead to."""
    suspects: frozenset[InstanceId]
    """Entries of ours lead to them and no node is one of them: with proof that they are gone, the entries can go."""
    busy: bool
    """Something that concerns us is being created, changed or deleted."""
    verdicts: Mapping[str, Verdict]
    """By node."""


def plan(
    wants: Collection[NodeRoute],
    entries: Collection[RouteEntry],
    *,
    table_id: str,
    mark: str,
    quota: int,
    gone: Collection[InstanceId] = (),
    most_removals: int = MOST_A_ROUND,
    held: Mapping[NodeRoute, Verdict] | None = None,
) -> Plan:
    """The next step for one table.

    ``quota``: most custom entries of a table. ``gone``: instances proved not to exist any more, of whose entries at
    most ``most_removals`` are deleted. ``held``: routes that the cloud refused a short while ago, with what it said;
    they are not tried now.
    """
    held = held or {}
    by_destination = {entry.destination: entry for entry in entries}
    ours = [entry for entry in entries if entry.custom and entry.description == mark]
    own_ids = {entry.entry_id for entry in ours}
    system = _Blocks((entry.destination, entry) for entry in entries if entry.system)
    others = _Blocks(
        (entry.destination, entry) for entry in entries if not entry.system and entry.entry_id not in own_ids
    )
    claimed = _Blocks[NodeRoute]()
    room = quota - sum(entry.custom for entry in entries)
    verdicts: dict[str, Verdict] = {}
    accepted: set[IPv4Network] = set()
    create: list[NodeRoute] = []

    # Who has a route keeps it: when two nodes claim the same addresses, the one whose route stands comes first
    for want in sorted(wants, key=lambda want: (not _leads(by_destination.get(want.destination), want), want)):
        there = by_destination.get(want.destination)
        if refusal := _impossible(want, system) or _claimed(want, claimed) or _conflict(want, others):
            verdicts[want.node] = refusal
            continue
        claimed.add(want.destination, want)
        accepted.add(want.destination)
        if there is not None:
            verdicts[want.node] = _standing(want, there, table_id)
        elif want in held:
            verdicts[want.node] = held[want]
        elif len(create) >= room:
            verdicts[want.node] = _over_quota(table_id, quota)
        else:
            create.append(want)
            verdicts[want.node] = Verdict(
                RouteState.PENDING, f"the route {want.destination} → {want.instance_id} is being made in {table_id}"
            )

    delete, suspects = _removals(ours, wants, claimed, gone, most=most_removals)
    concerned = [entry for entry in entries if entry.entry_id in own_ids or entry.destination in accepted]
    return Plan(
        create=tuple(create),
        delete=delete,
        known=frozenset(InstanceId(entry.hops[0]) for entry in ours if entry.hops),
        suspects=suspects,
        busy=any(entry.status is not RouteStatus.AVAILABLE for entry in concerned),
        verdicts=verdicts,
    )


def worst(verdicts: Iterable[Verdict]) -> Verdict:
    """A node's verdict over several tables."""
    order = list(RouteState)
    return max(verdicts, key=lambda verdict: order.index(verdict.state))


def _leads(entry: RouteEntry | None, want: NodeRoute) -> bool:
    return entry is not None and entry.hops == (want.instance_id,)


def _impossible(want: NodeRoute, system: _Blocks[RouteEntry]) -> Verdict | None:
    destination = want.destination
    if destination.overlaps(SERVICES):
        return Verdict(
            RouteState.NOT_ALLOWED, f"podCIDR {destination} reaches into {SERVICES}, the cloud's own services"
        )
    if (vswitch := system.covering(destination) or system.within(destination)) is not None:
        return Verdict(
            RouteState.NOT_ALLOWED,
            f"podCIDR {destination} overlaps {vswitch.destination}, which the VPC itself routes (a vSwitch): "
            "expected a cluster CIDR outside of all vSwitches",
        )
    return None


def _claimed(want: NodeRoute, claimed: _Blocks[NodeRoute]) -> Verdict | None:
    other = claimed.covering(want.destination) or claimed.within(want.destination)
    if other is None:
        return None
    return Verdict(
        RouteState.CONFLICT, f"podCIDR {want.destination} overlaps podCIDR {other.destination} of node {other.node}"
    )


def _conflict(want: NodeRoute, others: _Blocks[RouteEntry]) -> Verdict | None:
    """Somebody else's entry takes packets that are for the node: the same destination, or a part of it."""
    takes = (entry for entry in others.all_within(want.destination) if not _leads(entry, want))
    if (entry := next(takes, None)) is None:
        return None
    named = f" “{entry.name}”" if entry.name else ""
    return Verdict(
        RouteState.CONFLICT,
        f"the route table has {entry.destination} → {', '.join(entry.hops) or '?'} ({entry.entry_id}{named}), which "
        f"eniway did not make and will not touch: remove it, or give the node a podCIDR other than {want.destination}",
    )


def _standing(want: NodeRoute, entry: RouteEntry, table_id: str) -> Verdict:
    if not _leads(entry, want):
        return Verdict(
            RouteState.PENDING,
            f"the route {want.destination} → {', '.join(entry.hops)} in {table_id} is being replaced by one to "
            f"{want.instance_id}",
        )
    if entry.status is not RouteStatus.AVAILABLE:
        return Verdict(RouteState.PENDING, f"the route {want.destination} in {table_id} is {entry.status}")
    return Verdict(RouteState.CREATED, f"{want.destination} → {want.instance_id} stands in the VPC's route table")


def _over_quota(table_id: str, quota: int) -> Verdict:
    return Verdict(
        RouteState.OVER_QUOTA,
        f"{table_id} holds its {quota} custom entries: have vpc_quota_route_entrys_num raised in the Quota Center and "
        "operator.route_quota with it, or remove entries",
    )


def _removals(
    ours: Collection[RouteEntry],
    wants: Collection[NodeRoute],
    claimed: _Blocks[NodeRoute],
    gone: Collection[InstanceId],
    *,
    most: int,
) -> tuple[tuple[RouteEntry, ...], frozenset[InstanceId]]:
    """Entries of ours to delete, and instances to ask about. What a node wants as it is stays, conflict or not.

    1. Another node has the addresses now: the entry makes room for its own.
    2. The instance is a node with another podCIDR.
    3. No node is this instance: only when the cloud says that there is no such instance, for the API server may know
       less than all (a node that is about to join again, another cluster of the same name).
    """
    wanted = {(want.destination, want.instance_id) for want in wants}
    placed = {want.instance_id for want in wants}
    delete: list[RouteEntry] = []
    vanished: list[RouteEntry] = []
    suspects: set[InstanceId] = set()
    for entry in ours:
        if entry.status is not RouteStatus.AVAILABLE or not entry.hops:
            continue
        hop = InstanceId(entry.hops[0])
        if (entry.destination, hop) in wanted:
            continue
        if hop in placed or claimed.covering(entry.destination) is not None:
            delete.append(entry)
        elif hop in gone:
            vanished.append(entry)
        else:
            suspects.add(hop)
    return (*delete, *vanished[:most]), frozenset(suspects)


class _Blocks(Generic[_T]):
    """Networks, each with a thing; asked which of them holds another, or lies in it.

    Comparing all pairs of a large cluster's networks would take seconds.
    """

    def __init__(self, items: Iterable[tuple[IPv4Network, _T]] = ()) -> None:
        self._things = {_key(network): thing for network, thing in items}
        self._lengths = {length for _, length in self._things}
        self._order = sorted(self._things)

    def add(self, network: IPv4Network, thing: _T) -> None:
        key = _key(network)
        if key not in self._things:
            insort(self._order, key)
        self._things[key] = thing
        self._lengths.add(network.prefixlen)

    def covering(self, network: IPv4Network) -> _T | None:
        """A thing whose network is ``network`` or contains it."""
        start, length = _key(network)
        for shorter in self._lengths:
            key = (start >> (32 - shorter) << (32 - shorter), shorter)
            if shorter <= length and key in self._things:
                return self._things[key]
        return None

    def within(self, network: IPv4Network) -> _T | None:
        """A thing whose network is ``network`` or a part of it."""
        return next(self.all_within(network), None)

    def all_within(self, network: IPv4Network) -> Iterator[_T]:
        start, length = _key(network)
        end = start + (1 << (32 - length))
        for at in range(bisect_left(self._order, (start, length)), len(self._order)):
            if self._order[at][0] >= end:
                return
            yield self._things[self._order[at]]


def _key(network: IPv4Network) -> tuple[int, int]:
    return int(network.network_address), network.prefixlen
