"""The words of eniway as types: what more than one room says. Frozen, no behaviour but derived names."""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum
from ipaddress import IPv4Address, IPv4Network
from typing import Final, NewType

EniId = NewType("EniId", str)
InstanceId = NewType("InstanceId", str)
VSwitchId = NewType("VSwitchId", str)
SecurityGroupId = NewType("SecurityGroupId", str)
ContainerId = NewType("ContainerId", str)
"""Id of a pod sandbox as the container runtime gives it in CNI_CONTAINERID."""
PodUid = NewType("PodUid", str)
Mac = NewType("Mac", str)
"""Lower case, colons."""
Slot = NewType("Slot", int)
"""Place of a card in an instance: 0 is the primary ENI, 1 … EniQuantity - 1 are free for pods."""


class Kind(StrEnum):
    """How a pod is connected."""

    SHARED = "shared"
    """One secondary address of a card that several pods share, over a veth."""
    EXCLUSIVE = "exclusive"
    """The card itself is the pod's eth0; ``aliyun/eni: 1`` in limits."""
    ROUTED = "routed"
    """An address of the node's podCIDR over a veth; the VPC's route table leads to the node."""


class Wish(StrEnum):
    """How a pod without an ENI of its own is to be connected."""

    SHARED = "shared"
    ROUTED = "routed"
    SHARED_ELSE_ROUTED = "shared-else-routed"
    """Shared, or routed where no shared address can be had: only as a node's default."""


@dataclass(frozen=True, slots=True, order=True)
class PodRef:
    """A pod; ``uid`` tells a StatefulSet's pod from its predecessor of the same name."""

    namespace: str
    name: str
    uid: PodUid

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}"


@dataclass(frozen=True, slots=True, order=True)
class LeaseKey:
    """Who holds a lease: one interface of one sandbox on one network (CNI spec, section 2)."""

    network: str
    container_id: ContainerId
    ifname: str

    @property
    def alias(self) -> str:
        """The key as the host link's ifalias carries it, so that the books can be rebuilt from the kernel."""
        return f"{self.network}/{self.container_id}/{self.ifname}"

    @classmethod
    def from_alias(cls, alias: str) -> LeaseKey | None:
        """Inverse of ``alias``; None where the text is not one."""
        parts = alias.split("/")
        if len(parts) != 3 or not all(parts):
            return None
        return cls(parts[0], ContainerId(parts[1]), parts[2])


@dataclass(frozen=True, slots=True)
class Card:
    """An ENI as a node sees it once it is attached. ``gateway`` and ``prefix`` are the vSwitch's."""

    eni_id: EniId
    mac: Mac
    slot: Slot
    address: IPv4Address
    """The primary address."""
    prefix: IPv4Network
    gateway: IPv4Address


@dataclass(frozen=True, slots=True)
class Choice:
    """What an exclusive pod asks of its ENI, or an ENI was made for; what is empty is as the node's ENIs have it."""

    security_groups: tuple[SecurityGroupId, ...] = ()
    """In order of ids, so that equal sets are equal."""
    vswitch: VSwitchId | None = None

    def met_by(self, made_for: Choice, vswitch: VSwitchId) -> bool:
        """Whether an ENI in ``vswitch`` that was made for that choice will do."""
        return self in (made_for, replace(made_for, vswitch=vswitch))

    def __str__(self) -> str:
        parts = [f"security groups {', '.join(self.security_groups)}"] if self.security_groups else []
        parts += [f"vSwitch {self.vswitch}"] if self.vswitch else []
        return " and ".join(parts) or "what the node's ENIs have"


NO_CHOICE: Final = Choice()


@dataclass(frozen=True, slots=True)
class Bandwidth:
    """How fast a pod may receive (``ingress``) and send (``egress``), in bits per second at layer 2; None: no limit."""

    ingress: int | None = None
    egress: int | None = None

    def __str__(self) -> str:
        def said(rate: int | None) -> str:
            return "unlimited" if rate is None else f"{rate} bit/s"

        return f"ingress {said(self.ingress)}, egress {said(self.egress)}"


UNLIMITED: Final = Bandwidth()


@dataclass(frozen=True, slots=True)
class Lease:
    """What a pod holds.

    shared: ``address`` is a secondary address of ``card``.
    exclusive: ``address`` is the card's primary address, ``service_address`` a secondary address of the primary ENI:
    the pod's end of its way to Services.
    routed: ``address`` is of the node's podCIDR, ``card`` the primary card, which carries its packets.
    """

    key: LeaseKey
    pod: PodRef
    kind: Kind
    netns: str
    """Path of the pod's network namespace as the runtime gave it in CNI_NETNS."""
    card: Card
    address: IPv4Address
    service_address: IPv4Address | None = None
    bandwidth: Bandwidth = UNLIMITED


@dataclass(frozen=True, slots=True)
class Sandbox:
    """A pod's attachment as the container runtime remembers it."""

    key: LeaseKey
    pod: PodRef
    netns: str
    """Path of its network namespace."""
    addresses: tuple[IPv4Address, ...]
    """Those of the result that its ADD had."""


@dataclass(frozen=True, slots=True)
class Capacity:
    """The four words of capacity, for slots or addresses: free = in_service + growable - cooling - orphaned - used."""

    in_service: int
    """Can be handed out without a cloud call, used ones included."""
    growable: int
    """Could still be brought into service: limits of instance type and configuration, stock of the vSwitches."""
    cooling: int
    """Released a short while ago and not to be reused yet."""
    orphaned: int
    """Held by something that no pod accounts for; being cleaned up."""
    used: int
    """Held by leases."""
