"""The things of a VPC. All frozen: the world replaces them, so what a reader holds never changes under it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from ipaddress import IPv4Address, IPv4Network

REGION = "cn-box"
ZONE = "cn-box-a"
ACCOUNT = "1000000000000001"  # owner of everything in the box


class EniStatus(StrEnum):
    """Where an ENI is in its life; ``lifecycle`` says how it moves on."""

    AVAILABLE = "Available"
    ATTACHING = "Attaching"
    IN_USE = "InUse"
    DETACHING = "Detaching"
    DELETING = "Deleting"


class EniType(StrEnum):
    """Primary: slot 0 of an instance, made and gone with it. Secondary: any other."""

    PRIMARY = "Primary"
    SECONDARY = "Secondary"


class InstanceStatus(StrEnum):
    """DescribeInstances' Status."""

    RUNNING = "Running"
    STOPPED = "Stopped"


class RouteStatus(StrEnum):
    """Where an entry is in its life: made Pending, gone at the end of Deleting."""

    PENDING = "Pending"
    AVAILABLE = "Available"
    DELETING = "Deleting"


class RouteType(StrEnum):
    """System: made with the VPC and its vSwitches. Custom: any other."""

    SYSTEM = "System"
    CUSTOM = "Custom"


class NextHopType(StrEnum):
    """Where an entry leads. The last two are of system entries, and need no id."""

    INSTANCE = "Instance"  # its primary ENI
    NETWORK_INTERFACE = "NetworkInterface"
    LOCAL = "local"  # whoever in the VPC holds the address
    SERVICE = "service"  # the cloud's own services


@dataclass(frozen=True, slots=True)
class InstanceType:
    """A row of DescribeInstanceTypes; quantities include the primary ENI and the primary address."""

    id: str
    cpus: int
    memory: float  # GiB
    enis: int
    addresses_per_eni: int
    ipv6_per_eni: int | None  # None: not known to the box
    enis_total: int  # with member ENIs of a trunk
    bandwidth: int | None  # Kbit/s, base, each direction; None: not known to the box
    jumbo: bool = False

    @property
    def family(self) -> str:
        """``ecs.g7.xlarge`` is of the family ``ecs.g7``."""
        return self.id.rpartition(".")[0]


@dataclass(frozen=True, slots=True)
class Vpc:
    """A virtual network; one to a box, so far."""

    id: str
    name: str
    cidr: IPv4Network
    router_id: str
    route_table_id: str
    created: float


@dataclass(frozen=True, slots=True)
class VSwitch:
    """A subnet in one zone."""

    id: str
    name: str
    vpc_id: str
    zone: str
    cidr: IPv4Network
    created: float


@dataclass(frozen=True, slots=True)
class RouteEntry:
    """An entry of a route table."""

    id: str
    table_id: str
    destination: IPv4Network
    type: RouteType
    status: RouteStatus
    next_hop_type: NextHopType
    next_hop_id: str  # empty where there is none to name
    eni_id: str | None  # the card it leads to, which may be gone by now; None for a system entry
    modified: float
    name: str = ""
    description: str = ""


@dataclass(frozen=True, slots=True)
class SecurityGroup:
    """Known by id only: the box filters nothing by it."""

    id: str
    name: str
    vpc_id: str
    created: float


@dataclass(frozen=True, slots=True)
class Instance:
    """An ECS instance."""

    id: str
    name: str
    type: InstanceType
    vpc_id: str
    vswitch_id: str
    zone: str
    status: InstanceStatus
    security_group_ids: tuple[str, ...]
    created: float
    http_tokens: str = "optional"  # "required": metadata only with a token (hardened mode)
    ram_role: str | None = None
    tags: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Eni:
    """An elastic network interface."""

    id: str
    name: str
    description: str
    mac: str
    vpc_id: str
    vswitch_id: str
    zone: str
    type: EniType
    status: EniStatus
    primary_address: IPv4Address
    secondary_addresses: tuple[IPv4Address, ...]
    security_group_ids: tuple[str, ...]
    source_dest_check: bool
    delete_on_release: bool
    created: float
    tags: Mapping[str, str] = field(default_factory=dict)
    instance_id: str | None = None  # set from Attaching to the end of Detaching
    slot: int | None = None  # 0 is the primary ENI's

    @property
    def addresses(self) -> tuple[IPv4Address, ...]:
        """All of them, the primary one first."""
        return (self.primary_address, *self.secondary_addresses)
