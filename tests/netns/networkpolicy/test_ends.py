"""Ends that policies treat in a way of their own: the own node, the pod itself, Services, clients behind a NodePort."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import closing, suppress
from ipaddress import IPv4Address
from typing import Any

import pytest

from eniway.errors import KernelError, NotReady
from eniway.model import Kind
from networkpolicy.enforcer import Enforcer
from networkpolicy.model import Model
from tests.netns.datapath.fabric import SERVICE_CIDR, Namespace, Node, Vpc, instance_address, shared_lease, talk
from tests.netns.networkpolicy.cluster import Cluster, cluster
from tests.property.networkpolicy.oracle import allowed as by_the_api

KINDS = (Kind.SHARED, Kind.ROUTED, Kind.EXCLUSIVE)
DENY: dict[str, Any] = {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
VIP = SERVICE_CIDR[10]


def refused(client: Namespace, server: Namespace, address: IPv4Address, *, dial: tuple[IPv4Address, int]) -> bool:
    """Whether a connection to a listener at ``address``, by calling ``dial``, does not come about."""
    with closing(server.socket()) as listener, closing(client.socket()) as made:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((str(address), 8080))
        listener.listen()
        made.settimeout(0.3)
        try:
            made.connect((str(dial[0]), dial[1]))
        except TimeoutError:
            return True
    return False


@pytest.fixture
async def two(vpc: Vpc, nodes: tuple[Node, Node]) -> AsyncIterator[Cluster]:
    """x/a of each kind on the first node as x/shared …, and y/client on the second."""
    async with cluster(vpc, nodes) as made:
        for kind in KINDS:
            await made.start(f"x/{kind.value}", kind, 0)
        await made.start("y/client", Kind.SHARED, 1)
        yield made


async def test_the_own_node_reaches_its_pods_and_they_reach_it_only_if_allowed(two: Cluster) -> None:
    """The probes of kubelet come from there. Other nodes are addresses like any other."""
    two.policy("deny", DENY)
    await two.in_force()
    node, other = two.nodes
    for kind in KINDS:
        member = two.members[f"x/{kind.value}"]
        assert talk(node, member.netns, member.lease.address) == node.address
        two.prober.add(node, node.address)
        two.prober.add(other, other.address)
        own, packets = str(member.lease.address), two.packets([f"x/{kind.value}"])
        assert not packets
        paths = [
            packet._replace(source=source, destination=destination)
            for packet in two.packets(["x/shared", "x/routed"])[:6]
            for source, destination in (
                (own, str(node.address)),
                (own, str(other.address)),
                (str(other.address), own),
            )
        ]
        assert not two.prober.try_all(paths)
    two.policy("deny", {**DENY, "egress": [{"to": [{"ipBlock": {"cidr": f"{node.address}/32"}}]}]})
    await two.in_force()
    for kind in KINDS:
        member = two.members[f"x/{kind.value}"]
        assert talk(member.netns, node, node.address) == member.lease.address


async def test_a_pod_reaches_itself(two: Cluster) -> None:
    """By its own address, whatever the policies."""
    two.policy("deny", DENY)
    await two.in_force()
    for kind in KINDS:
        member = two.members[f"x/{kind.value}"]
        assert talk(member.netns, member.netns, member.lease.address) == member.lease.address


async def test_services_are_judged_by_where_they_lead(two: Cluster) -> None:
    """An exclusive pod calls them by its second link, with another address: to the other end it is the same pod."""
    client = two.members["y/client"]
    for node in two.nodes:
        node.nat(f"-A PREROUTING -d {VIP} -p tcp --dport 80 -j DNAT --to-destination {client.lease.address}:8080")
    to = [{"podSelector": {"matchLabels": {"pod": "client"}}, "namespaceSelector": {}}]
    two.policy("deny", DENY)
    two.policy(
        "only-x",
        {"podSelector": {}, "ingress": [{"from": [{"namespaceSelector": {"matchLabels": {"ns": "x"}}}]}]},
        space="y",
    )
    await two.in_force()
    for kind in KINDS:
        member = two.members[f"x/{kind.value}"]
        assert refused(member.netns, client.netns, client.lease.address, dial=(VIP, 80))
    two.policy("allow", {"podSelector": {}, "policyTypes": ["Egress"], "egress": [{"to": to}]})
    await two.in_force()
    for kind in KINDS:
        member = two.members[f"x/{kind.value}"]
        seen = talk(member.netns, client.netns, client.lease.address, dial=(VIP, 80))
        assert seen == (member.lease.service_address or member.lease.address)
    two.policy("only-x", {"podSelector": {}, "ingress": [{"from": [{"podSelector": {}}]}]}, space="y")
    await two.in_force()
    for kind in KINDS:
        member = two.members[f"x/{kind.value}"]
        assert refused(member.netns, client.netns, client.lease.address, dial=(VIP, 80))


async def test_a_client_behind_a_node_port_is_judged_by_its_own_address(two: Cluster, outside: Namespace) -> None:
    """Though an exclusive pod sees the node's address then, which may pass."""
    node, at = two.nodes[0], instance_address(outside)
    for port, kind in enumerate(KINDS, start=30000):
        address = two.members[f"x/{kind.value}"].lease.address
        node.nat(f"-A PREROUTING -d {node.address} -p tcp --dport {port} -j DNAT --to-destination {address}:8080")
    for allowed in (False, True):
        cidr = f"{at}/32" if allowed else "192.0.2.0/24"
        two.policy("p", {"podSelector": {}, "ingress": [{"from": [{"ipBlock": {"cidr": cidr}}]}]})
        await two.in_force()
        for port, kind in enumerate(KINDS, start=30000):
            member = two.members[f"x/{kind.value}"]
            assert refused(outside, member.netns, member.lease.address, dial=(node.address, port)) is not allowed


