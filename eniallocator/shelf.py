"""What a card has to hand out: worked out once, and good until something on the card changes."""

from __future__ import annotations

from bisect import bisect_right
from ipaddress import IPv4Address


class Shelf:
    """The secondary addresses of a card that no lease holds, in the order in which they can be handed out."""

    __slots__ = ("_free", "order", "stuck", "times")

    def __init__(self, times: list[float], order: list[IPv4Address], stuck: int) -> None:
        self.times = times
        """When each of ``order`` has cooled down, the longest unused first."""
        self.order = order
        self.stuck = stuck
        """Addresses beside these: orphaned, being given back, or leased with another card."""
        self._free: tuple[IPv4Address, ...] | None = None

    def take(self, address: IPv4Address) -> None:
        """``address`` is leased; ValueError for one that is not here."""
        place = self.order.index(address)
        del self.times[place], self.order[place]
        self._free = None

    def free(self, now: float) -> tuple[IPv4Address, ...]:
        """Those that have cooled down."""
        count = bisect_right(self.times, now)
        if self._free is None or count != len(self._free):
            self._free = tuple(self.order[:count])
        return self._free
