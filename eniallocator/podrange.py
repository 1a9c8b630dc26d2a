"""The addresses of the node's podCIDR, for routed pods: which one is next. In memory, no clock."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from ipaddress import IPv4Address, IPv4Network
from typing import Final

from eniallocator.records import RoutedAddress

_WHOLE: Final = 31
"""From this prefix length on there is neither a network nor a broadcast address (RFC 3021)."""


class PodRange:
    """The podCIDR, less its network and broadcast address; none before the Node has been read."""

    def __init__(self, routed: Iterable[RoutedAddress]) -> None:
        self.cidr: IPv4Network | None = None
        self.known: dict[IPv4Address, RoutedAddress] = {
            record.address: record for record in sorted(routed, key=lambda record: record.released or 0.0)
        }
        """Addresses that were leased before, the longest unused first."""
        self._unaccounted: frozenset[IPv4Address] = frozenset()
        self._fresh = 0
        """All hosts before this one are known or unaccounted for."""

    def move(self, cidr: IPv4Network) -> None:
        """Hand out addresses of ``cidr`` from now on."""
        self.cidr, self._fresh = cidr, 0

    @property
    def unaccounted(self) -> frozenset[IPv4Address]:
        """Addresses that a pod has by the kernel's word and no lease knows of."""
        return self._unaccounted

    @unaccounted.setter
    def unaccounted(self, addresses: frozenset[IPv4Address]) -> None:
        self._unaccounted, self._fresh = addresses, 0

    def take(self, record: RoutedAddress) -> None:
        """Keep a record, as the one that was used last."""
        self.known.pop(record.address, None)
        self.known[record.address] = record

    def forget(self, record: RoutedAddress) -> None:
        """Drop a record."""
        del self.known[record.address]
        self._fresh = 0

    @property
    def size(self) -> int:
        """How many pods can have an address."""
        if self.cidr is None:
            return 0
        return self.cidr.num_addresses - (0 if self.cidr.prefixlen >= _WHOLE else 2)

    def pick(self, busy: Callable[[IPv4Address], bool]) -> IPv4Address | None:
        """An address that is not ``busy``: one that never was used, else the one that was not for the longest time."""
        if (cidr := self.cidr) is None:
            return None
        first = 0 if cidr.prefixlen >= _WHOLE else 1
        while self._fresh < self.size:
            address = cidr[first + self._fresh]
            if address not in self.known and address not in self._unaccounted:
                return address
            self._fresh += 1
        return next((address for address in self.known if address in cidr and not self._taken(address, busy)), None)

    def _taken(self, address: IPv4Address, busy: Callable[[IPv4Address], bool]) -> bool:
        return address in self._unaccounted or busy(address)
