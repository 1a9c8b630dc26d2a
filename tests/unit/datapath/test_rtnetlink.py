"""rtnetlink and ipset messages: what is written for an item reads back as the item."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Interface, IPv4Network

import pytest

from datapath import ipset, nft, rtnetlink
from datapath.netlink import attribute, attributes, each_attribute, nested, text
from datapath.state import Addr, Mark, Member, Neigh, Netns, Route, Rule
from eniway.model import Mac

GATEWAY = IPv4Address("10.0.15.253")
DEVICES = {7: "eth1"}


@pytest.mark.parametrize(
    "route",
    [
        Route(netns=Netns.NODE, table=999, destination=IPv4Network("10.0.0.9/32"), dev="eth1"),
        Route(
            netns=Netns.NODE,
            table=1001,
            destination=IPv4Network("0.0.0.0/0"),
            dev="eth1",
            gateway=GATEWAY,
            onlink=True,
        ),
        Route(
            netns=Netns.POD,
            table=254,
            destination=IPv4Network("172.21.0.0/20"),
            dev="eth1",
            gateway=GATEWAY,
            source=IPv4Address("10.0.0.9"),
        ),
        Route(netns=Netns.NODE, table=1001, destination=IPv4Network("0.0.0.0/0"), dev=None, metric=4294967295),
    ],
)
def test_routes(route: Route) -> None:
    """With and without device, gateway, source, metric; tables beyond 255."""
    assert rtnetlink.route(rtnetlink.set_route(route, 7).payload, netns=route.netns, devices=DEVICES) == route


def test_a_route_of_somebody_else_is_not_ours() -> None:
    """Another protocol, or a device that was not asked about."""
    route = Route(netns=Netns.POD, table=254, destination=IPv4Network("10.0.0.9/32"), dev="eth1")
    payload = rtnetlink.set_route(route, 7).payload
    assert rtnetlink.route(payload[:5] + b"\4" + payload[6:], netns=Netns.POD, devices=DEVICES) is None
    assert rtnetlink.route(payload, netns=Netns.POD, devices={8: "eth2"}) is None


@pytest.mark.parametrize("rule", [Rule(priority=512, table=999), Rule(priority=2048, table=1001, mark=8, mask=0xF8)])
def test_rules(rule: Rule) -> None:
    """With and without a mark; one without our protocol number is not ours."""
    payload = rtnetlink.add_rule(rule).payload
    assert rtnetlink.rule(payload) == rule
    others = b"".join(attribute(kind, data) for kind, data in each_attribute(payload[12:]) if kind != 21)
    assert rtnetlink.rule(payload[:12] + others) is None


def test_neighbours_and_addresses() -> None:
    """A neighbour that is not permanent is the kernel's own business."""
    neighbour = Neigh(netns=Netns.POD, dev="eth1", address=GATEWAY, mac=Mac("ee:ff:ff:ff:ff:ff"))
    payload = rtnetlink.set_neighbour(neighbour, 7).payload
    assert rtnetlink.neighbour(payload, netns=Netns.POD, devices=DEVICES) == neighbour
    reachable = payload[:8] + b"\2\0" + payload[10:]
    assert rtnetlink.neighbour(reachable, netns=Netns.POD, devices=DEVICES) is None
    address = Addr(netns=Netns.POD, dev="eth1", address=IPv4Interface("10.0.0.9/20"))
    assert rtnetlink.address(rtnetlink.add_address(address, 7).payload) == (7, address.address)


def test_links() -> None:
    """What is set on a link is what is read of it."""
    payload = rtnetlink.set_link(
        7, up=True, name="eth1", mac=Mac("02:00:00:00:00:01"), mtu=1400, alias="eni-1", group=101, txqlen=50
    ).payload
    link = rtnetlink.link(payload)
    assert (link.index, link.name, link.up, link.mac) == (7, "eth1", True, "02:00:00:00:00:01")
    assert (link.mtu, link.alias, link.group, link.txqlen) == (1400, "eni-1", 101, 50)
    assert (link.permanent_mac, link.xdp, link.moved) == ("", (), False)


@pytest.mark.parametrize(
    "member",
    [
        Member(set="pods", address=IPv4Address("10.0.0.9")),
        Member(set="hairpin", address=IPv4Address("10.0.0.9"), dev="eniw0123456789a"),
    ],
)
def test_set_members(member: Member) -> None:
    """A member as it is added reads back from a list; those that are not asked for are passed over."""
    sent = attributes(ipset.add(member).payload[4:])
    other = attributes(ipset.add(Member(set=member.set, address=IPv4Address("10.9.9.9"))).payload[4:])
    listed = bytes(4) + text(2, member.set) + nested(8, nested(7, other[7]), nested(7, sent[7]))
    assert list(ipset.members(listed, about=[member.address.packed])) == [member]
    assert list(ipset.members(listed, about=[bytes(4)])) == []


def test_marks() -> None:
    """An element as it is added reads back from an answer."""
    mark = Mark(address=IPv4Address("10.0.0.9"), mark=8)
    assert list(nft.marks(nft.add(mark).payload)) == [mark]
