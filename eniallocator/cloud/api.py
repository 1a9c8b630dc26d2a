"""What the books ask of the cloud: nine calls in words of our own, so that the SDK behind them can be replaced.

Every call may raise the errors of ``eniallocator.cloud.errors`` and nothing else; none retries.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from ipaddress import IPv4Address, IPv4Network
from typing import Protocol

from eniway.model import EniId, InstanceId, Mac, SecurityGroupId, VSwitchId


class EniStatus(StrEnum):
    """Status of DescribeNetworkInterfaces."""

    AVAILABLE = "Available"
    ATTACHING = "Attaching"
    IN_USE = "InUse"
    DETACHING = "Detaching"
    DELETING = "Deleting"
    OTHER = "other"
    """One that only bonds and cloud products have."""


@dataclass(frozen=True, slots=True)
class Eni:
    """An ENI as the cloud tells of it."""

    eni_id: EniId
    mac: Mac
    status: EniStatus
    secondary_type: bool
    """A card of type Secondary: the only ones that are ever attached, detached or deleted."""
    vswitch_id: VSwitchId
    zone: str
    address: IPv4Address
    secondary: tuple[IPv4Address, ...]
    instance_id: InstanceId | None
    """Where it is attached, or being attached or detached."""
    description: str
    tags: Mapping[str, str] = field(default_factory=dict)
    security_groups: tuple[SecurityGroupId, ...] = ()
    source_dest_check: bool | None = None
    """Whether only its own addresses may pass; None where the cloud does not say."""


@dataclass(frozen=True, slots=True)
class VSwitch:
    """A subnet and how many addresses it has left (read a moment ago, and eventually consistent at that)."""

    vswitch_id: VSwitchId
    zone: str
    cidr: IPv4Network
    available: int


@dataclass(frozen=True, slots=True)
class InstanceType:
    """What a type allows, primary ENI and primary addresses included."""

    name: str
    enis: int
    addresses_per_eni: int


@dataclass(frozen=True, slots=True)
class Trouble:
    """The last call failed in a way that is not about what was asked for."""

    reason: str
    """One word, the class of the error."""
    message: str
    """The same as long as the trouble is the same."""
    since: float
    """Wall time."""


class CloudApi(Protocol):
    """The OpenAPI (ECS 2014-05-26, VPC 2016-04-28)."""

    @property
    def trouble(self) -> Trouble | None:
        """Why the OpenAPI cannot be used at present; None after a call that got through."""
        ...

    @property
    def strained(self) -> bool:
        """A quota was used up lately: what is slow is so for that, and asking for more makes it no better."""
        ...

    async def create_eni(
        self,
        *,
        vswitch_id: VSwitchId,
        security_groups: Sequence[SecurityGroupId],
        secondary: int,
        tags: Mapping[str, str],
        name: str,
        description: str,
        token: str,
    ) -> Eni:
        """CreateNetworkInterface with ``secondary`` addresses besides its first; the same token gives the same ENI."""
        ...

    async def attach_eni(self, eni_id: EniId, instance_id: InstanceId) -> None:
        """AttachNetworkInterface; done when Describe says InUse."""
        ...

    async def detach_eni(self, eni_id: EniId, instance_id: InstanceId) -> None:
        """DetachNetworkInterface; done when Describe says Available."""
        ...

    async def delete_eni(self, eni_id: EniId) -> None:
        """DeleteNetworkInterface of an Available ENI; done when Describe no longer knows it."""
        ...

    async def assign(self, eni_id: EniId, count: int, *, token: str) -> tuple[IPv4Address, ...]:
        """AssignPrivateIpAddresses: ``count`` more secondary addresses; the same token gives the same ones."""
        ...

    async def unassign(self, eni_id: EniId, addresses: Sequence[IPv4Address]) -> None:
        """UnassignPrivateIpAddresses, at most 32; the cloud does not ask whether a pod uses them."""
        ...

    async def check_sources(self, eni_id: EniId, *, on: bool) -> None:
        """ModifyNetworkInterfaceAttribute: whether the card carries only packets from and to its own addresses."""
        ...

    async def enis(
        self,
        *,
        ids: Sequence[EniId] = (),
        instance_id: InstanceId | None = None,
        tags: Mapping[str, str] | None = None,
    ) -> tuple[Eni, ...]:
        """DescribeNetworkInterfaces, all pages; filters are joined by and, unknown ids are left out of the answer."""
        ...

    async def vswitches(self, vpc_id: str) -> tuple[VSwitch, ...]:
        """DescribeVSwitches of a VPC, all pages."""
        ...

    async def instance_type(self, name: str) -> InstanceType:
        """DescribeInstanceTypes; Refused for one that the cloud does not know."""
        ...
