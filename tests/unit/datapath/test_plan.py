"""What a lease means in the kernel, item by item."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv4Address, IPv4Interface, IPv4Network

import pytest

from datapath.plan import veth
from datapath.plan.exclusive import exclusive, home
from datapath.plan.node import node, shared_card
from datapath.plan.routed import ranges, routed
from datapath.plan.shared import shared
from datapath.state import Addr, Eni, Mark, Member, Neigh, Netns, Route, Rule, Sysctl, Veth, key
from eniway.errors import InvariantBroken
from eniway.model import Card, ContainerId, EniId, Kind, Lease, LeaseKey, Mac, PodRef, PodUid, Slot

SERVICES = IPv4Network("172.21.0.0/20")
EVERYWHERE = IPv4Network("0.0.0.0/0")
CARD = Card(
    eni_id=EniId("eni-1"),
    mac=Mac("00:16:3e:00:00:01"),
    slot=Slot(3),
    address=IPv4Address("10.0.16.4"),
    prefix=IPv4Network("10.0.16.0/20"),
    gateway=IPv4Address("10.0.31.253"),
)
SHARED = Lease(
    key=LeaseKey("eniway", ContainerId("c0ffee"), "eth0"),
    pod=PodRef("default", "pod", PodUid("uid")),
    kind=Kind.SHARED,
    netns="/run/netns/pod",
    card=CARD,
    address=IPv4Address("10.0.16.9"),
)
ROUTED = replace(SHARED, kind=Kind.ROUTED, address=IPv4Address("172.20.1.9"))
EXCLUSIVE = replace(SHARED, kind=Kind.EXCLUSIVE, address=CARD.address, service_address=IPv4Address("10.0.0.7"))


def test_a_shared_pod() -> None:
    """One veth, its address behind a link-local gateway, a host route, and the mark of its card."""
    plan = shared(SHARED, mtu=1500)
    (pair,) = (item for item in plan if isinstance(item, Veth))
    gateway = IPv4Address("169.254.1.1")
    assert plan == {
        pair,
        Route(netns=Netns.NODE, table=999, destination=IPv4Network("10.0.16.9/32"), dev=pair.name),
        Member(set="eniway-pods", address=SHARED.address),
        Mark(address=SHARED.address, mark=0x18),
        Addr(netns=Netns.POD, dev="eth0", address=IPv4Interface("10.0.16.9/32")),
        Neigh(netns=Netns.POD, dev="eth0", address=gateway, mac=pair.mac),
        Route(netns=Netns.POD, table=254, destination=IPv4Network("169.254.1.1/32"), dev="eth0"),
        Route(netns=Netns.POD, table=254, destination=EVERYWHERE, dev="eth0", gateway=gateway, source=SHARED.address),
    }
    assert pair == Veth(
        name=pair.name,
        peer="eth0",
        mac=pair.mac,
        peer_mac=pair.peer_mac,
        mtu=1500,
        peer_mtu=1500,
        alias="eniway/c0ffee/eth0",
        group=101,
        rp_filter=1,
        up=True,
    )


def test_a_routed_pod() -> None:
    """A shared pod's veth with another address, and no mark: the main table is the primary card's."""
    leg = veth.leg(ROUTED.key, peer="eth0", address=ROUTED.address, mtu=1500, towards=EVERYWHERE)
    assert routed(ROUTED, mtu=1500) == leg
    assert not any(isinstance(item, Mark) for item in leg)


def test_a_range_of_routed_pods() -> None:
    """Behind the pods' own routes in the table that is read first, so the main table never sends one back."""
    assert ranges([IPv4Network("172.20.1.0/24")]) == {
        Route(netns=Netns.NODE, table=999, destination=IPv4Network("172.20.1.0/24"), dev=None, metric=4294967295)
    }


