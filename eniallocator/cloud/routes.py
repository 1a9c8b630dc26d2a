"""What the operator asks of a VPC's route tables, in words of our own.

Every call may raise the errors of ``eniallocator.cloud.errors`` and nothing else; none retries. Writes are begun when
they return and done when ``entries`` says Available, or nothing; two at once in a VPC are refused (Busy).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from ipaddress import IPv4Network
from typing import Final, Protocol

from eniway.model import InstanceId

MOST_AT_ONCE: Final = 50
"""Entries of one CreateRouteEntries or DeleteRouteEntries."""


class RouteStatus(StrEnum):
    """Status of DescribeRouteEntryList."""

    PENDING = "Pending"
    AVAILABLE = "Available"
    MODIFYING = "Modifying"
    DELETING = "Deleting"
    OTHER = "other"
    """One that is not documented."""


@dataclass(frozen=True, slots=True)
class RouteEntry:
    """An entry of a route table, whoever made it."""

    entry_id: str
    destination: IPv4Network
    status: RouteStatus
    origin: str
    """Type of DescribeRouteEntryList: Custom, System (vSwitches and cloud services), or propagated: BGP, CEN, ECR."""
    hops: tuple[str, ...]
    """Ids of the next hops: an instance's, or what else a route can lead to."""
    name: str = ""
    description: str = ""

    @property
    def custom(self) -> bool:
        """Somebody of the account made it: it counts against the quota."""
        return self.origin == "Custom"

    @property
    def system(self) -> bool:
        """The VPC made it: of a vSwitch, or of cloud services."""
        return self.origin == "System"


@dataclass(frozen=True, slots=True)
class NewEntry:
    """An entry to be made, with an instance for next hop."""

    destination: IPv4Network
    instance_id: InstanceId
    name: str
    description: str


@dataclass(frozen=True, slots=True)
class Tables:
    """The route tables of a VPC."""

    system: str
    """Every VPC has one; vSwitches without a table of their own use it."""
    custom: tuple[str, ...]


class RouteApi(Protocol):
    """The OpenAPI (VPC 2016-04-28, ECS 2014-05-26), as far as routes need it."""

    async def tables(self, vpc_id: str) -> Tables:
        """DescribeRouteTableList of a VPC, all pages."""
        ...

    async def entries(self, table_id: str) -> tuple[RouteEntry, ...]:
        """DescribeRouteEntryList: the IPv4 entries of a table, all pages."""
        ...

    async def create(self, table_id: str, entries: Sequence[NewEntry]) -> Mapping[IPv4Network, str]:
        """CreateRouteEntries, at most ``MOST_AT_ONCE``; FailedCode by destination for those that were not begun."""
        ...

    async def create_one(self, table_id: str, entry: NewEntry, *, token: str) -> None:
        """CreateRouteEntry; the same token gives the same entry."""
        ...

    async def delete(self, table_id: str, entries: Sequence[RouteEntry]) -> Mapping[str, str]:
        """DeleteRouteEntries, at most ``MOST_AT_ONCE``; FailedCode by entry id for those that were not begun."""
        ...

    async def delete_one(self, entry_id: str) -> None:
        """DeleteRouteEntry; NotFound where it is gone."""
        ...

    async def instances(self, ids: Collection[InstanceId]) -> frozenset[InstanceId]:
        """DescribeInstances: those of ``ids``, at most 100, that exist."""
        ...
