"""What the kernel holds for pods, as values: the words that plan, diff, observe and apply share.

A state is a set of items. An item says in which network namespace it lives, what identifies it (``key``: two items of
one key cannot exist at once) and how it is set. Devices are named, not numbered: an ifindex means nothing before the
link exists.
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass
from enum import StrEnum
from ipaddress import IPv4Address, IPv4Interface, IPv4Network
from typing import TypeAlias

from eniway.model import EniId, Mac

METRIC_LAST = 4294967295
"""The highest route metric: such a route is looked at when no other of its destination is left."""
TABLE_MAIN = 254


class Netns(StrEnum):
    """The two network namespaces that a lease touches."""

    NODE = "node"
    POD = "pod"


@dataclass(frozen=True, slots=True, kw_only=True)
class Veth:
    """A veth pair: one item, because the kernel makes and unmakes both ends at once."""

    name: str
    """The node's end."""
    peer: str | None
    """The pod's end; None, only ever observed: the far end is in some other namespace."""
    mac: Mac
    peer_mac: Mac
    mtu: int
    peer_mtu: int
    alias: str
    """ifalias of the node's end: the lease key, from which books can be rebuilt."""
    group: int
    """Link group of the node's end."""
    rp_filter: int
    """Of the node's end; strict (1) keeps a pod from using its neighbour's address."""
    up: bool
    """Both ends are."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Eni:
    """A card, wherever it is plugged. In a plan, None leaves it as it is."""

    eni_id: EniId
    netns: Netns
    name: str
    mac: Mac
    mtu: int
    alias: str
    """The ENI id while the card is in a pod, which may change the MAC, else empty."""
    group: int
    txqlen: int
    up: bool
    rp_filter: int | None
    altnames: tuple[str, ...] | None
    xdp: tuple[int, ...] | None
    """Modes in which XDP programs are attached."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Addr:
    """An IPv4 address of a device."""

    netns: Netns
    dev: str
    address: IPv4Interface


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """An IPv4 route with our protocol number; without ``dev`` it answers "unreachable", or ``throws``."""

    netns: Netns
    table: int
    destination: IPv4Network
    dev: str | None
    gateway: IPv4Address | None = None
    onlink: bool = False
    source: IPv4Address | None = None
    """Preferred source address."""
    metric: int = 0
    throws: bool = False
    """The look-up goes on with the next rule."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Neigh:
    """A permanent neighbour entry."""

    netns: Netns
    dev: str
    address: IPv4Address
    mac: Mac


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """A policy rule of the node with our protocol number: read ``table``.

    For packets with ``mark`` under ``mask``, to ``destination``, and only for the node's own where ``own``.
    """

    priority: int
    table: int
    mark: int = 0
    mask: int = 0
    destination: IPv4Network | None = None
    own: bool = False


class Direction(StrEnum):
    """Of packets at a device, seen from its namespace."""

    INGRESS = "ingress"
    EGRESS = "egress"


@dataclass(frozen=True, slots=True, kw_only=True)
class Ifb:
    """An intermediate device: what is redirected to it waits in its qdisc, then goes on where it came from."""

    netns: Netns
    name: str
    alias: str
    group: int
    up: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Tbf:
    """A token bucket as root qdisc of a device, with our handle (tc-tbf(8))."""

    netns: Netns
    dev: str
    rate: int
    """Bytes per second, link layer header included."""
    burst: int
    """Size of the bucket in bytes. The kernel keeps it as a time: read back, it may be off by two of its ticks."""
    limit: int
    """Most bytes that wait."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Redirect:
    """A tc filter with our preference that leads all packets of a device in one direction to an Ifb."""

    netns: Netns
    dev: str
    direction: Direction
    to: str | None
    """None, only ever observed: it leads to no device that is there, and drops what it gets."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sysctl:
    """A file below /proc/sys in the node's namespace. It can be set, not unset."""

    path: str
    value: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """A member of one of the node's ipsets; ``dev`` in hash:net,iface."""

    set: str
    address: IPv4Address
    dev: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Mark:
    """The packet mark of what a pod sends, by its address, in the node's map."""

    address: IPv4Address
    mark: int


Item: TypeAlias = Veth | Eni | Ifb | Tbf | Redirect | Addr | Route | Neigh | Rule | Sysctl | Member | Mark
NetState: TypeAlias = frozenset[Item]
NOTHING: NetState = frozenset()


def key(item: Item) -> Hashable:  # noqa: C901, PLR0911 -- one line a kind
    """What identifies an item among all others; the rest of it can be changed."""
    match item:
        case Veth():
            return Veth, item.name
        case Eni():
            return Eni, item.eni_id
        case Ifb():
            return Ifb, item.netns, item.name
        case Tbf():
            return Tbf, item.netns, item.dev
        case Redirect():
            return Redirect, item.netns, item.dev, item.direction
        case Route():
            return Route, item.netns, item.table, item.destination, item.metric
        case Neigh():
            return Neigh, item.netns, item.dev, item.address
        case Sysctl():
            return Sysctl, item.path
        case Member():
            return Member, item.set, item.address, item.dev
        case Mark():
            return Mark, item.address
        case Addr() | Rule():
            return item
