"""What a node needs once, and what it needs for each card that shared pods leave by. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from ipaddress import IPv4Network
from typing import Final

from datapath.plan.exclusive import TXQLEN
from datapath.state import METRIC_LAST, Eni, Neigh, Netns, NetState, Route, Rule, Sysctl
from eniway import names
from eniway.model import Card, Mac

EVERYWHERE: Final = IPv4Network("0.0.0.0/0")


def rp_filter_path(link: str) -> str:
    """The sysctl of a link, or of ``all`` or ``default``."""
    return f"net/ipv4/conf/{link}/rp_filter"


def node(rp_filters: Mapping[str, int]) -> NetState:
    """Forwarding, and the table of pod host routes read before all others.

    ``rp_filters``: value by link as found, ``all`` and ``default`` among them. The kernel takes the larger of ``all``
    and the link's own, and shared cards need 0, so a value of ``all`` is handed down to the links that are there and to
    ``default``.
    """
    state: set[Sysctl | Rule] = {
        Sysctl(path="net/ipv4/ip_forward", value="1"),
        Rule(priority=names.RULE_PODS, table=names.TABLE_PODS),
    }
    if everywhere := rp_filters["all"]:
        state |= {
            Sysctl(path=rp_filter_path(link), value=str(max(own, everywhere)))
            for link, own in rp_filters.items()
            if link != "all"
        }
    return frozenset(state | {Sysctl(path=rp_filter_path("all"), value="0")})


def shared_card(card: Card, *, name: str, mtu: int) -> NetState:
    """A card that shared pods leave by, its link called ``name``: up, no address, a table of its own for its mark.

    The table ends in "unreachable": without it a lookup would fall through to the main table and leave by the wrong
    card when the kernel drops the routes of a link that goes down. rp_filter is off because the way back to a shared
    pod's peer, seen without the mark, is not this card; the VPC checks sources, and the pods' own links are strict.
    """
    table = names.eni_table(card.slot)
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
                up=True,
                rp_filter=0,
                altnames=None,
                xdp=None,
            ),
            Neigh(netns=Netns.NODE, dev=name, address=card.gateway, mac=Mac(names.FABRIC_MAC)),
            Route(netns=Netns.NODE, table=table, destination=EVERYWHERE, dev=name, gateway=card.gateway, onlink=True),
            Route(netns=Netns.NODE, table=table, destination=EVERYWHERE, dev=None, metric=METRIC_LAST),
            Rule(priority=names.RULE_ENI, table=table, mark=names.eni_mark(card.slot), mask=names.MARK_MASK),
        }
    )
