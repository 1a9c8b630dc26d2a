"""What the books write down: the rows of the ledger, frozen. Times are wall time in seconds since the epoch."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from ipaddress import IPv4Address, IPv4Network

from eniallocator.lifecycle import State
from eniway.errors import InvariantBroken
from eniway.model import (
    NO_CHOICE,
    UNLIMITED,
    Bandwidth,
    Card,
    Choice,
    EniId,
    InstanceId,
    Kind,
    LeaseKey,
    Mac,
    PodRef,
    Slot,
    VSwitchId,
)


class Use(StrEnum):
    """What a card is for."""

    PRIMARY = "primary"
    """The instance's own card: its secondary addresses carry exclusive pods' way to Services."""
    SHARED = "shared"
    EXCLUSIVE = "exclusive"


@dataclass(frozen=True, slots=True)
class EniRecord:
    """A card, from the intent to create it on."""

    token: str
    """Our name for it, the ClientToken of its creation."""
    use: Use
    state: State
    slot: Slot | None
    """Freed once it is detached."""
    vswitch_id: VSwitchId
    since: float
    """When the state was entered."""
    wanted: int = 0
    """Secondary addresses asked for with its creation."""
    eni_id: EniId | None = None
    mac: Mac | None = None
    address: IPv4Address | None = None
    prefix: IPv4Network | None = None
    gateway: IPv4Address | None = None
    choice: Choice = NO_CHOICE
    """What the pod chose that it was made for: it stays so to its end, and no other pod gets it."""

    @property
    def known_id(self) -> EniId:
        """The ENI id of a card that has been created."""
        if self.eni_id is None:
            raise InvariantBroken(f"card {self.token} is {self.state} and has no ENI id")
        return self.eni_id

    @property
    def card(self) -> Card:
        """The card as other rooms see it; only of one that is attached."""
        if None in (self.mac, self.slot, self.address, self.prefix, self.gateway):
            raise InvariantBroken(f"card {self.token} is {self.state} and not known in full: {self}")
        assert self.mac is not None
        assert self.slot is not None
        assert self.address is not None
        assert self.prefix is not None
        assert self.gateway is not None
        return Card(
            eni_id=self.known_id,
            mac=self.mac,
            slot=self.slot,
            address=self.address,
            prefix=self.prefix,
            gateway=self.gateway,
        )


@dataclass(frozen=True, slots=True)
class AddressRecord:
    """An address of a card."""

    address: IPv4Address
    token: str
    primary: bool = False
    released: float | None = None
    """When its last lease ended; it cools down from there."""
    orphan: bool = False
    """Found on a card after the ledger was lost: a pod may be using it."""
    leaving: bool = False
    """About to be given back to the vSwitch."""


@dataclass(frozen=True, slots=True)
class RoutedAddress:
    """An address of the node's podCIDR that a routed pod has or had; one that never was leased has no record."""

    address: IPv4Address
    released: float | None = None
    """When its last lease ended; it cools down from there."""


@dataclass(frozen=True, slots=True)
class LeaseRecord:
    """A lease. Not confirmed: the kernel may or may not have been touched."""

    key: LeaseKey
    pod: PodRef
    kind: Kind
    netns: str
    token: str
    address: IPv4Address
    service_address: IPv4Address | None
    confirmed: bool
    since: float
    bandwidth: Bandwidth = UNLIMITED

    @property
    def addresses(self) -> tuple[IPv4Address, ...]:
        """All addresses it holds."""
        return (self.address,) if self.service_address is None else (self.address, self.service_address)


@dataclass(frozen=True, slots=True)
class AssignRecord:
    """An AssignPrivateIpAddresses under way.

    Sent again with the same ClientToken after a crash it gives the same addresses.
    """

    token: str
    eni: str
    """The card's token."""
    count: int
    since: float


@dataclass(frozen=True, slots=True)
class Identity:
    """Who this node is, from the metadata service; all else about it is asked of the OpenAPI."""

    instance_id: InstanceId
    instance_type: str
    region: str
    zone: str
    vpc_id: str
    primary_eni: EniId
    primary_mac: Mac
    primary_vswitch: VSwitchId
    primary_address: IPv4Address
    primary_prefix: IPv4Network
    primary_gateway: IPv4Address


@dataclass(frozen=True, slots=True)
class TypeLimits:
    """What the instance type allows, primary ENI and primary addresses included."""

    enis: int
    addresses_per_eni: int


Record = EniRecord | AddressRecord | RoutedAddress | LeaseRecord | AssignRecord


@dataclass(frozen=True, slots=True)
class Put:
    """Write a record, in place of the one with the same key."""

    record: Record


@dataclass(frozen=True, slots=True)
class Drop:
    """Forget a record; none with its key is no error."""

    record: Record


Change = Put | Drop
