"""What the node knows of a pod's connections ends with the pod."""

from __future__ import annotations

import socket
import struct
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from ipaddress import IPv4Address

import pytest

from datapath import netns
from datapath.netlink import NETLINK_NETFILTER, Message, Netlink, attributes
from eniway.model import ContainerId, Lease
from tests.netns.datapath.fabric import Namespace, Node, Vpc, inside, key, routed_lease, shared_lease, talk

LeaseOf = Callable[[Vpc, Node, Namespace], Lease]
_GET, _STATUS, _SEEN_REPLY = 1 << 8 | 1, 3, 1 << 1
on_the_node = pytest.mark.parametrize("lease_of", [shared_lease, routed_lease])


def answered(node: Node) -> list[set[IPv4Address]]:
    """The addresses of each connection that the node takes for known: one that was answered (CTA_STATUS)."""

    def dumped() -> list[bytes]:
        with Netlink(netns.netlink_socket(NETLINK_NETFILTER)) as opened:
            return opened.dump(Message(_GET, struct.pack("=BBH", socket.AF_INET, 0, 0)))

    entries = [attributes(payload[4:]) for payload in inside(node, dumped)]
    known = [entry for entry in entries if int.from_bytes(entry[_STATUS]) & _SEEN_REPLY]
    return [
        {IPv4Address(end) for which in (1, 2) for end in attributes(attributes(entry[which])[1]).values()}
        for entry in known
    ]


@on_the_node
async def test_nothing_is_known_of_a_pod_that_went(vpc: Vpc, nodes: tuple[Node, Node], lease_of: LeaseOf) -> None:
    """Neither what it began nor what it answered; what other pods have goes on."""
    node, other = nodes
    pod, stays, peer = vpc.pod(), vpc.pod(), vpc.pod()
    lease, kept, far = lease_of(vpc, node, pod), shared_lease(vpc, node, stays), shared_lease(vpc, other, peer)
    await node.network.attach(lease)
    await node.network.attach(kept)
    await other.network.attach(far)
    for protocol in ("udp", "tcp"):
        talk(pod, peer, far.address, protocol=protocol)
        talk(peer, pod, lease.address, protocol=protocol)
        talk(stays, peer, far.address, protocol=protocol)
    assert sum(lease.address in ends for ends in answered(node)) == 4
    await node.network.detach(lease)
    assert [ends for ends in answered(node) if lease.address in ends] == []
    assert sum(kept.address in ends for ends in answered(node)) == 2


@on_the_node
async def test_a_flow_that_does_not_stop_is_new_to_the_next_pod(
    vpc: Vpc, nodes: tuple[Node, Node], lease_of: LeaseOf
) -> None:
    """Its datagrams come while nobody has the address, too; the next pod's rules judge it as they would any other."""
    node, other = nodes
    former, peer = vpc.pod(), vpc.pod()
    lease, far = lease_of(vpc, node, former), shared_lease(vpc, other, peer)
    await node.network.attach(lease)
    await other.network.attach(far)
    with closing(peer.udp(far.address, 4000)) as flow:
        with closing(former.udp(lease.address, 8080)) as server:
            flow.sendto(b"question", (str(lease.address), 8080))
            _, asker = server.recvfrom(100)
            server.sendto(b"answer", asker)
            assert flow.recv(100) == b"answer"
        assert any(lease.address in ends for ends in answered(node))
        await node.network.detach(lease)
        flow.sendto(b"for nobody", (str(lease.address), 8080))
        following = vpc.pod()
        succeeds = replace(lease, key=replace(key(following), container_id=ContainerId("next")), netns=following.path)
        with closing(following.udp(IPv4Address("0.0.0.0"), 8080)) as server:
            await node.network.attach(succeeds)
            flow.sendto(b"goes on", (str(lease.address), 8080))
            assert server.recv(100) == b"goes on"
        assert not any(lease.address in ends for ends in answered(node))


@on_the_node
async def test_nothing_is_known_of_an_orphan_that_went(vpc: Vpc, nodes: tuple[Node, Node], lease_of: LeaseOf) -> None:
    """Its addresses are read off its routes."""
    node, other = nodes
    pod, peer = vpc.pod(), vpc.pod()
    lease, far = lease_of(vpc, node, pod), shared_lease(vpc, other, peer)
    await node.network.attach(lease)
    await other.network.attach(far)
    talk(pod, peer, far.address, protocol="udp")
    await node.network.remove_orphan(lease.key)
    assert not any(lease.address in ends for ends in answered(node))
