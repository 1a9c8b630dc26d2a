"""Which address of a vSwitch belongs to whom.

A vSwitch keeps its first and its last three addresses; the gateway is the one two below the broadcast address.
https://help.aliyun.com/zh/vpc/developer-reference/api-vpc-2016-04-28-createvswitch
"""

import math
import random
from collections import deque
from collections.abc import Iterator
from ipaddress import IPv4Address, IPv4Network

from vpcbox.world.errors import Refused

LONGEST_LAG = 600.0  # seconds


def gateway(cidr: IPv4Network) -> IPv4Address:
    """10.0.0.253 in 10.0.0.0/24."""
    return cidr.broadcast_address - 2


class AddressBook:
    """The addresses of one vSwitch and the ENI that holds each."""

    def __init__(self, cidr: IPv4Network) -> None:
        self.cidr = cidr
        self._holders: dict[IPv4Address, str] = {}
        self._lowest = cidr.network_address + 1
        self._count = cidr.num_addresses - 4
        self._noted: deque[tuple[float, int]] = deque([(-math.inf, self._count)])

    @property
    def available(self) -> int:
        """How many addresses are free."""
        return self._count - len(self._holders)

    def note(self, now: float) -> None:
        """Remember how many are free from now on; what was so long ago that nobody asks for it is forgotten."""
        while len(self._noted) > 1 and self._noted[1][0] <= now - LONGEST_LAG:
            self._noted.popleft()
        self._noted.append((now, self.available))

    def available_at(self, when: float) -> int:
        """How many were free then, as far as noted."""
        return next((count for since, count in reversed(self._noted) if since <= when), self._noted[0][1])

    def holder(self, address: IPv4Address) -> str | None:
        """The ENI that holds the address."""
        return self._holders.get(address)

    def claim(self, address: IPv4Address, eni_id: str) -> None:
        """Give one certain address to an ENI."""
        if not self._lowest <= address < self._lowest + self._count:
            raise Refused(
                "InvalidVSwitchId.IpInvalid",
                f'The specified IpAddress "{address}" is not valid in VSwitch CIDR block "{self.cidr}".',
            )
        if address in self._holders:
            raise Refused("InvalidIp.IpAssigned", f'The specified IP "{address}" is already assigned.')
        self._holders[address] = eni_id

    def claim_any(self, count: int, eni_id: str, rng: random.Random) -> tuple[IPv4Address, ...]:
        """Give ``count`` free addresses to an ENI; the caller has seen that there are as many."""
        assert count <= self.available
        taken = tuple(self._free(count, rng))
        self._holders.update(dict.fromkeys(taken, eni_id))
        return taken

    def _free(self, count: int, rng: random.Random) -> Iterator[IPv4Address]:
        start = rng.randrange(self._count)
        for step in range(self._count):
            if not count:
                return
            address = self._lowest + (start + step) % self._count
            if address not in self._holders:
                count -= 1
                yield address

    def release(self, address: IPv4Address) -> None:
        """The address is free again."""
        del self._holders[address]
