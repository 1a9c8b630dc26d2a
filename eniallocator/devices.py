"""The exclusive slots as kubelet gets to know them. Pure."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from eniallocator.lifecycle import COMING, State
from eniallocator.plan import Limits
from eniallocator.records import EniRecord, Use
from eniway.model import NO_CHOICE, Slot


@dataclass(frozen=True, slots=True)
class Device:
    """An exclusive slot."""

    slot: Slot
    healthy: bool
    """In use, or can be filled."""
    warm: bool
    """Holds a card that nobody uses and anybody might."""


def devices(
    enis: Collection[EniRecord], held: Collection[Slot | None], limits: Limits, *, absent: Collection[str] = ()
) -> tuple[Device, ...]:
    """One for each slot that kubelet knows, and for each that a pod holds (``held``), whatever it is for now.

    ``absent``: tokens of cards whose link is not on this node, or ought to be by now.
    """
    by_slot = {eni.slot: eni for eni in enis if eni.slot is not None}
    places = limits.enis - 1 - limits.foreign - sum(slot > 0 for slot in by_slot)
    can_fill = limits.vswitch is not None and places > 0
    slots = limits.offered_slots | {slot for slot in held if slot is not None}
    return tuple(
        _device(
            slot,
            by_slot.get(slot),
            can_fill=can_fill,
            held=slot in held,
            ours=slot in limits.exclusive_slots,
            absent=absent,
        )
        for slot in sorted(slots)
    )


def _device(
    slot: Slot, eni: EniRecord | None, *, can_fill: bool, held: bool, ours: bool, absent: Collection[str]
) -> Device:
    if not (ours or held):
        return Device(slot, healthy=False, warm=False)
    if eni is None:
        return Device(slot, healthy=can_fill, warm=False)
    if eni.use is not Use.EXCLUSIVE:
        # Shared pods are on it since before the configuration gave the slot away.
        return Device(slot, healthy=False, warm=False)
    here = eni.token not in absent
    warm = here and eni.state is State.READY and not held and eni.choice == NO_CHOICE
    serves = here and (eni.state is State.READY or eni.state in COMING)
    return Device(slot, healthy=serves or held, warm=warm)
