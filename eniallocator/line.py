"""The line of ADDs: first come, first served; whoever gets nothing stays until its deadline."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection

from eniallocator.clock import Clock
from eniallocator.grants import Grants, Turn
from eniallocator.plan import Demand
from eniallocator.records import Put, RoutedAddress
from eniallocator.store import Store
from eniallocator.waiting import Ticket
from eniway.errors import NotReady
from eniway.model import Kind, LeaseKey, Slot


class Line:
    """``serve`` it whenever there may be something to give.

    ``changed`` is told when somebody joins, or will take something else from now on; ``left`` when somebody gives up.
    """

    def __init__(self, store: Store, *, clock: Clock, changed: Callable[[], None], left: Callable[[], None]) -> None:
        self._store = store
        self._clock = clock
        self._changed = changed
        self._left = left
        self._tickets: list[Ticket] = []

    def __bool__(self) -> bool:
        """Whether anybody is in it."""
        return bool(self._tickets)

    def has(self, key: LeaseKey) -> bool:
        """Whether an ADD of that key is in it."""
        return any(ticket.key == key for ticket in self._tickets)

    async def stand(self, ticket: Ticket, *, deadline: float, first: Callable[[], Awaitable[None]]) -> bool:
        """Wait until ``ticket`` is granted something, or turned away; False at ``deadline``. In line, do ``first``."""
        self._tickets.append(ticket)
        self._changed()
        try:
            await first()
            at = ticket.routed_at
            if at is not None and at < deadline and not await self._granted(ticket, at):
                self._changed()
            return await self._granted(ticket, deadline)
        finally:
            if ticket in self._tickets:
                self._tickets.remove(ticket)
                self._left()

    def turn_away(self, key: LeaseKey, why: str) -> None:
        """Who waits for a lease of ``key`` gets NotReady."""
        for ticket in self._tickets:
            if ticket.key == key and not ticket.granted.done():
                ticket.granted.set_exception(NotReady(why))

    def serve(self, grants: Grants, turn: Turn) -> None:
        """Give to those in line, in order. Tickets of two kinds do not stand in each other's way."""
        ahead = 0
        for ticket in tuple(self._tickets):
            if ticket.granted.done():
                continue
            record = grants.grant(ticket, turn, ahead=ahead)
            if record is None:
                ahead += ticket.kind is Kind.SHARED
                continue
            self._tickets.remove(ticket)
            taken = (Put(RoutedAddress(record.address)),) if record.kind is Kind.ROUTED else ()
            ticket.granted.set_result((record, self._store.intend(*taken, Put(record))))

    def waiting(self) -> list[Ticket]:
        """Those in it that have not been granted anything."""
        return [ticket for ticket in self._tickets if not ticket.granted.done()]

    def demand(self, wanted: Collection[Slot]) -> Demand:
        """What those in line are to have, and ``wanted`` slots."""
        waiting = self.waiting()
        slots = {ticket.slot for ticket in waiting if ticket.kind is Kind.EXCLUSIVE and ticket.slot is not None}
        return Demand(
            shared=sum(ticket.kind is Kind.SHARED for ticket in waiting),
            slots=frozenset(slots.union(wanted)),
            choices={ticket.slot: ticket.choice for ticket in waiting if ticket.slot is not None},
        )

    async def _granted(self, ticket: Ticket, deadline: float) -> bool:
        try:
            async with self._clock.timeout_at(deadline):
                await asyncio.wait([ticket.granted])
        except TimeoutError:
            pass
        return ticket.granted.done()
