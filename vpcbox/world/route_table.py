"""The entries of a route table. Synchronous, as the estate is: each change is whole or not at all.

https://help.aliyun.com/zh/vpc/developer-reference/api-vpc-2016-04-28-createrouteentry
"""

import random
from collections.abc import Collection
from dataclasses import replace
from ipaddress import IPv4Network

from vpcbox.world import ids
from vpcbox.world.errors import Refused
from vpcbox.world.model import NextHopType, RouteEntry, RouteStatus, RouteType, Vpc
from vpcbox.world.wire import Route

SERVICES = IPv4Network("100.64.0.0/10")
MOST_CUSTOM = 200


class RouteTable:
    """The system route table of a VPC: entries by id; readers may look, only estate and routing change them."""

    def __init__(self, vpc: Vpc, rng: random.Random) -> None:
        self.id = vpc.route_table_id
        self.vpc = vpc
        self.entries: dict[str, RouteEntry] = {}
        self._rng = rng
        self._add_system(SERVICES, NextHopType.SERVICE, vpc.created)

    def add_local(self, cidr: IPv4Network, now: float) -> None:
        """The entry that comes with a vSwitch."""
        self._add_system(cidr, NextHopType.LOCAL, now)

    def _add_system(self, destination: IPv4Network, hop: NextHopType, now: float) -> None:
        entry_id = ids.resource("rte", self._rng)
        self.entries[entry_id] = RouteEntry(
            entry_id, self.id, destination, RouteType.SYSTEM, RouteStatus.AVAILABLE, hop, "", None, now
        )

    @property
    def changing(self) -> bool:
        """A write is under way."""
        return any(entry.status is not RouteStatus.AVAILABLE for entry in self.entries.values())

    def check(self, destination: IPv4Network, *, around_vswitches: bool) -> None:
        """Raise Refused where no entry for the destination may be made; it may or may not contain a vSwitch."""
        for entry in self.entries.values():
            inside = entry.type is RouteType.SYSTEM and destination.subnet_of(entry.destination)
            around = entry.next_hop_type is NextHopType.LOCAL and destination.supernet_of(entry.destination)
            if inside or (around and not around_vswitches):
                raise Refused("InvalidCidrBlock", "Specified CIDR block is not valid.")
            if entry.destination == destination:
                raise Refused("InvalidCIDRBlock.Duplicate", "Specified CIDR block is already exists.")
        if sum(entry.type is RouteType.CUSTOM for entry in self.entries.values()) >= MOST_CUSTOM:
            raise Refused("QuotaExceeded", "Route entry quota exceeded in this route table.")

    def add(
        self,
        destination: IPv4Network,
        next_hop_type: NextHopType,
        next_hop_id: str,
        eni_id: str,
        now: float,
        *,
        name: str,
        description: str,
    ) -> RouteEntry:
        """A custom entry, Pending; the caller has checked it."""
        entry = RouteEntry(
            id=ids.resource("rte", self._rng),
            table_id=self.id,
            destination=destination,
            type=RouteType.CUSTOM,
            status=RouteStatus.PENDING,
            next_hop_type=next_hop_type,
            next_hop_id=next_hop_id,
            eni_id=eni_id,
            modified=now,
            name=name,
            description=description,
        )
        self.entries[entry.id] = entry
        return entry

    def find(self, destination: IPv4Network, next_hop_id: str) -> RouteEntry:
        """The entry, or ``InvalidRouteEntry.NotFound``."""
        for entry in self.entries.values():
            if entry.destination == destination and entry.next_hop_id == next_hop_id:
                return entry
        raise Refused("InvalidRouteEntry.NotFound", "Route entry not exists.")

    def move(self, entry_id: str, status: RouteStatus, now: float) -> None:
        """The entry has another status."""
        self.entries[entry_id] = replace(self.entries[entry_id], status=status, modified=now)

    def routes(self, arriving: Collection[str]) -> tuple[Route, ...]:
        """What the wire is to obey when entries arrive: these and the available ones."""
        return tuple(
            Route(entry.destination, entry.eni_id)
            for entry in self.entries.values()
            if entry.status is RouteStatus.AVAILABLE or entry.id in arriving
        )
