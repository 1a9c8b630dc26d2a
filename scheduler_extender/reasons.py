"""Why a node cannot take a pod: short, and the same on every node, for they end as a histogram in one event.

«0/5000 nodes are available: 12 eniway is not ready there, 4988 no free address on its ENIs.» The numbers of each node
are in ``eniway explain``.
"""

from __future__ import annotations

from typing import Final

from scheduler_extender.pods import Need, settled
from scheduler_extender.room import Capacity, NodeNetworkStatus, Words

NO_NETWORK: Final = "no eniway there"
NOT_READY: Final = "eniway is not ready there"
NO_STOCK: Final = "no free address in its vSwitches"
HELD: Final = "the places left are held for pods that are being bound: try again"
SAMPLED: Final = "the room left is on nodes that the scheduler did not show: try again"
UNHEARD: Final = "the API server has not told of the pod yet: try again"
TAKEN: Final = "the node has no place for the pod any more: try again"
"""These four are no node's reason: they make the attempt fail, rather than the pod unschedulable."""

NEVER: Final = {
    Need.SHARED: "its instance type has no ENI for shared pods",
    Need.EXCLUSIVE: "its instance type has no ENI slot for exclusive pods",
    Need.ROUTED: "no podCIDR for routed pods",
}
"""Structural: nothing that pods do changes it."""
NONE_LEFT: Final = {
    Need.SHARED: "no free address on its ENIs",
    Need.EXCLUSIVE: "no free ENI slot",
    Need.ROUTED: "no free address in its podCIDR",
    Need.DEFAULT: "no free address, neither on its ENIs nor in its podCIDR",
}
NO_SERVICE_ADDRESS: Final = "no free address on its primary ENI"
"""For an exclusive pod's way to Services."""
COOLING: Final = "addresses just freed are cooling down"


def never(need: Need, status: NodeNetworkStatus) -> str:
    """Why the node could not serve ``need`` even if it were empty; "" where it could."""
    capacity = status.capacity
    possible = {
        Need.SHARED: capacity.addresses.most,
        Need.EXCLUSIVE: capacity.slots.most,
        Need.ROUTED: capacity.routed.most,
    }
    exactly = settled(need, status.default)
    if exactly is Need.DEFAULT:
        return "" if possible[Need.SHARED] or possible[Need.ROUTED] else NEVER[Need.SHARED]
    return "" if possible[exactly] else NEVER[exactly]


def none_left(need: Need, status: NodeNetworkStatus) -> str:
    """Why a node that is full for ``need`` is."""
    exactly = settled(need, status.default)
    if exactly is Need.EXCLUSIVE:
        services = status.capacity.services
        slots = len(status.holders.slots)
        if services is not None and services.warm + services.growable <= slots < _all(status.capacity.slots):
            return NO_SERVICE_ADDRESS
    if any(words.cooling for words in _concerned(exactly, status.capacity)):
        return COOLING
    return NONE_LEFT[exactly]


def _concerned(need: Need, capacity: Capacity) -> tuple[Words, ...]:
    return {
        Need.SHARED: (capacity.addresses,),
        Need.ROUTED: (capacity.routed,),
        Need.DEFAULT: (capacity.addresses, capacity.routed),
        Need.EXCLUSIVE: (capacity.slots,),
    }[need]


def _all(words: Words) -> int:
    return words.warm + words.growable
