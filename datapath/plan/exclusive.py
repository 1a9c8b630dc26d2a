"""An exclusive pod: the card itself is its eth0, and a second link carries the Service CIDR to the host. Pure."""

from __future__ import annotations

from ipaddress import IPv4Interface, IPv4Network
from typing import Final

from datapath.borders import METADATA
from datapath.plan import veth
from datapath.state import TABLE_MAIN, Addr, Eni, Member, Netns, NetState, Route
from eniway import names
from eniway.errors import InvariantBroken
from eniway.model import Card, Lease

EVERYWHERE: Final = IPv4Network("0.0.0.0/0")
TXQLEN: Final = 1000
"""DEFAULT_TX_QUEUE_LEN of Ethernet devices."""


def exclusive(lease: Lease, *, mtu: int, service_cidr: IPv4Network, metadata: bool = True) -> NetState:
    """The card in the pod as ``lease.key.ifname``, and the pod's way to Services by a veth of its own.

    ``metadata``: the pod may ask the metadata service. It is the pod's own kernel that says no.

    The pod's two addresses meet in one case: when it calls a Service that leads back to itself. That packet would come
    in on the card from the address of the veth, which the pod knows for its own, so the node puts its own address there
    (hairpin).
    """
    if lease.service_address is None:
        raise InvariantBroken(f"lease {lease.key.alias}: an exclusive pod needs a service_address")
    ifname = lease.key.ifname
    leg = veth.leg(lease.key, peer=names.SERVICE_LINK, address=lease.service_address, mtu=mtu, towards=service_cidr)
    if not metadata:
        leg |= {Route(netns=Netns.POD, table=TABLE_MAIN, destination=METADATA, dev=None)}
    return leg | {
        Eni(
            eni_id=lease.card.eni_id,
            netns=Netns.POD,
            name=ifname,
            mac=lease.card.mac,
            mtu=mtu,
            alias=lease.card.eni_id,
            group=0,
            txqlen=TXQLEN,
            up=True,
            rp_filter=None,
            altnames=None,
            xdp=None,
        ),
        Addr(netns=Netns.POD, dev=ifname, address=IPv4Interface(lease.address)),
        Route(
            netns=Netns.POD,
            table=TABLE_MAIN,
            destination=EVERYWHERE,
            dev=ifname,
            gateway=lease.card.gateway,
            onlink=True,
            source=lease.address,
        ),
        Member(set=names.IPSET_EXCLUSIVE, address=lease.address),
        Member(set=names.IPSET_HAIRPIN, address=lease.address, dev=names.host_link(lease.key)),
    }


def home(card: Card, *, name: str, mtu: int) -> NetState:
    """The card as the next user expects it: in the node's namespace, down, with nothing of its last pod on it."""
    return frozenset(
        {
            Eni(
                eni_id=card.eni_id,
                netns=Netns.NODE,
                name=name,
                mac=card.mac,
                mtu=mtu,
                alias="",
                group=0,
                txqlen=TXQLEN,
                up=False,
                rp_filter=None,
                altnames=None,
                xdp=(),
            )
        }
    )
