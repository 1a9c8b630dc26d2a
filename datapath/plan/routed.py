"""A routed pod: an address of the node's podCIDR, over a veth. Pure."""

from __future__ import annotations

from collections.abc import Collection
from ipaddress import IPv4Network
from typing import Final

from datapath.plan import veth
from datapath.state import METRIC_LAST, Netns, NetState, Route
from eniway import names
from eniway.model import Lease

EVERYWHERE: Final = IPv4Network("0.0.0.0/0")


def routed(lease: Lease, *, mtu: int) -> NetState:
    """The pod's veth and no mark: what it sends leaves by the main table, which is the primary card's."""
    return veth.leg(lease.key, peer=lease.key.ifname, address=lease.address, mtu=mtu, towards=EVERYWHERE)


def ranges(cidrs: Collection[IPv4Network]) -> NetState:
    """Addresses of the node's podCIDR that no pod has are unreachable.

    The VPC sends them here whoever has them: the main table would send them back, and so on until their time to live is
    over.
    """
    return frozenset(
        Route(netns=Netns.NODE, table=names.TABLE_PODS, destination=cidr, dev=None, metric=METRIC_LAST)
        for cidr in cidrs
    )
