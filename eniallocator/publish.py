"""What the cluster gets to know of this node's books.

The status of its NodeNetwork, and the four words of capacity. Pure.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from eniallocator.conditions import Condition
from eniallocator.lifecycle import COMING, State
from eniallocator.plan import CardView, Limits
from eniallocator.records import EniRecord, Identity, LeaseRecord, Use
from eniway.model import Capacity, Kind, PodUid, Slot, VSwitchId, Wish


def slot_capacity(cards: Sequence[CardView], limits: Limits | None) -> Capacity:
    """Exclusive slots in the four words."""
    exclusive = [card for card in cards if card.use is Use.EXCLUSIVE]
    used = sum(bool(card.used) for card in exclusive)
    growable = 0
    if limits is not None:
        coming = sum(card.state in COMING and not card.late for card in exclusive)
        cold = len(limits.exclusive_slots - _occupied(cards))
        growable = coming + (min(cold, _places(cards, limits)) if limits.vswitch else 0)
    # A lost card is held by its pod and of no use to another: it counts on both sides as long as it is used.
    ready = sum((card.state is State.READY and not card.late) or bool(card.used) for card in exclusive)
    return Capacity(in_service=ready, growable=growable, cooling=0, orphaned=0, used=used)


def address_capacity(cards: Sequence[CardView], limits: Limits | None, *, stock: int) -> Capacity:
    """Addresses for shared pods in the four words; ``stock``: free addresses of the vSwitches that can be drawn on."""
    shared = [card for card in cards if card.use is Use.SHARED]
    serving = [
        card for card in shared if card.state is State.READY and (limits is None or card.slot in limits.shared_slots)
    ]
    used = sum(card.used for card in shared)
    # Only of cards in service: another's used addresses count on both sides.
    lost_but_used = used - sum(card.used for card in serving)
    in_service = sum(card.used + len(card.free) + card.cooling + card.stuck for card in serving) + lost_but_used
    growable = 0
    if limits is not None:
        cold = _cold_shared(cards, limits)
        if limits.auto:
            # Either use may have these: they count for both until one has.
            cold += len((limits.exclusive_slots | limits.moving_slots) - _occupied(cards))
        growable = _address_growth(cards, limits, stock=stock, slots=min(cold, _places(cards, limits)))
    return Capacity(
        in_service=in_service,
        growable=growable,
        cooling=sum(card.cooling for card in serving),
        orphaned=sum(card.stuck for card in serving),
        used=used,
    )


def either_use(cards: Sequence[CardView], limits: Limits | None, *, stock: int) -> dict[str, int]:
    """What is growable for both uses, and can be had by one only.

    ``slots`` of the growable slots may become shared cards as well, each of ``perSlot`` addresses; ``addresses`` of the
    growable addresses are lost when exclusive pods have all of these slots.
    """
    if limits is None or not limits.auto or not limits.vswitch:
        return {"slots": 0, "addresses": 0, "perSlot": 0}
    places = _places(cards, limits)
    slots = min(len(limits.exclusive_slots - _occupied(cards)), places)
    left = min(_cold_shared(cards, limits) + len(limits.moving_slots - _occupied(cards)), places - slots)
    growth = address_capacity(cards, limits, stock=stock).growable
    addresses = growth - _address_growth(cards, limits, stock=stock, slots=left)
    return {"slots": slots, "addresses": addresses, "perSlot": limits.secondary}


def _occupied(cards: Sequence[CardView]) -> set[Slot | None]:
    return {card.slot for card in cards}


def _cold_shared(cards: Sequence[CardView], limits: Limits) -> int:
    return len(limits.shared_slots - _occupied(cards))


def _places(cards: Sequence[CardView], limits: Limits) -> int:
    """How many more cards the instance takes."""
    ours = sum(card.slot is not None and card.use is not Use.PRIMARY for card in cards)
    return max(0, limits.enis - 1 - limits.foreign - ours)


def _address_growth(cards: Sequence[CardView], limits: Limits, *, stock: int, slots: int) -> int:
    """Addresses for shared pods that are not in service yet, with ``slots`` more shared cards."""
    staying = [
        card
        for card in cards
        if card.use is Use.SHARED
        and (card.state is State.READY or card.state in COMING)
        and card.slot in limits.shared_slots
    ]
    coming = sum(card.arriving + (len(card.free) if card.state in COMING else 0) for card in staying)
    room = sum(
        max(0, limits.secondary - card.total) for card in staying if card.vswitch_id not in limits.empty_vswitches
    )
    return coming + min(stock, room + (slots * limits.secondary if limits.vswitch else 0))


def service_capacity(cards: Sequence[CardView], limits: Limits | None) -> Capacity:
    """Secondary addresses of the primary ENI, for exclusive pods' way to Services, in the four words."""
    primary = [card for card in cards if card.use is Use.PRIMARY]
    growable = 0
    if limits is not None:
        for card in primary:
            room = max(0, limits.secondary - card.total) if card.vswitch_id not in limits.empty_vswitches else 0
            growable += card.arriving + room
    return Capacity(
        in_service=sum(card.used + len(card.free) + card.cooling + card.stuck for card in primary),
        growable=growable,
        cooling=sum(card.cooling for card in primary),
        orphaned=sum(card.stuck for card in primary),
        used=sum(card.used for card in primary),
    )


