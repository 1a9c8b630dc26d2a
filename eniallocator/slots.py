"""Which slots are for which use. Pure.

A number of exclusive slots is a fixed division: the highest numbers. With ``auto`` every slot but the first is
kubelet's to give away until a shared card stands in it; one that shared pods need is *moving* while kubelet is being
told, and *taken* from when kubelet has let go of it until a card of theirs is in it (``handover``).
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from eniway import names
from eniway.model import Slot


@dataclass(frozen=True, slots=True)
class Division:
    """The slots of an instance, the primary card's left out."""

    shared: frozenset[Slot]
    exclusive: frozenset[Slot]
    """May be filled with a card for an exclusive pod."""
    offered: frozenset[Slot]
    """Those that kubelet is told of, healthy or not: what it knows for a device stays one."""
    moving: frozenset[Slot] = frozenset()
    """On their way from exclusive to shared: in neither use."""
    auto: bool = False


def divide(
    *,
    enis: int,
    exclusive: int | None,
    shared_cards: Collection[Slot | None] = (),
    moving: Collection[Slot] = (),
    taken: Collection[Slot] = (),
) -> Division:
    """The division of an instance with ``enis`` cards; ``exclusive``: how many slots, None: auto.

    One slot is left for shared pods, which no node is without, and none is shared that has no packet mark.
    """
    if exclusive is not None:
        first = min(enis, max(2, enis - exclusive))
        own = frozenset(map(Slot, range(max(1, first), enis)))
        return Division(frozenset(map(Slot, range(1, min(first, names.MARK_SLOTS + 1)))), own, own)
    every = frozenset(map(Slot, range(1, enis)))
    base = every & {Slot(1)}
    shared = every & (base | {slot for slot in shared_cards if slot is not None} | set(taken))
    going = (every & set(moving)) - shared
    return Division(shared, every - shared - going, every - base, going, auto=True)
