"""What a node needs once, and what it needs for each card that shared pods leave by. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from ipaddress import IPv4Network
from typing import Final

from datapath.borders import METADATA, Borders
from datapath.plan.exclusive import TXQLEN
from datapath.state import METRIC_LAST, TABLE_MAIN, Eni, Member, Neigh, Netns, NetState, Route, Rule, Sysctl
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


def borders(told: Borders, primary: Card, *, name: str) -> NetState:
    """What is held up at the node, and what leaves by the primary card, its link called ``name``.

    The metadata service is unreachable for what the node forwards, after translation, so by no Service either.

    A connection that a shared pod begins to somewhere outside takes the primary card and its address; replies of one
    that came in by the pod's own card leave by that, so the table is read for the former alone.
    """
    state: set[Route | Rule | Member] = set()
    if not told.metadata:
        state |= {
            Rule(priority=names.RULE_METADATA, table=TABLE_MAIN, destination=METADATA, own=True),
            Rule(priority=names.RULE_METADATA + 1, table=names.TABLE_METADATA, destination=METADATA),
            Route(netns=Netns.NODE, table=names.TABLE_METADATA, destination=METADATA, dev=None),
        }
    if told.inside is not None:
        begun, table = names.MARK_BEGUN, names.TABLE_OUTSIDE
        state.add(Rule(priority=names.RULE_OUTSIDE, table=table, mark=begun, mask=begun))
        state.add(
            Route(
                netns=Netns.NODE,
                table=table,
                destination=EVERYWHERE,
                dev=name,
                gateway=primary.gateway,
                onlink=True,
            )
        )
        for network in told.known:
            state.add(Route(netns=Netns.NODE, table=table, destination=network, dev=None, throws=True))
    return frozenset(state)


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