def most(capacity: Mapping[str, Capacity], limits: Limits | None, *, routed: int) -> dict[str, int]:
    """What the instance could have at best, whatever is in stock; never less than what is used.

    ``routed``: addresses of the podCIDR. What does not change with the cloud's state can be counted by the scheduler.
    """
    best = {"routed": routed}
    if limits is not None:
        either = limits.exclusive_slots | limits.moving_slots if limits.auto else frozenset[Slot]()
        best["slots"] = len(limits.exclusive_slots | either)
        best["addresses"] = len(limits.shared_slots | either) * limits.secondary
        best["services"] = limits.secondary
    return {what: max(best.get(what, 0), words.used) for what, words in capacity.items()}


def holders(leases: Collection[LeaseRecord]) -> dict[str, list[PodUid]]:
    """Who holds what: UIDs of pods, sorted."""
    kinds = {Kind.EXCLUSIVE: "slots", Kind.SHARED: "addresses", Kind.ROUTED: "routed"}
    return {what: sorted({lease.pod.uid for lease in leases if lease.kind is kind}) for kind, what in kinds.items()}


def free(capacity: Capacity) -> int:
    """What more pods can have."""
    return max(0, capacity.in_service + capacity.growable - capacity.cooling - capacity.orphaned - capacity.used)


def free_by_default(capacity: Mapping[str, Capacity], wish: Wish) -> int:
    """How many more pods that ask for nothing can have an address."""
    shared, routed = free(capacity["addresses"]), free(capacity["routed"])
    return {Wish.SHARED: shared, Wish.ROUTED: routed, Wish.SHARED_ELSE_ROUTED: shared + routed}[wish]


def shortage(shared: str, routed: str, wish: Wish) -> str:
    """Why they are no more; ``shared`` and ``routed``: why there are no more addresses of each."""
    return {Wish.SHARED: shared, Wish.ROUTED: routed, Wish.SHARED_ELSE_ROUTED: f"{shared}; {routed}"}[wish]


def node_network(
    *,
    identity: Identity,
    vswitches: Collection[VSwitchId],
    enis: Collection[EniRecord],
    cards: Mapping[str, CardView],
    capacity: Mapping[str, Capacity],
    most: Mapping[str, int],
    either: Mapping[str, int],
    holders: Mapping[str, Sequence[PodUid]],
    wish: Wish,
    conditions: Sequence[Condition],
) -> dict[str, Any]:
    """The status of a NodeNetwork.

    ``cards`` by token, ``most`` and ``holders`` by what is counted, ``either`` as ``either_use`` has it.
    """
    return {
        "instanceID": identity.instance_id,
        "instanceType": identity.instance_type,
        "zone": identity.zone,
        "vSwitches": list(vswitches),
        "defaultNetwork": str(wish),
        "capacity": {
            what: {
                "inService": words.in_service,
                "growable": words.growable,
                "cooling": words.cooling,
                "orphaned": words.orphaned,
                "used": words.used,
                "free": free(words),
                "most": most[what],
            }
            for what, words in capacity.items()
        },
        "eitherUse": dict(either),
        "holders": {what: list(uids) for what, uids in holders.items()},
        "cards": [
            _card(eni, cards[eni.token]) for eni in sorted(enis, key=lambda eni: eni.slot or 0) if eni.slot is not None
        ],
        "conditions": [
            {
                "type": condition.type,
                "status": {True: "True", False: "False", None: "Unknown"}[condition.status],
                "reason": condition.reason,
                "message": condition.message,
                "lastTransitionTime": datetime.fromtimestamp(condition.since, UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
            }
            for condition in conditions
        ],
    }


def _card(eni: EniRecord, view: CardView) -> dict[str, Any]:
    card: dict[str, Any] = {
        "slot": eni.slot,
        "use": str(eni.use),
        "state": str(eni.state),
        "vSwitch": eni.vswitch_id,
        "addresses": len(view.free) + view.cooling + view.stuck + (view.used if view.use is not Use.EXCLUSIVE else 0),
    }
    for key, value in (("eniID", eni.eni_id), ("mac", eni.mac), ("address", eni.address)):
        if value is not None:
            card[key] = str(value)
    return card
