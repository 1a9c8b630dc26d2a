"""ADDs in line, and what one hears that waited in vain."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from eniallocator.inventory import Inventory
from eniallocator.lifecycle import State
from eniallocator.records import LeaseRecord
from eniway.errors import CapacityError, DeadlineExceeded, PodCidrExhausted, SlotsExhausted, VSwitchExhausted
from eniway.model import NO_CHOICE, Bandwidth, Capacity, Choice, Kind, LeaseKey, PodRef, Slot


@dataclass(slots=True, eq=False)
class Ticket:
    """An ADD in line."""

    key: LeaseKey
    pod: PodRef
    kind: Kind
    slot: Slot | None
    netns: str
    routed_at: float | None
    """A shared pod that takes a routed address instead: from when on (monotonic), if a shared one may come before."""
    bandwidth: Bandwidth
    granted: asyncio.Future[tuple[LeaseRecord, asyncio.Future[None]]]
    """The lease, and when it is durable."""
    choice: Choice = NO_CHOICE
    """Of an exclusive pod."""
    why_routed: str = ""
    """Why no shared address will do any more."""

    @property
    def what(self) -> str:
        """What it waits for."""
        if self.kind is Kind.ROUTED:
            return "an address of the podCIDR"
        if self.slot is None:
            return "an address"
        return f"an ENI in slot {self.slot}" + (f" with {self.choice}" if self.choice != NO_CHOICE else "")


@dataclass(frozen=True, slots=True)
class Outlook:
    """How things stand when a deadline passes."""

    unread: str
    """What the cloud has not told yet; empty: all is known."""
    blocked: str
    """Why no card can be made, besides the vSwitches; empty: nothing of the kind."""
    vswitches: str
    """Why no vSwitch gives an address, when none does; empty: one does."""
    starved: str
    """vSwitches that are empty and hold cards with room, comma-separated: another vSwitch may do, on another card."""
    addresses: Capacity
    shared_slots: int
    instance_type: str
    routed: str
    """Why there is no more address for a routed pod."""
    routed_full: bool
    """Because pods have them all, and none is cooling."""
    trouble: str
    """What the OpenAPI answers; empty: nothing bad."""

    @property
    def obstacle(self) -> str:
        """What keeps cards from being made, were there room for them; empty: nothing."""
        return "" if self.unread else self.vswitches or self.blocked

    @property
    def shortage(self) -> str:
        """Why no more addresses can be had."""
        if self.obstacle or not self.shared_slots:
            return self.obstacle or f"this {self.instance_type} has no ENI for shared pods"
        full = f"the {self.shared_slots} shared ENIs of this {self.instance_type}"
        return f"no free address in {self.starved} for {full}" if self.starved else f"{full} are full"


def overdue(
    ticket: Ticket, inventory: Inventory, outlook: Outlook, *, waited: float, refusal: str = ""
) -> DeadlineExceeded | CapacityError:
    """The error for ``ticket``: a CapacityError where waiting longer is of no use before something is freed.

    ``refusal``: why the cloud makes no card as it chose.
    """
    after = f"waited {waited:.0f} s for {ticket.what}"
    if ticket.kind is Kind.ROUTED:
        kind = PodCidrExhausted if outlook.routed_full else DeadlineExceeded
        return kind(f"{after}: {outlook.routed}")
    if refusal and not outlook.unread:
        return DeadlineExceeded(f"{after}: {refusal}")
    error = _overdue(ticket, inventory, outlook, after=after)
    return error if ticket.routed_at is None else type(error)(f"{error}; nor is there a routed one: {outlook.routed}")


def _overdue(ticket: Ticket, inventory: Inventory, outlook: Outlook, *, after: str) -> DeadlineExceeded | CapacityError:
    why = f"; the OpenAPI: {outlook.trouble}" if outlook.trouble else ""
    if outlook.unread:
        return DeadlineExceeded(f"{after}: {outlook.unread} are not known yet{why}")
    if ticket.slot is not None and (on_card := _on_card(ticket.slot, ticket.choice, inventory)):
        return DeadlineExceeded(f"{after}: {on_card}{why}")
    if outlook.vswitches:
        return VSwitchExhausted(f"{after}: {outlook.vswitches}")
    if outlook.blocked:
        return DeadlineExceeded(f"{after}: {outlook.blocked}")
    if ticket.kind is Kind.SHARED and not outlook.addresses.growable and not outlook.addresses.cooling:
        return SlotsExhausted(f"{after}: {outlook.shortage}")
    return DeadlineExceeded(f"{after}{why}")


def _on_card(slot: Slot, choice: Choice, inventory: Inventory) -> str:
    """What is the matter with the card in a slot; empty where there is none."""
    eni = inventory.in_slot(slot)
    if eni is None:
        return ""
    if eni.state is not State.READY:
        return f"{eni.eni_id or 'it'} is {eni.state}"
    held = inventory.holder_of_card(eni.token)
    if held is not None:
        return f"{held.pod} ({held.pod.uid}) still holds {eni.eni_id}"
    if eni.token in inventory.absent:
        return f"{eni.eni_id} is attached, but its link is not on this node"
    if not choice.met_by(eni.choice, eni.vswitch_id):
        return f"{eni.eni_id}, which was made with {eni.choice} in {eni.vswitch_id}, has not been replaced yet"
    return f"{eni.eni_id} is there, but the primary ENI has no free address for the pod's way to Services"
