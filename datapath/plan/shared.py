"""A shared pod: one secondary address of a card, over a veth. Pure."""

from __future__ import annotations

from ipaddress import IPv4Network
from typing import Final

from datapath.plan import veth
from datapath.state import Mark, NetState
from eniway import names
from eniway.model import Lease

EVERYWHERE: Final = IPv4Network("0.0.0.0/0")


def shared(lease: Lease, *, mtu: int) -> NetState:
    """The pod's veth, and the mark that makes what it sends leave by its card."""
    leg = veth.leg(lease.key, peer=lease.key.ifname, address=lease.address, mtu=mtu, towards=EVERYWHERE)
    return leg | {Mark(address=lease.address, mark=names.eni_mark(lease.card.slot))}
