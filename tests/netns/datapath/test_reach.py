"""Which card a pod leaves by, and whose address it can use; test_matrix.py has who reaches whom."""

from __future__ import annotations

import socket
from contextlib import AsyncExitStack

from tests.netns.datapath.fabric import (
    Namespace,
    Node,
    Vpc,
    boot,
    exclusive_lease,
    instance_address,
    routed_lease,
    shared_lease,
    talk,
)

IP_MTU_DISCOVER, IP_PMTUDISC_DO = 10, 2
"""From linux/in.h: do not fragment."""


async def test_pods_of_different_cards_leave_each_by_its_own(
    vpc: Vpc, nodes: tuple[Node, Node], outside: Namespace
) -> None:
    """The VPC drops a source that is not the card's: both are only heard if the mark chose the right card."""
    node, _ = nodes
    await node.network.prepare_card(node.cards[2])
    for slot in (1, 2):
        pod = vpc.pod()
        lease = shared_lease(vpc, node, pod, slot=slot)
        await node.network.attach(lease)
        assert talk(pod, outside, instance_address(outside)) == lease.address
        assert talk(outside, pod, lease.address) == instance_address(outside)


async def test_pods_have_the_mtu_of_the_cards(vpc: Vpc) -> None:
    """Where the VPC carries jumbo frames, pods of every kind send and take them whole, across nodes."""
    vpc.mtu = 8500
    async with AsyncExitStack() as stack:
        near, far = await boot(vpc, stack), await boot(vpc, stack)
        for lease_of in (shared_lease, routed_lease, exclusive_lease):
            ends = [(pod, lease_of(vpc, node, pod)) for node, pod in ((near, vpc.pod()), (far, vpc.pod()))]
            for node, (_, lease) in zip((near, far), ends, strict=True):
                attachment = await node.network.attach(lease)
                assert {link.mtu for link in attachment.pod_links} == {8500}
            (client, source), (server, target) = ends
            with server.udp(target.address, 9999) as listener, client.udp(source.address, 0) as sender:
                sender.setsockopt(socket.IPPROTO_IP, IP_MTU_DISCOVER, IP_PMTUDISC_DO)
                sender.sendto(bytes(8400), (str(target.address), 9999))
                assert len(listener.recv(9000)) == 8400


async def test_a_pod_cannot_use_its_neighbours_address(vpc: Vpc, nodes: tuple[Node, Node], outside: Namespace) -> None:
    """Two pods of one card: the VPC cannot tell them apart, the node does (strict rp_filter on the pod's link)."""
    node, _ = nodes
    thief, victim = vpc.pod(), vpc.pod()
    own, stolen = shared_lease(vpc, node, thief), shared_lease(vpc, node, victim)
    await node.network.attach(own)
    await node.network.attach(stolen)
    thief.ip(f"addr add {stolen.address}/32 dev eth0")
    listener = outside.udp(instance_address(outside), 9999)
    with listener:
        thief.send(stolen.address, instance_address(outside), 9999)
        thief.send(own.address, instance_address(outside), 9999)
        _, (seen, _) = listener.recvfrom(100)
    assert seen == str(own.address)  # the first to arrive is the honest one
