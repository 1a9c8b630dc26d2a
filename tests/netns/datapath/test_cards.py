"""Which link is the card, and how a card waits for its next pod."""

from __future__ import annotations

import ctypes
import os
import socket
import struct

import pytest

from datapath import netns, rtnetlink
from datapath.netlink import Message, Netlink, attribute, nested
from eniway import names
from eniway.errors import NotReady
from tests.netns.datapath.fabric import Namespace, Node, Vpc, exclusive_lease, inside


@pytest.mark.parametrize(
    "stacked",
    [
        ("link add name br0 index 3 type bridge", "link set br0 address {mac}", "link set eth0 master br0"),
        ("link add name other index 3 address {mac} type veth peer name end",),
        ("link add link eth0 name mv0 index 3 type macvlan mode passthru",),
    ],
)
async def test_the_card_comes_home_and_not_a_link_with_its_mac(
    vpc: Vpc, nodes: tuple[Node, Node], stacked: tuple[str, ...]
) -> None:
    """An exclusive pod may stack links on its card that bear the card's MAC and a lower ifindex."""
    node, _ = nodes
    pod = vpc.pod()
    lease = exclusive_lease(vpc, node, pod)
    before = node.snapshot()
    for line in stacked:
        if "eth0" not in line:
            pod.ip(line.format(mac=lease.card.mac))
    await node.network.attach(lease)
    for line in stacked:
        if "eth0" in line:
            pod.ip(line)
    assert await node.network.check(lease) == ()
    pod.ip("link set eth0 address 02:00:00:00:00:02")
    await node.network.detach(lease)
    assert node.snapshot() == before


async def test_a_shared_card_is_told_from_a_bridge_over_it(vpc: Vpc, nodes: tuple[Node, Node]) -> None:
    """A link of the node's that borrowed the card's MAC gets no routes."""
    node, _ = nodes
    card = node.cards[1]
    index = node.show("-o", "link", "show", "eth1").split(":")[0]
    node.ip("link del eth1", f"link add name br0 index {index} address {card.mac} type bridge")
    with pytest.raises(NotReady):
        await node.network.prepare_card(card)
    vpc.replug(node, card)
    assert await node.network.prepare_card(card)
    assert "dev eth1" in node.show("route", "show", "table", "1001")


async def test_a_card_is_found_whatever_group_its_pod_put_it_in(vpc: Vpc, nodes: tuple[Node, Node]) -> None:
    """The group of pods' host links is no hiding place."""
    node, _ = nodes
    pod = vpc.pod()
    lease = exclusive_lease(vpc, node, pod)
    before = node.snapshot()
    await node.network.attach(lease)
    pod.ip(f"link set eth0 group {names.LINK_GROUP}")
    await node.network.detach(lease)
    assert node.snapshot() == before


# --- parked


async def test_an_idle_card_is_parked(nodes: tuple[Node, Node]) -> None:
    """What a network daemon did to it is undone: down, no address, no route; a second time there is nothing to do."""
    node, _ = nodes
    await node.network.park_card(node.cards[2])
    before = node.snapshot()
    node.ip(
        "link set eth2 mtu 1400",
        "link set eth2 up",
        "addr add 192.0.2.1/24 dev eth2",
        "route add default via 192.0.2.2 dev eth2 metric 100",
    )
    assert await node.network.park_card(node.cards[2])
    assert node.snapshot() == before
    assert not await node.network.park_card(node.cards[2])


async def test_parking_says_when_the_card_is_away(vpc: Vpc, nodes: tuple[Node, Node]) -> None:
    """In a pod or detached: NotReady, by name, and the pod keeps it as it is."""
    node, _ = nodes
    lease = exclusive_lease(vpc, node, vpc.pod())
    await node.network.attach(lease)
    with pytest.raises(NotReady, match=lease.card.eni_id):
        await node.network.park_card(lease.card)
    assert await node.network.check(lease) == ()


async def test_a_pods_xdp_program_does_not_outlast_it(vpc: Vpc, nodes: tuple[Node, Node]) -> None:
    """It would work on the packets of the next pod."""
    node, _ = nodes
    pod = vpc.pod()
    lease = exclusive_lease(vpc, node, pod)
    await node.network.attach(lease)
    load_xdp(pod, "eth0")
    assert "xdp" in pod.show("link", "show", "eth0")
    assert await node.network.check(lease) == ()
    await node.network.detach(lease)
    assert "xdp" not in node.show("link", "show", "eth2")
    load_xdp(node, "eth2")
    assert await node.network.park_card(lease.card)
    assert "xdp" not in node.show("link", "show", "eth2")


def load_xdp(where: Namespace, link: str) -> None:
    """Attach a program that passes every packet, in generic mode (bpf(2), IFLA_XDP)."""
    code = ctypes.create_string_buffer(struct.pack("=BBhiBBhi", 0xB7, 0, 0, 2, 0x95, 0, 0, 0))
    license_ = ctypes.create_string_buffer(b"GPL")
    request = ctypes.create_string_buffer(
        struct.pack("=IIQQIIQII", 6, 2, ctypes.addressof(code), ctypes.addressof(license_), 0, 0, 0, 0, 0), 128
    )
    program = ctypes.CDLL(None, use_errno=True).syscall(321, 5, request, 128)
    if program < 0:
        pytest.skip(f"bpf(2): {os.strerror(ctypes.get_errno())}")
    try:
        with Netlink(inside(where, lambda: netns.netlink_socket(socket.NETLINK_ROUTE))) as wire:
            (payload,) = wire.call(rtnetlink.get_link(link))
            index = struct.pack("=BxHiII", 0, 0, rtnetlink.link(payload).index, 0, 0)
            xdp = nested(43, attribute(1, struct.pack("=i", program)), attribute(3, struct.pack("=I", 2)))
            wire.call(Message(19, index + xdp))
    finally:
        os.close(program)