def test_an_exclusive_pod() -> None:
    """The card with the VPC's gateway; the Service CIDR alone by a leg like a shared pod's; no mark."""
    plan = exclusive(EXCLUSIVE, mtu=1500, service_cidr=SERVICES)
    leg = veth.leg(EXCLUSIVE.key, peer="veth1", address=IPv4Address("10.0.0.7"), mtu=1500, towards=SERVICES)
    (pair,) = (item for item in leg if isinstance(item, Veth))
    assert leg < plan
    assert plan - leg == {
        Eni(
            eni_id=EniId("eni-1"),
            netns=Netns.POD,
            name="eth0",
            mac=CARD.mac,
            mtu=1500,
            alias="eni-1",
            group=0,
            txqlen=1000,
            up=True,
            rp_filter=None,
            altnames=None,
            xdp=None,
        ),
        Addr(netns=Netns.POD, dev="eth0", address=IPv4Interface("10.0.16.4/32")),
        Route(
            netns=Netns.POD,
            table=254,
            destination=EVERYWHERE,
            dev="eth0",
            gateway=CARD.gateway,
            onlink=True,
            source=CARD.address,
        ),
        Member(set="eniway-exclusive", address=CARD.address),
        Member(set="eniway-hairpin", address=CARD.address, dev=pair.name),
    }
    assert {item.destination for item in leg if isinstance(item, Route) and item.netns is Netns.POD} == {
        SERVICES,
        IPv4Network("169.254.1.1/32"),
    }


def test_an_exclusive_pod_needs_an_address_for_services() -> None:
    """A lease without one is a bug of the books, and named."""
    with pytest.raises(InvariantBroken, match="service_address"):
        exclusive(replace(EXCLUSIVE, service_address=None), mtu=1500, service_cidr=SERVICES)


def test_the_pods_interface_is_called_as_the_runtime_asks() -> None:
    """CNI_IFNAME is the caller's to choose."""
    key_ = replace(SHARED.key, ifname="net1")
    (pair,) = (item for item in shared(replace(SHARED, key=key_), mtu=1500) if isinstance(item, Veth))
    assert pair.peer == "net1"
    (card,) = (
        item
        for item in exclusive(replace(EXCLUSIVE, key=key_), mtu=1500, service_cidr=SERVICES)
        if isinstance(item, Eni)
    )
    assert card.name == "net1"


def test_a_card_at_home_bears_no_trace() -> None:
    """Down, own MAC, no alias, default group and queue."""
    (card,) = home(CARD, name="eth3", mtu=1500)
    assert isinstance(card, Eni)
    assert (card.netns, card.name, card.mac, card.mtu) == (Netns.NODE, "eth3", CARD.mac, 1500)
    assert (card.alias, card.group, card.txqlen, card.up, card.xdp) == ("", 0, 1000, False, ())


def test_a_shared_card() -> None:
    """Up without an address; a table of its own, chosen by its mark and closed at the end; no rp_filter."""
    plan = shared_card(CARD, name="eth3", mtu=1500)
    (card,) = (item for item in plan if isinstance(item, Eni))
    assert (card.name, card.up, card.rp_filter) == ("eth3", True, 0)
    assert plan == {
        card,
        Neigh(netns=Netns.NODE, dev="eth3", address=CARD.gateway, mac=Mac("ee:ff:ff:ff:ff:ff")),
        Route(netns=Netns.NODE, table=1003, destination=EVERYWHERE, dev="eth3", gateway=CARD.gateway, onlink=True),
        Route(netns=Netns.NODE, table=1003, destination=EVERYWHERE, dev=None, metric=4294967295),
        Rule(priority=2048, table=1003, mark=0x18, mask=0xF8),
    }


def test_a_node() -> None:
    """Forwarding, and the pods' table first; a lax node is left as lax as it is."""
    assert node({"all": 0, "default": 2, "eth0": 1}) == {
        Sysctl(path="net/ipv4/ip_forward", value="1"),
        Sysctl(path="net/ipv4/conf/all/rp_filter", value="0"),
        Rule(priority=512, table=999),
    }


def test_macs_are_stable_and_apart() -> None:
    """A release that derived others would cut running pods off; locally administered, unicast, one for each end."""
    assert veth.mac(SHARED.key, Netns.NODE) == "02:44:d8:68:80:df"
    assert veth.mac(SHARED.key, Netns.POD) == "02:49:16:ed:63:42"
    assert veth.mac(replace(SHARED.key, ifname="eth1"), Netns.POD) not in {"02:44:d8:68:80:df", "02:49:16:ed:63:42"}


def test_items_of_a_plan_have_keys_of_their_own() -> None:
    """Two items of one key could not both be in the kernel."""
    for plan in (
        shared(SHARED, mtu=1500),
        routed(ROUTED, mtu=1500),
        exclusive(EXCLUSIVE, mtu=1500, service_cidr=SERVICES),
    ):
        assert len({key(item) for item in plan}) == len(plan)
