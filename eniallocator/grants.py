"""What an ADD in line gets, once it is there."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from ipaddress import IPv4Address

from eniallocator.clock import Clock
from eniallocator.inventory import Inventory
from eniallocator.lifecycle import State
from eniallocator.records import LeaseRecord, Use
from eniallocator.routed import Routed
from eniallocator.waiting import Ticket
from eniway.model import Kind, Slot


@dataclass(frozen=True, slots=True)
class Turn:
    """What is so while all in line are looked at once."""

    now: float
    shared_slots: Collection[Slot] | None
    """Those for shared cards; None: not known yet."""
    coming: Callable[[], int | None]
    """How many shared addresses are free or can be had; None: not known yet."""


class Grants:
    """Changes nothing: the lease is the caller's to write down.

    ``shortage``: why there are no more shared addresses.
    """

    def __init__(
        self,
        inventory: Inventory,
        routed: Routed,
        *,
        clock: Clock,
        shortage: Callable[[], str],
    ) -> None:
        self._inventory = inventory
        self._routed = routed
        self._clock = clock
        self._shortage = shortage

    def grant(self, ticket: Ticket, turn: Turn, *, ahead: int) -> LeaseRecord | None:
        """A lease for ``ticket``, if what it waits for is there.

        ``ahead``: shared pods in line before it that got nothing.
        """
        now = turn.now
        match ticket.kind:
            case Kind.ROUTED:
                return self._routed_lease(ticket, now)
            case Kind.EXCLUSIVE:
                return self._exclusive_lease(ticket, now)
            case Kind.SHARED:
                picked = None if ahead else self._inventory.pick_shared(now, turn.shared_slots)
                if picked is not None:
                    card, address = picked
                    return self._lease(ticket, Kind.SHARED, card.token, address)
                return self._routed_lease(ticket, now) if self._gives_up(ticket, turn, ahead) else None

    def _exclusive_lease(self, ticket: Ticket, now: float) -> LeaseRecord | None:
        assert ticket.slot is not None
        eni = self._inventory.in_slot(ticket.slot)
        if eni is None or eni.use is not Use.EXCLUSIVE or eni.state is not State.READY or eni.address is None:
            return None
        if eni.token in self._inventory.absent or not ticket.choice.met_by(eni.choice, eni.vswitch_id):
            return None
        service = self._inventory.pick_service(now)
        if service is None or self._inventory.holder_of_card(eni.token) is not None:
            return None
        return self._lease(ticket, Kind.EXCLUSIVE, eni.token, eni.address, service)

    def _routed_lease(self, ticket: Ticket, now: float) -> LeaseRecord | None:
        address = self._routed.pick(now)
        return None if address is None else self._lease(ticket, Kind.ROUTED, self._inventory.primary().token, address)

    def _lease(
        self, ticket: Ticket, kind: Kind, token: str, address: IPv4Address, service: IPv4Address | None = None
    ) -> LeaseRecord:
        return LeaseRecord(
            key=ticket.key,
            pod=ticket.pod,
            kind=kind,
            netns=ticket.netns,
            token=token,
            address=address,
            service_address=service,
            confirmed=False,
            since=self._clock.wall(),
            bandwidth=ticket.bandwidth,
        )

    def _gives_up(self, ticket: Ticket, turn: Turn, ahead: int) -> bool:
        """Whether a shared pod takes a routed address: it waited long enough, or waiting is of no use.

        Of no use: what is free, can grow or ends its cooldown in time goes to those ahead of it.
        """
        if ticket.routed_at is None:
            return False
        hopeless = turn.now >= ticket.routed_at
        if not hopeless and (expected := turn.coming()) is not None:
            hopeless = expected + self._inventory.cooled_by(ticket.routed_at, turn.now) <= ahead
        if hopeless and not ticket.why_routed:
            ticket.why_routed = self._shortage()
        return hopeless
