"""How many more pods one node can serve: the four words of its daemon, and everybody whose place is taken. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import msgspec

from eniway.kube.views import Condition, ObjectMeta, condition_of
from eniway.model import PodUid, VSwitchId, Wish
from scheduler_extender.pods import Need, settled


class Words(msgspec.Struct, frozen=True, gc=False):
    """Capacity of one thing as a NodeNetwork has it."""

    in_service: int = msgspec.field(default=0, name="inService")
    growable: int = 0
    cooling: int = 0
    orphaned: int = 0
    most: int = 0
    """What the instance could have at best, whatever is in stock."""

    @property
    def warm(self) -> int:
        """Usable without a cloud call, by whoever uses it now."""
        return self.in_service - self.cooling - self.orphaned


class Capacity(msgspec.Struct, frozen=True, gc=False):
    """``capacity`` of a NodeNetwork's status; ``services`` absent: of an older daemon, which does not say."""

    slots: Words = Words()
    addresses: Words = Words()
    routed: Words = Words()
    services: Words | None = None


class EitherUse(msgspec.Struct, frozen=True, gc=False):
    """``eitherUse`` of a NodeNetwork's status: growable for both uses, to be had by one; zero of an older daemon."""

    slots: int = 0
    addresses: int = 0
    per_slot: int = msgspec.field(default=0, name="perSlot")

    def addresses_of(self, slots: int) -> int:
        """How many of the addresses are gone when exclusive pods have ``slots`` of the slots."""
        return min(self.addresses, slots * self.per_slot)

    def slots_of(self, addresses: int) -> int:
        """How many of the slots are gone when shared pods have ``addresses`` of the addresses."""
        return min(self.slots, -(-addresses // self.per_slot)) if self.per_slot else 0


class Holders(msgspec.Struct, frozen=True, gc=False):
    """``holders`` of a NodeNetwork's status: the pods that hold leases."""

    slots: frozenset[PodUid] = frozenset()
    addresses: frozenset[PodUid] = frozenset()
    routed: frozenset[PodUid] = frozenset()


class NodeNetworkStatus(msgspec.Struct, frozen=True, gc=False):
    """Of a NodeNetwork, as far as the scheduler's door reads it."""

    vswitches: tuple[VSwitchId, ...] = msgspec.field(default=(), name="vSwitches")
    default: Wish = msgspec.field(default=Wish.SHARED, name="defaultNetwork")
    capacity: Capacity = Capacity()
    either: EitherUse = msgspec.field(default=EitherUse(), name="eitherUse")
    holders: Holders = Holders()
    conditions: tuple[Condition, ...] = ()

    @property
    def ready(self) -> bool:
        """Whether the daemon has said what its node has.

        Unknown is no reason against it: before the cloud has answered, what is in service is known, and counted.
        """
        found = condition_of(self.conditions, "Ready")
        return found is not None and found.status != "False"


class NodeNetwork(msgspec.Struct, frozen=True, gc=False):
    """eniway.io/v1alpha1 NodeNetwork."""

    metadata: ObjectMeta = ObjectMeta()
    status: NodeNetworkStatus = NodeNetworkStatus()


class Places(msgspec.Struct, frozen=True, gc=False):
    """How many more pods of one need. ``cold`` ones need a call of the cloud first, and stock of a vSwitch."""

    warm: int = 0
    cold: int = 0

    @property
    def total(self) -> int:
        """All of them."""
        return self.warm + self.cold


NONE: Final = Places()


class Room(msgspec.Struct, frozen=True):
    """One node's."""

    places: Mapping[Need, Places]
    fallback: bool
    """A pod that says nothing would be routed for want of a shared address."""
    slots: int
    """Slots that are or can be in service, used ones included: what packing is measured by."""
    drawn: int
    """Addresses of the vSwitches that stand, or are promised, on this node: what stock is measured by."""


@dataclass(slots=True)
class Taken:
    """How many pods without a lease take a place, by what they get; those in ``either`` may become shared or routed."""

    shared: int = 0
    routed: int = 0
    exclusive: int = 0
    either: int = 0

    def add(self, need: Need, default: Wish, count: int = 1) -> None:
        """``count`` pods more of that need on a node of that default."""
        match settled(need, default):
            case Need.SHARED:
                self.shared += count
            case Need.ROUTED:
                self.routed += count
            case Need.EXCLUSIVE:
                self.exclusive += count
            case Need.DEFAULT:
                self.either += count


def leased(status: NodeNetworkStatus, uid: PodUid) -> bool:
    """Whether a pod has a lease, and counts by that."""
    holders = status.holders
    return uid in holders.addresses or uid in holders.slots or uid in holders.routed


def taken_by(status: NodeNetworkStatus, takers: Mapping[PodUid, Need]) -> Taken:
    """What ``takers`` take: all but those that count by their lease."""
    taken = Taken()
    for uid, need in takers.items():
        if not leased(status, uid):
            taken.add(need, status.default)
    return taken


def room(status: NodeNetworkStatus, takers: Mapping[PodUid, Need]) -> Room:
    """Room beside ``takers``: pods bound, gone a moment ago, or held for."""
    return room_beside(status, taken_by(status, takers))


def room_beside(status: NodeNetworkStatus, taken: Taken) -> Room:
    """Room beside the pods with leases and those that have ``taken`` a place without.

    A pod that says nothing, on a node where it may become shared or routed, may take the last place of either until its
    lease says which. Of what both uses may have (``eitherUse``) each loses what the other is into, beyond its own.
    """
    capacity, holders, either = status.capacity, status.holders, taken.either
    of_shared = len(holders.addresses) + taken.shared
    of_exclusive = len(holders.slots) + taken.exclusive
    addresses, slots, both = capacity.addresses, capacity.slots, status.either
    shared_ones = min(both.addresses, max(0, of_shared + either - (_all(addresses) - both.addresses)))
    whole_ones = min(both.slots, max(0, of_exclusive - (_all(slots) - both.slots)))
    shared = _left(addresses, of_shared, lost=both.addresses_of(whole_ones))
    routed = _left(capacity.routed, len(holders.routed) + taken.routed)
    exclusive = _left(slots, of_exclusive, lost=both.slots_of(shared_ones))
    if capacity.services is not None:
        service = _left(capacity.services, of_exclusive)
        warm = min(exclusive.warm, service.warm)
        exclusive = Places(warm, min(exclusive.total, service.total) - warm)
    places = {
        Need.SHARED: _less(shared, either),
        Need.ROUTED: _less(routed, either),
        Need.EXCLUSIVE: exclusive,
    }
    if status.default is Wish.SHARED_ELSE_ROUTED:
        places[Need.DEFAULT] = _less(Places(shared.warm + routed.warm, shared.cold + routed.cold), either)
    else:
        places[Need.DEFAULT] = places[settled(Need.DEFAULT, status.default)]
    return Room(
        places=places,
        fallback=status.default is Wish.SHARED_ELSE_ROUTED and shared.total <= either,
        slots=slots.warm + slots.growable,
        drawn=max(addresses.in_service, of_shared + either + addresses.cooling + addresses.orphaned)
        + max(slots.in_service, of_exclusive + slots.cooling + slots.orphaned),
    )


def in_service(status: NodeNetworkStatus) -> int:
    """Addresses of the vSwitches that stand on this node: of shared cards, and one of each exclusive card."""
    return status.capacity.addresses.in_service + status.capacity.slots.in_service


def _all(words: Words) -> int:
    return words.warm + words.growable


def _left(words: Words, taken: int, *, lost: int = 0) -> Places:
    """What is left of ``words``: the warm ones go first. ``lost``: growable ones that another use has."""
    left = max(0, _all(words) - lost - taken)
    warm = min(left, max(0, words.warm - taken))
    return Places(warm, left - warm)


def _less(places: Places, count: int) -> Places:
    if not count:
        return places
    warm = max(0, places.warm - count)
    return Places(warm, max(0, places.total - count) - warm)
