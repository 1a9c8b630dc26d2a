"""Which nodes are best for a pod, 0 … 10. Pure.

    warm     it can be served without a call of the cloud
    shared   a pod that says nothing gets an address of an ENI rather than one of the podCIDR
    packed   an exclusive pod joins others, so that whole instances keep their slots for who wants several
    stock    the node's vSwitches have more left than others'

A term that says nothing about a pod's need is left out, and the rest is weighed against each other.
"""

from __future__ import annotations

from eniway.config import ExtenderWeights
from scheduler_extender.pods import Need
from scheduler_extender.room import Room
from scheduler_extender.wire import HIGHEST_SCORE


def score(room: Room, need: Need, *, weights: ExtenderWeights, stocked: float | None) -> int:
    """Of one node that can serve ``need``; ``stocked``: the part left of its vSwitches' stock, None: unknown."""
    places = room.places[need]
    whole, got = weights.warm, weights.warm if places.warm else 0.0
    if need is Need.DEFAULT:
        whole += weights.shared
        got += 0.0 if room.fallback else weights.shared
    if need is Need.EXCLUSIVE and room.slots:
        whole += weights.packed
        got += weights.packed * (1 - places.total / room.slots)
    if need is not Need.ROUTED and stocked is not None:
        whole += weights.stock
        got += weights.stock * stocked
    return round(HIGHEST_SCORE * got / whole) if whole else 0