async def test_replies_pass_and_known_connections_stay(two: Cluster) -> None:
    """A policy that comes later ends no connection."""
    member, client = two.members["x/exclusive"], two.members["y/client"]
    with closing(member.netns.socket()) as listener, closing(client.netns.socket()) as made:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((str(member.lease.address), 8080))
        listener.listen()
        made.settimeout(3)
        made.connect((str(member.lease.address), 8080))
        accepted, _ = listener.accept()
        accepted.settimeout(3)
        with closing(accepted):
            two.policy("deny", DENY)
            await two.in_force()
            made.sendall(b"question")
            assert accepted.recv(100) == b"question"
            accepted.sendall(b"answer")
            assert made.recv(100) == b"answer"
    assert refused(client.netns, member.netns, member.lease.address, dial=(member.lease.address, 8080))


async def test_a_pod_that_the_api_server_has_not_told_of_does_not_start(vpc: Vpc, nodes: tuple[Node, Node]) -> None:
    """After a bounded wait; the flag lets it start. Its object ends the wait at once."""
    for fail_open in (False, True):
        enforcer = Enforcer(Model(4), path=nodes[0].path, wait_seconds=0.2, fail_open=fail_open)
        enforcer.start((), nodes=[nodes[0].address])
        lease = shared_lease(vpc, nodes[0], vpc.pod())
        async with asyncio.TaskGroup() as group:
            running = group.create_task(enforcer.run())
            if fail_open:
                await enforcer.prepare(lease)
            else:
                with pytest.raises(NotReady, match="watch has not told of it after 0 s"):
                    await enforcer.prepare(lease)
            running.cancel()
        enforcer.close()


async def test_a_policy_that_the_kernel_refuses_shuts_off_its_own_pods_alone(two: Cluster) -> None:
    """Such as one whose name no API server would let through."""
    two.policy('a "b', {"podSelector": {"matchLabels": {"pod": "shared"}}, "ingress": [{}]})
    two.policy("fine", {"podSelector": {"matchLabels": {"pod": "routed"}}, "ingress": [{"ports": [{"port": 80}]}]})
    for enforcer in two.enforcers:
        with suppress(KernelError):
            await enforcer.in_force()
        while any(site.error is not None for site in enforcer._sites()):
            await enforcer._moved()
        await enforcer.in_force()
    broken = {str(two.members["x/shared"].lease.address)}
    two.no_policy('a "b')
    two.policy(
        "shut", {"podSelector": {"matchLabels": {"pod": "shared"}}, "policyTypes": ["Ingress"]}
    )  # for the oracle
    packets = two.packets()
    expected = {
        packet
        for packet in packets
        if by_the_api(two.world, packet.source, packet.destination, packet.protocol, packet.port)
    }
    assert two.prober.try_all(packets, awaited=expected) == expected
    assert not {packet for packet in expected if packet.destination in broken}
    two.policy('a "b', {"podSelector": {"matchLabels": {"pod": "late"}}, "ingress": [{}]})
    with pytest.raises(KernelError, match="refused the rules"):
        await two.start("x/late", Kind.SHARED, 0)
    await two.start("x/fine", Kind.SHARED, 0)
    two.no_policy("shut")
    two.no_policy('a "b')
    await two.in_force()
    two.verify("after it has gone")
