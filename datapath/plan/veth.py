"""A pod's leg to the host: a veth, as shared pods and the Service side of exclusive pods have it. Pure."""

from __future__ import annotations

import hashlib
from ipaddress import IPv4Address, IPv4Interface, IPv4Network
from typing import Final

from datapath.state import TABLE_MAIN, Addr, Member, Neigh, Netns, NetState, Route, Veth
from eniway import names
from eniway.model import LeaseKey, Mac

GATEWAY: Final = IPv4Address(names.GATEWAY)
STRICT: Final = 1
"""rp_filter (Documentation/networking/ip-sysctl.rst): a packet must come in where its source is routed to."""


def mac(key: LeaseKey, end: Netns) -> Mac:
    """MAC of one end of a lease's veth: locally administered, from the key.

    Given at creation, it keeps udev (MACAddressPolicy=persistent) from changing it later, and lets a plan name the
    neighbour.
    """
    digest = hashlib.sha256(f"{key.alias} {end}".encode()).digest()
    return Mac(":".join(f"{byte:02x}" for byte in (0x02, *digest[:5])))


def leg(key: LeaseKey, *, peer: str, address: IPv4Address, mtu: int, towards: IPv4Network) -> NetState:
    """The veth of ``key`` with ``address`` on the pod's end ``peer``, and the way ``towards`` a network through it.

    The pod's gateway is a link-local address that nobody has: a permanent neighbour with the MAC of the node's end.
    The node reaches ``address`` by a host route in the table that is read first.
    """
    link = names.host_link(key)
    host = IPv4Network(address)
    return frozenset(
        {
            Veth(
                name=link,
                peer=peer,
                mac=mac(key, Netns.NODE),
                peer_mac=mac(key, Netns.POD),
                mtu=mtu,
                peer_mtu=mtu,
                alias=key.alias,
                group=names.LINK_GROUP,
                rp_filter=STRICT,
                up=True,
            ),
            Route(netns=Netns.NODE, table=names.TABLE_PODS, destination=host, dev=link),
            Member(set=names.IPSET_PODS, address=address),
            Addr(netns=Netns.POD, dev=peer, address=IPv4Interface(address)),
            Neigh(netns=Netns.POD, dev=peer, address=GATEWAY, mac=mac(key, Netns.NODE)),
            Route(netns=Netns.POD, table=TABLE_MAIN, destination=IPv4Network(GATEWAY), dev=peer),
            Route(netns=Netns.POD, table=TABLE_MAIN, destination=towards, dev=peer, gateway=GATEWAY, source=address),
        }
    )
